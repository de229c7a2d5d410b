"""What was seen of the latest pictures, within a fixed number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar, cast


class Sized(Protocol):
    """Anything that knows how much memory it holds."""

    def nbytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


class LookCache:
    """Keeps the most recently used; the last one is kept whatever its size, as it is in use anyway.

    Args:
        max_bytes: of all that is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, Sized] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under `key`, made where it is not."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return cast(T, self._kept[key])
        made = make()
        self._kept[key] = made
        self._bytes += made.nbytes()
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes()
        return made

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._bytes = 0
