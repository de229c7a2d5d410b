"""COCO average precision and recall from per-image IoU matrices: all twelve numbers of COCOeval, in numpy.

`image_matches` makes a small JSON-able record per image, `average_precision` turns the records of a split into numbers.
Masks are needed for the first step alone. Algorithm: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omgbench.contract import Rle
from omgbench.errors import DataError
from omgbench.metrics.iou import pairwise_iou
from omgbench.metrics.rle import areas_px

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
AREA_RANGES_PX = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""All, small, medium, large; both ends belong to the range."""

MAX_PREDICTIONS = (1, 10, 100)
NO_REFERENCE = -1.0
"""COCOeval's value of a number for which there is no reference object."""

_BATCH_ELEMENTS = 2**19

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ImageMatches:
    """What COCO's AP needs to know of one image (and category).

    Attributes:
        image_id: unique per category; images count in the order of their ids, as in COCOeval, which decides between
            equal scores of different images.
        iou: predictions x references; two empty masks have 0; see `iou.pairwise_iou`.
        scores: of the predictions, falling, at most 100.
        prediction_areas_px: mask areas.
        reference_areas_px: `area` of the annotation, which may differ from its mask's.
        reference_is_crowd: crowds can be matched many times and count neither for nor against.
        reference_ids: annotation ids. COCOeval takes a match with id 0 for none, and so does this.
        category_id: class-agnostic tasks use one value.
    """

    image_id: int | str
    iou: tuple[tuple[float, ...], ...]
    scores: tuple[float, ...]
    prediction_areas_px: tuple[int, ...]
    reference_areas_px: tuple[float, ...]
    reference_is_crowd: tuple[bool, ...]
    reference_ids: tuple[int, ...]
    category_id: int = 1

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ImageMatches:
        """Read back what `to_json` gave, before or after a trip through JSON text."""
        return cls(
            image_id=record["image_id"],
            iou=tuple(tuple(row) for row in record["iou"]),
            scores=tuple(record["scores"]),
            prediction_areas_px=tuple(record["prediction_areas_px"]),
            reference_areas_px=tuple(record["reference_areas_px"]),
            reference_is_crowd=tuple(record["reference_is_crowd"]),
            reference_ids=tuple(record["reference_ids"]),
            category_id=record["category_id"],
        )


def image_matches(
    image_id: int | str,
    predictions: Sequence[Rle],
    references: Sequence[Rle],
    *,
    iou: ArrayLike | None = None,
    scores: Sequence[float] = (),
    reference_areas_px: Sequence[float] = (),
    reference_is_crowd: Sequence[bool] = (),
    reference_ids: Sequence[int] = (),
    category_id: int = 1,
) -> ImageMatches:
    """Compare the masks of one image. Lists left empty mean: scores 1.0, mask areas, no crowd, ids 1, 2, ...

    `iou` is the matrix of all predictions x references where it is known already (`grounding.iou_matrix` will do:
    NaN becomes 0); there are no crowds then.
    Predictions are put in falling order of score, equal scores in the order given; the first 100 are kept.
    Raises `DataError` for lists of wrong length, scores that are not finite, or masks of different size.
    """
    scores = _checked("scores", scores or [1.0] * len(predictions), len(predictions))
    if not np.isfinite(scores).all():
        raise DataError("a score is not finite", where=f"image {image_id}")
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[: MAX_PREDICTIONS[-1]].tolist()
    n = len(references)
    crowd = _checked("reference_is_crowd", reference_is_crowd or [False] * n, n)
    areas = _checked("reference_areas_px", reference_areas_px or areas_px(references), n)
    kept = [predictions[i] for i in order]
    matrix = pairwise_iou(kept, references, crowd) if iou is None else np.nan_to_num(iou)[order]
    return ImageMatches(
        image_id=image_id,
        iou=tuple(map(tuple, matrix.tolist())),
        scores=tuple(float(scores[i]) for i in order),
        prediction_areas_px=tuple(areas_px(kept)),
        reference_areas_px=tuple(areas),
        reference_is_crowd=tuple(bool(flag) for flag in crowd),
        reference_ids=tuple(_checked("reference_ids", reference_ids or range(1, n + 1), n)),
        category_id=category_id,
    )


def _checked(name: str, values: Sequence[Any], n: int) -> Sequence[Any]:
    if len(values) != n:
        raise DataError(f"{name} has {len(values)} entries", expected=f"{n}, one per mask")
    return values


