"""The language model in 4 bits, as every official evaluation ran it: NF4, double quantisation."""

from __future__ import annotations

import logging

import torch
from torch import nn

from omg_llava.errors import ModelError
from omg_llava.model import OmgLlava


def quantize_4bit(model: OmgLlava, *, compute_dtype: torch.dtype) -> None:
    """Replace the linear layers of the language model, the head and adapters excepted, in place.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    try:
        # It reports kernels for processors that it did not find; they are not needed.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        import bitsandbytes
    except ImportError:
        raise ModelError("4 bits need bitsandbytes", hint="pip install bitsandbytes, or leave four_bit out") from None
    for parent in list(model.llm.model.modules()):
        # peft keeps its two factors in dictionaries of modules.
        if isinstance(parent, nn.ModuleDict):
            continue
        for name, linear in list(parent.named_children()):
            if type(linear) is not nn.Linear:
                continue
            small = bitsandbytes.nn.Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=compute_dtype,
                compress_statistics=True,
                quant_type="nf4",
            )
            small.weight = bitsandbytes.nn.Params4bit(
                linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
            )
            small.bias = linear.bias
            setattr(parent, name, small)
