"""What a model's folder holds, told without loading it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import torch

from omg_llava.checkpoint import config_path, read_tokenizer
from omg_llava.config import OmgLlavaConfig, read_config
from omg_llava.errors import ModelError
from omg_llava.files.weights import Weights, open_weights
from omg_llava.model import OmgLlava

_PARTS = ("perception", "projector", "text_projector", "own_seg_decoder", "seg_state", "class_sets", "llm")


def describe(folder: Path) -> dict[str, str]:
    """Sizes, options and parameter counts of a folder, in the order of reading.

    Raises:
        ModelError: a folder that is not whole: files, tensors or tokens missing, left over or of another shape.
    """
    config = read_config(config_path(folder))
    tokenizer = read_tokenizer(folder, config)
    weights = open_weights(folder)
    _check_whole(config, weights)
    language = config.language
    lines = {
        "model": config.name,
        "picture": f"{config.image.side} x {config.image.side}, {config.tokens_side**2} pixel tokens",
        "object queries": str(config.segmenter.n_queries),
        "language model": f"{language.family}, {language.n_layers} layers of width {language.hidden_size}",
        "vocabulary": f"{len(tokenizer)} tokens, context {language.max_positions}",
        "[SEG] decoder": "its own" if config.seg_token.own_decoder else "the frozen one",
        "[SEG] state": config.seg_token.embedding,
        "adapters": "merged or none" if language.lora is None else f"kept, rank {language.lora.rank}",
        "label spaces": ", ".join(f"{item.name} ({len(item.classes)})" for item in config.class_sets) or "none",
    }
    return lines | _counts(weights)


def _counts(weights: Weights) -> dict[str, str]:
    numbers: Counter[str] = Counter()
    dtypes: dict[str, set[str]] = {}
    for name in weights.names():
        part = name.partition(".")[0]
        numbers[part] += math.prod(weights.shape(name))
        dtypes.setdefault(part, set()).add(str(weights.dtype(name)).removeprefix("torch."))
    lines = {
        f"parameters of {part}": f"{numbers[part]:,} ({', '.join(sorted(dtypes[part]))})"
        for part in _PARTS
        if part in numbers
    }
    return lines | {"parameters": f"{numbers.total():,}, {weights.n_bytes / 2**20:,.1f} MiB on disk"}


def _check_whole(config: OmgLlavaConfig, weights: Weights) -> None:
    with torch.device("meta"):
        model = OmgLlava(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: weights.shape(name) for name in weights.names()}
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if wrong:
        raise ModelError(
            f"{len(wrong)} tensors are missing, left over or of another shape: {', '.join(sorted(wrong)[:10])}",
            where=str(weights.paths[0].parent),
            hint="convert the model again",
        )
