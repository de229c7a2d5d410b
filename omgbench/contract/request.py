"""What a model is asked: frames, visual prompts, text, options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omgbench.contract.geometry import BoxXyxy, PointXy, Rle

if TYPE_CHECKING:
    from PIL.Image import Image


class Intent(StrEnum):
    """What kind of answer a request wants."""

    CHAT = "chat"
    """Text about the frames."""
    REFER_SEGMENT = "refer_segment"
    """The mask of the thing that `Request.text` names."""
    REFER_BOX = "refer_box"
    """The box of the thing that `Request.text` names."""
    GROUNDED_CAPTION = "grounded_caption"
    """A description whose phrases carry masks or boxes (`Response.spans`)."""
    REGION_CAPTION = "region_caption"
    """Text about the region that `Request.prompts` points at."""
    PANOPTIC = "panoptic"
    """Every pixel of the image or clip, as segments of `Request.vocabulary`."""
    INTERACTIVE = "interactive"
    """The mask of the object that `Request.prompts` points at."""
    SCORE_CHOICES = "score_choices"
    """The log-likelihood of each of `Request.choices` as the answer to `Request.text`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image, decoded only when somebody looks at it.

    Attributes:
        key: stable name of the picture, equal for every request about it. The runner adds a digest of the bytes when it
            reads them, so a model may cache features by it: one key is one picture, whatever the task.
        width, height: original size in pixels, as the annotation states it. A file of another size is an error.
        source: where the bytes are: a file, the encoded bytes themselves, or a function that returns them.
        decoded: the runner puts the picture here ahead of time; tasks leave it None.
    """

    key: str
    width: int
    height: int
    source: Path | bytes | Callable[[], bytes] = field(repr=False, compare=False)
    decoded: Image | None = field(default=None, repr=False, compare=False)

    @property
    def image(self) -> Image:
        """The picture as PIL RGB, `(width, height)`, 8 bit, without any rotation by EXIF: annotations rest on the
        stored pixels. Raises `omgbench.errors.DataError` for an unreadable, oversized or wrongly sized image.
        """
        if self.decoded is not None:
            return self.decoded
        from omgbench.data.images import decode_frame

        return decode_frame(self)


@dataclass(frozen=True, slots=True)
class PointPrompt:
    """A click. `positive` False marks background."""

    xy: PointXy
    positive: bool = True
    frame: int = 0
    kind: Literal["point"] = "point"


@dataclass(frozen=True, slots=True)
class BoxPrompt:
    """A box drawn by the user."""

    xyxy: BoxXyxy
    frame: int = 0
    kind: Literal["box"] = "box"


@dataclass(frozen=True, slots=True)
class MaskPrompt:
    """A region given as a mask of the frame's own size."""

    rle: Rle
    frame: int = 0
    kind: Literal["mask"] = "mask"


@dataclass(frozen=True, slots=True)
class ScribblePrompt:
    """A stroke as a polyline of at least two points."""

    points_xy: tuple[PointXy, ...]
    positive: bool = True
    frame: int = 0
    kind: Literal["scribble"] = "scribble"


VisualPrompt = PointPrompt | BoxPrompt | MaskPrompt | ScribblePrompt
PromptKind = Literal["point", "box", "mask", "scribble"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Category:
    """One entry of a panoptic label space. `id` is the benchmark's own number; thing = countable."""

    id: int
    name: str
    is_thing: bool


@dataclass(frozen=True, slots=True)
class GenOptions:
    """How text is generated. The default is greedy, so that a run can be repeated.

    Attributes:
        max_new_tokens: at least 1.
        temperature: 0 = greedy; above 0 samples with `seed`.
        num_beams: 1 = no beam search.
        stop: strings that end the answer.
        seed: seed of sampling.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    num_beams: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    Attributes:
        id: unique within task, subset and split; the answer carries it back.
        intent: what is wanted.
        frames: one image; several images; or, with `is_clip`, the frames of one video in order.
        text: the referring expression, the question, or None where the intent alone says it all.
        template: the prompt wording to use instead of the model's own, `{text}` standing for `text`; None leaves the
            wording to the model. Use `prompt()` to fill it in.
        prompts: regions that the user points at, in the order in which the text speaks of them.
        history: earlier turns, oldest first.
        choices: the answers to score (intent `score_choices`).
        vocabulary: label space (intent `panoptic`).
        gen: generation options.
        is_clip: the frames are one video.
    """

    id: str
    intent: Intent
    frames: tuple[Frame, ...]
    text: str | None = None
    template: str | None = None
    prompts: tuple[VisualPrompt, ...] = ()
    history: tuple[Turn, ...] = ()
    choices: tuple[str, ...] = ()
    vocabulary: tuple[Category, ...] = ()
    gen: GenOptions = GenOptions()
    is_clip: bool = False

    def prompt(self, default_template: str = "{text}") -> str:
        """The wording to show the model: the request's template, else `default_template`, with the text filled in.

        Only the literal `{text}` is replaced, so braces in an expression do no harm.
        """
        return (self.template or default_template).replace("{text}", self.text or "")


Templates = Mapping[str, str]
"""Prompt wordings by name; `{text}` stands for the request's text."""