def average_precision(images: Iterable[ImageMatches]) -> dict[str, float]:
    """COCOeval's twelve numbers by name: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.

    Each lies in 0 to 1, higher is better, -1 (`NO_REFERENCE`) where no reference object is in the area range.
    Without any prediction they are 0. Images without predictions must be given: their references count. Equal to
    pycocotools on the same data; the order in which the images are given does not matter. Raises `DataError` when an
    image comes twice.
    """
    entries = sorted(images, key=lambda entry: (entry.category_id, entry.image_id))
    by_category: dict[int, list[ImageMatches]] = {}
    for before, entry in zip([None, *entries], entries, strict=False):
        if before and (before.category_id, before.image_id) == (entry.category_id, entry.image_id):
            raise DataError(f"image {entry.image_id} comes twice")
        by_category.setdefault(entry.category_id, []).append(entry)
    curves = [_Curves(of_category) for of_category in by_category.values()]
    return _twelve_numbers(curves)


def _twelve_numbers(curves: Sequence[_Curves]) -> dict[str, float]:
    if not curves:
        return _summary(
            np.full((len(IOU_THRESHOLDS), 1, 1, len(AREA_RANGES_PX)), NO_REFERENCE),
            np.full((len(IOU_THRESHOLDS), 1, len(AREA_RANGES_PX), len(MAX_PREDICTIONS)), NO_REFERENCE),
        )
    precision = np.stack([curve.precision for curve in curves], axis=2)
    recall = np.stack([curve.recall for curve in curves], axis=1)
    return _summary(precision, recall)


def _summary(precision: Floats, recall: Floats) -> dict[str, float]:
    """Means over (thresholds, recall points, categories, areas) and (thresholds, categories, areas, maxima)."""
    return {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[0, ..., 0]),
        "AP75": _mean(precision[5, ..., 0]),
        **{f"AP{size}": _mean(precision[..., a]) for a, size in enumerate("sml", start=1)},
        **{f"AR{most}": _mean(recall[:, :, 0, m]) for m, most in enumerate(MAX_PREDICTIONS)},
        **{f"AR{size}": _mean(recall[:, :, a, -1]) for a, size in enumerate("sml", start=1)},
    }


def _mean(values: Floats) -> float:
    there = values[values > NO_REFERENCE]
    return float(there.mean()) if there.size else NO_REFERENCE


class _Curves:
    """Precision and recall of one category, images in order.

    Attributes:
        precision: (thresholds, recall points, areas) at most 100 predictions an image.
        recall: (thresholds, areas, maxima of predictions an image).
    """

    def __init__(self, entries: Sequence[ImageMatches]) -> None:
        n_thresholds, n_areas = len(IOU_THRESHOLDS), len(AREA_RANGES_PX)
        self.precision = np.full((n_thresholds, len(RECALL_POINTS), n_areas), NO_REFERENCE)
        self.recall = np.full((n_thresholds, n_areas, len(MAX_PREDICTIONS)), NO_REFERENCE)
        scores = np.array([score for entry in entries for score in entry.scores])
        rank = np.array([rank for entry in entries for rank in range(len(entry.scores))])
        matched, ignored = _match_all(entries)
        hit, miss = matched & ~ignored, ~matched & ~ignored
        n_references = _count_references(entries)
        order = np.argsort(-scores, kind="stable")
        for a in np.flatnonzero(n_references):
            self.precision[..., a] = _precision(hit[a][:, order], miss[a][:, order], int(n_references[a]))
            for m, most in enumerate(MAX_PREDICTIONS):
                self.recall[:, a, m] = hit[a][:, rank < most].sum(axis=-1) / n_references[a]


def _precision(hit: Flags, miss: Flags, n_references: int) -> Floats:
    """Interpolated precision at the recall points, (thresholds, recall points), of predictions in order of score."""
    n_hits = np.cumsum(hit, axis=1).astype(np.float64)
    n_misses = np.cumsum(miss, axis=1).astype(np.float64)
    precision = n_hits / (n_misses + n_hits + np.spacing(1))
    highest_later = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = n_hits / n_references
    result = np.zeros((len(hit), len(RECALL_POINTS)))
    for row, (of_threshold, reached) in enumerate(zip(highest_later, recall, strict=True)):
        at = np.searchsorted(reached, RECALL_POINTS, side="left")
        within = at < len(reached)
        result[row, within] = of_threshold[at[within]]
    return result


def _outside(areas_px: Floats) -> Flags:
    """Which areas lie outside of each range; adds an axis of ranges before the last."""
    low = np.array([low for low, _ in AREA_RANGES_PX])[:, None]
    high = np.array([high for _, high in AREA_RANGES_PX])[:, None]
    areas = areas_px[..., None, :]
    return (areas < low) | (areas > high)


def _count_references(entries: Sequence[ImageMatches]) -> NDArray[np.int64]:
    """Number of references that count, per area range."""
    areas = np.array([area for entry in entries for area in entry.reference_areas_px], dtype=np.float64)
    crowd = np.array([flag for entry in entries for flag in entry.reference_is_crowd], dtype=np.bool_)
    counts: NDArray[np.int64] = (~(_outside(areas) | crowd)).sum(axis=-1)
    return counts


