"""Runs that lie on disk: score them again, or put shards together, without the model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from omgbench import registry
from omgbench.contract import Capabilities, Intent, ModelIdentity, Placement
from omgbench.data.roots import DataRoot, resolve_root
from omgbench.errors import DataError, RunRefused, UserError
from omgbench.runner.cellrun import load_index
from omgbench.runner.claim import locked
from omgbench.runner.context import JOURNAL_FOLDER, CellContext, CellSettings
from omgbench.runner.engine import LoadedModel
from omgbench.runner.journal import journal_files
from omgbench.runner.plan import PlanOptions, make_plan
from omgbench.runner.progress import Progress, WarningsOnly
from omgbench.runner.results import finish_cell
from omgbench.selection import Cell, select
from omgbench.store import ResultRecord
from omgbench.store.cell import CELL_FILE, CellFile, read_cell_file


def cell_folders(run: Path) -> list[Path]:
    """Cell folders of a run directory, by name. Raises `DataError` when there is none."""
    folders = sorted(path.parent for path in run.glob(f"*/{CELL_FILE}"))
    if not folders:
        raise DataError(
            f"{run} is no run directory",
            expected=f"folders with a {CELL_FILE}",
            hint="name the --out of an omgbench run",
        )
    return folders


def stored_context(
    folder: Path, data: str | Path | None = None, task_files: Sequence[Path] = (), allow_errors: bool | None = None
) -> CellContext:
    """Rebuild a cell's context from its folder.

    Args:
        data: replaces the data root that the run used.
        task_files: Python files whose tasks may be used. A run directory may come from anybody, so code that it names
            is not loaded; registered tasks are found by name.
        allow_errors: replaces the run's own choice.

    Raises:
        UserError: the run used a task that only its own program or a file can build.
        RunRefused: task or data now give another sample list than the one that was answered.
    """
    found = read_cell_file(folder)
    cell = _cell(found, folder, task_files)
    root = DataRoot(Path(found.data.root), found.data.kind)
    if data is not None or not root.path.exists():
        root = resolve_root(cell.task, cell.split, data)
    options = found.options
    plan_options = PlanOptions(options.limit, options.seed, options.template, tuple(options.gen.items()))
    plan = make_plan(cell, root.path, plan_options)
    allowed = found.allow_errors if allow_errors is None else allow_errors
    settings = CellSettings(allow_errors=allowed, model_spec=found.model_spec)
    context = CellContext(plan, root, folder, _capabilities(found), _loaded_model(found), settings)
    if context.fingerprint != found.cell:
        raise RunRefused(
            f"{found.label}: the task now gives other requests than those that were answered",
            where=str(folder),
            expected=f"plan {found.plan}, found {plan.fingerprint}",
            hint="name the data root of the run with --data, or run anew",
        )
    return context


def _cell(found: CellFile, folder: Path, task_files: Sequence[Path]) -> Cell:
    files: dict[str, str] = {}
    for path in task_files:
        files.update(registry.tasks_in_file(path))
    if found.task.name not in files and (found.task.spec is None or ":" in found.task.spec):
        raise UserError(
            f"{found.label} was run with a task that is not registered: {found.task.spec or 'an object of a program'}",
            where=str(folder),
            expected="a registered task, or its file",
            hint="if you trust that file: --task-file FILE; or repeat the run's own command, which asks nothing again",
        )
    name, _, split = found.label.rpartition(":")
    return select([f"{name}:{split}"], task_files=files)[0]


def _capabilities(found: CellFile) -> Capabilities:
    traits = found.capabilities
    return Capabilities(
        frozenset(Intent),
        mask_source=traits.mask_source,
        language_model=traits.language_model,
        sees_references=traits.sees_references,
        reads_images=traits.reads_images,
    )


def _loaded_model(found: CellFile) -> LoadedModel:
    model = found.model
    identity = ModelIdentity(model.name, model.version, model.weights, model.templates, model.options, model.libraries)
    return LoadedModel(identity, model.code, Placement(dtype=model.dtype))


def rescore(
    run: Path,
    data: str | Path | None = None,
    allow_errors: bool | None = None,
    progress: Progress | None = None,
    task_files: Sequence[Path] = (),
) -> list[ResultRecord]:
    """Score every cell of a run directory again from its answers; see `stored_context`."""
    results = []
    for folder in cell_folders(run):
        context = stored_context(folder, data, task_files, allow_errors)
        with locked(context):
            load_index(context, progress or WarningsOnly()).close()
            results.append(finish_cell(context))
    return results


def merge(
    out: Path,
    sources: Sequence[Path],
    data: str | Path | None = None,
    progress: Progress | None = None,
    task_files: Sequence[Path] = (),
) -> list[ResultRecord]:
    """Bring the answers of several run directories into one and score it.

    Only answers of one fingerprint go together; a cell that another model, plan or option set answered is refused.
    Merging is a union by sample, so doing it twice changes nothing. With no source, the shards are taken to have
    written to `out` itself.
    """
    others = [source for source in sources if source.resolve() != out.resolve()]
    folders = [folder for source in others for folder in cell_folders(source)]
    _check_same(([out] if out.is_dir() else []) + others)
    for folder in folders:
        _bring(folder, out / folder.name)
    return rescore(out, data, None, progress, task_files)


def _check_same(runs: Sequence[Path]) -> None:
    """Refuse, before anything is copied, cells of one name that are not of one fingerprint."""
    first: dict[str, Path] = {}
    for folder in (path.parent for run in runs for path in sorted(run.glob(f"*/{CELL_FILE}"))):
        other = first.setdefault(folder.name, folder)
        ours, theirs = read_cell_file(other), read_cell_file(folder)
        if ours.cell != theirs.cell:
            raise RunRefused(
                f"{theirs.label}: {other} and {folder} hold answers of different models, plans or options",
                expected=f"fingerprint {ours.cell}, found {theirs.cell}",
                hint="merge shards of one and the same command",
            )


def _bring(source: Path, target: Path) -> None:
    if not (target / CELL_FILE).exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / CELL_FILE, target / CELL_FILE)
    (target / JOURNAL_FOLDER).mkdir(exist_ok=True)
    for path in journal_files(source / JOURNAL_FOLDER):
        copy = target / JOURNAL_FOLDER / path.name
        if not copy.exists():
            temporary = copy.with_suffix(".tmp")
            shutil.copyfile(path, temporary)
            temporary.rename(copy)
