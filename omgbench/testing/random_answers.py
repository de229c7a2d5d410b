"""Random but well-formed answers to every kind of request, drawn from (seed, request id) alone.

The draw is the same on every machine and whatever stands beside the request in its batch. Masks are written as run
lengths, so an answer costs tens of microseconds.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from typing import TypeVar

from omgbench.contract import (
    Box,
    BoxXyxy,
    Category,
    ChoiceScore,
    Frame,
    Intent,
    Mask,
    PanopticResult,
    PanopticSegment,
    Request,
    Response,
    Rle,
    Span,
    Status,
)
from omgbench.testing.shapes import ellipse_rle, rectangle_rle

_PHRASES = (
    "a man",
    "a woman",
    "a child",
    "a dog",
    "a red car",
    "a wooden table",
    "a cup",
    "the sky",
    "the grass",
    "the street",
    "a tree",
    "a white building",
)
_PREDICATES = ("next to", "in front of", "behind", "on", "and")
_YES_NO_QUESTION = re.compile(r"\s*(is|are|was|were|do|does|did|has|have|can|could|will|would)\b", re.IGNORECASE)
_OPTION = re.compile(r"^\s*\(?([A-H])[.):]\s", re.MULTILINE)
_QUESTION_CHARS = 10_000
"""How much of a question is looked at: the rest cannot matter to a random answer."""

_T = TypeVar("_T")


def random_answer(request: Request, seed: int = 0) -> Response:
    """A random answer that keeps every rule of the contract.

    Chat answers are Yes or No, an option letter, one of the choices, or a sentence, as the question has it.
    """
    rng = _Draw(seed, request.id)
    match request.intent:
        case Intent.CHAT:
            return Response(request.id, text=_chat(rng, request))
        case Intent.REGION_CAPTION:
            return Response(request.id, text=f"{rng.pick(_PHRASES)} {rng.pick(_PREDICATES)} {rng.pick(_PHRASES)}")
        case Intent.REFER_SEGMENT | Intent.INTERACTIVE:
            return Response(request.id, text="", masks=_object_masks(rng, request))
        case Intent.REFER_BOX:
            frames = request.frames if request.is_clip else request.frames[:1]
            boxes = (Box(_box(rng, frame), rng.random(), index) for index, frame in enumerate(frames))
            return Response(request.id, text="", boxes=tuple(boxes))
        case Intent.GROUNDED_CAPTION:
            return _grounded_caption(rng, request)
        case Intent.PANOPTIC:
            panoptic = PanopticResult(_partition(rng, request))
            status = Status.OK if panoptic.segments else Status.EMPTY
            return Response(request.id, status, panoptic=panoptic)
        case Intent.SCORE_CHOICES:
            scores = (ChoiceScore(-20 * rng.random(), len(text.split()) or 1, len(text)) for text in request.choices)
            return Response(request.id, choices=tuple(scores))


class _Draw:
    """Draws from `random.Random.random` alone, the one method whose sequence Python promises to keep."""

    def __init__(self, seed: int, request_id: str) -> None:
        digest = hashlib.sha256(f"{seed}\0{request_id}".encode("utf-8", "surrogatepass")).digest()
        self.random = random.Random(int.from_bytes(digest[:8])).random

    def below(self, limit: int) -> int:
        """A whole number in [0, limit)."""
        return int(self.random() * limit)

    def pick(self, items: Sequence[_T]) -> _T:
        """One of the items."""
        return items[self.below(len(items))]


def _chat(rng: _Draw, request: Request) -> str:
    question = (request.text or "")[:_QUESTION_CHARS]
    if request.choices:
        return rng.pick(request.choices)
    if letters := _OPTION.findall(question):
        return str(rng.pick(letters))
    if "yes or no" in question.lower() or _YES_NO_QUESTION.match(question):
        return rng.pick(("Yes", "No"))
    return f"{rng.pick(_PHRASES)} {rng.pick(_PREDICATES)} {rng.pick(_PHRASES)}"


def _box(rng: _Draw, frame: Frame) -> BoxXyxy:
    """A box inside the frame, each side between a twentieth and the whole of the frame's."""
    width, height = ((0.05 + 0.95 * rng.random()) * side for side in (frame.width, frame.height))
    x1, y1 = rng.random() * (frame.width - width), rng.random() * (frame.height - height)
    return (x1, y1, x1 + width, y1 + height)


