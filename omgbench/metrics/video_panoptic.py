"""Video panoptic quality (VPQ) of integer label maps: small exact records per video that merge in any order.

A window of k consecutive frames counts as one picture, whose segments are tubes. All windows of all videos, stride 1,
are matched like pictures, and their sums give one PQ per class and k (Kim et al., arXiv 2006.11339). Areas are counted
once per frame; windows are sums of the frames' tables.

Two scripts count VIPSeg, and both numbers can be had:

- OMG-Seg, tools/eval_scripts/eval_video.py with seg/models/utils/offline_video_metrics.py, the default: an id is
  class and instance, so an object that changes its class is two tubes; absent classes count 0 in the mean (`VPQ`).
- VIPSeg-Dataset, ClipPanoFCN/eval_vpq_vspw.py: `PanopticIds(class_splits_tube=False)`, and absent classes are left out
  of the mean (`VPQ_present`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omgbench.errors import DataError

WINDOWS = (1, 2, 4, 6)
"""Frames in a window, in OMG-Seg's script and in papers on VIPSeg; VIPSeg's own script takes 8 as well."""

_EPSILON = 1e-15
_IOU_STEP_BITS = 53
_BATCH_ROWS = 2**20

LabelMaps = NDArray[np.integer[Any]]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PanopticIds:
    """How label maps write a segment: `id = class * stride + instance`.

    Attributes:
        n_classes: classes are 0 to n_classes - 1.
        stride: instances are 0 to stride - 1.
        gt_void_class: class of true pixels without a label, whatever their instance.
        pred_void_class: class of pixels without a prediction; None means `n_classes`.
        class_splits_tube: a tube is an id. If False it is an instance number, which then has to be unique in the video
            (stuff has one too) and of one class in each frame; in a window it has the class of its first frame there.

    Raises `DataError` for a void class that is a class as well, or for more ids than pairs of them fit 63 bits.
    """

    n_classes: int
    stride: int = 10_000
    gt_void_class: int = 65_535
    pred_void_class: int | None = None
    class_splits_tube: bool = True

    def __post_init__(self) -> None:
        if self.n_classes < 1 or self.stride < 1 or self.n_ids**2 >= 2**63:
            raise DataError(
                f"ids of {self.n_classes} classes with stride {self.stride}",
                expected="at least 1 of each, and (n_classes + 1) * stride below 3.03e9",
            )
        for void in (self.gt_void_class, self.pred_void_class):
            if void is not None and 0 <= void < self.n_classes:
                raise DataError(f"void class {void} is one of the {self.n_classes} classes")

    @property
    def n_ids(self) -> int:
        """Canonical ids lie below this; void is `n_classes * stride` in both maps."""
        return (self.n_classes + 1) * self.stride

    def canonical(self, ids: LabelMaps, kind: str, void_class: int) -> Ints:
        """The ids as int64 with void in its canonical form. Raises `DataError` for an id of no class."""
        canonical = ids.astype(np.int64)
        classes = canonical // self.stride
        is_void = classes == void_class
        foreign = ~is_void & ((classes < 0) | (classes >= self.n_classes))
        if foreign.any():
            raise DataError(
                f"{kind} id {ids[foreign][0]} has class {classes[foreign][0]}",
                expected=f"0 to {self.n_classes - 1}, or {void_class} for void",
            )
        return np.where(is_void, self.n_classes * self.stride, canonical)


class ClassSums(NamedTuple):
    """Sums of one class over windows.

    Attributes:
        iou_units: IoU of the true positives in steps of 2**-53. Each lies over 1/2, so its float64 is a whole number of
            steps and the sum is exact. May need more than 64 bits.
        tp, fp, fn: tubes matched, predicted in vain, missed.
    """

    iou_units: int = 0
    tp: int = 0
    fp: int = 0
    fn: int = 0


@dataclass(frozen=True, slots=True)
class VpqCounts:
    """What VPQ needs to know of the windows of one length, in one video or many.

    Attributes:
        n_windows: windows counted; 0 for a video shorter than the window.
        by_class: classes that occur in the truth or, not excused by void, in the prediction.
    """

    n_windows: int = 0
    by_class: dict[int, ClassSums] = field(default_factory=dict)

    def __add__(self, other: VpqCounts) -> VpqCounts:
        return _sum([self, other])

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON; a class is a list of `ClassSums`' fields."""
        by_class = {str(of_class): list(sums) for of_class, sums in self.by_class.items()}
        return {"n_windows": self.n_windows, "by_class": by_class}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> VpqCounts:
        """Read back what `to_json` gave, before or after a trip through JSON text."""
        by_class = {int(of_class): ClassSums(*sums) for of_class, sums in record["by_class"].items()}
        return cls(record["n_windows"], by_class)

    def class_sums(self, n_classes: int) -> Floats:
        """Sums of IoU, TP, FN and FP (the script's order), shape (4, n_classes), for `panoptic_quality`."""
        sums = np.zeros((4, n_classes))
        for of_class, (iou_units, tp, fp, fn) in self.by_class.items():
            if not 0 <= of_class < n_classes:
                raise DataError(f"counts of class {of_class}", expected=f"0 to {n_classes - 1}")
            sums[:, of_class] = iou_units / 2**_IOU_STEP_BITS, tp, fn, fp
        return sums


