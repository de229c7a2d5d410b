"""Grounds: which kinds of stuff fill the picture, and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.shapes import COSINES, UNIT
from omgbench.data.scenes.world import FIRST_STUFF_ID

WAVE = np.array(COSINES, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Band:
    """Ground that reaches from a wavy upper edge down to the bottom of the picture (later bands lie over it).

    Attributes:
        top_px: mean height of the upper edge; 0 for the whole picture.
        swing_px: how far the edge swings up and down.
        period: degrees of the wave per 16 pixels.
        phase: degrees.
    """

    stuff: str
    top_px: int
    swing_px: int
    period: int
    phase: int


@dataclass(frozen=True, slots=True)
class Patch:
    """A pond (ellipse) or a carpet (`square` True) over the bands; centre and half sizes in pixels."""

    stuff: str
    x_px: int
    y_px: int
    half_width_px: int
    half_height_px: int
    square: bool


Ground = tuple[Band | Patch, ...]

# Bands from top to bottom, then what may lie on the last one, then whether edges swing.
PLACES: tuple[tuple[tuple[str, ...], str | None, bool], ...] = (
    (("sky", "grass"), "water", True),
    (("sky", "grass", "road"), None, True),
    (("sky", "water", "sand"), None, True),
    (("sky", "sand"), "water", True),
    (("sky", "snow"), "water", True),
    (("wall", "floor"), "carpet", False),
    (("wall", "road"), None, False),
    (("grass",), "sand", True),
    (("sand",), "water", True),
    (("floor",), "carpet", False),
)


def plan_ground(draws: Draws, width: int, height: int) -> Ground:
    """Draw a place: one to three bands and, at times, a pond or a carpet."""
    bands, patch, wavy = draws.pick(PLACES)
    tops = {1: (0,), 2: (0, draws.between(30, 55)), 3: (0, draws.between(24, 36), draws.between(56, 70))}[len(bands)]
    parts: list[Band | Patch] = []
    for stuff, top in zip(bands, tops, strict=True):
        swing = draws.between(1, max(2, height // 40)) if wavy and top else 0
        parts.append(Band(stuff, height * top // 100, swing, draws.between(12, 40), draws.below(360)))
    if patch is not None and (len(bands) == 1 or draws.chance(50)):
        parts.append(_plan_patch(draws, patch, width, height, height * tops[-1] // 100))
    return tuple(parts)


def _plan_patch(draws: Draws, stuff: str, width: int, height: int, top_px: int) -> Patch:
    room = height - top_px
    half_width = width * draws.between(20, 34) // 100
    half_height = room * draws.between(24, 36) // 100
    x = draws.between(half_width * 7 // 10, width - half_width * 7 // 10)
    y = top_px + draws.between(half_height + 4, room - half_height * 8 // 10)
    return Patch(stuff, x, y, half_width, half_height, stuff == "carpet")


def ground_names(ground: Ground) -> tuple[str, ...]:
    """Names of the kinds of stuff in the order of their ids, each once."""
    return tuple(dict.fromkeys(part.stuff for part in ground))


def draw_ground_map(ground: Ground, width: int, height: int) -> npt.NDArray[np.uint8]:
    """uint8 (height, width): 101 for the first of `ground_names`, 102 for the second, ..."""
    ids = {name: FIRST_STUFF_ID + index for index, name in enumerate(ground_names(ground))}
    result = np.full((height, width), FIRST_STUFF_ID, dtype=np.uint8)
    rows, columns = _numbers(height)[:, None], _numbers(width)[None, :]
    for part in ground:
        if isinstance(part, Band):
            if part.top_px:
                wave = WAVE[(columns * part.period // 16 + part.phase) % 360] * part.swing_px // UNIT
                result[rows >= part.top_px + wave] = ids[part.stuff]
        else:
            result[_inside(part, rows, columns)] = ids[part.stuff]
    return result


def _numbers(count: int) -> npt.NDArray[np.int64]:
    return np.arange(count, dtype=np.int64)


def _inside(patch: Patch, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    x, y = np.abs(columns - patch.x_px), np.abs(rows - patch.y_px)
    if patch.square:
        return (x <= patch.half_width_px) & (y <= patch.half_height_px)
    a, b = patch.half_width_px, patch.half_height_px
    ellipse: npt.NDArray[np.bool_] = (x * b) ** 2 + (y * a) ** 2 <= (a * b) ** 2
    return ellipse
