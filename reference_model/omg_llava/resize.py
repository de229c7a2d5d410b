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
    columns, column_weights = _taps(image.shape[1], width, whole_at_borders=True)
    left, right = (image[:, taps].astype(np.int32) for taps in columns)
    across = left * column_weights[0][:, None] + right * column_weights[1][:, None]
    # The vertical pass drops 4 bits, multiplies, drops 16, and rounds the last two.
    top = (row_weights[0][:, None, None] * (across[rows[0]] >> 4)) >> 16
    bottom = (row_weights[1][:, None, None] * (across[rows[1]] >> 4)) >> 16
    return ((top + bottom + 2) >> 2).clip(0, 255).astype(np.uint8)


def _taps(
    size: int, wanted: int, *, whole_at_borders: bool = False
) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """The two neighbours of each wanted pixel along one axis, and their fixed-point weights.

    Beyond a border both neighbours are the border pixel. Across, it then gets the whole weight; downwards it keeps two
    shares, each rounded down on its own (OpenCV's two passes differ in this).
    """
    centres = ((np.arange(wanted) + 0.5) * (1.0 / (wanted / size)) - 0.5).astype(np.float32)
    low = np.floor(centres)
    share = centres - low
    if whole_at_borders:
        share = np.where((low < 0) | (low >= size - 1), np.float32(0), share)
    one = np.float32(1 << _BITS)
    weights = tuple(np.rint(part * one).astype(np.int32) for part in (np.float32(1) - share, share))
    first = low.astype(np.intp)
    return (first.clip(0, size - 1), (first + 1).clip(0, size - 1)), (weights[0], weights[1])
