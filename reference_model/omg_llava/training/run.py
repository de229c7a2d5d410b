"""A recipe from beginning to end: data, model, stages one after another, a model's folder."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omg_llava.bundled import bundled_folder
from omg_llava.checkpoint import config_path, load_model, save_model
from omg_llava.config import build_from_json, read_config
from omg_llava.errors import ModelError
from omg_llava.files.tokenizer import load_tokenizer, save_tokenizer
from omg_llava.lora import without_lora
from omg_llava.model import OmgLlava
from omg_llava.open_vocabulary import synonyms
from omg_llava.quantization import quantize_4bit
from omg_llava.training.clip import ClipObjective, ClipSource
from omg_llava.training.data.mixture import read_mixture
from omg_llava.training.data.panoptic import PanopticData
from omg_llava.training.encoding import Encoder
from omg_llava.training.initial_weights import continued_model, fresh_model, with_perception_of
from omg_llava.training.language import LanguageObjective, LanguageOptions, LanguageSource
from omg_llava.training.leakage import refuse_evaluation_pictures
from omg_llava.training.loop import Source, StageLoop, StepReport
from omg_llava.training.own_tokenizer import train_tokenizer
from omg_llava.training.parts import copy_seg_decoder, load_trained, save_trained, train_only
from omg_llava.training.perception import PerceptionObjective, PerceptionOptions, PerceptionSource
from omg_llava.training.recipe import Recipe, StageRecipe
from omg_llava.training.run_log import RunLog
from omg_llava.training.samples import Family
from omg_llava.training.word_vectors import WordVectors
from omg_llava.untrained import BYTE_VOCABULARY, byte_tokenizer

RECIPE_FILE, LOG_FILE, MODEL_FOLDER, TOKENIZER_FOLDER = "recipe.json", "log.jsonl", "model", "tokenizer"
TOKENIZER_SAMPLES = 3000
PANOPTIC_OBJECTIVES = ("clip", "perception")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What is no part of the recipe.

    Attributes:
        folder: of the run; one that holds the same recipe goes on where it ended.
        data_root: what the paths of the recipe are relative to.
        keep_out: folders with evaluation pictures; training refuses to see one of them.
        minutes: stop with a checkpoint after so long; None = at the end.
        checkpoint_minutes: between checkpoints.
        device: "cpu", or None for what accelerate finds.
    """

    folder: Path
    data_root: Path
    keep_out: tuple[Path, ...] = ()
    minutes: float | None = None
    checkpoint_minutes: float = 5.0
    device: str | None = None


