"""From a cell's answers to its result: records, metrics and the result record, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omgbench.contract import SplitInfo, Status
from omgbench.data.locate import locate
from omgbench.errors import DataError
from omgbench.identity import environment, file_sha256
from omgbench.runner.context import CellContext
from omgbench.runner.journal import JournalIndex
from omgbench.runner.plan import Plan
from omgbench.runner.scoring import Scores, score_cell
from omgbench.store import atomic_write_text
from omgbench.store.result import (
    RESULT_FILE,
    SCHEMA_VERSION,
    Coverage,
    DataRecord,
    EngineRecord,
    MetricRecord,
    ModelRecord,
    ResultRecord,
    TaskRecord,
)

METRICS_FILE = "metrics.json"
DETERMINISM_FILE = "determinism.json"


def options_record(plan: Plan) -> dict[str, Any]:
    """The plan's options as plain JSON, unset ones left out."""
    options = plan.options
    record: dict[str, Any] = {"limit": options.limit, "seed": options.seed, "template": options.template}
    record["gen"] = dict(options.gen)
    return {key: value for key, value in record.items() if value not in (None, {})}


def finish_cell(context: CellContext) -> ResultRecord:
    """Score the answers and write records, metrics and the result record."""
    # What is torn in the journals was told when they were first read.
    index = JournalIndex.load(context.journal_folder, context.fingerprint, context.plan.n_samples)
    scores = score_cell(context.plan, index, context.folder)
    result = make_result(context, index, scores)
    atomic_write_text(context.folder / METRICS_FILE, metrics_text(result))
    atomic_write_text(context.folder / RESULT_FILE, result.to_json())
    return result


