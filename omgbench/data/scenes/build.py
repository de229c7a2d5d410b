"""From a plan to a scene: masks, what hides what, what stands on which ground; single scenes and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from omgbench.data.scenes.compose import plan_things
from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.ground import Ground, draw_ground_map, ground_names, plan_ground
from omgbench.data.scenes.raster import FULL, coverage
from omgbench.data.scenes.shapes import SUBPIXEL, place_outline
from omgbench.data.scenes.world import (
    FIRST_STUFF_ID,
    MIN_VISIBLE_PERMILLE,
    MaskArray,
    Overlap,
    Row,
    Scene,
    SceneObject,
    SceneStyle,
    StuffRegion,
    ThingSpec,
)
from omgbench.errors import UserError

ATTEMPTS = 200
MIN_VISIBLE_PX = 60
MIN_STUFF_PERMILLE = 20
SCENE_KEY, CLIP_KEY = 1, 2


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All that was drawn for a scene."""

    width: int
    height: int
    ground: Ground
    things: tuple[ThingSpec, ...]
    row: tuple[int, ...]


def make_scene(seed: int, style: SceneStyle | None = None) -> Scene:
    """The scene of a seed: the same on every machine.

    Args:
        seed: at least 0; see `EVALUATION_SEEDS` and `TRAINING_SEEDS`.
        style: what scenes may look like; None for the default style.

    Returns:
        A scene in which each thing lies wholly inside the picture, at least half of it in sight
        (`MIN_VISIBLE_PERMILLE`), and each ground fills at least 2 percent of the picture.

    Raises:
        UserError: a seed below 0, or a style that leaves no room for its things.
    """
    return _first_good_scene(seed, style or SceneStyle())[1]


def make_clip(seed: int, n_frames: int, style: SceneStyle | None = None) -> list[Scene]:
    """A short clip: the things of `make_scene(seed)` wander and turn back at the border; grounds stand still.

    A row, an overlapping pair, a ring and its content move as one. Ids stay with the things. A thing may be hidden by
    another for some frames, wholly even: then its mask is empty. Frame 0 equals `make_scene(seed)`.

    Raises:
        UserError: as `make_scene`, or fewer than 1 frame.
    """
    if n_frames < 1:
        raise UserError(f"a clip of {n_frames} frames", expected="at least 1")
    blueprint, first = _first_good_scene(seed, style or SceneStyle())
    draws = Draws(CLIP_KEY, seed)
    steps = {
        motif: (draws.between(-4 * SUBPIXEL, 4 * SUBPIXEL), draws.between(-3 * SUBPIXEL, 3 * SUBPIXEL))
        for motif in sorted({spec.motif for spec in blueprint.things})
    }
    frames = [first]
    for frame in range(1, n_frames):
        things = _moved(blueprint, steps, frame)
        frames.append(build_scene(seed, frame, replace(blueprint, things=things), first.ground_map))
    return frames


def _first_good_scene(seed: int, style: SceneStyle) -> tuple[Blueprint, Scene]:
    if seed < 0:
        raise UserError(f"scene seed {seed}", expected="0 or more")
    fewest, most = style.things
    if not 3 <= fewest <= most <= 8 or any(min(size) < 96 for size in style.sizes_px):
        raise UserError(f"scene style {style}", expected="3 to 8 things, sides of at least 96 pixels")
    for attempt in range(ATTEMPTS):
        draws = Draws(SCENE_KEY, seed, attempt)
        width, height = draws.pick(style.sizes_px)
        ground = plan_ground(draws, width, height)
        plan = plan_things(draws, width, height, style)
        if len(plan.things) < fewest:
            continue
        blueprint = Blueprint(width, height, ground, tuple(plan.things), plan.row)
        scene = build_scene(seed, 0, blueprint, draw_ground_map(ground, width, height))
        if _is_good(scene):
            return blueprint, scene
    raise UserError(f"no scene for seed {seed} in {ATTEMPTS} attempts", hint="ask for fewer things or larger pictures")


def _is_good(scene: Scene) -> bool:
    things = all(
        thing.area_px >= MIN_VISIBLE_PX and thing.area_px * 1000 >= thing.full_area_px * MIN_VISIBLE_PERMILLE
        for thing in scene.objects
    )
    pixels = scene.width * scene.height
    return things and all(region.area_px * 1000 >= pixels * MIN_STUFF_PERMILLE for region in scene.stuff)


def _moved(blueprint: Blueprint, steps: dict[int, tuple[int, int]], frame: int) -> tuple[ThingSpec, ...]:
    shifts: dict[int, tuple[int, int]] = {}
    for motif, (step_x, step_y) in steps.items():
        members = [spec for spec in blueprint.things if spec.motif == motif]
        shifts[motif] = (
            _bounce([(s.x_16, s.radius_16) for s in members], blueprint.width * SUBPIXEL, step_x * frame),
            _bounce([(s.y_16, s.radius_16) for s in members], blueprint.height * SUBPIXEL, step_y * frame),
        )
    return tuple(
        replace(s, x_16=s.x_16 + shifts[s.motif][0], y_16=s.y_16 + shifts[s.motif][1]) for s in blueprint.things
    )


