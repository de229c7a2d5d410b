"""`omgbench train`: what it lists, what it refuses, how it goes on, what it leaves."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from omg_llava.command import main as own_main
from omg_llava.config import TrainedBy, read_config
from omg_llava.training.curve import draw_curve
from omg_llava.training.loop import StepReport
from omg_llava.training.recipe import recipe_list, recipe_names
from omg_llava.training.run import TrainingRun
from omg_llava.training.run_log import RunLog
from omg_llava.untrained import BYTE_VOCABULARY
from omgbench.cli import main

from .small_recipe import CHANGES, N_STEPS, small_content

COMPLETE, USER, INCOMPLETE = 0, 2, 3


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Place(NamedTuple):
    """A working folder with `small.json` in it, and the command line there."""

    folder: Path
    call: Callable[..., Outcome]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    changes = copy.deepcopy(CHANGES)
    changes["language"]["base_vocab"] = BYTE_VOCABULARY
    changes["language"]["transformers"]["vocab_size"] = BYTE_VOCABULARY + 4
    (tmp_path / "small.json").write_text(json.dumps(small_content("stage1", changes=changes)))

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["omgbench", "train", *map(str, words)])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        return Outcome(ended.value.code, out.getvalue(), err.getvalue())

    return Place(tmp_path, call)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes without a pool of processes."""
    pool = "omg_llava.training.demo_world.write.ProcessPoolExecutor"
    monkeypatch.setattr(pool, lambda *_, **__: ThreadPoolExecutor(1))


def words(root: Path, *more: object) -> list[object]:
    return ["small.json", "--out", "run", "--data-root", root, "--device", "cpu", *more]


# What there is


def test_recipes_are_listed(place: Place) -> None:
    found = place.call()
    assert found.code == COMPLETE and found.err == ""
    lines = dict(line.split(maxsplit=1) for line in found.out.splitlines())
    assert lines.keys() >= set(recipe_names())
    assert all(lines[name] == what and what for name, what in recipe_list().items())


def test_the_words_of_a_recipe_are_explained(place: Place) -> None:
    found = place.call("omg_llava_tiny", "--help")
    assert found.code == COMPLETE
    for option in ("--out", "--data-root", "--keep-out", "--start", "--minutes", "--seed", "--device"):
        assert option in found.out


# What is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nope", "--out", "run"], "no training recipe is called 'nope'"),
        (["--model", "omg_llava", "nope", "--out", "run"], "no training recipe 'nope'"),
        (["nope.json", "--out", "run"], "no training recipe 'nope.json'"),
        (["--model", "random", "small.json", "--out", "run"], "model 'random' cannot be trained"),
        (["small.json"], "--out"),
        (["small.json", "--out", "run", "--steps", "3"], "--steps"),
        (["small.json", "--out", "run", "--minutes", "abc"], "--minutes"),
        (["small.json", "--out", "run", "--minutes", "0"], "--minutes 0"),
        (["small.json", "--out", "run", "--minutes", "-3"], "--minutes -3"),
        (["small.json", "--out", "run", "--minutes", "nan"], "--minutes nan"),
        (["small.json", "--out", "run", "--minutes", "inf"], "--minutes inf"),
        (["small.json", "--out", "run", "--checkpoint-minutes", "0"], "--checkpoint-minutes 0"),
        (["small.json", "--out", "run", "--seed", "-1"], "seed is -1"),
        (["small.json", "--out", "run", "--seed", "x"], "--seed"),
        (["small.json", "--out", "run", "--device", "tpu"], "--device"),
        (["small.json", "--out", "run", "--keep-out", "nowhere"], "no folder nowhere"),
        (["small.json", "--out", "run", "--keep-out", "small.json"], "no folder small.json"),
        (["small.json", "--out", "run", "--start", "nowhere"], "no folder nowhere"),
        (["small.json", "--out", "small.json"], "small.json is a file"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_mistakes_are_messages_and_leave_nothing(place: Place, given: list[str], message: str) -> None:
    found = place.call(*given)
    assert found.code == USER
    assert message in found.err
    assert "Traceback" not in found.err
    assert [path.name for path in place.folder.iterdir()] == ["small.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, "no stages"),
        ({"demo_scenes": -1}, "demo_scenes is -1"),
        ({"sed": 3}, "'sed'"),
        ({"config": "omg_llava_huge", "demo_scenes": 0}, "omg_llava_huge"),
        ({"ablation": "table11", "demo_scenes": 0}, "table11"),
    ],
    ids=str,
)
def test_recipes_that_cannot_be_are_messages(place: Place, changes: dict[str, Any], message: str) -> None:
    (place.folder / "small.json").write_text(json.dumps(small_content("stage1") | changes))
    found = place.call("small.json", "--out", "run")
    assert found.code == USER
    assert message in found.err
    assert not (place.folder / "run").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_file_that_is_no_recipe(place: Place, text: str) -> None:
    (place.folder / "small.json").write_text(text)
    found = place.call("small.json", "--out", "run")
    assert found.code == USER and "small.json" in found.err
    assert not (place.folder / "run").exists()


