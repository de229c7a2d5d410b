"""The language model: transformers' Llama, Phi-3 or Qwen2, and what OMG-LLaVA wants of it.

InternLM2 is a Llama whose query, key and value matrices are stored as one; the converter takes them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from omg_llava.config import LanguageConfig, SegTokenConfig
from omg_llava.errors import ModelError
from omg_llava.lora import attach_lora


def build_language_model(config: LanguageConfig) -> Any:
    """The transformers model with fresh weights, adapters attached where the configuration keeps them apart."""
    settings = dict(config.transformers)
    model_type = settings.pop("model_type")
    try:
        known = AutoConfig.for_model(model_type, **settings)
        llm = AutoModelForCausalLM.from_config(known, attn_implementation="sdpa")
    # transformers has no error type of its own for settings that cannot be.
    except Exception as error:
        raise ModelError(
            f"transformers cannot build the language model: {type(error).__name__}: {error}",
            where="language.transformers of the configuration",
        ) from error
    if config.lora is not None:
        attach_lora(llm, config.lora, is_internlm2=config.family == "internlm2")
    return llm


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Output of the transformer.

    Attributes:
        last: (B, L, D), after the final norm.
        seg: (B, L, D), what a `[SEG]` at each position is decoded from; the same tensor by default.
    """

    last: torch.Tensor
    seg: torch.Tensor


class SegState(nn.Module):
    """Which hidden state a `[SEG]` is decoded from (table 10): the last, the mean of all, or a linear map of several.

    The concatenation's layer is ours in detail: no released file holds one.
    """

    def __init__(self, config: SegTokenConfig, language: LanguageConfig) -> None:
        super().__init__()
        self.embedding = config.embedding
        self.layers = config.layers or tuple(range(language.n_layers + 1))
        width = language.hidden_size
        self.concat = nn.Linear(len(self.layers) * width, width) if config.embedding == "concat" else None

    @property
    def needs_all_layers(self) -> bool:
        return self.embedding != "last"

    def forward(self, output: Any) -> torch.Tensor:
        """(B, L, D) from a transformers output."""
        if self.embedding == "last":
            last: torch.Tensor = output.last_hidden_state
            return last
        states = output.hidden_states
        if self.concat is None:
            return torch.stack(states).mean(dim=0)
        side_by_side = torch.cat([states[index] for index in self.layers], dim=-1)
        mixed: torch.Tensor = self.concat(side_by_side.to(self.concat.weight.dtype))
        return mixed


def run_transformer(
    llm: Any,
    seg_state: SegState,
    embeds: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    cache: DynamicCache | None = None,
) -> HiddenStates:
    """Hidden states of input embeddings (B, L, D). A cache is read and extended in place."""
    output = llm.model(
        inputs_embeds=embeds,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
        output_hidden_states=seg_state.needs_all_layers,
    )
    return HiddenStates(output.last_hidden_state, seg_state(output))
