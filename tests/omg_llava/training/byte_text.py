"""Text to ids of the byte tokenizer, without the tokenizer."""

from __future__ import annotations

import re

CONTROL = (
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
ADDED = ("[SEG]", "<p>", "</p>", "<region>", "<mark>")
SPECIAL = {token: number for number, token in enumerate(CONTROL)} | {
    token: len(CONTROL) + 256 + number for number, token in enumerate(ADDED)
}
_SPECIAL_TEXT = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")


def _byte_ids() -> dict[int, int]:
    """GPT-2 writes a byte that has no printable character as one from 256 on; ids are in the order of characters."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: byte for byte in printable}
    for number, byte in enumerate(byte for byte in range(256) if byte not in printable):
        characters[byte] = 256 + number
    in_order = sorted(characters, key=lambda byte: characters[byte])
    return {byte: len(CONTROL) + place for place, byte in enumerate(in_order)}


_BYTE_IDS = _byte_ids()


def ids_of(text: str) -> list[int]:
    """A token for each control token, each added token, and each other byte."""
    ids: list[int] = []
    for piece in _SPECIAL_TEXT.split(text):
        ids += [SPECIAL[piece]] if piece in SPECIAL else [_BYTE_IDS[byte] for byte in piece.encode()]
    return ids
