"""Masks as COCO run lengths: checking, building and measuring them without decoding them.

A compressed string is a list of run lengths down the columns, background first. Each number is written in groups of
five bits, lowest first, one character `48 + group` each: bit 0x20 of a group says that another follows, bit 0x10 of the
last one is the sign, and from the fourth number on the number is the difference to the run two before it
(cocodataset/cocoapi, common/maskApi.c).

pycocotools trusts that string: it reads past its end, writes past its buffers and loops on wrapped-round lengths when
it is malformed. So text from outside passes `check_rle` (or `canonical_rle`) first; every other function here expects
masks that have passed. Such a mask is canonical: no run but the first is empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask

from omgbench.contract import BoxXyxy, Rle
from omgbench.errors import DataError

MAX_PIXELS = 2**28
"""Largest height x width of a mask: run lengths then fit six groups, which is all that pycocotools' buffers hold."""

MAX_GROUPS = 6

MAX_COORDINATE_PX = 2**17
"""Farthest point of a polygon from the origin, on either axis."""

MAX_OUTLINE_PX = 2**20
"""Longest outline of one polygon: pycocotools needs about 80 bytes per pixel of it."""

Runs = NDArray[np.int64]

_MOST_AREAS = 200
"""pycocotools 2.0.11 raises OverflowError for the areas of more than 255 masks at once."""
_CHARACTERS = bytes(range(48, 112))
_FIRST_THAT_GOES_ON = 48 + 0x20
_GROUPS = np.arange(256, dtype=np.int64) - 48
_TOP_GROUP = (_GROUPS & 0x0F) - (_GROUPS & 0x10)
_LOWER_GROUP = _GROUPS & 0x1F


def parse_runs(counts: str) -> Runs:
    """Run lengths of a compressed string, int64 of shape (n,), background first.

    The lengths are as written: they may be negative, zero or add up to anything. Raises `DataError` for text that is
    not such a string: a foreign character, a number cut off at the end or longer than six groups.
    """
    try:
        text = counts.encode("ascii")
    except UnicodeEncodeError as error:
        raise DataError("mask counts hold characters that are not ASCII") from error
    if not text:
        return np.zeros(0, dtype=np.int64)
    if text.translate(None, _CHARACTERS):
        raise DataError("mask counts hold characters outside the range '0' to 'o' (48 to 111)")
    return _undo_differences(_join_groups(np.frombuffer(text, dtype=np.uint8)))


def _join_groups(characters: NDArray[np.uint8]) -> Runs:
    """The signed numbers that the five-bit groups spell."""
    goes_on = characters >= _FIRST_THAT_GOES_ON
    if goes_on[-1]:
        raise DataError("mask counts end in the middle of a number")
    last = (~goes_on).nonzero()[0]
    numbers = _TOP_GROUP[characters[last]]
    # Index -1, before the first number, is the last character, which never goes on.
    which = goes_on[last - 1].nonzero()[0]
    at = last[which] - 1
    n_groups = 1
    while which.size:
        n_groups += 1
        if n_groups > MAX_GROUPS:
            raise DataError(f"mask counts hold a number of more than {MAX_GROUPS} groups")
        numbers[which] = (numbers[which] << 5) | _LOWER_GROUP[characters[at]]
        longer = goes_on[at - 1].nonzero()[0]
        which, at = which[longer], at[longer] - 1
    return numbers


def _undo_differences(numbers: Runs) -> Runs:
    for chain in (numbers[1::2], numbers[2::2]):
        np.add.accumulate(chain, out=chain)
    return numbers


def check_rle(rle: Rle, size: tuple[int, int]) -> str | None:
    """Why a mask from outside cannot be used on a frame of `size` (height, width), or None when it can.

    A mask that passes cannot harm pycocotools: its size is the frame's, its string is well formed, its runs are
    positive (the first may be 0) and cover the frame exactly. A mask with further empty runs is refused although it
    can be decoded, since pycocotools merges and compares such masks wrongly; `canonical_rle` mends it.
    """
    reason = _size_reason(rle.size)
    if reason is not None:
        return reason
    if tuple(rle.size) != tuple(size):
        return f"mask is {_words(rle.size)}, the frame is {_words(size)}"
    try:
        runs = _parse_bounded(rle)
    except DataError as error:
        return error.found
    if runs.size and runs[0] >= 0 and runs[1:].min(initial=1) > 0 and int(runs.sum()) == math.prod(rle.size):
        return None
    return _runs_reason(runs, math.prod(rle.size)) or _empty_run_reason(runs)


def canonical_rle(rle: Rle, size: tuple[int, int]) -> Rle:
    """The same mask in the one form that `check_rle` admits; `rle` itself when it has that form.

    For files of foreign encoders, which may hold empty runs in the middle or at the end. Raises `DataError` when the
    mask cannot be used at all.
    """
    reason = check_rle(rle, size)
    if reason is None:
        return rle
    if _size_reason(rle.size) is not None or tuple(rle.size) != tuple(size):
        raise DataError(reason)
    return _rle_from_any_runs(_parse_bounded(rle), size)


