"""Official `.pth` files: their tensors, read without running or importing anything that the file names.

A checkpoint of mmengine keeps logs and configurations beside the weights, as pickled objects of its own classes.
Loading is always weights-only; each class that this refuses is replaced by a stand-in of ours that takes everything
and does nothing, so a file is read where mmengine is not installed, and a hostile file gets nothing called.
"""

from __future__ import annotations

import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import _weights_only_unpickler as weights_only_unpickler

from omg_llava.errors import ModelError
from omg_llava.files.file_kind import file_kind

_LEGACY_PICKLES = 5
"""Magic number, protocol version, machine, the object, the storage keys: pickles that follow each other."""


def read_pth(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, in the order of the file.

    Reads a flat dict of tensors, or a dict that holds one under `state_dict` (mmengine); every other entry is left out.
    The tensors of a torch zip are maps of the file: reading takes no memory until they are touched, writing to them
    does not change the file, and the file must stay until they are gone. A file of before torch 1.6, or a zip that was
    compressed afterwards, is read into memory once.

    Raises:
        ModelError: not a checkpoint, truncated, corrupt, refused by weights-only loading, or without tensors.
    """
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict):
        hint = "read it with read_pth_tensor" if isinstance(content, torch.Tensor) else None
        raise ModelError(f"{_describe(content)}", expected="a dict of tensors", where=str(path), hint=hint)
    wrapped = content.get("state_dict")
    state = wrapped if isinstance(wrapped, dict) else content
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        expected = "tensors by name, at the top or under state_dict"
        raise ModelError(f"{_describe(state)}, none a tensor", expected=expected, where=str(path))
    return {_checked_name(name, path): _plain(tensor, str(name), path) for name, tensor in tensors.items()}


def read_pth_tensor(path: str | Path) -> torch.Tensor:
    """The one tensor of a file that `torch.save(tensor, path)` wrote, mapped like those of `read_pth`.

    Raises:
        ModelError: as in `read_pth`, or the file holds something else.
    """
    path = Path(path)
    content = _load(path)
    if not isinstance(content, torch.Tensor):
        hint = "read it with read_pth" if isinstance(content, dict) else None
        raise ModelError(_describe(content), expected="one tensor", where=str(path), hint=hint)
    return _plain(content, "the tensor", path)


def is_mapped(path: Path) -> bool:
    """Whether `read_pth` maps this file rather than reading it into memory: a zip with no compressed entry."""
    if file_kind(path) != "zip":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            # A map of a compressed entry would be taken for numbers: torch does not look.
            return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    # A damaged directory makes it raise NotImplementedError, struct.error and others besides BadZipFile.
    except Exception as error:
        raise ModelError(
            f"a truncated or corrupt zip: {error}",
            expected="a whole file written by torch.save",
            where=str(path),
            hint="download it again and compare its size",
        ) from None


def _load(path: Path) -> Any:
    kind = file_kind(path)
    if kind == "safetensors":
        raise ModelError("a safetensors file", expected="a .pth file", where=str(path), hint="use open_weights")
    mapped = is_mapped(path)
    # Whatever a broken or hostile file makes torch raise (it has no error type of its own) is one error to a person.
    try:
        stand_ins: list[Any] = [_stand_in(name) for name in _foreign_names(path, kind == "zip")]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise ModelError(
            f"torch cannot read it with weights-only loading: {_last_line(error)}",
            expected="a whole file of tensors written by torch.save",
            where=str(path),
            hint="download it again; if it is whole, save its tensors anew where it was made",
        ) from error


def _foreign_names(path: Path, is_zip: bool) -> set[str]:
    """Dotted names in the file that weights-only loading refuses; found without unpickling."""
    if is_zip:
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    # The public function knows zips only. Names that torch allows itself may be among these: its own go first.
    names: set[str] = set()
    with path.open("rb") as file:
        for _ in range(_LEGACY_PICKLES):
            names |= weights_only_unpickler.get_globals_in_pkl(cast(BinaryIO, file))
    return names


class _StandInType(type):
    """Types that equal dict: weights-only loading sets items only where the type is in [dict, ...]."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other in (dict, OrderedDict, Counter)

    def __hash__(cls) -> int:
        return id(cls)


class _StandIn(dict[Any, Any], metaclass=_StandInType):
    """Takes whatever a pickle hands to a class or a function, keeps items alone, does nothing."""

    def __new__(cls, *_: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass

    # It may stand for a key or a member of a set.
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class _ListStandIn(metaclass=_StandInType):
    """Makes an empty list: where a pickle appends items to what it called, weights-only loading allows a list alone."""

    def __new__(cls, *_: object) -> list[Any]:  # type: ignore[misc]
        return []


def _stand_in(name: str) -> type:
    module, _, own_name = name.rpartition(".")
    base: type = _ListStandIn if name == "collections.deque" else _StandIn
    # torch goes by module and name of the class; pairs of a class and another name it takes only from 2.7 on.
    parts = {"__module__": module, "__qualname__": own_name}
    return _StandInType(own_name, (base,), parts)


def _checked_name(name: object, path: Path) -> str:
    if not isinstance(name, str):
        raise ModelError(f"a tensor under the key {name!r}", expected="names that are text", where=str(path))
    return name


def _plain(tensor: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        found = f"a tensor that is {tensor.layout}, on {tensor.device}"
        raise ModelError(found, expected="a dense tensor with values", where=f"{path}, {name}")
    return tensor.detach()


def _describe(content: object) -> str:
    if isinstance(content, torch.Tensor):
        return f"one tensor of shape {tuple(content.shape)}"
    if isinstance(content, dict):
        names = ", ".join(repr(name)[:60] for name in list(content)[:5])
        return f"a dict of {len(content)} entries ({names}{', ...' if len(content) > 5 else ''})"
    return f"an object of type {type(content).__name__}"


def _last_line(error: Exception) -> str:
    """torch puts advice to load unsafely in front of what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "WeightsUnpickler error" in line]
    return f"{type(error).__name__}: {(telling or lines or ['no message'])[0][:300]}"
