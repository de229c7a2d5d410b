"""Outlines of the shapes as integer polygons."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

UNIT = 4096
"""Outlines are given in units of 1/4096 radius."""

SUBPIXEL = 16
"""Positions and radii are given in 1/16 pixel."""

RING_HOLE_PERCENT = 62
"""Inner radius of a ring, of its outer radius."""

COSINES = tuple(round(UNIT * math.cos(math.radians(degree))) for degree in range(360))
Outline = npt.NDArray[np.int64]


def cosine(degrees: int) -> int:
    """UNIT times the cosine."""
    return COSINES[degrees % 360]


def sine(degrees: int) -> int:
    """UNIT times the sine."""
    return COSINES[(degrees - 90) % 360]


def _regular(corners: int, first_degree: int) -> list[tuple[int, int]]:
    return [
        (cosine(first_degree + 360 * k // corners), sine(first_degree + 360 * k // corners)) for k in range(corners)
    ]


def _ellipse(percent_x: int, percent_y: int) -> list[tuple[int, int]]:
    return [(cosine(d) * percent_x // 100, sine(d) * percent_y // 100) for d in range(0, 360, 8)]


def _star() -> list[tuple[int, int]]:
    points = []
    for k in range(10):
        percent = 100 if k % 2 == 0 else 42
        points.append((cosine(36 * k - 90) * percent // 100, sine(36 * k - 90) * percent // 100))
    return points


def _crescent() -> list[tuple[int, int]]:
    # The inner circle has the same radius, its centre 0.6 to the right; they meet at +-acos(0.3) = 72.5 degrees.
    outer = [(cosine(d), sine(d)) for d in range(73, 288, 7)]
    inner = [(cosine(d) + UNIT * 6 // 10, sine(d)) for d in range(251, 109, -7)]
    return [((x + UNIT // 10) * 96 // 100, y * 96 // 100) for x, y in outer + inner]


def _heart() -> list[tuple[int, int]]:
    # x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, the usual heart curve, scaled to radius 1.
    points = []
    for degree in range(0, 360, 8):
        x = 16 * sine(degree) ** 3 // UNIT**2
        y = 13 * cosine(degree) - 5 * cosine(2 * degree) - 2 * cosine(3 * degree) - cosine(4 * degree)
        points.append((x // 18, -(y + 2 * UNIT) // 18))
    return points


def _percent(*corners: tuple[int, int]) -> list[tuple[int, int]]:
    return [(UNIT * x // 100, UNIT * y // 100) for x, y in corners]


def _outlines() -> dict[str, tuple[list[tuple[int, int]], ...]]:
    circle = _ellipse(100, 100)
    hole = _ellipse(RING_HOLE_PERCENT, RING_HOLE_PERCENT)[::-1]
    cross = _percent(
        *((-31, -95), (31, -95), (31, -31), (95, -31), (95, 31), (31, 31)),
        *((31, 95), (-31, 95), (-31, 31), (-95, 31), (-95, -31), (-31, -31)),
    )
    arrow = _percent((-95, -30), (10, -30), (10, -75), (100, 0), (10, 75), (10, 30), (-95, 30))
    return {
        "circle": (_ellipse(94, 94),),
        "oval": (_ellipse(100, 60),),
        "ring": (circle, hole),
        "crescent": (_crescent(),),
        "heart": (_heart(),),
        "square": (_percent((-70, -70), (70, -70), (70, 70), (-70, 70)),),
        "triangle": (_regular(3, -90),),
        "star": (_star(),),
        "cross": (cross,),
        "hexagon": (_regular(6, 0),),
        "diamond": (_percent((0, -100), (62, 0), (0, 100), (-62, 0)),),
        "arrow": (arrow,),
    }


OUTLINES = {
    name: tuple(np.array(polygon, dtype=np.int64) for polygon in polygons) for name, polygons in _outlines().items()
}
"""Closed polygons (n, 2) xy per shape in 1/UNIT radius, y downwards; a hole runs the other way round. No corner is
farther than the radius from the centre, so a thing stays within its circle however it is turned."""


@lru_cache(maxsize=512)
def _rotated(shape: str, degrees: int) -> tuple[Outline, ...]:
    c, s = cosine(degrees), sine(degrees)
    turn = np.array([[c, s], [-s, c]], dtype=np.int64)
    return tuple((polygon @ turn) // UNIT for polygon in OUTLINES[shape])


def place_outline(shape: str, degrees: int, radius_16: int, x_16: int, y_16: int) -> tuple[Outline, ...]:
    """The shape's polygons, turned clockwise by `degrees`, in 1/16 pixel of the image; centre and radius likewise."""
    centre = np.array([x_16, y_16], dtype=np.int64)
    return tuple(polygon * radius_16 // UNIT + centre for polygon in _rotated(shape, degrees))
