"""The training loop on a toy: resuming, accumulation, averaging, checkpoints, the learning rate."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from omg_llava.errors import ModelError
from omg_llava.training.loop import StageLoop, StepReport
from omg_llava.training.order import ShuffledOrder
from omg_llava.training.recipe import StageRecipe

STAGE = StageRecipe(
    "toy", "text", ("language",), (), steps=8, micro_batch=2, learning_rate=0.05, warmup=0.25, weight_decay=0.1
)
FOREVER = 1e9


@dataclasses.dataclass
class Batch:
    """Rows of unlike length: what is counted differs from batch to batch."""

    rows: list[torch.Tensor]

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return Batch([row.to(device) for row in self.rows])


class Source:
    """Thirteen items; a draw depends on item and place."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 13

    def draw(self, index: int, place: int) -> torch.Tensor:
        self.asked.append((index, place))
        random = np.random.RandomState([index, place])
        return torch.from_numpy(random.randn(1 + index % 4, 4)).float()

    @staticmethod
    def collate(samples: Sequence[torch.Tensor]) -> Batch:
        return Batch(list(samples))


class Objective(nn.Module):
    """Two losses, each a mean over what it counts; dropout and noise as real objectives have them."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.names = nn.Embedding(3, 4)
        self.inner = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 1).requires_grad_(False)
        self.noise = noise

    @staticmethod
    def counts(batch: Batch) -> dict[str, float]:
        return {"rows": float(sum(len(row) for row in batch.rows)), "items": float(len(batch.rows))}

    def forward(self, batch: Batch, counts: Mapping[str, float]) -> dict[str, torch.Tensor]:
        shown = [self.norm(self.inner(row)) + self.names.weight[len(row) % 3] for row in batch.rows]
        if self.noise:
            shown = [nn.functional.dropout(row + self.noise * torch.rand_like(row), 0.2) for row in shown]
        squares = torch.cat([self.frozen(row).square() for row in shown]).sum()
        largest = torch.stack([row.abs().amax() for row in shown]).sum()
        return {"squares": squares / counts["rows"], "largest": largest / counts["items"]}


class Uncounted(nn.Module):
    """A mean of its own over its batch, as set prediction has it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 1)

    @staticmethod
    def counts(batch: Batch) -> dict[str, float]:
        return {}

    def forward(self, batch: Batch, counts: Mapping[str, float]) -> dict[str, torch.Tensor]:
        return {"mean": self.inner(torch.cat(batch.rows)).square().mean()}


MakeLoop = Callable[..., StageLoop]


@pytest.fixture
def make_loop(tmp_path: Path, new_accelerator: Callable[[], Any]) -> MakeLoop:
    """A stage as a fresh process would start it."""

    def make(folder: str = "a", objective: nn.Module | None = None, noise: float = 0.0, **changes: Any) -> StageLoop:
        accelerator = new_accelerator()
        torch.manual_seed(5)
        objective = objective or Objective(noise)
        return StageLoop(
            dataclasses.replace(STAGE, **changes), Source(), objective, accelerator, tmp_path / folder, seed=3
        )

    return make


def whole(loop: StageLoop, checkpoint_seconds: float = FOREVER) -> list[StepReport]:
    """All steps that are left."""
    return list(loop.run(lambda: False, checkpoint_seconds))


def killed_after(loop: StageLoop, step: int, checkpoint_seconds: float = -1.0) -> list[StepReport]:
    """Steps until the process dies: the generator is never asked again, and nothing is saved at its end."""
    reports = []
    for report in loop.run(lambda: False, checkpoint_seconds):
        reports.append(report)
        if report.step == step:
            return reports
    raise AssertionError("the run was over before")


def parameters(loop: StageLoop) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in loop.raw_objective.state_dict().items()}


def assert_alike(first: StageLoop, second: StageLoop) -> None:
    own, other = parameters(first), parameters(second)
    assert own.keys() == other.keys()
    for name, value in own.items():
        assert torch.equal(value, other[name]), name


def losses(reports: list[StepReport]) -> list[dict[str, float]]:
    return [dict(report.losses) for report in reports]


def folders(loop: StageLoop) -> list[str]:
    return sorted(path.name for path in loop.folder.iterdir())


# Steps


