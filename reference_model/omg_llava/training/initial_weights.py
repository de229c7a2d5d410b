"""Where training starts: from nothing, over another model's perception, or from a model's weights.

From nothing means transformers' fresh weights, but for what only pretrained parts can bear.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as DeformableAttention,
)

from omg_llava.checkpoint import load_model
from omg_llava.config import OmgLlavaConfig
from omg_llava.errors import ModelError
from omg_llava.model import ClassEmbeddings, OmgLlava
from omg_llava.training.word_vectors import WordVectors
from omg_llava.untrained import drawn_from


def fresh_model(config: OmgLlavaConfig, vectors: WordVectors, seed: int) -> OmgLlava:
    """A model to train from nothing, its label spaces embedded by `vectors`."""
    with drawn_from(seed):
        model = OmgLlava(config)
        _open_residual_branches(model.perception.backbone)
        for module in model.perception.pixel_decoder.modules():
            if isinstance(module, DeformableAttention):
                _look_around(module)
    for class_set in config.class_sets:
        embeddings = model.class_sets[class_set.name]
        assert isinstance(embeddings, ClassEmbeddings)
        embeddings.prototypes.copy_(vectors.prototypes(class_set))
    return model


def with_perception_of(donor: OmgLlava, config: OmgLlavaConfig, seed: int) -> OmgLlava:
    """A model with another one's perception and label spaces, all else fresh.

    Raises:
        ModelError: the perception parts are of unlike sizes.
    """
    with drawn_from(seed):
        model = OmgLlava(config)
    for name in ("perception", "class_sets"):
        try:
            getattr(model, name).load_state_dict(getattr(donor, name).state_dict())
        except RuntimeError as error:
            raise ModelError(f"the {name} of {donor.config.name} do not fit: {error}", where=config.name) from None
    return model


def continued_model(folder: Path, config: OmgLlavaConfig, seed: int) -> tuple[OmgLlava, Any]:
    """The weights in a folder as a model of the recipe's options; what is new there starts fresh.

    Language model and label spaces are the folder's own.

    Raises:
        ModelError: weights that have no place in such a model, or another shape.
    """
    start, tokenizer = load_model(folder, dtype=torch.float32)
    language = dataclasses.replace(start.config.language, lora=config.language.lora or start.config.language.lora)
    config = dataclasses.replace(
        config,
        language=language,
        class_sets=start.config.class_sets,
        prior_class_set=start.config.prior_class_set,
    )
    with drawn_from(seed):
        model = OmgLlava(config)
    own = model.state_dict()
    for name, tensor in start.state_dict().items():
        # Adapters move the weight that they adapt.
        place = name if name in own else ".base_layer.".join(name.rsplit(".", 1))
        if place not in own or own[place].shape != tensor.shape:
            raise ModelError(f"{name} of shape {tuple(tensor.shape)} has no place in {config.name}", where=str(folder))
        own[place].copy_(tensor)
    return model, tokenizer


def _open_residual_branches(backbone: nn.Module) -> None:
    """ConvNeXt begins with branches scaled by 1e-6, for networks of dozens of blocks and hundreds of epochs."""
    for name, parameter in backbone.named_parameters():
        if name.endswith("layer_scale_parameter"):
            nn.init.ones_(parameter)


def _look_around(attention: Any) -> None:
    """Deformable DETR's start: each head looks in a direction of its own, each point one step farther, all alike."""
    angles = torch.arange(attention.n_heads) * (2.0 * math.pi / attention.n_heads)
    directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)
    steps = torch.arange(1, attention.n_points + 1)[None, None, :, None]
    offsets = directions[:, None, None] * steps.expand(attention.n_heads, attention.n_levels, -1, 2)
    nn.init.zeros_(attention.sampling_offsets.weight)
    nn.init.zeros_(attention.attention_weights.weight)
    nn.init.zeros_(attention.attention_weights.bias)
    for layer in (attention.value_proj, attention.output_proj):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        attention.sampling_offsets.bias.copy_(offsets.flatten())
