"""Every rule for responses, each broken once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from omgbench.contract import (
    Box,
    Category,
    ChoiceScore,
    Frame,
    Intent,
    Mask,
    PanopticResult,
    PanopticSegment,
    Request,
    Response,
    Rle,
    Span,
    Status,
)
from omgbench.response_checks import MAX_ITEMS, MAX_TEXT_CHARS, check_response
from omgbench.testing.shapes import full_rle, rectangle_rle

SIZE = (4, 6)
FRAME = Frame("f", 6, 4, b"")
FULL = full_rle(SIZE)
LEFT, RIGHT = rectangle_rle((0, 0, 3, 4), SIZE), rectangle_rle((3, 0, 6, 4), SIZE)
REFER = Request("r", Intent.REFER_SEGMENT, (FRAME,), text="the left half")
CHOICES = Request("r", Intent.SCORE_CHOICES, (FRAME,), choices=("yes", "no"))
PANOPTIC = Request("r", Intent.PANOPTIC, (FRAME,), vocabulary=(Category(7, "dog", True), Category(9, "sky", False)))
CLIP = replace(PANOPTIC, frames=(FRAME, FRAME), is_clip=True)


def segments(*parts: tuple[Any, ...]) -> Response:
    return Response("r", panoptic=PanopticResult(tuple(PanopticSegment(*part) for part in parts)))


GOOD: list[tuple[Request, Response]] = [
    (REFER, Response("r")),
    (REFER, Response("r", Status.EMPTY, text="")),
    (REFER, Response("r", Status.ERROR, error="it went wrong")),
    (REFER, Response("r", masks=(Mask(FULL, 0.5), Mask(LEFT, None, 0, 3)), usage={"output_tokens": 3})),
    (REFER, Response("r", boxes=(Box((-1.0, 0, 7.5, 4)), Box((2.0, 2.0, 2.0, 2.0), 1)))),
    (REFER, Response("r", text="a dög ran", spans=(Span("dög", 2, 5, (), ()), Span("not in the text")))),
    (REFER, Response("r", text="it", masks=(Mask(FULL),), spans=(Span("it", 0, 2, masks=(0,)),))),
    (REFER, Response("r", text="x" * MAX_TEXT_CHARS, raw_text="\0")),
    (CHOICES, Response("r", choices=(ChoiceScore(-1.5, 1, 3), ChoiceScore(0, 2, 2)))),
    (CHOICES, Response("r", Status.EMPTY)),
    (CHOICES, Response("r", Status.TRUNCATED, text="ye")),
    (PANOPTIC, segments((1, 7, (LEFT,)), (2, 7, (RIGHT,), 0.3))),
    (PANOPTIC, segments()),
    (CLIP, segments((5, 9, (FULL, None)), (3, 7, (None, FULL)))),
]


@pytest.mark.parametrize(("request_", "response"), GOOD)
def test_good_responses_pass(request_: Request, response: Response) -> None:
    assert check_response(request_, response) is None


BAD: list[tuple[Request, Any, str]] = [
    (REFER, {"id": "r"}, "response: expected an omgbench.contract.Response, found dict"),
    (REFER, Response("other"), "id: expected 'r', found 'other'"),
    (REFER, Response("r", "ok"), "status: expected an omgbench.contract.Status"),
    (REFER, Response("r", text=b"no"), "text: expected str or None, found bytes"),
    (REFER, Response("r", raw_text="x" * (MAX_TEXT_CHARS + 1)), "raw_text: 1,000,001 characters"),
    (REFER, Response("r", text="half \ud800"), "text: character 5 is half of a surrogate pair"),
    (REFER, Response("r", Status.ERROR, error=ValueError("x")), "error: expected str"),
    (REFER, Response("r", masks=[Mask(FULL)]), "masks: expected a tuple, found list"),
    (REFER, Response("r", masks=(FULL,)), "masks[0]: expected a Mask, found omgbench.contract"),
    (REFER, Response("r", masks=(Mask(FULL),) * (MAX_ITEMS + 1)), "masks: 10,001 items"),
    (REFER, Response("r", masks=(Mask(FULL), Mask(FULL, frame=1))), "masks[1]: frame: 1, the request has 1"),
    (REFER, Response("r", masks=(Mask(FULL, frame=-1),)), "masks[0]: frame: -1"),
    (REFER, Response("r", masks=(Mask(full_rle((6, 4))),)), "masks[0]: size: expected (height, width) = (4, 6)"),
    (REFER, Response("r", masks=(Mask(Rle((4, 6), "08")),)), "masks[0]: "),
    (REFER, Response("r", masks=(Mask(FULL, float("nan")),)), "masks[0]: score: expected a finite number"),
    (
        REFER,
        Response("r", masks=(Mask(FULL, np.float32(1)),)),
        "masks[0]: score: expected a Python number, found numpy",
    ),
    (REFER, Response("r", masks=(Mask(FULL, track="a"),)), "masks[0]: track"),
    (REFER, Response("r", boxes=(Box((0, 0, 1)),)), "boxes[0]: xyxy: expected a tuple of 4"),
    (REFER, Response("r", boxes=(Box((0, 0, float("inf"), 1)),)), "boxes[0]: xyxy: expected a finite"),
    (REFER, Response("r", boxes=(Box((0, 0, 10**400, 1)),)), "boxes[0]: xyxy: expected a number that fits"),
    (REFER, Response("r", boxes=(Box((0, 0, 1, 1), frame=2),)), "boxes[0]: frame: 2"),
    (REFER, Response("r", boxes=(Box((0, 0, 1, 1), score="1"),)), "boxes[0]: score"),
    (REFER, Response("r", text="a dog", spans=(Span("dog", 2, 6),)), "spans[0]: [2, 6) lies outside"),
    (REFER, Response("r", text="a dog", spans=(Span("dog", -3, 5),)), "spans[0]: [-3, 5) lies outside"),
    (
        REFER,
        Response("r", text="a dog", spans=(Span("cat", 2, 5),)),
        "spans[0]: text[2:5] is 'dog', the phrase is 'cat'",
    ),
    (REFER, Response("r", text="a dog", spans=(Span("dog", 2, None),)), "spans[0]: start and end must both"),
    (REFER, Response("r", spans=(Span("dog", 0, 3),)), "spans[0]: has offsets, but the response has no text"),
    (REFER, Response("r", spans=(Span("dog", masks=(0,)),)), "spans[0]: masks: index 0, the response has 0"),
    (REFER, Response("r", spans=(Span("dog", boxes=(-1,)),)), "spans[0]: boxes: index -1"),
    (REFER, Response("r", spans=(Span("dog", masks=[]),)), "spans[0]: masks: expected a tuple"),
    (REFER, Response("r", spans=(Span(None),)), "spans[0]: phrase: expected str"),
    (REFER, segments((1, 7, (FULL,))), "panoptic: given to a refer_segment request"),
    (PANOPTIC, segments((0, 7, (FULL,))), "panoptic.segments[0]: id: expected a positive int"),
    (PANOPTIC, segments((1, 7, (LEFT,)), (1, 9, (RIGHT,))), "panoptic.segments[1]: id: 1 is used twice"),
    (PANOPTIC, segments((1, 8, (FULL,))), "panoptic.segments[0]: category_id: 8 is not in"),
    (PANOPTIC, segments((1, 7, ())), "panoptic.segments[0]: masks: expected a tuple of 1"),
    (PANOPTIC, segments((1, 7, (full_rle((6, 4)),))), "panoptic.segments[0]: masks: size"),
    (PANOPTIC, segments((1, 7, (LEFT,)), (2, 9, (FULL,))), "panoptic: segments overlap on frame 0 by at least 12 px"),
    (PANOPTIC, segments((1, 7, (LEFT,)), (2, 9, (LEFT,))), "panoptic: segments overlap on frame 0 by at least 12 px"),
    (CLIP, segments((1, 7, (LEFT, FULL)), (2, 9, (None, LEFT))), "panoptic: segments overlap on frame 1"),
    (PANOPTIC, segments((1, 7, (FULL,), float("inf"))), "panoptic.segments[0]: score"),
    (PANOPTIC, Response("r", panoptic=PanopticResult([])), "panoptic.segments: expected a tuple"),
    (CHOICES, Response("r"), "choices: expected 2, one per choice of the request, found 0"),
    (CHOICES, Response("r", Status.TRUNCATED, choices=(ChoiceScore(-1, 1, 3),)), "choices: expected 2"),
    (REFER, Response("r", choices=(ChoiceScore(-1, 1, 3),)), "choices: expected 0"),
    (CHOICES, Response("r", choices=(ChoiceScore(-1, 1, 3), ChoiceScore(0.1, 1, 2))), "choices[1]: sum_logprob"),
    (CHOICES, Response("r", choices=(ChoiceScore(-1, 0, 3),) * 2), "choices[0]: n_tokens"),
    (
        CHOICES,
        Response("r", choices=(ChoiceScore(float("-inf"), 1, 3),) * 2),
        "choices[0]: sum_logprob: expected a finite",
    ),
    (REFER, Response("r", usage={"tokens": None}), "usage: tokens"),
]


@pytest.mark.parametrize(("request_", "response", "message"), BAD, ids=[bad[2][:40] for bad in BAD])
def test_bad_responses_are_named(request_: Request, response: Any, message: str) -> None:
    problem = check_response(request_, response)
    assert problem is not None
    assert problem.startswith(message)


def test_more_than_255_segments_are_checked() -> None:
    # pycocotools 2.0.11 cannot measure more masks than that in one call
    frame = Frame("wide", 300, 2, b"")
    columns = [rectangle_rle((x, 0, x + 1, 2), (2, 300)) for x in range(300)]
    answer = segments(*((index + 1, 7, (rle,)) for index, rle in enumerate(columns)))
    assert check_response(replace(PANOPTIC, frames=(frame,)), answer) is None
