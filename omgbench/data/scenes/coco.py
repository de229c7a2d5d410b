"""Masks in COCO's annotation forms: polygons where they are exact, compressed RLE elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from omgbench.data.scenes.world import MaskArray

Point = tuple[int, int]
Polygon = list[float]


def mask_to_rle(mask: MaskArray) -> dict[str, Any]:
    """COCO's compressed RLE of a bool (height, width) mask, ready for JSON: `{"size": [h, w], "counts": str}`."""
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_to_segmentation(mask: MaskArray) -> list[Polygon] | list[dict[str, Any]]:
    """The `segmentation` of an instance annotation that decodes to exactly this mask.

    Polygons run along the edges of pixels, one for each piece of the mask. Where they would not give the mask back (a
    mask with a hole) it is a list of one compressed RLE dict, the other form that readers of refCOCO know.
    """
    polygons = _outline_polygons(mask)
    if polygons is not None and _decodes_to(polygons, mask):
        return polygons
    return [mask_to_rle(mask)]


def instance_fields(mask: MaskArray) -> dict[str, Any]:
    """`area`, `bbox` (xywh, pixels) and `iscrowd` of an instance annotation, as COCO derives them from the mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y, right, bottom = (
        (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else [0] * 4
    )
    return {
        "area": float(np.count_nonzero(mask)),
        "bbox": [float(x), float(y), float(right - x), float(bottom - y)],
        "iscrowd": 0,
    }


def _decodes_to(polygons: list[Polygon], mask: MaskArray) -> bool:
    height, width = mask.shape
    decoded = mask_utils.decode(mask_utils.frPyObjects(polygons, height, width))
    # Official readers add the polygons up, so none may cover a pixel twice.
    return bool(np.array_equal(decoded.sum(axis=2), mask))


def _outline_polygons(mask: MaskArray) -> list[Polygon] | None:
    """Closed outlines along pixel edges, flat x, y lists; None if the mask has a hole or is empty."""
    following = _edges(mask)
    polygons = []
    while following:
        start = next(iter(following))
        corners = _walk(following, start)
        if _twice_area(corners) < 0:
            return None
        polygons.append([float(value) for corner in corners for value in corner])
    return polygons or None


def _edges(mask: MaskArray) -> dict[Point, list[Point]]:
    """From each corner of the outline the next ones, with the mask on the right-hand side."""
    inside = np.pad(mask, 1)
    here = inside[1:-1, 1:-1]
    following: dict[Point, list[Point]] = {}
    sides = (
        (here & ~inside[:-2, 1:-1], (0, 0), (1, 0)),
        (here & ~inside[1:-1, 2:], (1, 0), (1, 1)),
        (here & ~inside[2:, 1:-1], (1, 1), (0, 1)),
        (here & ~inside[1:-1, :-2], (0, 1), (0, 0)),
    )
    for side, (x0, y0), (x1, y1) in sides:
        for y, x in np.argwhere(side).tolist():
            following.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    return following


def _walk(following: dict[Point, list[Point]], start: Point) -> list[Point]:
    """One closed outline, its edges taken out of `following`; corners only, no points in straight stretches."""
    corners: list[Point] = []
    at, before = start, (0, 0)
    while True:
        ends = following[at]
        # Where two pixels touch by a corner, the turn to the right stays with the pixel that one came along.
        right = (at[0] - before[1], at[1] + before[0])
        end = right if len(ends) > 1 and right in ends else ends[0]
        ends.remove(end)
        if not ends:
            del following[at]
        step = (end[0] - at[0], end[1] - at[1])
        if step != before:
            corners.append(at)
        at, before = end, step
        if at == start:
            return corners


def _twice_area(corners: list[Point]) -> int:
    """Twice the enclosed area, positive for outlines with the mask inside, negative for those of holes."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True))