def _mask(rng: _Draw, frame: Frame) -> Rle:
    """An ellipse or a rectangle of at least one pixel."""
    size = (frame.height, frame.width)
    x1, y1, x2, y2 = _box(rng, frame)
    if rng.random() < 0.5 and x2 - x1 > 2 and y2 - y1 > 2:
        return ellipse_rle((x1, y1, x2, y2), size)
    left, top = int(x1), int(y1)
    return rectangle_rle((left, top, max(int(x2), left + 1), max(int(y2), top + 1)), size)


def _object_masks(rng: _Draw, request: Request) -> tuple[Mask, ...]:
    if not request.is_clip:
        return (Mask(_mask(rng, request.frames[0]), rng.random()),)
    return tuple(Mask(_mask(rng, frame), rng.random(), index, track=1) for index, frame in enumerate(request.frames))


def _grounded_caption(rng: _Draw, request: Request) -> Response:
    """Two to four phrases, each with one mask on the first frame."""
    text, spans, masks = "", [], []
    for index in range(2 + rng.below(3)):
        phrase = rng.pick(_PHRASES)
        text += f" {rng.pick(_PREDICATES)} " if text else ""
        spans.append(Span(phrase, len(text), len(text) + len(phrase), masks=(index,)))
        masks.append(Mask(_mask(rng, request.frames[0]), rng.random()))
        text += phrase
    return Response(request.id, text=text, masks=tuple(masks), spans=tuple(spans))


def _partition(rng: _Draw, request: Request) -> tuple[PanopticSegment, ...]:
    """Up to five rectangles that fill every frame, each of another category: one stuff class has one segment."""
    categories = _sample(rng, request.vocabulary, 5)
    tiles = [(0.0, 0.0, 1.0, 1.0)] if categories else []
    while len(tiles) < len(categories):
        tiles += _cut(rng, tiles.pop(rng.below(len(tiles))))
    segments: list[PanopticSegment] = []
    for tile, category in zip(tiles, categories, strict=True):
        masks = tuple(_tile_rle(tile, frame) for frame in request.frames)
        if any(mask is not None for mask in masks):
            segments.append(PanopticSegment(len(segments) + 1, category.id, masks, rng.random()))
    return tuple(segments)


def _sample(rng: _Draw, categories: Sequence[Category], most: int) -> list[Category]:
    pool = list(categories)
    return [pool.pop(rng.below(len(pool))) for _ in range(min(most, len(pool)))]


def _cut(rng: _Draw, tile: BoxXyxy) -> list[BoxXyxy]:
    x1, y1, x2, y2 = tile
    if rng.random() < 0.5:
        middle = x1 + (0.2 + 0.6 * rng.random()) * (x2 - x1)
        return [(x1, y1, middle, y2), (middle, y1, x2, y2)]
    middle = y1 + (0.2 + 0.6 * rng.random()) * (y2 - y1)
    return [(x1, y1, x2, middle), (x1, middle, x2, y2)]


def _tile_rle(tile: BoxXyxy, frame: Frame) -> Rle | None:
    """A tile in shares of the frame as whole pixels; None where the frame is too small to show it."""
    x1, x2 = round(tile[0] * frame.width), round(tile[2] * frame.width)
    y1, y2 = round(tile[1] * frame.height), round(tile[3] * frame.height)
    if x1 >= x2 or y1 >= y2:
        return None
    return rectangle_rle((x1, y1, x2, y2), (frame.height, frame.width))