class TrainingRun:
    """A recipe in a folder.

    Args:
        report: called after each step.
    """

    def __init__(self, recipe: Recipe, settings: RunSettings, report: Callable[[StepReport], None]) -> None:
        self.recipe, self.settings, self.report = recipe, settings, report
        self.config = recipe.model_config()
        self._deadline = None if settings.minutes is None else time.monotonic() + 60 * settings.minutes
        self._stopped = threading.Event()
        self._families: dict[str, Family] = {}
        self._panoptic_data: dict[tuple[tuple[str, Path], ...], PanopticData] = {}
        self._check_folder()
        self.log = RunLog(settings.folder / LOG_FILE)

    def run(self) -> bool:
        """Train until the end or the time limit; whether the end was reached. The model then lies in `model`."""
        target = self.settings.folder / MODEL_FOLDER
        if target.exists():
            return True
        from accelerate import PartialState

        with self._stopping_on_signals():
            # One process reads the data and trains the tokenizer, the others find it done.
            with PartialState(cpu=self.settings.device == "cpu").main_process_first():
                model, tokenizer = self._starting_point()
                self._claim()
            if self.recipe.four_bit:
                quantize_4bit(model, compute_dtype=torch.float16)
            if self.recipe.activation_checkpointing:
                model.llm.gradient_checkpointing_enable({"use_reentrant": False})
            trained: set[str] = set()
            for place, stage in enumerate(self.recipe.stages):
                self._begin_decoder(model, place)
                trained |= set(stage.trains)
                # Adapters that nothing has trained yet add nothing but work.
                with nullcontext() if "lora" in trained else without_lora(model.llm):
                    if not self._stage(stage, model, tokenizer):
                        return False
            self._begin_decoder(model, len(self.recipe.stages))
        model = self._finished(model)
        if PartialState().is_main_process:
            save_model(
                model.requires_grad_(False).eval(), tokenizer, target, dtype=getattr(torch, self.recipe.saved_dtype)
            )
        return True

    @property
    def _has_own_decoder(self) -> bool:
        """Whether the run starts from a model that has a decoder for `[SEG]` already."""
        return self.recipe.start is not None and read_config(config_path(Path(self.recipe.start))).seg_token.own_decoder

    def _begin_decoder(self, model: OmgLlava, place: int) -> None:
        """Copy the perception's decoder for `[SEG]` before the stage at `place`, where that is when it begins: once the
        perception is trained.
        """
        is_language = [stage.objective not in PANOPTIC_OBJECTIVES for stage in self.recipe.stages]
        first = is_language.index(True) if any(is_language) else len(is_language)
        if place == first and model.own_seg_decoder is not None and not self._has_own_decoder:
            copy_seg_decoder(model)

    def _check_folder(self) -> None:
        """Refuse a folder that holds another recipe, and a recipe that lacks a start."""
        path = self.settings.folder / RECIPE_FILE
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(self.recipe.to_json()):
            raise ModelError(
                "the folder holds another recipe", where=str(self.settings.folder), hint="choose another folder"
            )
        begins = self.recipe.start or self.recipe.perception_from or self.config.class_sets
        if not begins:
            raise ModelError(
                f"{self.recipe.name} starts from trained weights", hint="--start FOLDER, of omgbench model convert"
            )

    def _claim(self) -> None:
        """Make the folder this recipe's."""
        self.settings.folder.mkdir(parents=True, exist_ok=True)
        path = self.settings.folder / RECIPE_FILE
        if not path.exists():
            path.write_text(self.recipe.to_json(), encoding="utf-8")

    def _stop(self) -> bool:
        return self._stopped.is_set() or (self._deadline is not None and time.monotonic() > self._deadline)

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """The first interrupt ends the run after its step, with a checkpoint; the second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            self._stopped.set()
            for each, handler in before.items():
                signal.signal(each, handler)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _starting_point(self) -> tuple[OmgLlava, Any]:
        """The model before the first stage, and its tokenizer."""
        if self.recipe.start is not None:
            return continued_model(Path(self.recipe.start), self.config, self.recipe.seed)
        if self.recipe.perception_from is not None:
            donor, tokenizer = load_model(_named_folder(self.recipe.perception_from), dtype=torch.float32)
            if donor.config.language.base_vocab != self.config.language.base_vocab:
                raise ModelError(
                    f"the tokenizer of {donor.config.name} has {donor.config.language.base_vocab} tokens",
                    expected=f"{self.config.language.base_vocab}, base_vocab of the configuration",
                )
            return with_perception_of(donor, self.config, self.recipe.seed), tokenizer
        return fresh_model(self.config, self._word_vectors, self.recipe.seed), self._own_tokenizer()

    def _finished(self, model: OmgLlava) -> OmgLlava:
        """The trained model, its base weights as they were before they were held in 4 bits."""
        if not self.recipe.four_bit:
            return model
        whole, _ = self._starting_point()
        for place, stage in enumerate(self.recipe.stages):
            self._begin_decoder(whole, place)
            load_trained(whole, self._weights_of(stage))
        return whole

    def _weights_of(self, stage: StageRecipe) -> Path:
        return self.settings.folder / "stages" / f"{stage.name}.safetensors"

    @cached_property
    def _word_vectors(self) -> WordVectors:
        """Vectors of all words in the model's label spaces and in the classes of perception training."""
        names = [name for s in self.config.class_sets for c in s.classes for name in synonyms(c.prompt)]
        for stage in self.recipe.stages:
            if stage.objective in PANOPTIC_OBJECTIVES:
                names += self._panoptic(stage).class_names
        return WordVectors(names, self.config.backbone.clip_dim)

    def _own_tokenizer(self) -> Any:
        length = self.config.language.base_vocab
        if length == BYTE_VOCABULARY:
            return byte_tokenizer()
        folder = self.settings.folder / TOKENIZER_FOLDER
        if not folder.exists():
            partial = folder.with_name(f".{folder.name}")
            partial.mkdir(parents=True, exist_ok=True)
            save_tokenizer(train_tokenizer(self._texts(), length), partial)
            partial.rename(folder)
        return load_tokenizer(folder)

    def _texts(self) -> Iterator[str]:
        """Questions and answers of every language stage, without pictures."""
        import numpy as np

        for stage in self.recipe.stages:
            if stage.objective in PANOPTIC_OBJECTIVES:
                continue
            mixture = self._mixture(stage)
            random = np.random.RandomState(self.recipe.seed)
            for index in random.permutation(len(mixture))[:TOKENIZER_SAMPLES]:
                for exchange in mixture.sample(int(index), random).exchanges:
                    yield exchange.question
                    yield exchange.answer

    def _stage(self, stage: StageRecipe, model: OmgLlava, tokenizer: Any) -> bool:
        """Train one stage, or read what it came to; whether it is done."""
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, set_seed

        done = self._weights_of(stage)
        if done.exists():
            load_trained(model, done)
            return True
        train_only(model, stage.trains)
        source, objective = self._objective(stage, model, tokenizer)
        # A batch of clips has no prompts, one without [SEG] no masks: not every parameter is used each time.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        accelerator = Accelerator(
            cpu=self.settings.device == "cpu", mixed_precision=self.recipe.precision, kwargs_handlers=[unused]
        )
        set_seed(self.recipe.seed)
        folder = self.settings.folder / "checkpoints" / stage.name
        loop = StageLoop(stage, source, objective, accelerator, folder, self.recipe.seed)
        loop.resume()
        if accelerator.is_main_process:
            self.log.cut(stage.name, loop.step)
        for step in loop.run(self._stop, 60 * self.settings.checkpoint_minutes):
            if accelerator.is_main_process:
                self.log.add(step)
                self.report(step)
        accelerator.free_memory()
        if loop.step < loop.n_steps:
            return False
        if accelerator.is_main_process:
            save_trained(model, done)
            loop.discard_checkpoints()
        accelerator.wait_for_everyone()
        return True

    def _objective(self, stage: StageRecipe, model: OmgLlava, tokenizer: Any) -> tuple[Source, nn.Module]:
        seed = self.recipe.seed
        if stage.objective == "clip":
            pictures = ClipSource(self._panoptic(stage), seed)
            self._keep_out(pictures.data.paths)
            return pictures, ClipObjective(model, self._word_vectors, pictures.data.class_names)
        if stage.objective == "perception":
            options = build_from_json(PerceptionOptions, dict(stage.options), f"options of stage {stage.name}")
            data = self._panoptic(stage)
            self._keep_out(data.paths)
            objective = PerceptionObjective(model, self._word_vectors.table(data.class_names), options)
            return PerceptionSource(data, options, stage.micro_batch, seed), objective
        language = build_from_json(LanguageOptions, dict(stage.options), f"options of stage {stage.name}")
        mixture = self._mixture(stage)
        self._keep_out(path for index in range(len(mixture)) if (path := mixture.picture(index)) is not None)
        encoder = Encoder(tokenizer, self.config, language.max_text_tokens)
        source = LanguageSource(mixture, encoder, seed, has_pixels=stage.objective != "text")
        return source, LanguageObjective(model, stage.objective, language)

    def _keep_out(self, pictures: Iterable[Path]) -> None:
        refuse_evaluation_pictures(pictures, self.settings.keep_out)

    def _mixture(self, stage: StageRecipe) -> Any:
        return read_mixture(stage.data, self.settings.data_root, self.config.seg_token.answer_format, self._families)

    def _panoptic(self, stage: StageRecipe) -> PanopticData:
        if len(stage.data) != 1 or stage.data[0].family != "panoptic":
            raise ModelError("perception training wants one data set of the family panoptic", where=stage.name)
        files = {role: self.settings.data_root / path for role, path in stage.data[0].files.items()}
        missing = [role for role in ("annotations", "segments", "images") if role not in files]
        if missing:
            raise ModelError(f"no {missing[0]!r} among the files", where=f"stage {stage.name}, family panoptic")
        key = tuple(sorted(files.items()))
        if key not in self._panoptic_data:
            self._panoptic_data[key] = PanopticData.from_files(files, self.config.image)
        return self._panoptic_data[key]


def _named_folder(name: str) -> Path:
    folder = bundled_folder(name)
    return folder if folder.is_dir() else Path(name)
