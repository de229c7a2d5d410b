"""A very small OMG-LLaVA whose greedy answers vary, hold `[SEG]`, end by themselves, or hit the limit."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing

from omg_llava.assistant import Question
from omg_llava.config import OmgLlavaConfig, load_config
from omg_llava.conversation import TEMPLATES, Turn
from omg_llava.generation import Sampling
from omg_llava.model import OmgLlava
from omg_llava.prompts import Prompt
from omg_llava.untrained import untrained_model, with_language_family
from omgbench.contract import Category, Frame, GenOptions, Intent, Request

SEEDS = {"internlm2": 1, "phi3": 7, "qwen2": 1}
"""Of every family of language models: those whose answers hold masks."""
FAMILIES = tuple(SEEDS)
SIDE = 128
N_LAYERS = 2
LIMIT = 24
LETTERS = "abcdefghijklmnopqrstuvwxyz ,."
SIZES_WH = ((64, 48), (64, 64), (20, 33), (41, 100))
VOCABULARY = (Category(1, "circle", True), Category(2, "square", True), Category(3, "ground", False))


def small_config(
    *, family: str = "internlm2", ablation: str | None = None, settings: dict[str, Any] | None = None
) -> OmgLlavaConfig:
    """The tiny configuration with its changes, smaller still. `settings` go to the language model."""
    config = with_language_family(load_config("omg_llava_bytes", ablation=ablation), family)
    transformers = {
        **config.language.transformers,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        **(settings or {}),
    }
    return dataclasses.replace(
        config,
        language=dataclasses.replace(config.language, transformers=transformers),
        image=dataclasses.replace(config.image, side=SIDE),
        backbone=dataclasses.replace(config.backbone, depths=(1, 1, 1, 1), widths=(16, 16, 32, 32), clip_dim=32),
        segmenter=dataclasses.replace(
            config.segmenter,
            width=32,
            n_heads=4,
            pixel_decoder_layers=1,
            pixel_decoder_ffn=32,
            decoder_layers=3,
            decoder_ffn=32,
            n_queries=12,
        ),
    )


def lively_model(config: OmgLlavaConfig) -> tuple[OmgLlava, Any]:
    """An untrained model with a talkative language model, and a byte tokenizer that puts `<s>` before a text.

    Fresh weights of the usual size repeat one token for ever: these are ten times as large, attention's even larger, so
    that every token depends on all before it. The rows of the head favour letters, `[SEG]` and the ends of an answer:
    without a bias, a longer row is chosen more often.
    """
    seed = SEEDS[config.language.family]
    model, tokenizer = untrained_model(config, seed=seed)
    random = torch.Generator().manual_seed(seed)
    special = model.special
    with torch.no_grad():
        for name, weight in model.llm.named_parameters():
            if weight.ndim == 2:
                is_mixing = any(part in name for part in ("v_proj", "o_proj", "qkv_proj"))
                weight.copy_(torch.randn(weight.shape, generator=random) * (0.5 if is_mixing else 0.2))
        head = model.llm.lm_head.weight
        ends = [tokenizer.convert_tokens_to_ids(token) for token in ("</s>", *TEMPLATES[config.language.family].stop)]
        said = {*tokenizer.encode(LETTERS), *ends, special.seg, special.p_open, special.p_close}
        head[[token for token in range(len(head)) if token not in said]] *= 0.3
        head[special.seg] *= 1.8
        head[ends] *= 1.2
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return model, tokenizer


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of blocks of colour, RGB."""
    random = np.random.default_rng([seed, width, height])
    blocks = Image.fromarray(random.integers(0, 256, (7, 5, 3), dtype=np.uint8))
    return blocks.resize((width, height), Image.Resampling.NEAREST)


def pictures() -> list[Image.Image]:
    """Four pictures of the sizes `SIZES_WH`."""
    return [picture(width, height, seed) for seed, (width, height) in enumerate(SIZES_WH)]


def rectangle(width: int, height: int, xyxy: tuple[int, int, int, int]) -> np.ndarray:
    """A mask (height, width) of a filled rectangle."""
    mask = np.zeros((height, width), bool)
    mask[xyxy[1] : xyxy[3], xyxy[0] : xyxy[2]] = True
    return mask


def questions() -> list[tuple[int, Question]]:
    """Eight questions of different lengths, each with the number of its picture."""
    short = Sampling(LIMIT)
    point = Prompt("point", np.array([10.0, 20.0], np.float32))
    box = Prompt("box", np.array([3.0, 5.0, 40.0, 30.0], np.float32))
    mask = Prompt("mask", rectangle(64, 64, (20, 10, 50, 40)))
    history = (Turn("user", "Who is there?"), Turn("assistant", "A dog [SEG] and a cat."))
    return [
        (0, Question("What is it?", sampling=short)),
        (1, Question("Please segment the large brown dog on the left in this image.", sampling=short)),
        (0, Question("What lies in <region> and at <mark>?", (box, point), sampling=short)),
        (2, Question("x", sampling=short)),
        (1, Question("There is <region>. Say more of it, and of <mark>, please.", (mask, point), sampling=short)),
        (3, Question("And where?", history=history, sampling=short)),
        (2, Question("Is there a cat? " * 8, sampling=Sampling(5))),
        (3, Question("Two dogs", sampling=short)),
    ]


def png(image: Image.Image) -> bytes:
    """The picture as a file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def frame(image: Image.Image, key: str) -> Frame:
    """The picture as a task gives it."""
    return Frame(key, image.width, image.height, png(image))


def request(id: str, intent: Intent, image: Frame, text: str | None = None, **changes: Any) -> Request:
    """A request with a small token limit."""
    changes.setdefault("gen", GenOptions(max_new_tokens=LIMIT))
    return Request(id, intent, (image,), text, **changes)
