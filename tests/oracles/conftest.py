"""Where the official numbers are, and how measured ones are held against them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "OMGBENCH_ORACLES"
DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an oracle test."""
    here = Path(__file__).parent
    for item in items:
        if here in Path(str(item.path)).parents:
            item.add_marker("oracle")


class Oracles:
    """Official inputs and numbers; test modules reach the helpers of this file through it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, name: str) -> Path:
        """A folder by name; skips the test where there is none."""
        path = self._root / name
        if not path.is_dir():
            pytest.skip(f"no official numbers: {path} is absent (set {VARIABLE} to the folder that holds {name})")
        return path

    def expected(self, name: str) -> Any:
        """The numbers of a folder."""
        return json.loads((self.folder(name) / "expected.json").read_text(encoding="utf-8"))

    @staticmethod
    def assert_same(measured: Any, expected: Any, tolerance: float | Callable[[str], float], where: str = "") -> None:
        """See `assert_same`."""
        assert_same(measured, expected, tolerance, where)


@pytest.fixture
def oracles() -> Oracles:
    """The official numbers in reach."""
    return Oracles(Path(os.environ.get(VARIABLE) or DEFAULT))


def assert_same(measured: Any, expected: Any, tolerance: float | Callable[[str], float], where: str = "") -> None:
    """Every number, text, list and key of both sides agrees; numbers to the tolerance of their place."""
    if isinstance(expected, dict):
        assert isinstance(measured, dict), where
        assert set(measured) == set(expected), f"{where}: {sorted(set(measured) ^ set(expected), key=str)}"
        for key, value in expected.items():
            assert_same(measured[key], value, tolerance, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(measured) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(measured[index], value, tolerance, f"{where}[{index}]")
    elif isinstance(expected, float):
        allowed = tolerance(where) if callable(tolerance) else tolerance
        assert measured is not None and math.isfinite(expected), where
        assert abs(measured - expected) <= allowed, f"{where}: measured {measured!r}, official {expected!r}"
    else:
        assert measured == expected, f"{where}: measured {measured!r}, official {expected!r}"
