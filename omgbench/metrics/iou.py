"""Mask IoU: overlaps of pairs in whole pixels, and the sums behind cIoU, gIoU and Pr@t.

All sums are exact, so that records may be merged in any order and grouping and still give the same bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from omgbench.contract import Rle
from omgbench.errors import DataError
from omgbench.metrics.rle import area_px, to_coco

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)

_SCALE_BITS = 1074


@dataclass(slots=True)
class ExactSum:
    """A sum of floats without any rounding: an integer multiple of 2**-1074, the smallest step of a float64."""

    units: int = 0

    def add(self, value: float) -> None:
        """Add a finite float."""
        numerator, denominator = value.as_integer_ratio()
        self.units += numerator << (_SCALE_BITS - denominator.bit_length() + 1)

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.units + other.units)

    def mean(self, n: int) -> float | None:
        """The exact sum divided by n, rounded once; None when n is 0."""
        return self.units / (n << _SCALE_BITS) if n else None


@dataclass(frozen=True, slots=True)
class MaskOverlap:
    """A predicted mask against its target, in pixels; the sufficient statistics of every metric of referring masks."""

    intersection_px: int
    prediction_px: int
    target_px: int

    @property
    def union_px(self) -> int:
        """Pixels of either mask."""
        return self.prediction_px + self.target_px - self.intersection_px

    @property
    def iou(self) -> float:
        """Intersection over union, 0 to 1; 1 when both masks are empty."""
        return self.intersection_px / self.union_px if self.union_px else 1.0


def overlap(prediction: Rle | None, target_one: Rle) -> MaskOverlap:
    """Compare one predicted mask with its target; no mask counts as an empty one.

    Args:
        prediction: a mask that passed `check_rle`, or None.
        target_one: the pixels where the official target has the value 1, see `rle.exactly_one_of`. Pixels of value 2
            are in neither class there, so a predicted pixel on them counts for the prediction's area alone:
            `intersectionAndUnionGPU` (LISA, utils/utils.py) takes histograms with 2 bins over 0 to 1.

    Raises `DataError` when the sizes differ.
    """
    if prediction is None:
        return MaskOverlap(0, 0, area_px(target_one))
    if prediction.size != target_one.size:
        raise DataError(f"masks of different size: {prediction.size} and {target_one.size} (height, width)")
    pair = [to_coco(prediction), to_coco(target_one)]
    common = coco_mask.merge(pair, intersect=True)
    return MaskOverlap(*coco_mask.area([common, *pair]).tolist())


def pairwise_iou(
    predictions: Sequence[Rle], references: Sequence[Rle], reference_is_crowd: Sequence[bool] = ()
) -> NDArray[np.float64]:
    """IoU of each prediction with each reference, shape (predictions, references), as COCO's AP takes it.

    Two empty masks have 0. Against a crowd the union is the prediction's area. All masks have one size.
    """
    sizes = {rle.size for rle in (*predictions, *references)}
    if len(sizes) > 1:
        raise DataError(f"masks of different size: {sorted(sizes)} (height, width)")
    if not predictions or not references:
        return np.zeros((len(predictions), len(references)))
    crowd = [int(flag) for flag in reference_is_crowd] or [0] * len(references)
    iou = coco_mask.iou([to_coco(rle) for rle in predictions], [to_coco(rle) for rle in references], crowd)
    return np.ascontiguousarray(iou, dtype=np.float64)


@dataclass(slots=True)
class ReferringSums:
    """Sums over the sentences of a split. Every metric lies in 0 to 1, higher is better, and is None for n = 0.

    Attributes:
        n: sentences.
        intersection_px, union_px: over all sentences.
        union_without_missing_px: the same without the sentences that were answered without a mask.
        iou_sum: I / (U + 1e-5) per sentence, plus 1 where U = 0.
        hits: sentences whose IoU reaches each of `PRECISION_THRESHOLDS`.
    """

    n: int = 0
    intersection_px: int = 0
    union_px: int = 0
    union_without_missing_px: int = 0
    iou_sum: ExactSum = field(default_factory=ExactSum)
    hits: tuple[int, ...] = (0,) * len(PRECISION_THRESHOLDS)

    def add(self, sentence: MaskOverlap, *, mask_missing: bool = False, failed: bool = False) -> None:
        """Count one sentence.

        Args:
            sentence: its overlap.
            mask_missing: the model answered, but gave no mask. Counts as an empty mask, except in `cIoU_skip_missing`.
            failed: there is no answer (error, timeout, missing). Counts as a wrong one everywhere: no intersection,
                the target's area as union, IoU 0 even for an empty target.
        """
        if failed:
            sentence = MaskOverlap(0, 0, sentence.target_px)
        intersection_px, union_px = sentence.intersection_px, sentence.union_px
        self.n += 1
        self.intersection_px += intersection_px
        self.union_px += union_px
        if failed or not mask_missing:
            self.union_without_missing_px += union_px
        if failed:
            return
        self.iou_sum.add(intersection_px / (union_px + 1e-5) if union_px else 1.0)
        n_reached = bisect_right(PRECISION_THRESHOLDS, intersection_px / union_px if union_px else 1.0)
        if n_reached:
            reached = [hits + 1 for hits in self.hits[:n_reached]]
            self.hits = (*reached, *self.hits[n_reached:])

    def __add__(self, other: ReferringSums) -> ReferringSums:
        return ReferringSums(
            n=self.n + other.n,
            intersection_px=self.intersection_px + other.intersection_px,
            union_px=self.union_px + other.union_px,
            union_without_missing_px=self.union_without_missing_px + other.union_without_missing_px,
            iou_sum=self.iou_sum + other.iou_sum,
            hits=tuple(mine + theirs for mine, theirs in zip(self.hits, other.hits, strict=True)),
        )

    @property
    def ciou(self) -> float | None:
        """cIoU (also oIoU): sum of I / (sum of U + 1e-10), as in LISA's and OMG-LLaVA's scripts."""
        return self.intersection_px / (self.union_px + 1e-10) if self.n else None

    @property
    def ciou_skip_missing(self) -> float | None:
        """cIoU of OMG-LLaVA's script: a sentence answered without a mask leaves the union. 0 when all were.

        Such a sentence has no intersection, and counts as 0 in gIoU under either rule.
        """
        return self.intersection_px / (self.union_without_missing_px + 1e-10) if self.n else None

    @property
    def giou(self) -> float | None:
        """gIoU (also mIoU): mean over sentences of I / (U + 1e-5), 1 where U = 0 (LISA, train_ds.py)."""
        return self.iou_sum.mean(self.n)

    def values(self) -> dict[str, float | None]:
        """Every metric by name: cIoU, gIoU, Pr@0.5 to Pr@0.9, cIoU_skip_missing.

        Pr@t is the share of sentences whose IoU is t or more, with the IoU I / U (no 1e-5) and 1 where U = 0.
        """
        precision = {
            f"Pr@{threshold}": hits / self.n if self.n else None
            for threshold, hits in zip(PRECISION_THRESHOLDS, self.hits, strict=True)
        }
        return {"cIoU": self.ciou, "gIoU": self.giou, **precision, "cIoU_skip_missing": self.ciou_skip_missing}
