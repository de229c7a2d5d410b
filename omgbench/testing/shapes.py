"""Rectangles and ellipses as COCO RLE, written from their outline without a pixel being drawn."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omgbench.contract import Rle


def rectangle_rle(box_xyxy: tuple[int, int, int, int], size: tuple[int, int]) -> Rle:
    """The filled rectangle x1 <= x < x2, y1 <= y < y2 on a frame of `size` (height, width).

    Parts outside the frame are cut off; a rectangle with nothing inside gives the empty mask.
    """
    height, width = size
    x1, x2 = max(box_xyxy[0], 0), min(box_xyxy[2], width)
    y1, y2 = max(box_xyxy[1], 0), min(box_xyxy[3], height)
    if x1 >= x2 or y1 >= y2:
        return _rle_of_runs(np.empty(0, np.int64), np.empty(0, np.int64), size)
    columns = np.arange(x1, x2, dtype=np.int64) * height
    return _rle_of_runs(columns + y1, columns + y2, size)


def ellipse_rle(box_xyxy: tuple[float, float, float, float], size: tuple[int, int]) -> Rle:
    """The ellipse inscribed in a box, on a frame of `size` (height, width): every pixel whose centre lies inside.

    Parts outside the frame are cut off; an ellipse that holds no pixel centre gives the empty mask.
    """
    height, width = size
    x1, y1, x2, y2 = box_xyxy
    half_width, half_height = (x2 - x1) / 2, (y2 - y1) / 2
    if half_width <= 0 or half_height <= 0:
        return _rle_of_runs(np.empty(0, np.int64), np.empty(0, np.int64), size)
    columns = np.arange(max(int(x1), 0), min(int(x2) + 1, width), dtype=np.int64)
    reach = 1 - ((columns + 0.5 - (x1 + x2) / 2) / half_width) ** 2
    half_chord = half_height * np.sqrt(np.maximum(reach, 0))
    middle_y = (y1 + y2) / 2 - 0.5
    top = np.maximum(np.ceil(middle_y - half_chord), 0).astype(np.int64)
    bottom = np.minimum(np.floor(middle_y + half_chord) + 1, height).astype(np.int64)
    inside = (reach > 0) & (top < bottom)
    first_pixels = columns[inside] * height
    return _rle_of_runs(first_pixels + top[inside], first_pixels + bottom[inside], size)


@lru_cache(maxsize=64)
def full_rle(size: tuple[int, int]) -> Rle:
    """The mask of every pixel of a frame of `size` (height, width)."""
    height, width = size
    return rectangle_rle((0, 0, width, height), size)


def _rle_of_runs(starts: NDArray[np.int64], ends: NDArray[np.int64], size: tuple[int, int]) -> Rle:
    """RLE of foreground runs [start, end) in column-major order, ascending; runs that touch are joined, since COCO's
    own encoder never writes a run of length 0 but the first."""
    from pycocotools import mask as coco_mask

    height, width = size
    if starts.size > 1:
        apart = ends[:-1] < starts[1:]
        starts = starts[np.concatenate(([True], apart))]
        ends = ends[np.concatenate((apart, [True]))]
    borders = np.empty(2 * starts.size + 2, np.int64)
    borders[0], borders[-1] = 0, height * width
    borders[1:-1:2], borders[2:-1:2] = starts, ends
    counts = np.diff(borders)
    if counts.size > 1 and counts[-1] == 0:
        counts = counts[:-1]
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts.astype(np.uint32)}, height, width)
    return Rle((height, width), encoded["counts"].decode("ascii"))
