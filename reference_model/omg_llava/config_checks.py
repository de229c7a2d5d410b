"""What a configuration may say. A folder may come from a stranger, and a size decides how much memory is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from omg_llava.errors import ModelError

if TYPE_CHECKING:
    from omg_llava.config import OmgLlavaConfig

MOST_WIDTH = 65536
MOST_LAYERS = 1000
MOST_SIDE_PX = 8192
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LANGUAGE_SIZES = {
    "hidden_size": MOST_WIDTH,
    "intermediate_size": MOST_WIDTH,
    "num_hidden_layers": MOST_LAYERS,
    "num_attention_heads": MOST_WIDTH,
    "num_key_value_heads": MOST_WIDTH,
    "max_position_embeddings": 2**24,
}
_MODEL_TYPES = {"internlm2": "llama", "phi3": "phi3", "qwen2": "qwen2"}


def check_config(config: OmgLlavaConfig) -> None:
    """Raise `ModelError` for the first entry that no model can have."""
    for name, value, least, most in _sizes(config):
        if type(value) is not int or not least <= value <= most:
            raise ModelError(f"{name} is {value!r}", expected=f"a whole number from {least} to {most}")
    for name, number, is_right in _numbers(config):
        if not (math.isfinite(number) and is_right):
            raise ModelError(f"{name} is {number}", expected="a finite number, positive where it divides")
    _check_perception(config)
    _check_language(config)
    _check_class_sets(config)


def _sizes(config: OmgLlavaConfig) -> Iterator[tuple[str, object, int, int]]:
    """Name, value, least and most of every whole number."""
    yield "image.side", config.image.side, 32, MOST_SIDE_PX
    for name in ("universal_px", "clip_px"):
        for value in getattr(config.image, name):
            yield f"image.{name}", value, 32, MOST_SIDE_PX
    yield "projector.pixel_shuffle", config.projector.pixel_shuffle, 1, 32
    yield "backbone.clip_dim", config.backbone.clip_dim, 1, MOST_WIDTH
    for name in ("depths", "widths"):
        values = getattr(config.backbone, name)
        yield f"the number of backbone.{name}", len(values), 4, 4
        for value in values:
            yield f"backbone.{name}", value, 1, MOST_LAYERS if name == "depths" else MOST_WIDTH
    segmenter = config.segmenter
    for name in ("width", "n_heads", "pixel_decoder_ffn", "decoder_ffn", "n_queries"):
        yield f"segmenter.{name}", getattr(segmenter, name), 1, MOST_WIDTH
    for name in ("pixel_decoder_layers", "decoder_layers"):
        yield f"segmenter.{name}", getattr(segmenter, name), 1, MOST_LAYERS
    if config.language.lora is not None:
        yield "language.lora.rank", config.language.lora.rank, 1, MOST_WIDTH
    for class_set in config.class_sets:
        yield f"n_prototypes of {class_set.name}", class_set.n_prototypes, 1, 1000
        yield f"the number of classes of {class_set.name}", len(class_set.classes), 1, MOST_WIDTH
        yield f"n_things of {class_set.name}", class_set.n_things, 0, len(class_set.classes)


def _numbers(config: OmgLlavaConfig) -> Iterator[tuple[str, float, bool]]:
    """Name and value of every other number, and whether its sign is right."""
    for value in config.image.mean:
        yield "image.mean", value, True
    for value in config.image.std:
        yield "image.std", value, value > 0
    yield "segmenter.logit_scale_log", config.segmenter.logit_scale_log, config.segmenter.logit_scale_log < 50
    if config.language.lora is not None:
        yield "language.lora.alpha", config.language.lora.alpha, True
        yield "language.lora.dropout", config.language.lora.dropout, 0 <= config.language.lora.dropout < 1


def _check_perception(config: OmgLlavaConfig) -> None:
    if config.image.side % (32 * config.projector.pixel_shuffle):
        raise ModelError(f"image.side is {config.image.side}", expected="a multiple of 32 * pixel_shuffle")
    if config.segmenter.width % 32 or config.segmenter.width % config.segmenter.n_heads:
        raise ModelError(f"segmenter.width is {config.segmenter.width}", expected="a multiple of 32 and of n_heads")


def _check_language(config: OmgLlavaConfig) -> None:
    language = config.language
    settings = language.transformers
    if settings.get("model_type") != _MODEL_TYPES[language.family]:
        raise ModelError(
            f"language.transformers.model_type is {settings.get('model_type')!r}",
            expected=f"{_MODEL_TYPES[language.family]}, as {language.family} is read",
        )
    for name, most in _LANGUAGE_SIZES.items():
        value = settings.get(name)
        if type(value) is not int or not 1 <= value <= most:
            raise ModelError(f"language.transformers.{name} is {value!r}", expected=f"a whole number from 1 to {most}")
    if type(language.base_vocab) is not int or not 0 < language.base_vocab < 2**24:
        raise ModelError(f"language.base_vocab is {language.base_vocab!r}", expected="the tokenizer's length")
    if settings.get("vocab_size") != language.base_vocab + 4:
        raise ModelError(f"language.transformers.vocab_size is {settings.get('vocab_size')}", expected="base_vocab + 4")
    ends = settings.get("eos_token_id")
    if not all(end is None or type(end) is int for end in (ends if isinstance(ends, list) else [ends])):
        raise ModelError(f"language.transformers.eos_token_id is {ends!r}", expected="a token id, or a list of them")
    for layer in config.seg_token.layers:
        if not 0 <= layer <= language.n_layers:
            raise ModelError(f"seg_token.layers names layer {layer}", expected=f"0 to {language.n_layers}")


def _check_class_sets(config: OmgLlavaConfig) -> None:
    names = [item.name for item in config.class_sets]
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise ModelError(f"a label space is called {name!r}", expected="letters, digits, _ and -, each name once")
    if config.prior_class_set not in (None, *names):
        raise ModelError(f"prior_class_set is {config.prior_class_set!r}", expected="one of class_sets")
