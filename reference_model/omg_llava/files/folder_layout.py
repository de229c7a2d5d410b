"""Which files of a folder hold the weights: one file, or the shards that a Hugging Face index names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from omg_llava.errors import ModelError
from omg_llava.files.file_kind import folder_error

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_LAYOUTS = ((SINGLE_FILE, INDEX_FILE), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
"""Single file and index, in the order of preference."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The files with weights, each once, and the index that named them (`weight_map` is None for a single file)."""

    paths: list[Path]
    index_path: Path | None = None
    weight_map: dict[str, Path] | None = None


def find_layout(folder: Path) -> Layout:
    """Look for weights in a folder, or take a path that is itself a file as the only one.

    Raises:
        ModelError: no weights, two ways to read them, a broken index, one that names a missing file or one elsewhere.
    """
    if folder.is_file():
        return Layout([folder])
    if not folder.is_dir():
        raise ModelError("no such folder", expected="a folder with weights", where=str(folder))
    for single, index in _LAYOUTS:
        found = [name for name in (single, index) if (folder / name).is_file()]
        if len(found) == 2:
            hint = f"keep {single} or the shards with their index, whichever belongs to this model"
            raise ModelError(f"both {single} and {index}", expected="one of them", where=str(folder), hint=hint)
        if found == [single]:
            return Layout([folder / single])
        if found == [index]:
            return _indexed(folder / index)
    if any(folder.glob("model-*-of-*.safetensors")) or any(folder.glob("pytorch_model-*-of-*.bin")):
        hint = "download the .index.json that lies beside the shards"
        raise ModelError("shards without their index", expected=INDEX_FILE, where=str(folder), hint=hint)
    raise folder_error(folder, expected=", ".join(name for names in _LAYOUTS for name in names))


def _indexed(index_path: Path) -> Layout:
    try:
        index: Any = json.loads(index_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"no JSON: {error}", expected="an index of shards", where=str(index_path)) from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        expected = 'an object with "weight_map": names of tensors to names of files'
        raise ModelError("an index without weights", expected=expected, where=str(index_path))
    shards = {name: _shard_path(name, file, index_path) for name, file in weight_map.items()}
    paths = sorted(set(shards.values()))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        found = f"{len(missing)} of {len(paths)} shards missing: {', '.join(missing[:10])}"
        raise ModelError(found, expected="every file that the index names", where=str(index_path))
    return Layout(paths, index_path, shards)


def _shard_path(name: str, file: object, index_path: Path) -> Path:
    if not isinstance(file, str) or not _is_bare_name(file):
        expected = "the bare name of a file in the same folder"
        raise ModelError(f"an index that points to {file!r}", expected=expected, where=f"{index_path}, {name}")
    return index_path.parent / file


def _is_bare_name(file: str) -> bool:
    # A path of either system is refused on both: what an index means must not depend on where it is read.
    bare = file == PurePosixPath(file).name == PureWindowsPath(file).name
    return bare and file not in ("", "..") and "\0" not in file
