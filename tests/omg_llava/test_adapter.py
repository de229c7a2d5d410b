"""The bundled model behind the contract of the harness."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omg_llava import fusion, wording
from omg_llava.adapter import OmgLlavaAdapter
from omg_llava.assistant import Assistant, Look, Question, Reply
from omg_llava.checkpoint import load_model, save_model
from omg_llava.config import LoraConfig
from omg_llava.fusion import Segment
from omg_llava.generation import Sampling
from omg_llava.look_cache import LookCache
from omg_llava.model import OmgLlava
from omg_llava.preprocessing import SquareFrame
from omg_llava.universal import UniversalSegmenter
from omgbench.contract import (
    BoxPrompt,
    Category,
    Frame,
    GenOptions,
    Intent,
    MaskPrompt,
    ModelIdentity,
    Placement,
    PointPrompt,
    Request,
    Response,
    Rle,
    ScribblePrompt,
    Span,
    Status,
    Turn,
)
from omgbench.errors import UserError
from omgbench.metrics.rle import mask_to_rle, rle_to_mask, tight_box_xyxy
from omgbench.response_checks import check_response
from omgbench.testing import check_model

from .lively import (
    LETTERS,
    LIMIT,
    SIZES_WH,
    VOCABULARY,
    frame,
    lively_model,
    picture,
    pictures,
    png,
    rectangle,
    request,
    small_config,
)

MakeAdapter = Callable[..., OmgLlavaAdapter]
FRAMES = [frame(image, f"picture {number}") for number, image in enumerate(pictures())]
POINT = PointPrompt((10.0, 20.0))
BOX = BoxPrompt((3.0, 5.0, 40.0, 30.0))
MASK = MaskPrompt(mask_to_rle(rectangle(*SIZES_WH[0], (20, 10, 50, 40))))


def answers(adapter: OmgLlavaAdapter, *requests: Request) -> list[Response]:
    """One checked response for each request, in the order of the requests."""
    found = list(adapter.respond(requests))
    by_id = {response.id: response for response in found}
    assert sorted(response.id for response in found) == sorted(asked.id for asked in requests)
    for asked in requests:
        assert check_response(asked, by_id[asked.id]) is None
    return [by_id[asked.id] for asked in requests]


def everything(image: Frame, *, prefix: str = "") -> list[Request]:
    """One request of every intent about one picture."""
    box = BoxPrompt((0.0, 0.0, image.width / 2, image.height / 2))
    return [
        request(f"{prefix}chat", Intent.CHAT, image, "What is it?"),
        request(f"{prefix}refer", Intent.REFER_SEGMENT, image, "the dog"),
        request(f"{prefix}box", Intent.REFER_BOX, image, "the dog"),
        request(f"{prefix}grounded", Intent.GROUNDED_CAPTION, image),
        request(f"{prefix}region", Intent.REGION_CAPTION, image, prompts=(box,)),
        request(f"{prefix}panoptic", Intent.PANOPTIC, image, vocabulary=VOCABULARY),
        request(f"{prefix}interactive", Intent.INTERACTIVE, image, prompts=(box,)),
        request(f"{prefix}choices", Intent.SCORE_CHOICES, image, "Who?", choices=("a dog", "a cat", "b")),
    ]


def rles(masks: Sequence[torch.Tensor]) -> list[Rle]:
    return [mask_to_rle(mask.numpy()) for mask in masks]


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of `perceive` saw."""
    calls: list[int] = []
    perceive = OmgLlava.perceive

    def counted(self: OmgLlava, pixels: torch.Tensor) -> Any:
        calls.append(len(pixels))
        return perceive(self, pixels)

    monkeypatch.setattr(OmgLlava, "perceive", counted)
    return calls


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


# Looking once


@pytest.mark.parametrize("batch_size", [1, 3, 24])
def test_each_picture_is_looked_at_once(adapter: OmgLlavaAdapter, looked: list[int], batch_size: int) -> None:
    requests = [each for n, image in enumerate(FRAMES[:3]) for each in everything(image, prefix=f"{n}")]
    for start in range(0, len(requests), batch_size):
        answers(adapter, *requests[start : start + batch_size])
    assert looked == [1, 1, 1]


