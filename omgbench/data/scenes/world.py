"""The values of the demo world: a scene, its things, its grounds, its groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from omgbench.data.scenes.vocabulary import Pattern, Size

MaskArray = npt.NDArray[np.bool_]

MIN_VISIBLE_PERMILLE = 500
"""Of a thing's own area, at least this share is in sight in every scene (not promised for frames of clips)."""

FIRST_STUFF_ID = 101


@dataclass(frozen=True, slots=True)
class SceneStyle:
    """What scenes may look like.

    Attributes:
        sizes_px: the picture sizes (width, height) to draw from; both sides at least 96.
        things: fewest and most things in a scene; 3 <= fewest <= most <= 8.
        patterned_percent: how many of 100 things that are not small are striped or dotted.
    """

    sizes_px: tuple[tuple[int, int], ...] = (
        (256, 192),
        (192, 256),
        (256, 256),
        (320, 240),
        (240, 320),
        (287, 213),
        (221, 301),
        (300, 200),
        (320, 320),
    )
    things: tuple[int, int] = (3, 8)
    patterned_percent: int = 30


@dataclass(frozen=True, slots=True)
class ThingSpec:
    """A thing as it is planned, before anything is drawn. Positions and radius in 1/16 pixel, y downwards.

    Attributes:
        motif: things of one motif (a row, an overlapping pair, a ring and what is in it) move together in clips.
        degrees: turned clockwise by this angle.
        shade: -12 .. 12, added to the colour.
    """

    shape: str
    color: str
    size: Size
    pattern: Pattern
    x_16: int
    y_16: int
    radius_16: int
    degrees: int
    shade: int
    motif: int


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A thing of a scene.

    Attributes:
        id: 1, 2, ... in the scene; the same thing has the same id in all frames of a clip.
        shape, color, size, pattern: words of `omgbench.data.scenes.vocabulary`.
        mask: bool (height, width), the visible part, read-only.
        box_xyxy: tight box of the visible part in pixels, right and bottom exclusive; (0, 0, 0, 0) if none is.
        area_px: visible pixels.
        full_area_px: pixels with nothing in front.
        stuff_permille: (stuff id, share in thousandths of the thing's full area that lies over that ground).
        spec: how it was planned.
        cover: 0 .. 64 per pixel of the patch at `cover_origin_xy`; for the renderer.
    """

    id: int
    shape: str
    color: str
    size: Size
    pattern: Pattern
    mask: MaskArray = field(repr=False, compare=False)
    box_xyxy: tuple[int, int, int, int]
    area_px: int
    full_area_px: int
    stuff_permille: tuple[tuple[int, int], ...]
    spec: ThingSpec = field(repr=False)
    cover: npt.NDArray[np.int64] = field(repr=False, compare=False)
    cover_origin_xy: tuple[int, int] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StuffRegion:
    """A ground of a scene.

    Attributes:
        id: from 101 on.
        name: word of `omgbench.data.scenes.vocabulary.STUFF`.
        mask: bool (height, width), the part that no thing hides, read-only.
        area_px: pixels of the mask.
    """

    id: int
    name: str
    mask: MaskArray = field(repr=False, compare=False)
    area_px: int


@dataclass(frozen=True, slots=True)
class Row:
    """Three or four things of one shape and size, side by side in a line, from left to right."""

    object_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """`front_id` hides `area_px` pixels of `back_id`'s full shape (seen apart from any third thing)."""

    front_id: int
    back_id: int
    area_px: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture of the demo world and all that is known about it.

    Attributes:
        seed: what `make_scene` was given.
        frame: number of the frame in its clip; 0 for a single picture.
        width, height: pixels.
        objects: the things, those behind before those in front; `objects[i].id` is i + 1.
        stuff: the grounds.
        rows: things in a row; at most one row per scene.
        overlaps: which thing hides part of which.
        segment_map: uint8 (height, width), id of the thing or ground seen at each pixel; read-only.
        ground_map: uint8 (height, width), id of the ground at each pixel, as if there were no things; read-only.
    """

    seed: int
    frame: int
    width: int
    height: int
    objects: tuple[SceneObject, ...]
    stuff: tuple[StuffRegion, ...]
    rows: tuple[Row, ...]
    overlaps: tuple[Overlap, ...]
    segment_map: npt.NDArray[np.uint8] = field(repr=False, compare=False)
    ground_map: npt.NDArray[np.uint8] = field(repr=False, compare=False)

    def object(self, object_id: int) -> SceneObject:
        """The thing with this id."""
        if not 1 <= object_id <= len(self.objects):
            raise ValueError(f"no thing {object_id}: the scene has things 1 .. {len(self.objects)}")
        return self.objects[object_id - 1]

    def mask_of(self, ids: Iterable[int]) -> MaskArray:
        """Union of the visible masks of things and grounds, bool (height, width); all False for no ids."""
        return np.isin(self.segment_map, np.array(list(ids), dtype=np.uint8))
