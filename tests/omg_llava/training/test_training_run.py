"""Whole recipes: in one go and in pieces, what they start from, what they leave behind."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from omg_llava.assistant import Assistant, Question, Sampling
from omg_llava.checkpoint import load_model
from omg_llava.config import TrainedBy, read_config
from omg_llava.errors import ModelError
from omg_llava.training.loop import StepReport
from omg_llava.training.recipe import Recipe
from omg_llava.training.run import RunSettings, TrainingRun
from omg_llava.training.run_log import RunLog

from .small_recipe import CHANGES, N_STEPS, STAGES, small_content, small_recipe

Weights = dict[str, torch.Tensor]
LINES = [(stage, step) for stage in STAGES for step in range(1, N_STEPS[stage] + 1)]
OWN = "own_seg_decoder."


def training(
    folder: Path, root: Path, recipe: Recipe, report: Callable[[StepReport], object] = lambda step: None, **more: Any
) -> TrainingRun:
    return TrainingRun(recipe, RunSettings(folder, root, device="cpu", **more), report)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Every line, without the time it took."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def weights_of(folder: Path) -> Weights:
    return load_file(folder / "model" / "model.safetensors")


def assert_same_model(folder: Path, other: Path) -> None:
    own, wanted = weights_of(folder), weights_of(other)
    assert own.keys() == wanted.keys()
    assert [name for name, value in own.items() if not torch.equal(value, wanted[name])] == []
    names = {path.name for path in (folder / "model").iterdir()}
    assert names == {path.name for path in (other / "model").iterdir()}
    for name in names - {"model.safetensors"}:
        assert (folder / "model" / name).read_bytes() == (other / "model" / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe in one go. Never changed by a test."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    torch.manual_seed(1)
    assert training(folder, demo_root, small_recipe()).run()
    return folder


class Stop(Exception):
    """A process that dies."""


# In one go


def test_a_run_leaves_a_log_and_a_model(whole: Path) -> None:
    lines = log_of(whole)
    assert [(line["stage"], line["step"]) for line in lines] == LINES
    losses = {
        "perception": {"set_cross_entropy", "set_mask", "set_dice"},
        "text": {"text"},
        "stage1": {"text", "alignment"},
        "stage2": {"text", "dice", "bce"},
    }
    for line in lines:
        assert line["n_steps"] == N_STEPS[line["stage"]]
        own = line.keys() - {"stage", "step", "n_steps", "loss", "gradient_norm", "learning_rate"}
        assert losses[line["stage"]] <= own
        assert line["loss"] == pytest.approx(sum(line[name] for name in own), abs=1e-4)
    assert json.loads((whole / "recipe.json").read_text())["name"] == "small"
    assert not any((whole / "checkpoints").rglob("*.pt")), "weights of finished stages are kept once"


def test_the_model_answers(whole: Path) -> None:
    model, tokenizer = load_model(whole / "model")
    assert model.config.name == "small"
    assert model.config.trained_by == TrainedBy("small", 5, True)
    assistant = Assistant(model, tokenizer)
    look = assistant.look(Image.new("RGB", (60, 40), (200, 30, 30)))
    [reply] = assistant.ask([(look, Question("What is it?", sampling=Sampling(5)))])
    assert 1 <= reply.n_output_tokens <= 5


def test_every_stage_changes_what_it_trains_and_nothing_else(whole: Path) -> None:
    last = weights_of(whole)
    stages = {name: load_file(whole / "stages" / f"{name}.safetensors") for name in STAGES}
    prefixes = {
        "perception": {"perception"},
        "text": {"llm"},
        "stage1": {"projector", "text_projector"},
        "stage2": {"llm", "projector", "text_projector", "own_seg_decoder"},
    }
    for name, trained in stages.items():
        assert {key.partition(".")[0] for key in trained} == prefixes[name]
    for key, value in {**stages["perception"], **stages["stage2"]}.items():
        assert torch.equal(last[key], value), key
    changed = [key for key, value in stages["stage1"].items() if not torch.equal(value, stages["stage2"][key])]
    assert len(changed) > 3


def test_a_finished_run_is_not_done_again(whole: Path, demo_root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    steps: list[StepReport] = []
    assert training(whole, demo_root, small_recipe(), steps.append).run()
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_the_folder_of_another_recipe_is_refused(whole: Path, demo_root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    for recipe in (small_recipe(seed=6), small_recipe("perception"), small_recipe(name="other")):
        with pytest.raises(ModelError, match="another recipe"):
            training(whole, demo_root, recipe)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


# In pieces


def first_steps(run: TrainingRun, stage: str) -> list[tuple[str, int]]:
    """Stage and number of the steps of a run that is stopped after the first one of a stage."""
    steps: list[tuple[str, int]] = []

    def report(step: StepReport) -> None:
        steps.append((step.stage, step.step))
        if step.stage == stage:
            run._stopped.set()

    run.report = report
    assert not run.run()
    return steps


def test_stopped_in_every_stage_and_resumed_is_as_never_stopped(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    """The first step of each stage is the last of its process."""
    for number, stage in enumerate(STAGES):
        torch.manual_seed(100 + number)
        steps = first_steps(training(tmp_path, demo_root, small_recipe()), stage)
        assert steps[-1] == (stage, 1)
        assert not (tmp_path / "model").exists()
        if number:
            assert steps[0] == (STAGES[number - 1], 2), "what was done is not done again"
    assert training(tmp_path, demo_root, small_recipe()).run()
    assert log_of(tmp_path) == log_of(whole)
    assert_same_model(tmp_path, whole)


def test_killed_and_resumed_is_as_never_killed(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    """Killed in the last step of two stages: once without a checkpoint, once with one after every step. The last line
    of the log is torn.
    """

    def die_in(stage: str) -> Callable[[StepReport], None]:
        def report(step: StepReport) -> None:
            if (step.stage, step.step) == (stage, N_STEPS[stage]):
                raise Stop

        return report

    with pytest.raises(Stop):
        training(tmp_path, demo_root, small_recipe(), die_in("text")).run()
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text() + '{"stage": "text", "step": 4, "n_st')
    with pytest.raises(Stop):
        training(tmp_path, demo_root, small_recipe(), die_in("stage2"), checkpoint_minutes=-1.0).run()
    path.write_bytes(path.read_bytes()[:-9])
    steps: list[StepReport] = []
    assert training(tmp_path, demo_root, small_recipe(), steps.append).run()
    assert [(step.stage, step.step) for step in steps] == [("stage2", 3)]
    assert log_of(tmp_path) == log_of(whole)
    assert_same_model(tmp_path, whole)


def test_without_time_nothing_is_trained_and_nothing_lost(demo_root: Path, tmp_path: Path) -> None:
    recipe = small_recipe("stage1")
    steps: list[StepReport] = []
    assert not training(tmp_path / "a", demo_root, recipe, steps.append, minutes=1e-9).run()
    assert steps == []
    assert training(tmp_path / "a", demo_root, recipe, steps.append, minutes=100).run()
    assert training(tmp_path / "b", demo_root, recipe).run()
    assert len(steps) == N_STEPS["stage1"]
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")
    assert_same_model(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step(demo_root: Path, tmp_path: Path, number: signal.Signals) -> None:
    steps: list[StepReport] = []

    def report(step: StepReport) -> None:
        steps.append(step)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert not training(tmp_path, demo_root, small_recipe("stage1"), report).run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert [step.step for step in steps] == [1]
    assert not (tmp_path / "model").exists()
    assert training(tmp_path, demo_root, small_recipe("stage1"), steps.append).run()
    assert [step.step for step in steps] == [1, 2]


def test_a_second_interrupt_ends_the_run_at_once(demo_root: Path, tmp_path: Path) -> None:
    def report(step: StepReport) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path, demo_root, small_recipe("stage1"), report).run()
    assert signal.getsignal(signal.SIGINT) == before
    steps: list[StepReport] = []
    assert training(tmp_path, demo_root, small_recipe("stage1"), steps.append).run()
    assert len(steps) == N_STEPS["stage1"]


# The log


def test_the_log_is_cut_back_to_a_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.cut("a", 0)
    for stage, step in (("a", 1), ("a", 2), ("b", 1), ("b", 2)):
        log.add(StepReport(stage, step, 2, {"text": 0.5, "dice": 0.25}, 1.0, 1e-4, 0.1))
    log.path.write_text(log.path.read_text() + '\n{"stage": "b", "ste')
    assert [(entry["stage"], entry["step"]) for entry in log.read()] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    log.cut("b", 1)
    entries = list(log.read())
    assert [(entry["stage"], entry["step"]) for entry in entries] == [("a", 1), ("a", 2), ("b", 1)]
    assert entries[0]["loss"] == 0.75 and entries[0]["text"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert log.path.read_text().count("\n") == 3


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert list(RunLog(tmp_path / "log.jsonl").read()) == []


# What a run starts from, and what it leaves


def test_the_decoder_of_seg_begins_as_a_copy_of_the_trained_one(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    """Seen in the checkpoint before the first step of the stage that trains it."""
    (tmp_path / "stages").mkdir()
    for name in STAGES[:-1]:
        shutil.copy(whole / "stages" / f"{name}.safetensors", tmp_path / "stages")
    assert not training(tmp_path, demo_root, small_recipe(), minutes=1e-9).run()
    began = load_file(tmp_path / "checkpoints/stage2/step_00000000/trained.safetensors")
    seen = load_file(whole / "stages/perception.safetensors")
    own = {name.partition(OWN)[2]: value for name, value in began.items() if OWN in name}
    assert len(own) > 20
    for name, value in own.items():
        assert torch.equal(value, seen[f"perception.decoder.{name}"]), name
    assert any(not torch.equal(value, weights_of(whole)[OWN + name]) for name, value in own.items())


def start_content(whole: Path, *stages: str, **changes: Any) -> Recipe:
    return small_recipe(*stages, name="second", start=str(whole / "model"), **changes)


def test_a_run_may_start_from_a_model(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    assert training(tmp_path, demo_root, start_content(whole, "stage1", seed=9, demo_scenes=0)).run()
    config = read_config(tmp_path / "model" / "config.json")
    assert config.trained_by == TrainedBy("second", 9, False)
    own, first = weights_of(tmp_path), weights_of(whole)
    changed = {name.partition(".")[0] for name, value in own.items() if not torch.equal(value, first[name])}
    assert changed == {"projector", "text_projector"}
    before, after = ((folder / "model/tokenizer.json").read_text() for folder in (whole, tmp_path))
    assert before == after


def test_a_decoder_of_the_start_is_not_begun_again(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    assert not training(tmp_path, demo_root, start_content(whole, "stage2"), minutes=1e-9).run()
    began = load_file(tmp_path / "checkpoints/stage2/step_00000000/trained.safetensors")
    first = weights_of(whole)
    own = {name.partition(OWN)[2]: value for name, value in began.items() if OWN in name}
    assert own and all(torch.equal(value, first[OWN + name]) for name, value in own.items())


def adapted(whole: Path) -> Recipe:
    """Adapters put on a finished model, of which the projectors are trained first."""
    return start_content(whole, "stage1", lora={"rank": 2, "alpha": 1.0, "dropout": 0.0})


def test_adapters_are_put_on_the_start(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    assert training(tmp_path, demo_root, adapted(whole)).run()
    own, first = weights_of(tmp_path), weights_of(whole)
    lora = {name for name in own if ".lora_" in name}
    assert lora and all(not own[name].any() for name in lora if ".lora_B." in name)
    base = {name.replace(".base_layer.", "."): value for name, value in own.items() if name not in lora}
    assert base.keys() == first.keys()
    assert all(torch.equal(value, first[name]) for name, value in base.items() if name.startswith("llm."))


def test_what_the_start_lacks_depends_on_the_seed_alone(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    weights = []
    for number in range(2):
        torch.manual_seed(number)
        model, _ = training(tmp_path / str(number), demo_root, adapted(whole))._starting_point()
        weights.append(model.state_dict())
    assert [name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])] == []


def test_a_start_of_other_sizes_is_refused(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    changes = copy.deepcopy(CHANGES)
    changes["segmenter"]["n_queries"] += 1
    with pytest.raises(ModelError, match="shape"):
        training(tmp_path, demo_root, start_content(whole, "stage1", changes=changes)).run()


def test_a_start_that_is_no_model_is_refused(demo_root: Path, tmp_path: Path) -> None:
    recipe = small_recipe("stage1", start=str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="no such folder"):
        training(tmp_path / "run", demo_root, recipe).run()


def test_perception_may_come_from_a_model(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    recipe = small_recipe("stage1", name="third", perception_from=str(whole / "model"))
    assert training(tmp_path, demo_root, recipe).run()
    own, first = weights_of(tmp_path), weights_of(whole)
    same = {name for name, value in own.items() if torch.equal(value, first[name])}
    assert {name for name in own if name.startswith(("perception.", "class_sets."))} <= same
    assert not any(name.startswith("llm.") and name.endswith("proj.weight") for name in same)
    before, after = ((folder / "model/tokenizer.json").read_text() for folder in (whole, tmp_path))
    assert before == after
    load_model(tmp_path / "model")


def test_a_donor_with_another_vocabulary_is_refused(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    changes = copy.deepcopy(CHANGES)
    changes["language"]["base_vocab"] += 1
    changes["language"]["transformers"]["vocab_size"] += 1
    recipe = small_recipe("stage1", perception_from=str(whole / "model"), changes=changes)
    with pytest.raises(ModelError, match="vocab"):
        training(tmp_path, demo_root, recipe)._starting_point()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_model_is_kept_in_the_type_that_was_asked_for(
    whole: Path, demo_root: Path, tmp_path: Path, dtype: str
) -> None:
    assert training(tmp_path, demo_root, start_content(whole, "stage1", saved_dtype=dtype)).run()
    own = weights_of(tmp_path)
    assert {value.dtype for value in own.values() if value.is_floating_point()} == {getattr(torch, dtype)}
    load_model(tmp_path / "model")
    assert {value.dtype for value in weights_of(whole).values() if value.is_floating_point()} == {torch.float32}


def test_a_decoder_that_no_stage_trains_is_a_copy_too(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    recipe = small_recipe("stage1", perception_from=str(whole / "model"))
    assert training(tmp_path, demo_root, recipe).run()
    own = weights_of(tmp_path)
    seen = {name: value for name, value in own.items() if name.startswith("perception.decoder.")}
    assert seen
    for name, value in seen.items():
        assert torch.equal(own[name.replace("perception.decoder.", OWN)], value), name


@pytest.fixture
def fresh_state() -> Iterator[None]:
    """Accelerate keeps one precision for a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_state")
