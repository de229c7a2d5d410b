"""Sentences of the demo world read back into their meaning, without looking at how they were made."""

from __future__ import annotations

import re
from typing import Literal, cast, get_args

from omgbench.data.scenes.query import (
    Between,
    Closest,
    InRegion,
    InRow,
    Modifier,
    Noun,
    OnStuff,
    Query,
    Related,
    RelationName,
    SideRank,
    SizeRank,
)
from omgbench.data.scenes.vocabulary import (
    COLORS,
    COUNTS,
    ORDINALS,
    PATTERNS,
    REGIONS,
    SHAPES,
    SIZES,
    STUFF,
    THING,
    Pattern,
    Region,
    Size,
)

FILLERS = re.compile(
    r"\b((in|of) the (image|picture)|(side|corner|part)( of the (image|picture))?|(that|which) is"
    r"|to the(?= (left|right) of)|the|an?)\b"
)
SIZE_RANKS: dict[str, Literal["largest", "smallest"]] = {
    "largest": "largest",
    "biggest": "largest",
    "smallest": "smallest",
}
RELATION_WORDS = get_args(RelationName)


def read_expression(text: str) -> Query:
    """The meaning of a sentence in any of the three styles; upper case, a full stop and articles do not matter.

    Raises:
        ValueError: a sentence outside the language, naming the word at which reading stopped.
    """
    cleaned = FILLERS.sub(" ", text.lower().rstrip(". "))
    return _Reader(text, cleaned.split()).query()


class _Reader:
    def __init__(self, text: str, words: list[str]) -> None:
        self.text = text
        self.words = words
        self.at = 0

    def query(self) -> Query:
        modifiers: list[Modifier] = []
        rank: int | None = None
        while True:
            if (word := self.peek()) in SIZE_RANKS:
                self.at += 1
                modifiers.append(SizeRank(SIZE_RANKS[word]))
            elif word in ORDINALS:
                self.at += 1
                rank = ORDINALS.index(word) + 1
            elif self.take("leftmost"):
                modifiers.append(SideRank(1, "left"))
            elif self.take("rightmost"):
                modifiers.append(SideRank(1, "right"))
            elif (region := self.region()) is not None:
                modifiers.append(InRegion(region))
            else:
                break
        noun = self.noun()
        while self.at < len(self.words):
            self.take("and")
            if self.take("from"):
                modifiers.append(self.side_rank(rank))
                rank = None
            else:
                modifiers.append(self.modifier())
        if rank is not None:
            raise self.failure()
        return Query(noun, tuple(modifiers))

    def peek(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def take(self, phrase: str) -> bool:
        """Step over the words if they come next."""
        expected = phrase.split()
        if self.words[self.at : self.at + len(expected)] != expected:
            return False
        self.at += len(expected)
        return True

    def failure(self) -> ValueError:
        return ValueError(f"cannot read {self.text!r} at word {self.peek()!r}")

    def region(self) -> Region | None:
        for region in sorted(REGIONS, key=len, reverse=True):
            if self.take(region):
                return region
        return None

    def noun(self) -> Noun:
        size = pattern = color = None
        if self.peek() in SIZES:
            size, self.at = cast("Size", self.peek()), self.at + 1
        if self.peek() in PATTERNS:
            pattern, self.at = cast("Pattern", self.peek()), self.at + 1
        if self.peek() in COLORS:
            color, self.at = self.peek(), self.at + 1
        shape = self.peek()
        if shape != THING and shape not in SHAPES:
            raise self.failure()
        self.at += 1
        return Noun(None if shape == THING else shape, color, size, pattern)

    def side_rank(self, rank: int | None) -> SideRank:
        side = self.peek()
        if rank is None or side not in ("left", "right"):
            raise self.failure()
        self.at += 1
        return SideRank(rank, cast("Literal['left', 'right']", side))

    def modifier(self) -> Modifier:
        for relation in RELATION_WORDS:
            if self.take(relation):
                return Related(relation, self.noun())
        if self.take("closest to"):
            return Closest(self.noun())
        if self.take("between"):
            first = self.noun()
            if not self.take("and"):
                raise self.failure()
            return Between(first, self.noun())
        if self.take("in row of"):
            if self.peek() not in COUNTS:
                raise self.failure()
            self.at += 1
            return InRow(COUNTS.index(self.words[self.at - 1]))
        for word in ("in", "on", "at"):
            self.take(word)
        if (region := self.region()) is not None:
            return InRegion(region)
        if self.peek() in STUFF:
            self.at += 1
            return OnStuff(self.words[self.at - 1])
        raise self.failure()
