"""Scenes as pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.raster import FULL
from omgbench.data.scenes.textures import LIGHT_ROOM, TILE_PX, add_light, texture_tile
from omgbench.data.scenes.vocabulary import COLORS
from omgbench.data.scenes.world import Scene, SceneObject

RENDER_KEY = 3
SHADOW_OFFSET_PX = 3
COVER_BITS = FULL.bit_length() - 1
LIGHT_ACCENT_UNDER = 560
"""Patterns are white on colours whose R + G + B is under this, dark on lighter ones."""

Patch = npt.NDArray[np.int16]
"""A colour times a coverage (255 x 64), even times twice the full coverage, still fits."""


def render(scene: Scene) -> npt.NDArray[np.uint8]:
    """The scene as RGB, uint8 (height, width, 3). Edges are anti-aliased; a mask holds the pixels covered by half.

    Integer arithmetic throughout, so the bytes are the same on every machine.
    """
    draws = Draws(RENDER_KEY, scene.seed)
    packed = np.empty((scene.height, scene.width), dtype="<u4")
    for region in scene.stuff:
        x, y = draws.below(TILE_PX), draws.below(TILE_PX)
        tile = texture_tile(region.name)[y : y + scene.height, x : x + scene.width]
        lit = add_light(tile, draws.between(-LIGHT_ROOM, LIGHT_ROOM))
        np.copyto(packed, lit, where=scene.ground_map == region.id)
    # One word per pixel is filled much faster than three bytes; the fourth byte is dropped here.
    picture = np.ascontiguousarray(packed.view(np.uint8).reshape(scene.height, scene.width, 4)[:, :, :3])
    for thing in scene.objects:
        _cast_shadow(picture, thing)
        _paint(picture, thing)
    return picture


def _cast_shadow(picture: npt.NDArray[np.uint8], thing: SceneObject) -> None:
    x, y = (origin + SHADOW_OFFSET_PX for origin in thing.cover_origin_xy)
    window = picture[y : y + thing.cover.shape[0], x : x + thing.cover.shape[1]]
    if not window.size:
        return
    cover = thing.cover[: window.shape[0], : window.shape[1], None].astype(np.uint16)
    # A fully shaded pixel keeps three quarters of its light: (256 - 64) / 256.
    window[:] = (window * (256 - cover)) >> 8


def _paint(picture: npt.NDArray[np.uint8], thing: SceneObject) -> None:
    x, y = thing.cover_origin_xy
    window = picture[y : y + thing.cover.shape[0], x : x + thing.cover.shape[1]]
    cover = thing.cover.astype(np.int16)
    color = _fill(thing, cover)
    window[:] = (window * (FULL - cover)[:, :, None] + color * cover[:, :, None]) >> COVER_BITS


def _fill(thing: SceneObject, cover: Patch) -> Patch:
    """RGB int16 (h, w, 3) of the thing's own surface: pattern, light from above, dark edge."""
    base = np.array(COLORS[thing.color], dtype=np.int16) + thing.spec.shade
    height, width = cover.shape
    surface = np.broadcast_to(base, (height, width, 3))
    if thing.pattern != "plain":
        accent = (base + 2 * 255) // 3 if int(base.sum()) < LIGHT_ACCENT_UNDER else base * 55 // 100
        surface = np.where(_pattern(thing, height, width)[:, :, None], accent, base)
    slope = (12 - 24 * np.arange(height, dtype=np.int16) // height)[:, None, None]
    lit = np.clip(surface + slope, 0, 255)
    inner = np.zeros_like(cover)
    inner[1:-1, 1:-1] = np.minimum(
        np.minimum(cover[:-2, 1:-1], cover[2:, 1:-1]), np.minimum(cover[1:-1, :-2], cover[1:-1, 2:])
    )
    edge = (FULL - inner)[:, :, None]
    shaded: Patch = (lit * (2 * FULL - edge)) >> (COVER_BITS + 1)
    return shaded


def _pattern(thing: SceneObject, height: int, width: int) -> npt.NDArray[np.bool_]:
    """True where the accent colour is; period and dots grow with the thing."""
    period = max(6, thing.spec.radius_16 // 16 * 36 // 100)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    if thing.pattern == "striped":
        return (rows + columns) % period * 2 < period
    half = period // 2
    shifted = columns + (rows // period % 2) * half
    dx, dy = shifted % period - half, rows % period - half
    dots: npt.NDArray[np.bool_] = dx * dx + dy * dy <= max(2, (period * 30 // 100) ** 2)
    return dots
