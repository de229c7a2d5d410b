"""Made pictures: small PNGs of every kind that real data sets contain, in memory."""

from __future__ import annotations

import hashlib
import io
import random
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from omgbench.contract import Frame

PixelMode = Literal["RGB", "L", "RGBA", "LA", "P", "I;16", "1"]
"""PIL's names: colour, grey, both with transparency, palette, 16-bit grey, black and white."""

ODD_FRAMES: tuple[tuple[int, int, PixelMode], ...] = (
    (640, 480, "RGB"),
    (1, 1, "RGB"),
    (3, 500, "RGB"),
    (64, 48, "L"),
    (64, 48, "RGBA"),
    (64, 48, "I;16"),
    (64, 48, "P"),
)
"""(width, height, mode) of the pictures that an adapter must survive."""


def tiny_frame(width: int, height: int, key: str, mode: PixelMode = "RGB", seed: int = 0) -> Frame:
    """A picture of three coloured rectangles on a plain ground, as PNG bytes in memory.

    Args:
        width, height: pixels, at least 1.
        key: the frame's key; with `seed` it decides the picture.
        mode: how the PNG stores its pixels.
        seed: another picture for the same key.
    """
    return Frame(key, width, height, png_bytes(_scene(width, height, f"{seed}/{key}"), mode))


def tiny_clip(n_frames: int, width: int = 64, height: int = 48, key: str = "clip") -> tuple[Frame, ...]:
    """Frames of a made clip: one picture that moves right by two pixels each frame."""
    scene = _scene(width, height, key)
    return tuple(
        Frame(f"{key}/{index}", width, height, png_bytes(np.roll(scene, 2 * index, axis=1), "RGB"))
        for index in range(n_frames)
    )


def broken_frame(width: int = 64, height: int = 48, key: str = "broken") -> Frame:
    """A frame whose bytes are no picture at all."""
    return Frame(key, width, height, b"these bytes are no picture")


def png_bytes(pixels: NDArray[np.uint8], mode: PixelMode = "RGB") -> bytes:
    """RGB pixels `(height, width, 3)` as a PNG file of the given mode."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    if mode == "I;16":
        grey = np.asarray(picture.convert("L"), np.uint16) * 257
        picture = Image.fromarray(grey)
    elif mode != "RGB":
        picture = picture.convert(mode)
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=zlib.Z_BEST_SPEED)
    return stream.getvalue()


def _scene(width: int, height: int, name: str) -> NDArray[np.uint8]:
    rng = random.Random(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]))
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = [int(256 * rng.random()) for _ in range(3)]
    for _ in range(3):
        x, y = int(width * rng.random()), int(height * rng.random())
        box = np.s_[y : y + height // 3 + 1, x : x + width // 3 + 1]
        pixels[box] = [int(256 * rng.random()) for _ in range(3)]
    return pixels
