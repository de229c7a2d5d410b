"""Random draws that are the same on every machine, for every numpy and Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
BLOCK = 128


class Draws:
    """Integers drawn from PCG64, by our own integer arithmetic.

    numpy promises a fixed stream for bit generators and `SeedSequence` only, not for the methods of `Generator`
    (NEP 19); so the raw 64-bit words are used here and nothing else.

    Args:
        key: one or more integers >= 0; another key gives an independent stream.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))
        self._words: list[int] = []

    def below(self, n: int) -> int:
        """One of 0 .. n-1, n at least 1 and at most 2**31."""
        if not self._words:
            self._words = self._bits.random_raw(BLOCK).tolist()
            self._words.reverse()
        return ((self._words.pop() >> 32) * n) >> 32

    def between(self, low: int, high: int) -> int:
        """One of low .. high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a drawn order, as a new list."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result

    def noise_bytes(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """uint8 noise of shape (height, width), all 256 values equally likely."""
        words = self._bits.random_raw((height * width + 7) // 8)
        return words.astype("<u8").view(np.uint8)[: height * width].reshape(height, width)
