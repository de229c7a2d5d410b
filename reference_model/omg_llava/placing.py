"""Devices and number formats by PyTorch's usual names."""

from __future__ import annotations

import torch

from omg_llava.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str, worker: int = 0) -> str:
    """ "auto" made definite: the worker's share of the CUDA devices, an Apple device, else the CPU.

    Raises:
        ModelError: a device that PyTorch does not have here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return f"cuda:{worker % torch.cuda.device_count()}"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"no device is called {name!r}", expected="auto, cpu, cuda, cuda:1 or mps") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not there:
        raise ModelError(
            f"this PyTorch has no device {name!r}", expected="auto or cpu" if device.type != "cpu" else None
        )
    return name


def resolve_dtype(name: str) -> torch.dtype | None:
    """A number format, None for "auto": the one the checkpoint is stored in."""
    if name == "auto":
        return None
    if name not in DTYPES:
        raise ModelError(f"dtype is {name!r}", expected=f"auto, {', '.join(DTYPES)}")
    return DTYPES[name]
