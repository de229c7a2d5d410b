"""A bag of words: right angles between words, names near what they share words with."""

from __future__ import annotations

import pytest
import torch

from omg_llava.config import ClassConfig, ClassSetConfig
from omg_llava.errors import ModelError
from omg_llava.training.word_vectors import WordVectors

NAMES = ("small red circle", "large red star", "circle", "snow", "dining table", "rug")


@pytest.fixture
def vectors() -> WordVectors:
    return WordVectors(NAMES, 16)


def test_words_are_unit_vectors_at_right_angles(vectors: WordVectors) -> None:
    words = torch.stack([vectors.of(word) for word in ("small", "large", "red", "circle", "star", "snow", "table")])
    torch.testing.assert_close(words @ words.T, torch.eye(7))
    assert words.dtype == torch.float32


def test_a_name_is_as_near_as_the_words_it_shares(vectors: WordVectors) -> None:
    whole = vectors.of("small red circle")
    assert float(whole.norm()) == pytest.approx(1)
    assert float(whole @ vectors.of("circle")) == pytest.approx(3**-0.5)
    assert float(whole @ vectors.of("large red star")) == pytest.approx(1 / 3)
    assert float(whole @ vectors.of("snow")) == pytest.approx(0, abs=1e-6)
    assert torch.equal(whole, vectors.of("  small red  circle "))
    torch.testing.assert_close(whole, vectors.of("circle small red"))


def test_vectors_depend_on_the_words_alone(vectors: WordVectors) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = WordVectors([*reversed(NAMES), "red snow"], 16)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(vectors.of(name), again.of(name)) for name in NAMES)


def test_a_table_has_a_row_for_each_name(vectors: WordVectors) -> None:
    table = vectors.table(NAMES)
    assert table.shape == (len(NAMES), 1, 16)
    assert all(torch.equal(row[0], vectors.of(name)) for row, name in zip(table, NAMES, strict=True))


def test_prototypes_repeat_the_first_synonym() -> None:
    vectors = WordVectors(["dining table", "desk", "bench", "rug"], 16)
    classes = (
        ClassConfig(1, "table", "dining table, desk ,bench"),
        ClassConfig(2, "rug", "rug"),
        ClassConfig(3, "desk", "desk,rug"),
    )
    found = vectors.prototypes(ClassSetConfig("rooms", 0, classes, 3))
    expected = [["dining table", "desk", "bench"], ["rug"] * 3, ["desk", "rug", "desk"]]
    assert torch.equal(found, torch.stack([vectors.table(names)[:, 0] for names in expected]))


def test_more_synonyms_than_prototypes_are_a_model_error() -> None:
    vectors = WordVectors(["a", "b", "c"], 16)
    classes = (ClassConfig(1, "a", "a,b,c"), ClassConfig(2, "b", "b"))
    with pytest.raises(ModelError):
        vectors.prototypes(ClassSetConfig("letters", 0, classes, 2))


@pytest.mark.parametrize("name", ["blue circle", "Circle", "", "  ", "circle,"])
def test_words_outside_the_vocabulary_are_a_model_error(vectors: WordVectors, name: str) -> None:
    with pytest.raises(ModelError, match="no vector for"):
        vectors.of(name)


def test_as_many_words_as_the_width_and_no_more() -> None:
    words = [f"w{number}" for number in range(8)]
    vectors = WordVectors(words, 8)
    torch.testing.assert_close(vectors.table(words)[:, 0] @ vectors.table(words)[:, 0].T, torch.eye(8))
    with pytest.raises(ModelError, match="9 words"):
        WordVectors([*words, "w8 w1"], 8)
