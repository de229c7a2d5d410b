"""Scoring saved predictions: the same plan, records and metrics as a run, with a file in place of the model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from omgbench.contract import HasOfficialPredictions, Response, Status, Task
from omgbench.errors import DataError, UserError
from omgbench.predictions import PredictionFile, write_predictions
from omgbench.runner.context import CellSettings
from omgbench.runner.progress import Progress
from omgbench.runner.run import PlannedCell, RunOutcome, RunRequest, prepare, run

OFFLINE_MODEL = "omgbench.adapters.offline:OfflinePredictions"
BATCH_SIZE = 64
SHOWN_IDS = 5


def score_predictions(
    predictions: Path,
    tasks: str | Task | Sequence[str | Task],
    *,
    split: str | None = None,
    data: str | Path | None = None,
    out: Path | None = None,
    name: str | None = None,
    task_files: Sequence[Path] = (),
    allow_errors: bool = False,
    progress: Progress | None = None,
) -> RunOutcome:
    """Score a JSON-lines prediction file, or the official prediction folder of a task.

    Args:
        predictions: file or folder.
        tasks, split, data, out, task_files, progress: as in `omgbench.evaluate`.
        name: the model's name; default: the file's header, or the folder's own name.
        allow_errors: missing answers leave the result complete.

    Raises:
        DataError: the file breaks the format, holds ids of the scored cells that do not exist, or states that it was
            made for other requests.
        UserError: the task knows no official prediction format, or several cells are asked of one official folder.
    """
    if not predictions.exists():
        raise DataError("the predictions do not exist", where=str(predictions), hint="check the path")
    request = RunRequest(
        model=OFFLINE_MODEL,
        tasks=tasks,
        task_files=task_files,
        split=split,
        data=data,
        out=out,
        batch_size=BATCH_SIZE,
        settings=CellSettings(allow_errors=allow_errors, model_spec=f"predictions {predictions.name}"),
    )
    if not predictions.is_dir():
        return _score_file(predictions, request, progress, name)
    with tempfile.TemporaryDirectory(prefix="omgbench-import-") as folder:
        file = Path(folder) / "predictions.jsonl"
        _import_folder(predictions, file, request, name or predictions.resolve().name)
        return _score_file(file, request, progress)


def _score_file(file: Path, request: RunRequest, progress: Progress | None, name: str | None = None) -> RunOutcome:
    request = replace(request, model_args={"path": str(file)} | ({"name": name} if name else {}))
    _, cells = prepare(request, progress)
    saved = PredictionFile(file)
    saved.load()
    _check_predictions(saved, cells)
    return run(request, progress)


def _check_predictions(saved: PredictionFile, cells: Iterable[PlannedCell]) -> None:
    """Refuse ids that no scored cell asks, and predictions made for other requests."""
    known: set[str] = set()
    labels: set[str] = set()
    for cell in cells:
        plan = cell.plan
        labels.add(plan.cell.label)
        known.update(planned.sample.id for planned in plan.samples())
        stated = saved.header.get("requests", {}).get(plan.cell.label, plan.fingerprint)
        if stated != plan.fingerprint:
            raise DataError(
                f"the predictions were made for other requests of {plan.cell.label}",
                where=str(saved.path),
                expected=f"requests {plan.fingerprint}, the header says {stated}",
                hint="use the same data, prompts and options, or take the fingerprint out of the header",
            )
    _check_ids(saved, known, labels)


def _check_ids(saved: PredictionFile, known: set[str], labels: set[str]) -> None:
    expected = f"ids such as {min(known)}"
    unknown = [name for name in saved.ids() if name not in known and _of_scored_cell(name, labels)]
    if unknown:
        raise DataError(
            f"{len(unknown)} prediction(s) answer requests that do not exist: {', '.join(unknown[:SHOWN_IDS])}",
            where=str(saved.path),
            expected=expected,
            hint="omgbench run --dry-run shows the ids of a task",
        )
    if not known.intersection(saved.ids()):
        raise DataError(
            f"no prediction answers a request of {', '.join(sorted(labels))}",
            where=str(saved.path),
            expected=expected,
            hint="check --tasks",
        )


def _of_scored_cell(request_id: str, labels: set[str]) -> bool:
    """A file may also answer cells that are not scored now; ids of built-in tasks begin with their cell."""
    label, marked, _ = request_id.partition("#")
    return not marked or label in labels


def _import_folder(folder: Path, file: Path, request: RunRequest, name: str) -> None:
    # Planning asks a model only what it can answer; saved predictions answer everything.
    write_predictions(file, name, ())
    _, cells = prepare(replace(request, model_args={"path": str(file)}))
    if len(cells) != 1:
        labels = ", ".join(cell.plan.cell.label for cell in cells)
        raise UserError(f"a prediction folder answers one split, not {labels}", expected="--tasks TASK:SPLIT")
    task = cells[0].plan.cell.task
    if not isinstance(task, HasOfficialPredictions):
        raise UserError(
            f"task {task.info.name} knows no official prediction folder",
            expected="a JSON-lines file",
            hint="the format is described in docs/predictions.md",
        )
    samples = (planned.sample for planned in cells[0].plan.samples())
    responses = _Counted(task.read_official_predictions(folder, samples))
    write_predictions(file, name, responses)
    if not responses.n_present:
        raise DataError(
            f"no prediction answers a request of {cells[0].plan.cell.label}",
            where=str(folder),
            expected="the folder that the official script writes",
            hint="check --predictions and --tasks",
        )


class _Counted:
    """Responses on their way through, those that are there counted."""

    def __init__(self, responses: Iterable[Response]) -> None:
        self._responses = responses
        self.n_present = 0

    def __iter__(self) -> Iterator[Response]:
        for response in self._responses:
            self.n_present += response.status is not Status.MISSING
            yield response
