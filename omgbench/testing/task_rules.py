"""Rules for what a task declares: its info, its requests, its records and metric values, its card."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omgbench.contract import (
    BoxPrompt,
    Frame,
    Intent,
    MaskPrompt,
    MetricSpec,
    MetricValue,
    PointPrompt,
    PointXy,
    Record,
    Request,
    Response,
    Sample,
    ScribblePrompt,
    TaskInfo,
    VisualPrompt,
)

BORDER_PX = 1.0
"""Annotated boxes and points may reach this far over the border: official files round in either direction."""

_PUBLISHED_KEYS = ("model", "split", "metric", "value", "source")
_TASK_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+]*")
_BRACES = re.compile(r"\{\w*\}")


def info_problems(info: TaskInfo) -> Iterator[str]:
    """What is wrong with a task's declaration, splits and metrics included."""
    if not isinstance(info, TaskInfo):
        yield f"expected a TaskInfo, found {type(info).__name__}"
        return
    if not _TASK_NAME.fullmatch(info.name):
        yield f"name {info.name!r}: expected lower-case letters, digits and underscores"
    for name in ("version", "title"):
        if not getattr(info, name):
            yield f"{name} is empty"
    if not info.intents:
        yield "intents is empty"
    yield from _split_problems(info)
    yield from _metric_problems(info.metrics)
    for name, template in info.templates.items():
        unknown = set(_BRACES.findall(template)) - {"{text}"}
        if unknown:
            yield f"template {name!r} holds {', '.join(sorted(unknown))}; only {{text}} is filled in"


def _split_problems(info: TaskInfo) -> Iterator[str]:
    if not any(split.default for split in info.splits):
        yield "no split is marked default"
    elif not any(split.default and split.subset == info.splits[0].subset for split in info.splits):
        yield f"the first subset {info.splits[0].subset!r} has no default split; the default subset comes first"
    labels = [split.label for split in info.splits]
    if len(set(labels)) < len(labels):
        yield f"splits {sorted(label for label in set(labels) if labels.count(label) > 1)} are listed twice"
    for split in info.splits:
        for name in (split.name, split.subset) if split.subset else (split.name,):
            if not _SPLIT_NAME.fullmatch(name):
                yield f"split or subset {name!r}: expected letters, digits and any of _ . + -"
        for file in split.files:
            if not file.names or not all(file.names) or any(Path(name).is_absolute() for name in file.names):
                yield f"split {split.label}: a file needs names relative to the data root, found {file.names}"


def _metric_problems(metrics: Sequence[MetricSpec]) -> Iterator[str]:
    names = [spec.name for spec in metrics]
    if len(set(names)) < len(names):
        yield f"metrics {sorted(name for name in set(names) if names.count(name) > 1)} are listed twice"
    if not any(spec.primary for spec in metrics):
        yield "no metric is primary"
    elif [spec.primary for spec in metrics] != sorted((spec.primary for spec in metrics), reverse=True):
        yield "primary metrics must come first"
    for spec in metrics:
        low, high = spec.scale
        if not spec.name or re.search(r"[\s,]", spec.name):
            yield f"metric {spec.name!r}: a name has no spaces and no commas"
        if not spec.description.strip():
            yield f"metric {spec.name} has no description"
        if low is not None and high is not None and low >= high:
            yield f"metric {spec.name}: scale {spec.scale} is not ordered"
        if not math.isfinite(spec.display_factor) or spec.display_factor == 0:
            yield f"metric {spec.name}: display_factor {spec.display_factor}"


def sample_problem(sample: Sample, intents: frozenset[Intent]) -> str | None:
    """What is wrong with one sample on its own."""
    if not isinstance(sample, Sample) or not isinstance(sample.request, Request):
        return f"expected a Sample with a Request, found {type(sample).__name__}"
    request = sample.request
    if not isinstance(request.id, str) or not request.id:
        return f"id {request.id!r}: expected some text"
    if not isinstance(sample.group, str) or not sample.group:
        return f"{request.id}: group {sample.group!r}: expected some text"
    if request.intent not in intents:
        return f"{request.id}: intent {request.intent} is not among the intents of info"
    problem = _request_problem(request)
    return None if problem is None else f"{request.id}: {problem}"


