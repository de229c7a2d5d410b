"""Masks painted into pixels: translucent fills, crisp outlines, and where a region's number goes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omgbench.contract import Rle
from omgbench.metrics.rle import area_px, rle_to_mask, tight_box_xyxy
from omgbench.overlay.palette import Rgb

FILL_PER_256 = 112
"""Share of the colour in a filled pixel."""

_STRIP_ROWS = 256
_LABEL_SAMPLES = 20_000

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Scale:
    """How the picture is shown: each pixel as a square of `up` pixels, or squares of `down` pixels as one; one of them
    is 1. Masks are not averaged: every `down`-th row and column of them is shown."""

    up: int = 1
    down: int = 1

    def length(self, px: int) -> int:
        """Pixels of the canvas for so many of the picture, counted from its edge."""
        return px * self.up if self.down == 1 else -(-px // self.down)

    def place(self, px: float) -> float:
        """A coordinate of the picture on the canvas."""
        return px * self.up / self.down


@dataclass(frozen=True, slots=True)
class Patch:
    """The part of the canvas that a mask covers.

    Attributes:
        left, top: canvas pixels.
        mask: bool, the size of the part; it holds a pixel.
    """

    left: int
    top: int
    mask: Mask

    def of(self, canvas: NDArray[np.generic]) -> NDArray[np.generic]:
        """The same part of an array of the canvas' size, as a view."""
        height, width = self.mask.shape
        return canvas[self.top : self.top + height, self.left : self.left + width]


def patch_of(rle: Rle, scale: Scale) -> Patch | None:
    """A mask on the canvas; None when it covers no pixel there."""
    box = tight_box_xyxy(rle)
    if box is None:
        return None
    left, top, right, bottom = (scale.length(int(side)) for side in box)
    shown = rle_to_mask(rle)[:: scale.down, :: scale.down]
    if scale.up > 1:
        shown = shown.repeat(scale.up, axis=0).repeat(scale.up, axis=1)
    part = shown[top:bottom, left:right]
    return Patch(left, top, part) if part.any() else None


def outline(mask: Mask, thickness_px: int) -> Mask:
    """The pixels of a mask within `thickness_px` of its border, which also runs where the array ends."""
    edge = mask.copy(order="K")
    t = thickness_px
    if min(mask.shape) > 2 * t:
        inner = _all_within(_all_within(mask, 2 * t + 1, axis=0), 2 * t + 1, axis=1)
        edge[t:-t, t:-t] &= ~inner
    return edge


def _all_within(mask: Mask, window: int, axis: int) -> Mask:
    """Where all of `window` neighbours along an axis are set; shorter than `mask` by `window - 1`."""
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        ahead, behind = (mask[step:], mask[:-step]) if axis == 0 else (mask[:, step:], mask[:, :-step])
        mask = ahead & behind
        covered += step
    return mask


def paint_masks(
    pixels: Pixels, masks: Sequence[tuple[Rle, Rgb]], scale: Scale, thickness_px: int
) -> list[tuple[int, int] | None]:
    """Paint masks into `pixels` (height, width, 3), larger ones below smaller ones.

    Returns:
        For each mask the (x, y) of a pixel of it near its middle; None for a mask that shows nowhere.
    """
    if not masks:
        return []
    height, width = pixels.shape[:2]
    # Column-major, as the masks are when they are decoded.
    fills, edges = (np.zeros((height, width), np.uint16, order="F") for _ in range(2))
    middles: list[tuple[int, int] | None] = [None] * len(masks)
    for index in sorted(range(len(masks)), key=lambda index: -area_px(masks[index][0])):
        patch = patch_of(masks[index][0], scale)
        if patch is not None:
            patch.of(fills)[patch.mask] = index + 1
            patch.of(edges)[outline(patch.mask, thickness_px)] = index + 1
            middles[index] = _middle(patch)
    colours = np.array([(0, 0, 0), *(rgb for _, rgb in masks)], np.uint16)
    _blend(pixels, np.ascontiguousarray(fills), np.ascontiguousarray(edges), colours)
    return middles


def _blend(pixels: Pixels, fills: NDArray[np.uint16], edges: NDArray[np.uint16], colours: NDArray[np.uint16]) -> None:
    mixed_in = colours * FILL_PER_256
    for rows in _strips(len(pixels)):
        part, fill, edge = pixels[rows], fills[rows], edges[rows]
        inside = fill > 0
        part[inside] = (part[inside] * np.uint16(256 - FILL_PER_256) + mixed_in[fill[inside]]) >> 8
        on_edge = edge > 0
        part[on_edge] = colours[edge[on_edge]]


def _strips(n_rows: int) -> Iterator[slice]:
    """Bounds the memory of what is computed in between."""
    return (slice(start, start + _STRIP_ROWS) for start in range(0, n_rows, _STRIP_ROWS))


def _middle(patch: Patch) -> tuple[int, int]:
    """The pixel of the mask that is nearest to its centre of mass, both estimated on a grid."""
    step = max(1, math.isqrt(patch.mask.size // _LABEL_SAMPLES))
    ys, xs = np.nonzero(patch.mask[::step, ::step])
    if not ys.size:
        step = 1
        ys, xs = np.nonzero(patch.mask)
    nearest = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
    return patch.left + int(xs[nearest]) * step, patch.top + int(ys[nearest]) * step


def paint_dashed_outline(pixels: Pixels, rle: Rle, scale: Scale, thickness_px: int) -> None:
    """The outline of a mask in dashes of black and white."""
    patch = patch_of(rle, scale)
    if patch is None:
        return
    ys, xs = np.nonzero(outline(patch.mask, thickness_px))
    is_white = (xs + ys) // (4 * thickness_px) % 2 == 0
    pixels[ys + patch.top, xs + patch.left] = np.where(is_white, 255, 0)[:, None]
