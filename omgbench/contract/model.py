"""The role of a model: declare, load, answer batches, say exactly what it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from omgbench.contract.request import Intent, PromptKind, Request
from omgbench.contract.response import Response, Status

MaskSource = Literal["native", "polygon", "vq_tokens", "box_to_mask", "none"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do. Requests outside it are never sent; their cell of the table is left out, saying why.

    Attributes:
        intents: kinds of request it answers.
        prompt_kinds: visual prompts it reads.
        max_frames: most pictures of one request that is not a clip; 1 = single images only.
        clips: reads `Request.is_clip` as a video, of any length.
        history: continues a conversation.
        vocabulary: "open" takes any label space, "fixed" only its own, None = no panoptic.
        native_batch: a batch is computed together; otherwise `batch_size` is only a hint.
        deterministic: the same request gives the same answer whatever stands beside it in the batch, but for the last
            bit of a sum, which may move a pixel on the border of a mask.
        mask_source: how masks come about; a column of every table.
        language_model: a language model reads the request ("no" marks plain detectors and segmenters).
        reads_images: False for saved predictions and models that look at nothing: pictures need not be there.
        sees_references: True only for test models that are given the right answer; marked in every table.
    """

    intents: frozenset[Intent]
    prompt_kinds: frozenset[PromptKind] = frozenset()
    max_frames: int = 1
    clips: bool = False
    history: bool = False
    vocabulary: Literal["open", "fixed"] | None = None
    native_batch: bool = False
    deterministic: bool = True
    mask_source: MaskSource = "native"
    language_model: bool = True
    reads_images: bool = True
    sees_references: bool = False

    def refusal(self, request: Request) -> str | None:
        """Why this request cannot be answered, or None when it can."""
        if request.intent not in self.intents:
            return f"does not answer {request.intent.value} requests"
        unread = {prompt.kind for prompt in request.prompts} - self.prompt_kinds
        if unread:
            return f"does not read {', '.join(sorted(unread))} prompts"
        if request.is_clip and not self.clips:
            return "does not read video clips"
        if len(request.frames) > self.max_frames and not request.is_clip:
            return f"reads at most {self.max_frames} frame(s), the request has {len(request.frames)}"
        if request.history and not self.history:
            return "does not continue conversations"
        return None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model is to be loaded. Only adapters touch devices.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1", "mps". With "auto" and several devices, take number
            `worker % count`.
        dtype: "auto" = the checkpoint's own; else "float32", "bfloat16", "float16".
        offline: nothing may be fetched.
        worker: number of this worker process, from 0.
    """

    device: str = "auto"
    dtype: str = "auto"
    offline: bool = True
    worker: int = 0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Exactly which model answered. Two runs may share answers only when this is equal, adapter code included
    (the runner adds the code's hash).

    Attributes:
        name: name for tables.
        version: version of the adapter.
        weights: hash or revision of the weights; "none" for weightless models.
        templates: prompt wordings that decide the answer, by name.
        options: everything else that changes answers (mask policy, thresholds, back ends).
        libraries: versions of the libraries that compute the answer.
    """

    name: str
    version: str
    weights: str
    templates: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)


class ModelDied(Exception):
    """Raised by `respond` when the model cannot answer anything any more: a broken accelerator context, a server that
    is gone. A worker process is then started anew and its requests asked again, one by one; without workers the run
    stops with every answer kept."""


class Model(Protocol):
    """An adapter. Life: construct (cheap, no weights), `capabilities`, `load`, `identity`, `respond`*, `close`.

    `capabilities` may be asked before `load`. `load` may return the placement really used ("auto" made definite), for
    the record. `respond` takes a batch and yields one response per request, in any order, matched by id; it answers
    `Status.ERROR` for a request that fails by itself. Should it raise all the same, the runner halves the batch until
    the poisoned request stands alone; `ModelDied` is for a model that is of no use any more. Everything it yields is
    checked: a mask of the wrong size, a span outside the text or an unknown id becomes an error of that request.
    """

    def capabilities(self) -> Capabilities: ...

    def load(self, placement: Placement) -> Placement | None: ...

    def identity(self) -> ModelIdentity: ...

    def respond(self, requests: Sequence[Request]) -> Iterable[Response]: ...

    def close(self) -> None: ...


@runtime_checkable
class SeesReferences(Protocol):
    """A test model that is told the right answer; its capabilities must say `sees_references`."""

    def respond_with_references(
        self, requests: Sequence[Request], references: Sequence[Response]
    ) -> Iterable[Response]: ...


@runtime_checkable
class HasCheckpoints(Protocol):
    """A model with weights in files: `omgbench model convert` and `omgbench model info` call these."""

    @staticmethod
    def convert(arguments: Sequence[str]) -> int:
        """Make what `load` reads from the files that the model's authors publish. The exit code.

        Args:
            arguments: words of a command line; `--help` explains them.
        """
        ...

    def describe(self) -> Mapping[str, str]:
        """What the weights are and whether they are whole, told without loading them."""
        ...


@runtime_checkable
class HasTraining(Protocol):
    """A model that can be trained: `omgbench train` calls these."""

    @staticmethod
    def recipes() -> Mapping[str, str]:
        """The recipes that come along: name to one line that says what it makes."""
        ...

    @staticmethod
    def train(arguments: Sequence[str]) -> int:
        """Train by a recipe. The exit code: 0 at the end, 3 where it stopped before and can go on.

        Args:
            arguments: words of a command line, the recipe's name or file first; `--help` explains them.
        """
        ...


class PerRequestModel:
    """Base for adapters that answer one request at a time: write `answer`, `capabilities` and `identity`.

    An exception of `answer` becomes an error of that request alone; running out of memory is passed on, so that the
    runner can react.
    """

    def load(self, placement: Placement) -> Placement | None:
        """Nothing to load."""
        return None

    def close(self) -> None:
        """Nothing to free."""

    def answer(self, request: Request) -> Response:
        """Answer one request. May raise."""
        raise NotImplementedError

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Answer each request by `answer`, in order."""
        for request in requests:
            try:
                yield self.answer(request)
            except (MemoryError, ModelDied):
                raise
            except Exception as error:
                if type(error).__name__ == "OutOfMemoryError":
                    raise
                yield Response(request.id, Status.ERROR, error=f"{type(error).__name__}: {error}")
