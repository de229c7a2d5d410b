"""CIDEr-D of captions, values as in pycocoevalcap 1.2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omgbench.metrics.captions.ngrams import CaptionNgrams, OrderCounts, look_up

SIGMA = 6.0


def cider(ngrams: CaptionNgrams) -> tuple[float, NDArray[np.float64]]:
    """CIDEr of the set, and of each caption; what the field prints as CIDEr is the variant CIDEr-D.

    For each order n = 1 to 4 a sentence is a vector over n-grams g, count(g) * (log N - log max(1, df(g))), where N is
    the number of items and df(g) the number of items with g in a reference. **The document frequencies come from the
    references of the evaluated set**, so the same caption scores otherwise in another set, and a set of one item
    scores 0. With h and r the vectors of hypothesis and reference,

        sim(h, r) = sum(min(h, r) * r) / (|h| |r|) * exp(-(difference of bigram counts)^2 / (2 * 6^2))

    and a caption's value is 10 times the mean over its references and orders; the value of the set is the mean over
    captions. Range 0 to 10 (papers print it x100), higher is better. An empty hypothesis, or empty references, give 0.

    Source: Vedantam et al., CVPR 2015 (arXiv 1411.5726); pycocoevalcap 1.2, cider/cider_scorer.py, which fails where
    every reference is empty (here: 0).

    Args:
        ngrams: counts of orders 1 to 4.

    Returns:
        The set's value and float64 [N], the value of each caption.
    """
    item = ngrams.item_of_reference
    n_items = len(ngrams.hypothesis_lengths)
    similarity = np.mean([_similarity(order, ngrams) for order in ngrams.orders], axis=0) * _length_penalty(ngrams)
    values = 10.0 * np.bincount(item, similarity, minlength=n_items) / np.bincount(item, minlength=n_items)
    return float(np.mean(values)), values


def _similarity(order: OrderCounts, ngrams: CaptionNgrams) -> NDArray[np.float64]:
    """Clipped cosine of each reference with its item's hypothesis, float64 [R]."""
    hypotheses, references = order.hypotheses, order.references
    item = ngrams.item_of_reference
    n_items, n_references = len(ngrams.hypothesis_lengths), len(item)
    reference_keys = item[references.sentence] * order.n_grams + references.gram
    weights = _inverse_document_frequencies(reference_keys, order.n_grams, n_items)
    reference_weights = references.count * weights[references.gram]
    hypothesis_weights = hypotheses.count * weights[hypotheses.gram]

    opposite = look_up(hypotheses.sentence * order.n_grams + hypotheses.gram, hypothesis_weights, reference_keys)
    products = np.minimum(opposite, reference_weights) * reference_weights
    dots = np.bincount(references.sentence, products, minlength=n_references)
    reference_norms = np.sqrt(np.bincount(references.sentence, reference_weights**2, minlength=n_references))
    hypothesis_norms = np.sqrt(np.bincount(hypotheses.sentence, hypothesis_weights**2, minlength=n_items))
    norms = reference_norms * hypothesis_norms[item]
    cosines: NDArray[np.float64] = np.divide(dots, norms, out=np.zeros(n_references), where=norms > 0)
    return cosines


def _inverse_document_frequencies(keys: NDArray[np.int64], n_grams: int, n_items: int) -> NDArray[np.float64]:
    frequency = np.bincount(np.unique(keys) % max(n_grams, 1), minlength=n_grams)
    weights: NDArray[np.float64] = np.log(float(n_items)) - np.log(np.maximum(frequency, 1))
    return weights


def _length_penalty(ngrams: CaptionNgrams) -> NDArray[np.float64]:
    hypothesis_bigrams = np.maximum(ngrams.hypothesis_lengths - 1, 0)
    reference_bigrams = np.maximum(ngrams.reference_lengths - 1, 0)
    difference = (hypothesis_bigrams[ngrams.item_of_reference] - reference_bigrams).astype(np.float64)
    penalty: NDArray[np.float64] = np.exp(-(difference**2) / (2 * SIGMA**2))
    return penalty
