"""Weights written as a folder in the Hugging Face layout, shard by shard, complete or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from omg_llava.errors import ModelError
from omg_llava.files.folder_layout import INDEX_FILE, SINGLE_FILE
from omg_llava.files.safetensors_file import dtype_name, write_file


class ShardWriter:
    """Collects tensors into safetensors files of at most `max_shard_bytes` and names the folder at the end.

    Use it with `with`: leaving the block finishes the folder, leaving it by an exception removes it. Until then all
    lies in a hidden folder beside the target; files that should belong to it (configuration, tokenizer) are put into
    `partial`. A process that is killed leaves that hidden folder, never a half-made target.

    Tensors are kept, not copied, until their shard is full: do not change them. A tensor larger than a shard gets one
    of its own; a single shard is named `model.safetensors` and has no index.

    Args:
        folder: the target; it must not exist, or be empty.
        metadata: text for the header of every shard.

    Raises:
        ModelError: the folder holds files; a name twice; a type that the format lacks; no tensor at all.
    """

    def __init__(
        self, folder: str | Path, max_shard_bytes: int = 2 * 2**30, metadata: Mapping[str, str] | None = None
    ) -> None:
        self._target = Path(folder).absolute()
        _check_free(self._target)
        self.partial = self._target.parent / f".{self._target.name}.partial-{uuid.uuid4().hex[:8]}"
        self.partial.mkdir(parents=True)
        self._max_shard_bytes = max_shard_bytes
        self._metadata = dict(metadata or {})
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0
        self._shard_of: dict[str, int] = {}
        self._n_shards = 0
        self._total_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take one dense tensor of any device."""
        if name in self._shard_of or name == "__metadata__":
            found = f"the tensor {name} twice" if name in self._shard_of else f"a tensor named {name}, as the header is"
            raise ModelError(found, expected="each name once", where=str(self._target))
        dtype_name(tensor.dtype, name)
        n_bytes = tensor.numel() * tensor.dtype.itemsize
        if self._pending and self._pending_bytes + n_bytes > self._max_shard_bytes:
            self._write_shard()
        self._pending[name] = tensor
        self._pending_bytes += n_bytes
        self._total_bytes += n_bytes
        self._shard_of[name] = self._n_shards

    def _write_shard(self) -> None:
        write_file(self.partial / _unfinished(self._n_shards), self._pending, self._metadata)
        self._n_shards += 1
        self._pending, self._pending_bytes = {}, 0

    def _finish(self) -> None:
        if self._pending:
            self._write_shard()
        if not self._n_shards:
            raise ModelError("no tensor", expected="at least one", where=str(self._target))
        names = [SINGLE_FILE]
        if self._n_shards > 1:
            names = [f"model-{i + 1:05d}-of-{self._n_shards:05d}.safetensors" for i in range(self._n_shards)]
            weight_map = {name: names[shard] for name, shard in sorted(self._shard_of.items())}
            index = {"metadata": {"total_size": self._total_bytes, **self._metadata}, "weight_map": weight_map}
            (self.partial / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for i, name in enumerate(names):
            (self.partial / _unfinished(i)).rename(self.partial / name)
        _check_free(self._target)
        if self._target.exists():
            self._target.rmdir()
        self.partial.rename(self._target)


def _unfinished(shard: int) -> str:
    return f"shard-{shard}.unfinished"


def _check_free(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        hint = "give another folder, or remove this one"
        raise ModelError("a target that holds files already", expected="no such folder", where=str(target), hint=hint)
