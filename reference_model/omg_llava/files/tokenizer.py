"""Tokenizers from folders, without running code that lies in them and without asking a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from omg_llava.errors import ModelError
from omg_llava.files.file_kind import folder_error, pointer_error
from omg_llava.files.sentencepiece_bpe import convert_sentencepiece

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_INTERNLM2_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
"""What the tokenizer class of InternLM2 takes for names that its configuration leaves out."""
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, padding on the right.

    `tokenizer.json` is taken as it is; without it `tokenizer.model` (sentencepiece BPE, as InternLM2 has) is converted,
    with a BOS token in front of every text unless the configuration says otherwise. Of `tokenizer_config.json` only the
    names of special tokens and, for `tokenizer.model`, the added tokens are used: `tokenizer_class` and `auto_map`,
    which would name code to run, are not looked at.

    Raises:
        ModelError: neither file, a broken file, or a special token that is not in the vocabulary (adding it would move
            the ids of all that come after).
    """
    folder = Path(folder)
    config = _read_config(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        return _wrap(_read_backend(folder / "tokenizer.json"), config, folder)
    if not (folder / "tokenizer.model").is_file():
        expected = "tokenizer.json or tokenizer.model"
        if folder.is_dir():
            raise folder_error(folder, expected=expected)
        raise ModelError("no such folder", expected=f"a folder with {expected}", where=str(folder))
    config = {**_INTERNLM2_NAMED, **config}
    backend = convert_sentencepiece(folder / "tokenizer.model", _added_tokens(config, folder))
    wrapped = _wrap(backend, config, folder)
    _put_ends(wrapped, config)
    return wrapped


def add_special_tokens_in_order(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> dict[str, int]:
    """Give tokens the ids that follow the vocabulary, in order, as special tokens; return their ids.

    A tokenizer that has the first of them already gets the others; one that has all stays as it is.

    Raises:
        ModelError: a token that is there under another id or as ordinary text; the tokenizer is then unchanged.
    """
    vocabulary = tokenizer.get_vocab()
    present = [token for token in tokens if token in vocabulary]
    base = vocabulary[present[0]] if present else len(tokenizer)
    wanted = {token: base + i for i, token in enumerate(tokens)}
    new = tokens[len(present) :]
    flags = tokenizer.added_tokens_decoder
    problems = [
        f"{token} is {'special' if id_ in flags and flags[id_].special else 'ordinary text'} with the id {id_}"
        for token, id_ in ((token, vocabulary[token]) for token in present)
        if wanted[token] != id_ or id_ not in flags or not flags[id_].special
    ]
    if len(wanted) != len(tokens):
        problems.append("a token is named twice")
    if new and base + len(present) != len(tokenizer):
        problems.append(f"{new[0]} would get the id {len(tokenizer)}")
    if problems:
        expected = "special tokens with the ids " + ", ".join(f"{token} {id_}" for token, id_ in wanted.items())
        hint = "take the tokenizer of the language model as it was released"
        raise ModelError("; ".join(problems), expected=expected, where="the tokenizer", hint=hint)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new], special_tokens=True)
    return wanted


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`; `load_tokenizer` reads them back with equal ids."""
    tokenizer.save_pretrained(str(folder))


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"no JSON: {error}", expected="a tokenizer configuration", where=str(path)) from None
    if not isinstance(config, dict):
        raise ModelError("JSON that is no object", expected="a tokenizer configuration", where=str(path))
    return config


def _read_backend(path: Path) -> Tokenizer:
    with path.open("rb") as file:
        pointer = pointer_error(file.read(100), str(path), expected="the JSON of a tokenizer")
    if pointer is not None:
        raise pointer
    # The library raises a bare Exception for whatever is wrong with the file.
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        found = f"no tokenizer: {str(error)[:300]}"
        raise ModelError(found, expected="what the tokenizers library writes", where=str(path)) from None


def _added_tokens(config: Mapping[str, Any], folder: Path) -> dict[int, AddedToken]:
    where = str(folder / "tokenizer_config.json")
    entries = config.get("added_tokens_decoder", {})
    if not isinstance(entries, dict):
        raise ModelError("added_tokens_decoder that is no object", expected="tokens by id", where=where)
    found = {}
    for id_, entry in entries.items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not (id_.isascii() and id_.isdigit() and isinstance(content, str) and content):
            expected = 'an id with {"content": text, ...}'
            raise ModelError(f"the added token {id_}: {entry!r}", expected=expected, where=where)
        flags = {flag: bool(entry[flag]) for flag in _TOKEN_FLAGS if flag in entry}
        found[int(id_)] = AddedToken(content, **flags)
    return found


def _wrap(backend: Tokenizer, config: Mapping[str, Any], folder: Path) -> PreTrainedTokenizerFast:
    named = {name: _content(config[name]) for name in _NAMED if config.get(name) is not None}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, dict) else extra
    extras = [_content(token) for token in extra] if isinstance(extra, list) else [None]
    for token in (*named.values(), *extras):
        if token is None or backend.token_to_id(token) is None:
            raise ModelError(
                f"the special token {token!r} is not in the vocabulary",
                expected="special tokens that have an id",
                where=str(folder / "tokenizer_config.json"),
                hint="vocabulary and configuration are of different tokenizers: download the folder again",
            )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        extra_special_tokens=extras,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **named,
    )


def _content(token: Any) -> str | None:
    """The text of a token as configurations write it: plain, or with flags."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _put_ends(tokenizer: PreTrainedTokenizerFast, config: Mapping[str, Any]) -> None:
    """BOS before and EOS after each text, as the configuration says."""
    before = [tokenizer.bos_token] if config.get("add_bos_token", True) else []
    after = [tokenizer.eos_token] if config.get("add_eos_token", False) else []
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{token}:1" for token in before), "$B:1", *(f"{token}:1" for token in after)],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in (*before, *after)],
    )
