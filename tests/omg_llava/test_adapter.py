"""The bundled model behind the contract of the harness: what it is asked, and how its answers are read."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omg_llava import fusion, wording
from omg_llava.adapter import OmgLlavaAdapter
from omg_llava.assistant import Assistant, Look, Question, Reply
from omg_llava.checkpoint import save_model
from omg_llava.fusion import Segment
from omg_llava.generation import Sampling
from omg_llava.preprocessing import SquareFrame
from omg_llava.universal import UniversalSegmenter
from omgbench.contract import (
    Frame,
    GenOptions,
    Intent,
    Placement,
    Request,
    Response,
    Span,
    Status,
    Turn,
)
from omgbench.metrics.rle import mask_to_rle, rle_to_mask, tight_box_xyxy
from omgbench.testing import check_model

from .adapter_requests import BOX, FRAMES, MASK, POINT, MakeAdapter, answers, everything, rles
from .lively import (
    LETTERS,
    LIMIT,
    SIZES_WH,
    VOCABULARY,
    frame,
    lively_model,
    picture,
    pictures,
    rectangle,
    request,
    small_config,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Every question that reaches the assistant."""
    seen: list[Question] = []
    prepare = Assistant.prepare

    def noted(self: Assistant, look: Look, question: Question) -> Any:
        seen.append(question)
        return prepare(self, look, question)

    monkeypatch.setattr(Assistant, "prepare", noted)
    return seen


# The contract


def test_the_model_keeps_the_contract(lively_folder: Path, small_views: None) -> None:
    report = check_model(lambda: OmgLlavaAdapter(str(lively_folder)), placement=Placement("cpu"))
    assert report.ok, str(report)
    skipped = {check.name for check in report.checks if check.skipped}
    assert skipped <= {"panoptic", "spans"}, (
        "the vocabulary of the check is not the checkpoint's; all else must be tried"
    )


def test_every_intent(adapter: OmgLlavaAdapter) -> None:
    found = answers(adapter, *(each for n, image in enumerate(FRAMES) for each in everything(image, prefix=f"{n}")))
    assert {response.status for response in found} <= {Status.OK, Status.TRUNCATED, Status.EMPTY}
    for response in found:
        if response.id.endswith("panoptic"):
            assert response.panoptic.segments
        elif response.id.endswith("interactive"):
            assert len(response.masks) == 1
        elif response.id.endswith("choices"):
            assert [choice.n_chars for choice in response.choices] == [5, 5, 1]
        else:
            assert response.raw_text
            assert response.usage["output_tokens"] <= LIMIT


def test_a_batch_answers_as_single_requests_do(make_adapter: MakeAdapter) -> None:
    """A pixel of a mask may turn where its logit is 0 but for rounding."""
    requests = [each for n, image in enumerate(FRAMES[:3]) for each in everything(image, prefix=f"{n}")]
    together = answers(make_adapter(), *requests)
    adapter = make_adapter()
    for asked, expected in zip(requests, together, strict=True):
        [alone] = answers(adapter, asked)
        assert _without_numbers(alone) == _without_numbers(expected)
        for mask, wanted in zip(alone.masks, expected.masks, strict=True):
            assert np.count_nonzero(rle_to_mask(mask.rle) != rle_to_mask(wanted.rle)) <= 1
        assert [c.sum_logprob for c in alone.choices] == pytest.approx([c.sum_logprob for c in expected.choices])


def _without_numbers(response: Response) -> Response:
    return dataclasses.replace(response, choices=(), masks=(), boxes=())


# What is asked, and how answers are read


