"""Boxes and masks as they cross the contract: original-image pixels, COCO RLE, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

BoxXyxy = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in original-image pixels, floats, right and bottom exclusive: width = x2 - x1."""

PointXy = tuple[float, float]
"""(x, y) in original-image pixels; (0.5, 0.5) is the centre of the top left pixel."""


@dataclass(frozen=True, slots=True)
class Rle:
    """A binary mask in COCO's compressed run-length form; JSON is exactly COCO's `{"size", "counts"}`.

    Attributes:
        size: (height, width) of the frame the mask lies on, pixels, both at least 1.
        counts: COCO's compressed string of column-major run lengths, starting with background.

    The string is not checked here: text from outside passes `omgbench.metrics.rle.check_rle` before any arithmetic.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (read by pydantic, never changed)

    size: tuple[int, int]
    counts: str


@dataclass(frozen=True, slots=True)
class Mask:
    """One predicted mask.

    Attributes:
        rle: the mask at the frame's own (height, width).
        score: confidence, higher is surer, any finite range; None when the model gives none.
        frame: index into `Request.frames`.
        track: number that is the same for one object over the frames of a clip; None for images.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    rle: Rle
    score: float | None = None
    frame: int = 0
    track: int | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """One predicted box.

    Attributes:
        xyxy: see `BoxXyxy`; finite; may reach over the border of the frame. A box turned inside out (x2 < x1) is
            kept as the model gave it and meets nothing: a wrong answer is scored, not refused.
        score: confidence, higher is surer; None when the model gives none.
        frame: index into `Request.frames`.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    xyxy: BoxXyxy
    score: float | None = None
    frame: int = 0
