"""An answer drawn over its picture: masks, boxes, prompts, a legend and the text."""

from __future__ import annotations

from omgbench.overlay.drawing import draw_overlay
from omgbench.overlay.palette import Colour, colour
from omgbench.overlay.regions import Region, regions_of

__all__ = ["Colour", "Region", "colour", "draw_overlay", "regions_of"]
