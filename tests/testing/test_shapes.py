"""Run lengths written from outlines, against the same shapes drawn pixel by pixel."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from omgbench.contract import Rle
from omgbench.metrics.rle import check_rle, parse_runs
from omgbench.testing.shapes import ellipse_rle, full_rle, rectangle_rle

SIZES = [(1, 1), (1, 7), (500, 3), (17, 23), (48, 64)]


def decoded(rle: Rle) -> NDArray[np.bool_]:
    assert check_rle(rle, rle.size) is None
    runs = parse_runs(rle.counts)
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(rle.size[::-1]).T


@pytest.mark.parametrize("size", SIZES)
def test_rectangles_are_exact(size: tuple[int, int]) -> None:
    rng = random.Random(str(size))
    height, width = size
    for _ in range(60):
        x1, x2 = sorted((rng.randint(-3, width + 3), rng.randint(-3, width + 3)))
        y1, y2 = sorted((rng.randint(-3, height + 3), rng.randint(-3, height + 3)))
        expected = np.zeros(size, bool)
        expected[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
        assert np.array_equal(decoded(rectangle_rle((x1, y1, x2, y2), size)), expected)


@pytest.mark.parametrize("size", SIZES)
def test_ellipses_hold_the_pixels_whose_centre_lies_inside(size: tuple[int, int]) -> None:
    rng = random.Random(str(size))
    height, width = size
    ys, xs = np.mgrid[:height, :width] + 0.5
    for _ in range(60):
        x1, x2 = sorted((rng.uniform(-9, width + 9), rng.uniform(-9, width + 9)))
        y1, y2 = sorted((rng.uniform(-9, height + 9), rng.uniform(-9, height + 9)))
        radius = ((xs - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((ys - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2
        assert np.array_equal(decoded(ellipse_rle((x1, y1, x2, y2), size)), radius <= 1)


def test_an_ellipse_without_extent_is_empty() -> None:
    assert not decoded(ellipse_rle((2.0, 2.0, 2.0, 5.0), (8, 8))).any()


@pytest.mark.parametrize("size", SIZES)
def test_the_full_mask_is_every_pixel(size: tuple[int, int]) -> None:
    assert decoded(full_rle(size)).all()
