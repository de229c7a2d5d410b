"""Training from a command line: data made where it is missing, progress told, the curve drawn."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from omg_llava.errors import ModelError
from omg_llava.training.recipe import Recipe, find_recipe
from omg_llava.training.study import find_study, score, study_names, training_folder

if TYPE_CHECKING:
    from omg_llava.training.loop import StepReport

EXIT_OK, EXIT_INCOMPLETE = 0, 3
_REPORT_SECONDS = 10.0
CURVE_FILE = "curve.png"


def train(given: argparse.Namespace) -> int:
    """Run the command. Raises `ModelError` for a mistake of the user."""
    _check_places(given)
    _check_libraries()
    ends = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    done = _study(given, ends) if given.recipe in study_names() else _training(given, _recipe(given), given.out, ends)
    if done:
        return EXIT_OK
    print(f"stopped with a checkpoint in {given.out}; the same command goes on")
    return EXIT_INCOMPLETE


def _study(given: argparse.Namespace, ends: float | None) -> bool:
    """Every training of a study, each scored when it is done; whether all are."""
    study = find_study(given.recipe)
    for name in ("seed", "start"):
        if getattr(given, name) is not None:
            raise ModelError(f"--{name} for the study {study.name}", expected="a recipe: a study has its own")
    recipes = list(study.recipes())
    part, n_parts = given.part
    for number, recipe in list(enumerate(recipes, start=1))[part - 1 :: n_parts]:
        print(f"{number} of {len(recipes)}: {recipe.name}, seed {recipe.seed}", file=sys.stderr, flush=True)
        if not _training(given, recipe, training_folder(given.out, recipe), ends):
            return False
        score(study, recipe, given.out)
    print(f"omgbench table {given.out}/results/* --join-seeds")
    return True


def _training(given: argparse.Namespace, recipe: Recipe, out: Path, ends: float | None) -> bool:
    from accelerate import PartialState

    from omg_llava.training.curve import draw_curve
    from omg_llava.training.run import LOG_FILE, MODEL_FOLDER, RunSettings, TrainingRun

    minutes = None if ends is None else (ends - time.monotonic()) / 60
    if minutes is not None and minutes <= 0:
        return False
    # The trainings of a study share their data.
    data_root = given.data_root or given.out / "data"
    settings = RunSettings(out, data_root, tuple(given.keep_out), minutes, given.checkpoint_minutes, given.device)
    run = TrainingRun(recipe, settings, _Progress())
    state = PartialState(cpu=given.device == "cpu")
    if recipe.demo_scenes and state.is_main_process:
        _write_demo_world(data_root, recipe.demo_scenes)
    state.wait_for_everyone()
    done = run.run()
    if not state.is_main_process:
        return done
    draw_curve(out / LOG_FILE, out / CURVE_FILE)
    if done:
        print(f"{out / MODEL_FOLDER}: {recipe.name}; log {out / LOG_FILE}, curve {out / CURVE_FILE}")
    return done


def _recipe(given: argparse.Namespace) -> Recipe:
    recipe = find_recipe(given.recipe)
    if given.seed is not None:
        recipe = dataclasses.replace(recipe, seed=given.seed)
    if given.start is not None:
        recipe = dataclasses.replace(recipe, start=str(given.start))
    return recipe


def _check_places(given: argparse.Namespace) -> None:
    for name in ("minutes", "checkpoint_minutes"):
        value = getattr(given, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ModelError(f"--{name.replace('_', '-')} {value}", expected="more than 0")
    missing = [folder for folder in (*given.keep_out, *([given.start] if given.start else [])) if not folder.is_dir()]
    if missing:
        raise ModelError(f"no folder {missing[0]}")
    if given.out.exists() and not given.out.is_dir():
        raise ModelError(f"--out {given.out} is a file", expected="a folder, new or of this training")


def _check_libraries() -> None:
    try:
        import accelerate  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ModelError(f"{error.name} is not installed", hint="pip install 'omgbench[train]'") from None


def _write_demo_world(data_root: Path, n_scenes: int) -> None:
    from omg_llava.training.demo_world.write import write_demo_world

    told = time.monotonic()

    def report(done: int, of: int) -> None:
        nonlocal told
        if done == of or time.monotonic() - told > _REPORT_SECONDS:
            told = time.monotonic()
            print(f"demo world: {done} of {of} scenes written", file=sys.stderr, flush=True)

    write_demo_world(data_root, n_scenes, report)


class _Progress:
    """Tells of steps now and then."""

    def __init__(self) -> None:
        self._told = 0.0
        self._seconds: float | None = None

    def __call__(self, step: StepReport) -> None:
        self._seconds = step.seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * step.seconds
        if step.step == step.n_steps or time.monotonic() - self._told > _REPORT_SECONDS:
            self._told = time.monotonic()
            left = self._seconds * (step.n_steps - step.step) / 60
            losses = "  ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
            print(
                f"{step.stage} {step.step}/{step.n_steps}  {losses}  {self._seconds:.2f} s/step, {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