def _sum(counts: Sequence[VpqCounts]) -> VpqCounts:
    of_class: dict[int, list[ClassSums]] = {}
    for part in counts:
        for index, sums in part.by_class.items():
            of_class.setdefault(index, []).append(sums)
    by_class = {index: ClassSums(*map(sum, zip(*of_class[index], strict=True))) for index in sorted(of_class)}
    return VpqCounts(sum(part.n_windows for part in counts), by_class)


def merge(videos: Iterable[Mapping[int, VpqCounts]]) -> dict[int, VpqCounts]:
    """Sum the counts of videos or shards, window by window; order and grouping do not change a bit.

    Nothing to merge gives {}. Raises `DataError` when the window lengths differ.
    """
    parts = list(videos)
    for part in parts:
        if part.keys() != parts[0].keys():
            raise DataError(f"counts of different windows: {sorted(parts[0])} and {sorted(part)}")
    return {k: _sum([part[k] for part in parts]) for k in sorted(parts[0])} if parts else {}


def count_video(
    gt: LabelMaps, pred: LabelMaps, ids: PanopticIds, windows: Sequence[int] = WINDOWS
) -> dict[int, VpqCounts]:
    """Match the tubes of every window of one video; counts by window length.

    Args:
        gt: true ids, integers of shape (frames, height, width).
        pred: predicted ids, the same shape.
        ids: how both are written.
        windows: lengths in frames. A video shorter than that has no window, as in both scripts.

    In a window a true and a predicted tube of one class match where IoU = I / (gt + pred - I - void) > 0.5; `void` is
    the part of the predicted tube on true void. That leaves each tube one match at most. True tubes without a match are
    FN; predicted ones are FP unless more than half of them lies on void. Void is no tube, in either map.
    Raises `DataError` for maps of another form, ids of no class, and windows that are not different lengths from 1.
    """
    _check_maps(gt, pred)
    if min(windows, default=1) < 1 or len(set(windows)) != len(windows):
        raise DataError(f"windows {list(windows)}", expected="different lengths of at least one frame")
    frames = _frame_tables(gt, pred, ids)
    return {k: _sum([_count(*batch, ids) for batch in _batches(frames, len(gt), k)]) for k in windows}


def _check_maps(gt: LabelMaps, pred: LabelMaps) -> None:
    for kind, maps in (("true", gt), ("predicted", pred)):
        if maps.ndim != 3 or maps.dtype.kind not in "iu":
            raise DataError(
                f"{kind} label maps are {maps.dtype} of shape {maps.shape}",
                expected="integers of shape (frames, height, width)",
            )
    if gt.shape != pred.shape:
        raise DataError(
            f"label maps of different shape: true {gt.shape}, predicted {pred.shape} (frames, height, width)"
        )


class _Tables(NamedTuple):
    """Where tubes meet: one row per frame and pair of tubes, frames in order.

    Attributes:
        at: frame, or the window for which the row counts.
        area_px: pixels that both tubes hold.
        gt_class, pred_class: in that frame; `n_classes` is void.
        gt_tube, pred_tube: numbers from 0 in the video.
    """

    at: Ints
    area_px: Floats
    gt_class: Ints
    gt_tube: Ints
    pred_class: Ints
    pred_tube: Ints


