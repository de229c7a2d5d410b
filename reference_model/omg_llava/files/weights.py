"""Weights on disk as one mapping from names to tensors, whatever files they lie in, read a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from omg_llava.errors import ModelError
from omg_llava.files.file_kind import file_kind
from omg_llava.files.folder_layout import Layout, find_layout
from omg_llava.files.pth import is_mapped, read_pth
from omg_llava.files.safetensors_file import Entry, as_bytes, read_entries

PIECE_BYTES = 2 * 2**20
"""Small enough that a piece is still in the processor's cache when it is checked, converted and copied."""
MAPPED_BYTES = 64 * 2**20
"""How much of a mapped file is touched before its map is given back."""


class WeightsFile(Protocol):
    """One file with weights."""

    @property
    def path(self) -> Path: ...

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """The values in row-major order, at most PIECE_BYTES each; a piece is good until the next is asked for."""
        ...

    def close(self) -> None:
        """Give back memory; the file can still be read."""
        ...


class SafetensorsFile:
    """A .safetensors file, read in turn into one buffer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Entry] = read_entries(path)

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._entries[name].dtype

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        entry = self._entries[name]
        left, step = math.prod(entry.shape), PIECE_BYTES // entry.dtype.itemsize
        buffer = torch.empty(min(step, left), dtype=entry.dtype)
        with self.path.open("rb", buffering=0) as file:
            file.seek(entry.start)
            while left:
                piece = buffer[:left]
                view = as_bytes(piece)
                while view:
                    n_read = file.readinto(view)
                    if not n_read:
                        raise ModelError("a file that became shorter while it was read", where=f"{self.path}, {name}")
                    view = view[n_read:]
                yield piece
                left -= len(piece)

    def close(self) -> None:
        pass


class TorchFile:
    """A file of torch.save: mapped, the map renewed before much of it is touched; in memory if it cannot be mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped = is_mapped(path)
        self._tensors: dict[str, torch.Tensor] | None = None
        self._touched_bytes = 0
        self._heads = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._open().items()}
        self.close()

    def names(self) -> list[str]:
        return list(self._heads)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._heads[name][0]

    def dtype(self, name: str) -> torch.dtype:
        return self._heads[name][1]

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        flat = self._open()[name].reshape(-1)
        step = PIECE_BYTES // flat.dtype.itemsize
        for start in range(0, len(flat), step):
            if self._mapped and self._touched_bytes >= MAPPED_BYTES:
                self.close()
                flat = self._open()[name].reshape(-1)
            piece = flat[start : start + step]
            self._touched_bytes += piece.nbytes
            yield piece

    def close(self) -> None:
        self._tensors = None
        self._touched_bytes = 0

    def _open(self) -> dict[str, torch.Tensor]:
        if self._tensors is None:
            self._tensors = read_pth(self.path)
        return self._tensors


class Weights:
    """Named tensors in one or several files; names are in file order, and nothing is read before it is asked for.

    Raises:
        ModelError: a tensor in two files.
    """

    def __init__(self, files: list[WeightsFile]) -> None:
        self._files = files
        self._home: dict[str, WeightsFile] = {}
        self._last: WeightsFile | None = None
        for file in files:
            for name in file.names():
                if name in self._home:
                    found = f"the tensor {name} in two files: {self._home[name].path.name} and {file.path.name}"
                    raise ModelError(found, expected="each tensor once", where=str(file.path.parent))
                self._home[name] = file

    @property
    def paths(self) -> list[Path]:
        """The files that hold the tensors."""
        return [file.path for file in self._files]

    @property
    def n_bytes(self) -> int:
        """Size of all values as stored."""
        return sum(math.prod(self.shape(name)) * self.dtype(name).itemsize for name in self._home)

    def names(self) -> list[str]:
        return list(self._home)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._file(name).dtype(name)

    def where(self, name: str) -> str:
        """File and entry, for messages."""
        return f"{self._file(name).path}, {name}"

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """The values in row-major order, at most 2 MiB each, as one-dimensional tensors of the CPU.

        A piece is good until the next is asked for. Going on to another file gives back the memory of the last.
        """
        file = self._file(name)
        if self._last is not file:
            self.close()
            self._last = file
        return file.pieces(name)

    def tensor(self, name: str) -> torch.Tensor:
        """A copy in memory, of the stored type."""
        whole = torch.empty(self.shape(name), dtype=self.dtype(name))
        flat, start = whole.view(-1), 0
        for piece in self.pieces(name):
            flat[start : start + len(piece)] = piece
            start += len(piece)
        return whole

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor in file order, each a copy; memory holds the one that was yielded last and little more.

        A file of torch.save from before torch 1.6 is held as a whole while its tensors are yielded.
        """
        for file in self._files:
            for name in file.names():
                yield name, self.tensor(name)
        self.close()

    def close(self) -> None:
        """Give back memory that reading took; the weights can still be read."""
        if self._last is not None:
            self._last.close()

    def _file(self, name: str) -> WeightsFile:
        if name not in self._home:
            where = str(self._files[0].path.parent) if self._files else None
            raise ModelError(f"no tensor {name}", expected=f"one of {len(self._home)} names", where=where)
        return self._home[name]


def open_weights(folder: str | Path) -> Weights:
    """Open the weights of a folder in the Hugging Face layout, or of one file, and check that its parts fit together.

    Reads `model.safetensors`, `model.safetensors.index.json` with its shards, and the same as `pytorch_model.bin`; of
    the tensors only names, types and shapes. A file is what its content says, not what its name says.

    Raises:
        ModelError: no weights, a broken or truncated file, an index that does not fit its shards or leaves the folder.
    """
    layout = find_layout(Path(folder))
    files: list[WeightsFile] = [
        SafetensorsFile(path) if file_kind(path) == "safetensors" else TorchFile(path) for path in layout.paths
    ]
    weights = Weights(files)
    _check_index(layout, files)
    return weights


def _check_index(layout: Layout, files: list[WeightsFile]) -> None:
    if layout.weight_map is None:
        return
    held = {file.path: set(file.names()) for file in files}
    for name, path in layout.weight_map.items():
        if name not in held[path]:
            expected = f"the tensor in {path.name}, as the index says"
            raise ModelError(f"no tensor {name} in its shard", expected=expected, where=str(layout.index_path))
    unnamed = sorted(set().union(*held.values()) - layout.weight_map.keys())
    if unnamed:
        found = f"{len(unnamed)} tensors in the shards that the index does not name: {', '.join(unnamed[:10])}"
        hint = "shards and index are of different models: download the folder again"
        raise ModelError(found, expected="index and shards of one model", where=str(layout.index_path), hint=hint)
