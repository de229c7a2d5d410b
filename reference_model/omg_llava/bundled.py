"""The weights that come along with the package."""

from __future__ import annotations

from pathlib import Path

BUNDLED = "omg_llava_tiny"
"""Made by `omgbench train omg_llava_tiny`."""


def bundled_folder(name: str) -> Path:
    """The folder of a model that comes along, as `omg_llava.checkpoint.load_model` takes it."""
    return Path(__file__).parent / "weights" / name
