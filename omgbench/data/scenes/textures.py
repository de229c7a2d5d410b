"""Tiles of ground texture: how much lighter or darker than its ground's colour each pixel is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.shapes import COSINES, UNIT
from omgbench.data.scenes.vocabulary import STUFF

TILE_PX = 384
LIGHT_ROOM = 10
Field = npt.NDArray[np.int64]


def _blurred(field: Field, height: int, width: int) -> Field:
    """Mean over a window that wraps round, as integers."""
    for axis, reach in ((0, height), (1, width)):
        total = np.zeros_like(field)
        for shift in range(reach):
            total += np.roll(field, shift, axis=axis)
        field = total // reach
    return field


def _noise(draws: Draws, cell_px: int, swing: int) -> Field:
    """Smooth noise with cells of `cell_px` pixels, about -swing .. swing."""
    cells = -(-TILE_PX // cell_px)
    coarse = draws.noise_bytes(cells, cells).astype(np.int64) - 128
    field = np.repeat(np.repeat(coarse, cell_px, axis=0), cell_px, axis=1)[:TILE_PX, :TILE_PX]
    smooth = field if cell_px == 1 else _blurred(_blurred(field, cell_px, cell_px), cell_px, cell_px)
    return smooth * swing // 128


def _grid() -> tuple[Field, Field]:
    """Row and column numbers, each (TILE_PX, TILE_PX)."""
    numbers = np.arange(TILE_PX, dtype=np.int64)
    return np.repeat(numbers[:, None], TILE_PX, axis=1), np.repeat(numbers[None, :], TILE_PX, axis=0)


def _clouds(draws: Draws) -> Field:
    return _noise(draws, 32, 26) + _noise(draws, 12, 10) + _noise(draws, 1, 3)


def _blades(draws: Draws) -> Field:
    fine = draws.noise_bytes(TILE_PX, TILE_PX).astype(np.int64) - 128
    return _blurred(fine, 5, 1) * 30 // 100 + _noise(draws, 24, 18)


def _grains(draws: Draws) -> Field:
    return _noise(draws, 1, 12) + _noise(draws, 3, 9) + _noise(draws, 40, 14)


def _waves(draws: Draws) -> Field:
    sway = _noise(draws, 24, 160)
    rows = np.arange(TILE_PX, dtype=np.int64)[:, None]
    ripples: Field = np.array(COSINES, dtype=np.int64)[(rows * 30 + sway) % 360]
    return ripples * 11 // UNIT + _noise(draws, 1, 4) + _noise(draws, 32, 12)


def _bricks(draws: Draws) -> Field:
    rows, columns = _grid()
    course = rows // 16
    mortar = (rows % 16 < 2) | ((columns + (course % 2) * 16) % 32 < 2)
    brick = ((columns + (course % 2) * 16) // 32) * 7 + course * 13
    return np.where(mortar, 20, -(brick * brick % 11)) + _noise(draws, 1, 6)


def _planks(draws: Draws) -> Field:
    rows, columns = _grid()
    board = rows // 24
    seam = (rows % 24 < 1) | ((columns + board * 53) % 128 < 1)
    fine = draws.noise_bytes(TILE_PX, TILE_PX).astype(np.int64) - 128
    return np.where(seam, -34, board * 29 % 17 - 8) + _blurred(fine, 1, 17) * 40 // 100


def _weave(draws: Draws) -> Field:
    rows, columns = _grid()
    return ((rows // 4 + columns // 4) % 2) * 14 - 7 + _noise(draws, 1, 6) + _noise(draws, 32, 8)


MAKERS = {
    "clouds": _clouds,
    "blades": _blades,
    "grains": _grains,
    "waves": _waves,
    "bricks": _bricks,
    "planks": _planks,
    "weave": _weave,
}


@lru_cache(maxsize=32)
def texture_tile(stuff: str) -> npt.NDArray[np.uint32]:
    """The ground's colour with its texture, (768, 768): the tile of 384 pixels repeated twice each way.

    A pixel is R + 256 G + 65536 B. All three stay LIGHT_ROOM away from 0 and 255, so `add_light` needs no carry.
    """
    kind = STUFF[stuff]
    field = np.clip(MAKERS[kind.texture](Draws(0, list(STUFF).index(stuff))), -60, 60)
    rgb = np.clip(np.array(kind.rgb, dtype=np.int64) + field[:, :, None], LIGHT_ROOM, 255 - LIGHT_ROOM)
    packed = rgb[:, :, 0] + 256 * rgb[:, :, 1] + 65536 * rgb[:, :, 2]
    tile = np.tile(packed.astype(np.uint32), (2, 2))
    tile.flags.writeable = False
    return tile


def add_light(packed: npt.NDArray[np.uint32], light: int) -> npt.NDArray[np.uint32]:
    """Pixels of a tile made lighter or darker, all three colours by `light`, -LIGHT_ROOM .. LIGHT_ROOM."""
    step = np.uint32(abs(light) * 0x010101)
    return packed + step if light >= 0 else packed - step