def _bounce(places: Sequence[tuple[int, int]], length: int, shift: int) -> int:
    """The shift as it becomes when the motif turns back at both borders (a triangle wave)."""
    low = min(centre - radius for centre, radius in places)
    high = max(centre + radius for centre, radius in places)
    room = length - (high - low)
    if room <= 0:
        return 0
    wave = (low + shift) % (2 * room)
    return min(wave, 2 * room - wave) - low


@dataclass(frozen=True, slots=True)
class _Drawn:
    cover: npt.NDArray[np.int64]
    full: MaskArray
    x: int
    y: int

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.full.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def _draw(spec: ThingSpec, width: int, height: int) -> _Drawn:
    reach = spec.radius_16 + SUBPIXEL
    left, top = max(0, (spec.x_16 - reach) // SUBPIXEL), max(0, (spec.y_16 - reach) // SUBPIXEL)
    right = min(width, (spec.x_16 + reach) // SUBPIXEL + 1)
    bottom = min(height, (spec.y_16 + reach) // SUBPIXEL + 1)
    x_16, y_16 = spec.x_16 - left * SUBPIXEL, spec.y_16 - top * SUBPIXEL
    polygons = place_outline(spec.shape, spec.degrees, spec.radius_16, x_16, y_16)
    cover = coverage(polygons, bottom - top, right - left)
    return _Drawn(cover, cover * 2 >= FULL, left, top)


def build_scene(seed: int, frame: int, blueprint: Blueprint, ground_map: npt.NDArray[np.uint8]) -> Scene:
    """Draw a blueprint: masks and all facts about them, taken from the pixels.

    Args:
        seed, frame: put down in the scene; nothing is drawn from them.
        blueprint: things behind before things in front; every thing's circle must lie inside the picture.
        ground_map: uint8 (height, width) as `draw_ground_map` gives it; made read-only.
    """
    width, height = blueprint.width, blueprint.height
    drawn = [_draw(spec, width, height) for spec in blueprint.things]
    segment_map = ground_map.copy()
    for index, item in enumerate(drawn):
        segment_map[item.window][item.full] = index + 1
    for array in (segment_map, ground_map):
        array.flags.writeable = False
    objects = tuple(
        _scene_object(index + 1, spec, item, segment_map, ground_map)
        for index, (spec, item) in enumerate(zip(blueprint.things, drawn, strict=True))
    )
    stuff = tuple(
        _stuff_region(FIRST_STUFF_ID + index, name, segment_map)
        for index, name in enumerate(ground_names(blueprint.ground))
    )
    rows = (Row(tuple(place + 1 for place in blueprint.row)),) if blueprint.row else ()
    return Scene(seed, frame, width, height, objects, stuff, rows, _overlaps(drawn), segment_map, ground_map)


def _stuff_region(stuff_id: int, name: str, segment_map: npt.NDArray[np.uint8]) -> StuffRegion:
    mask = segment_map == stuff_id
    mask.flags.writeable = False
    return StuffRegion(stuff_id, name, mask, int(np.count_nonzero(mask)))


def _scene_object(
    object_id: int,
    spec: ThingSpec,
    item: _Drawn,
    segment_map: npt.NDArray[np.uint8],
    ground_map: npt.NDArray[np.uint8],
) -> SceneObject:
    visible = segment_map[item.window] == object_id
    mask = np.zeros(segment_map.shape, dtype=np.bool_)
    mask[item.window] = visible
    mask.flags.writeable = False
    full_area = int(np.count_nonzero(item.full))
    counts = np.bincount(ground_map[item.window][item.full])
    shares = tuple((int(k), int(counts[k]) * 1000 // full_area) for k in np.flatnonzero(counts))
    return SceneObject(
        id=object_id,
        shape=spec.shape,
        color=spec.color,
        size=spec.size,
        pattern=spec.pattern,
        mask=mask,
        box_xyxy=_tight_box(visible, item.x, item.y),
        area_px=int(np.count_nonzero(visible)),
        full_area_px=full_area,
        stuff_permille=shares,
        spec=spec,
        cover=item.cover,
        cover_origin_xy=(item.x, item.y),
    )


def _tight_box(visible: MaskArray, x: int, y: int) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
    if not len(columns):
        return (0, 0, 0, 0)
    return (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)


def _overlaps(drawn: Sequence[_Drawn]) -> tuple[Overlap, ...]:
    found = []
    for back, a in enumerate(drawn):
        for front in range(back + 1, len(drawn)):
            b = drawn[front]
            x1, y1 = max(a.x, b.x), max(a.y, b.y)
            x2 = min(a.x + a.full.shape[1], b.x + b.full.shape[1])
            y2 = min(a.y + a.full.shape[0], b.y + b.full.shape[0])
            if x1 >= x2 or y1 >= y2:
                continue
            both = a.full[y1 - a.y : y2 - a.y, x1 - a.x : x2 - a.x] & b.full[y1 - b.y : y2 - b.y, x1 - b.x : x2 - b.x]
            area = int(np.count_nonzero(both))
            if area:
                found.append(Overlap(front + 1, back + 1, area))
    return tuple(found)
