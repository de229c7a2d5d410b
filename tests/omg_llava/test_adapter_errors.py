"""Requests that cannot be answered: one message each, and no harm to their neighbours."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from omg_llava.adapter import OmgLlavaAdapter
from omgbench.contract import (
    BoxPrompt,
    Category,
    Frame,
    GenOptions,
    Intent,
    MaskPrompt,
    PointPrompt,
    Request,
    Rle,
    ScribblePrompt,
    Status,
    Turn,
)

from .adapter_requests import BOX, FRAMES, MASK, POINT, answers
from .lively import (
    LIMIT,
    SIZES_WH,
    VOCABULARY,
    png,
    request,
)

GOOD = (
    request("good text", Intent.CHAT, FRAMES[0], "What is it?"),
    request("good masks", Intent.REFER_SEGMENT, FRAMES[1], "the dog"),
    request("good view", Intent.INTERACTIVE, FRAMES[0], prompts=(POINT,)),
)
BAD = {
    "mark without a prompt": request("bad", Intent.CHAT, FRAMES[0], "What is <mark>?"),
    "region without a prompt": request("bad", Intent.REFER_SEGMENT, FRAMES[0], "the <region>"),
    "more prompts than placeholders": request("bad", Intent.CHAT, FRAMES[0], "<region>?", prompts=(BOX, MASK)),
    "fewer prompts than placeholders": request("bad", Intent.CHAT, FRAMES[0], "<mark> <mark>", prompts=(BOX,)),
    "no prompt at all": request("bad", Intent.REGION_CAPTION, FRAMES[0]),
    "point outside": request("bad", Intent.CHAT, FRAMES[0], "Why?", prompts=(PointPrompt((70.0, 9.0)),)),
    "point nowhere": request("bad", Intent.INTERACTIVE, FRAMES[0], prompts=(PointPrompt((float("nan"), 9.0)),)),
    "box outside": request("bad", Intent.INTERACTIVE, FRAMES[0], prompts=(BoxPrompt((0.0, 0.0, 64.0, 99.0)),)),
    "empty box": request("bad", Intent.REGION_CAPTION, FRAMES[0], prompts=(BoxPrompt((9.0, 9.0, 9.0, 20.0)),)),
    "mask of another picture": request("bad", Intent.CHAT, FRAMES[1], "Why?", prompts=(MASK,)),
    "mask that is none": request("bad", Intent.CHAT, FRAMES[0], "Why?", prompts=(MaskPrompt(Rle((48, 64), "0")),)),
    "scribble": request("bad", Intent.INTERACTIVE, FRAMES[0], prompts=(ScribblePrompt(((1.0, 1.0), (2.0, 2.0))),)),
    "empty text": request("bad", Intent.CHAT, FRAMES[0], ""),
    "blank text": request("bad", Intent.CHAT, FRAMES[0], " \n"),
    "nothing to refer to": request("bad", Intent.REFER_SEGMENT, FRAMES[0], ""),
    "nothing to find": request("bad", Intent.REFER_BOX, FRAMES[0], None),
    "half a character": request("bad", Intent.CHAT, FRAMES[0], "a \ud800 b"),
    "text too long": request("bad", Intent.CHAT, FRAMES[0], "word " * 1000),
    "answer too long": request("bad", Intent.CHAT, FRAMES[0], "Why?", gen=GenOptions(max_new_tokens=5000)),
    "history too long": request("bad", Intent.CHAT, FRAMES[0], "Why?", history=(Turn("user", "word " * 1000),)),
    "history of the assistant": request("bad", Intent.CHAT, FRAMES[0], "Why?", history=(Turn("assistant", "Hi."),)),
    "no picture": Request("bad", Intent.CHAT, (), "Why?"),
    "too large a picture": request(
        "bad", Intent.CHAT, Frame("long", 20000, 1, png(Image.new("L", (20000, 1)))), "Why?"
    ),
    "no picture to choose by": Request("bad", Intent.SCORE_CHOICES, (), "Why?", choices=("a", "b")),
    "broken picture": request("bad", Intent.CHAT, Frame("broken", 64, 48, b"no picture"), "Why?"),
    "picture of another size": request("bad", Intent.CHAT, dataclasses.replace(FRAMES[0], key="x", width=63), "Why?"),
    "broken picture to segment": request(
        "bad", Intent.PANOPTIC, Frame("broken", 64, 48, b"no picture"), vocabulary=VOCABULARY
    ),
    "choice without text": request("bad", Intent.SCORE_CHOICES, FRAMES[0], "Who?", choices=("a", "")),
    "choice with a placeholder": request("bad", Intent.SCORE_CHOICES, FRAMES[0], "Who?", choices=("a", "<mark>")),
    "no choices": request("bad", Intent.SCORE_CHOICES, FRAMES[0], "Who?"),
    "choice too long": request("bad", Intent.SCORE_CHOICES, FRAMES[0], "Who?", choices=("a", "b" * 3000)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_its_own_error(adapter: OmgLlavaAdapter, name: str) -> None:
    expected = answers(adapter, *GOOD)
    first, bad, *others = answers(adapter, GOOD[0], BAD[name], *GOOD[1:])
    assert bad.status in (Status.ERROR, Status.UNSUPPORTED)
    assert bad.error
    assert "\n" not in bad.error
    assert not bad.masks
    assert [first, *others] == expected


def test_all_requests_may_be_bad(adapter: OmgLlavaAdapter) -> None:
    names = ("mark without a prompt", "empty text", "broken picture", "text too long")
    bad = [dataclasses.replace(BAD[name], id=name) for name in names]
    assert {response.status for response in answers(adapter, *bad)} == {Status.ERROR}


def test_a_prompt_that_the_contract_lets_pass_is_read(adapter: OmgLlavaAdapter) -> None:
    """Annotated boxes overhang the picture by fractions of a pixel; `check_task` allows one pixel."""
    width, height = SIZES_WH[0]
    for prompt, inside in (
        (BoxPrompt((-0.5, -1.0, width + 1.0, height + 0.01)), BoxPrompt((0.0, 0.0, width, height))),
        (PointPrompt((width + 0.5, 7.0)), PointPrompt((width, 7.0))),
    ):
        found = answers(
            adapter,
            *(request(str(n), Intent.INTERACTIVE, FRAMES[0], prompts=(p,)) for n, p in enumerate((prompt, inside))),
            request("2", Intent.REGION_CAPTION, FRAMES[0], prompts=(prompt,)),
        )
        assert not any(response.status.failed for response in found)
        assert found[0].masks == found[1].masks


UNSUPPORTED = {
    "foreign labels": request("bad", Intent.PANOPTIC, FRAMES[0], vocabulary=(Category(1, "person", True),)),
    "labels with other numbers": request(
        "bad", Intent.PANOPTIC, FRAMES[0], vocabulary=tuple(dataclasses.replace(c, id=c.id + 1) for c in VOCABULARY)
    ),
    "things that are stuff here": request(
        "bad", Intent.PANOPTIC, FRAMES[0], vocabulary=tuple(dataclasses.replace(c, is_thing=True) for c in VOCABULARY)
    ),
    "some labels only": request("bad", Intent.PANOPTIC, FRAMES[0], vocabulary=VOCABULARY[:2]),
    "no labels": request("bad", Intent.PANOPTIC, FRAMES[0]),
    "clip to talk about": request("bad", Intent.CHAT, FRAMES[0], "Why?", is_clip=True),
    "background point": request(
        "bad", Intent.INTERACTIVE, FRAMES[0], prompts=(POINT, PointPrompt((5.0, 5.0), positive=False))
    ),
    "beams": request("bad", Intent.CHAT, FRAMES[0], "Why?", gen=GenOptions(LIMIT, num_beams=3)),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_says_why(adapter: OmgLlavaAdapter, name: str) -> None:
    expected = answers(adapter, *GOOD)
    first, bad, *others = answers(adapter, GOOD[0], UNSUPPORTED[name], *GOOD[1:])
    assert bad.status is Status.UNSUPPORTED
    assert len(bad.error) > 10
    assert [first, *others] == expected


def test_labels_may_come_in_any_order_and_case(adapter: OmgLlavaAdapter) -> None:
    shuffled = (Category(3, "Ground", False), Category(1, "CIRCLE", True), Category(2, "square", True))
    found = answers(
        adapter,
        request("0", Intent.PANOPTIC, FRAMES[0], vocabulary=VOCABULARY),
        request("1", Intent.PANOPTIC, FRAMES[0], vocabulary=shuffled),
    )
    assert found[0].panoptic == found[1].panoptic
