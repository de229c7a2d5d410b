"""The training loop: accelerate moves, scales, accumulates and saves; this says what and when."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from omg_llava.errors import ModelError
from omg_llava.training.order import ShuffledOrder
from omg_llava.training.parts import load_trained, save_trained
from omg_llava.training.recipe import StageRecipe

CHECKPOINTS_KEPT = 2
_STATE_FILE = "progress.json"
_WEIGHTS_FILE = "trained.safetensors"


class Source(Protocol):
    """Where samples come from."""

    def __len__(self) -> int: ...

    def draw(self, index: int, place: int) -> Any:
        """Sample `index` as the `place`-th of the run: the same every time."""

    def collate(self, samples: Sequence[Any]) -> Any:
        """Samples as a batch that accelerate can move (`to`)."""


class Objective(Protocol):
    """A module from batch to losses; see `PerceptionObjective`."""

    def counts(self, batch: Any) -> dict[str, float]: ...

    def __call__(self, batch: Any, counts: Mapping[str, float]) -> dict[str, torch.Tensor]: ...


class _Drawn(Dataset[Any]):
    """Samples in the run's order, from a place on."""

    def __init__(self, source: Source, order: ShuffledOrder, start: int) -> None:
        self.source, self.order, self.start = source, order, start

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __getitem__(self, index: int) -> Any:
        place = self.start + index
        return self.source.draw(self.order[place], place)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did: losses by name (means over its micro-batches), the gradient's norm, the rate, seconds."""

    stage: str
    step: int
    n_steps: int
    losses: Mapping[str, float]
    gradient_norm: float
    learning_rate: float
    seconds: float

    def to_json(self) -> str:
        """One line of the log."""
        return json.dumps(
            {
                "stage": self.stage,
                "step": self.step,
                "n_steps": self.n_steps,
                "loss": round(sum(self.losses.values()), 6),
                **{name: round(value, 6) for name, value in self.losses.items()},
                "gradient_norm": round(self.gradient_norm, 6) if math.isfinite(self.gradient_norm) else None,
                "learning_rate": float(f"{self.learning_rate:.6g}"),
                "seconds": round(self.seconds, 3),
            }
        )


