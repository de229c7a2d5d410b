"""Finds the files that a split needs under a data root, and reads files within a size limit."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from omgbench.contract import DataFile
from omgbench.errors import DataError

STATUS_HINT = "omgbench data status"


def locate(data_root: Path, data_file: DataFile, task: str = "TASK") -> Path:
    """The first of the file's accepted names that exists under the root.

    Args:
        data_root: the folder that `--data` names.
        data_file: what is looked for; a file of the role `images` must be a folder.
        task: entry-point name of the task, for the hint.

    Raises:
        DataError: none of the names exists; it lists them all and says where the file is had.
    """
    found = _first_existing(data_root, data_file)
    if found is not None:
        return found
    source = f"; from {data_file.source}" if data_file.source else ""
    raise DataError(
        f"{data_file.what} not found",
        where=f"data root {data_root}" if data_root.is_dir() else f"data root {data_root}, which is not a folder",
        expected=" or ".join(data_file.names) + source,
        hint=f"{STATUS_HINT} {task}",
    )


def locate_images(data_root: Path, data_file: DataFile) -> Path:
    """The image folder, or where the official release would put it when there is none: samples can be listed without
    pictures, and the plan then names the files that are missing."""
    return _first_existing(data_root, data_file) or data_root / data_file.names[0]


def find_missing(data_root: Path, files: Iterable[DataFile]) -> list[DataFile]:
    """The files of which no accepted name exists under the root, in order."""
    return [data_file for data_file in files if _first_existing(data_root, data_file) is None]


def _first_existing(data_root: Path, data_file: DataFile) -> Path | None:
    for name in data_file.names:
        path = data_root / name
        if path.is_dir() or (data_file.role != "images" and path.exists()):
            return path
    return None


def read_limited(path: Path, limit_bytes: int, hint: str = STATUS_HINT) -> bytes:
    """The whole content of a regular file of at most `limit_bytes` bytes. Symbolic links are followed.

    Raises:
        DataError: no such file, not a regular file, larger than the limit, or not readable.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a file", expected="a regular file", where=str(path), hint=hint)
        if status.st_size <= limit_bytes:
            with path.open("rb") as file:
                # Not up to the limit: reading allocates at once what it is asked for.
                return file.read(status.st_size)
    except FileNotFoundError:
        raise DataError("file not found", where=str(path), hint=hint) from None
    # A name with a null character or half a surrogate pair is a ValueError.
    except (OSError, ValueError) as error:
        raise DataError(f"file cannot be read: {error}", where=repr(str(path)), hint=hint) from error
    raise DataError(f"file of {status.st_size} bytes", expected=f"at most {limit_bytes} bytes", where=str(path))
