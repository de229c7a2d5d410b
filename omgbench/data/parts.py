"""Segmentations as the parts that official readers draw one by one and add up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omgbench.contract import Rle
from omgbench.data.coco import Polygons, Segmentation
from omgbench.errors import DataError
from omgbench.metrics.rle import polygons_to_rles, rle_to_mask

_FEWEST_POLYGON_NUMBERS = 6


def part_rles(segmentation: Segmentation, size: tuple[int, int], where: str) -> Sequence[Rle]:
    """Each polygon or run-length mask of a segmentation as a mask of its own.

    Args:
        segmentation: checked on a picture of `size`.
        size: (height, width) in pixels.
        where: file and entry, for messages.

    Raises:
        DataError: a mask of another size; a polygon with an outline of absurd length.
    """
    if not isinstance(segmentation, Polygons):
        for part in segmentation.parts:
            if part.size != size:
                raise DataError(
                    f"mask of {part.size[0]} x {part.size[1]} pixels (height x width)",
                    expected=f"the picture's {size[0]} x {size[1]}",
                    where=where,
                )
        return segmentation.parts
    # What pycocotools draws nothing for; its wrapper here would refuse it.
    drawn = [part[: len(part) // 2 * 2] for part in segmentation.parts_xy if len(part) >= _FEWEST_POLYGON_NUMBERS]
    try:
        return polygons_to_rles(drawn, size)
    except DataError as error:
        raise DataError(error.found, expected=error.expected, where=where) from None


def part_counts(segmentation: Segmentation, size: tuple[int, int], where: str) -> NDArray[np.uint8]:
    """How many parts cover each pixel, uint8 (height, width); wraps at 256, as the official sum does.

    Arguments and errors as `part_rles`.
    """
    counts = np.zeros(size, dtype=np.uint8)
    for rle in part_rles(segmentation, size, where):
        counts += rle_to_mask(rle)
    return counts
