"""Reads what OMG-LLaVA writes: text with grounded phrases, `<p> a dog </p> [SEG] sits on <p> grass </p> [SEG].`

Rules of the official GCG script (omg_llava/tools, commit 1ae2e7d, the same as groundingLMM's): the caption is the text
without tags, `[SEG]` and surplus white space; phrase i is the text between the i-th `<p>` and `</p>`; mask i belongs
to the i-th `[SEG]`; phrases and masks are never checked to be of equal number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from omg_llava.vocabulary import SEG

_PHRASE = re.compile(r"<p>(.*?)</p>")
_TAG = re.compile(r"<.*?>")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A grounded phrase; `start` and `end` are offsets into `GroundedText.caption`, None where it is not there."""

    text: str
    start: int | None
    end: int | None


@dataclass(frozen=True, slots=True)
class GroundedText:
    """An answer, cleaned.

    Attributes:
        caption: what people read.
        phrases: in order, tags and outer spaces taken off.
        n_seg: how many `[SEG]` the answer holds, hence how many masks belong to it.
    """

    caption: str
    phrases: tuple[Phrase, ...]
    n_seg: int


def read_grounded_text(raw_text: str) -> GroundedText:
    """Clean a generated answer that was decoded with its special tokens. Never fails: a torn tag stays text."""
    text = raw_text.replace("<s>", "").replace("\n", "").replace("  ", " ")
    text = text.rpartition("ASSISTANT: ")[2]
    caption = _SPACES.sub(" ", _TAG.sub("", text).replace(SEG, "")).strip("'").strip()
    found = [match.strip() for match in _PHRASE.findall(text)]
    return GroundedText(caption, _located(found, caption), text.count(SEG))


def _located(phrases: list[str], caption: str) -> tuple[Phrase, ...]:
    """Each phrase where it stands behind the one before it."""
    located = []
    position = 0
    for phrase in phrases:
        start = caption.find(phrase, position) if phrase else -1
        if start < 0:
            located.append(Phrase(phrase, None, None))
            continue
        position = start + len(phrase)
        located.append(Phrase(phrase, start, position))
    return tuple(located)


def read_region_caption(raw_text: str) -> str:
    """A region's description, cleaned as the official region-caption script does: `region1` and colons go too."""
    text = raw_text.replace("<s>", "").replace("\n", "")
    for word in ("region1", "Region1", ":"):
        text = text.replace(word, "")
    text = text.replace("   ", " ").replace("  ", " ")
    return _SPACES.sub(" ", _TAG.sub("", text).replace(SEG, "")).strip("'").strip()
