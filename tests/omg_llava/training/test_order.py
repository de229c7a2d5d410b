"""The order of a mixture: every item once a pass, told by the seed alone, the same from anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from omg_llava.training.order import ShuffledOrder


@pytest.mark.parametrize(("n_items", "n_wanted"), [(7, 21), (7, 24), (7, 3), (1, 4), (50, 100)])
def test_every_pass_has_every_item_once(n_items: int, n_wanted: int) -> None:
    order = list(ShuffledOrder(n_items, n_wanted, 0))
    assert len(order) == len(ShuffledOrder(n_items, n_wanted, 0)) == n_wanted
    passes = [order[start : start + n_items] for start in range(0, n_wanted, n_items)]
    for items in passes[:-1]:
        assert sorted(items) == list(range(n_items))
    assert len(set(passes[-1])) == len(passes[-1])


def test_passes_and_seeds_differ() -> None:
    first = list(ShuffledOrder(50, 150, 0))
    assert len({tuple(first[start : start + 50]) for start in (0, 50, 100)}) == 3
    assert first != list(range(50)) * 3
    assert first == list(ShuffledOrder(50, 150, 0)) != list(ShuffledOrder(50, 150, 1))


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_places_can_be_asked_in_any_sequence(seed: int) -> None:
    whole = list(ShuffledOrder(9, 60, seed))
    order = ShuffledOrder(9, 60, seed)
    for place in np.random.RandomState(0).permutation(60):
        assert order[int(place)] == whole[place]
    assert all(type(item) is int for item in whole)
    assert list(reversed(order)) == whole[::-1]


def test_the_order_of_a_pass_does_not_depend_on_how_much_is_wanted() -> None:
    assert list(ShuffledOrder(9, 60, 5))[:20] == list(ShuffledOrder(9, 20, 5))


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()
    list(ShuffledOrder(9, 60, 5))
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("place", [-1, 20, 10**9])
def test_other_places_are_index_errors(place: int) -> None:
    with pytest.raises(IndexError):
        ShuffledOrder(9, 20, 0)[place]
