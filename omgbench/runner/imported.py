"""Scoring saved predictions: the same plan, records and metrics as a run, with a file in place of the model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from omgbench.contract import HasOfficialPredictions, Model
from omgbench.errors import DataError, UserError
from omgbench.registry import build_model
from omgbench.runner.cellrun import CellSettings
from omgbench.runner.progress import Progress
from omgbench.runner.run import PlannedCell, RunOutcome, RunRequest, prepare, run

OFFLINE = "omgbench.adapters.offline:OfflinePredictions"
OFFLINE_WRITER = "omgbench.adapters.offline"
SHOWN_IDS = 5


def score_predictions(
    predictions: Path,
    tasks: str,
    *,
    data: str | Path | None = None,
    out: Path | None = None,
    name: str | None = None,
    task_files: Sequence[Path] = (),
    allow_errors: bool = False,
    progress: Progress | None = None,
) -> RunOutcome:
    """Score a JSON-lines prediction file, or the official prediction folder of a task.

    Raises:
        DataError: the file breaks the format, holds ids of the scored cells that do not exist, or states that it was
            made for other requests.
        UserError: the task knows no official prediction format, or several cells are asked of one official folder.
    """
    if not predictions.exists():
        raise DataError("the predictions do not exist", where=str(predictions), hint="check the path")
    if not predictions.is_dir():
        return _score_file(predictions, tasks, data, out, task_files, allow_errors, progress)
    with tempfile.TemporaryDirectory(prefix="omgbench-import-") as folder:
        file = Path(folder) / f"{predictions.resolve().name}.jsonl"
        _import_folder(predictions, file, name or predictions.resolve().name, tasks, data, task_files)
        return _score_file(file, tasks, data, out, task_files, allow_errors, progress)


def _request(model: str | Model, tasks: str, data: str | Path | None, task_files: Sequence[Path]) -> RunRequest:
    return RunRequest(model=model, tasks=tasks, data=data, task_files=task_files)


def _score_file(
    file: Path,
    tasks: str,
    data: str | Path | None,
    out: Path | None,
    task_files: Sequence[Path],
    allow_errors: bool,
    progress: Progress | None,
) -> RunOutcome:
    arguments = {"path": str(file)}
    request = RunRequest(
        model=OFFLINE,
        model_args=arguments,
        tasks=tasks,
        task_files=task_files,
        data=data,
        out=out,
        batch_size=64,
        settings=CellSettings(allow_errors=allow_errors, model_spec=f"predictions {file.name}", batch_size=64),
    )
    model, cells = prepare(request, progress)
    _check_predictions(model, cells, file)
    return run(request, progress)


def _check_predictions(model: Model, cells: Iterable[PlannedCell], file: Path) -> None:
    """Refuse ids that no scored cell asks, and predictions made for other requests."""
    from omgbench.adapters.offline import OfflinePredictions
    from omgbench.contract import Placement

    assert isinstance(model, OfflinePredictions)
    model.load(Placement())
    stated = model.header.get("requests", {})
    known: set[str] = set()
    for cell in cells:
        plan = cell.plan
        expected = stated.get(plan.cell.label)
        if expected is not None and expected != plan.fingerprint:
            raise DataError(
                f"the predictions were made for other requests of {plan.cell.label}",
                where=str(file),
                expected=f"requests {plan.fingerprint}, the header says {expected}",
                hint="use the same data, prompts and options, or take the fingerprint out of the header",
            )
        known.update(planned.sample.id for planned in plan.samples())
    labels = {cell.plan.cell.label for cell in cells}
    unknown = [name for name in model.ids() if name not in known and _of_scored_cell(name, labels)]
    if unknown:
        raise DataError(
            f"{len(unknown)} prediction(s) answer requests that do not exist: {', '.join(unknown[:SHOWN_IDS])}",
            where=str(file),
            expected=f"ids such as {next(iter(sorted(known)))}",
            hint="omgbench run --dry-run shows the ids of a task",
        )
    if not known.intersection(model.ids()):
        raise DataError(
            f"no prediction answers a request of {', '.join(sorted(labels))}",
            where=str(file),
            expected=f"ids such as {next(iter(sorted(known)))}",
            hint="check --tasks",
        )


def _of_scored_cell(request_id: str, labels: set[str]) -> bool:
    """A file may also answer cells that are not scored now; ids of built-in tasks begin with their cell."""
    label, marked, _ = request_id.partition("#")
    return not marked or label in labels


def _import_folder(
    folder: Path, file: Path, name: str, tasks: str, data: str | Path | None, task_files: Sequence[Path]
) -> None:
    from omgbench.adapters.offline import write_predictions

    # Planning needs a model's capabilities only to see what can be answered; saved predictions answer everything.
    write_predictions(file, name, ())
    _, cells = prepare(_request(build_model(OFFLINE, {"path": str(file)}), tasks, data, task_files))
    if len(cells) != 1:
        raise UserError(f"a prediction folder answers one split, {tasks} names {len(cells)}", expected="one TASK:SPLIT")
    task = cells[0].plan.cell.task
    if not isinstance(task, HasOfficialPredictions):
        raise UserError(
            f"task {task.info.name} knows no official prediction folder",
            expected="a JSON-lines file",
            hint="the format is described in docs/predictions.md",
        )
    samples = (planned.sample for planned in cells[0].plan.samples())
    write_predictions(file, name, task.read_official_predictions(folder, samples))