def test_a_run_in_half_precision_resumes_too(whole: Path, demo_root: Path, tmp_path: Path) -> None:
    recipe = start_content(whole, "stage2", precision="bf16")
    assert training(tmp_path / "a", demo_root, recipe).run()
    first_steps(training(tmp_path / "b", demo_root, recipe), "stage2")
    assert training(tmp_path / "b", demo_root, recipe).run()
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")
    assert_same_model(tmp_path / "a", tmp_path / "b")
    assert {value.dtype for value in weights_of(tmp_path / "a").values()} == {torch.float32}


# What is refused


@pytest.mark.parametrize("stage", ["perception", "text", "stage1"])
def test_evaluation_pictures_are_kept_out_of_every_stage(demo_root: Path, tmp_path: Path, stage: str) -> None:
    keep_out = tmp_path / "evaluation"
    keep_out.mkdir()
    with Image.open(demo_root / "demo_world/images/000000000003.jpg") as image:
        image.save(keep_out / "renamed.png")
    steps: list[StepReport] = []
    # Texts come along for the tokenizer.
    run = training(tmp_path / "run", demo_root, small_recipe(stage, "stage2"), steps.append, keep_out=(keep_out,))
    with pytest.raises(ModelError, match="one of the evaluation"):
        run.run()
    assert steps == []


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("stage1", {"options": {"n_pionts": 3}}, "n_pionts"),
        ("perception", {"options": {"n_points": "3"}}, "n_points"),
        ("perception", {"data": small_content("stage1")["stages"][0]["data"]}, "wants one data set"),
        ("perception", {"data": [{"family": "panoptic", "files": {"annotations": "x", "images": "y"}}]}, "'segments'"),
        ("stage1", {"data": [{"family": "llava", "files": {"conversations": "no.json", "images": "."}}]}, "no.json"),
        ("stage1", {"trains": ["lora"]}, "no lora"),
    ],
    ids=range(6),
)
def test_stages_that_cannot_be_are_model_errors(
    whole: Path, demo_root: Path, tmp_path: Path, stage: str, changes: dict[str, Any], message: str
) -> None:
    recipe = start_content(whole, stages=[small_content(stage)["stages"][0] | changes])
    with pytest.raises(ModelError) as caught:
        training(tmp_path, demo_root, recipe).run()
    assert message in str(caught.value)