def metrics_text(result: ResultRecord) -> str:
    """The numbers and counts alone: the same bytes however the run was cut, stopped and resumed."""
    value = {
        "task": result.label,
        "coverage": result.coverage.model_dump(),
        "metrics": {item.name: {"value": item.value, "n": item.n, "note": item.note} for item in result.metrics},
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def make_result(context: CellContext, index: JournalIndex, scores: Scores) -> ResultRecord:
    """Put together the result record."""
    reasons = _reasons(context, scores)
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return ResultRecord(
        schema_version=SCHEMA_VERSION,
        task=_task_record(context),
        data=_data_record(context, scores),
        model=_model_record(context),
        options=options_record(context.plan),
        engine=_engine_record(context, index),
        environment=environment(),
        coverage=_coverage(scores),
        metrics=tuple(_metric_records(context, scores)),
        complete=not reasons,
        reasons=tuple(reasons + scores.error_lines()),
        marks=tuple(_marks(context, scores)),
        determinism=_determinism(context.folder),
        started=min((session.started for session in index.sessions), default=finished),
        finished=finished,
        duration_s=round(sum(session.seconds for session in index.sessions), 3),
    )


def _engine_record(context: CellContext, index: JournalIndex) -> EngineRecord:
    """How the answers came about, from the journals themselves: not how the last command was called."""
    sessions = index.sessions

    def distinct(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(value for value in values if value))

    return EngineRecord(
        name=distinct([session.engine for session in sessions]),
        device=distinct([session.device for session in sessions]),
        dtype=context.model.placement.dtype,
        batch_sizes=tuple(sorted({session.batch_size for session in sessions})),
        processes=len(sessions),
    )


def _determinism(folder: Path) -> dict[str, Any] | None:
    """What the last check found, however long ago it was."""
    path = folder / DETERMINISM_FILE
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _reasons(context: CellContext, scores: Scores) -> list[str]:
    """Why the result is incomplete; empty when it is complete."""
    reasons = []
    failed = {name: count for name, count in scores.statuses.items() if Status(name).failed}
    if failed and not context.settings.allow_errors:
        reasons.append(", ".join(f"{count} {name}" for name, count in failed.items()))
    unsupported = scores.statuses.get(Status.UNSUPPORTED.value, 0)
    if unsupported:
        reasons.append(f"{unsupported} requests that the model does not support")
    specs = {spec.name: spec for spec in context.plan.cell.task.info.metrics}
    for value in scores.values:
        if value.value is None and not specs[value.name].optional and not unsupported:
            reasons.append(f"{value.name} not computed: {value.note or 'no reason given'}")
    return reasons


def _marks(context: CellContext, scores: Scores) -> list[str]:
    marks = []
    if context.root.kind == "demo":
        marks.append("demo data")
    if context.capabilities.sees_references:
        marks.append("sees the references")
    options = context.plan.options
    if options.limit is not None:
        drawn = "" if options.seed is None else f" drawn with seed {options.seed}"
        marks.append(f"limit {options.limit}{drawn}")
    if options.template is not None:
        marks.append(f"template {options.template}")
    if options.gen:
        marks.append(", ".join(f"{name} {value}" for name, value in options.gen))
    failed = sum(count for name, count in scores.statuses.items() if Status(name).failed)
    if failed and context.settings.allow_errors:
        marks.append(f"{failed} errors allowed")
    if context.root.kind == "user" and not context.plan.options.limit and _official_count(context) is False:
        marks.append("not the official number of samples")
    return marks


def _official_count(context: CellContext) -> bool | None:
    official = context.plan.cell.split.n_samples
    if official is None or context.root.kind != "user":
        return None
    return official == context.plan.n_samples


def _coverage(scores: Scores) -> Coverage:
    left_out = {Status.UNSUPPORTED.value} | {status.value for status in Status if status.failed}
    answered = sum(count for name, count in scores.statuses.items() if name not in left_out)
    return Coverage(n_samples=sum(scores.statuses.values()), answered=answered, statuses=scores.statuses)


def _task_record(context: CellContext) -> TaskRecord:
    info, split = context.plan.cell.task.info, context.plan.cell.split
    return TaskRecord(
        name=info.name,
        version=info.version,
        title=info.title,
        protocol=info.protocol,
        subset=split.subset,
        split=split.name,
    )


def _data_record(context: CellContext, scores: Scores) -> DataRecord:
    return DataRecord(
        kind=context.root.kind,
        annotations_sha256=file_hashes(context.root.path, context.plan.cell.split),
        requests=context.plan.fingerprint,
        images=scores.images,
        n_samples=context.plan.n_samples,
        n_groups=context.plan.n_groups,
        official_count=_official_count(context),
    )


def file_hashes(root: Path, split: SplitInfo) -> dict[str, str]:
    """SHA-256 of each annotation file of a split that is there, by path under the root."""
    hashes = {}
    for data_file in split.files:
        if data_file.role != "annotations":
            continue
        try:
            path = locate(root, data_file)
        except DataError:
            continue
        if path.is_file():
            hashes[path.relative_to(root).as_posix()] = file_sha256(path)
    return hashes


def _model_record(context: CellContext) -> ModelRecord:
    identity = context.model.identity
    return ModelRecord(
        name=identity.name,
        version=identity.version,
        weights=identity.weights,
        templates=dict(identity.templates),
        options=dict(identity.options),
        libraries=dict(identity.libraries),
        code=context.model.code,
        fingerprint=context.model.fingerprint,
        spec=context.settings.model_spec,
        mask_source=context.capabilities.mask_source,
        language_model=context.capabilities.language_model,
        sees_references=context.capabilities.sees_references,
    )


def _metric_records(context: CellContext, scores: Scores) -> Iterator[MetricRecord]:
    left_out = scores.statuses.get(Status.UNSUPPORTED.value, 0) > 0
    for spec, value in zip(context.plan.cell.task.info.metrics, scores.values, strict=True):
        yield MetricRecord(
            name=spec.name,
            value=None if left_out else value.value,
            n=value.n,
            note="left out: the model does not support every request" if left_out else value.note,
            interval=None if left_out else value.interval,
            description=spec.description,
            scale=spec.scale,
            display_factor=spec.display_factor,
            higher_is_better=spec.higher_is_better,
            primary=spec.primary,
            optional=spec.optional,
        )