def test_a_run_takes_its_steps_and_learns(make_loop: MakeLoop) -> None:
    loop = make_loop(steps=40)
    before = parameters(loop)
    reports = whole(loop)
    assert [report.step for report in reports] == list(range(1, 41))
    assert {(report.stage, report.n_steps) for report in reports} == {("toy", 40)}
    assert all(report.losses.keys() == {"squares", "largest"} for report in reports)
    assert all(report.gradient_norm > 0 and report.seconds > 0 for report in reports)
    totals = [sum(report.losses.values()) for report in reports]
    assert np.mean(totals[-10:]) < 0.8 * np.mean(totals[:10])
    after = parameters(loop)
    assert {name for name in before if torch.equal(before[name], after[name])} == {"frozen.weight", "frozen.bias"}


def test_the_first_step_by_hand(make_loop: MakeLoop) -> None:
    """The samples of the order, AdamW with decay for matrices alone, gradients cut to their norm."""
    loop = make_loop(warmup=0.0, clip_norm=0.01)
    torch.manual_seed(5)
    module = Objective()
    order = ShuffledOrder(13, 16, seed=3)
    batch = Batch([Source().draw(order[place], place) for place in (0, 1)])
    found = module(batch, module.counts(batch))
    sum(found.values()).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None))
    assert norm > 0.01
    expected = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad * 0.01 / (norm + 1e-6)
            decay = 0.1 if name == "inner.weight" else 0.0
            step = gradient / (gradient.square().sqrt() + 1e-8)
            expected[name] = parameter.detach() * (1 - 0.05 * decay) - 0.05 * step
    report = next(loop.run(lambda: False, FOREVER))
    assert dict(report.losses) == pytest.approx({name: float(value.detach()) for name, value in found.items()})
    assert report.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert report.learning_rate == 0.05
    assert len(expected) == 5
    for name, value in expected.items():
        torch.testing.assert_close(dict(loop.raw_objective.named_parameters())[name].detach(), value)


def test_samples_come_in_the_order_of_the_seed(make_loop: MakeLoop) -> None:
    loop = make_loop(batch=4)
    whole(loop)
    order = ShuffledOrder(13, 8 * 2 * 2, seed=3)
    assert loop.source.asked == [(order[place], place) for place in range(32)]


@pytest.mark.parametrize(
    ("changes", "n_steps"),
    [
        ({"steps": 3, "epochs": 9}, 3),
        ({"steps": 0, "epochs": 1}, 6),
        ({"steps": 0, "epochs": 3}, 19),
        ({"steps": 0, "epochs": 3, "batch": 8}, 4),
        ({"steps": 0, "epochs": 1, "micro_batch": 100}, 1),
    ],
)
def test_epochs_are_cut_into_whole_steps(make_loop: MakeLoop, changes: dict[str, int], n_steps: int) -> None:
    loop = make_loop(**changes)
    assert loop.n_steps == n_steps
    assert len(whole(loop)) == n_steps


def test_nothing_to_train_and_nothing_to_train_on_are_model_errors(make_loop: MakeLoop) -> None:
    with pytest.raises(ModelError, match="trains nothing"):
        make_loop(objective=Objective().requires_grad_(False))

    class Empty(Source):
        def __len__(self) -> int:
            return 0

    loop = make_loop()
    with pytest.raises(ModelError, match="no samples"):
        StageLoop(STAGE, Empty(), Objective(), loop.accelerator, loop.folder, seed=3)


def test_biases_alone_can_be_trained(make_loop: MakeLoop) -> None:
    objective = Objective().requires_grad_(False)
    objective.inner.bias.requires_grad_(True)
    loop = make_loop(objective=objective)
    before = parameters(loop)
    whole(loop)
    after = parameters(loop)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["inner.bias"]


# Learning rate


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine(make_loop: MakeLoop) -> None:
    rates = [report.learning_rate for report in whole(make_loop(steps=20, warmup=0.25))]
    rise = [0.05 * (1e-5 + (1 - 1e-5) * step / 5) for step in range(5)]
    fall = [0.05 * (1 + math.cos(math.pi * (step - 5) / 15)) / 2 for step in range(5, 20)]
    assert rates == pytest.approx(rise + fall)
    assert max(rates) == rates[5] == 0.05
    assert 0 < rates[-1] < 0.001


def test_without_a_warm_up_the_whole_rate_comes_first(make_loop: MakeLoop) -> None:
    rates = [report.learning_rate for report in whole(make_loop(warmup=0.0))]
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])


# Accumulation and averaging


