"""The official files a model is made of, opened, told apart and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from omg_llava.conversion.keys import open_clip_name
from omg_llava.errors import ModelError
from omg_llava.files.pth import read_pth
from omg_llava.files.weights import Weights, open_weights

_OMG_SEG_PREFIX = "visual_encoder."
_IGNORED_OF_OMG_SEG = ("data_preprocessor.", "panoptic_head.cls_embed", "panoptic_head.logit_scale")
"""Buffers that are made anew, and training helpers."""
_IGNORED_OF_LANGUAGE = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the official files lie.

    Attributes:
        omg_seg: `omg_seg_convl.pth`.
        omg_llava: `omg_llava_7b_finetune_8gpus.pth`, `finetuned_refseg.pth`, `finetuned_gcg.pth`, or stage 1; None for
            the start of stage 1, where projectors and added vocabulary rows are fresh.
        language_model: folder of InternLM2, Phi-3 or Qwen2.
        class_embeddings: label space (bundled name or JSON file) to file of its class-name embeddings.
        open_clip: the OpenCLIP file, where `omg_seg` lacks the backbone.
    """

    omg_seg: Path
    omg_llava: Path | None
    language_model: Path
    class_embeddings: Mapping[str, Path]
    open_clip: Path | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of an official file, not read yet."""

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor] = field(repr=False)


def open_omg_seg(path: Path, open_clip: Path | None) -> list[Tensor]:
    """Tensors of OMG-Seg by their names inside it, the backbone from OpenCLIP's file where it lacks one."""
    tensors = {name.removeprefix(_OMG_SEG_PREFIX): tensor for name, tensor in read_pth(path).items()}
    if any(name.startswith("llm.") for name in tensors):
        raise ModelError(
            "an OMG-LLaVA checkpoint stands where OMG-Seg's should", expected="omg_seg_convl.pth", where=str(path)
        )
    if not any(name.startswith("panoptic_head.") for name in tensors):
        raise ModelError("no panoptic_head.* is in the file", expected="omg_seg_convl.pth", where=str(path))
    found = [
        _mapped(name, tensor, path) for name, tensor in tensors.items() if not name.startswith(_IGNORED_OF_OMG_SEG)
    ]
    if any(item.name.startswith("backbone.") for item in found):
        return found
    if open_clip is None:
        raise ModelError(
            "the file holds no backbone.*",
            where=str(path),
            hint="give the OpenCLIP file of convnext_large_d_320 too: --open-clip FILE",
        )
    named = {open_clip_name(name): tensor for name, tensor in read_pth(open_clip).items()}
    return found + [_mapped(name, tensor, open_clip) for name, tensor in named.items() if name is not None]


def open_omg_llava(path: Path) -> list[Tensor]:
    """Tensors of an OMG-LLaVA checkpoint, by the official names."""
    tensors = read_pth(path)
    if not any(name.startswith("projector.") for name in tensors):
        kind = "an OMG-Seg checkpoint" if any("panoptic_head." in name for name in tensors) else "no projector.*"
        raise ModelError(
            f"{kind} stands where OMG-LLaVA's should", expected="omg_llava_7b_finetune_8gpus.pth", where=str(path)
        )
    return [_mapped(name, tensor, path) for name, tensor in tensors.items()]


def open_language_model(folder: Path) -> list[Tensor]:
    """Tensors of the language model's folder, by its own names."""
    weights: Weights = open_weights(folder)
    return [
        Tensor(name, weights.where(name), weights.shape(name), weights.dtype(name), partial(weights.tensor, name))
        for name in weights.names()
        if not name.endswith(_IGNORED_OF_LANGUAGE)
    ]


def _mapped(name: str, tensor: torch.Tensor, path: Path) -> Tensor:
    return Tensor(name, str(path), tuple(tensor.shape), tensor.dtype, lambda: tensor)
