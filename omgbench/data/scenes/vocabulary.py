"""The words of the demo world: shapes, colours, sizes, patterns, grounds, places."""

from __future__ import annotations

from typing import Literal, NamedTuple

ROUND_SHAPES = ("circle", "oval", "ring", "crescent", "heart")
ANGULAR_SHAPES = ("square", "triangle", "star", "cross", "hexagon", "diamond", "arrow")
SHAPES = ROUND_SHAPES + ANGULAR_SHAPES
"""Categories of things; the place in this tuple plus 1 is the category id of demo data sets."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 44, 44),
    "orange": (242, 138, 28),
    "yellow": (248, 216, 48),
    "green": (34, 158, 68),
    "blue": (42, 92, 214),
    "purple": (132, 62, 180),
    "pink": (248, 146, 192),
    "brown": (122, 78, 42),
    "white": (246, 246, 246),
    "black": (36, 36, 42),
}
"""Colour names and their RGB, 0..255."""

Size = Literal["small", "medium", "large"]
SIZES: dict[Size, tuple[int, int]] = {"small": (65, 80), "medium": (105, 125), "large": (170, 200)}
"""Radius of the circle round the thing, in thousandths of the image's shorter side, smallest and largest."""

Pattern = Literal["plain", "striped", "dotted"]
PATTERNS: tuple[Pattern, ...] = ("plain", "striped", "dotted")


class Stuff(NamedTuple):
    """A kind of ground: how one stands on it ("on", "in"), how a caption may call it, its colour and texture."""

    preposition: str
    phrases: tuple[str, ...]
    rgb: tuple[int, int, int]
    texture: str


STUFF: dict[str, Stuff] = {
    "sky": Stuff("in", ("the sky", "the pale blue sky"), (168, 205, 238), "clouds"),
    "grass": Stuff("on", ("the grass", "the green grass"), (134, 176, 104), "blades"),
    "sand": Stuff("on", ("the sand", "the yellow sand"), (226, 206, 160), "grains"),
    "water": Stuff("in", ("the water", "the rippling water"), (106, 158, 196), "waves"),
    "road": Stuff("on", ("the road", "the gray road"), (138, 138, 144), "grains"),
    "snow": Stuff("on", ("the snow", "the white snow"), (226, 233, 240), "clouds"),
    "wall": Stuff("on", ("the wall", "the brick wall"), (204, 184, 170), "bricks"),
    "floor": Stuff("on", ("the floor", "the wooden floor"), (186, 150, 116), "planks"),
    "carpet": Stuff("on", ("the carpet", "the woven carpet"), (158, 116, 128), "weave"),
}
"""Kinds of ground by name."""

THING = "thing"
"""The noun for a thing of any shape."""

Region = Literal["left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right", "middle"]
REGIONS: tuple[Region, ...] = (
    "left",
    "right",
    "top",
    "bottom",
    "top left",
    "top right",
    "bottom left",
    "bottom right",
    "middle",
)

ORDINALS = ("first", "second", "third", "fourth")
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")

LOCATION_WORDS = frozenset(
    (
        *("left", "right", "top", "bottom", "middle", "center", "centre", "upper", "lower", "corner", "side"),
        *("above", "below", "over", "under", "beneath", "leftmost", "rightmost", "topmost"),
        *("first", "second", "third", "fourth", "last", "far", "near"),
    )
)
"""Words that say where in the picture a thing is, or on which side of another; refCOCO+ style uses none of them."""


def plural(shape: str) -> str:
    """ "circles", "crosses"."""
    return shape + ("es" if shape.endswith("s") else "s")


def with_article(words: str) -> str:
    """ "a red circle", "an orange star"."""
    return ("an " if words[0] in "aeiou" else "a ") + words
