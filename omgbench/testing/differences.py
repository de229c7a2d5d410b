"""Where two answers to one request differ, for checks of determinism."""

from __future__ import annotations

import math
from collections.abc import Sequence

from omgbench.contract import PanopticSegment, Response, Rle
from omgbench.metrics.rle import area_px, intersection_px

SCORE_TOLERANCE = 1e-4
"""Scores, coordinates and log-likelihoods may differ by this much, relative or absolute: the order of a sum changes
with the shape of a batch. Texts and statuses may not differ at all."""
MASK_TOLERANCE = 1e-3
"""Share of a frame's pixels, one pixel at least, in which a mask may differ: where a score lies on the threshold, the
last bit of a sum decides.
"""


def answer_difference(first: Response, second: Response) -> str | None:
    """The first difference that matters, or None. Error messages and usage counts do not matter."""
    for name in ("id", "status", "text", "raw_text", "spans"):
        if getattr(first, name) != getattr(second, name):
            return f"{name}: {_short(getattr(first, name))} and {_short(getattr(second, name))}"
    if [(m.frame, m.track) for m in first.masks] != [(m.frame, m.track) for m in second.masks]:
        return f"masks differ ({len(first.masks)} and {len(second.masks)})"
    for a, b in zip(first.masks, second.masks, strict=True):
        if not _same_mask(a.rle, b.rle):
            return (
                f"masks differ ({area_px(a.rle)} and {area_px(b.rle)} pixels, {intersection_px(a.rle, b.rle)} shared)"
            )
    if [box.frame for box in first.boxes] != [box.frame for box in second.boxes]:
        return f"boxes differ ({len(first.boxes)} and {len(second.boxes)})"
    if _outlines(first) != _outlines(second):
        return "panoptic segments differ"
    if not _close(_numbers(first), _numbers(second)):
        return f"scores or coordinates differ by more than {SCORE_TOLERANCE}"
    return None


def _same_mask(first: Rle, second: Rle) -> bool:
    if first == second or first.size != second.size:
        return first == second
    differing_px = area_px(first) + area_px(second) - 2 * intersection_px(first, second)
    return differing_px <= max(1, int(MASK_TOLERANCE * first.size[0] * first.size[1]))


def _segments(response: Response) -> tuple[PanopticSegment, ...]:
    return response.panoptic.segments if response.panoptic else ()


def _outlines(response: Response) -> list[object]:
    return [(segment.id, segment.category_id, segment.masks) for segment in _segments(response)]


def _numbers(response: Response) -> list[float | None]:
    numbers: list[float | None] = [mask.score for mask in response.masks]
    for box in response.boxes:
        numbers += [*box.xyxy, box.score]
    numbers += [segment.score for segment in _segments(response)]
    for choice in response.choices:
        numbers += [choice.sum_logprob, choice.n_tokens, choice.n_chars]
    return numbers


def _close(first: Sequence[float | None], second: Sequence[float | None]) -> bool:
    if len(first) != len(second):
        return False
    return all(
        a == b
        or (a is not None and b is not None and math.isclose(a, b, rel_tol=SCORE_TOLERANCE, abs_tol=SCORE_TOLERANCE))
        for a, b in zip(first, second, strict=True)
    )


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
