"""Models without weights: the right answer, no answer, a random one, the whole picture, and ones that misbehave.

The first four are registered like any other model and give every benchmark its ceiling and its floors; the others
are for tests. None of them opens a picture (`omgbench.testing.largest_object` does).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Literal, get_args

from omgbench import __version__
from omgbench.contract import (
    Box,
    Capabilities,
    Intent,
    Mask,
    MaskSource,
    ModelIdentity,
    PanopticResult,
    Placement,
    PromptKind,
    Request,
    Response,
    Span,
    Status,
)
from omgbench.testing.random_answers import random_answer
from omgbench.testing.shapes import full_rle

MANY_FRAMES = 1_000_000


def weightless_capabilities(mask_source: MaskSource = "native", sees_references: bool = False) -> Capabilities:
    """Capabilities of a model that answers everything and looks at nothing."""
    return Capabilities(
        intents=frozenset(Intent),
        prompt_kinds=frozenset(get_args(PromptKind)),
        max_frames=MANY_FRAMES,
        clips=True,
        history=True,
        vocabulary="open",
        native_batch=True,
        mask_source=mask_source,
        language_model=False,
        reads_images=False,
        sees_references=sees_references,
    )


class WeightlessModel:
    """Base of the models here: everything of the contract but the answers.

    Subclasses set `name` and write `answer`; constructor arguments that change answers go into `options`.
    """

    name = "weightless"

    def __init__(self, **options: object) -> None:
        self._options = {key: str(value) for key, value in options.items()}

    def capabilities(self) -> Capabilities:
        """Every intent, without looking."""
        return weightless_capabilities()

    def load(self, placement: Placement) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to free."""

    def identity(self) -> ModelIdentity:
        """The name, omgbench's version and the constructor's arguments."""
        return ModelIdentity(self.name, __version__, "none", options=self._options)

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Answer each request by `answer`, in order."""
        return map(self.answer, requests)

    def answer(self, request: Request) -> Response:
        """Answer one request."""
        raise NotImplementedError


class PerfectModel(WeightlessModel):
    """Gives back the perfect answers it is told: what a benchmark's numbers look like when nothing is wrong."""

    name = "perfect"

    def capabilities(self) -> Capabilities:
        """Every intent, and told the right answer."""
        return weightless_capabilities(sees_references=True)

    def answer(self, request: Request) -> Response:
        """Without references there is nothing to give: an error that says so."""
        problem = "the perfect model needs references: run it on a task that has perfect_answer"
        return Response(request.id, Status.ERROR, error=problem)

    def respond_with_references(
        self, requests: Sequence[Request], references: Sequence[Response]
    ) -> Iterator[Response]:
        """The references themselves."""
        for request, reference in zip(requests, references, strict=True):
            yield reference if reference.id == request.id else replace(reference, id=request.id)


class BlankModel(WeightlessModel):
    """Says nothing: status `empty` and the empty text, whatever is asked."""

    name = "blank"

    def capabilities(self) -> Capabilities:
        """Every intent, never a mask."""
        return weightless_capabilities(mask_source="none")

    def answer(self, request: Request) -> Response:
        """Nothing."""
        return blank_answer(request)


class RandomModel(WeightlessModel):
    """Well-formed answers drawn from (seed, request id) alone: a floor, and food for anything that reads answers.

    Args:
        seed: other answers for the same requests.
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = int(seed)
        super().__init__(seed=self.seed)

    def answer(self, request: Request) -> Response:
        """See `omgbench.testing.random_answers`."""
        return random_answer(request, self.seed)


class WholeImageModel(WeightlessModel):
    """Answers "all of it": the mask or box of every pixel wherever one thing is asked for, else nothing.

    The floor of referring segmentation: a model below it has learned nothing about where things are.
    """

    name = "whole_image"

    def answer(self, request: Request) -> Response:
        """The whole first frame; on a clip the whole of every frame."""
        frames = request.frames if request.is_clip else request.frames[:1]
        if request.intent in (Intent.REFER_SEGMENT, Intent.INTERACTIVE):
            track = 1 if request.is_clip else None
            masks = (
                Mask(full_rle((frame.height, frame.width)), frame=index, track=track)
                for index, frame in enumerate(frames)
            )
            return Response(request.id, text="", masks=tuple(masks))
        if request.intent is Intent.REFER_BOX:
            boxes = (
                Box((0.0, 0.0, float(frame.width), float(frame.height)), frame=index)
                for index, frame in enumerate(frames)
            )
            return Response(request.id, text="", boxes=tuple(boxes))
        return blank_answer(request)


class ScriptedModel(WeightlessModel):
    """Answers as it is told: by request id, or by a function.

    Args:
        answers: a response for each request id, or a function from request to response. A request without an entry
            is answered with status `missing`. Responses are passed on as they are, broken ones too.
        capabilities: what it claims to be able to do; everything by default.
    """

    name = "scripted"

    def __init__(
        self,
        answers: Mapping[str, Response] | Callable[[Request], Response],
        capabilities: Capabilities | None = None,
    ) -> None:
        super().__init__()
        self._answers = answers
        self._capabilities = capabilities or weightless_capabilities()

    def capabilities(self) -> Capabilities:
        """As given to the constructor."""
        return self._capabilities

    def answer(self, request: Request) -> Response:
        """Look the answer up, or ask the function for it."""
        if isinstance(self._answers, Mapping):
            missing = Response(request.id, Status.MISSING, error="no answer is scripted for this request")
            return self._answers.get(request.id, missing)
        return self._answers(request)


class OutOfMemoryError(RuntimeError):
    """Named like torch's, by which the contract tells it from other errors."""


