"""What a published language model's folder says about itself, in the words of transformers' native classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from omg_llava.config import LanguageConfig
from omg_llava.errors import ModelError

_FAMILIES: dict[str, tuple[Literal["internlm2", "phi3", "qwen2"], str]] = {
    "internlm2": ("internlm2", "llama"),
    "phi3": ("phi3", "phi3"),
    "qwen2": ("qwen2", "qwen2"),
}
_COMMON = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_OPTIONAL = (
    "original_max_position_embeddings",
    "sliding_window",
    "use_sliding_window",
    "partial_rotary_factor",
    "initializer_range",
)


def read_language_config(folder: Path, tokenizer_length: int) -> LanguageConfig:
    """The configuration of the language model in a Hugging Face folder, with room for the four tokens that have rows.

    Raises:
        ModelError: no `config.json`, an entry missing, or a family that OMG-LLaVA was not built on.
    """
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            "the folder has no config.json", expected="a language model's folder", where=str(folder)
        ) from None
    except ValueError as error:
        raise ModelError(f"not JSON: {error}", where=str(path)) from None
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind not in _FAMILIES:
        raise ModelError(f"model_type is {kind!r}", expected=" or ".join(_FAMILIES), where=str(path))
    family, model_type = _FAMILIES[kind]
    missing = [name for name in _COMMON[:5] if name not in data]
    if missing:
        raise ModelError(f"entries are missing: {', '.join(missing)}", where=str(path))
    spread = data.get("initializer_range", 0.02)
    if type(spread) not in (int, float) or not 0 < spread <= 1:
        raise ModelError(f"initializer_range is {spread!r}", expected="a number above 0, up to 1", where=str(path))
    settings: dict[str, Any] = {name: data[name] for name in (*_COMMON, *_OPTIONAL) if name in data}
    settings.update(
        model_type=model_type,
        vocab_size=tokenizer_length + 4,
        rope_parameters=_rope(data),
        tie_word_embeddings=False,
    )
    return LanguageConfig(family, settings, base_vocab=tokenizer_length)


def _rope(data: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings in the present form; older files have `rope_theta` and `rope_scaling` apart."""
    if isinstance(data.get("rope_parameters"), dict):
        return dict(data["rope_parameters"])
    scaling = dict(data.get("rope_scaling") or {})
    kind = scaling.pop("type", scaling.pop("rope_type", "default"))
    return {"rope_type": kind, "rope_theta": float(data.get("rope_theta", 10000.0)), **scaling}
