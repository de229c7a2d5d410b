"""In which order a mixture is seen: drawn once from the seed, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


class ShuffledOrder(Sequence[int]):
    """Places 0 .. n_items - 1, every pass in a new order, cut off after `n_wanted`.

    A pass's order depends on the seed and its number alone.
    """

    def __init__(self, n_items: int, n_wanted: int, seed: int) -> None:
        self.n_items, self.n_wanted, self.seed = n_items, n_wanted, seed
        self._pass = -1
        self._places = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.n_wanted

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if not 0 <= index < self.n_wanted:
            raise IndexError(index)
        number, place = divmod(index, self.n_items)
        if number != self._pass:
            self._pass = number
            self._places = np.random.RandomState((self.seed + 1_000_003 * number) % 2**32).permutation(self.n_items)
        return int(self._places[place])

    def __iter__(self) -> Iterator[int]:
        return (self[index] for index in range(self.n_wanted))