def test_averaging_over_the_step_is_as_one_big_batch(make_loop: MakeLoop) -> None:
    small = make_loop("small", micro_batch=2, batch=8, averaging="step")
    in_parts = whole(small)
    big = make_loop("big", micro_batch=8, averaging="step")
    at_once = whole(big)
    for part, one in zip(in_parts, at_once, strict=True):
        assert dict(part.losses) == pytest.approx(dict(one.losses), rel=1e-4)
        assert part.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-3)
    for name, value in parameters(small).items():
        torch.testing.assert_close(value, parameters(big)[name], atol=1e-4, rtol=1e-3)


def test_averaging_over_micro_batches_is_a_mean_of_means(make_loop: MakeLoop) -> None:
    loop = make_loop(micro_batch=2, batch=8, averaging="micro_batch", warmup=0.0)
    torch.manual_seed(5)
    module = Objective()
    order = ShuffledOrder(13, 64, seed=3)
    samples = [Source().draw(order[place], place) for place in range(8)]
    means = [module(batch, module.counts(batch)) for batch in (Batch(samples[at : at + 2]) for at in (0, 2, 4, 6))]
    expected = {name: torch.stack([mean[name] for mean in means]).mean() for name in means[0]}
    sum(expected.values()).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None))
    report = next(loop.run(lambda: False, FOREVER))
    assert dict(report.losses) == pytest.approx({name: float(value.detach()) for name, value in expected.items()})
    assert report.gradient_norm == pytest.approx(norm, rel=1e-5)
    together = module(Batch(samples), module.counts(Batch(samples)))
    assert float(together["squares"].detach()) != pytest.approx(float(expected["squares"].detach()), rel=1e-2)


def test_a_loss_without_counts_does_not_grow_with_the_number_of_micro_batches(make_loop: MakeLoop) -> None:
    """Set prediction averages within its batch and counts nothing."""
    found = {}
    for averaging in ("micro_batch", "step"):
        torch.manual_seed(5)
        loop = make_loop(averaging, objective=Uncounted(), batch=8, averaging=averaging)
        found[averaging] = next(loop.run(lambda: False, FOREVER))
    assert found["step"].losses == pytest.approx(found["micro_batch"].losses)
    assert found["step"].gradient_norm == pytest.approx(found["micro_batch"].gradient_norm)


# Resuming


@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["plain", "with draws"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_stopped_and_resumed_is_as_never_stopped(make_loop: MakeLoop, accumulate: int, noise: float) -> None:
    reference = make_loop("whole", noise=noise, batch=2 * accumulate)
    expected = whole(reference)
    first = make_loop("parts", noise=noise, batch=2 * accumulate)
    found = list(first.run(lambda: first.step >= 3, FOREVER))
    assert [report.step for report in found] == [1, 2, 3]
    second = make_loop("parts", noise=noise, batch=2 * accumulate)
    torch.rand(7)
    assert second.resume()
    assert second.step == 3
    found += whole(second)
    assert [report.step for report in found] == list(range(1, 9))
    assert losses(found) == losses(expected)
    assert [report.learning_rate for report in found] == [report.learning_rate for report in expected]
    assert_alike(second, reference)


@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["plain", "with draws"])
def test_killed_and_resumed_is_as_never_killed(make_loop: MakeLoop, noise: float) -> None:
    """A checkpoint after every step; the process dies in the middle of the sixth, twice."""
    reference = make_loop("whole", noise=noise)
    expected = whole(reference)
    killed_after(make_loop("parts", noise=noise), 6)
    second = make_loop("parts", noise=noise)
    assert second.resume()
    assert second.step == 5
    again = killed_after(second, 6)
    assert losses(again) == losses(expected[5:6])
    third = make_loop("parts", noise=noise)
    assert third.resume()
    assert losses(whole(third)) == losses(expected[5:])
    assert_alike(third, reference)


def test_checkpoints_change_nothing(make_loop: MakeLoop) -> None:
    often = make_loop("often", noise=0.5)
    found = whole(often, -1.0)
    never = make_loop("never", noise=0.5)
    assert found == [
        dataclasses.replace(own, seconds=one.seconds) for one, own in zip(found, whole(never), strict=True)
    ]
    assert_alike(often, never)


def test_a_run_that_is_over_stays_over(make_loop: MakeLoop) -> None:
    first = make_loop()
    whole(first)
    second = make_loop()
    assert second.resume()
    assert second.step == 8
    assert whole(second) == []
    assert_alike(first, second)
    assert folders(second) == ["step_00000008"]


