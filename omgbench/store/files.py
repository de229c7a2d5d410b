"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from omgbench.errors import UserError

LEFTOVER_AFTER_S = 3600.0


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """Write text to a temporary sibling that takes `path`'s place when the block ends without an exception."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = temporary.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}", expected="a place that can be written"
        ) from error
    try:
        with opened as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed while writing left in a folder; what is younger than an hour may belong
    to a shard that is writing now."""
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LEFTOVER_AFTER_S:
                path.unlink()


def atomic_write_text(path: Path, text: str) -> None:
    """Write a whole text file; see `atomic_writer`."""
    with atomic_writer(path) as stream:
        stream.write(text)
