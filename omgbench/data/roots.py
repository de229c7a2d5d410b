"""Where a task's files are: the user's data root, or demo data that is written on first use."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omgbench.contract import HasDemo, SplitInfo, Task
from omgbench.data.locate import find_missing
from omgbench.data.scenes import DEMO_VERSION
from omgbench.errors import DataError, UserError
from omgbench.identity import code_fingerprint, fingerprint

DATA_VARIABLE = "OMGBENCH_DATA"
CACHE_VARIABLE = "OMGBENCH_CACHE"
DEMO = "demo"
DEMO_MARKER = "omgbench_demo.json"
DEMO_SEED = 0


@dataclass(frozen=True, slots=True)
class DataRoot:
    """A folder with files in official layouts.

    Attributes:
        path: the folder.
        kind: "user", "demo" (whatever lies under a demo marker stays demo data for ever), or "none" for a task that
            needs no files.
    """

    path: Path
    kind: Literal["user", "demo", "none"]


def resolve_root(
    task: Task,
    split: SplitInfo,
    data: str | Path | None,
    say: Callable[[str], None] = lambda line: None,
    write: bool = True,
) -> DataRoot:
    """The root for one split.

    Args:
        data: a folder, "demo", or None: then OMGBENCH_DATA, and where that is not set demo data.
        say: receives the one line that tells that demo data is used.
        write: write demo data that is not there yet; otherwise only say where it would be.

    Raises:
        UserError: the folder does not exist.
        DataError: files of the split are missing, or the task has no demo data to fall back on.
    """
    chosen = data if data is not None else os.environ.get(DATA_VARIABLE) or None
    if chosen is not None and str(chosen) != DEMO:
        return _user_root(task, split, Path(chosen).expanduser(), None if data is not None else DATA_VARIABLE)
    if not split.files:
        return DataRoot(Path(), "none")
    if not isinstance(task, HasDemo):
        raise DataError(
            f"task {task.info.name} has no demo data and no data root is set",
            expected=f"--data DIR or {DATA_VARIABLE}",
            hint=f"omgbench data status {task.info.name}",
        )
    path = demo_root(task) if write else demo_folder(task)
    if chosen is None:
        say(
            f"{task.info.title}: no data root is set, so small made-up demo scenes are used ({path}). "
            f"For the benchmark itself: --data DIR, see omgbench data status {task.info.name}"
        )
    return DataRoot(path, "demo")


def check_root(path: Path, variable: str | None = None) -> None:
    """Raise `UserError` unless `path` is a folder; `variable`: the environment variable that names it, if one does."""
    if not path.is_dir():
        raise UserError(
            f"the data root {path} is not a folder",
            where=f"the environment variable {variable}" if variable else None,
            expected=f"{variable or '--data'} DIR, with files as the official releases unpack",
        )


def _user_root(task: Task, split: SplitInfo, path: Path, variable: str | None) -> DataRoot:
    check_root(path, variable)
    # Images are asked for later, and only by models that read them.
    missing = find_missing(path, [file for file in split.files if file.role == "annotations"])
    if missing:
        first = missing[0]
        raise DataError(
            f"{task.info.name} {split.label} lacks {len(missing)} file(s) under {path}",
            where=", ".join(file.names[0] for file in missing),
            expected=f"{first.what}: {' or '.join(first.names)}",
            hint=f"omgbench data status {task.info.name} says where to get them; --data demo runs on demo scenes",
        )
    return DataRoot(path, "demo" if is_demo(path) else "user")


def is_demo(path: Path) -> bool:
    """Whether a root holds demo data."""
    return (path / DEMO_MARKER).exists()


def cache_folder() -> Path:
    """OMGBENCH_CACHE, else `omgbench` in the user's cache folder."""
    explicit = os.environ.get(CACHE_VARIABLE)
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "omgbench"


def demo_folder(task: Task, seed: int = DEMO_SEED) -> Path:
    """Where a task's demo data is, or would be. The writer's code is part of the name, so that a changed writer never
    meets data of the old one."""
    version = fingerprint([DEMO_VERSION, code_fingerprint(task), task.info.version, seed])[:10]
    return cache_folder() / DEMO / f"{task.info.name}-{version}"


def demo_root(task: Task, seed: int = DEMO_SEED) -> Path:
    """The folder with a task's demo data, written now if it is not there. Several processes may ask at once."""
    path = demo_folder(task, seed)
    if not (path / DEMO_MARKER).exists():
        write_demo(task, path, seed)
    return path


def write_demo(task: Task, path: Path, seed: int = DEMO_SEED) -> None:
    """Write a task's demo data to `path`, whole or not at all. An existing folder is left as it is.

    Raises:
        UserError: the task has no demo data, or the folder cannot be written.
    """
    if not isinstance(task, HasDemo):
        raise UserError(f"task {task.info.name} has no demo data", hint="omgbench tasks shows which tasks have")
    made_parent = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    except OSError as error:
        raise UserError(
            f"demo data cannot be written: {error}", hint=f"set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
    try:
        task.write_demo(temporary, seed)
        marker = {"task": task.info.name, "seed": seed, "demo_version": DEMO_VERSION}
        (temporary / DEMO_MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(path)
    except OSError:
        if not (path / DEMO_MARKER).exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made_parent:
            with suppress(OSError):
                # Only an empty folder goes.
                path.parent.rmdir()
