"""Which weights a stage trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from omg_llava.errors import ModelError
from omg_llava.model import OmgLlava

_VOCABULARY = ("llm.model.embed_tokens.", "llm.lm_head.")
_BACKBONE = ("perception.backbone.", "perception.clip_head.")

PARTS: dict[str, Callable[[str], bool]] = {
    "perception": lambda name: name.startswith("perception."),
    "backbone": lambda name: name.startswith(_BACKBONE),
    "segmenter": lambda name: name.startswith("perception.") and not name.startswith(_BACKBONE),
    "language": lambda name: name.startswith("llm."),
    "lora": lambda name: name.startswith("llm.") and ".lora_" in name,
    "vocabulary": lambda name: name.startswith(_VOCABULARY) and ".lora_" not in name,
    "projectors": lambda name: name.startswith(("projector.", "text_projector.", "seg_state.")),
    "own_seg_decoder": lambda name: name.startswith("own_seg_decoder."),
}
"""Parts by name, as rules over parameter names."""


def train_only(model: OmgLlava, parts: Iterable[str]) -> None:
    """Give gradients to these parts and to nothing else.

    Raises:
        ModelError: an unknown part, or one that the model lacks.
    """
    wanted = list(parts)
    for part in wanted:
        if part not in PARTS:
            raise ModelError(f"no part is called {part!r}", expected=", ".join(PARTS))
        if not any(PARTS[part](name) for name, _ in model.named_parameters()):
            raise ModelError(f"the model has no {part}", expected="a configuration that has it")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(PARTS[part](name) for part in wanted))


def trained_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters with gradients by name; what several layers share stands there once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_trained(model: torch.nn.Module, path: Path) -> None:
    """Write the trained parameters; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    save_file({name: tensor.cpu().contiguous() for name, tensor in trained_weights(model).items()}, str(partial))
    partial.replace(path)


def load_trained(model: torch.nn.Module, path: Path) -> None:
    """Read what `save_trained` wrote. Raises `ModelError` for parameters that the model lacks."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(str(path)).items():
            if name not in own or own[name].shape != tensor.shape:
                raise ModelError(f"no parameter {name} of shape {tuple(tensor.shape)}", where=str(path))
            own[name].copy_(tensor)


def copy_seg_decoder(model: OmgLlava) -> None:
    """Begin the `[SEG]` decoder as a copy of the perception's, as the official task fine-tunes do."""
    if model.own_seg_decoder is None:
        raise ModelError("the model has no decoder of its own for [SEG]", expected="seg_token.own_decoder true")
    model.own_seg_decoder.load_state_dict(model.perception.decoder.state_dict())
