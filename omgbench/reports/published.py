"""Numbers that papers print, kept beside the tasks; never mixed with measured ones without a mark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from omgbench import registry
from omgbench.errors import DataError, PluginError


@dataclass(frozen=True, slots=True)
class PublishedNumber:
    """One printed number.

    Attributes:
        task, subset, split, metric: what it is a number of, in our names.
        model, variant: the paper's row; the variant says which weights or rules.
        value: as printed (display scale).
        paper: who printed it; a model's number may be quoted by several papers, and quotes drift.
        source: table, page or file.
        notes: what must be known before it is compared.
        main: belongs to the tables that the task's default columns reproduce.
    """

    task: str
    subset: str
    split: str
    metric: str
    model: str
    variant: str
    value: float
    paper: str
    source: str
    notes: str
    main: bool


def published_numbers(task_name: str) -> list[PublishedNumber]:
    """Published numbers that come with a registered task; empty for a task without any."""
    try:
        folder = registry.plugin_folder(registry.find("tasks", task_name))
    except PluginError:
        return []
    path = folder / "published.json" if folder is not None else None
    if path is None or not path.is_file():
        return []
    return [number for number in read_published(path) if number.task == task_name]


def read_published(path: Path) -> list[PublishedNumber]:
    """Read a `published.json`: a list of objects with the fields of `PublishedNumber`. Raises `DataError`."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [PublishedNumber(**row) for row in rows]
    except (ValueError, TypeError) as error:
        raise DataError(f"published numbers that cannot be read: {error}", where=str(path)) from None
