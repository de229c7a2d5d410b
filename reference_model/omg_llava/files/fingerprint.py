"""The identity of weights on disk."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omg_llava.errors import ModelError
from omg_llava.files.folder_layout import find_layout

_THREADS = 4


def fingerprint(folder: str | Path) -> str:
    """SHA-256 over name, size and content of every weights file of a folder (or of one file), as 64 hex digits.

    Equal for equal files wherever they lie; other shards of the same tensors give another one. Every byte is read: a
    processor with SHA instructions hashes 1 to 2 GB/s a core, and up to 4 files are hashed at once, so 15 GB take about
    5 s from memory or as long as the disk needs.

    Raises:
        ModelError: as in `open_weights`, as far as the files and the index are concerned.
    """
    paths = sorted(find_layout(Path(folder)).paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_file_digest, paths))
    whole = hashlib.sha256()
    for path, (size, digest) in zip(paths, digests, strict=True):
        whole.update(f"{path.name}\0{size}\0{digest}\n".encode())
    return whole.hexdigest()


def _file_digest(path: Path) -> tuple[int, str]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest
    except OSError as error:
        raise ModelError(f"cannot read the file: {error.strerror}", where=str(path)) from None
