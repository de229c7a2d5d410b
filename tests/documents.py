"""Changes to a parsed JSON document, for tests of what readers refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Change = Callable[[dict[str, Any]], None]


def put(*steps: Any) -> Change:
    """A change that sets the value at a path of keys."""

    def change(content: dict[str, Any]) -> None:
        *path, last, value = steps
        target: Any = content
        for step in path:
            target = target[step]
        target[last] = value

    return change


def drop(*steps: Any) -> Change:
    """A change that removes the key at a path of keys."""

    def change(content: dict[str, Any]) -> None:
        target: Any = content
        for step in steps[:-1]:
            target = target[step]
        del target[steps[-1]]

    return change


def repeat(place: int, key: str, field: str, value: Any) -> Change:
    """A change that appends the entry at a place of a list once more, with one field changed."""

    def change(content: dict[str, Any]) -> None:
        content[key].append({**content[key][place], field: value})

    return change
