"""The safetensors format: eight bytes of header length, a JSON header, the values end to end.

Read and written here rather than through a map of the file: the touched pages of a map count as memory of the process,
and what is wrong with a file can be said of the entry. Format: huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from omg_llava.errors import ModelError

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """Type and shape of a tensor; its values are the bytes `start` to `stop` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def read_entries(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name, in the order of their values; nothing but the header is read.

    Raises:
        ModelError: truncated, a header that is none, or entries that overlap, leave gaps or do not fit their shape.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header, start = _read_header(file, size)
    except OSError as error:
        raise ModelError(f"cannot read the file: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(str(error), path) from None
    header.pop("__metadata__", None)
    entries = {name: _entry(name, fields, start, path) for name, fields in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = start
    for name, entry in ordered.items():
        if entry.start != end:
            raise _damaged(f"values begin at byte {entry.start}, those before end at {end}", path, name)
        end = entry.stop
    if end != size:
        raise _damaged(f"{size} bytes, its header tells of {end}", path)
    return ordered


def _read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header and where the values begin; ValueError says what is wrong."""
    n_bytes = int.from_bytes(file.read(8), "little")
    if not 2 <= n_bytes <= min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"{size} bytes, too few for a header of {n_bytes}")
    header = json.loads(file.read(n_bytes).decode("utf-8"), object_pairs_hook=_without_repeats)
    if not isinstance(header, dict):
        raise ValueError("a header that is not a JSON object")
    return header, 8 + n_bytes


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a header with the same name twice")
    return found


def _entry(name: str, fields: Any, start: int, path: Path) -> Entry:
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        raise _damaged("an entry without dtype, shape and data_offsets", path, name)
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        found = f"values of type {fields['dtype']!r}"
        raise ModelError(found, expected="one of " + ", ".join(DTYPES), where=f"{path}, {name}")
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise _damaged(f"shape {shape!r} at {offsets!r}", path, name)
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise _damaged(f"{offsets[1] - offsets[0]} bytes for shape {shape} of {dtype}", path, name)
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _damaged(found: str, path: Path, name: str | None = None) -> ModelError:
    return ModelError(
        f"a damaged or truncated safetensors file: {found}",
        expected="a header that tells where each tensor lies, up to the end of the file",
        where=str(path) if name is None else f"{path}, {name}",
        hint="download it again and compare its size",
    )


def write_file(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write dense tensors of any device; the largest types come first, so that every value is aligned."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": dtype_name(tensor.dtype, name),
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(as_bytes(tensor.detach().cpu().contiguous()))


def dtype_name(dtype: torch.dtype, name: str) -> str:
    """How the format calls a type."""
    if dtype not in _NAMES:
        raise ModelError(f"values of type {dtype}", expected="one of " + ", ".join(DTYPES), where=name)
    return _NAMES[dtype]


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor of the CPU, to read from or into."""
    if sys.byteorder != "little":
        raise ModelError("a big-endian machine", expected="a little-endian one: the format is little-endian")
    view: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return view