def _request_problem(request: Request) -> str | None:
    if request.intent not in (Intent.CHAT, Intent.SCORE_CHOICES) and not request.frames:
        return "has no frame"
    for frame in request.frames:
        if not frame.key or frame.width < 1 or frame.height < 1:
            return f"frame {frame.key!r} is {frame.width} x {frame.height}"
        if frame.decoded is not None:
            return f"frame {frame.key!r} is decoded already; that is the runner's part"
    if request.intent is Intent.SCORE_CHOICES and len(request.choices) < 2:
        return "has fewer than two choices"
    if request.intent is Intent.PANOPTIC and not request.vocabulary:
        return "has no vocabulary"
    if len({category.id for category in request.vocabulary}) < len(request.vocabulary):
        return "two categories of its vocabulary share an id"
    if request.intent in (Intent.INTERACTIVE, Intent.REGION_CAPTION) and not request.prompts:
        return "points at nothing: prompts is empty"
    if request.gen.max_new_tokens < 1:
        return f"gen.max_new_tokens is {request.gen.max_new_tokens}"
    for index, prompt in enumerate(request.prompts):
        if problem := _prompt_problem(prompt, request):
            return f"prompts[{index}]: {problem}"
    return None


def _prompt_problem(prompt: VisualPrompt, request: Request) -> str | None:
    from omgbench.metrics.rle import check_rle

    if not 0 <= prompt.frame < len(request.frames):
        return f"frame {prompt.frame}, the request has {len(request.frames)}"
    frame = request.frames[prompt.frame]
    match prompt:
        case MaskPrompt(rle=rle):
            return check_rle(rle, (frame.height, frame.width))
        case BoxPrompt(xyxy=(x1, y1, x2, y2)):
            if not (x1 <= x2 and y1 <= y2):
                return f"box {prompt.xyxy} is not ordered"
            return _point_problem((x1, y1), frame) or _point_problem((x2, y2), frame)
        case PointPrompt(xy=xy):
            return _point_problem(xy, frame)
        case ScribblePrompt(points_xy=points):
            if len(points) < 2:
                return f"a scribble needs two points, found {len(points)}"
            return next((problem for point in points if (problem := _point_problem(point, frame))), None)
    return f"{type(prompt).__name__} is no visual prompt"


def _point_problem(xy: PointXy, frame: Frame) -> str | None:
    inside_x = -BORDER_PX <= xy[0] <= frame.width + BORDER_PX
    inside_y = -BORDER_PX <= xy[1] <= frame.height + BORDER_PX
    return (
        None if inside_x and inside_y else f"({xy[0]}, {xy[1]}) lies outside the {frame.width} x {frame.height} frame"
    )


def record_problem(record: Record, sample: Sample, response: Response) -> str | None:
    """What is wrong with a record as the score of one answer."""
    if not isinstance(record, Record):
        return f"{sample.id}: score gave {type(record).__name__}, expected a Record"
    if (record.id, record.group, record.status) != (sample.id, sample.group, response.status):
        return f"{sample.id}: id, group and status of the record must be the sample's and the answer's"
    try:
        back = json.loads(json.dumps(record.stats, allow_nan=False))
    except (TypeError, ValueError) as error:
        return f"{sample.id}: stats are no plain JSON: {error}"
    return (
        None
        if back == record.stats
        else f"{sample.id}: stats come back from JSON changed (tuples? keys that are no text?)"
    )


def values_problem(values: Sequence[MetricValue], specs: Sequence[MetricSpec], n_records: int) -> str | None:
    """What is wrong with the result of `summarize` on so many records."""
    found = [value.name for value in values]
    expected = [spec.name for spec in specs]
    if found != expected:
        return f"expected one value for each of {expected}, in order, found {found}"
    for value, spec in zip(values, specs, strict=True):
        if problem := _value_problem(value, spec, n_records):
            return f"{spec.name}: {problem}"
    return None


def _value_problem(value: MetricValue, spec: MetricSpec, n_records: int) -> str | None:
    number = value.value
    if n_records == 0:
        return None if number is None else f"without records the value must be None, found {number}"
    if number is None:
        return None if value.note or value.n == 0 else "None without a note saying why"
    if not isinstance(number, (int, float)) or not math.isfinite(number):
        return f"expected a finite Python number, found {number!r}"
    low, high = spec.scale
    slack = 1e-9 * max(1.0, abs(number))
    if (low is not None and number < low - slack) or (high is not None and number > high + slack):
        return f"{number} lies outside the scale {spec.scale}"
    return None


def card_problem(card: Path) -> str | None:
    """What is wrong with a task's card."""
    text = card.read_text(encoding="utf-8")
    return None if text.lstrip().startswith("# ") else f"{card.name} must start with a heading: # Title"


def published_problem(file: Path) -> str | None:
    """What is wrong with a task's `published.json`."""
    try:
        rows: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"published.json: {error}"
    if not isinstance(rows, list):
        return f"published.json: expected a list of rows, found {type(rows).__name__}"
    for index, row in enumerate(rows):
        lacking = [key for key in _PUBLISHED_KEYS if not isinstance(row, dict) or key not in row]
        if lacking:
            return f"published.json: row {index} lacks {', '.join(lacking)}"
        if not isinstance(row["value"], (int, float)) or not math.isfinite(row["value"]):
            return f"published.json: row {index}: value {row['value']!r} is no number"
    return None
