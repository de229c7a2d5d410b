"""How much of each pixel a polygon covers, in integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from omgbench.data.scenes.shapes import SUBPIXEL, Outline

ROWS_PER_PIXEL = 4
FULL = ROWS_PER_PIXEL * SUBPIXEL
"""Coverage of a pixel that lies wholly inside: 64. From 32 on it belongs to the mask."""


def coverage(polygons: Sequence[Outline], height: int, width: int) -> npt.NDArray[np.int64]:
    """Coverage 0 .. 64 of each pixel of a (height, width) patch.

    Every pixel is cut by four horizontal lines; on each, covered length is exact to 1/16 pixel. Each crossing of an
    edge adds or takes away (by the edge's direction) all that lies to its right; a sum along the row gives the cover.

    Args:
        polygons: closed (n, 2) xy int64 in 1/16 pixel of the patch; holes run the other way round. Must lie inside.
    """
    start = np.concatenate(polygons)
    end = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    x0, y0, x1, y1 = start[:, 0], start[:, 1], end[:, 0], end[:, 1]
    spacing = SUBPIXEL // ROWS_PER_PIXEL
    lines = np.arange(height * ROWS_PER_PIXEL, dtype=np.int64) * spacing + spacing // 2
    line, edge = np.nonzero((np.minimum(y0, y1) <= lines[:, None]) & (lines[:, None] < np.maximum(y0, y1)))
    rise = (y1 - y0)[edge]
    x = x0[edge] + (lines[line] - y0[edge]) * (x1 - x0)[edge] // rise
    column, fraction = x // SUBPIXEL, x % SUBPIXEL
    cell = (line // ROWS_PER_PIXEL) * (width + 1) + column
    size = height * (width + 1) + 1
    sign = np.sign(rise)
    change = np.bincount(cell, sign * (SUBPIXEL - fraction), size) + np.bincount(cell + 1, sign * fraction, size)
    steps = change[: size - 1].reshape(height, width + 1).astype(np.int64)
    return np.abs(np.cumsum(steps, axis=1))[:, :width]
