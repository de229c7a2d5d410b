"""Run lengths against pycocotools' decoder, a slow parser in plain Python, and hostile strings."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from omgbench.contract import Rle
from omgbench.errors import DataError
from omgbench.metrics import rle as R

SIZE = (7, 9)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ALPHABET = "".join(map(chr, range(48, 112)))


def slow_runs(counts: str) -> list[int] | None:
    """Run lengths by the book, one character at a time; None where pycocotools must not see the string."""
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        group = ord(character) - 48
        if not 0 <= group <= 63 or shift >= 30:
            return None
        number |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return None if shift else runs


def slow_verdict(counts: str, size: tuple[int, int]) -> bool:
    runs = slow_runs(counts)
    return bool(runs) and runs[0] >= 0 and min(runs[1:], default=1) > 0 and sum(runs) == size[0] * size[1]


def encode_runs(runs: list[int]) -> str:
    """COCO's string of any list of runs, also of nonsense ones."""
    text = []
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        while True:
            group, number = number & 31, number >> 5
            last = number == (-1 if group & 16 else 0)
            text.append(chr(48 + group + (0 if last else 32)))
            if last:
                break
    return "".join(text)


def random_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    share = rng.choice([0.0, 0.02, 0.5, 0.98, 1.0])
    return rng.random(size) < share


