"""The Python API: what `omgbench run` does, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omgbench.contract import Model, Placement, Task
from omgbench.printable import SENTENCE_LIMIT, printable
from omgbench.reports.tables import Format, Published, format_value, render_table
from omgbench.runner import imported
from omgbench.runner.context import CellSettings, Shard
from omgbench.runner.plan import PlanOptions
from omgbench.runner.progress import Progress
from omgbench.runner.run import RunRequest, parse_shard, run
from omgbench.store import ResultRecord, find_results, load_result

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Evaluation:
    """Results of one or more runs.

    Attributes:
        results: one record per task and split.
        left_out: cells that the model does not support, with why.
        out: the run directory; None when results were loaded from several places.
    """

    results: tuple[ResultRecord, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None

    @property
    def complete(self) -> bool:
        """Whether every requested result is complete."""
        return not self.left_out and all(result.complete for result in self.results)

    def result(self, label: str) -> ResultRecord:
        """The result of `task[/subset]:split`. Raises `KeyError` with the labels there are."""
        for found in self.results:
            if found.label == label:
                return found
        raise KeyError(f"no result {label!r}; there are {', '.join(item.label for item in self.results) or 'none'}")

    def value(self, label: str, metric: str) -> float | None:
        """One unrounded number."""
        return self.result(label).value(metric)

    def frame(self) -> pandas.DataFrame:
        """One row per metric: model, task, subset, split, metric, value, n, answered, n_samples, complete, marks."""
        import pandas

        return pandas.DataFrame.from_records([row for result in self.results for row in _rows(result)])

    def table(self, format: Format = "markdown", *, published: Published = "none") -> str:
        """The results as a table; see `omgbench.reports.tables.render_table`."""
        return render_table(self.results, format=format, published=published)

    def __repr__(self) -> str:
        lines = [f"Evaluation of {len(self.results)} result(s)" + (f" in {self.out}" if self.out else "")]
        for result in self.results:
            shown = ", ".join(f"{item.name} {format_value(item)}" for item in result.metrics if item.primary)
            coverage = f"{result.coverage.answered}/{result.coverage.n_samples} answered"
            marks = "".join(f" [{mark}]" for mark in result.marks)
            state = "" if result.complete else f"  INCOMPLETE: {'; '.join(result.reasons[:1])}"
            lines.append(f"  {result.model.name} on {result.label}: {shown}  ({coverage}){marks}{state}")
        lines.extend(f"  {label} left out: {why}" for label, why in self.left_out.items())
        return "\n".join(printable(line, SENTENCE_LIMIT) for line in lines)


def _rows(result: ResultRecord) -> list[dict[str, Any]]:
    return [
        {
            "model": result.model.name,
            "task": result.task.name,
            "subset": result.task.subset,
            "split": result.task.split,
            "metric": item.name,
            "value": item.value,
            "n": item.n,
            "answered": result.coverage.answered,
            "n_samples": result.coverage.n_samples,
            "complete": result.complete,
            "marks": "; ".join(result.marks),
        }
        for item in result.metrics
    ]


def evaluate(
    model: str | Model,
    tasks: str | Task | Sequence[str | Task],
    *,
    model_args: Mapping[str, Any] | None = None,
    task_files: Sequence[str | Path] = (),
    data: str | Path | None = None,
    out: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    template: str | None = None,
    gen: Mapping[str, int | float | str] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    timeout_s: float | None = None,
    shard: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = True,
    retry_errors: bool = False,
    allow_errors: bool = False,
    check_determinism: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a model on tasks and give the results; what is already answered in `out` is not asked again.

    Args:
        model: registered name, `file.py:Class`, `package.module:Class`, or a model object.
        tasks: `"refcoco:testA,gcg"` or a sequence of names and task objects.
        model_args: constructor arguments of a model given by name.
        task_files: Python files that define further tasks.
        data: data root, `"demo"`, or None for OMGBENCH_DATA and, without it, demo data.
        out: run directory; None = one per model fingerprint and options under `omgbench_runs`.
        split: split for tasks named without one; `"all"` = every split.
        limit, seed: at most `limit` samples; with a seed whole image groups are drawn. `seed` also seeds generation.
        template: name of one of the task's prompt templates, or a wording that holds `{text}`.
        gen: generation options, such as `{"max_new_tokens": 64}`.
        batch_size, workers, timeout_s: requests per batch; worker processes (0 = here); seconds a batch may take.
        shard: `"3/16"` answers one part and scores nothing; `omgbench merge` puts the parts together.
        device, dtype, offline: placement of the model.
        retry_errors: ask failed requests again.
        allow_errors: failed requests leave the result complete; they still score as the worst case.
        check_determinism: ask 1% of the samples again at another batch size, and record the agreement.
        progress: where to report progress; None = warnings only, on standard error.

    Raises:
        omgbench.errors.UserError: anything the caller can mend, before a model is loaded wherever possible.
    """
    settings = CellSettings(
        shard=parse_shard(shard) if shard else Shard(),
        retry_errors=retry_errors,
        allow_errors=allow_errors,
        check_determinism=check_determinism,
        model_spec=model if isinstance(model, str) else type(model).__name__,
    )
    request = RunRequest(
        model=model,
        tasks=tasks,
        model_args=model_args or {},
        task_files=[Path(path) for path in task_files],
        split=split,
        data=data,
        out=Path(out) if out is not None else None,
        plan=PlanOptions(limit, seed, template, tuple(sorted((gen or {}).items()))),
        batch_size=batch_size,
        workers=workers,
        timeout_s=timeout_s,
        placement=Placement(device, dtype, offline),
        settings=settings,
    )
    outcome = run(request, progress)
    return Evaluation(outcome.results, outcome.left_out, outcome.out)


def score_predictions(
    predictions: str | Path,
    tasks: str | Task | Sequence[str | Task],
    *,
    split: str | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    task_files: Sequence[str | Path] = (),
    allow_errors: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Score saved predictions: a JSON-lines file, or the official prediction folder of a task. Needs no images.

    Args:
        predictions: file or folder.
        name: the model's name; default: the file's header, or the folder's own name.
        tasks, split, data, out, task_files, allow_errors, progress: see `evaluate`.

    Raises:
        omgbench.errors.DataError: the file breaks the format, answers what was never asked, or was made for other
            requests.
    """
    outcome = imported.score_predictions(
        Path(predictions),
        tasks,
        split=split,
        data=data,
        out=Path(out) if out is not None else None,
        name=name,
        task_files=[Path(path) for path in task_files],
        allow_errors=allow_errors,
        progress=progress,
    )
    return Evaluation(outcome.results, outcome.left_out, outcome.out)


def load_results(*places: str | Path) -> Evaluation:
    """Results from run directories or result files. Raises `DataError` for a place without any."""
    return Evaluation(tuple(load_result(path) for path in find_results(Path(place) for place in places)))
