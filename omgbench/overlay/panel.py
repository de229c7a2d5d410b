"""The panel under or beside the picture: a legend of the regions and the answer, wrapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from omgbench.overlay.palette import ink_on
from omgbench.overlay.regions import Region
from omgbench.printable import printable

MOST_ENTRIES = 100
MOST_TEXT_CHARS = 6000
MOST_LINES = 80
PHRASE_CHARS = 120
GROUND = (255, 255, 255)
INK = (20, 20, 20)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=8)
def font_of(size_px: int) -> Font:
    """PIL's own scalable font. What it has no letter for is shown as a box."""
    return ImageFont.load_default(size=size_px)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A legend entry at its place; a region of None is the remark that more were left out."""

    x: int
    y: int
    text: str
    region: Region | None


def draw_panel(regions: Sequence[Region], text: str, width: int, font_px: int) -> Image.Image | None:
    """Legend and text on white, `width` pixels wide and as tall as they need; None when there is nothing to say."""
    font, margin = font_of(font_px), font_px
    inner = max(width - 2 * margin, font_px)
    entries, legend_height = _flow(regions, inner, font, font_px)
    lines = list(_wrapped(text, inner, font))
    if not entries and not lines:
        return None
    gap = font_px // 2 if entries and lines else 0
    line_height = _line_height(font_px)
    panel = Image.new("RGB", (width, 2 * margin + legend_height + gap + len(lines) * line_height), GROUND)
    draw = ImageDraw.Draw(panel)
    for entry in entries:
        _draw_entry(draw, entry, margin, font, font_px)
    for index, line in enumerate(lines):
        draw.text((margin, margin + legend_height + gap + index * line_height), line, INK, font)
    return panel


def _line_height(font_px: int) -> int:
    return round(1.35 * font_px)


def _swatch_width(number: int, font: Font, font_px: int) -> int:
    return round(font.getlength(str(number)) + 0.6 * font_px)


def _flow(regions: Sequence[Region], width: int, font: Font, font_px: int) -> tuple[list[_Entry], int]:
    """Entries from left to right, line by line, and the height of all."""
    line_height = round(1.6 * font_px)
    entries: list[_Entry] = []
    x = y = 0
    for region in regions[:MOST_ENTRIES]:
        lead = _swatch_width(region.number, font, font_px) + round(0.4 * font_px)
        text = _shortened(printable(region.phrase, PHRASE_CHARS), width - lead, font)
        needed = lead + round(font.getlength(text))
        if x and x + needed > width:
            x, y = 0, y + line_height
        entries.append(_Entry(x, y, text, region))
        x += needed + round(1.2 * font_px)
    if len(regions) > MOST_ENTRIES:
        y += line_height
        entries.append(_Entry(0, y, f"and {len(regions) - MOST_ENTRIES} more", None))
    return entries, y + line_height if entries else 0


def _draw_entry(draw: ImageDraw.ImageDraw, entry: _Entry, margin: int, font: Font, font_px: int) -> None:
    x, y = margin + entry.x, margin + entry.y
    if entry.region is not None:
        x += draw_tag(draw, (x, y), entry.region, font, font_px) + round(0.4 * font_px)
    draw.text((x, y + 0.1 * font_px), entry.text, INK, font)


def draw_tag(draw: ImageDraw.ImageDraw, xy: tuple[int, int], region: Region, font: Font, font_px: int) -> int:
    """A region's number on its colour, the top left corner at `xy`. Returns the width in pixels."""
    width = _swatch_width(region.number, font, font_px)
    box = (xy[0], xy[1], xy[0] + width - 1, xy[1] + tag_height(font_px) - 1)
    draw.rectangle(box, fill=region.colour.rgb)
    middle = (xy[0] + width / 2, xy[1] + tag_height(font_px) / 2)
    draw.text(middle, str(region.number), ink_on(region.colour.rgb), font, anchor="mm")
    return width


def tag_size(region: Region, font: Font, font_px: int) -> tuple[int, int]:
    """(width, height) of `draw_tag` in pixels."""
    return _swatch_width(region.number, font, font_px), tag_height(font_px)


def tag_height(font_px: int) -> int:
    """Height of `draw_tag` in pixels."""
    return round(1.35 * font_px)


def _shortened(text: str, width: int, font: Font) -> str:
    if font.getlength(text) <= width:
        return text
    return text[: _fitting(text, width - font.getlength("..."), font)] + "..."


def _fitting(text: str, width: float, font: Font) -> int:
    """How many characters of `text` fit into `width` pixels; at least 1."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def _wrapped(text: str, width: int, font: Font) -> Iterator[str]:
    """Lines of at most `width` pixels, of the first `MOST_TEXT_CHARS` characters; "..." stands for the rest."""
    shown = text[:MOST_TEXT_CHARS]
    n_lines = 0
    for paragraph in shown.strip().splitlines():
        for line in _wrapped_paragraph(printable(" ".join(paragraph.split()), 4 * MOST_TEXT_CHARS), width, font):
            if n_lines == MOST_LINES:
                yield "..."
                return
            n_lines += 1
            yield line
    if len(text) > MOST_TEXT_CHARS:
        yield "..."


def _wrapped_paragraph(text: str, width: int, font: Font) -> Iterator[str]:
    rest = text
    while font.getlength(rest) > width:
        # No letter is narrower than a pixel; measuring the whole rest again and again would take long.
        fits = _fitting(rest[:width], width, font)
        # Break behind the last blank that fits; a word that is longer than a line breaks anywhere.
        blank = rest.rfind(" ", 0, fits + 1)
        end = blank if blank > 0 else fits
        yield rest[:end]
        rest = rest[end:].lstrip(" ")
    yield rest
