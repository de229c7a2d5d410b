"""Training recipes: what is read, what comes back, one ModelError for each way to be wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from omg_llava.config import LoraConfig, TrainedBy, config_names, load_config
from omg_llava.errors import ModelError
from omg_llava.training.recipe import DataRecipe, Recipe, StageRecipe, find_recipe, parse_recipe, recipe_names

from ...documents import Change, drop, put

CONTENT: dict[str, Any] = {
    "name": "my_run",
    "config": "omg_llava_tiny",
    "what": "two stages",
    "seed": 7,
    "stages": [
        {
            "name": "see",
            "objective": "perception",
            "trains": ["perception"],
            "data": [{"family": "panoptic", "files": {"annotations": "a.json", "images": "i"}, "times": 2}],
            "steps": 100,
            "learning_rate": 1,
            "options": {"n_points": 64},
        },
        {
            "name": "talk_2",
            "objective": "instruction",
            "trains": ["projectors", "lora"],
            "data": [{"family": "refer", "files": {}, "options": {"splits": ["train"]}}, {"family": "x", "files": {}}],
            "averaging": "step",
            "batch": 32,
        },
    ],
}


def test_a_document_becomes_a_recipe() -> None:
    recipe = parse_recipe(CONTENT)
    see, talk = recipe.stages
    assert (recipe.name, recipe.seed, recipe.ablation, recipe.precision, recipe.start) == (
        "my_run",
        7,
        None,
        "no",
        None,
    )
    data = DataRecipe("panoptic", {"annotations": "a.json", "images": "i"}, times=2)
    assert see == StageRecipe(
        "see", "perception", ("perception",), (data,), steps=100, learning_rate=1.0, options={"n_points": 64}
    )
    assert isinstance(see.learning_rate, float)
    assert talk.trains == ("projectors", "lora")
    assert [item.family for item in talk.data] == ["refer", "x"]
    assert talk.data[0].options == {"splits": ["train"]}
    assert (talk.batch, talk.averaging, talk.epochs, talk.steps) == (32, "step", 1, 0)


def test_what_is_written_is_read_back() -> None:
    recipe = parse_recipe(CONTENT)
    assert parse_recipe(json.loads(recipe.to_json())) == recipe
    assert recipe.to_json().endswith("}\n")


def test_the_model_says_where_it_comes_from() -> None:
    recipe = parse_recipe(CONTENT)
    origin = {"name": "my_run", "trained_by": TrainedBy("my_run", 7, demo=False)}
    assert recipe.model_config() == dataclasses.replace(load_config("omg_llava_tiny"), **origin)
    row = dataclasses.replace(recipe, ablation="table5_m0").model_config()
    assert row == dataclasses.replace(load_config("omg_llava_tiny", ablation="table5_m0"), **origin)
    assert row != recipe.model_config()
    shown = dataclasses.replace(recipe, demo_scenes=5).model_config()
    assert shown.trained_by == TrainedBy("my_run", 7, demo=True)
    adapted = dataclasses.replace(recipe, lora=LoraConfig(rank=8)).model_config()
    assert adapted.language.lora == LoraConfig(rank=8)


def test_recipes_that_come_along_are_found_and_name_a_configuration() -> None:
    for name in recipe_names():
        recipe = find_recipe(name)
        assert recipe.config in config_names()
        assert recipe.model_config().name == recipe.name
        assert recipe.what


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(CONTENT), encoding="utf-8")
    assert find_recipe(str(path)) == parse_recipe(CONTENT)


@pytest.mark.parametrize("name", ["no_such_recipe", "../recipe", "", "a\0b"])
def test_no_such_recipe_is_a_model_error(name: str) -> None:
    with pytest.raises(ModelError, match="no training recipe"):
        find_recipe(name)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "\xff"])
def test_a_file_without_a_recipe_is_a_model_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"mine\.json"):
        find_recipe(str(path))


STAGE = ("stages", 0)
DATA = (*STAGE, "data", 0)
NAN = float("nan")
BAD: dict[str, tuple[Change, str]] = {
    "no name": (drop("name"), "'name' is missing"),
    "no stages entry": (drop("stages"), "'stages' is missing"),
    "no stages": (put("stages", []), "no stages"),
    "unknown entry": (put("epoch", 3), "unknown entry 'epoch'"),
    "seed text": (put("seed", "7"), r"recipe\.seed is '7'"),
    "seed true": (put("seed", True), r"recipe\.seed is True"),
    "seed negative": (put("seed", -1), "seed is -1"),
    "seed too large": (put("seed", 2**32), "seed is 4294967296"),
    "precision": (put("precision", "fp8"), r"recipe\.precision is 'fp8'"),
    "stage a list": (put(*STAGE, []), r"recipe\.stages\[0\] is \[\]"),
    "stages an object": (put("stages", {}), r"recipe\.stages is \{\}"),
    "unknown objective": (put(*STAGE, "objective", "sight"), r"stages\[0\]\.objective is 'sight'"),
    "objective a list": (put(*STAGE, "objective", ["text"]), r"stages\[0\]\.objective is \['text'\]"),
    "unknown averaging": (put(*STAGE, "averaging", "mean"), r"averaging is 'mean'"),
    "unknown stage entry": (put(*STAGE, "lr", 1.0), r"unknown entry 'lr'\n.*stages\[0\]"),
    "stage name twice": (put(*STAGE, "name", "talk_2"), "a stage is called 'talk_2'"),
    "stage name empty": (put(*STAGE, "name", ""), "a stage is called ''"),
    "stage name climbs out": (put(*STAGE, "name", "../x"), r"a stage is called '\.\./x'"),
    "trains nothing": (put(*STAGE, "trains", []), "trains"),
    "trains text": (put(*STAGE, "trains", "perception"), r"trains is 'perception'"),
    "no data": (put(*STAGE, "data", []), "data"),
    "data an object": (put(*STAGE, "data", {}), r"stages\[0\]\.data is \{\}"),
    "data without files": (drop(*DATA, "files"), r"'files' is missing\n.*data\[0\]"),
    "files a list": (put(*DATA, "files", ["a.json"]), r"data\[0\]\.files is \['a\.json'\]"),
    "a file that is a number": (put(*DATA, "files", {"annotations": 5}), "annotations"),
    "micro_batch 0": (put(*STAGE, "micro_batch", 0), r"micro_batch is 0, batch 0\n.*my_run, stage see"),
    "micro_batch float": (put(*STAGE, "micro_batch", 2.0), r"micro_batch is 2\.0"),
    "batch -1": (put(*STAGE, "batch", -1), "batch -1"),
    "steps negative": (put(*STAGE, "steps", -1), "the stage has no steps"),
    "neither steps nor epochs": (put("stages", 1, "epochs", 0), "the stage has no steps\n.*stage talk_2"),
    "warmup 1": (put(*STAGE, "warmup", 1.0), "a schedule that cannot be"),
    "warmup negative": (put(*STAGE, "warmup", -0.1), "a schedule that cannot be"),
    "warmup NaN": (put(*STAGE, "warmup", NAN), "a schedule that cannot be"),
    "learning rate 0": (put(*STAGE, "learning_rate", 0), "a schedule that cannot be"),
    "learning rate NaN": (put(*STAGE, "learning_rate", NAN), "a schedule that cannot be"),
    "learning rate infinite": (put(*STAGE, "learning_rate", float("inf")), "a schedule that cannot be"),
    "clip_norm 0": (put(*STAGE, "clip_norm", 0.0), "a schedule that cannot be"),
    "clip_norm NaN": (put(*STAGE, "clip_norm", NAN), "a schedule that cannot be"),
    "weight decay negative": (put(*STAGE, "weight_decay", -0.1), "weight_decay|a schedule that cannot be"),
    "demo_scenes negative": (put("demo_scenes", -1), "demo_scenes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_entry_is_one_model_error(name: str) -> None:
    change, message = BAD[name]
    content = copy.deepcopy(CONTENT)
    change(content)
    with pytest.raises(ModelError, match=message):
        parse_recipe(content)


@pytest.mark.parametrize("content", [None, [], "x", 5])
def test_what_is_no_object_is_a_model_error(content: object) -> None:
    with pytest.raises(ModelError, match="the entries of Recipe"):
        parse_recipe(content)


def test_a_recipe_made_in_code_is_checked_too() -> None:
    with pytest.raises(ModelError, match="no stages"):
        Recipe("x", "omg_llava_tiny", ())
