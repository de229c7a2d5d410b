"""A model without weights that looks but does not read: its answer is the largest thing of one colour in the picture.

Everything is integer arithmetic, so one picture gives one mask on every machine with the same Pillow and scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from omgbench import __version__
from omgbench.contract import (
    Box,
    Capabilities,
    Frame,
    Intent,
    Mask,
    ModelIdentity,
    PerRequestModel,
    Request,
    Response,
    Rle,
    Span,
)
from omgbench.testing.models import blank_answer, weightless_capabilities
from omgbench.testing.shapes import rectangle_rle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    ColorMap = NDArray[np.intp]
    """Number of the colour, or of the region, at each pixel; (height, width)."""

WORKING_SIDE_PX = 320
"""Larger pictures are looked at in blocks of whole pixels, so that neither side has more blocks than this."""
MEDIAN_PX = 3
PALETTE_COLORS = 32
SAME_COLOR = 24
"""Colours of the palette that differ by no more than this in R, G and B are one colour: a texture's tones."""
KEPT_MASKS = 256
PHRASE = "an object"


class LargestObjectModel(PerRequestModel):
    """Answers with the largest object in sight, whatever the words say, wherever one thing is asked for; else nothing.

    The floor of a model that finds objects and understands nothing: see `largest_object_rle`. Descriptions are
    "an object", grounded in that mask.
    """

    name = "largest_object"

    def __init__(self) -> None:
        self._masks: dict[str, Rle] = {}

    def capabilities(self) -> Capabilities:
        """Every intent; it looks at the pictures."""
        return replace(weightless_capabilities(), reads_images=True, native_batch=False)

    def identity(self) -> ModelIdentity:
        """The name, omgbench's version and those of the libraries that find the object."""
        libraries = {name: version(name) for name in ("numpy", "pillow", "scipy")}
        return ModelIdentity(self.name, __version__, "none", libraries=libraries)

    def close(self) -> None:
        """Forget the masks of the pictures seen."""
        self._masks.clear()

    def answer(self, request: Request) -> Response:
        """The object of the first frame; on a clip that of every frame, as one track."""
        match request.intent:
            case Intent.REFER_SEGMENT | Intent.INTERACTIVE:
                return Response(request.id, text="", masks=self._found(request))
            case Intent.REFER_BOX:
                return Response(request.id, text="", boxes=_boxes(self._found(request)))
            case Intent.GROUNDED_CAPTION:
                masks = self._found(request)
                span = Span(PHRASE, 0, len(PHRASE), masks=tuple(range(len(masks))))
                return Response(request.id, text=PHRASE, masks=masks, spans=(span,))
            case _:
                return blank_answer(request)

    def _found(self, request: Request) -> tuple[Mask, ...]:
        if not request.is_clip:
            return tuple(Mask(self._rle(frame)) for frame in request.frames[:1])
        return tuple(Mask(self._rle(frame), frame=index, track=1) for index, frame in enumerate(request.frames))

    def _rle(self, frame: Frame) -> Rle:
        if frame.key not in self._masks:
            if len(self._masks) == KEPT_MASKS:
                self._masks.clear()
            self._masks[frame.key] = largest_object_rle(frame.image)
        return self._masks[frame.key]


def largest_object_rle(image: Image) -> Rle:
    """The largest connected region of one colour that stays clear of the border and covers at most half the picture.

    Texture is smoothed by a median filter and a small palette. Where there is no such region, the middle box of half
    the width and half the height. Never empty.

    Args:
        image: PIL image of mode RGB, of any size.
    """
    from omgbench.metrics.rle import mask_to_rle

    width, height = image.size
    block_px = -(-max(width, height) // WORKING_SIDE_PX)
    region = _largest_inside(_regions(_colors(image, block_px)), width * height // (2 * block_px**2))
    if region is None:
        return rectangle_rle((width // 4, height // 4, width - width // 4, height - height // 4), (height, width))
    mask = region.repeat(block_px, axis=0).repeat(block_px, axis=1)
    return mask_to_rle(mask[:height, :width])


def _colors(image: Image, block_px: int) -> ColorMap:
    """Number of the colour that each block of the picture shows, texture smoothed away."""
    import numpy as np
    from PIL import ImageFilter
    from PIL.Image import Quantize
    from scipy.sparse.csgraph import connected_components

    smooth = image.reduce(block_px).filter(ImageFilter.MedianFilter(MEDIAN_PX))
    quantized = smooth.quantize(PALETTE_COLORS, Quantize.MEDIANCUT)
    palette = np.array(quantized.getpalette(), dtype=np.int64).reshape(-1, 3)
    differences = np.abs(palette[:, None] - palette[None, :]).max(axis=2)
    _, color_of_entry = connected_components(differences <= SAME_COLOR, directed=False)
    colors: ColorMap = color_of_entry.astype(np.intp)[np.asarray(quantized)]
    return colors


def _regions(colors: ColorMap) -> ColorMap:
    """Number, from 0 on, of the region that each pixel belongs to: pixels of one colour, joined at their sides."""
    import numpy as np
    from scipy import ndimage

    regions = np.zeros_like(colors)
    n_regions = 0
    for color in np.unique(colors):
        labels, n_labels = ndimage.label(colors == color)
        regions[labels > 0] = labels[labels > 0] + (n_regions - 1)
        n_regions += n_labels
    return regions


def _largest_inside(regions: ColorMap, most_px: int) -> NDArray[np.bool_] | None:
    """The largest region of at most `most_px` pixels that has none on the border, None without one."""
    import numpy as np

    areas = np.bincount(regions.ravel())
    areas[areas > most_px] = 0
    for side in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        areas[side] = 0
    return regions == areas.argmax() if areas.any() else None


def _boxes(masks: Sequence[Mask]) -> tuple[Box, ...]:
    from omgbench.metrics.rle import tight_box_xyxy

    boxes = ((tight_box_xyxy(mask.rle), mask.frame) for mask in masks)
    return tuple(Box(xyxy, frame=frame) for xyxy, frame in boxes if xyxy is not None)
