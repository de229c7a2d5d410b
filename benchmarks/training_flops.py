"""Floating-point operations of one sample's training step, from those of the model's parts (`omg_llava_flops`).

A product of activations and weights costs as much again for each gradient that is wanted: of its input, of its weights.
Attention has two inputs in each of its two products, so its way back costs twice its way there. Checkpointing runs a
whole layer again, though PyTorch may leave out its end.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import omg_llava_flops as flops

from omg_llava.config import OmgLlavaConfig


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample as the language model sees it.

    Attributes:
        n_tokens: of its sequence: picture, text, and padding to the longest of its micro-batch.
        n_objects: object tokens among them.
        n_segs: `[SEG]` with a mask.
    """

    n_tokens: int
    n_objects: int
    n_segs: int


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of one part of the step; `frozen_perception` where no gradient comes and float32 is the official type.

    Projectors and `[SEG]` decoder are counted as if all their gradients were wanted. Some are not (of what the frozen
    perception gives them, of a frozen decoder's weights), which is less than a hundredth of the whole.
    """

    name: str
    flops: int
    frozen_perception: bool = False


def step_work(
    config: OmgLlavaConfig, llm: Any, trains: Collection[str], sample: Sample, *, checkpointing: bool
) -> list[Work]:
    """A sample's step in order, `llm` being the language model with its adapters, on any device."""
    n, language = sample.n_tokens, config.language
    forward = flops.transformer(language, n, 0)
    attended = language.n_layers * flops.attention(n, n, language.hidden_size)
    adapters = n * adapter_flops(llm.model)
    head, head_adapter = n * flops.vocabulary(language), n * adapter_flops(llm.lm_head)
    perception = flops.backbone(config) + flops.pixel_decoder(config) + flops.query_decoder(config)
    projectors = flops.image_tokens(config, sample.n_objects)
    if "lora" not in trains and "language" not in trains:
        projectors += there_and_back(config)
    work = [
        Work("perception", perception, frozen_perception=True),
        Work("projectors and their gradients", 3 * projectors),
        Work("language model", forward),
        Work("  gradients of its inputs", forward + attended),
        Work("  once more, for checkpointing", (forward + adapters) * checkpointing),
        Work("  adapters and their gradients", 3 * (adapters + head_adapter)),
        Work("  vocabulary head and its gradients", (3 if "vocabulary" in trains else 2) * head),
        Work("[SEG] decoding and its gradients", 3 * flops.seg_decoding(config, sample.n_segs)),
    ]
    return [item for item in work if item.flops]


def adapter_flops(module: Any) -> int:
    """Of the low-rank factors in a module, for one token. Where layers share a factor, each of them runs it."""
    factors = [part for name, part in module.named_modules() if name.endswith((".default", "lora_A", "lora_B"))]
    return sum(flops.linear(1, part.in_features, part.out_features) for part in factors if hasattr(part, "in_features"))


def there_and_back(config: OmgLlavaConfig) -> int:
    """Stage 1: all object queries through the object projector and back through the text projector."""
    embedding, width = 2 * config.segmenter.width, config.language.hidden_size
    folded = config.backbone.widths[-1] * config.projector.pixel_shuffle**2
    layers = ((embedding, folded), (folded, width), (width, width), (width, embedding), (embedding, embedding))
    return sum(flops.linear(config.segmenter.n_queries, *layer) for layer in layers)
