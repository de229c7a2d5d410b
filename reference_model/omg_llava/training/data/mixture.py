"""Several data sets as one: the official list, each as often as it stands there."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from omg_llava.config import AnswerFormat
from omg_llava.errors import ModelError
from omg_llava.training.recipe import DataRecipe
from omg_llava.training.samples import Family, TrainingSample


class Mixture:
    """Data sets behind each other, a data set of `times` n taking n places."""

    def __init__(self, parts: Sequence[tuple[Family, int]]) -> None:
        self._families = [family for family, times in parts for _ in range(times)]
        self._ends = list(accumulate(len(family) for family in self._families))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _find(self, index: int) -> tuple[Family, int]:
        which = bisect_right(self._ends, index)
        return self._families[which], index - (self._ends[which - 1] if which else 0)

    def picture(self, index: int) -> Path | None:
        """The picture's file; None for text alone."""
        family, own = self._find(index)
        return family.picture(own)

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """A sample of the data set in which the place lies."""
        family, own = self._find(index)
        return family.sample(own, random)


class _Roles(dict[str, Path]):
    """Files of a data set by role, and which roles were asked for. Raises `ModelError` for one that is missing."""

    def __init__(self, files: dict[str, Path], family: str) -> None:
        super().__init__(files)
        self.family = family
        self.asked: set[str] = set()

    def __missing__(self, role: str) -> Path:
        raise ModelError(f"no {role!r} among the files", where=f"data of family {self.family}")

    def __getitem__(self, role: str) -> Path:
        self.asked.add(role)
        return super().__getitem__(role)

    def __contains__(self, role: object) -> bool:
        self.asked.add(str(role))
        return super().__contains__(role)


def read_mixture(
    recipes: Sequence[DataRecipe], data_root: Path, answers: AnswerFormat, known: dict[str, Family] | None = None
) -> Mixture:
    """The data sets of a stage.

    Args:
        known: data sets that were read before, for the same root and answers; what is read is put there.

    Raises:
        ModelError: an unknown family, a role that the family lacks, a file that is not there.
        DataError: a file that cannot be read.
    """
    known = {} if known is None else known
    parts = []
    for recipe in recipes:
        if recipe.times < 1:
            raise ModelError(f"times is {recipe.times}", expected="at least 1", where=recipe.family)
        key = json.dumps([recipe.family, dict(recipe.files), dict(recipe.options)], sort_keys=True)
        if key not in known:
            known[key] = _read(recipe, data_root, answers)
        parts.append((known[key], recipe.times))
    return Mixture(parts)


def _read(recipe: DataRecipe, data_root: Path, answers: AnswerFormat) -> Family:
    from omg_llava.training.data import FAMILIES, load_family

    if recipe.family not in FAMILIES:
        raise ModelError(f"no data family is called {recipe.family!r}", expected=", ".join(FAMILIES))
    files = {role: data_root / path for role, path in recipe.files.items()}
    for role, path in files.items():
        if not path.exists():
            raise ModelError(f"{path} is not there", expected=f"the {role} of {recipe.family}", hint="--data-root")
    asked = _Roles(files, recipe.family)
    family = load_family(recipe.family).from_files(asked, recipe.options, answers)
    unknown = sorted(set(files) - asked.asked)
    if unknown:
        raise ModelError(
            f"the data family {recipe.family} has no {unknown[0]!r}", expected=", ".join(sorted(asked.asked))
        )
    return family
