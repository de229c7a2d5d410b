"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from omgbench.errors import UserError


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """Write text to a temporary sibling that takes `path`'s place when the block ends without an exception."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    """Delete what processes that were killed while writing left in a folder that is now ours alone."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a whole text file; see `atomic_writer`."""
    with atomic_writer(path) as stream:
        stream.write(text)
