"""What a model answers, and the statuses an answer can have."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from omgbench.contract.geometry import Box, Mask, Rle


class Status(StrEnum):
    """How a request ended, and how that is scored.

    | status      | meaning                                        | scored as                                  |
    |-------------|------------------------------------------------|--------------------------------------------|
    | ok          | answered                                       | given                                      |
    | empty       | ran, found nothing                             | given: IoU 0, or right for a no-target one |
    | refused     | the model declined                             | given, counted                             |
    | truncated   | cut off at the token limit                     | given, counted                             |
    | unsupported | the model cannot do this kind of request       | not at all: the cell is left out, with why |
    | error       | the model raised, or its answer broke a rule   | worst case; the result is incomplete       |
    | timeout     | no answer in time                              | worst case; the result is incomplete       |
    | missing     | the model gave no answer to this request       | worst case; the result is incomplete       |
    """

    OK = "ok"
    EMPTY = "empty"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"
    ERROR = "error"
    TIMEOUT = "timeout"
    MISSING = "missing"

    @property
    def failed(self) -> bool:
        """Scored as the worst case, and the result is incomplete."""
        return self in (Status.ERROR, Status.TIMEOUT, Status.MISSING)


@dataclass(frozen=True, slots=True)
class Span:
    """A phrase of the answer and what it is grounded in.

    Attributes:
        phrase: the words, without tags.
        start, end: character offsets of the phrase in `Response.text`, end exclusive; both None where the place in
            the text is not known (imported predictions list phrases only).
        masks: indices into `Response.masks`.
        boxes: indices into `Response.boxes`.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    phrase: str
    start: int | None = None
    end: int | None = None
    masks: tuple[int, ...] = ()
    boxes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PanopticSegment:
    """One segment of a panoptic answer.

    Attributes:
        id: positive, unique in the answer; the same object keeps it over the frames of a clip.
        category_id: an id of `Request.vocabulary`.
        masks: one entry per frame, None where the segment is not visible. Segments of one frame do not overlap.
        score: confidence or None.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    id: int
    category_id: int
    masks: tuple[Rle | None, ...]
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PanopticResult:
    """A panoptic answer for one image or clip. Pixels of no segment are unlabelled (VOID)."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    segments: tuple[PanopticSegment, ...]


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """Log-likelihood of one choice given the prompt, natural logarithm, from a float32 log-softmax.

    Attributes:
        sum_logprob: sum over the choice's tokens, at most 0.
        n_tokens: number of tokens summed, at least 1.
        n_chars: number of characters of the choice.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    sum_logprob: float
    n_tokens: int
    n_chars: int


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to one request.

    Attributes:
        id: the request's id.
        status: see `Status`.
        text: the answer for people: no special tokens, no tags. Span offsets refer to it.
        raw_text: what the model really wrote, special tokens kept.
        masks, boxes: in the order of the answer.
        spans: grounded phrases in the order of the answer.
        panoptic: answer to a panoptic request.
        choices: one score per `Request.choices`, same order.
        error: one line saying what went wrong (statuses error, timeout, unsupported, missing).
        usage: counts such as `input_tokens`, `output_tokens`.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    id: str
    status: Status = Status.OK
    text: str | None = None
    raw_text: str | None = None
    masks: tuple[Mask, ...] = ()
    boxes: tuple[Box, ...] = ()
    spans: tuple[Span, ...] = ()
    panoptic: PanopticResult | None = None
    choices: tuple[ChoiceScore, ...] = ()
    error: str | None = None
    usage: dict[str, float] = field(default_factory=dict)