def masks(n: int = 60, seed: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = [(1, 1), (1, 40), (40, 1), (7, 9), (33, 64), (64, 33), (240, 320)]
    return [random_mask(rng, sizes[i % len(sizes)]) for i in range(n)]


@pytest.mark.parametrize("mask", masks())
def test_encoding_is_pycocotools_and_comes_back(mask: np.ndarray) -> None:
    rle = R.mask_to_rle(mask)
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle == Rle(mask.shape, theirs["counts"].decode())
    assert R.check_rle(rle, mask.shape) is None
    assert R.canonical_rle(rle, mask.shape) is rle
    assert (R.rle_to_mask(rle) == mask).all()
    assert (coco_mask.decode(R.to_coco(rle)) == mask).all()
    assert R.rle_to_mask(rle).dtype == np.bool_
    assert R.area_px(rle) == mask.sum()
    assert R.parse_runs(rle.counts).tolist() == slow_runs(rle.counts)
    assert R.rle_from_uncompressed(slow_runs(rle.counts), mask.shape) == rle


@pytest.mark.parametrize("mask", masks())
def test_tight_box_holds_exactly_the_mask(mask: np.ndarray) -> None:
    box = R.tight_box_xyxy(R.mask_to_rle(mask))
    if not mask.any():
        assert box is None
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_sets_of_masks_against_dense_arrays() -> None:
    rng = np.random.default_rng(8)
    for _ in range(150):
        size = (int(rng.integers(1, 20)), int(rng.integers(1, 20)))
        planes = np.array([random_mask(rng, size) for _ in range(rng.integers(1, 6))])
        rles = [R.mask_to_rle(plane) for plane in planes]
        assert R.union_of(rles) == R.mask_to_rle(planes.any(axis=0))
        assert R.exactly_one_of(rles) == R.mask_to_rle(planes.sum(axis=0) == 1)
        assert R.intersection_px(rles[0], rles[-1]) == (planes[0] & planes[-1]).sum()


def test_empty_mask() -> None:
    empty = R.empty_rle(SIZE)
    assert empty == R.mask_to_rle(np.zeros(SIZE, dtype=bool))
    assert R.area_px(empty) == 0
    assert R.polygons_to_rle([], SIZE) == empty


def test_masks_of_different_size_or_none_are_refused() -> None:
    one, other = R.empty_rle((4, 6)), R.empty_rle((6, 4))
    for refused in (lambda: R.intersection_px(one, other), lambda: R.union_of([one, other]), lambda: R.union_of([])):
        with pytest.raises(DataError):
            refused()


runs_near_the_truth = st.lists(st.integers(-3, 40), min_size=0, max_size=8)
summing_up = st.lists(st.integers(0, 63), max_size=6).map(
    lambda cuts: np.diff([0, *sorted(cuts), 63]).tolist(),
)
strings = st.one_of(
    st.text(max_size=30),
    st.text(ALPHABET, max_size=30),
    runs_near_the_truth.map(encode_runs),
    summing_up.map(encode_runs),
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(counts=strings)
@example(counts="")
@example(counts="o")
@example(counts="oooooo0")
@example(counts="ooooooo0")
@example(counts=encode_runs([2**31, 63 - 2**31]))
@example(counts=encode_runs([2**32 + 63]))
@example(counts=encode_runs([70, -7]))
@example(counts=encode_runs([3, 0, 60]))
@example(counts=encode_runs([63, 0]))
@example(counts=encode_runs([0, 63]))
@example(counts=chr(47) * 3)
@example(counts=chr(112) * 3)
@example(counts="1\x00")
@example(counts="\ud800")
def test_hostile_strings_are_refused_exactly_as_by_the_slow_parser(counts: str) -> None:
    rle = Rle(SIZE, counts)
    admitted = R.check_rle(rle, SIZE) is None
    assert admitted == slow_verdict(counts, SIZE)
    if not admitted:
        return
    mask = R.rle_to_mask(rle)
    runs = slow_runs(counts)
    assert mask.ravel(order="F").tolist() == [bool(i % 2) for i, run in enumerate(runs) for _ in range(run)]
    assert R.intersection_px(rle, rle) == R.area_px(rle) == mask.sum()
    R.tight_box_xyxy(rle)


def test_bytes_changed_at_random_never_reach_pycocotools_unseen() -> None:
    chance = random.Random(5)
    mask = np.random.default_rng(0).random((30, 40)) < 0.4
    whole = R.mask_to_rle(mask).counts
    admitted = 0
    for _ in range(3000):
        text = list(whole)
        for _ in range(chance.choice([1, 1, 2, 5])):
            text[chance.randrange(len(text))] = chance.choice(ALPHABET)
        counts = "".join(text[: chance.choice([len(text), chance.randrange(len(text))])])
        good = R.check_rle(Rle((30, 40), counts), (30, 40)) is None
        assert good == slow_verdict(counts, (30, 40))
        if good:
            admitted += 1
            R.area_px(Rle((30, 40), counts))
    assert 0 < admitted < 3000


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        (Rle((9, 7), "o1"), "the frame is 7 x 9"),
        (Rle((7, 0), "0"), "at least 1"),
        (Rle((7, -9), "0"), "at least 1"),
        (Rle((7.0, 9), "o1"), "whole numbers"),
        (Rle((True, 63), "o1"), "whole numbers"),
        (Rle((7, 9, 1), "o1"), "not (height, width)"),
        (Rle(None, "o1"), "not (height, width)"),
        (Rle((2**20, 2**20), "0"), "more than"),
        (Rle(SIZE, b"o1"), "type bytes"),
        (Rle(SIZE, None), "type NoneType"),
        (Rle(SIZE, "0" * 10_000), "far too many"),
        (Rle(SIZE, ""), "add up to 0"),
        (Rle(SIZE, "o"), "in the middle of a number"),
        (Rle(SIZE, "oooooo0"), "more than 6 groups"),
        (Rle(SIZE, "é"), "ASCII"),
        (Rle(SIZE, "/"), "outside the range"),
        (Rle(SIZE, encode_runs([60, -2, 5])), "negative run at index 1"),
        (Rle(SIZE, encode_runs([60, 2])), "add up to 62"),
        (Rle(SIZE, encode_runs([60, 1, 0, 2])), "empty run at index 2"),
    ],
)
def test_the_reason_names_what_is_wrong(rle: Rle, words: str) -> None:
    assert words in (R.check_rle(rle, rle.size if words == "more than" else SIZE) or "")


def test_the_size_limit_keeps_runs_within_what_pycocotools_can_hold() -> None:
    side = 2**14
    assert side * side == R.MAX_PIXELS
    for runs in ([0, side * side], [1, side * side - 2, 1], [side * side]):
        rle = Rle((side, side), encode_runs(runs))
        assert R.check_rle(rle, rle.size) is None
        assert R.area_px(rle) == sum(runs[1::2])
        assert R.rle_from_uncompressed(runs, rle.size) == rle
    assert "more than" in (R.check_rle(Rle((side, side + 1), "0"), (side, side + 1)) or "")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(runs=summing_up.flatmap(lambda runs: st.tuples(st.just(runs), st.lists(st.integers(0, 7), max_size=4))))
