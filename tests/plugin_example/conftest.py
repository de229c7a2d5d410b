"""Keeps omgbench's own test run out of this example, which `tests/testing/test_plugin_example.py` installs and runs."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.rootpath == Path(__file__).parent else True
