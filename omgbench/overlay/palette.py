"""Colours that people of every colour vision tell apart, in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour with the word for it."""

    name: str
    rgb: Rgb


# The hues of Okabe and Ito, "Color Universal Design", 2008, without black; neighbours here differ most.
_HUES = (
    Colour("blue", (0, 114, 178)),
    Colour("orange", (230, 159, 0)),
    Colour("green", (0, 158, 115)),
    Colour("pink", (204, 121, 167)),
    Colour("sky blue", (86, 180, 233)),
    Colour("red", (213, 94, 0)),
    Colour("yellow", (240, 228, 66)),
)
_SHADES = (("", 0, 0.0), ("light ", 255, 0.55), ("dark ", 0, 0.45))

N_COLOURS = len(_HUES) * len(_SHADES)
"""How many differ; then they come again, and the numbers on the picture tell regions apart."""


def colour(index: int) -> Colour:
    """The colour of the region at `index`, from 0: plain hues first, then light, then dark ones."""
    prefix, towards, share = _SHADES[index // len(_HUES) % len(_SHADES)]
    hue = _HUES[index % len(_HUES)]
    red, green, blue = (round(value + share * (towards - value)) for value in hue.rgb)
    return Colour(prefix + hue.name, (red, green, blue))


def ink_on(rgb: Rgb) -> Rgb:
    """Black or white, whichever reads better on a colour (luma of Rec. 601)."""
    red, green, blue = rgb
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
