"""BLEU, CIDEr and ROUGE-L against pycocoevalcap's Python classes, and their empty cases."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from omgbench.metrics.captions.bleu import bleu
from omgbench.metrics.captions.cider import cider
from omgbench.metrics.captions.ngrams import count_ngrams
from omgbench.metrics.captions.rouge import rouge_l

Captions = tuple[list[list[str]], list[str]]


def _random_captions(seed: int) -> Captions:
    rng = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(rng.choice([2, 5, 40]))] + ["", "no\u00a0break", " "]

    def caption() -> str:
        return " ".join(rng.choices(vocabulary, k=rng.randint(0, 12)))

    n_items = rng.randint(2, 25)
    references = [[caption() for _ in range(rng.randint(1, 5))] for _ in range(n_items)]
    references[0][0] = "one word at least"
    hypotheses = [rng.choice([caption(), rng.choice(references[item])]) for item in range(n_items)]
    return references, hypotheses


def _official(scorer: object, references: list[list[str]], hypotheses: list[str], **options: int) -> tuple[object, ...]:
    gts = dict(enumerate(references))
    res = {item: [hypothesis] for item, hypothesis in enumerate(hypotheses)}
    return scorer.compute_score(gts, res, **options)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("seed", range(25))
def test_cider_is_the_official_one(seed: int) -> None:
    from pycocoevalcap.cider.cider import Cider

    references, hypotheses = _random_captions(seed)
    corpus, items = cider(count_ngrams(references, hypotheses))
    expected_corpus, expected_items = _official(Cider(), references, hypotheses)
    np.testing.assert_allclose(items, expected_items, rtol=0, atol=1e-12)
    assert corpus == pytest.approx(expected_corpus, abs=1e-12)


@pytest.mark.parametrize("seed", range(25))
def test_bleu_is_the_official_one(seed: int) -> None:
    from pycocoevalcap.bleu.bleu import Bleu

    references, hypotheses = _random_captions(seed)
    orders = bleu(count_ngrams(references, hypotheses))
    expected_corpus, expected_items = _official(Bleu(4), references, hypotheses, verbose=0)
    np.testing.assert_allclose([items for _, items in orders], expected_items, rtol=0, atol=1e-12)
    np.testing.assert_allclose([corpus for corpus, _ in orders], expected_corpus, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(25))
def test_rouge_l_is_the_official_one(seed: int) -> None:
    from pycocoevalcap.rouge.rouge import Rouge

    references, hypotheses = _random_captions(seed)
    corpus, items = rouge_l(references, hypotheses)
    expected_corpus, expected_items = _official(Rouge(), references, hypotheses)
    np.testing.assert_allclose(items, expected_items, rtol=0, atol=1e-15)
    assert corpus == pytest.approx(expected_corpus, abs=1e-15)


def test_cider_of_one_item_is_zero() -> None:
    corpus, items = cider(count_ngrams([["a dog runs"]], ["a dog runs"]))
    assert corpus == 0 and items.tolist() == [0]


def test_cider_of_a_perfect_set_is_ten() -> None:
    captions = [f"w{4 * item} w{4 * item + 1} w{4 * item + 2} w{4 * item + 3}" for item in range(3)]
    corpus, _ = cider(count_ngrams([[caption] for caption in captions], captions))
    assert corpus == pytest.approx(10, abs=1e-12)


def test_cider_depends_on_the_evaluated_set() -> None:
    references, hypotheses = [["a dog runs"], ["a cat sits"], ["a dog sits"]], ["a dog runs", "a cat", "dog sits"]
    whole = cider(count_ngrams(references, hypotheses))[1]
    part = cider(count_ngrams(references[:2], hypotheses[:2]))[1]
    assert abs(whole[1] - part[1]) > 0.1


@pytest.mark.parametrize("references", [[[""], ["", ""]], [["a dog"], ["a cat", "cats"]]])
def test_nothing_said_scores_zero(references: list[list[str]]) -> None:
    ngrams = count_ngrams(references, ["", ""])
    assert cider(ngrams)[0] == 0
    assert [corpus for corpus, _ in bleu(ngrams)] == [0, 0, 0, 0]
    assert rouge_l(references, ["", ""])[0] == (1 if references[0] == [""] else 0)


def test_long_captions_are_scored_at_once() -> None:
    rng = random.Random(0)
    words = rng.choices(["a", "b", "c"], k=5000)
    began = time.process_time()
    corpus, _ = rouge_l([[" ".join(words)]], [" ".join(words[::-1])])
    assert 0.5 < corpus < 1
    # The official table of 25 million cells takes some seconds.
    assert time.process_time() - began < 1
