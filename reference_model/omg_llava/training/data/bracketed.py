"""Conversations that name what they are about in angle brackets, `<region1>` or `<Mark 2>`, as GPT-4 wrote them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omg_llava.prompts import Prompt, speak_of
from omg_llava.training.data.llava import read_exchanges
from omg_llava.training.samples import Exchange
from omg_llava.vocabulary import SEG
from omgbench.data.jsonfile import require, shown
from omgbench.errors import DataError


def without_brackets(text: str) -> str:
    """`text` with every `<` and `>` taken out: the names stay, as plain words."""
    return text.replace("<", "").replace(">", "")


def read_bracketed(entry: object, where: str, spoken: Callable[[str], str] = without_brackets) -> tuple[Exchange, ...]:
    """The `conversations` of an entry, every turn as `spoken` makes it; may be empty.

    Raises:
        DataError: a turn that is none, or that holds `[SEG]`, which would stand for a mask that is not there.
    """
    turns: list[object] = []
    for index, turn in enumerate(require(entry, "conversations", list, where)):
        here = f"{where} conversations[{index}]"
        speaker, text = require(turn, "from", str, here), spoken(require(turn, "value", str, here))
        turns.append({"from": speaker, "value": refuse_seg(text, here)})
    return read_exchanges(turns, where)


def refuse_seg(text: str, where: str) -> str:
    """`text`. Raises `DataError` where it holds `[SEG]`."""
    if SEG in text:
        raise DataError(f"the text {shown(text)} holds {SEG}", expected="plain text", where=where)
    return text


def introduced(exchanges: Sequence[Exchange], prompts: Sequence[Prompt]) -> tuple[Exchange, ...]:
    """The conversation, its first question behind the sentence that numbers all prompts."""
    first = exchanges[0]
    return (Exchange(speak_of(prompts) + first.question, first.answer), *exchanges[1:])
