"""Whose folder a cell's folder is, and who may write to it right now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from omgbench.errors import DataError, RunRefused, UserError
from omgbench.runner.context import CellContext, Shard
from omgbench.store.cell import CELL_FILE, read_cell_file

WHOLE_LOCK = ".run.lock"


@contextmanager
def locked(context: CellContext) -> Iterator[None]:
    """Hold the cell's lock for this shard. The system frees it when the process ends, however it ends.

    Raises:
        RunRefused: another process is at work on the same shard, on the whole cell, or on shards cut otherwise.
        UserError: the folder cannot be written.
    """
    own = _lock_name(context.settings.shard)
    lock = FileLock(context.folder / own)
    try:
        context.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise _busy(context) from None
    except OSError as error:
        raise UserError(
            f"the run directory cannot be written: {error.strerror}",
            where=str(context.folder),
            hint="name another --out",
        ) from error
    try:
        for path in context.folder.glob(".*.lock"):
            if _overlaps(own, path.name) and _held(path):
                raise _busy(context)
        yield
    finally:
        lock.release()


def _lock_name(shard: Shard) -> str:
    return WHOLE_LOCK if shard.whole else f".shard-{shard.number}-of-{shard.count}.lock"


def _overlaps(own: str, other: str) -> bool:
    """Whether two locks, by name, guard parts that share samples: only shards of one cutting do not."""
    if own == other:
        return False
    cutting = own.rpartition("-of-")[2]
    return WHOLE_LOCK in (own, other) or other.rpartition("-of-")[2] != cutting


def _held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _busy(context: CellContext) -> RunRefused:
    return RunRefused(
        f"another process is at work on {context.plan.cell.label}",
        where=str(context.folder),
        hint="wait for it, or give this run an --out of its own",
    )


def is_free_for(context: CellContext) -> bool:
    """Whether the folder is nobody's yet, or this context's own."""
    if not (context.folder / CELL_FILE).exists():
        return True
    try:
        return read_cell_file(context.folder).cell == context.fingerprint
    except DataError:
        return False


def claim_folder(context: CellContext) -> None:
    """Write down whose folder this is, or refuse a folder that is another's, naming what differs."""
    mine = context.cell_file()
    if not (context.folder / CELL_FILE).exists():
        mine.write(context.folder)
        return
    try:
        found = read_cell_file(context.folder)
    except DataError as error:
        raise RunRefused(error.found, where=error.where, hint="use a new --out") from None
    if found.cell != mine.cell:
        raise RunRefused(
            f"{context.folder} holds answers under another fingerprint; they are not reused",
            expected="the same model, weights, adapter code, prompts, options and samples",
            where="; ".join(found.differences(mine)) or str(context.folder),
            hint="name a new --out directory, or leave --out away: each fingerprint then gets its own",
        )
