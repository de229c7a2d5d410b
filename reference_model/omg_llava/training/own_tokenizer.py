"""A tokenizer for a language model that is trained from nothing: byte-level BPE over the words of its training data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from omg_llava.errors import ModelError
from omg_llava.files.tokenizer import add_special_tokens_in_order
from omg_llava.untrained import CONTROL_TOKENS
from omg_llava.vocabulary import ADDED_TOKENS


def train_tokenizer(texts: Iterable[str], n_tokens: int) -> Any:
    """A tokenizer of exactly `n_tokens` tokens, control tokens and all bytes included, and OMG-LLaVA's own behind.

    Raises:
        ModelError: the texts hold too few words for so many tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    without_added = (_without(text, ADDED_TOKENS) for text in texts)
    tokenizer.train_from_iterator(without_added, trainer)
    if tokenizer.get_vocab_size() != n_tokens:
        raise ModelError(
            f"the training texts give {tokenizer.get_vocab_size()} tokens",
            expected=f"{n_tokens}, base_vocab of the configuration",
            hint="lower base_vocab",
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    add_special_tokens_in_order(wrapped, list(ADDED_TOKENS))
    return wrapped


def _without(text: str, tokens: Iterable[str]) -> str:
    for token in tokens:
        text = text.replace(token, "")
    return text
