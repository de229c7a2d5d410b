"""Puts the parts of an overlay together: picture, masks, boxes, prompts, panel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from omgbench.contract import (
    BoxPrompt,
    BoxXyxy,
    Category,
    MaskPrompt,
    PointPrompt,
    Response,
    Rle,
    ScribblePrompt,
    VisualPrompt,
)
from omgbench.errors import DataError
from omgbench.metrics.rle import check_rle
from omgbench.overlay.painting import Pixels, Scale, paint_dashed_outline, paint_masks
from omgbench.overlay.palette import Rgb
from omgbench.overlay.panel import draw_panel, draw_tag, font_of, tag_size
from omgbench.overlay.regions import Region, regions_of

SMALL_SIDE_PX = 384
"""Pictures whose longer side is at most half of it are enlarged by a whole factor."""
LARGE_SIDE_PX = 6000
"""Pictures with a longer side are reduced to a half, a third, ..."""
SMALL_FONT_PX = 14
TALL = 2.5
"""Beside pictures that are so many times as high as wide the panel stands at the right."""

_BACKGROUND = (255, 255, 255)
_WHITE: Rgb = (255, 255, 255)
_BLACK: Rgb = (0, 0, 0)


def draw_overlay(
    image: Image.Image, response: Response, prompts: Sequence[VisualPrompt] = (), *, vocabulary: Sequence[Category] = ()
) -> Image.Image:
    """The picture with the answer drawn over it, RGB.

    Args:
        image: the picture that was asked about; any mode that PIL converts to RGB.
        response: masks of the picture's own size. Every region (`regions_of`) has a number and a colour: masks are
            filled translucently and outlined, boxes drawn, both tagged with the number.
        prompts: what was pointed at, in black and white: a positive point is an upright cross, a negative one a
            diagonal cross, a box and the outline of a mask are dashed, a scribble is a line.
        vocabulary: names of panoptic categories.

    The panel names the regions and shows `response.text`, or the error of an answer that failed. Small pictures are
    enlarged and huge ones reduced by a whole factor. Boxes are cut off at the border. The same arguments give the same
    pixels.

    Raises:
        omgbench.errors.DataError: a mask that is malformed or of another size.
    """
    regions = regions_of(response, vocabulary)
    _check_masks(image.size, regions, prompts)
    scale = _scale(image.size)
    pixels = _shown(image, scale)
    height, width = pixels.shape[:2]
    font_px = max(SMALL_FONT_PX, round(math.sqrt(width * height) / 45))
    thickness_px = 1 + max(width, height) // 600
    masked = [region for region in regions if region.rle is not None]
    painted = [(region.rle, region.colour.rgb) for region in regions if region.rle is not None]
    middles = paint_masks(pixels, painted, scale, thickness_px)
    for prompt in prompts:
        if isinstance(prompt, MaskPrompt):
            paint_dashed_outline(pixels, prompt.rle, scale, thickness_px + 1)
    shown = Image.fromarray(pixels)
    pen = _Pen(shown, scale, thickness_px, font_px)
    for region, middle in zip(masked, middles, strict=True):
        if middle is not None:
            pen.tag(region, middle)
    for region in regions:
        pen.box_of(region)
    for prompt in prompts:
        pen.prompt(prompt)
    text = response.text or (f"{response.status}: {response.error}" if response.error else "")
    return _with_panel(shown, regions, text, font_px)


def _check_masks(size: tuple[int, int], regions: Sequence[Region], prompts: Sequence[VisualPrompt]) -> None:
    rles: list[Rle] = [region.rle for region in regions if region.rle is not None]
    rles += [prompt.rle for prompt in prompts if isinstance(prompt, MaskPrompt)]
    for rle in rles:
        reason = check_rle(rle, (size[1], size[0]))
        if reason is not None:
            raise DataError(f"a mask cannot be drawn: {reason}", expected="masks of the picture's own size")


def _scale(size: tuple[int, int]) -> Scale:
    longer = max(size)
    return Scale(up=max(1, SMALL_SIDE_PX // longer), down=-(-longer // LARGE_SIDE_PX))


def _shown(image: Image.Image, scale: Scale) -> Pixels:
    """The picture's pixels on the canvas, a copy."""
    rgb = image.convert("RGB")
    pixels = np.array(rgb if scale.down == 1 else rgb.reduce(scale.down))
    return pixels.repeat(scale.up, axis=0).repeat(scale.up, axis=1) if scale.up > 1 else pixels


