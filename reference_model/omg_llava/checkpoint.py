"""A model's folder: `config.json`, safetensors shards, tokenizer. Loaded without a second copy in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from omg_llava.config import OmgLlavaConfig, read_config
from omg_llava.errors import ModelError
from omg_llava.files.loading import load_into
from omg_llava.files.shard_writer import ShardWriter
from omg_llava.files.tokenizer import load_tokenizer, save_tokenizer
from omg_llava.files.weights import Weights, open_weights
from omg_llava.model import OmgLlava
from omg_llava.quantization import quantize_4bit
from omg_llava.vocabulary import ADDED_TOKENS, SpecialIds

CONFIG_FILE = "config.json"


def load_model(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    four_bit: bool = False,
    check_finite: bool = True,
) -> tuple[OmgLlava, Any]:
    """The model in a folder, in evaluation mode, and its tokenizer.

    Args:
        device: as PyTorch names it.
        dtype: of the language model; None takes the stored one. Everything else is float32, as in the official code.
        four_bit: hold the language model's linear layers in NF4, the head excepted, as the official scripts do, with
            `dtype` float32 unless named; wants bitsandbytes. Officially adapters stand beside the quantised weights:
            convert with --keep-lora; merged ones are quantised with the rest.
        check_finite: name tensors that hold NaN or infinity.

    Raises:
        ModelError: a file missing or damaged, tensors missing, left over or of another shape, a foreign tokenizer.
    """
    folder = Path(folder)
    config = read_config(config_path(folder))
    tokenizer = read_tokenizer(folder, config)
    with torch.device("meta"):
        model = OmgLlava(config)
    weights = open_weights(folder)
    language_dtype = dtype or (torch.float32 if four_bit else _stored_language_dtype(weights))
    load_into(
        model,
        weights,
        dtype_of=lambda name: language_dtype if name.startswith("llm.") else torch.float32,
        device="cpu" if four_bit else device,
        check_finite=check_finite,
    )
    restore_rotary(model)
    if four_bit:
        # Officially each quantised product is float16, all around it float32. Processors are slow at float16.
        quantize_4bit(model, compute_dtype=torch.float32 if torch.device(device).type == "cpu" else torch.float16)
    return model.to(device).eval().requires_grad_(False), tokenizer


def save_model(
    model: OmgLlava,
    tokenizer: Any,
    folder: str | Path,
    *,
    max_shard_bytes: int = 2 * 2**30,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that `load_model` loads. It must not exist.

    Args:
        dtype: of floating-point weights; None = as they are.
    """
    with write_folder(Path(folder), model.config, tokenizer, max_shard_bytes=max_shard_bytes) as writer:
        for name, tensor in model.state_dict().items():
            converts = dtype is not None and tensor.is_floating_point()
            writer.add(name, tensor.detach().to(dtype) if converts else tensor.detach())


@contextmanager
def write_folder(
    folder: Path, config: OmgLlavaConfig, tokenizer: Any, *, max_shard_bytes: int
) -> Iterator[ShardWriter]:
    """A writer of a model's folder, which appears whole at the end or not at all."""
    with ShardWriter(folder, max_shard_bytes=max_shard_bytes, metadata={"format": "pt"}) as writer:
        (writer.partial / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        save_tokenizer(tokenizer, writer.partial)
        yield writer


def read_tokenizer(folder: Path, config: OmgLlavaConfig) -> Any:
    """The folder's tokenizer, its special tokens where the configuration says."""
    tokenizer = load_tokenizer(folder)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ADDED_TOKENS]
    special = SpecialIds.after(config.language.base_vocab)
    expected = [special.seg, special.p_open, special.p_close, special.region, special.mark]
    if ids != expected:
        raise ModelError(
            f"the special tokens have ids {ids}", expected=f"{expected}", where=str(folder), hint="convert it again"
        )
    return tokenizer


def restore_rotary(model: OmgLlava) -> None:
    """Rotary frequencies are computed, not stored: a model built without memory lacks them."""
    rotary = model.llm.model.rotary_emb
    model.llm.model.rotary_emb = type(rotary)(config=model.llm.config)


def config_path(folder: Path) -> Path:
    """Where the configuration lies. Raises `ModelError` where it does not."""
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise ModelError("there is no such folder", expected="a folder of omgbench model convert", where=str(folder))
    if not path.exists():
        raise ModelError("the folder has no config.json", where=str(folder), hint="omgbench model convert makes one")
    return path


def _stored_language_dtype(weights: Weights) -> torch.dtype:
    """The type of the first matrix inside the language model's layers; vocabularies are sometimes kept finer."""
    for name in weights.names():
        if name.startswith("llm.model.layers.") and "lora_" not in name:
            return weights.dtype(name)
    raise ModelError("the folder holds no language model", where=str(weights.paths[0].parent))
