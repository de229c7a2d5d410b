"""A run: one model over several cells. Everything the command line and the Python API do goes through here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omgbench import registry
from omgbench.contract import Capabilities, Model, Placement, Task
from omgbench.data.roots import DataRoot, resolve_root
from omgbench.errors import DataError, UserError
from omgbench.identity import fingerprint
from omgbench.runner.cellrun import run_cell
from omgbench.runner.claim import is_free_for
from omgbench.runner.context import CellContext, CellSettings, Shard
from omgbench.runner.engine import Engine, LocalEngine
from omgbench.runner.loop import require_perfect_answer
from omgbench.runner.plan import Plan, PlanOptions, make_plan
from omgbench.runner.pool import PoolEngine, WorkerModel
from omgbench.runner.progress import Progress, WarningsOnly
from omgbench.runner.results import options_record
from omgbench.selection import Cell, select
from omgbench.store import ResultRecord

DEFAULT_OUT = "omgbench_runs"
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,4})?")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to run.

    Attributes:
        model: a spec (name, `file.py:Class`, `package.module:Class`) or a model object.
        tasks: see `omgbench.selection.select`.
        model_args: constructor arguments of the model.
        task_files: Python files that define further tasks.
        split: split for tasks named without one.
        data: data root, "demo", or None (see `omgbench.data.roots`).
        out: run directory; None = one per fingerprint under `omgbench_runs`.
        plan: limit, seed, template, generation options.
        batch_size: at least 1; halved when memory runs out.
        workers: 0 = in this process; otherwise so many processes.
        timeout_s: seconds after which a batch is given up; needs workers, one is used when none is asked for.
        placement: device and dtype.
        settings: shard, retrying, allowing errors, checking determinism.
    """

    model: str | Model
    tasks: str | Task | Sequence[str | Task]
    model_args: Mapping[str, Any] = field(default_factory=dict)
    task_files: Sequence[Path] = ()
    split: str | None = None
    data: str | Path | None = None
    out: Path | None = None
    plan: PlanOptions = PlanOptions()
    batch_size: int = 1
    workers: int = 0
    timeout_s: float | None = None
    placement: Placement = Placement()
    settings: CellSettings = CellSettings()


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell that is ready to run. `refusal` says why the model cannot answer it at all, or is None."""

    plan: Plan
    root: DataRoot
    refusal: str | None


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What came of a run.

    Attributes:
        out: the run directory.
        results: one per finished cell.
        left_out: cells that the model cannot answer, with why.
        shard_only: True when this was one shard, so that nothing was scored.
    """

    out: Path
    results: tuple[ResultRecord, ...]
    left_out: Mapping[str, str]
    shard_only: bool

    @property
    def complete(self) -> bool:
        """Whether every requested result is complete."""
        return not self.left_out and all(result.complete for result in self.results)


def prepare(request: RunRequest, progress: Progress | None = None) -> tuple[Model, list[PlannedCell]]:
    """Build the model (no weights) and plan every cell: all user mistakes surface here, before anything is loaded.

    Raises:
        UserError, DataError, PluginError: with what to mend.
    """
    say = (progress or WarningsOnly()).say
    _check(request)
    files: dict[str, str] = {}
    for path in request.task_files:
        files.update(registry.tasks_in_file(Path(path)))
    model = (
        request.model if not isinstance(request.model, str) else registry.build_model(request.model, request.model_args)
    )
    capabilities = registry.capabilities_of(model, _spec(request))
    cells = select(request.tasks, request.split, files)
    said: set[str] = set()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return model, [_planned(cell, request, capabilities, say_once) for cell in cells]


def _planned(cell: Cell, request: RunRequest, capabilities: Capabilities, say: Any) -> PlannedCell:
    if capabilities.sees_references:
        require_perfect_answer(cell.task)
    root = resolve_root(cell.task, cell.split, request.data, say)
    plan = make_plan(cell, root.path, request.plan, capabilities.refusal)
    refusal = plan.refusal
    if plan.missing_images and capabilities.reads_images and refusal is None and not request.settings.allow_errors:
        shown = ", ".join(plan.missing_images[:3])
        raise DataError(
            f"{cell.label}: {len(plan.missing_images)} image file(s) are missing",
            where=shown + (" ..." if len(plan.missing_images) > 3 else ""),
            expected="the images of the official release",
            hint=f"omgbench data status {cell.task.info.name}; --allow-errors runs the rest and scores these as wrong",
        )
    return PlannedCell(plan, root, f"the model {refusal}" if refusal else None)


