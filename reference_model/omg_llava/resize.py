"""OpenCV's bilinear resize of 8-bit pictures, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BITS = 11


def resize_like_opencv(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """What `cv2.resize(image, ..., interpolation=cv2.INTER_LINEAR)` gives for (H, W, C) uint8: fixed-point weights of
    11 bits, pixel centres aligned, borders repeated, no smoothing before shrinking.
    """
    height, width = size_hw
    if image.shape[:2] == (height, width):
        return image
    rows, row_weights = _taps(image.shape[0], height)
    columns, column_weights = _taps(image.shape[1], width)
    left, right = (image[:, taps].astype(np.int32) for taps in columns)
    across = left * column_weights[0][:, None] + right * column_weights[1][:, None]
    # The vertical pass drops 4 bits, multiplies, drops 16, and rounds the last two.
    top = (row_weights[0][:, None, None] * (across[rows[0]] >> 4)) >> 16
    bottom = (row_weights[1][:, None, None] * (across[rows[1]] >> 4)) >> 16
    return ((top + bottom + 2) >> 2).clip(0, 255).astype(np.uint8)


def _taps(size: int, wanted: int) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], tuple[NDArray[np.int32], ...]]:
    """The two neighbours of each wanted pixel along one axis, and their fixed-point weights."""
    centres = ((np.arange(wanted) + 0.5) * (size / wanted) - 0.5).astype(np.float32)
    low = np.floor(centres).astype(np.intp)
    share = centres - low
    share = np.where((low < 0) | (low >= size - 1), np.float32(0), share)
    low = low.clip(0, size - 1)
    high = np.minimum(low + 1, size - 1)
    one = 1 << _BITS
    upper = np.rint(share * one).astype(np.int32)
    return (low, high), (np.rint((1 - share) * one).astype(np.int32), upper)