def _parse_bounded(rle: Rle) -> Runs:
    if not isinstance(rle.counts, str):
        raise DataError(f"mask counts are of type {type(rle.counts).__name__}, not a string")
    if len(rle.counts) > MAX_GROUPS * 2 * (math.prod(rle.size) + 1):
        raise DataError(f"mask counts have {len(rle.counts)} characters, far too many for {_words(rle.size)} pixels")
    return parse_runs(rle.counts)


def _size_reason(size: Any) -> str | None:
    if not isinstance(size, tuple | list) or len(size) != 2:
        return f"mask size is {size!r}, not (height, width)"
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in size):
        return f"mask size is {size!r}: height and width must be whole numbers of at least 1"
    if size[0] * size[1] > MAX_PIXELS:
        return f"mask is {_words(size)}: more than {MAX_PIXELS} pixels"
    return None


def _runs_reason(runs: Runs, n_pixels: int) -> str | None:
    if runs.size and runs.min() < 0:
        return f"mask counts hold a negative run at index {int(np.argmax(runs < 0))}"
    total = int(runs.sum())
    if total != n_pixels:
        return f"mask runs add up to {total} pixels, the frame has {n_pixels}"
    return None


def _empty_run_reason(runs: Runs) -> str | None:
    empty = np.flatnonzero(runs[1:] == 0)
    return f"mask counts hold an empty run at index {int(empty[0]) + 1}" if empty.size else None


