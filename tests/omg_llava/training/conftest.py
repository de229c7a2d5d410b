"""Accelerate, one process on the CPU, anew for every test; a small demo world, written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from omg_llava.training.demo_world.write import write_demo_world

from .small_recipe import N_SCENES


def _forget() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def new_accelerator() -> Iterator[Callable[[], Any]]:
    """An accelerator as a fresh process would have it, each time it is called."""

    def new() -> Any:
        _forget()
        return Accelerator(cpu=True)

    yield new
    _forget()


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with `N_SCENES` scenes of the demo world. Never changed by a test."""
    root = tmp_path_factory.mktemp("demo_root")
    write_demo_world(root, N_SCENES)
    return root
