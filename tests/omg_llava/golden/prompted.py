"""Tokens of recorded visual prompts, as a language model is given them."""

from __future__ import annotations

from typing import Any

import torch

from omg_llava.features import VisualFeatures
from omg_llava.model import OmgLlava
from omg_llava.visual_prompts import PromptKind, PromptSet
from omg_llava.vocabulary import IMAGE

KINDS: dict[str, PromptKind] = {"regions": "mask", "points": "point"}


def prompt_tokens(stage: Any, model: OmgLlava, features: VisualFeatures, name: str) -> torch.Tensor:
    """Tokens (N, D) of the recorded "regions" or "points", each about the picture of the row whose placeholder it
    replaces. Every row has one picture; in a row that does not show it nothing is replaced.
    """
    ids = stage["input_ids"]
    token = {"regions": model.special.region, "points": model.special.mark}[name]
    replaced = (ids == token) & (ids == IMAGE).any(dim=1, keepdim=True)
    tokens = [torch.zeros(0, model.config.language.hidden_size)]
    for row, value in zip(replaced.nonzero()[:, 0].tolist(), stage.tensors.get(name, ()), strict=True):
        prompts = PromptSet(KINDS[name], value[None], features.input_hw)
        embedding = model.perception.prompted(features.of(row), prompts).embedding[0]
        tokens.append(model.projector.prompt_tokens(embedding))
    return torch.cat(tokens)