def _words(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    reason = _size_reason(size)
    if reason is not None:
        raise DataError(reason)
    return (size[0], size[1])


def to_coco(rle: Rle) -> dict[str, Any]:
    """The mask as the plain dict that pycocotools takes and COCO files hold."""
    return {"size": [rle.size[0], rle.size[1]], "counts": rle.counts}


def _from_coco(coco: dict[str, Any]) -> Rle:
    """The mask of pycocotools' own output, whose counts are bytes."""
    height, width = coco["size"]
    return Rle((int(height), int(width)), coco["counts"].decode("ascii"))


def mask_to_rle(mask: NDArray[np.bool_]) -> Rle:
    """Encode a bool array of shape (height, width)."""
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise DataError(f"mask array is {mask.dtype} of shape {mask.shape}", expected="bool of shape (height, width)")
    _checked_size((int(mask.shape[0]), int(mask.shape[1])))
    return _from_coco(coco_mask.encode(np.asfortranarray(mask).view(np.uint8)))


def rle_to_mask(rle: Rle) -> NDArray[np.bool_]:
    """Decode to a bool array of shape (height, width), in column-major memory order."""
    runs = parse_runs(rle.counts)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(rle.size, order="F")


def empty_rle(size: tuple[int, int]) -> Rle:
    """The mask without a pixel on a frame of (height, width)."""
    size = _checked_size(size)
    return _encode_runs(np.array([math.prod(size)]), size)


def rle_from_uncompressed(counts: ArrayLike, size: tuple[int, int]) -> Rle:
    """Compress a list of run lengths (COCO's form for crowds): whole numbers, background first, sum = height x width.

    Raises `DataError` when they are not that. Empty runs are merged into their neighbours.
    """
    try:
        runs = np.asarray(counts)
    except ValueError as error:
        raise DataError("run lengths are not a flat list of whole numbers") from error
    if runs.ndim != 1 or runs.size == 0 or runs.dtype.kind not in "iu":
        raise DataError("run lengths are not a flat list of whole numbers")
    size = _checked_size(size)
    if runs.max() > MAX_PIXELS or runs.min() < 0:
        raise DataError("a run length is negative or longer than the frame", expected=f"0 to {math.prod(size)}")
    return _rle_from_any_runs(runs.astype(np.int64), size)


def _rle_from_any_runs(runs: Runs, size: tuple[int, int]) -> Rle:
    """Check run lengths that may be empty, merge those, and encode."""
    n_pixels = math.prod(size)
    reason = _runs_reason(runs, n_pixels)
    if reason is not None:
        raise DataError(reason)
    changes, times = np.unique(np.cumsum(runs)[:-1], return_counts=True)
    return _encode_changes(changes[times % 2 == 1], size)


def _encode_changes(changes: Runs, size: tuple[int, int]) -> Rle:
    """Encode the sorted, distinct pixel numbers at which the mask changes, background first."""
    n_pixels = math.prod(size)
    inside = changes[changes < n_pixels]
    return _encode_runs(np.diff(inside, prepend=0, append=n_pixels), size)


def _encode_runs(runs: Runs, size: tuple[int, int]) -> Rle:
    uncompressed = {"size": list(size), "counts": runs}
    return _from_coco(coco_mask.frPyObjects([uncompressed], *size)[0])


def polygons_to_rles(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> list[Rle]:
    """Each polygon of a COCO annotation as a mask of (height, width), by pycocotools' own fill rule.

    Args:
        polygons: flat lists `[x1, y1, x2, y2, ...]` in pixels; may reach over the border of the frame.
        size: (height, width) in pixels.

    A line of two points is drawn too, and holds next to nothing (pycocotools fails when it comes first).
    Raises `DataError` for a list that is no polygon, has a coordinate that is not finite or lies absurdly far out.
    """
    size = _checked_size(size)
    if not polygons:
        return []
    checked = [_checked_polygon(polygon) for polygon in polygons]
    return [_from_coco(coco) for coco in coco_mask.frPyObjects(checked, *size)]


def _checked_polygon(polygon: Sequence[float]) -> list[float]:
    try:
        xy = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("a polygon is not a flat list of numbers", expected="[x1, y1, x2, y2, ...]") from error
    if xy.ndim != 1 or xy.size < 4 or xy.size % 2:
        raise DataError(f"a polygon has shape {xy.shape}", expected="a flat list of x, y pairs, three or more")
    if not (np.abs(xy) <= MAX_COORDINATE_PX).all():
        raise DataError("a polygon has a coordinate that is not finite or lies far outside of any image")
    points = xy.reshape(-1, 2)
    steps_px = np.abs(points - np.roll(points, -1, axis=0)).max(axis=1)
    if steps_px.sum() > MAX_OUTLINE_PX:
        raise DataError(f"a polygon's outline is {steps_px.sum():.0f} pixels long", expected=f"up to {MAX_OUTLINE_PX}")
    coordinates: list[float] = xy.tolist()
    return coordinates if len(coordinates) > 4 else coordinates + coordinates[2:]


def polygons_to_rle(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Rle:
    """The union of the polygons of a COCO annotation; see `polygons_to_rles`. No polygon gives the empty mask."""
    rles = polygons_to_rles(polygons, size)
    return union_of(rles) if rles else empty_rle(size)


def area_px(rle: Rle) -> int:
    """Number of pixels of the mask."""
    return int(coco_mask.area(to_coco(rle)))


def areas_px(rles: Sequence[Rle]) -> list[int]:
    """Number of pixels of each mask."""
    areas: list[int] = []
    for start in range(0, len(rles), _MOST_AREAS):
        areas += coco_mask.area([to_coco(rle) for rle in rles[start : start + _MOST_AREAS]]).tolist()
    return areas


def intersection_px(a: Rle, b: Rle) -> int:
    """Number of pixels that both masks hold. Raises `DataError` when their sizes differ."""
    _same_size((a, b))
    return int(coco_mask.area(coco_mask.merge([to_coco(a), to_coco(b)], intersect=True)))


def union_of(rles: Sequence[Rle]) -> Rle:
    """The pixels of any of the masks, at least one of them given. Raises `DataError` when their sizes differ."""
    _same_size(rles)
    return rles[0] if len(rles) == 1 else _from_coco(coco_mask.merge([to_coco(rle) for rle in rles]))


def exactly_one_of(rles: Sequence[Rle]) -> Rle:
    """The pixels that lie in one of the masks and in no second one; at least one mask given.

    The target of the official refCOCO scripts: they add the polygons of an annotation, and compare with the value 1,
    so where two polygons overlap there is no target (LISA, utils/refer_seg_dataset.py and utils/utils.py).
    """
    _same_size(rles)
    if len(rles) == 1:
        return rles[0]
    edges = [np.cumsum(parse_runs(rle.counts)) for rle in rles]
    starts = np.concatenate([edge[0:-1:2] for edge in edges])
    ends = np.concatenate([edge[1::2] for edge in edges])
    pixels, at = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    steps = np.repeat([1, -1], [len(starts), len(ends)])
    covered_by = np.cumsum(np.bincount(at, weights=steps, minlength=len(pixels)))
    is_one = covered_by == 1
    return _encode_changes(pixels[np.diff(is_one, prepend=False)], rles[0].size)


def tight_box_xyxy(rle: Rle) -> BoxXyxy | None:
    """The smallest box round the mask, right and bottom exclusive, in pixels; None for the empty mask."""
    x, y, width, height = coco_mask.toBbox(to_coco(rle)).tolist()
    return (x, y, x + width, y + height) if width > 0 else None


def _same_size(rles: Sequence[Rle]) -> None:
    if not rles:
        raise DataError("no mask given", expected="at least one mask")
    first = rles[0].size
    for rle in rles:
        if tuple(rle.size) != tuple(first):
            raise DataError(f"masks of different size: {_words(first)} and {_words(rle.size)}")
