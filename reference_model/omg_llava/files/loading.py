"""Weights put into a module tensor by tensor, without a second copy in memory, and nothing missing or left over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from omg_llava.errors import ModelError
from omg_llava.files.weights import Weights

_N_LISTED = 10


@dataclass(slots=True)
class _Slot:
    """One tensor of the module with every place that holds it; tied parameters share a slot."""

    old: torch.Tensor
    names: list[str] = field(default_factory=list)
    places: list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor]] = field(default_factory=list)
    new: torch.Tensor | None = None


def load_into(
    module: nn.Module,
    weights: Weights,
    *,
    dtype_of: Callable[[str], torch.dtype | None],
    device: str | torch.device,
    rename: Callable[[str], str | None] | None = None,
    check_finite: bool = True,
) -> None:
    """Give every parameter and persistent buffer of a module its stored values, on `device`.

    The module is best built under `torch.device("meta")`: then memory holds each tensor once, and little of the file.
    Values are read in pieces and converted as they pass. Names, shapes and types are checked before anything is read.
    Parameters that share storage share it afterwards too; of their names the weights may hold one, or several with
    equal values. `requires_grad` stays. Non-persistent buffers are in no checkpoint and stay as they are: fill those
    that are on meta.

    Args:
        dtype_of: from a name in the module to the type that a floating-point tensor gets there; None keeps the stored
            type. Integers and bools are never converted.
        rename: from a name in the weights to the name in the module; None leaves the tensor out.
        check_finite: refuse NaN and infinity, also those that only the conversion makes.

    Raises:
        ModelError: missing, surplus or doubled names, other shapes, a float where an integer belongs or the reverse,
            tied parameters with different values, values that are not finite. A module where reading failed half-way
            is not usable.
    """
    slots = _slots(module)
    sources = _sources(weights, rename)
    _check_fit(slots, sources, weights)
    for name, source in sources.items():
        slot, convert_to = slots[name], _dtype(weights.dtype(source), dtype_of(name))
        if slot.new is None:
            slot.new = _read(weights, source, convert_to, torch.device(device), check_finite)
            _assign(slot, slot.new)
        elif not _equals(slot.new, weights, source):
            found = f"tied parameters with different values: {', '.join(slot.names)}"
            raise ModelError(found, expected="one value for all", where=weights.where(source))
    weights.close()


def _slots(module: nn.Module) -> dict[str, _Slot]:
    """Every name that a checkpoint of this module has, tied and shared ones included, to what it stands for."""
    by_storage: dict[tuple[object, ...], _Slot] = {}
    slots: dict[str, _Slot] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        stored = [(part._parameters, own_name) for own_name in part._parameters]
        stored += [(part._buffers, own_name) for own_name in part._buffers]
        for holder, own_name in stored:
            tensor = holder[own_name]
            if tensor is None or own_name in part._non_persistent_buffers_set:
                continue
            name = f"{prefix}.{own_name}" if prefix else own_name
            slots[name] = slot = by_storage.setdefault(_storage_key(tensor), _Slot(tensor))
            slot.names.append(name)
            slot.places.append((holder, own_name, tensor))
    return slots


def _storage_key(tensor: torch.Tensor) -> tuple[object, ...]:
    # On meta every data pointer is 0: only the identity of the storage tells two tensors apart.
    return (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride())


def _sources(weights: Weights, rename: Callable[[str], str | None] | None) -> dict[str, str]:
    """Names in the module to names in the weights, in file order."""
    sources: dict[str, str] = {}
    for source in weights.names():
        name = source if rename is None else rename(source)
        if name is None:
            continue
        if name in sources:
            found = f"two tensors for {name}: {sources[name]} and {source}"
            raise ModelError(found, expected="one", where=weights.where(source))
        sources[name] = source
    return sources


def _check_fit(slots: dict[str, _Slot], sources: dict[str, str], weights: Weights) -> None:
    """One error with everything that does not fit."""
    missing = [name for name, slot in slots.items() if not any(tied in sources for tied in slot.names)]
    surplus = [name for name in sources if name not in slots]
    shapes, kinds = [], []
    for name, source in sources.items():
        if name not in slots:
            continue
        old, shape, dtype = slots[name].old, weights.shape(source), weights.dtype(source)
        if tuple(old.shape) != shape:
            shapes.append(f"{name} (expected {tuple(old.shape)}, found {shape})")
        elif not _may_become(dtype, old.dtype):
            kinds.append(f"{name} (expected {old.dtype}, found {dtype})")
    parts = [
        _listed("missing", missing),
        _listed("surplus", surplus),
        _listed("of another shape", shapes),
        _listed("of another kind", kinds),
    ]
    if any(parts):
        raise ModelError(
            "weights that do not fit the model: " + "; ".join(part for part in parts if part),
            expected=f"the {len(slots)} tensors of the model and no other",
            where=str(weights.paths[0].parent),
            hint="check that configuration and weights are of the same model and stage",
        )


def _listed(what: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f", ... ({len(items) - _N_LISTED} more)" if len(items) > _N_LISTED else ""
    return f"{len(items)} {what}: {', '.join(items[:_N_LISTED])}{more}"


def _may_become(stored: torch.dtype, wanted: torch.dtype) -> bool:
    return bool(stored == wanted or (stored.is_floating_point and wanted.is_floating_point))


def _dtype(stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    return wanted if wanted is not None and stored.is_floating_point else stored


def _read(weights: Weights, source: str, dtype: torch.dtype, device: torch.device, check_finite: bool) -> torch.Tensor:
    whole = torch.empty(weights.shape(source), dtype=dtype, device=device)
    flat, start = whole.view(-1), 0
    for piece in weights.pieces(source):
        part = flat[start : start + len(piece)]
        # On the CPU values are converted in the copy: a temporary for each piece would fragment the heap.
        converted = part if part.is_cpu else piece.to(dtype)
        part.copy_(piece if part.is_cpu else converted)
        if check_finite and not _is_finite(converted):
            raise ModelError(
                f"values that are NaN or infinite as {dtype} in {source}",
                expected="finite numbers",
                where=weights.where(source),
                hint="a damaged or diverged checkpoint, or too narrow a type: try float32",
            )
        start += len(piece)
    return whole


def _is_finite(piece: torch.Tensor) -> bool:
    """Whether all values are finite; the extremes carry NaN and infinity, at a thirtieth of the cost of isfinite."""
    if not piece.is_floating_point():
        return True
    if piece.dtype.itemsize == 1:
        piece = piece.to(torch.float32)
    least, greatest = torch.aminmax(piece)
    return math.isfinite(float(least)) and math.isfinite(float(greatest))


def _equals(whole: torch.Tensor, weights: Weights, source: str) -> bool:
    flat, start = whole.reshape(-1), 0
    for piece in weights.pieces(source):
        if not torch.equal(flat[start : start + len(piece)].cpu(), piece.to(whole.dtype)):
            return False
        start += len(piece)
    return True


def _assign(slot: _Slot, values: torch.Tensor) -> None:
    """Put the values in every place; what was one parameter object stays one."""
    made: dict[int, torch.Tensor] = {}
    for holder, own_name, old in slot.places:
        if id(old) not in made:
            made[id(old)] = _like(old, values)
        holder[own_name] = made[id(old)]


def _like(old: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    if not isinstance(old, nn.Parameter):
        return values
    new = nn.Parameter(values, requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__)
    return new
