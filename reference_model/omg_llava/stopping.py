"""When an answer is over."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

_LEAST_TAIL = 16


class StopRule:
    """Ends an answer at an end token, at a template's stop word, or where a string of the caller's appears.

    The official scripts decode everything written so far, take line breaks off and compare the end with the stop word.
    A stop word that is a special token is found by its id, which is the same and needs no decoding.

    Args:
        tokenizer: of the model.
        end_ids: tokens that end an answer.
        stop_words: of the chat template; they stay in the answer.
        stop_texts: of the caller; an answer is cut in front of the first of them (see `cut`).
    """

    def __init__(
        self, tokenizer: Any, end_ids: Collection[int], stop_words: Sequence[str], stop_texts: Sequence[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._end_ids = set(end_ids)
        self._words = []
        self._texts = [text for text in stop_texts if text]
        # Tokens decoded to look for a string: one token is one byte at least.
        self._tail = max((len(word.encode()) for word in (*stop_words, *self._texts)), default=0) + _LEAST_TAIL
        special = set(tokenizer.all_special_ids)
        for word in stop_words:
            ids = tokenizer.encode(word, add_special_tokens=False)
            if len(ids) == 1 and ids[0] in special and ids[0] != tokenizer.unk_token_id:
                self._end_ids.add(int(ids[0]))
            else:
                self._words.append(word)

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether the last of the new tokens ends the answer."""
        if ids[-1] in self._end_ids:
            return True
        if not self._words and not self._texts:
            return False
        text = self._tokenizer.decode(list(ids[-self._tail :]), skip_special_tokens=False)
        flat = text.replace("\r", "").replace("\n", "")
        return any(flat.endswith(word) for word in self._words) or any(stop in text for stop in self._texts)

    def cut(self, text: str) -> str:
        """`text` up to the first of the caller's strings."""
        found = [place for place in (text.find(stop) for stop in self._texts) if place >= 0]
        return text[: min(found)] if found else text
