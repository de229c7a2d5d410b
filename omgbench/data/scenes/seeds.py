"""Which seeds belong to evaluation and which to training, and the version of everything drawn from them."""

from __future__ import annotations

from omgbench.errors import UserError

DEMO_VERSION = 1
"""Raised whenever any scene, sentence, caption or pixel of any seed changes."""

EVALUATION_SEEDS = range(10_000_000)
"""Seeds of scenes that are written as demo data sets and scored."""

TRAINING_SEEDS = range(10_000_000, 2**31)
"""Seeds of scenes that a model may be trained on; shares none with `EVALUATION_SEEDS`."""

STREAMS_PER_SEED = 100
SCENES_PER_STREAM = 1000


def evaluation_seeds(seed: int, stream: int) -> range:
    """The scene seeds of one split of one demo data set: a block of 1000 within `EVALUATION_SEEDS`.

    Args:
        seed: the user's seed, 0 .. 99.
        stream: number of the split, 0 .. 99; splits of one data set have different ones, so they share no scene.

    Raises:
        UserError: seed or stream out of range.
    """
    seeds = len(EVALUATION_SEEDS) // (STREAMS_PER_SEED * SCENES_PER_STREAM)
    for name, value, limit in (("seed", seed, seeds), ("stream", stream, STREAMS_PER_SEED)):
        if not 0 <= value < limit:
            raise UserError(f"demo data {name} {value}", expected=f"{name} of 0 .. {limit - 1}")
    start = (seed * STREAMS_PER_SEED + stream) * SCENES_PER_STREAM
    return EVALUATION_SEEDS[start : start + SCENES_PER_STREAM]