Crash = Literal["raise", "oom", "exit", "wrong_size", "unknown_id", "duplicate", "nothing", "bad_span"]


class CrashingModel(WeightlessModel):
    """Answers like `RandomModel`, but misbehaves on some requests.

    Args:
        how: `raise` and `oom` raise when the request is reached, answers before it in the batch already given; `exit`
            ends the process at once; `wrong_size` and `bad_span` answer against the rules; `unknown_id` answers
            another id; `duplicate` answers twice; `nothing` does not answer.
        crash_ids: ids of the requests, comma-separated or a sequence.
        every: about one in so many requests, chosen by its id; 0 = none.
        above_batch: misbehave only in batches of more requests than this.
    """

    name = "crashing"

    def __init__(
        self, how: Crash = "raise", crash_ids: str | Sequence[str] = (), every: int = 0, above_batch: int = 0
    ) -> None:
        if how not in get_args(Crash):
            raise ValueError(f"how is {how!r}, expected one of: {', '.join(get_args(Crash))}")
        self.how = how
        self.crash_ids = frozenset(crash_ids.split(",") if isinstance(crash_ids, str) else crash_ids)
        self.every = int(every)
        self.above_batch = int(above_batch)
        ids = ",".join(sorted(self.crash_ids))
        super().__init__(how=how, crash_ids=ids, every=self.every, above_batch=self.above_batch)

    def crashes_on(self, request_id: str) -> bool:
        """Whether this request makes it misbehave."""
        if request_id in self.crash_ids:
            return True
        return self.every > 0 and int.from_bytes(sha256(request_id.encode()).digest()[:4]) % self.every == 0

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Answer in order until a chosen request is reached."""
        for request in requests:
            if len(requests) > self.above_batch and self.crashes_on(request.id):
                yield from self._misbehave(request)
            else:
                yield random_answer(request)

    def _misbehave(self, request: Request) -> Iterable[Response]:
        answer = random_answer(request)
        match self.how:
            case "raise":
                raise RuntimeError(f"made crash on {request.id}")
            case "oom":
                raise OutOfMemoryError(f"made shortage of memory on {request.id}")
            case "exit":
                os._exit(1)
            case "wrong_size":
                frame = request.frames[0]
                return [replace(answer, masks=(Mask(full_rle((frame.height + 1, frame.width))),), spans=())]
            case "unknown_id":
                return [replace(answer, id=f"{request.id}/unknown")]
            case "duplicate":
                return [answer, answer]
            case "nothing":
                return []
            case "bad_span":
                return [replace(answer, text="short", spans=(Span("beyond the end", 100, 114),))]


class SlowModel(WeightlessModel):
    """Sleeps over every batch, then answers like `BlankModel`.

    Args:
        seconds_per_batch: how long.
    """

    name = "slow"

    def __init__(self, seconds_per_batch: float = 0.1) -> None:
        self.seconds_per_batch = float(seconds_per_batch)
        super().__init__(seconds_per_batch=self.seconds_per_batch)

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Nothing, late."""
        time.sleep(self.seconds_per_batch)
        return map(blank_answer, requests)


def blank_answer(request: Request) -> Response:
    """The answer that holds nothing: status `empty`, the empty text."""
    panoptic = PanopticResult(()) if request.intent is Intent.PANOPTIC else None
    return Response(request.id, Status.EMPTY, text="", panoptic=panoptic)
