"""Data sets behind each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omg_llava.errors import ModelError
from omg_llava.training.data import FAMILIES, load_family
from omg_llava.training.data.mixture import Mixture, read_mixture
from omg_llava.training.recipe import DataRecipe
from omg_llava.training.samples import Exchange, TrainingSample
from omgbench.errors import DataError


class Numbers:
    """Samples that say where they come from and what was drawn."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n

    @classmethod
    def from_files(cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: Any) -> Numbers:
        raise AssertionError

    def __len__(self) -> int:
        return self.n

    def picture(self, index: int) -> Path | None:
        assert 0 <= index < self.n
        return Path(f"{self.name}{index}")

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        return TrainingSample(self.picture(index), (Exchange(self.name, str(random.randint(10**9))),))


def test_every_data_set_stands_there_as_often_as_it_should() -> None:
    mixture = Mixture([(Numbers("a", 3), 2), (Numbers("none", 0), 4), (Numbers("b", 1), 1), (Numbers("c", 2), 3)])
    expected = ["a0", "a1", "a2"] * 2 + ["b0"] + ["c0", "c1"] * 3
    assert len(mixture) == len(expected)
    assert [str(mixture.picture(index)) for index in range(len(mixture))] == expected
    random = np.random.RandomState(0)
    assert [str(mixture.sample(index, random).picture) for index in range(len(mixture))] == expected


def test_samples_are_drawn_from_the_given_state_alone() -> None:
    mixture = Mixture([(Numbers("a", 2), 2)])
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first, again = (mixture.sample(3, np.random.RandomState(8)).exchanges for _ in range(2))
    assert first == again != mixture.sample(3, np.random.RandomState(9)).exchanges
    assert np.array_equal(np.random.get_state()[1], before)


def test_nothing_is_a_mixture_too() -> None:
    assert len(Mixture([])) == len(Mixture([(Numbers("a", 0), 3)])) == 0


def test_families_are_classes() -> None:
    for name in FAMILIES:
        family = load_family(name)
        assert all(callable(getattr(family, method)) for method in ("from_files", "__len__", "picture", "sample"))


def conversations(folder: Path, name: str, n: int) -> DataRecipe:
    entries = [
        {"image": f"{name}{i}.jpg", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": name}]}
        for i in range(n)
    ]
    (folder / f"{name}.json").write_text(json.dumps(entries))
    (folder / "pictures").mkdir(exist_ok=True)
    return DataRecipe("llava", {"conversations": f"{name}.json", "images": "pictures"})


def test_files_are_read_under_the_root(tmp_path: Path) -> None:
    one, two = conversations(tmp_path, "one", 2), conversations(tmp_path, "two", 1)
    mixture = read_mixture([one, DataRecipe(two.family, two.files, times=3)], tmp_path, "grounded")
    names = [mixture.picture(index).name for index in range(len(mixture))]
    assert names == ["one0.jpg", "one1.jpg", "two0.jpg", "two0.jpg", "two0.jpg"]
    assert mixture.picture(0).parent == tmp_path / "pictures"


def test_what_was_read_before_is_not_read_again(tmp_path: Path) -> None:
    one = conversations(tmp_path, "one", 2)
    known: dict[str, Any] = {}
    read_mixture([one], tmp_path, "grounded", known)
    (tmp_path / "one.json").write_text("[]")
    assert len(read_mixture([one, one], tmp_path, "grounded", known)) == 4
    assert len(read_mixture([one], tmp_path, "grounded")) == 0


def test_answers_are_asked_for_as_the_model_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    class Family(Numbers):
        @classmethod
        def from_files(cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: Any) -> Numbers:
            given.append(({role: files[role] for role in files}, dict(options), answers))
            return Numbers("x", 1)

    monkeypatch.setattr("omg_llava.training.data.load_family", lambda name: Family)
    recipe = DataRecipe("llava", {"conversations": "."}, options={"a": 1})
    read_mixture([recipe], tmp_path, "plain")
    assert given == [({"conversations": tmp_path}, {"a": 1}, "plain")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "lava"}, "no data family is called 'lava'"),
        ({"family": "panoptic"}, "no data family is called 'panoptic'"),
        ({"times": 0}, "times is 0"),
        ({"times": -1}, "times is -1"),
        ({"files": {"conversations": "nowhere.json", "images": "pictures"}}, "nowhere.json is not there"),
        ({"files": {"conversations": "one.json", "images": "nowhere"}}, "nowhere is not there"),
        ({"files": {"conversations": "one.json"}}, "no 'images' among the files"),
        ({"files": {"images": "pictures"}}, "no 'conversations' among the files"),
        ({"options": {"n": 3}}, "options n of the data family llava"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_a_model_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    recipe = conversations(tmp_path, "one", 1)
    entries = {"family": recipe.family, "files": recipe.files, "times": 1, "options": {}} | changes
    with pytest.raises(ModelError) as caught:
        read_mixture([DataRecipe(**entries)], tmp_path, "grounded")
    assert message in str(caught.value)


def test_a_role_that_the_family_lacks_is_a_model_error(tmp_path: Path) -> None:
    recipe = conversations(tmp_path, "one", 1)
    with pytest.raises(ModelError, match="masks"):
        read_mixture([DataRecipe("llava", {**recipe.files, "masks": "one.json"})], tmp_path, "grounded")


def test_a_file_that_cannot_be_read_names_itself(tmp_path: Path) -> None:
    recipe = conversations(tmp_path, "one", 1)
    (tmp_path / "one.json").write_text("[{")
    with pytest.raises(DataError) as caught:
        read_mixture([recipe], tmp_path, "grounded")
    assert "one.json" in str(caught.value)