def test_a_view_is_made_once(adapter: OmgLlavaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    view = UniversalSegmenter.view
    monkeypatch.setattr(UniversalSegmenter, "view", lambda self, image: made.append(image) or view(self, image))
    for number in range(3):
        answers(adapter, request(str(number), Intent.INTERACTIVE, FRAMES[0], prompts=(POINT,)))
    answers(adapter, request("all", Intent.PANOPTIC, FRAMES[0], vocabulary=VOCABULARY))
    assert len(made) == 1


def test_grounded_captions_look_once_even_where_the_cache_holds_one_picture(
    make_adapter: MakeAdapter, looked: list[int]
) -> None:
    """The six questions of a batch are asked about looks that are held anyway."""
    adapter = make_adapter(cache_mb=0)
    requests = [
        request(str(n), Intent.GROUNDED_CAPTION, image, gen=GenOptions(max_new_tokens=1))
        for n, image in enumerate(FRAMES)
    ]
    answers(adapter, *requests)
    assert looked == [1] * len(FRAMES)


def test_a_batch_that_goes_from_picture_to_picture_looks_once_at_each(
    make_adapter: MakeAdapter, looked: list[int]
) -> None:
    adapter = make_adapter(cache_mb=0)
    answers(adapter, *(request(str(n), Intent.CHAT, FRAMES[n % 2], "Why?") for n in range(6)))
    assert looked == [1, 1]


def test_after_close_nothing_is_remembered(lively_folder: Path, looked: list[int]) -> None:
    adapter = OmgLlavaAdapter(str(lively_folder))
    for _ in range(2):
        adapter.load(Placement("cpu"))
        answers(adapter, request("0", Intent.CHAT, FRAMES[0], "Why?"))
        adapter.close()
    assert looked == [1, 1]


@dataclasses.dataclass(frozen=True)
class _Block:
    size: int

    def nbytes(self) -> int:
        return self.size


def test_the_cache_drops_what_was_not_used_for_longest() -> None:
    cache, made = LookCache(100), Counter[str]()

    def get(key: str, size: int) -> None:
        def make() -> _Block:
            made[key] += 1
            return _Block(size)

        assert cache.get(key, make).size == size

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key, 40)
    assert made == {"a": 1, "b": 2, "c": 1}
    get("huge", 1000)
    get("huge", 1000)
    get("a", 40)
    assert made == {"a": 2, "b": 2, "c": 1, "huge": 1}
    get("d", 60)
    get("a", 40)
    assert made["a"] == 2
    cache.clear()
    get("d", 60)
    assert made["d"] == 2


def test_a_failed_look_is_not_kept() -> None:
    cache = LookCache(100)

    def fail() -> _Block:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.get("a", fail)
    assert cache.get("a", lambda: _Block(7)).size == 7


def _storages(value: object, seen: dict[int, int]) -> dict[int, int]:
    """Bytes of every storage that is in reach of `value`, by address."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    elif dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            _storages(getattr(value, item.name), seen)
    elif isinstance(value, tuple | list):
        for each in value:
            _storages(each, seen)
    return seen


@pytest.mark.parametrize("number", range(4))
def test_looks_and_views_know_what_memory_they_hold(lively: Assistant, number: int) -> None:
    image = pictures()[number]
    for held in (lively.look(image), UniversalSegmenter(lively.model).view(image)):
        real = sum(_storages(held, {}).values())
        assert 0.99 * real <= held.nbytes() <= 1.01 * real


def test_memory_for_pictures_is_bounded(make_adapter: MakeAdapter, looks: list[Look], looked: list[int]) -> None:
    size = looks[0].nbytes()
    n_held = 2**20 // size
    images = [frame(picture(64, 48, seed), f"{seed}") for seed in range(n_held + 2)]
    adapter = make_adapter(cache_mb=1)
    for image in (*images, *images[:1:-1]):
        answers(adapter, request(image.key, Intent.CHAT, image, "Why?"))
    assert len(looked) == len(images), "the latest looks are held"
    answers(adapter, request("second", Intent.CHAT, images[1], "Why?"))
    assert len(looked) == len(images) + 1, "what is held is bounded"


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


@pytest.mark.parametrize(
    "options",
    [
        {"grounded_questions": 0},
        {"grounded_questions": 7},
        {"grounded_questions": "two"},
        {"cache_mb": -1},
        {"cache_mb": 0.5},
        {"four_bit": "yes"},
        {"clip_ids": "mine"},
    ],
    ids=str,
)
def test_a_wrong_option_is_a_message(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(UserError, match=name):
        OmgLlavaAdapter("x", **options)


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


# Requests that cannot be answered


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


# Identity


def _identity(folder: Path, dtype: str = "auto", **options: Any) -> ModelIdentity:
    adapter = OmgLlavaAdapter(str(folder), **options)
    adapter.load(Placement("cpu", dtype))
    identity = adapter.identity()
    adapter.close()
    return identity


@pytest.fixture
def copied(lively_folder: Path, tmp_path: Path) -> Path:
    """The model's folder, to be changed."""
    return Path(shutil.copytree(lively_folder, tmp_path / "copied"))


def test_the_identity_is_that_of_the_content(lively_folder: Path, copied: Path) -> None:
    assert _identity(copied) == _identity(lively_folder) == _identity(lively_folder, cache_mb=3)
    assert _identity(copied, "float32") == _identity(lively_folder)


