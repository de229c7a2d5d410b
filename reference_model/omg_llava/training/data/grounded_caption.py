"""A caption with masks at its phrases, and the answer and target masks that training makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from omg_llava.vocabulary import ADDED_TOKENS, P_CLOSE, P_OPEN, SEG
from omgbench.data.coco import Segmentation
from omgbench.data.jsonfile import checked, shown
from omgbench.data.parts import part_counts
from omgbench.errors import DataError


@dataclass(frozen=True, slots=True)
class GroundedPhrase:
    """Characters `start` to `end` (exclusive) of a caption, and the parts of their mask."""

    start: int
    end: int
    segmentation: Segmentation


@dataclass(frozen=True, slots=True)
class GroundedCaption:
    """A caption; its phrases lie inside, hold at least a character, and come in reading order without overlap.

    Attributes:
        file_name: of the picture, certain to stay inside its folder.
        where: file and entry, for messages.
    """

    file_name: str
    caption: str
    phrases: tuple[GroundedPhrase, ...]
    where: str

    @property
    def answer(self) -> str:
        """The caption with `<p> phrase </p> [SEG]` in place of each phrase, nothing else changed."""
        pieces, position = [], 0
        for phrase in self.phrases:
            text = self.caption[phrase.start : phrase.end]
            pieces.append(f"{self.caption[position : phrase.start]}{P_OPEN} {text} {P_CLOSE} {SEG}")
            position = phrase.end
        return "".join(pieces) + self.caption[position:]

    def masks(self, size: tuple[int, int]) -> tuple[NDArray[np.uint8], ...]:
        """How many parts of each phrase cover each pixel, on a picture of `size` (height, width); wraps at 256.

        Raises:
            DataError: a mask of another size, a polygon with an outline of absurd length.
        """
        return tuple(part_counts(phrase.segmentation, size, self.where) for phrase in self.phrases)


def grounded_caption(file_name: str, caption: str, phrases: Iterable[GroundedPhrase], where: str) -> GroundedCaption:
    """Bring the phrases in order; an end behind the caption is the caption's.

    Left out, with their masks, are phrases that start before the caption or hold no character of it, and those that
    start inside the phrase before them. The official code tags them all the same, which tears the tags apart, up to
    a `[SEG]` that is none, and pairs masks with the wrong one.

    Raises:
        DataError: a caption that holds one of the model's own tokens, so that `[SEG]` and masks would not match.
    """
    token = next((token for token in ADDED_TOKENS if token in caption), None)
    if token is not None:
        raise DataError(f"the caption holds {token}", expected="plain text", where=where)
    kept: list[GroundedPhrase] = []
    for phrase in sorted(phrases, key=lambda phrase: phrase.start):
        end = min(phrase.end, len(caption))
        if (kept[-1].end if kept else 0) <= phrase.start < end:
            kept.append(replace(phrase, end=end))
    return GroundedCaption(file_name, caption, tuple(kept), where)


def span_of(value: object, where: str) -> tuple[int, int]:
    """`[start, end]` in characters, end exclusive; any whole numbers. Raises `DataError`."""
    pair = checked(value, list, "span", where)
    if len(pair) != 2:
        raise DataError(f"span is {shown(pair)}", expected="[start, end]", where=where)
    return checked(pair[0], int, "start of the span", where), checked(pair[1], int, "end of the span", where)
