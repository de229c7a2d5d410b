"""Rows of one training under several seeds as one row: means with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from omgbench.store import ResultRecord

LEVEL = 0.95
SEED_OPTION = "training_seed"
"""Under this name a model's identity tells which seed its weights were trained with."""


def seed_of(result: ResultRecord) -> str | None:
    """The seed that the model was trained with, None where it tells none."""
    return result.model.options.get(SEED_OPTION)


def joined(groups: Sequence[list[ResultRecord]]) -> list[list[list[ResultRecord]]]:
    """Rows that belong together: those of one model name that differ in their seed; every other row stands alone."""
    together: dict[str, list[list[ResultRecord]]] = {}
    for place, group in enumerate(groups):
        seed, name = seed_of(group[0]), group[0].model.name
        key = name if seed is not None else f"{name} #{place}"
        rows = together.setdefault(key, [])
        if any(seed_of(other[0]) == seed for other in rows):
            # Two results of one seed are two runs of it: nothing is averaged that is not independent.
            together[f"{key} #{place}"] = [group]
        else:
            rows.append(group)
    return list(together.values())


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its Student's t interval of level 0.95; None for fewer than two values."""
    if len(values) < 2:
        return values[0], None
    from scipy.stats import t

    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