def test_nothing_to_resume(make_loop: MakeLoop) -> None:
    loop = make_loop()
    assert not loop.resume()
    assert loop.step == 0
    loop.folder.mkdir()
    assert not loop.resume()


# Checkpoints


def test_two_checkpoints_are_kept(make_loop: MakeLoop) -> None:
    loop = make_loop()
    seen = []
    for _ in loop.run(lambda: False, -1.0):
        if loop.folder.exists():
            seen.append(folders(loop))
    assert seen[:3] == [
        ["step_00000001"],
        ["step_00000001", "step_00000002"],
        ["step_00000002", "step_00000003"],
    ]
    assert folders(loop) == ["step_00000007", "step_00000008"]


def test_few_checkpoints_without_need(make_loop: MakeLoop) -> None:
    loop = make_loop()
    for _ in loop.run(lambda: False, FOREVER):
        assert not loop.folder.exists()
    assert folders(loop) == ["step_00000008"]


def test_a_checkpoint_is_there_whole_or_not_at_all(make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of the second one."""
    loop = make_loop()
    steps = loop.run(lambda: False, -1.0)
    next(steps)
    next(steps)
    real = loop.accelerator.save_state

    def fails(output_dir: str) -> None:
        real(output_dir)
        (Path(output_dir) / "optimizer.bin").write_bytes(b"")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(loop.accelerator, "save_state", fails)
        with pytest.raises(OSError, match="No space"):
            next(steps)
    assert [name for name in folders(loop) if not name.startswith(".")] == ["step_00000001"]
    second = make_loop()
    assert second.resume()
    assert second.step == 1
    assert [report.step for report in whole(second)] == list(range(2, 9))
    assert folders(second) == ["step_00000001", "step_00000008"], "what the failed one left is cleared away"


def test_a_folder_without_progress_is_no_checkpoint(make_loop: MakeLoop) -> None:
    loop = make_loop()
    killed_after(loop, 4)
    newest = loop.folder / "step_00000003"
    shutil.copytree(newest, loop.folder / "step_00000099")
    (loop.folder / "step_00000099" / "progress.json").unlink()
    second = make_loop()
    assert second.resume()
    assert second.step == 3


def test_stopping_saves(make_loop: MakeLoop) -> None:
    loop = make_loop()
    list(loop.run(lambda: loop.step >= 2, FOREVER))
    assert folders(loop) == ["step_00000002"]
    assert json.loads((loop.folder / "step_00000002" / "progress.json").read_text()) == {
        "step": 2,
        "n_steps": 8,
        "per_step": loop.per_step,
    }


# Losses that are not finite


class Breaks(Objective):
    """Its third loss is not finite, or its third gradient."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.calls = how, 0

    def forward(self, batch: Batch, counts: Mapping[str, float]) -> dict[str, torch.Tensor]:
        found = super().forward(batch, counts)
        self.calls += 1
        if self.calls == 3:
            if self.how == "gradient":
                # The square root of 0 has an infinite slope.
                found["largest"] = found["largest"] + (0 * self.inner.weight.sum()).sqrt()
            else:
                found["largest"] = found["largest"] * float(self.how)
        return found


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_what_is_not_finite_is_a_model_error_before_any_harm(make_loop: MakeLoop, how: str) -> None:
    torch.manual_seed(5)
    loop = make_loop(objective=Breaks(how))
    steps = loop.run(lambda: False, -1.0)
    next(steps)
    next(steps)
    before = parameters(loop)
    with pytest.raises(ModelError, match="step 3 of toy"):
        next(steps)
    after = parameters(loop)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [name for name in folders(loop) if not name.startswith(".")] == ["step_00000001", "step_00000002"]


# Reports


def test_a_report_is_one_line_of_json(make_loop: MakeLoop) -> None:
    report = StepReport("toy", 2, 8, {"a": 0.12345678, "b": 1.0}, 2.0, 1.23456789e-5, 0.1234567)
    line = report.to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "stage": "toy",
        "step": 2,
        "n_steps": 8,
        "loss": 1.123457,
        "a": 0.123457,
        "b": 1.0,
        "gradient_norm": 2.0,
        "learning_rate": 1.23457e-5,
        "seconds": 0.123,
    }


def test_a_report_of_an_overflow_is_json_too() -> None:
    """With fp16 the scaler meets infinite gradients now and then, and skips the step."""
    line = StepReport("toy", 2, 8, {"a": 1.0}, math.inf, 1e-5, 0.1).to_json()

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(line, parse_constant=refuse)
