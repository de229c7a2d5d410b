"""Every test runs offline, on demo data, and leaves the user's own cache alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own, no data root, and the three source roots in reach of every subprocess."""
    kept = dict(os.environ)
    # One cache for all workers of a parallel test session: demo data is written once.
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    os.environ["OMGBENCH_CACHE"] = str(shared / "omgbench-cache")
    for name in ("OMGBENCH_DATA", "OMGBENCH_TEXT_MODEL"):
        os.environ.pop(name, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture
def repository() -> Path:
    """The checkout."""
    return ROOT