def test_questions_are_the_official_ones(adapter: OmgLlavaAdapter, asked: list[Question]) -> None:
    answers(
        adapter,
        request("0", Intent.REFER_SEGMENT, FRAMES[0], "the {dog} {text}"),
        request("1", Intent.REFER_BOX, FRAMES[0], "the dog"),
        request("2", Intent.REGION_CAPTION, FRAMES[0], prompts=(BOX,)),
        request("3", Intent.CHAT, FRAMES[0], "Why?", prompts=(BOX, POINT, MASK)),
        request("4", Intent.CHAT, FRAMES[0], "dog", template="Find {text} by <mark>.", prompts=(MASK,)),
        request("5", Intent.CHAT, FRAMES[0], "Is <region> left of <mark>?", prompts=(POINT, BOX)),
    )
    assert [question.text for question in asked] == [
        "Please segment the {dog} {text} in this image.",
        "Please segment the dog in this image.",
        wording.REGION_CAPTION,
        "There are some regions: region1 <region>, region2 <region>.\nThere are some marks: Mark 1 <mark>.\nWhy?",
        "Find dog by <mark>.",
        "Is <region> left of <mark>?",
    ]
    assert [[prompt.placeholder for prompt in question.prompts] for question in asked] == [
        [],
        [],
        ["<mark>"],
        ["<region>", "<mark>", "<region>"],
        ["<mark>"],
        ["<region>", "<mark>"],
    ]


def test_a_template_may_be_the_whole_question(adapter: OmgLlavaAdapter, asked: list[Question]) -> None:
    """Without `{text}` it needs no text."""
    template = "Please segment what <mark> points at."
    [response] = answers(adapter, request("0", Intent.REFER_SEGMENT, FRAMES[0], template=template, prompts=(BOX,)))
    assert not response.status.failed, response.error
    assert [question.text for question in asked] == [template]


def test_answers_are_the_assistants(adapter: OmgLlavaAdapter, lively: Assistant, looks: list[Look]) -> None:
    question = Question("Please segment the dog in this image.", sampling=Sampling(LIMIT))
    replies = lively.ask([(look, question) for look in looks])
    assert sum(len(reply.masks) for reply in replies) > 4
    for image, reply in zip(FRAMES, replies, strict=True):
        refer, box = answers(
            adapter, *(request(str(i), i, image, "the dog") for i in (Intent.REFER_SEGMENT, Intent.REFER_BOX))
        )
        masks = rles(reply.masks)
        assert [mask.rle for mask in refer.masks] == masks
        assert refer.raw_text == box.raw_text == reply.text
        assert "[SEG]" not in refer.text
        assert [each.xyxy for each in box.boxes] == [tight_box_xyxy(rle) for rle in masks]
        assert not box.masks
        expected = Status.TRUNCATED if reply.finish == "length" else Status.OK
        assert {refer.status, box.status} == {expected if masks else Status.EMPTY}
        assert refer.usage == {"input_tokens": reply.n_input_tokens, "output_tokens": reply.n_output_tokens}


def _answering(monkeypatch: pytest.MonkeyPatch, text: str, *masks: np.ndarray) -> None:
    """Make every assistant answer this about a picture of 64 x 64 pixels, cut off at the token limit."""
    logits = torch.stack([torch.zeros(64, 64), *(torch.from_numpy(mask * 8.0 - 4.0).float() for mask in masks)])[1:]
    reply = Reply(text, text, logits, SquareFrame(64, 64, 64), "length", 9, 9)
    monkeypatch.setattr(Assistant, "answer", lambda self, prepared: [reply] * len(prepared))


