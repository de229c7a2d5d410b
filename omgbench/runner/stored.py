"""Runs that lie on disk: score them again, or put shards together, without the model."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omgbench.contract import Capabilities, Intent, ModelIdentity
from omgbench.data.roots import DataRoot, resolve_root
from omgbench.errors import DataError, RunRefused, UserError
from omgbench.runner.cellrun import (
    CELL_FILE,
    JOURNAL_FOLDER,
    CellContext,
    CellSettings,
    finish_cell,
    load_index,
    locked,
)
from omgbench.runner.engine import LoadedModel
from omgbench.runner.journal import journal_files
from omgbench.runner.plan import PlanOptions, make_plan
from omgbench.runner.progress import Progress, WarningsOnly
from omgbench.selection import select
from omgbench.store import ResultRecord

_CELL_KEYS = frozenset(
    ("cell", "label", "plan", "n_samples", "options", "model", "task", "data", "capabilities", "settings")
)


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


def stored_context(folder: Path, data: str | Path | None = None) -> CellContext:
    """Rebuild a cell's context from its folder. `data` replaces the data root that the run used.

    Raises:
        RunRefused: task or data now give another sample list than the one that was answered.
    """
    cell_file = read_cell_file(folder)
    task, options = cell_file["task"], cell_file["options"]
    if task["spec"] is None:
        raise UserError(
            f"{cell_file['label']} was run with a task object that only its own program can build",
            where=str(folder),
            hint="repeat the call of omgbench.evaluate: it asks nothing again and scores",
        )
    name, _, split = cell_file["label"].rpartition(":")
    files = {task["name"]: task["spec"]} if task["spec"] != task["name"] else {}
    cell = select([f"{name}:{split}"], task_files=files)[0]
    root = DataRoot(Path(cell_file["data"]["root"]), cell_file["data"]["kind"])
    if data is not None or not root.path.exists():
        root = resolve_root(cell.task, cell.split, data)
    gen = tuple(options.get("gen", {}).items())
    plan_options = PlanOptions(options.get("limit"), options.get("seed"), options.get("template"), gen)
    plan = make_plan(cell, root.path, plan_options)
    model = cell_file["model"]
    code = model.pop("code")
    traits = cell_file["capabilities"]
    capabilities = Capabilities(
        frozenset(Intent),
        mask_source=traits["mask_source"],
        language_model=traits["language_model"],
        sees_references=traits["sees_references"],
        reads_images=traits["reads_images"],
    )
    settings = CellSettings(**cell_file["settings"])
    context = CellContext(plan, root, folder, capabilities, LoadedModel(ModelIdentity(**model), code), settings)
    if context.fingerprint != cell_file["cell"]:
        raise RunRefused(
            f"{cell_file['label']}: the task now gives other requests than those that were answered",
            where=str(folder),
            expected=f"plan {cell_file['plan']}, found {plan.fingerprint}",
            hint="name the data root of the run with --data, or run anew",
        )
    return context


def read_cell_file(folder: Path) -> dict[str, Any]:
    """The cell file of a folder."""
    try:
        value: dict[str, Any] = json.loads((folder / CELL_FILE).read_text(encoding="utf-8"))
        lacking = _CELL_KEYS - value.keys() if isinstance(value, dict) else _CELL_KEYS
        if lacking:
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"a cell that cannot be read: {error}",
            where=str(folder / CELL_FILE),
            hint="repeat the run's own command with another --out",
        ) from None
    return value


def rescore(
    run: Path, data: str | Path | None = None, allow_errors: bool | None = None, progress: Progress | None = None
) -> list[ResultRecord]:
    """Score every cell of a run directory again from its answers."""
    return [_rescore_cell(folder, data, allow_errors, progress or WarningsOnly()) for folder in cell_folders(run)]


def _rescore_cell(folder: Path, data: str | Path | None, allow_errors: bool | None, progress: Progress) -> ResultRecord:
    started, clock = datetime.now(UTC), time.monotonic()
    context = stored_context(folder, data)
    if allow_errors is not None:
        context = context.with_errors_allowed(allow_errors)
    with locked(context):
        index = load_index(context, progress)
        index.close()
        return finish_cell(context, context.settings.batch_size, started, clock, None)


def merge(
    out: Path, sources: Sequence[Path], data: str | Path | None = None, progress: Progress | None = None
) -> list[ResultRecord]:
    """Bring the answers of several run directories into one and score it.

    Only answers of one fingerprint go together; a cell that another model, plan or option set answered is refused.
    Merging is a union by sample, so doing it twice changes nothing. With no source, the shards are taken to have
    written to `out` itself.
    """
    progress = progress or WarningsOnly()
    others = [source for source in sources if source.resolve() != out.resolve()]
    folders = [folder for source in others for folder in cell_folders(source)]
    _check_same(([out] if out.is_dir() else []) + others)
    for folder in folders:
        _bring(folder, out / folder.name)
    return rescore(out, data, progress=progress)


def _check_same(runs: Sequence[Path]) -> None:
    """Refuse, before anything is copied, cells of one name that are not of one fingerprint."""
    first: dict[str, Path] = {}
    for folder in (path.parent for run in runs for path in sorted(run.glob(f"*/{CELL_FILE}"))):
        other = first.setdefault(folder.name, folder)
        ours, theirs = read_cell_file(other), read_cell_file(folder)
        if ours["cell"] != theirs["cell"]:
            raise RunRefused(
                f"{theirs['label']}: {other} and {folder} hold answers of different models, plans or options",
                expected=f"fingerprint {ours['cell']}, found {theirs['cell']}",
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
