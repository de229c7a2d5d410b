"""Ablation studies: one recipe under several configurations and seeds, every result scored by the harness.

A study is resumed as a training is: what is done stays, what is begun goes on. Scores come from `omgbench run` as
anybody's would, so that the tables are `omgbench table STUDY/results/*`.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omg_llava.config import build_from_json, read_json_object
from omg_llava.errors import ModelError
from omg_llava.training.recipe import Recipe, find_recipe

_STUDIES = Path(__file__).parent / "studies"


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of an ablation table: a name, and what it changes of the recipe's configuration."""

    name: str
    what: str
    ablation: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Study:
    """A study.

    Attributes:
        recipe: trained for every variant and seed, as far as `steps` names its stages.
        steps: of each stage that is trained.
        perception_from: whose perception all variants share; see `Recipe`.
        tasks: what `--tasks` of `omgbench run` takes.
        run_options: further words for `omgbench run`.
    """

    name: str
    what: str
    recipe: str
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    tasks: str
    steps: Mapping[str, int]
    perception_from: str
    run_options: tuple[str, ...] = ()

    def recipes(self) -> Iterator[Recipe]:
        """One recipe per training, seeds outermost, so that a study stopped early has whole tables of fewer seeds."""
        whole = find_recipe(self.recipe)
        stages = [dataclasses.replace(s, steps=self.steps[s.name]) for s in whole.stages if s.name in self.steps]
        base = dataclasses.replace(whole, stages=tuple(stages), perception_from=self.perception_from)
        for seed in self.seeds:
            for variant in self.variants:
                changes = {"ablation": variant.ablation, "changes": variant.changes, "seed": seed}
                yield dataclasses.replace(base, name=variant.name, what=variant.what, **changes)  # type: ignore[arg-type]


def study_names() -> tuple[str, ...]:
    """Names of the studies that come along."""
    return tuple(sorted(path.stem for path in _STUDIES.glob("*.json")))


def study_list() -> dict[str, str]:
    """Names and one line each."""
    return {name: find_study(name).what for name in study_names()}


def find_study(name: str) -> Study:
    """The study of that name. Raises `ModelError` for an entry that cannot be."""
    study = build_from_json(Study, read_json_object(_STUDIES / f"{name}.json"), f"{name}.json")
    names = [variant.name for variant in study.variants]
    if len(set(names)) < len(names) or not study.seeds:
        raise ModelError("variants of one name, or no seeds", where=f"{name}.json")
    return study


def training_folder(out: Path, recipe: Recipe) -> Path:
    """Where one training of a study lies."""
    return out / "trainings" / f"{recipe.name}_seed{recipe.seed}"


def score(study: Study, recipe: Recipe, out: Path) -> None:
    """Run the harness on a finished training, or go on with it.

    Raises:
        ModelError: the run ended with an error.
    """
    weights = training_folder(out, recipe) / "model"
    results = out / "results" / f"{recipe.name}_seed{recipe.seed}"
    words = ["run", "--model", "omg_llava", "--model-args", f"weights={weights}", "--tasks", study.tasks]
    command = [sys.executable, "-m", "omgbench", *words, "--out", str(results), *study.run_options]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if code != 0:
        raise ModelError(f"scoring {recipe.name} of seed {recipe.seed} ended with code {code}", where=" ".join(command))
