"""Masks and phrases of grounded captions: matched mIoU and mask recall, as GLaMM's script takes them.

Source of every rule and quirk: mbzuai-oryx/groundingLMM, eval/gcg/evaluate.py (OMG-LLaVA's copy agrees). Values are
per image; the split's mIoU is their plain mean, the split's recall is matches over true labels, both summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omgbench.contract import Rle
from omgbench.metrics.iou import pairwise_iou
from omgbench.metrics.rle import areas_px

IOU_THRESHOLD = 0.5
TEXT_THRESHOLD = 0.5

Floats = NDArray[np.float64]


def iou_matrix(predictions: Sequence[Rle], references: Sequence[Rle]) -> Floats:
    """IoU of each predicted with each true mask, shape (predictions, references), 0 to 1, NaN for two empty masks.

    The script divides the sums of decoded masks, so two empty masks give 0 / 0. All masks have one size, else
    `DataError`.
    """
    iou = pairwise_iou(predictions, references)
    if not iou.all():
        empty_predictions, empty_references = (np.equal(areas_px(rles), 0) for rles in (predictions, references))
        iou[np.ix_(empty_predictions, empty_references)] = np.nan
    return iou


def mean_matched_iou(iou_matrix: ArrayLike) -> float:
    """The image's mIoU: mean IoU of the pairs taken greedily, largest first, one to one; 0 when there are none.

    Only pairs that overlap are taken, and only taken pairs count: a true mask that nothing overlaps costs nothing.
    A NaN in the matrix ends the script's loop before its first pair, so the image has 0. Range 0 to 1, higher is
    better. Shape (n, m) in either orientation, which decides between equal entries: the script has predictions first.
    """
    iou = np.asarray(iou_matrix, dtype=np.float64)
    taken = [] if np.isnan(iou).any() else _greedy_pairs(iou)
    return math.fsum(taken) / len(taken) if taken else 0.0


def mean_reference_iou(iou_matrix: ArrayLike) -> float | None:
    """The image's mIoU_all: the same pairs, but every true mask counts, with 0 when it is unmatched.

    Not the script's number. Shape (predictions, references); two empty masks (NaN) do not match. Range 0 to 1, higher
    is better, None for an image without true masks.
    """
    iou = np.asarray(iou_matrix, dtype=np.float64)
    n_references = iou.shape[1]
    return math.fsum(_greedy_pairs(iou)) / n_references if n_references else None


def _greedy_pairs(iou: Floats) -> list[float]:
    """IoU of the taken pairs; of equal entries the first by rows goes first. Entries that are NaN are passed over."""
    by_value = sorted((-value, i, j) for i, row in enumerate(iou.tolist()) for j, value in enumerate(row) if value > 0)
    rows: set[int] = set()
    columns: set[int] = set()
    taken = []
    for negative, i, j in by_value:
        if i not in rows and j not in columns:
            taken.append(-negative)
            rows.add(i)
            columns.add(j)
    return taken


@dataclass(frozen=True, slots=True)
class MaskRecall:
    """Mask recall of one image.

    Attributes:
        matches: (true mask, predicted mask) pairs in the order in which they were found.
        n_labels: true labels, which the split's denominator counts.
        phrases_ran_out: the script stopped with IndexError, and the image counts without any match.
    """

    matches: tuple[tuple[int, int], ...]
    n_labels: int
    phrases_ran_out: bool = False

    @property
    def n_matched(self) -> int:
        """Numerator of the split's recall."""
        return len(self.matches)


def mask_recall(iou: ArrayLike, similarity: ArrayLike) -> MaskRecall:
    """Match true masks with predicted ones that overlap and are called alike, both to 0.5 or more.

    Args:
        iou: true masks x predicted masks, NaN for two empty masks: `iou_matrix(...).T`.
        similarity: true labels x predicted phrases, see `text_similarity`. Shape (labels, 0) without phrases.

    The pair of largest IoU is matched, again and again, and its row and column are set to 0. Quirks kept: the
    matching *stops* at the first pair that fails, in IoU or in words, though others might pass; a NaN is the
    largest value and passes the IoU threshold, so two empty masks match when their words do; a pair looked up beyond
    the labels or phrases raises IndexError, which the script swallows together with the image's matches.
    """
    iou = np.array(iou, dtype=np.float64, ndmin=2)
    similarity = np.asarray(similarity, dtype=np.float64)
    n_labels = len(similarity)
    matches: list[tuple[int, int]] = []
    while iou.size:
        true, predicted = divmod(int(np.argmax(iou)), iou.shape[1])
        if iou[true, predicted] < IOU_THRESHOLD:
            break
        if true >= n_labels or predicted >= similarity.shape[1]:
            return MaskRecall((), n_labels, phrases_ran_out=True)
        if similarity[true, predicted] < TEXT_THRESHOLD:
            break
        matches.append((true, predicted))
        iou[true, :] = 0
        iou[:, predicted] = 0
    return MaskRecall(tuple(matches), n_labels)
