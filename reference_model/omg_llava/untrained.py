"""A model with random weights and a tokenizer of bytes: the start of training, and something to test with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from omg_llava.config import OmgLlavaConfig
from omg_llava.errors import ModelError
from omg_llava.files.tokenizer import add_special_tokens_in_order
from omg_llava.model import ClassEmbeddings, OmgLlava
from omg_llava.vocabulary import ADDED_TOKENS

CONTROL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|endoftext|>",
)
BYTE_VOCABULARY = len(CONTROL_TOKENS) + 256


def byte_tokenizer() -> Any:
    """One token per byte behind the control tokens of all chat templates; any text goes in and comes out unchanged.

    Its length is `BYTE_VOCABULARY`, and the five tokens of OMG-LLaVA follow.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*CONTROL_TOKENS, *letters))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    add_special_tokens_in_order(wrapped, list(ADDED_TOKENS))
    return wrapped


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Within the block PyTorch draws from this seed; its global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def untrained_model(config: OmgLlavaConfig, *, seed: int = 0) -> tuple[OmgLlava, Any]:
    """A model of a configuration made for the byte tokenizer, with fresh weights and unit class embeddings at random.

    Raises:
        ModelError: the configuration's vocabulary is another.
    """
    if config.language.base_vocab != BYTE_VOCABULARY:
        raise ModelError(f"base_vocab is {config.language.base_vocab}", expected=str(BYTE_VOCABULARY))
    with drawn_from(seed):
        model = OmgLlava(config)
        for class_set in model.class_sets.values():
            assert isinstance(class_set, ClassEmbeddings)
            class_set.prototypes.copy_(F.normalize(torch.randn_like(class_set.prototypes), dim=-1))
    return model.eval().requires_grad_(False), byte_tokenizer()


def with_language_family(config: OmgLlavaConfig, family: str) -> OmgLlavaConfig:
    """The same sizes with another family of language models: "internlm2", "phi3" or "qwen2".

    Raises:
        ModelError: an unknown family.
    """
    types = {"internlm2": "llama", "phi3": "phi3", "qwen2": "qwen2"}
    if family not in types:
        raise ModelError(f"the family is {family!r}", expected=", ".join(types))
    settings = {**config.language.transformers, "model_type": types[family]}
    language = dataclasses.replace(config.language, family=family, transformers=settings)  # type: ignore[arg-type]
    return dataclasses.replace(config, language=language)
