"""`check_model` passes for models that keep the contract, and names the broken rule for those that do not."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omgbench.contract import (
    Box,
    Capabilities,
    Intent,
    Mask,
    Model,
    ModelIdentity,
    PanopticResult,
    PanopticSegment,
    PerRequestModel,
    Placement,
    Request,
    Response,
    Rle,
    Span,
    Status,
)
from omgbench.testing import (
    BlankModel,
    CrashingModel,
    LargestObjectModel,
    PerfectModel,
    RandomModel,
    ScriptedModel,
    SlowModel,
    WholeImageModel,
    check_model,
)
from omgbench.testing.models import WeightlessModel, weightless_capabilities
from omgbench.testing.random_answers import random_answer
from omgbench.testing.shapes import full_rle


def fixed_vocabulary() -> ScriptedModel:
    def answer(request: Request) -> Response:
        if request.intent is Intent.PANOPTIC:
            return Response(request.id, Status.UNSUPPORTED, error="another vocabulary")
        return random_answer(request)

    return ScriptedModel(answer, replace(weightless_capabilities(), vocabulary="fixed"))


def one_intent(intent: Intent) -> Callable[[], ScriptedModel]:
    capabilities = Capabilities(
        frozenset({intent}),
        prompt_kinds=frozenset({"point"}),
        vocabulary="open" if intent is Intent.PANOPTIC else None,
    )
    return lambda: ScriptedModel(random_answer, capabilities)


class DrawsAnew(WeightlessModel):
    """Answers at random, and says so."""

    numbers = count()

    def capabilities(self) -> Capabilities:
        return replace(weightless_capabilities(), deterministic=False)

    def answer(self, request: Request) -> Response:
        return random_answer(request, seed=next(self.numbers))


@pytest.mark.parametrize(
    "factory",
    [
        BlankModel,
        RandomModel,
        WholeImageModel,
        LargestObjectModel,
        PerfectModel,
        CrashingModel,
        DrawsAnew,
        fixed_vocabulary,
        lambda: ScriptedModel(random_answer),
        lambda: SlowModel(0.0),
        *map(one_intent, Intent),
    ],
)
def test_good_models_pass(factory: Callable[[], Model]) -> None:
    report = check_model(factory)
    report.raise_for_failures()
    assert report.ok
    assert {"masks", "ids", "order", "offline", "reload", "frees memory"} <= {check.name for check in report.checks}


def test_a_model_object_is_closed_and_loaded_again() -> None:
    calls: list[str] = []

    class Noting(RandomModel):
        def load(self, placement: Placement) -> None:
            calls.append("load")

        def close(self) -> None:
            calls.append("close")

    report = check_model(Noting())
    assert report.ok
    assert report["frees memory"].skipped
    assert calls == ["load", "close", "load", "close"]


def test_online_the_network_is_not_watched() -> None:
    reached: list[bool] = []

    class Asking(RandomModel):
        def load(self, placement: Placement) -> None:
            reached.append(socket.getaddrinfo.__module__ == "socket" and not placement.offline)

    report = check_model(Asking, placement=Placement(offline=False))
    report.raise_for_failures()
    assert reached == [True, True]
    assert "offline" not in {check.name for check in report.checks}


def test_only_the_wished_intents_are_tried() -> None:
    asked: set[Intent] = set()

    def answer(request: Request) -> Response:
        asked.add(request.intent)
        return random_answer(request)

    assert check_model(lambda: ScriptedModel(answer), intents={Intent.CHAT, Intent.REFER_BOX}).ok
    assert asked == {Intent.CHAT, Intent.REFER_BOX}


def test_every_odd_picture_reaches_a_model_that_reads() -> None:
    seen: dict[str, tuple[int, int]] = {}

    class Reading(PerRequestModel):
        def capabilities(self) -> Capabilities:
            return Capabilities(frozenset({Intent.CHAT}), max_frames=2)

        def identity(self) -> ModelIdentity:
            return ModelIdentity("reading", "1", "none")

        def answer(self, request: Request) -> Response:
            for frame in request.frames:
                assert isinstance(frame.source, bytes)
                seen[frame.key] = (frame.width, frame.height)
            return Response(request.id, text=f"{len(request.frames)}")

    check_model(Reading).raise_for_failures()
    assert {(1, 1), (3, 500), (640, 480)} <= set(seen.values())
    assert {"L-64x48", "RGBA-64x48", "I;16-64x48", "P-64x48", "pair-0", "broken"} <= set(seen)


# --- models that break one rule each -------------------------------------------------------------------------------


class Broken(RandomModel):
    """Answers well but for `spoil`, which sees every request with its answer."""

    def spoil(self, request: Request, answer: Response) -> Response:
        return answer

    def answer(self, request: Request) -> Response:
        return self.spoil(request, super().answer(request))


def spoiling(spoil: Callable[[Request, Response], Response]) -> Callable[[], WeightlessModel]:
    return lambda: ScriptedModel(lambda request: spoil(request, random_answer(request)))


def wrong_size(request: Request, answer: Response) -> Response:
    return replace(answer, masks=tuple(replace(mask, rle=full_rle((7, 7))) for mask in answer.masks))


def torn_runs(request: Request, answer: Response) -> Response:
    return replace(answer, masks=tuple(replace(mask, rle=Rle(mask.rle.size, "0")) for mask in answer.masks))


def boxes_of_nothing(request: Request, answer: Response) -> Response:
    return replace(answer, boxes=tuple(Box((math.nan, *box.xyxy[1:])) for box in answer.boxes))


def shifted_spans(request: Request, answer: Response) -> Response:
    return replace(answer, spans=tuple(Span(s.phrase, (s.start or 0) + 1, (s.end or 0) + 1) for s in answer.spans))


def overlapping(request: Request, answer: Response) -> Response:
    if request.intent is not Intent.PANOPTIC:
        return answer
    masks = tuple(full_rle((frame.height, frame.width)) for frame in request.frames)
    return Response(request.id, panoptic=PanopticResult((PanopticSegment(1, 1, masks), PanopticSegment(2, 3, masks))))


def positive_choices(request: Request, answer: Response) -> Response:
    return replace(answer, choices=tuple(replace(choice, sum_logprob=1.0) for choice in answer.choices))


def numpy_scores(request: Request, answer: Response) -> Response:
    return replace(answer, masks=tuple(replace(mask, score=np.float32(0.5)) for mask in answer.masks))


def lists_for_tuples(request: Request, answer: Response) -> Response:
    return replace(answer, spans=list(answer.spans))


def bytes_for_text(request: Request, answer: Response) -> Response:
    return replace(answer, text=(answer.text or "").encode())


def plain_status(request: Request, answer: Response) -> Response:
    return replace(answer, status="ok")


def never_boxes(request: Request, answer: Response) -> Response:
    return Response(request.id, Status.UNSUPPORTED) if request.intent is Intent.REFER_BOX else answer


def one_pixel_fails(request: Request, answer: Response) -> Response:
    too_small = any(frame.width == 1 for frame in request.frames)
    return Response(request.id, Status.ERROR, error="too small") if too_small else answer


def no_scribbles(request: Request, answer: Response) -> Response:
    scribbled = any(prompt.kind == "scribble" for prompt in request.prompts)
    return Response(request.id, Status.ERROR, error="what is that?") if scribbled else answer


def no_clips(request: Request, answer: Response) -> Response:
    return Response(request.id, Status.ERROR, error="moving pictures") if request.is_clip else answer


def no_history(request: Request, answer: Response) -> Response:
    return Response(request.id, Status.ERROR, error="I forgot") if request.history else answer


class LabelledMask(Mask):
    """A mask that carries more than the contract knows."""


def labelled_masks(request: Request, answer: Response) -> Response:
    return replace(answer, masks=tuple(LabelledMask(mask.rle) for mask in answer.masks))


class Claiming(Broken):
    """Says something else about itself."""

    claim: dict[str, Any] = {}  # noqa: RUF012

    def capabilities(self) -> Capabilities:
        return replace(weightless_capabilities(), **self.claim)


def claiming(**claim: Any) -> Callable[[], WeightlessModel]:
    return type("Claiming", (Claiming,), {"claim": claim})


class RefusesNothing(Capabilities):
    def refusal(self, request: Request) -> str | None:
        return None


class AnswersTheUndeclared(Broken):
    def capabilities(self) -> Capabilities:
        return RefusesNothing(frozenset({Intent.CHAT}), reads_images=False)


class ChangesItsMind(Broken):
    loaded = False

    def load(self, placement: Placement) -> None:
        self.loaded = True

    def capabilities(self) -> Capabilities:
        return replace(weightless_capabilities(), max_frames=4 if self.loaded else 8)


class Nameless(Broken):
    def identity(self) -> ModelIdentity:
        return ModelIdentity("", "1", "none")


class NumbersInOptions(Broken):
    def identity(self) -> ModelIdentity:
        return ModelIdentity("x", "1", "none", options={"threshold": 0.5})


class RestlessIdentity(Broken):
    numbers = count()

    def identity(self) -> ModelIdentity:
        return ModelIdentity("x", str(next(self.numbers)), "none")


class AnotherAfterReload(Broken):
    loads = count()

    def load(self, placement: Placement) -> None:
        self.version = str(next(self.loads))

    def identity(self) -> ModelIdentity:
        return ModelIdentity("x", self.version, "none")


class CannotReload(Broken):
    loads = count()

    def load(self, placement: Placement) -> None:
        if next(self.loads) % 2:
            raise RuntimeError("the device is still taken")


class CannotLoad(Broken):
    def load(self, placement: Placement) -> None:
        raise RuntimeError("no such checkpoint")


class CannotBeBuilt(Broken):
    def __init__(self) -> None:
        raise RuntimeError("an argument is needed")


class CannotClose(Broken):
    def close(self) -> None:
        raise RuntimeError("closed already")


class ForgetsOne(Broken):
    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        return map(self.answer, requests[:2])


class AnswersTwice(Broken):
    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        for request in requests:
            yield self.answer(request)
            yield self.answer(request)


class AnswersByPosition(Broken):
    """Hands the answers of a batch out in a fixed order of ids."""

    def respond(self, requests: Sequence[Request]) -> Iterable[Response]:
        answers = [self.answer(request) for request in sorted(requests, key=lambda request: request.id)]
        return [replace(answer, id=request.id) for answer, request in zip(answers, requests, strict=True)]


class YieldsText(Broken):
    def respond(self, requests: Sequence[Request]) -> Iterable[Any]:
        return [request.text for request in requests]


class SeesTheBatch(Broken):
    """Its text tells how large the batch is, as padding would."""

    def respond(self, requests: Sequence[Request]) -> Iterable[Response]:
        return [replace(self.answer(request), text=f"{len(requests)}", spans=()) for request in requests]


class Counts(Broken):
    numbers = count()

    def answer(self, request: Request) -> Response:
        return Response(request.id, text=str(next(self.numbers)))


class Raises(Broken):
    def answer(self, request: Request) -> Response:
        if request.intent is Intent.REFER_BOX:
            raise ValueError("no box head")
        return super().answer(request)


class DiesOfLongText(Broken):
    def answer(self, request: Request) -> Response:
        if len(request.text or "") > 10_000:
            raise ValueError("context is full")
        return super().answer(request)


class DiesOfNoText(Broken):
    def answer(self, request: Request) -> Response:
        if request.text == "":
            raise ValueError("nothing to tokenise")
        return super().answer(request)


class DiesOfBrokenPicture(Broken):
    def answer(self, request: Request) -> Response:
        if any(frame.key == "broken" for frame in request.frames):
            raise OSError("cannot identify image")
        return super().answer(request)


class PoisonSpreads(Broken):
    def respond(self, requests: Sequence[Request]) -> Iterable[Response]:
        if any(len(request.text or "") > 10_000 for request in requests):
            return [Response(request.id, Status.ERROR, error="batch lost") for request in requests]
        return super().respond(requests)


class OpensPictures(Broken):
    def answer(self, request: Request) -> Response:
        for frame in request.frames:
            if callable(frame.source):
                frame.source()
        return super().answer(request)


class PhonesHome(Broken):
    def load(self, placement: Placement) -> None:
        try:
            socket.create_connection(("hub.example", 443), timeout=1)
        except OSError:
            return


class DialsANumber(Broken):
    def answer(self, request: Request) -> Response:
        with socket.socket() as line:
            line.settimeout(0.01)
            line.connect_ex(("192.0.2.1", 443))
        return super().answer(request)


BROKEN: list[tuple[Callable[[], WeightlessModel], str, str]] = [
    (spoiling(wrong_size), "masks", "expected (height, width)"),
    (spoiling(torn_runs), "masks", "add up"),
    (spoiling(numpy_scores), "masks", "expected a Python number"),
    (spoiling(boxes_of_nothing), "boxes", "finite"),
    (spoiling(shifted_spans), "spans", "text["),
    (spoiling(lists_for_tuples), "spans", "expected a tuple"),
    (spoiling(overlapping), "panoptic", "overlap"),
    (spoiling(positive_choices), "choices", "at most 0"),
    (spoiling(bytes_for_text), "text", "expected str"),
    (spoiling(plain_status), "response", "expected an omgbench.contract.Status"),
    (spoiling(labelled_masks), "json", "another answer"),
    (spoiling(never_boxes), "answers refer_box", "unsupported"),
    (spoiling(one_pixel_fails), "odd frames", "too small"),
    (spoiling(no_scribbles), "reads scribble prompts", "what is that?"),
    (spoiling(no_clips), "clips", "moving pictures"),
    (spoiling(no_history), "conversations", "I forgot"),
    (claiming(intents=frozenset()), "capabilities", "at least one Intent"),
    (claiming(prompt_kinds=frozenset()), "capabilities", "needs a prompt"),
    (claiming(vocabulary=None), "capabilities", "vocabulary"),
    (claiming(max_frames=0), "capabilities", "max_frames is 0"),
    (claiming(sees_references=True), "capabilities", "sees_references"),
    (claiming(mask_source="none"), "capabilities", "mask_source is none"),
    (ChangesItsMind, "capabilities", "change with load"),
    (AnswersTheUndeclared, "undeclared intents", "neither refused"),
    (Nameless, "identity", "name"),
    (NumbersInOptions, "identity", "options"),
    (RestlessIdentity, "identity", "two calls"),
    (AnotherAfterReload, "identity", "after close and load"),
    (CannotReload, "reload", "still taken"),
    (CannotLoad, "load", "no such checkpoint"),
    (CannotBeBuilt, "raises nothing", "an argument is needed"),
    (CannotClose, "close", "closed already"),
    (ForgetsOne, "ids", "no answer to"),
    (AnswersTwice, "ids", "twice"),
    (YieldsText, "ids", "expected a Response"),
    (AnswersByPosition, "order", ""),
    (SeesTheBatch, "batch 1 equals batch 3", "text"),
    (Counts, "repeat", "text"),
    (Raises, "raises nothing", "no box head"),
    (DiesOfLongText, "poisoned long text", "context is full"),
    (DiesOfNoText, "poisoned empty text", "nothing to tokenise"),
    (DiesOfBrokenPicture, "poisoned frame", "cannot identify image"),
    (PoisonSpreads, "poisoned long text", "neighbour"),
    (OpensPictures, "reads no images", "opened"),
    (PhonesHome, "offline", "hub.example"),
    (DialsANumber, "offline", "192.0.2.1"),
    (lambda: CrashingModel("unknown_id", every=2), "ids", "was not asked"),
    (lambda: CrashingModel("duplicate", every=2), "ids", "twice"),
    (lambda: CrashingModel("nothing", every=2), "ids", "no answer"),
    (lambda: CrashingModel("raise", every=2), "raises nothing", "made crash"),
    (lambda: CrashingModel("bad_span", every=2), "spans", "outside the text"),
    (lambda: CrashingModel("wrong_size", every=2), "masks", "size"),
]


@pytest.mark.parametrize(
    ("factory", "check", "detail"),
    BROKEN,
    ids=[f"{index}-{check}".replace(" ", "-") for index, (_, check, _) in enumerate(BROKEN)],
)
def test_the_broken_rule_is_named(factory: Callable[[], WeightlessModel], check: str, detail: str) -> None:
    report = check_model(factory)
    assert check in {failure.name for failure in report.failures}, str(report)
    assert detail in report[check].detail
    with pytest.raises(AssertionError, match="FAIL"):
        report.raise_for_failures()


KEPT: list[Broken] = []


class StaysInMemory(Broken):
    def load(self, placement: Placement) -> None:
        KEPT.append(self)


def test_a_model_that_stays_in_memory_is_told() -> None:
    report = check_model(StaysInMemory)
    KEPT.clear()
    assert report.ok
    assert "still referenced" in report["frees memory"].detail
    assert report["frees memory"].passed


def test_a_wrong_mask_alone_does_not_fail_the_rest() -> None:
    report = check_model(spoiling(wrong_size))
    assert {failure.name for failure in report.failures} <= {
        "masks",
        "poisoned frame",
        "poisoned long text",
        "poisoned empty text",
    }


def test_scores_may_tremble_but_masks_may_not() -> None:
    trembling = count()

    def tremble(request: Request, answer: Response) -> Response:
        masks = tuple(Mask(m.rle, 0.5 + next(trembling) * 1e-9, m.frame, m.track) for m in answer.masks)
        return replace(answer, masks=masks)

    assert check_model(spoiling(tremble)).ok

    def jump(request: Request, answer: Response) -> Response:
        return replace(answer, masks=tuple(replace(m, score=float(next(trembling))) for m in answer.masks))

    assert not check_model(spoiling(jump)).ok


def test_no_frame_of_the_check_is_a_file() -> None:
    def answer(request: Request) -> Response:
        assert not any(isinstance(frame.source, Path) for frame in request.frames)
        return random_answer(request)

    assert check_model(lambda: ScriptedModel(answer)).ok