def _match_all(entries: Sequence[ImageMatches]) -> tuple[Flags, Flags]:
    """Matched and ignored flags of every prediction in order, each (areas, thresholds, predictions)."""
    ends = np.cumsum([0, *(len(entry.scores) for entry in entries)])
    shape = (len(AREA_RANGES_PX), len(IOU_THRESHOLDS), int(ends[-1]))
    matched, ignored = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    for batch in _batches(entries):
        batch_matched, batch_ignored = _Batch([entries[i] for i in batch]).match()
        for row, i in enumerate(batch):
            place = np.s_[..., ends[i] : ends[i + 1]]
            n = len(entries[i].scores)
            matched[place] = batch_matched[row, ..., :n]
            ignored[place] = batch_ignored[row, ..., :n]
    return matched, ignored


def _batches(entries: Sequence[ImageMatches]) -> Iterator[list[int]]:
    """Indices of images with predictions, similar sizes together, so that little padding is needed."""
    with_predictions = [i for i, entry in enumerate(entries) if entry.scores]
    with_predictions.sort(key=lambda i: (len(entries[i].reference_ids), len(entries[i].scores)), reverse=True)
    while with_predictions:
        widest = max(1, len(entries[with_predictions[0]].reference_ids))
        size = max(1, _BATCH_ELEMENTS // (widest * len(AREA_RANGES_PX) * len(IOU_THRESHOLDS)))
        yield with_predictions[:size]
        del with_predictions[:size]


class _Batch:
    """Images padded to one shape and matched at once, over all area ranges and thresholds.

    Axes in this order: images n, areas a, thresholds t, predictions d, references g. Padded references are never
    available.
    """

    def __init__(self, entries: Sequence[ImageMatches]) -> None:
        n, d = len(entries), max(len(entry.scores) for entry in entries)
        g = max(1, *(len(entry.reference_ids) for entry in entries))
        self.iou = np.full((n, d, g), -1.0)
        self.prediction_areas_px = np.zeros((n, d))
        reference_areas_px = np.zeros((n, g))
        self.is_crowd = np.zeros((n, g), dtype=np.bool_)
        self.has_id_zero = np.zeros((n, g), dtype=np.bool_)
        for row, entry in enumerate(entries):
            n_predictions, n_references = len(entry.scores), len(entry.reference_ids)
            if n_references:
                self.iou[row, :n_predictions, :n_references] = entry.iou
            self.prediction_areas_px[row, :n_predictions] = entry.prediction_areas_px
            reference_areas_px[row, :n_references] = entry.reference_areas_px
            self.is_crowd[row, :n_references] = entry.reference_is_crowd
            self.has_id_zero[row, :n_references] = [number == 0 for number in entry.reference_ids]
        self.is_ignored = _outside(reference_areas_px) | self.is_crowd[:, None, :]
        self.thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)

    def match(self) -> tuple[Flags, Flags]:
        """Matched and ignored flags, each (images, areas, thresholds, predictions)."""
        n, n_predictions, n_references = self.iou.shape
        shape = (n, len(AREA_RANGES_PX), len(IOU_THRESHOLDS), n_predictions)
        matched, ignored = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
        available = np.ones((*shape[:3], n_references), dtype=np.bool_)
        for d in range(n_predictions):
            image, area, threshold, reference = self._take_best(self.iou[:, d], available)
            matched[image, area, threshold, d] = ~self.has_id_zero[image, reference]
            ignored[image, area, threshold, d] = self.is_ignored[image, area, reference]
            available[image, area, threshold, reference] = self.is_crowd[image, reference]
        outside = _outside(self.prediction_areas_px)[:, :, None, :]
        return matched, ignored | (~matched & outside)

    def _take_best(self, iou: Floats, available: Flags) -> tuple[NDArray[np.intp], ...]:
        """Where the prediction of this round finds a reference: indices (image, area, threshold, reference).

        Of the available references that reach the threshold, those that count go before the ignored ones; among
        them the highest IoU wins, and of equal ones the last.
        """
        reaches = available & (iou[:, None, None, :] >= self.thresholds[:, None])
        image, area, threshold = np.nonzero(reaches.any(axis=-1))
        candidates = reaches[image, area, threshold]
        counting = candidates & ~self.is_ignored[image, area]
        preferred = np.where(counting.any(axis=-1, keepdims=True), counting, candidates)
        value = np.where(preferred, iou[image], -1.0)
        reference = value.shape[-1] - 1 - np.argmax(value[:, ::-1], axis=-1)
        return image, area, threshold, reference
