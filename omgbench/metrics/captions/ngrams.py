"""Counts of word n-grams in captions, as integer arrays; what BLEU and CIDEr both stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GramCounts:
    """How often each n-gram of one order stands in each sentence: a sparse table of M entries.

    Attributes:
        sentence: int64 [M], index of the sentence; ascending.
        gram: int64 [M], id of the n-gram; ascending in a sentence, no pair twice.
        count: int64 [M], at least 1.
    """

    sentence: IntArray
    gram: IntArray
    count: IntArray


@dataclass(frozen=True, slots=True)
class OrderCounts:
    """The n-grams of one order in all captions; both tables share the ids 0 .. n_grams - 1."""

    n_grams: int
    hypotheses: GramCounts
    references: GramCounts


@dataclass(frozen=True, slots=True)
class CaptionNgrams:
    """N items with one hypothesis each and R references in all, counted in n-grams of orders 1, 2, ...

    Attributes:
        item_of_reference: int64 [R], ascending: the item a reference belongs to.
        hypothesis_lengths: int64 [N], words in each hypothesis.
        reference_lengths: int64 [R], words in each reference.
        orders: counts of order 1, 2, ...; in a hypothesis table the sentence is the item, in a reference table it is
            the reference.
    """

    item_of_reference: IntArray
    hypothesis_lengths: IntArray
    reference_lengths: IntArray
    orders: list[OrderCounts]


def count_ngrams(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, max_order: int = 4
) -> CaptionNgrams:
    """Count the n-grams of tokenised captions; words are what stands between white space (`str.split`).

    Args:
        references: for each item its references.
        hypotheses: for each item its hypothesis.
        max_order: longest n-gram.
    """
    n_items = len(hypotheses)
    sentences = [*hypotheses, *(reference for item in references for reference in item)]
    words, lengths = _word_ids(sentences)
    sentence = np.repeat(np.arange(len(sentences)), lengths)
    start, gram = np.arange(len(words)), words
    orders = []
    for order in range(1, max_order + 1):
        if order > 1:
            last = start + order - 1
            whole = np.flatnonzero(
                (last < len(words)) & (sentence[np.minimum(last, len(words) - 1)] == sentence[start])
            )
            start, last, prefix = start[whole], last[whole], gram[whole]
            _, gram = np.unique(prefix * (len(words) + 1) + words[last], return_inverse=True)
        orders.append(_count_order(sentence[start], gram, n_items))
    item_of_reference = np.repeat(np.arange(n_items), [len(item) for item in references])
    return CaptionNgrams(item_of_reference, lengths[:n_items], lengths[n_items:], orders)


def look_up(keys: IntArray, values: NDArray[np.generic], wanted: IntArray) -> NDArray[np.generic]:
    """For each wanted key the value beside it, 0 where it is absent; `keys` ascending and distinct."""
    if len(keys) == 0:
        return np.zeros(len(wanted), dtype=values.dtype)
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[position] == wanted, values[position], np.zeros(1, dtype=values.dtype))


def _word_ids(sentences: Sequence[str]) -> tuple[IntArray, IntArray]:
    vocabulary: dict[str, int] = {}
    ids: list[int] = []
    lengths = []
    for sentence in sentences:
        words = sentence.split()
        lengths.append(len(words))
        ids.extend([vocabulary.setdefault(word, len(vocabulary)) for word in words])
    return np.array(ids, dtype=np.int64), np.array(lengths, dtype=np.int64)


def _count_order(sentence: IntArray, gram: IntArray, n_items: int) -> OrderCounts:
    n_grams = int(gram.max()) + 1 if len(gram) else 0
    pairs, count = np.unique(sentence * n_grams + gram, return_counts=True)
    pair_sentence, pair_gram = np.divmod(pairs, max(n_grams, 1))
    split = int(np.searchsorted(pair_sentence, n_items))
    hypotheses = GramCounts(pair_sentence[:split], pair_gram[:split], count[:split])
    references = GramCounts(pair_sentence[split:] - n_items, pair_gram[split:], count[split:])
    return OrderCounts(n_grams, hypotheses, references)