def _with_panel(shown: Image.Image, regions: Sequence[Region], text: str, font_px: int) -> Image.Image:
    """The panel under the picture, or at the right of a tall one."""
    least = 26 * font_px
    is_tall = shown.height > TALL * shown.width
    panel = draw_panel(regions, text, least if is_tall else max(shown.width, least), font_px)
    if panel is None:
        return shown
    at = (shown.width, 0) if is_tall else (0, shown.height)
    right, bottom = at[0] + panel.width, at[1] + panel.height
    whole = Image.new("RGB", (max(shown.width, right), max(shown.height, bottom)), _BACKGROUND)
    whole.paste(shown, (0, 0))
    whole.paste(panel, at)
    return whole


class _Pen:
    """Draws lines and numbers on the canvas; takes coordinates of the picture."""

    def __init__(self, shown: Image.Image, scale: Scale, thickness_px: int, font_px: int) -> None:
        self._draw = ImageDraw.Draw(shown)
        self._size = shown.size
        self._scale = scale
        self._thickness_px = thickness_px
        self._font_px = max(11, round(0.85 * font_px))

    def tag(self, region: Region, middle_xy: tuple[int, int]) -> None:
        """The region's number round a point of the canvas, moved inside; left out where it would not fit."""
        font = font_of(self._font_px)
        width, height = tag_size(region, font, self._font_px)
        if width > self._size[0] or height > self._size[1]:
            return
        x = min(max(middle_xy[0] - width // 2, 0), self._size[0] - width)
        y = min(max(middle_xy[1] - height // 2, 0), self._size[1] - height)
        draw_tag(self._draw, (x, y), region, font, self._font_px)

    def box_of(self, region: Region) -> None:
        """The region's box; with its number at the top left corner where there is no mask to carry it."""
        corners = self._corners(region.box_xyxy) if region.box_xyxy is not None else None
        if corners is None:
            return
        self._draw.rectangle(corners, outline=region.colour.rgb, width=2 * self._thickness_px)
        if region.rle is None:
            width, height = tag_size(region, font_of(self._font_px), self._font_px)
            self.tag(region, (corners[0] + width // 2, corners[1] + height // 2))

    def _corners(self, xyxy: BoxXyxy) -> tuple[int, int, int, int] | None:
        """The first and last pixels of a box that lie on the canvas; None where none do."""
        if not all(map(math.isfinite, xyxy)):
            return None
        width, height = self._size
        left, right = (round(min(max(self._scale.place(x), 0.0), width)) for x in xyxy[0::2])
        top, bottom = (round(min(max(self._scale.place(y), 0.0), height)) for y in xyxy[1::2])
        if xyxy[2] < xyxy[0] or xyxy[3] < xyxy[1] or left >= width or top >= height or right <= 0 or bottom <= 0:
            return None
        return left, top, max(right - 1, left), max(bottom - 1, top)

    def prompt(self, prompt: VisualPrompt) -> None:
        """What the user pointed at; masks are painted elsewhere."""
        match prompt:
            case PointPrompt():
                self._cross(prompt)
            case BoxPrompt():
                self._dashed_box(prompt.xyxy)
            case ScribblePrompt():
                self._strokes([[self._at(x, y) for x, y in prompt.points_xy]])

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self._scale.place(x), self._scale.place(y)

    def _cross(self, prompt: PointPrompt) -> None:
        (x, y), arm = self._at(*prompt.xy), 6 + 4 * self._thickness_px
        if prompt.positive:
            self._strokes([[(x - arm, y), (x + arm, y)], [(x, y - arm), (x, y + arm)]])
        else:
            arm = round(0.75 * arm)
            self._strokes([[(x - arm, y - arm), (x + arm, y + arm)], [(x - arm, y + arm), (x + arm, y - arm)]])

    def _strokes(self, lines: Sequence[Sequence[tuple[float, float]]]) -> None:
        """White lines with a black border, so that they show on any ground."""
        for ink, width in ((_BLACK, 3 * self._thickness_px + 2), (_WHITE, self._thickness_px + 1)):
            for line in lines:
                self._draw.line(line, fill=ink, width=width, joint="curve")

    def _dashed_box(self, xyxy: BoxXyxy) -> None:
        corners = self._corners(xyxy)
        if corners is None:
            return
        left, top, right, bottom = corners
        width = self._thickness_px + 1
        self._draw.rectangle(corners, outline=_BLACK, width=width)
        dash = 6 * self._thickness_px
        for x in range(left, right + 1, 2 * dash):
            end = min(x + dash, right + 1) - 1
            self._draw.rectangle((x, top, end, min(top + width - 1, bottom)), fill=_WHITE)
            self._draw.rectangle((x, max(bottom - width + 1, top), end, bottom), fill=_WHITE)
        for y in range(top, bottom + 1, 2 * dash):
            end = min(y + dash, bottom + 1) - 1
            self._draw.rectangle((left, y, min(left + width - 1, right), end), fill=_WHITE)
            self._draw.rectangle((max(right - width + 1, left), y, right, end), fill=_WHITE)
