"""Meanings put into words: short phrases and whole noun phrases."""

from __future__ import annotations

from typing import Literal

from omgbench.data.scenes.draws import Draws
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
    SideRank,
    SizeRank,
)
from omgbench.data.scenes.vocabulary import COUNTS, ORDINALS, STUFF, THING

ExpressionStyle = Literal["short", "no_location", "long"]
"""Sentences as in refCOCO, as in refCOCO+ (no word of place) and as in refCOCOg (long)."""


def noun_words(noun: Noun) -> str:
    """ "small striped red circle", "blue thing"."""
    pattern = None if noun.pattern == "plain" else noun.pattern
    return " ".join(word for word in (noun.size, pattern, noun.color, noun.shape or THING) if word)


def say(query: Query, style: ExpressionStyle, draws: Draws) -> str:
    """The query in words, lower case, no punctuation; `draws` picks among wordings of equal meaning."""
    return _say_long(query, draws) if style == "long" else _say_short(query, draws)


def _prefix(modifier: Modifier, draws: Draws) -> str:
    match modifier:
        case SizeRank(order="largest"):
            return draws.pick(("largest ", "biggest "))
        case SizeRank():
            return "smallest "
        case SideRank(rank=1):
            return f"{modifier.side}most "
        case SideRank():
            return f"{ORDINALS[modifier.rank - 1]} "
        case _:
            return ""


def _say_short(query: Query, draws: Draws) -> str:
    prefix, words, suffix = "", noun_words(query.noun), ""
    for modifier in query.modifiers:
        prefix += _prefix(modifier, draws)
        if isinstance(modifier, InRegion):
            place = draws.below(3)
            if place == 0:
                prefix += f"{modifier.region} "
            elif place == 1 and modifier.region != "middle":
                suffix += f" {modifier.region}"
            else:
                suffix += f" {_preposition(modifier.region)} {modifier.region}"
        else:
            suffix += _clause(modifier, "")
    return prefix + words + suffix


def _preposition(region: str) -> str:
    return "in" if region == "middle" or " " in region else "on" if region in ("left", "right") else "at"


def _clause(modifier: Modifier, article: str) -> str:
    """What follows the noun, with a space before it; `article` is "the " or ""."""
    match modifier:
        case Related():
            return f" {modifier.relation} {article}{noun_words(modifier.anchor)}"
        case Between():
            return f" between {article}{noun_words(modifier.first)} and {article}{noun_words(modifier.second)}"
        case InRow():
            return f" in {article}row of {COUNTS[modifier.count]}"
        case OnStuff():
            return f" {STUFF[modifier.stuff].preposition} {article}{modifier.stuff}"
        case SideRank() if modifier.rank > 1:
            return f" from {article}{modifier.side}"
        case Closest():
            return f" closest to {article}{noun_words(modifier.anchor)}"
        case _:
            return ""


def _region_clause(region: str, draws: Draws) -> str:
    if region == "middle":
        return " in the middle of the image"
    if " " in region:
        return draws.pick((f" in the {region} of the image", f" in the {region} corner of the image"))
    if region in ("left", "right"):
        return draws.pick((f" on the {region} side of the image", f" on the {region} of the image"))
    return draws.pick((f" at the {region} of the image", f" in the {region} part of the image"))


def _say_long(query: Query, draws: Draws) -> str:
    head = "the " + "".join(_prefix(modifier, draws) for modifier in query.modifiers) + noun_words(query.noun)
    clauses = []
    for modifier in query.modifiers:
        if isinstance(modifier, InRegion):
            clauses.append(_region_clause(modifier.region, draws))
            continue
        clause = _clause(modifier, "the ")
        if isinstance(modifier, SideRank):
            head += clause
        elif isinstance(modifier, Related) and modifier.relation in ("left of", "right of"):
            clauses.append(f" to the{clause}")
        elif clause:
            clauses.append(clause)
    if not clauses:
        return head + draws.pick((" in the image", " in the picture"))
    return head + draws.pick((" that is", " which is", "")) + " and".join(clauses)
