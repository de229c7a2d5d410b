"""Batches to a device."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


def moved(value: Any, device: torch.device, non_blocking: bool = False) -> Any:
    """`value` with every tensor in it on a device: in tuples, lists and dataclasses; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, tuple | list):
        return type(value)(moved(item, device, non_blocking) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return type(value)(**{name: moved(item, device, non_blocking) for name, item in fields.items()})
    return value


class Movable:
    """A dataclass that accelerate can move."""

    __slots__ = ()

    def to(self, device: torch.device, non_blocking: bool = False) -> Any:
        """The same on a device."""
        return moved(self, device, non_blocking)
