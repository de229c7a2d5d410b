"""From journaled answers to records and metrics, in sample order, one sample in memory at a time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from omgbench.contract import MetricValue, Record, Response, Sample, Status
from omgbench.errors import OmgbenchError
from omgbench.runner.ask import describe_error
from omgbench.runner.journal import JournalIndex
from omgbench.runner.plan import Plan, PlannedSample
from omgbench.store.files import atomic_writer

RECORDS_FILE = "records.jsonl"
SHOWN_ERRORS = 5
MOST_ERRORS = 1000


@dataclass(slots=True)
class Scores:
    """What scoring a cell gives.

    Attributes:
        values: one per metric of the task, in its order.
        statuses: samples by status, after scoring.
        images: digest over the digests of the pictures shown, in sample order; "" when none were.
        errors: messages of failed samples, each with the number of samples and the first one's id.
    """

    values: tuple[MetricValue, ...] = ()
    statuses: dict[str, int] = field(default_factory=dict)
    images: str = ""
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)

    def error_lines(self) -> list[str]:
        """The most frequent messages, for people."""
        frequent = sorted(self.errors.items(), key=lambda item: -item[1][0])[:SHOWN_ERRORS]
        return [f"{count} x {text} (first: {first})" for text, (count, first) in frequent]


def score_cell(plan: Plan, index: JournalIndex, folder: Path) -> Scores:
    """Score every sample, write the records file whole, and sum it up.

    A sample whose `score` raises is scored again as a failed answer and counts as an error. Raises `OmgbenchError`
    when `summarize` raises or breaks its contract: the answers stay and can be scored again.
    """
    scores = Scores()
    images = hashlib.blake2b(digest_size=8)
    task = plan.cell.task
    with atomic_writer(folder / RECORDS_FILE) as stream:
        records = _records(plan, index, scores, images, stream)
        try:
            values = tuple(task.summarize(records))
        except OmgbenchError:
            raise
        except Exception as error:
            raise OmgbenchError(
                f"the metrics of {plan.cell.label} failed: {describe_error(error)}\n"
                f"  kept: every answer, in {folder}\n"
                f"  next: once the task is mended, the same command scores them again"
            ) from error
        for _ in records:
            # A task that needs no more records must still leave all of them on disk.
            pass
    _check_values(plan, values)
    scores.values = values
    order = [status.value for status in Status]
    scores.statuses = dict(sorted(scores.statuses.items(), key=lambda item: order.index(item[0])))
    scores.images = images.hexdigest() if scores.images else ""
    return scores


def _records(plan: Plan, index: JournalIndex, scores: Scores, images: Any, stream: IO[str]) -> Iterator[Record]:
    for planned, answer in index.answers(plan.samples()):
        if answer is None:
            response = Response(planned.sample.id, Status.MISSING, error="never answered")
        else:
            response = answer.response
            images.update(answer.images.encode())
            scores.images = scores.images or answer.images
        record, line, error = score_sample(plan, planned, response)
        scores.statuses[record.status.value] = scores.statuses.get(record.status.value, 0) + 1
        if error is not None and (error in scores.errors or len(scores.errors) < MOST_ERRORS):
            count, first = scores.errors.get(error, (0, record.id))
            scores.errors[error] = (count + 1, first)
        stream.write(line)
        if record.status is not Status.UNSUPPORTED:
            yield record


def score_sample(plan: Plan, planned: PlannedSample, response: Response) -> tuple[Record, str, str | None]:
    """Record of one answer, its line for the records file, and the error if it failed. Never raises for one sample."""
    sample = planned.sample
    if response.status is Status.UNSUPPORTED:
        record = Record(sample.id, sample.group, response.status, {"error": response.error})
        return record, record_line(record), response.error
    try:
        record = _scored(plan, sample, response)
        return record, record_line(record), response.error if response.status.failed else None
    except Exception as error:
        text = f"scoring failed: {describe_error(error)}"
        if response.status.failed:
            raise OmgbenchError(f"task {plan.cell.label} cannot score a failed answer ({sample.id}): {text}") from error
    try:
        record = _scored(plan, sample, Response(sample.id, Status.ERROR, error=text))
        return record, record_line(record), text
    except Exception as error:
        raise OmgbenchError(
            f"task {plan.cell.label}: score() fails for sample {sample.id}, and for a failed answer in its place: "
            f"{describe_error(error)}\n"
            f"  kept: every answer\n"
            f"  next: once the task is mended, the same command scores them again"
        ) from error


def _scored(plan: Plan, sample: Sample, response: Response) -> Record:
    record: object = plan.cell.task.score(sample, response)
    if not isinstance(record, Record):
        raise TypeError(f"score() gave a {type(record).__name__}, expected omgbench.contract.Record")
    # A record of another status would hide a failure from coverage and exit code.
    if (record.id, record.group, record.status) != (sample.id, sample.group, response.status):
        raise TypeError(
            f"score() gave the record of {record.id!r}, group {record.group!r}, status {record.status.value}; expected "
            f"{sample.id!r}, {sample.group!r}, {response.status.value}"
        )
    return record


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def record_line(record: Record) -> str:
    """One line of the records file. Raises `ValueError` for NaN or infinity in the statistics."""
    value = {"id": record.id, "group": record.group, "status": record.status.value, "stats": record.stats}
    return _ENCODER.encode(value) + "\n"


def read_records(path: Path) -> Iterator[Record]:
    """Records of a finished cell."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            value = json.loads(line)
            yield Record(value["id"], value["group"], Status(value["status"]), value["stats"])


def _check_values(plan: Plan, values: tuple[MetricValue, ...]) -> None:
    expected = [spec.name for spec in plan.cell.task.info.metrics]
    strange = next((value for value in values if not isinstance(value, MetricValue)), None)
    if strange is not None:
        raise OmgbenchError(
            f"task {plan.cell.label} summed up a {type(strange).__name__}, expected omgbench.contract.MetricValue"
        )
    found = [value.name for value in values]
    if found != expected:
        raise OmgbenchError(f"task {plan.cell.label} summed up {found}, expected its metrics {expected}")
    for value in values:
        number = value.value
        if number is not None and not (isinstance(number, int | float) and math.isfinite(number)):
            raise OmgbenchError(
                f"task {plan.cell.label}: metric {value.name} is {number!r}, expected a finite number or None"
            )
