"""Options of data families, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from omg_llava.config import build_from_json
from omg_llava.errors import ModelError

T = TypeVar("T")


def no_options(options: Mapping[str, Any], family: str) -> None:
    """Raise `ModelError` where a family that has no options is given some."""
    if options:
        raise ModelError(f"options {', '.join(options)} of the data family {family}", expected="none")


def read_options(kind: type[T], options: Mapping[str, Any], family: str) -> T:
    """Options as the family's dataclass. Raises `ModelError` for unknown and mistyped ones."""
    return build_from_json(kind, dict(options), f"options of the data family {family}")