def _frame_tables(gt: LabelMaps, pred: LabelMaps, ids: PanopticIds) -> _Tables:
    frames = [_frame_pairs(*frame, ids) for frame in zip(gt, pred, strict=True)]
    if not frames:
        nothing = np.zeros(0, dtype=np.int64)
        return _Tables(nothing, nothing.astype(np.float64), *[nothing] * 4)
    pairs, areas_px = (np.concatenate(column) for column in zip(*frames, strict=True))
    at = np.repeat(np.arange(len(frames)), [len(of_frame) for of_frame, _ in frames])
    gt_columns = _class_and_tube(pairs // ids.n_ids, ids)
    return _Tables(at, areas_px, *gt_columns, *_class_and_tube(pairs % ids.n_ids, ids))


def _frame_pairs(gt: LabelMaps, pred: LabelMaps, ids: PanopticIds) -> tuple[Ints, Floats]:
    """The pairs `gt id * n_ids + pred id` of one frame and their areas in pixels.

    Works on runs of equal pixels: label maps have many times fewer of those than pixels.
    """
    gt, pred = gt.ravel(), pred.ravel()
    changes = np.flatnonzero((gt[1:] != gt[:-1]) | (pred[1:] != pred[:-1])) + 1
    starts = np.concatenate([[0], changes]) if gt.size else changes
    lengths_px = np.diff(starts, append=gt.size)
    pred_void_class = ids.n_classes if ids.pred_void_class is None else ids.pred_void_class
    gt_ids = ids.canonical(gt[starts], "true", ids.gt_void_class)
    pred_ids = ids.canonical(pred[starts], "predicted", pred_void_class)
    pairs, at = np.unique(gt_ids * ids.n_ids + pred_ids, return_inverse=True)
    return pairs, _totals(at, lengths_px, len(pairs))


def _totals(at: Ints, values: NDArray[Any], n: int) -> Floats:
    """The sum of the values at each of n places."""
    return np.bincount(at, weights=values, minlength=n).astype(np.float64, copy=False)


def _class_and_tube(canonical_ids: Ints, ids: PanopticIds) -> tuple[Ints, Ints]:
    classes = canonical_ids // ids.stride
    by_instance = np.where(classes == ids.n_classes, -1, canonical_ids % ids.stride)
    tubes = canonical_ids if ids.class_splits_tube else by_instance
    return classes, np.unique(tubes, return_inverse=True)[1]


def _batches(frames: _Tables, n_frames: int, k: int) -> Iterator[tuple[int, _Tables]]:
    """Numbers of windows, and the frames' rows once for each window of k frames that they belong to.

    Many windows at a time, but not so many that label maps of pure noise would fill the memory.
    """
    n_windows = n_frames - k + 1
    most_rows = int(np.bincount(frames.at).max(initial=1))
    step = max(1, _BATCH_ROWS // (k * most_rows))
    for first in range(0, n_windows, step):
        end = min(first + step, n_windows)
        low, high = np.searchsorted(frames.at, [first, end + k - 1])
        windows = (frames.at[low:high, None] - np.arange(k)).ravel()
        rows = np.repeat(np.arange(low, high), k)
        inside = (windows >= first) & (windows < end)
        _, areas_px, *others = (column[rows[inside]] for column in frames)
        yield end - first, _Tables(windows[inside] - first, areas_px, *others)


class _Tubes(NamedTuple):
    """The tubes of windows, each window's apart.

    Attributes:
        at: the tube of each row of the tables.
        classes: class of each tube; `n_classes` is void.
        areas_px: pixels of each tube.
    """

    at: Ints
    classes: Ints
    areas_px: Floats


def _tubes(windows: Ints, tubes: Ints, classes: Ints, area_px: Floats) -> _Tubes:
    # Rows are in the order of frames and `first` is the first of its kind: hence the class of the first frame.
    keys = windows * (tubes.max(initial=0) + 1) + tubes
    _, first, at = np.unique(keys, return_index=True, return_inverse=True)
    return _Tubes(at, classes[first], _totals(at, area_px, len(first)))


def _count(n_windows: int, rows: _Tables, ids: PanopticIds) -> VpqCounts:
    gt = _tubes(rows.at, rows.gt_tube, rows.gt_class, rows.area_px)
    pred = _tubes(rows.at, rows.pred_tube, rows.pred_class, rows.area_px)
    n_pred = len(pred.classes)
    pairs, at = np.unique(gt.at * n_pred + pred.at, return_inverse=True)
    gt_at, pred_at = pairs // max(n_pred, 1), pairs % max(n_pred, 1)
    intersection_px = _totals(at, rows.area_px, len(pairs))
    on_void = gt.classes[gt_at] == ids.n_classes
    void_px = _totals(pred_at, intersection_px * on_void, n_pred)
    union_px = gt.areas_px[gt_at] + pred.areas_px[pred_at] - intersection_px - void_px[pred_at]
    match = (gt.classes[gt_at] == pred.classes[pred_at]) & ~on_void & (2 * intersection_px > union_px)

    missed = gt.classes != ids.n_classes
    missed[gt_at[match]] = False
    in_vain = (pred.classes != ids.n_classes) & (2 * void_px <= pred.areas_px)
    in_vain[pred_at[match]] = False
    iou = intersection_px[match] / union_px[match]
    by_class = _by_class(gt.classes[gt_at[match]], iou, pred.classes[in_vain], gt.classes[missed])
    return VpqCounts(n_windows, by_class)


def _by_class(matched: Ints, iou: Floats, in_vain: Ints, missed: Ints) -> dict[int, ClassSums]:
    """Sums by class from the classes of matches (with their IoU), false positives and false negatives."""
    present = np.unique(np.concatenate([matched, in_vain, missed]))
    iou_units = dict.fromkeys(present.tolist(), 0)
    for of_class, units in zip(matched.tolist(), (iou * 2**_IOU_STEP_BITS).astype(np.int64).tolist(), strict=True):
        iou_units[of_class] += units
    n = int(present.max(initial=-1)) + 1
    tp, fp, fn = (np.bincount(classes, minlength=n).tolist() for classes in (matched, in_vain, missed))
    return {index: ClassSums(units, tp[index], fp[index], fn[index]) for index, units in iou_units.items()}


class Quality(NamedTuple):
    """Panoptic, segmentation and recognition quality of each class, 0 to 1, higher is better, 0 for an absent class."""

    pq: Floats
    sq: Floats
    rq: Floats


def panoptic_quality(class_sums: Floats) -> Quality:
    """SQ = IoU / (TP + 1e-15), RQ = TP / (TP + FN / 2 + FP / 2 + 1e-15), PQ = SQ * RQ, as in OMG-Seg's script.

    Args:
        class_sums: sums of IoU, TP, FN, FP, shape (..., 4, n_classes), see `VpqCounts.class_sums`.

    Each part of the result has shape (..., n_classes).
    """
    iou, tp, fn, fp = np.moveaxis(class_sums, -2, 0)
    sq = iou / (tp + _EPSILON)
    rq = tp / (tp + 0.5 * fn + 0.5 * fp + _EPSILON)
    return Quality(sq * rq, sq, rq)


def summarize(counts: Mapping[int, VpqCounts], is_thing: Sequence[bool]) -> dict[str, float | None]:
    """Every number by name, 0 to 1, higher is better.

    Args:
        counts: by window length, over all videos.
        is_thing: one flag for each class.

    - `VPQ@k`, `VPQ_th@k`, `VPQ_st@k`: mean PQ over all classes, all things, all stuff, absent classes as 0, which is
      the number of OMG-Seg's script; None where no video has k frames.
    - `VPQ_present@k`, `VPQ_present_th@k`, `VPQ_present_st@k`: the same over classes with a TP, FP or FN, which is the
      number of VIPSeg's script; None where there is none.
    - The same names without `@k`: plain means over the windows; None where a window has no value.
    """
    things = np.asarray(is_thing, dtype=np.bool_)
    groups = {"": np.ones_like(things), "_th": things, "_st": ~things}
    values: dict[str, float | None] = {}
    of_name: dict[str, list[float | None]] = {f"VPQ{kind}{group}": [] for kind in ("", "_present") for group in groups}
    for k, of_window in counts.items():
        sums = of_window.class_sums(len(things))
        pq, present = panoptic_quality(sums).pq, sums[1:].any(axis=0)
        for group, members in groups.items():
            of_name[f"VPQ{group}"].append(_mean(pq[members]) if of_window.n_windows else None)
            of_name[f"VPQ_present{group}"].append(_mean(pq[members & present]))
        values |= {f"{name}@{k}": column[-1] for name, column in of_name.items()}
    return {name: _mean_if_complete(column) for name, column in of_name.items()} | values


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None


def _mean_if_complete(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there and len(there) == len(values) else None