def test_the_identity_changes_with_what_changes_answers(lively: Assistant, lively_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = lively_model(small_config())
    model.perception.decoder.mask_embed[4].bias[0] += 1e-3
    save_model(model, tokenizer, tmp_path / "other")
    identities = [
        _identity(lively_folder),
        _identity(tmp_path / "other"),
        _identity(lively_folder, "bfloat16"),
        _identity(lively_folder, "float16"),
        _identity(lively_folder, grounded_questions=2),
        _identity(lively_folder, clip_ids="query"),
    ]
    assert all(identities.count(identity) == 1 for identity in identities)


def _edit_embedding(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["seg_token"]["embedding"] = "mean"
    (folder / "config.json").write_text(json.dumps(config))


def _edit_prior(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["projector"]["use_prior"] = False
    (folder / "config.json").write_text(json.dumps(config))


def _edit_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("edit", [_edit_embedding, _edit_prior, _edit_tokenizer])
def test_the_identity_changes_with_files_beside_the_weights(
    lively_folder: Path, copied: Path, edit: Callable[[Path], None]
) -> None:
    """Each of these edits changes answers and leaves the weights as they are."""
    edit(copied)
    assert _identity(copied) != _identity(lively_folder)


# Devices and number formats


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_number_formats(make_adapter: MakeAdapter, dtype: str) -> None:
    adapter = make_adapter(dtype=dtype)
    assert adapter.identity().options["language_model_dtype"] == dtype
    found = answers(adapter, *(each for n, image in enumerate(FRAMES) for each in everything(image, prefix=f"{n}")))
    assert not any(response.status.failed for response in found)
    sizes = {mask.rle.size for response in found for mask in response.masks}
    assert sizes == {(height, width) for width, height in SIZES_WH}


def test_load_says_what_auto_became(lively_folder: Path) -> None:
    adapter = OmgLlavaAdapter(str(lively_folder))
    assert adapter.load(Placement("cpu", "auto", worker=3)) == Placement("cpu", "float32", worker=3)
    assert adapter.load(Placement("cpu", "bfloat16")) == Placement("cpu", "bfloat16")


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("tpu9", "auto", "tpu9"),
        ("", "auto", "device"),
        ("cuda:99", "auto", "cuda:99"),
        ("cuda:x", "auto", "cuda:x"),
        ("meta", "auto", "meta"),
        ("cpu", "float64", "float64"),
        ("cpu", "half", "half"),
    ],
)
def test_a_wrong_device_or_format_is_a_message(lively_folder: Path, device: str, dtype: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OmgLlavaAdapter(str(lively_folder)).load(Placement(device, dtype))


def test_weights_must_be_named() -> None:
    with pytest.raises(UserError, match="weights"):
        OmgLlavaAdapter().load(Placement("cpu"))
    assert OmgLlavaAdapter().capabilities().intents == frozenset(Intent)


# Four bits


@pytest.fixture(scope="module")
def lora_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that keeps its adapters, none of them zero."""
    pytest.importorskip("peft")
    config = small_config()
    language = dataclasses.replace(config.language, lora=LoraConfig(rank=4, alpha=8.0, dropout=0.0))
    model, tokenizer = lively_model(dataclasses.replace(config, language=language))
    folder = tmp_path_factory.mktemp("lora") / "model"
    save_model(model, tokenizer, folder)
    return folder


def _linear_layers(model: OmgLlava) -> Iterator[tuple[str, torch.nn.Module]]:
    return ((name, part) for name, part in model.llm.named_modules() if isinstance(part, torch.nn.Linear))


def test_four_bits_hold_the_layers_but_not_the_head_and_adapters(lora_folder: Path) -> None:
    four = pytest.importorskip("bitsandbytes").nn.Linear4bit
    model, _ = load_model(lora_folder, four_bit=True)
    for name, part in _linear_layers(model):
        is_base = "layers." in name and "lora_" not in name
        assert isinstance(part, four) == is_base, name
        if is_base:
            assert part.weight.quant_state.quant_type == "nf4"
            assert part.weight.quant_state.nested
            assert part.weight.dtype == torch.uint8
            assert part.weight.numel() == part.in_features * part.out_features // 2


def test_four_bits_answer(make_adapter: MakeAdapter, lora_folder: Path, lively_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    for folder in (lora_folder, lively_folder):
        adapter = make_adapter(folder, four_bit=True)
        found = answers(adapter, *everything(FRAMES[0]), *everything(FRAMES[2], prefix="2"))
        assert not any(response.status.failed for response in found)
        whole = make_adapter(folder)
        assert [each.identity().options["four_bit"] for each in (whole, adapter)] == ["False", "True"]
        assert whole.identity() != adapter.identity()
        exact = answers(whole, *everything(FRAMES[0]), *everything(FRAMES[2], prefix="2"))
        assert [each.choices for each in found] != [each.choices for each in exact]
        for one, other in zip(found, exact, strict=True):
            assert one.panoptic == other.panoptic
            if one.id.endswith("interactive"):
                assert one.masks == other.masks


def test_four_bits_are_near_the_exact_model(lively: Assistant, lively_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model, _ = load_model(lively_folder, four_bit=True)
    ids = torch.arange(20, 60)[None]
    exact, found = (each.llm(input_ids=ids).logits.flatten() for each in (lively.model, model))
    assert not torch.equal(exact, found)
    assert torch.nn.functional.cosine_similarity(exact, found, dim=0) > 0.7
