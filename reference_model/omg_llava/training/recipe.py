"""What a training run is made of, read from JSON: stages in order, each with its data, objective and schedule."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omg_llava.config import LoraConfig, OmgLlavaConfig, TrainedBy, build_from_json, load_config, read_json_object
from omg_llava.errors import ModelError

_RECIPES = Path(__file__).parent / "recipes"

Objective = Literal["clip", "perception", "text", "alignment", "instruction"]
Averaging = Literal["micro_batch", "step"]


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """One data set of a stage.

    Attributes:
        family: how the files are read; see `omg_llava.training.data.FAMILIES`.
        files: paths under the data folder by role, as the family names them.
        times: how often the data set stands in the mixture; every copy draws for itself.
        options: of the family.
    """

    family: str
    files: Mapping[str, str]
    times: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """One stage.

    Attributes:
        name: of the stage, its log and its weights.
        objective: "clip" (a backbone that knows words, in place of OpenCLIP's), "perception" (set prediction of
            OMG-Seg), "text" (the language model alone), "alignment" (stage 1 of OMG-LLaVA), "instruction" (stage 2 and
            the task fine-tunes).
        trains: parts with gradients; all else is frozen.
        data: the mixture.
        epochs: passes over the mixture, where `steps` is 0.
        steps: optimiser steps; 0 = as the epochs give.
        micro_batch: samples per process and forward pass.
        batch: samples per step over all processes; 0 = one micro-batch each.
        averaging: a loss is the mean over what a micro-batch counts, then over micro-batches ("micro_batch", official),
            or the mean over all that a step counts, whatever it was cut into ("step").
        learning_rate: at the end of the warm-up; cosine to 0 follows.
        warmup: share of the steps.
        weight_decay: of matrices and kernels; norms, biases and embeddings have none.
        clip_norm: largest norm of the gradient.
        options: of the objective.
    """

    name: str
    objective: Objective
    trains: tuple[str, ...]
    data: tuple[DataRecipe, ...]
    epochs: int = 1
    steps: int = 0
    micro_batch: int = 8
    batch: int = 0
    averaging: Averaging = "micro_batch"
    learning_rate: float = 2e-4
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run.

    Attributes:
        name: of the run and of the model it makes.
        config: configuration of the model, with `ablation`, where one is named, and then `changes` laid over it.
        what: one line for people.
        seed: of initial weights, order and draws.
        precision: "no", "fp16" or "bf16", as accelerate names it.
        demo_scenes: scenes of the demo world that are written where the data folder lacks them; 0 = the data is the
            user's.
        start: a folder with the weights to start from, None for fresh ones.
        perception_from: a folder, or the name of a model that comes along, whose perception, label spaces and tokenizer
            are taken while all else starts fresh.
        lora: adapters that are put on the language model.
        activation_checkpointing: keep the inputs of the language model's layers alone and compute the rest anew on the
            way back; a large model does not fit otherwise.
        four_bit: hold the language model's frozen layers in NF4 while training, as officially; wants bitsandbytes.
        saved_dtype: of the finished model's floating-point weights.
    """

    name: str
    config: str
    stages: tuple[StageRecipe, ...]
    what: str = ""
    ablation: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 42
    precision: Literal["no", "fp16", "bf16"] = "no"
    demo_scenes: int = 0
    start: str | None = None
    perception_from: str | None = None
    lora: LoraConfig | None = None
    activation_checkpointing: bool = False
    four_bit: bool = False
    saved_dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _check(self)

    def model_config(self) -> OmgLlavaConfig:
        """The configuration of the model."""
        config = load_config(self.config, ablation=self.ablation, changes=self.changes)
        language = config.language if self.lora is None else dataclasses.replace(config.language, lora=self.lora)
        origin = TrainedBy(self.name, self.seed, self.demo_scenes > 0)
        return dataclasses.replace(config, name=self.name, language=language, trained_by=origin)

    def to_json(self) -> str:
        """A JSON document that `parse_recipe` reads back."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def parse_recipe(data: Any, where: str = "recipe") -> Recipe:
    """A recipe from parsed JSON. Raises `ModelError` naming the entry that is wrong."""
    return build_from_json(Recipe, data, where)


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come along."""
    return tuple(sorted(path.stem for path in _RECIPES.glob("*.json")))


def recipe_list() -> dict[str, str]:
    """Names and one line each."""
    return {name: str(read_json_object(_RECIPES / f"{name}.json").get("what", "")) for name in recipe_names()}


def find_recipe(name_or_file: str) -> Recipe:
    """A recipe by name, or from a JSON file.

    Raises:
        ModelError: no such name or file, or an entry that cannot be.
    """
    path = _RECIPES / f"{name_or_file}.json" if name_or_file in recipe_names() else Path(name_or_file)
    if not path.is_file():
        names = ", ".join(recipe_names())
        raise ModelError(f"no training recipe {name_or_file!r}", expected=f"a JSON file, or one of {names}")
    return parse_recipe(read_json_object(path), path.name)


def _check(recipe: Recipe) -> None:
    if not 0 <= recipe.seed < 2**32:
        raise ModelError(f"seed is {recipe.seed}", expected="0 to 2**32 - 1", where=recipe.name)
    if recipe.demo_scenes < 0:
        raise ModelError(f"demo_scenes is {recipe.demo_scenes}", expected="at least 0", where=recipe.name)
    if not recipe.stages:
        raise ModelError("the recipe has no stages", where=recipe.name)
    names = [stage.name for stage in recipe.stages]
    for stage in recipe.stages:
        where = f"{recipe.name}, stage {stage.name}"
        if names.count(stage.name) > 1 or not stage.name.replace("_", "").isalnum():
            raise ModelError(f"a stage is called {stage.name!r}", expected="letters and digits, each name once")
        if stage.micro_batch < 1 or stage.batch < 0:
            found = f"micro_batch is {stage.micro_batch}, batch {stage.batch}"
            raise ModelError(found, expected="a micro_batch of at least 1, a batch of it or more", where=where)
        if stage.steps < 0 or (stage.steps == 0 and stage.epochs < 1):
            raise ModelError("the stage has no steps", expected="steps or epochs of at least 1", where=where)
        if not stage.trains or not stage.data:
            raise ModelError("the stage has no data or trains nothing", expected="data, trains", where=where)
        for item in stage.data:
            for role, path in item.files.items():
                if not isinstance(path, str):
                    raise ModelError(f"the file {role!r} is {path!r}", expected="a path", where=where)
        rates = (stage.learning_rate, stage.clip_norm)
        is_right = all(math.isfinite(rate) and rate > 0 for rate in rates) and 0 <= stage.weight_decay < math.inf
        if not 0 <= stage.warmup < 1 or not is_right:
            raise ModelError("a schedule that cannot be", expected="rates above 0, warmup in 0..1", where=where)
