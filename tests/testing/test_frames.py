"""Made pictures are real PNGs of the mode, size and content that they claim."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from omgbench.contract import Frame
from omgbench.testing import broken_frame, tiny_clip, tiny_frame
from omgbench.testing.frames import ODD_FRAMES, PixelMode


def opened(frame: Frame) -> Image.Image:
    assert isinstance(frame.source, bytes)
    return Image.open(io.BytesIO(frame.source))


@pytest.mark.parametrize(("width", "height", "mode"), [*ODD_FRAMES, (5, 4, "LA"), (5, 4, "1")])
def test_the_png_has_the_mode_and_size(width: int, height: int, mode: PixelMode) -> None:
    picture = opened(tiny_frame(width, height, "a", mode))
    assert (picture.format, picture.mode, picture.size) == ("PNG", mode, (width, height))


def test_key_and_seed_decide_the_picture() -> None:
    sources = [tiny_frame(32, 24, key, seed=seed).source for key, seed in (("a", 0), ("a", 0), ("b", 0), ("a", 1))]
    assert sources[0] == sources[1]
    assert len(set(map(bytes, map(memoryview, sources)))) == 3


def test_sixteen_bits_span_the_whole_range() -> None:
    grey = np.asarray(opened(tiny_frame(64, 48, "a", "L"))).astype(int)
    assert np.array_equal(np.asarray(opened(tiny_frame(64, 48, "a", "I;16"))), grey * 257)


def test_a_clip_moves() -> None:
    first, second = (np.asarray(opened(frame)) for frame in tiny_clip(2))
    assert np.array_equal(np.roll(first, 2, axis=1), second)
    assert not np.array_equal(first, second)


def test_a_broken_frame_cannot_be_opened() -> None:
    with pytest.raises(OSError):
        opened(broken_frame())
