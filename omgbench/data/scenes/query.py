"""What a referring expression means: a noun and modifiers, free of any wording."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from omgbench.data.scenes.vocabulary import Pattern, Region, Size


class ExpressionKind(StrEnum):
    """What tells the target from the other things, from simple to involved."""

    ATTRIBUTE = "attribute"
    SUPERLATIVE = "superlative"
    ORDINAL = "ordinal"
    POSITION = "position"
    RELATION = "relation"
    GROUP = "group"
    STUFF = "stuff"


@dataclass(frozen=True, slots=True)
class Noun:
    """A thing by its looks; None leaves a look open. "plain" is never said."""

    shape: str | None = None
    color: str | None = None
    size: Size | None = None
    pattern: Pattern | None = None


@dataclass(frozen=True, slots=True)
class InRegion:
    """ "in the top left"."""

    region: Region


RelationName = Literal["left of", "right of", "above", "below", "next to", "inside", "in front of", "behind"]


@dataclass(frozen=True, slots=True)
class Related:
    """ "left of the green star"; the anchor must be the only one of its kind."""

    relation: RelationName
    anchor: Noun


@dataclass(frozen=True, slots=True)
class Between:
    """ "between the green star and the red ring"; each anchor must be the only one of its kind."""

    first: Noun
    second: Noun


@dataclass(frozen=True, slots=True)
class InRow:
    """ "in the row of three"."""

    count: int


@dataclass(frozen=True, slots=True)
class OnStuff:
    """ "on the grass"."""

    stuff: str


@dataclass(frozen=True, slots=True)
class SizeRank:
    """ "the largest", "the smallest" of what the noun and the filters leave."""

    order: Literal["largest", "smallest"]


@dataclass(frozen=True, slots=True)
class SideRank:
    """ "the second from the left" of what the noun and the filters leave; rank counts from 1."""

    rank: int
    side: Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Closest:
    """ "closest to the green star" of what the noun and the filters leave."""

    anchor: Noun


Filter = InRegion | Related | Between | InRow | OnStuff
Selector = SizeRank | SideRank | Closest
Modifier = Filter | Selector


@dataclass(frozen=True, slots=True)
class Query:
    """Things of a noun that pass all filters, and of these what the selector picks.

    Attributes:
        noun: the looks.
        modifiers: filters and at most one selector, in the order in which the sentence says them.
    """

    noun: Noun
    modifiers: tuple[Modifier, ...] = ()


@dataclass(frozen=True, slots=True)
class Expression:
    """A sentence that refers to one thing of a scene.

    Attributes:
        text: lower case, no punctuation.
        kind: what tells the target from the others.
        query: its meaning.
    """

    text: str
    kind: ExpressionKind
    query: Query
