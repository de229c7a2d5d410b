"""BLEU-1 to BLEU-4 of captions, values as in pycocoevalcap 1.2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omgbench.metrics.captions.ngrams import CaptionNgrams, IntArray, OrderCounts, look_up

# The official code's guards against division by zero; they show in the tenth digit (0.55 is given as 0.5499999999725).
_SMALL = 1e-9
_TINY = 1e-15


def bleu(ngrams: CaptionNgrams) -> list[tuple[float, NDArray[np.float64]]]:
    """Corpus BLEU and each caption's own, for each order that was counted.

    BLEU-n (Papineni et al., ACL 2002) is the geometric mean of the clipped n-gram precisions of orders 1 to n, times
    exp(1 - r/c) where the hypotheses (c words) are shorter than the references (r words: of each caption the reference
    closest in length, the shorter of two). The corpus value comes from summed counts, not from the captions' values.
    Range 0 to 1, higher is better. An empty hypothesis gives 0; one without any match gives next to 0, not 0.

    Source: pycocoevalcap 1.2, bleu/bleu_scorer.py, option `closest`.

    Returns:
        For BLEU-1, BLEU-2, ...: the corpus value and float64 [N], the value of each caption.
    """
    lengths = ngrams.hypothesis_lengths
    closest = _closest_lengths(ngrams)
    correct = np.array([_clipped_matches(order, ngrams) for order in ngrams.orders])
    guessed = np.array([np.maximum(lengths - n, 0) for n in range(len(ngrams.orders))])
    captions = _geometric_means(correct, guessed) * _brevity(lengths, closest)
    corpus = _geometric_means(correct.sum(axis=1), guessed.sum(axis=1)) * _brevity(lengths.sum(), closest.sum())
    return [(float(total), values) for total, values in zip(corpus, captions, strict=True)]


def _geometric_means(correct: NDArray[np.int64], guessed: NDArray[np.int64]) -> NDArray[np.float64]:
    products = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=0)
    exponents = 1.0 / np.arange(1, len(products) + 1)
    return products ** exponents.reshape(-1, *[1] * (products.ndim - 1))


def _brevity(hypothesis_words: IntArray, reference_words: IntArray) -> NDArray[np.float64]:
    ratio = (hypothesis_words + _TINY) / (reference_words + _SMALL)
    return np.exp(np.minimum(1 - 1 / ratio, 0.0))


def _closest_lengths(ngrams: CaptionNgrams) -> IntArray:
    item, lengths = ngrams.item_of_reference, ngrams.reference_lengths
    distance = np.abs(lengths - ngrams.hypothesis_lengths[item])
    best_first = np.lexsort((lengths, distance, item))
    _, first = np.unique(item[best_first], return_index=True)
    return lengths[best_first][first]


def _clipped_matches(order: OrderCounts, ngrams: CaptionNgrams) -> IntArray:
    hypotheses, references = order.hypotheses, order.references
    keys = ngrams.item_of_reference[references.sentence] * order.n_grams + references.gram
    by_key = np.lexsort((-references.count, keys))
    keys, most_first = np.unique(keys[by_key], return_index=True)
    most = references.count[by_key][most_first]
    limit = look_up(keys, most, hypotheses.sentence * order.n_grams + hypotheses.gram)
    matches = np.bincount(
        hypotheses.sentence, np.minimum(hypotheses.count, limit), minlength=len(ngrams.hypothesis_lengths)
    )
    return matches.astype(np.int64)
