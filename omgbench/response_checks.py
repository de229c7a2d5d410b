"""The rules that every response must keep, whoever answered; the runner, importers and `check_model` share them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from omgbench.contract import (
    Box,
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

MAX_TEXT_CHARS = 1_000_000
MAX_ITEMS = 10_000
"""Most masks, boxes, spans or panoptic segments of one response."""
MAX_NUMBER = 2**1000
"""Largest whole number of a response: larger ones do not fit a float."""


def check_response(request: Request, response: Response) -> str | None:
    """The first rule that a response breaks as the answer to `request`, or None when it keeps all.

    The message starts with the field at fault (`masks[2]: ...`). Masks are checked for decoding into exactly the
    frame's pixels, so whatever passes may go to mask arithmetic unchecked. Nothing is decoded.
    """
    if not isinstance(response, Response):
        return f"response: expected an omgbench.contract.Response, found {_kind(response)}"
    if response.id != request.id:
        return f"id: expected {request.id!r}, found {response.id!r}"
    if not isinstance(response.status, Status):
        return f"status: expected an omgbench.contract.Status, found {response.status!r}"
    return (
        _texts_problem(response)
        or _masks_problem(request, response)
        or _boxes_problem(request, response)
        or _spans_problem(response)
        or (None if response.panoptic is None else _panoptic_problem(request, response.panoptic))
        or _choices_problem(request, response)
        or _usage_problem(response)
    )


def _texts_problem(response: Response) -> str | None:
    for name in ("text", "raw_text", "error"):
        text = getattr(response, name)
        if text is not None and (problem := _text_problem(text)):
            return f"{name}: {problem}"
    return None


def _text_problem(text: object) -> str | None:
    if not isinstance(text, str):
        return f"expected str or None, found {_kind(text)}"
    if len(text) > MAX_TEXT_CHARS:
        return f"{len(text):,} characters, at most {MAX_TEXT_CHARS:,} are allowed"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"character {error.start} is half of a surrogate pair and cannot be stored as UTF-8"
    return None


def _masks_problem(request: Request, response: Response) -> str | None:
    if problem := _items_problem("masks", response.masks):
        return problem
    for index, mask in enumerate(response.masks):
        if not isinstance(mask, Mask):
            return f"masks[{index}]: expected a Mask, found {_kind(mask)}"
        problem = _frame_problem(mask.frame, request) or _rle_problem(mask.rle, request.frames[mask.frame])
        if problem is None and mask.score is not None:
            problem = _number_problem("score", mask.score)
        if problem is None and mask.track is not None and not isinstance(mask.track, int):
            problem = f"track: expected int or None, found {_kind(mask.track)}"
        if problem:
            return f"masks[{index}]: {problem}"
    return None


def _boxes_problem(request: Request, response: Response) -> str | None:
    if problem := _items_problem("boxes", response.boxes):
        return problem
    for index, box in enumerate(response.boxes):
        if not isinstance(box, Box):
            return f"boxes[{index}]: expected a Box, found {_kind(box)}"
        problem = _frame_problem(box.frame, request) or _xyxy_problem(box.xyxy)
        if problem is None and box.score is not None:
            problem = _number_problem("score", box.score)
        if problem:
            return f"boxes[{index}]: {problem}"
    return None


def _spans_problem(response: Response) -> str | None:
    if problem := _items_problem("spans", response.spans):
        return problem
    for index, span in enumerate(response.spans):
        if not isinstance(span, Span):
            return f"spans[{index}]: expected a Span, found {_kind(span)}"
        problem = (
            _phrase_problem(span, response.text)
            or _indices_problem("masks", span.masks, len(response.masks))
            or _indices_problem("boxes", span.boxes, len(response.boxes))
        )
        if problem:
            return f"spans[{index}]: {problem}"
    return None


def _phrase_problem(span: Span, text: str | None) -> str | None:
    if problem := _text_problem(span.phrase):
        return f"phrase: {problem}"
    start, end = span.start, span.end
    if start is None and end is None:
        return None
    if not isinstance(start, int) or not isinstance(end, int):
        return f"start and end must both be int or both be None, found {start!r} and {end!r}"
    if text is None:
        return "has offsets, but the response has no text"
    if not 0 <= start <= end <= len(text):
        return f"[{start}, {end}) lies outside the text of {len(text)} characters"
    if text[start:end] != span.phrase:
        return f"text[{start}:{end}] is {_short(text[start:end])}, the phrase is {_short(span.phrase)}"
    return None


def _indices_problem(name: str, indices: Sequence[int], n_items: int) -> str | None:
    if not isinstance(indices, tuple):
        return f"{name}: expected a tuple of indices, found {_kind(indices)}"
    for index in indices:
        if not isinstance(index, int) or not 0 <= index < n_items:
            return f"{name}: index {index!r}, the response has {n_items} {name}"
    return None


def _panoptic_problem(request: Request, panoptic: PanopticResult) -> str | None:
    if request.intent is not Intent.PANOPTIC:
        return f"panoptic: given to a {request.intent.value} request"
    if not isinstance(panoptic, PanopticResult):
        return f"panoptic: expected a PanopticResult, found {_kind(panoptic)}"
    if problem := _items_problem("panoptic.segments", panoptic.segments):
        return problem
    category_ids = {category.id for category in request.vocabulary}
    seen_ids: set[int] = set()
    for index, segment in enumerate(panoptic.segments):
        if problem := _segment_problem(request, segment, category_ids, seen_ids):
            return f"panoptic.segments[{index}]: {problem}"
        seen_ids.add(segment.id)
    for index, frame in enumerate(request.frames):
        if problem := _overlap_problem(panoptic.segments, index, frame):
            return f"panoptic: {problem}"
    return None


def _segment_problem(
    request: Request, segment: PanopticSegment, category_ids: set[int], seen_ids: set[int]
) -> str | None:
    if not isinstance(segment, PanopticSegment):
        return f"expected a PanopticSegment, found {_kind(segment)}"
    if not isinstance(segment.id, int) or segment.id < 1:
        return f"id: expected a positive int, found {segment.id!r}"
    if segment.id in seen_ids:
        return f"id: {segment.id} is used twice"
    if not isinstance(segment.category_id, int) or segment.category_id not in category_ids:
        return f"category_id: {segment.category_id!r} is not in the request's vocabulary"
    if not isinstance(segment.masks, tuple) or len(segment.masks) != len(request.frames):
        return f"masks: expected a tuple of {len(request.frames)}, one per frame, found {_short(segment.masks)}"
    for frame, rle in zip(request.frames, segment.masks, strict=True):
        if rle is not None and (problem := _rle_problem(rle, frame)):
            return f"masks: {problem}"
    return None if segment.score is None else _number_problem("score", segment.score)


def _overlap_problem(segments: tuple[PanopticSegment, ...], index: int, frame: Frame) -> str | None:
    """Segments are disjoint exactly when their areas add up to the area of their union."""
    from omgbench.metrics.rle import area_px, union_of

    rles = [rle for segment in segments if (rle := segment.masks[index]) is not None]
    if len(rles) < 2:
        return None
    total_px, frame_px = sum(map(area_px, rles)), frame.width * frame.height
    excess_px = total_px - (area_px(union_of(rles)) if total_px <= frame_px else frame_px)
    return f"segments overlap on frame {index} by at least {excess_px} px" if excess_px else None


def _choices_problem(request: Request, response: Response) -> str | None:
    choices = response.choices
    if problem := _items_problem("choices", choices):
        return problem
    answered = response.status is Status.OK and request.intent is Intent.SCORE_CHOICES
    if (answered or choices) and len(choices) != len(request.choices):
        return f"choices: expected {len(request.choices)}, one per choice of the request, found {len(choices)}"
    for index, choice in enumerate(choices):
        if problem := _choice_problem(choice):
            return f"choices[{index}]: {problem}"
    return None


def _choice_problem(choice: ChoiceScore) -> str | None:
    if not isinstance(choice, ChoiceScore):
        return f"expected a ChoiceScore, found {_kind(choice)}"
    if problem := _number_problem("sum_logprob", choice.sum_logprob):
        return problem
    if choice.sum_logprob > 0:
        return f"sum_logprob: a log-likelihood is at most 0, found {choice.sum_logprob}"
    if not isinstance(choice.n_tokens, int) or choice.n_tokens < 1:
        return f"n_tokens: expected an int of at least 1, found {choice.n_tokens!r}"
    if not isinstance(choice.n_chars, int) or choice.n_chars < 0:
        return f"n_chars: expected an int of at least 0, found {choice.n_chars!r}"
    return None


def _usage_problem(response: Response) -> str | None:
    if not isinstance(response.usage, dict):
        return f"usage: expected a dict, found {_kind(response.usage)}"
    for name, count in response.usage.items():
        if not isinstance(name, str):
            return f"usage: expected str keys, found {_kind(name)}"
        if problem := _number_problem(name, count):
            return f"usage: {problem}"
    return None


def _items_problem(name: str, items: object) -> str | None:
    if not isinstance(items, tuple):
        return f"{name}: expected a tuple, found {_kind(items)}"
    if len(items) > MAX_ITEMS:
        return f"{name}: {len(items):,} items, at most {MAX_ITEMS:,} are allowed"
    return None


def _frame_problem(index: int, request: Request) -> str | None:
    if isinstance(index, int) and 0 <= index < len(request.frames):
        return None
    return f"frame: {index!r}, the request has {len(request.frames)} frame(s)"


def _rle_problem(rle: Rle, frame: Frame) -> str | None:
    from omgbench.metrics.rle import check_rle

    if not isinstance(rle, Rle):
        return f"expected an Rle, found {_kind(rle)}"
    expected = (frame.height, frame.width)
    if rle.size != expected:
        return f"size: expected (height, width) = {expected}, found {rle.size!r}"
    return check_rle(rle, expected)


def _xyxy_problem(xyxy: object) -> str | None:
    if not isinstance(xyxy, tuple) or len(xyxy) != 4:
        return f"xyxy: expected a tuple of 4 numbers, found {_short(xyxy)}"
    for value in xyxy:
        if problem := _number_problem("xyxy", value):
            return problem
    return None


def _number_problem(name: str, value: object) -> str | None:
    """NumPy and torch scalars are refused: they are no JSON."""
    if not isinstance(value, (int, float)):
        return f"{name}: expected a Python number, found {_kind(value)}"
    if isinstance(value, int):
        return None if abs(value) <= MAX_NUMBER else f"{name}: expected a number that fits a float, found a larger int"
    return None if math.isfinite(value) else f"{name}: expected a finite number, found {value}"


def _kind(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