def _spec(request: RunRequest) -> str:
    return request.model if isinstance(request.model, str) else type(request.model).__name__


def check_placement(placement: Placement) -> None:
    """Raise `UserError` for a device or number format that no model can be asked for."""
    if not _DEVICE.fullmatch(placement.device):
        raise UserError(f"--device {placement.device}", expected="auto, cpu, cuda, cuda:1 or mps")
    if placement.dtype not in _DTYPES:
        raise UserError(f"--dtype {placement.dtype}", expected=", ".join(_DTYPES))


def _check(request: RunRequest) -> None:
    if request.batch_size < 1:
        raise UserError(f"--batch-size {request.batch_size}", expected="1 or more")
    if request.workers < 0:
        raise UserError(f"--workers {request.workers}", expected="0 (in this process) or more")
    if request.timeout_s is not None and not request.timeout_s > 0:
        raise UserError(f"--timeout {request.timeout_s:g}", expected="seconds, above 0")
    check_placement(request.placement)
    in_processes = request.workers > 0 or request.timeout_s is not None
    if in_processes and not isinstance(request.model, str):
        raise UserError(
            "worker processes need a model that they can build themselves",
            expected="a name, file.py:Class or package.module:Class in place of an object",
            hint="pass workers=0 to run in this process",
        )
    if in_processes and not _all_named(request.tasks):
        raise UserError("worker processes need tasks given by name", hint="pass workers=0 to run in this process")


def _all_named(tasks: str | Task | Sequence[str | Task]) -> bool:
    return isinstance(tasks, str) or (isinstance(tasks, Sequence) and all(isinstance(task, str) for task in tasks))


def run(request: RunRequest, progress: Progress | None = None) -> RunOutcome:
    """Run, resume or simply score again: whatever is already answered is not asked again."""
    progress = progress or WarningsOnly()
    model, cells = prepare(request, progress)
    capabilities = registry.capabilities_of(model, _spec(request))
    left_out = {cell.plan.cell.label: cell.refusal for cell in cells if cell.refusal is not None}
    open_cells = [cell for cell in cells if cell.refusal is None]
    for label, why in left_out.items():
        progress.say(f"{label} is left out: {why}")
    if not open_cells:
        return RunOutcome(request.out or Path(DEFAULT_OUT), (), left_out, False)
    engine = _engine(request, model, capabilities)
    try:
        loaded = engine.start()
        out = request.out or _default_out(loaded.identity.name, loaded.fingerprint, open_cells)
        settings = request.settings
        results = []
        for cell in open_cells:
            folder = out / cell.plan.cell.folder
            context = CellContext(cell.plan, cell.root, folder, capabilities, loaded, settings)
            if request.out is None and not is_free_for(context):
                # Same model and options, other samples: the default place has room for both.
                context = replace(context, folder=out / f"{cell.plan.cell.folder}-{cell.plan.fingerprint[:8]}")
            result = run_cell(context, engine, progress)
            if result is not None:
                results.append(result)
    finally:
        engine.close()
    return RunOutcome(out, tuple(results), left_out, not settings.shard.whole)


def _engine(request: RunRequest, model: Model, capabilities: Capabilities) -> Engine:
    workers = request.workers or (1 if request.timeout_s is not None else 0)
    if workers and isinstance(request.model, str):
        recipe = WorkerModel(request.model, request.model_args, request.placement)
        return PoolEngine(recipe, workers, request.batch_size, request.timeout_s)
    return LocalEngine(model, capabilities, request.placement, request.batch_size)


def _default_out(name: str, model_fp: str, cells: list[PlannedCell]) -> Path:
    """One directory per model fingerprint, options and data root, so that nothing is ever mixed."""
    roots = {str(cell.root.path.resolve()) if cell.root.kind == "user" else cell.root.kind for cell in cells}
    key = fingerprint([model_fp, options_record(cells[0].plan), sorted(roots - {"none"})])
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:60]
    return Path(DEFAULT_OUT) / f"{safe}-{key[:8]}"


def parse_shard(text: str) -> Shard:
    """`3/16` -> shard 3 of 16."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()) or not 1 <= int(number) <= int(count):
        raise UserError(f"--shard {text}", expected="i/n with 1 <= i <= n, such as 3/16")
    return Shard(int(number), int(count))
