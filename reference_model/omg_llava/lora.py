"""Low-rank adapters on every linear layer of the language model, the head included, through peft."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from omg_llava.config import LoraConfig
from omg_llava.errors import ModelError

_QKV = ("q_proj", "k_proj", "v_proj")


def attach_lora(llm: Any, config: LoraConfig, *, is_internlm2: bool) -> None:
    """Put adapters on all linear layers of `llm`, in place.

    Args:
        is_internlm2: its queries, keys and values are one matrix officially, hence have one A; here they stand apart
            and share it. And its head has adapters: the official search for linear layers leaves `lm_head` out, but
            InternLM2 calls it `output`.
    """
    try:
        # It reports kernels for processors that it did not find; they are not needed.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        import peft
    except ImportError:
        raise ModelError(
            "the checkpoint keeps its LoRA adapters apart, and peft is not installed",
            hint="pip install 'omgbench[lora]', or convert without --keep-lora",
        ) from None
    linear = {name for name, module in llm.named_modules() if type(module) is nn.Linear}
    targets = sorted(linear if is_internlm2 else linear - {"lm_head"})
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, bias="none", target_modules=targets
    )
    peft.inject_adapter_in_model(settings, llm)
    if is_internlm2:
        _share_qkv(llm)


def _share_qkv(llm: Any) -> None:
    for module in llm.modules():
        parts = [getattr(module, name) for name in _QKV if hasattr(module, name)]
        if len(parts) == len(_QKV):
            for part in parts[1:]:
                part.lora_A["default"].weight = parts[0].lora_A["default"].weight


@contextmanager
def without_lora(llm: Any) -> Iterator[None]:
    """The base model alone, for as long as the block lasts."""
    layers = [module for module in llm.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