def test_phrases_carry_their_masks(adapter: OmgLlavaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last `[SEG]` came at the token limit and has no mask."""
    mask = rectangle(64, 64, (1, 2, 30, 40))
    text = "<p> A dog </p> [SEG] sits on <p> grass </p> [SEG]"
    _answering(monkeypatch, text, mask)
    for intent in (Intent.GROUNDED_CAPTION, Intent.CHAT):
        [response] = answers(adapter, request("0", intent, FRAMES[1], "Describe it."))
        assert response.status is Status.TRUNCATED
        assert response.text == "A dog sits on grass"
        assert response.raw_text == text
        assert [each.rle for each in response.masks] == [mask_to_rle(mask)]
        assert response.spans == (Span("A dog", 0, 5, masks=(0,)), Span("grass", 14, 19))


def test_an_empty_mask_has_no_box(adapter: OmgLlavaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, full = rectangle(64, 64, (1, 2, 1, 40)), rectangle(64, 64, (1, 2, 9, 40))
    for shown, status in (((empty,), Status.EMPTY), ((empty, full), Status.TRUNCATED)):
        _answering(monkeypatch, "[SEG]" * len(shown), *shown)
        [response] = answers(adapter, request("0", Intent.REFER_BOX, FRAMES[1], "the dog"))
        assert [box.xyxy for box in response.boxes] == [(1.0, 2.0, 9.0, 40.0)][: len(shown) - 1]
        assert response.status is status


def test_interactive_masks_come_in_the_order_of_their_prompts(adapter: OmgLlavaAdapter) -> None:
    prompts = (POINT, MASK, BOX)
    [together] = answers(adapter, request("all", Intent.INTERACTIVE, FRAMES[0], prompts=prompts))
    alone = answers(
        adapter, *(request(str(n), Intent.INTERACTIVE, FRAMES[0], prompts=(p,)) for n, p in enumerate(prompts))
    )
    assert [mask.rle for mask in together.masks] == [response.masks[0].rle for response in alone]
    assert len({mask.rle for mask in together.masks}) == 3


def test_history_reaches_the_model(adapter: OmgLlavaAdapter) -> None:
    turns = (Turn("user", "Who is there?"), Turn("assistant", "A dog."))
    plain, later = answers(
        adapter,
        request("plain", Intent.CHAT, FRAMES[0], "And where?"),
        request("later", Intent.CHAT, FRAMES[0], "And where?", history=turns),
    )
    assert plain.raw_text != later.raw_text
    assert plain.usage["input_tokens"] < later.usage["input_tokens"]


def test_sampling_options_reach_the_model(adapter: OmgLlavaAdapter) -> None:
    options = [GenOptions(LIMIT), *(GenOptions(LIMIT, 1.0, seed=seed) for seed in (1, 1, 2))]
    found = answers(
        adapter, *(request(str(n), Intent.CHAT, FRAMES[0], "Tell!", gen=gen) for n, gen in enumerate(options))
    )
    texts = [response.raw_text for response in found]
    assert texts[1] == texts[2]
    assert len(set(texts)) == 3


# Grounded captions


def _rounds(assistant: Assistant, look: Look, limit: int) -> list[Reply]:
    """The six questions until a mask appears."""
    replies = []
    for text in wording.GROUNDED_CAPTION:
        replies += assistant.ask([(look, Question(text, sampling=Sampling(limit)))])
        if replies[-1].masks:
            break
    return replies


def test_grounded_captions_are_asked_for_again_until_a_mask_appears(
    make_adapter: MakeAdapter, asked: list[Question], tmp_path: Path
) -> None:
    """With a model that says `[SEG]` seldom."""
    assistant = Assistant(*lively_model(small_config()))
    assistant.model.llm.lm_head.weight[assistant.model.special.seg] *= 0.4
    save_model(assistant.model, assistant.tokenizer, tmp_path / "model")
    adapter = make_adapter(tmp_path / "model")
    looks = [assistant.look(image) for image in pictures()]
    rounds: set[int] = set()
    for limit in (8, 16):
        expected = [_rounds(assistant, look, limit) for look in looks]
        asked.clear()
        requests = [
            request(str(n), Intent.GROUNDED_CAPTION, image, gen=GenOptions(limit)) for n, image in enumerate(FRAMES)
        ]
        found = answers(adapter, *requests, request("chat", Intent.CHAT, FRAMES[0], "Why?"))
        assert Counter(question.text for question in asked) == Counter(
            ["Why?", *(text for replies in expected for text in wording.GROUNDED_CAPTION[: len(replies)])]
        )
        for response, replies in zip(found, expected, strict=False):
            assert response.raw_text == replies[-1].text
            assert [mask.rle for mask in response.masks] == rles(replies[-1].masks)
        rounds |= {len(replies) for replies in expected}
    assert rounds >= {1, 2, 6}


def test_the_number_of_wordings_is_an_option(make_adapter: MakeAdapter, asked: list[Question]) -> None:
    adapter = make_adapter(grounded_questions=2)
    answers(adapter, request("0", Intent.GROUNDED_CAPTION, FRAMES[0], gen=GenOptions(1)))
    assert [question.text for question in asked] == list(wording.GROUNDED_CAPTION[:2])


def test_words_of_the_caller_are_asked_once(adapter: OmgLlavaAdapter, asked: list[Question]) -> None:
    gen = GenOptions(max_new_tokens=1)
    answers(
        adapter,
        request("0", Intent.GROUNDED_CAPTION, FRAMES[0], "Describe it.", gen=gen),
        request("1", Intent.GROUNDED_CAPTION, FRAMES[0], template="Say all.", gen=gen),
    )
    assert [question.text for question in asked] == ["Describe it.", "Say all."]


def test_a_later_wording_that_does_not_fit_leaves_the_earlier_answer(
    adapter: OmgLlavaAdapter, lively: Assistant, looks: list[Look]
) -> None:
    """The first wording is shorter than the fourth: one response all the same."""
    lengths = [len(text) for text in wording.GROUNDED_CAPTION]
    assert max(lengths) > lengths[0]
    limit = lively.model.config.language.max_positions
    used = lively.ask([(looks[0], Question(wording.GROUNDED_CAPTION[0], sampling=Sampling(1)))])[0].n_input_tokens
    stop = (*LETTERS, "[SEG]")
    asked = request("0", Intent.GROUNDED_CAPTION, FRAMES[0], gen=GenOptions(limit - used, stop=stop))
    [response] = answers(adapter, asked)
    assert response.status in (Status.OK, Status.TRUNCATED)


# Panoptic answers


def _clip(n_frames: int) -> tuple[Frame, ...]:
    still = np.asarray(picture(41, 30))
    images = [np.roll(still, 3 * index, axis=1) for index in range(n_frames)]
    return tuple(frame(Image.fromarray(image), f"clip {n}") for n, image in enumerate(images))


def _decoded(response: Response, index: int = 0) -> dict[int, np.ndarray]:
    """The masks of one frame by the number of their segment."""
    return {
        segment.id: rle_to_mask(segment.masks[index]).astype(bool)
        for segment in response.panoptic.segments
        if segment.masks[index] is not None
    }


def test_panoptic_segments_are_the_segmenters(adapter: OmgLlavaAdapter, lively: Assistant, small_views: None) -> None:
    segmenter = UniversalSegmenter(lively.model)
    for image, original in zip(FRAMES, pictures(), strict=True):
        [response] = answers(adapter, request("0", Intent.PANOPTIC, image, vocabulary=VOCABULARY))
        masks = _decoded(response)
        assert sum(mask.astype(int) for mask in masks.values()).max() == 1
        category = {segment.id: segment.category_id for segment in response.panoptic.segments}
        for segment in segmenter.panoptic(segmenter.view(original)):
            [home] = [number for number, mask in masks.items() if mask[segment.mask.numpy()].any()]
            assert masks[home][segment.mask.numpy()].all()
            assert category[home] == segment.label + 1


def test_stuff_of_one_class_is_one_segment(adapter: OmgLlavaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = SIZES_WH[0]
    boxes = [(0, 0, 9, 9), (9, 0, 20, 9), (20, 0, 30, 9), (30, 0, 40, 9)]
    masks = [torch.from_numpy(rectangle(width, height, box)) for box in boxes]
    drawn = [(0, 2, 0, 0.5), (1, 0, 1, 0.9), (4, 2, 0, 0.75), (7, 0, 2, 0.25)]
    segments = [Segment(*values, mask) for values, mask in zip(drawn, masks, strict=True)]
    monkeypatch.setattr(UniversalSegmenter, "panoptic", lambda self, view, class_set=None: segments)
    [response] = answers(adapter, request("0", Intent.PANOPTIC, FRAMES[0], vocabulary=VOCABULARY))
    expected = [(3, masks[0] | masks[2], 0.75), (1, masks[1], 0.9), (1, masks[3], 0.25)]
    found = [(each.category_id, each.masks, each.score) for each in response.panoptic.segments]
    assert found == [(number, (mask_to_rle(mask.numpy()),), score) for number, mask, score in expected]


@pytest.mark.parametrize(
    ("clip_ids", "expected"),
    [
        # The second object moves up to the first number where the first is missing.
        ("official", {(1, (0, 3)), (1, (1, None)), (3, (2, 4))}),
        ("query", {(1, (0, None)), (1, (1, 3)), (3, (2, 4))}),
    ],
)
def test_numbers_in_a_clip(
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
    clip_ids: str,
    expected: set[tuple[int, tuple[int | None, int | None]]],
) -> None:
    """Two things, then the second of them alone; stuff drawn by one query, then by another."""
    masks = [rectangle(41, 30, (5 * n, 0, 5 * n + 5, 30)) for n in range(5)]
    drawn = [[(4, 0, 1), (6, 0, 2), (7, 2, 0)], [(6, 0, 1), (8, 2, 0)]]
    places = iter(masks)
    frames = [[Segment(*values, 0.5, torch.from_numpy(next(places))) for values in frame_] for frame_ in drawn]
    monkeypatch.setattr(UniversalSegmenter, "video", lambda self, images, class_set=None: iter(frames))
    asked = Request("0", Intent.PANOPTIC, _clip(2), vocabulary=VOCABULARY, is_clip=True)
    [response] = answers(make_adapter(clip_ids=clip_ids), asked)
    numbers = {mask_to_rle(mask): number for number, mask in enumerate(masks)} | {None: None}
    found = {(each.category_id, tuple(numbers[rle] for rle in each.masks)) for each in response.panoptic.segments}
    assert found == expected


@pytest.mark.parametrize("clip_ids", ["official", "query"])
def test_a_segment_of_a_clip_keeps_its_number(
    make_adapter: MakeAdapter, lively: Assistant, small_views: None, clip_ids: str
) -> None:
    """Things by the instance's number or by the query, stuff by its class."""
    frames = _clip(7)
    adapter = make_adapter(clip_ids=clip_ids)
    [response] = answers(adapter, Request("0", Intent.PANOPTIC, frames, vocabulary=VOCABULARY, is_clip=True))
    segments = {segment.id: segment for segment in response.panoptic.segments}
    assert len(segments) == len(response.panoptic.segments) > 1
    assert all(len(segment.masks) == 7 for segment in segments.values())
    expected = UniversalSegmenter(lively.model).video([each.image for each in frames])
    numbers: dict[tuple[int, int], int] = {}
    for index, by_official in enumerate(expected):
        masks = _decoded(response, index)
        assert sum(mask.astype(int) for mask in masks.values()).max() == 1
        for segment in by_official:
            own = segment.query if clip_ids == "query" and segment.label < 2 else segment.instance
            homes = [number for number, mask in masks.items() if mask[segment.mask.numpy()].all()]
            assert homes == [numbers.setdefault((segment.label, own), homes[0])]
            assert segments[homes[0]].category_id == segment.label + 1
    assert sorted(numbers.values()) == sorted(segments)


def test_large_pictures_in_pieces_give_the_same(make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = _clip(3)
    requests = [
        request("0", Intent.PANOPTIC, FRAMES[3], vocabulary=VOCABULARY),
        Request("1", Intent.PANOPTIC, clip, vocabulary=VOCABULARY, is_clip=True),
    ]
    whole = answers(make_adapter(), *requests)
    monkeypatch.setattr(fusion, "_MOST_VALUES", 5000)
    assert answers(make_adapter(), *requests) == whole