def test_empty_runs_are_mended(runs: tuple[list[int], list[int]]) -> None:
    lengths, places = runs
    for place in places:
        lengths = [*lengths[:place], 0, *lengths[place:]]
    flat = [bool(i % 2) for i, run in enumerate(lengths) for _ in range(run)]
    mask = np.array(flat).reshape(SIZE, order="F")
    assert R.rle_from_uncompressed(lengths, SIZE) == R.mask_to_rle(mask)
    assert R.canonical_rle(Rle(SIZE, encode_runs(lengths)), SIZE) == R.mask_to_rle(mask)


@pytest.mark.parametrize(
    "rle", [Rle(SIZE, "o"), Rle((9, 7), encode_runs([63])), Rle(SIZE, encode_runs([62])), Rle(None, "0")]
)
def test_what_cannot_be_mended_is_an_error(rle: Rle) -> None:
    with pytest.raises(DataError):
        R.canonical_rle(rle, SIZE)


@pytest.mark.parametrize(
    "counts",
    [[], [62], [64], [-1, 64], [1.0, 62.0], ["63"], [[63]], [[1], [2, 3]], [2**70], [2**40, 1], None, [True] * 63],
)
def test_bad_run_lists_are_refused(counts: object) -> None:
    with pytest.raises(DataError):
        R.rle_from_uncompressed(counts, SIZE)


def test_polygons_are_drawn_as_pycocotools_draws_them() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        polygons = [rng.uniform(-10, 70, 2 * rng.integers(3, 9)).round(2).tolist() for _ in range(rng.integers(1, 4))]
        theirs = coco_mask.frPyObjects(polygons, 50, 60)
        assert [rle.counts.encode() for rle in R.polygons_to_rles(polygons, (50, 60))] == [m["counts"] for m in theirs]
        dense = coco_mask.decode(theirs)
        assert (R.rle_to_mask(R.polygons_to_rle(polygons, (50, 60))) == dense.any(axis=2)).all()
        one = R.exactly_one_of(R.polygons_to_rles(polygons, (50, 60)))
        assert (R.rle_to_mask(one) == (dense.sum(axis=2).astype(np.uint8) == 1)).all()
        assert R.check_rle(one, (50, 60)) is None


def test_a_line_of_two_points_is_drawn_wherever_it_stands() -> None:
    rng = np.random.default_rng(6)
    triangle = [1, 1, 6, 1, 1, 5]
    for _ in range(50):
        line = rng.uniform(-2, 9, 4).round(1).tolist()
        theirs = coco_mask.frPyObjects([triangle, line], *SIZE)[1]["counts"].decode()
        assert [rle.counts for rle in R.polygons_to_rles([line, line], SIZE)] == [theirs, theirs]


@pytest.mark.parametrize(
    "polygons",
    [
        [[1, 2]],
        [[1, 2, 3, 4, 5]],
        [[]],
        [[1, 1, float("nan"), 1, 5, 5]],
        [[1, 1, float("inf"), 1, 5, 5]],
        [[1, 1, 1e9, 1, 5, 5]],
        [[0, 0, 1e5, 1e5] * 10],
        [["a", "b", "c", "d", "e", "f"]],
        [[[1, 2], [3, 4], [5, 6]]],
        [[None] * 6],
        [7],
    ],
)
def test_hostile_polygons_are_refused(polygons: object) -> None:
    with pytest.raises(DataError):
        R.polygons_to_rles(polygons, SIZE)


@pytest.mark.parametrize("array", [np.zeros((3, 4), np.uint8), np.zeros((3, 4, 1), bool), np.zeros((0, 4), bool)])
def test_only_bool_masks_with_an_area_are_encoded(array: np.ndarray) -> None:
    with pytest.raises(DataError):
        R.mask_to_rle(array)