class StageLoop:
    """One stage of a run.

    Args:
        accelerator: accelerate's, which knows devices, processes, precision.
        objective: a module with the model in it; what has `requires_grad` is trained.
        folder: for checkpoints of this stage.

    An accelerator serves one stage: what it saves is registered with it.
    """

    def __init__(
        self,
        stage: StageRecipe,
        source: Source,
        objective: nn.Module,
        accelerator: Any,
        folder: Path,
        seed: int,
    ) -> None:
        self.stage, self.source, self.accelerator, self.folder = stage, source, accelerator, folder
        self.seed = seed
        self.accumulate, self.per_step = _batch_parts(stage, accelerator.num_processes)
        if len(source) == 0:
            raise ModelError("the stage has no samples", where=stage.name)
        self.n_steps = stage.steps or max(1, stage.epochs * len(source) // self.per_step)
        self.raw_objective: Any = objective
        optimizer = torch.optim.AdamW(_groups(objective, stage.weight_decay), lr=stage.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        # Not prepared: accelerate would step it once per process.
        self.schedule = schedule
        accelerator.register_for_checkpointing(schedule)
        accelerator.register_save_state_pre_hook(_save_trained_only)
        accelerator.register_load_state_pre_hook(_load_trained_only)
        self.step = 0

    def resume(self) -> bool:
        """Go on from the newest checkpoint; whether there was one."""
        found = sorted((path.parent for path in self.folder.glob(f"step_*/{_STATE_FILE}")), reverse=True)
        if not found:
            return False
        state = json.loads((found[0] / _STATE_FILE).read_text(encoding="utf-8"))
        if state["per_step"] != self.per_step or state["n_steps"] != self.n_steps:
            raise ModelError(
                f"the checkpoint counts {state['per_step']} samples a step and {state['n_steps']} steps",
                expected=f"{self.per_step} and {self.n_steps}: the same number of processes as before",
                where=str(found[0]),
            )
        self.accelerator.load_state(str(found[0]))
        self.step = int(state["step"])
        return True

    def run(self, stop: Callable[[], bool], checkpoint_seconds: float) -> Iterator[StepReport]:
        """Steps until the end, or until `stop()`; saves now and then, and at the end of either."""
        self.raw_objective.train()
        saved_at = time.monotonic()
        batches = self._batches()
        while self.step < self.n_steps and not self._anybody(stop()):
            began = time.monotonic()
            losses, norm, rate = self._one_step(batches)
            self.step += 1
            yield StepReport(self.stage.name, self.step, self.n_steps, losses, norm, rate, time.monotonic() - began)
            if self._anybody(time.monotonic() - saved_at > checkpoint_seconds):
                self.save()
                saved_at = time.monotonic()
        self.save()

    def _anybody(self, wants: bool) -> bool:
        """Whether one of the processes wants it: they must stop and save together."""
        if self.accelerator.num_processes == 1:
            return wants
        wish = torch.tensor(float(wants), device=self.accelerator.device)
        return bool(self.accelerator.reduce(wish, reduction="sum") > 0)

    def save(self) -> None:
        """A checkpoint that is there whole or not at all; older ones but the last go."""
        final = self.folder / f"step_{self.step:08d}"
        if final.exists():
            return
        partial = self.folder / f".step_{self.step:08d}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state = {"step": self.step, "n_steps": self.n_steps, "per_step": self.per_step}
            (partial / _STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
            partial.rename(final)
            for old in (*self.folder.glob(".step_*"), *sorted(self.folder.glob("step_*"))[:-CHECKPOINTS_KEPT]):
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def discard_checkpoints(self) -> None:
        """Remove the folder of checkpoints, once the stage's weights are kept elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _one_step(self, batches: Iterator[Any]) -> tuple[dict[str, float], float, float]:
        micro_batches = [next(batches) for _ in range(self.accumulate)]
        own_counts = [self.raw_objective.counts(batch) for batch in micro_batches]
        shares = self._shares(own_counts)
        total: dict[str, float] = {}
        for place, (batch, counts) in enumerate(zip(micro_batches, shares, strict=True)):
            is_last = place == len(micro_batches) - 1
            with self._gradients_stay_here(is_last), self.accelerator.autocast():
                losses = self.objective(batch, counts)
                loss = torch.stack(list(losses.values())).sum()
                # Losses that count nothing are means over their batch.
                parts = 1 if self.stage.averaging == "step" and counts else self.accumulate
                self.accelerator.backward(loss / parts)
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + float(value.detach()) / parts
        if not all(math.isfinite(value) for value in total.values()):
            raise ModelError(
                f"step {self.step + 1} of {self.stage.name} has a loss that is not finite: {total}",
                hint="lower learning_rate, or look at the data of the last batch",
            )
        norm = float(self.accelerator.clip_grad_norm_(self.objective.parameters(), self.stage.clip_norm))
        # A scaler (fp16) skips such a step by itself.
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise ModelError(f"step {self.step + 1} of {self.stage.name} has a gradient that is not finite")
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return total, norm, rate

    def _shares(self, own: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
        """What each micro-batch divides its sums by."""
        if self.stage.averaging == "micro_batch":
            return list(own)
        n_processes = self.accelerator.num_processes
        names = own[0]
        sums = torch.tensor([sum(counts[name] for counts in own) for name in names], device=self.accelerator.device)
        # Gradients are averaged over processes, so sums are divided by a process's share of all.
        everyone = self.accelerator.reduce(sums, reduction="sum") / n_processes if len(names) else sums
        whole = dict(zip(names, everyone.tolist(), strict=True))
        return [whole] * len(own)

    def _gradients_stay_here(self, is_last: bool) -> Any:
        """Processes exchange gradients with the last micro-batch only."""
        return nullcontext() if is_last else self.accelerator.no_sync(self.objective)

    def _batches(self) -> Iterator[Any]:
        order = ShuffledOrder(len(self.source), self.n_steps * self.per_step, self.seed)
        data = _Drawn(self.source, order, self.step * self.per_step)
        # A loader draws when it starts: from the global generator, a run that goes on would draw once more than others.
        own = torch.Generator()
        loader = DataLoader(data, batch_size=self.stage.micro_batch, collate_fn=self.source.collate, generator=own)
        return iter(self.accelerator.prepare(loader))

    def _rate(self, step: int) -> float:
        """Linear warm-up from 1e-5, then a cosine to 0, as shares of the learning rate."""
        warmup = int(self.stage.warmup * self.n_steps)
        if step < warmup:
            return 1e-5 + (1 - 1e-5) * step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.n_steps - warmup)))


def _batch_parts(stage: StageRecipe, n_processes: int) -> tuple[int, int]:
    """Micro-batches of a process in a step, and samples of all processes in a step."""
    together = stage.micro_batch * n_processes
    batch = stage.batch or together
    if batch % together:
        raise ModelError(
            f"the batch of {stage.name} is {batch}",
            expected=f"a multiple of {together}, micro_batch times {n_processes} processes",
        )
    return batch // together, batch


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters, with decay for matrices and kernels alone."""
    embeddings = {id(item.weight) for item in module.modules() if isinstance(item, nn.Embedding)}
    embeddings |= {id(item) for name, item in module.named_parameters() if name.endswith("level_embed")}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError("the stage trains nothing", expected="parts in `trains`")
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in embeddings]
    kept = {id(p) for p in decayed}
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in kept], "weight_decay": 0.0},
    ]


def _save_trained_only(models: list[nn.Module], weights: list[Any], folder: str) -> None:
    """Keep frozen weights out of checkpoints: they are most of a large model, and do not change."""
    from accelerate import PartialState

    weights.clear()
    if PartialState().is_main_process:
        [model] = models
        save_trained(model, Path(folder) / _WEIGHTS_FILE)


def _load_trained_only(models: list[nn.Module], folder: str) -> None:
    load_trained(models.pop(), Path(folder) / _WEIGHTS_FILE)
