"""When an answer is over (spec 6.5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

_TAIL = 64
"""Tokens decoded to look for a stop string; longer than any stop string in tokens."""


class StopRule:
    """Ends an answer at an end token, at a template's stop word, or at a string the caller named.

    The official scripts decode everything written so far, take line breaks off and compare the end with the stop word.
    A stop word that is one token is found by its id, which is the same and needs no decoding.
    """

    def __init__(self, tokenizer: Any, end_ids: Collection[int], stop_words: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = set(end_ids)
        self._words = []
        for word in stop_words:
            ids = tokenizer.encode(word, add_special_tokens=False)
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                self._end_ids.add(int(ids[0]))
            else:
                self._words.append(word)

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether the last of the new tokens ends the answer."""
        if ids[-1] in self._end_ids:
            return True
        if not self._words:
            return False
        text = self._tokenizer.decode(list(ids[-_TAIL:]), skip_special_tokens=False)
        text = text.replace("\r", "").replace("\n", "")
        return any(text.endswith(word) for word in self._words)
