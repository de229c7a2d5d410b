"""ROUGE-L of captions, values as in pycocoevalcap 1.2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BETA = 1.2


def rouge_l(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> tuple[float, NDArray[np.float64]]:
    """ROUGE-L (Lin, 2004) of the set and of each caption.

    With P the largest share of the hypothesis' words, and R the largest share of a reference's words, that lie in the
    longest common subsequence (each largest over the references on its own), the value is
    (1 + b^2) P R / (R + b^2 P), b = 1.2; 0 where P or R is 0. The set's value is the mean over captions. Range 0 to 1,
    higher is better.

    Quirk of the official code: words are what stands between single spaces, so an empty caption is one empty word. Two
    empty captions score 1; an empty one against any other scores 0.

    Source: pycocoevalcap 1.2, rouge/rouge.py.

    Args:
        references: for each caption one or more tokenised references.
        hypotheses: one tokenised hypothesis for each caption.

    Returns:
        The set's value and float64 [N], the value of each caption.
    """
    values = np.array([_rouge_l(refs, hypothesis) for refs, hypothesis in zip(references, hypotheses, strict=True)])
    return float(np.mean(values)), values


def _rouge_l(references: Sequence[str], hypothesis: str) -> float:
    words = hypothesis.split(" ")
    positions = _positions(words)
    precision = recall = 0.0
    for reference in references:
        reference_words = reference.split(" ")
        common = _common_subsequence_length(positions, len(words), reference_words)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(reference_words))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _positions(words: Sequence[str]) -> dict[str, int]:
    """For each distinct word a bit mask of where it stands."""
    positions: dict[str, int] = {}
    for index, word in enumerate(words):
        positions[word] = positions.get(word, 0) | 1 << index
    return positions


def _common_subsequence_length(positions: dict[str, int], n_words: int, other: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table per machine operation (Hyyro, 2004).

    A cleared bit i says that the table grows by one at column i, so the cleared bits are counted at the end.
    """
    full = (1 << n_words) - 1
    row = full
    for word in other:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return n_words - row.bit_count()