def own_data(place: Place, text: str) -> list[object]:
    """The recipe on a file of one's own."""
    content = json.loads((place.folder / "small.json").read_text()) | {"demo_scenes": 0}
    content["stages"][0]["data"] = [{"family": "llava", "files": {"conversations": "mine.json", "images": "."}}]
    (place.folder / "small.json").write_text(json.dumps(content))
    (place.folder / "mine.json").write_text(text)
    return words(place.folder)


def test_broken_data_are_a_message(place: Place) -> None:
    found = place.call(*own_data(place, '[{"image": 3}]'))
    assert found.code == USER
    assert "mine.json: [0]" in found.err


def test_broken_data_are_a_message_of_the_package_too(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert own_main(["train", *map(str, own_data(place, '[{"image": 3}]'))]) == USER
    assert "mine.json: [0]" in capsys.readouterr().err


def test_missing_data_name_the_option(place: Place) -> None:
    given = own_data(place, "[]")
    (place.folder / "mine.json").unlink()
    found = place.call(*given)
    assert found.code == USER
    assert "mine.json is not there" in found.err and "--data-root" in found.err


@pytest.mark.parametrize("library", ["accelerate", "matplotlib"])
def test_a_missing_library_says_how_to_get_it(
    place: Place, demo_root: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    found = place.call(*words(demo_root))
    assert found.code == USER
    assert f"{library} is not installed" in found.err and "omgbench[train]" in found.err
    assert not (place.folder / "run").exists()


def test_evaluation_pictures_are_kept_out(place: Place, demo_root: Path) -> None:
    (place.folder / "evaluation").mkdir()
    with Image.open(demo_root / "demo_world/images/000000000002.jpg") as image:
        image.save(place.folder / "evaluation" / "x.png")
    found = place.call(*words(demo_root, "--keep-out", "evaluation"))
    assert found.code == USER
    assert "000000000002.jpg" in found.err and "x.png" in found.err


def test_a_mistake_does_not_claim_the_folder(place: Place) -> None:
    """What the message says to do can be done."""
    first = place.call("omg_llava_7b", "--out", "run", "--device", "cpu")
    assert first.code == USER and "--start" in first.err
    (place.folder / "start").mkdir()
    second = place.call("omg_llava_7b", "--out", "run", "--device", "cpu", "--start", "start")
    assert "another recipe" not in second.err


# What is done


def stop_after(n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit comes after so many steps."""
    asked = iter([False] * n_steps + [True])
    monkeypatch.setattr(TrainingRun, "_stop", lambda self: next(asked))


def test_a_run_that_is_stopped_goes_on_with_the_same_command(
    place: Place, demo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        stopped = place.call(*words(demo_root, "--minutes", "60"))
    assert stopped.code == INCOMPLETE
    assert "stopped with a checkpoint in run; the same command goes on" in stopped.out
    assert [path.name for path in (place.folder / "run/checkpoints/stage1").iterdir()] == ["step_00000001"]
    assert (place.folder / "run/curve.png").exists() and not (place.folder / "run/model").exists()
    done = place.call(*words(demo_root, "--minutes", "60"))
    assert done.code == COMPLETE
    assert f"stage1 {N_STEPS['stage1']}/{N_STEPS['stage1']}" in done.err
    for name in ("model", "log.jsonl", "curve.png"):
        assert f"run/{name}" in done.out
    with Image.open(place.folder / "run/curve.png") as curve:
        curve.load()
        assert curve.format == "PNG" and min(curve.size) > 300
    assert read_config(place.folder / "run/model/config.json").trained_by == TrainedBy("small", 5, True)
    weights = (place.folder / "run/model/model.safetensors").read_bytes()
    again = place.call(*words(demo_root))
    assert again.code == COMPLETE and again.err == ""
    assert (place.folder / "run/model/model.safetensors").read_bytes() == weights


def test_without_time_nothing_is_trained(place: Place, demo_root: Path) -> None:
    found = place.call(*words(demo_root, "--minutes", "1e-9"))
    assert found.code == INCOMPLETE
    assert "the same command goes on" in found.out
    assert not (place.folder / "run/model").exists()


def test_another_seed_is_another_recipe(place: Place, demo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(0, patch)
        assert place.call(*words(demo_root, "--seed", 8)).code == INCOMPLETE
    assert json.loads((place.folder / "run/recipe.json").read_text())["seed"] == 8
    found = place.call(*words(demo_root))
    assert found.code == USER and "another recipe" in found.err
    assert place.call(*words(demo_root, "--seed", 8)).code == COMPLETE
    assert read_config(place.folder / "run/model/config.json").trained_by == TrainedBy("small", 8, True)


def test_a_trained_model_is_a_start(place: Place, demo_root: Path) -> None:
    assert place.call(*words(demo_root)).code == COMPLETE
    second = words(demo_root, "--start", "run/model", "--seed", 6)
    second[2] = "second"
    found = place.call(*second)
    assert found.code == COMPLETE, found.err
    assert json.loads((place.folder / "second/recipe.json").read_text())["start"].endswith("run/model")


@pytest.mark.usefixtures("in_this_process")
def test_the_demo_world_is_written_where_it_is_missing(place: Place) -> None:
    content = json.loads((place.folder / "small.json").read_text()) | {"demo_scenes": 2}
    (place.folder / "small.json").write_text(json.dumps(content))
    found = place.call("small.json", "--out", "run", "--device", "cpu")
    assert found.code == COMPLETE, found.err
    assert "demo world: 2 of 2 scenes" in found.err
    assert len(list((place.folder / "run/data/demo_world/images").iterdir())) == 2


@pytest.mark.usefixtures("in_this_process")
def test_nothing_is_written_for_a_model_that_cannot_be(place: Place) -> None:
    content = json.loads((place.folder / "small.json").read_text()) | {"demo_scenes": 1, "config": "omg_llava_huge"}
    (place.folder / "small.json").write_text(json.dumps(content))
    assert place.call("small.json", "--out", "run").code == USER
    assert not (place.folder / "run").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_recipe_that_is_refused_leaves_the_data_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((place.folder / "small.json").read_text())
    for n_scenes, code in ((2, INCOMPLETE), (1, USER)):
        (place.folder / "small.json").write_text(json.dumps(content | {"demo_scenes": n_scenes}))
        stop_after(0, monkeypatch)
        assert place.call("small.json", "--out", "run", "--device", "cpu").code == code
    captions = json.loads((place.folder / "run/data/demo_world/llava/captions.json").read_text())
    assert len(captions) == 2


# The curve


def write_log(path: Path, *stages: str, n_steps: int = 250) -> None:
    log = RunLog(path)
    for stage in stages:
        for step in range(1, n_steps + 1):
            losses = {"text": 3.0 / step, "dice": 0.0 if step % 2 else 0.5}
            log.add(StepReport(stage, step, n_steps, losses, 1.0, 1e-4, 0.1))


def test_the_curve_has_a_panel_for_each_stage(tmp_path: Path) -> None:
    widths = []
    for number, stages in enumerate((["a"], ["a", "b", "c"])):
        log, target = tmp_path / f"{number}.jsonl", tmp_path / f"{number}.png"
        write_log(log, *stages)
        draw_curve(log, target)
        with Image.open(target) as curve:
            widths.append(curve.width)
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.01)


@pytest.mark.parametrize("n_steps", [1, 2, 99, 101])
def test_a_curve_of_any_length_can_be_drawn(tmp_path: Path, n_steps: int) -> None:
    write_log(tmp_path / "log.jsonl", "a", n_steps=n_steps)
    draw_curve(tmp_path / "log.jsonl", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_of_nothing_no_curve_is_drawn(tmp_path: Path) -> None:
    draw_curve(tmp_path / "none.jsonl", tmp_path / "curve.png")
    (tmp_path / "empty.jsonl").write_text("")
    draw_curve(tmp_path / "empty.jsonl", tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()
