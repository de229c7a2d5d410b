"""One cell of a run: check what is there, answer what is open, score, write the result."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from omgbench.contract import Capabilities, SplitInfo, Status
from omgbench.data.locate import locate
from omgbench.data.roots import DataRoot
from omgbench.errors import DataError, RunRefused, UserError
from omgbench.identity import canonical_json, environment, file_sha256, fingerprint
from omgbench.runner.engine import CellJob, Engine, LoadedModel
from omgbench.runner.journal import STATUS_ORDER, JournalIndex
from omgbench.runner.plan import Plan
from omgbench.runner.prefetch import frames_digest
from omgbench.runner.progress import Progress
from omgbench.runner.scoring import Scores, score_cell
from omgbench.store import atomic_write_text
from omgbench.store.files import remove_leftovers
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

CELL_FILE = "cell.json"
METRICS_FILE = "metrics.json"
JOURNAL_FOLDER = "journal"
DETERMINISM_SHARE = 0.01
DETERMINISM_AT_LEAST = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` (from 1) of `count`: the blocks whose index leaves the remainder `number - 1`."""

    number: int = 1
    count: int = 1

    @property
    def whole(self) -> bool:
        """Whether this is everything."""
        return self.count == 1


@dataclass(frozen=True, slots=True)
class CellSettings:
    """What the user asks of every cell of a run.

    Attributes:
        shard: the part to answer.
        retry_errors: ask failed requests again.
        allow_errors: failed requests leave the result complete (they still score as the worst case).
        check_determinism: ask 1% of the samples again at another batch size.
        model_spec: what the user typed for the model.
        device, dtype, workers, batch_size: recorded.
    """

    shard: Shard = Shard()
    retry_errors: bool = False
    allow_errors: bool = False
    check_determinism: bool = False
    model_spec: str = ""
    device: str = "auto"
    dtype: str = "auto"
    workers: int = 0
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class CellContext:
    """A cell, its place on disk and the model that answers it."""

    plan: Plan
    root: DataRoot
    folder: Path
    capabilities: Capabilities
    model: LoadedModel
    settings: CellSettings

    @property
    def fingerprint(self) -> str:
        """Answers belong together only under one such fingerprint."""
        return fingerprint({"model": self.model.fingerprint, "plan": self.plan.fingerprint})

    def with_errors_allowed(self, allowed: bool) -> CellContext:
        """The same cell with another rule for failed requests."""
        return replace(self, settings=replace(self.settings, allow_errors=allowed))

    @property
    def journal_folder(self) -> Path:
        """Where the cell's journals are."""
        return self.folder / JOURNAL_FOLDER


def run_cell(context: CellContext, engine: Engine, progress: Progress) -> ResultRecord | None:
    """Answer what is open and score the cell. None when this was one shard of several."""
    started, clock = datetime.now(UTC), time.monotonic()
    with locked(context):
        remove_leftovers(context.folder)
        claim_folder(context)
        index = load_index(context, progress)
        blocks = open_blocks(context, index)
        total = sum(len(context.plan.block_range(block)) for block in shard_blocks(context))
        open_count = sum(len(block) for block in blocks)
        progress.cell_started(context.plan.cell.label, total, total - open_count)
        if index.n_answered() and context.capabilities.reads_images:
            check_images(context, index)
        index.close()
        if blocks:
            job = CellJob(context.plan, context.journal_folder, context.fingerprint, blocks, index.attempt.tolist())
            engine.answer(job, progress)
        progress.cell_finished(context.plan.cell.label)
        if not context.settings.shard.whole:
            return None
        determinism = _check_determinism(context, engine, progress) if context.settings.check_determinism else None
        return finish_cell(context, engine.batch_size, started, clock, determinism)


@contextmanager
def locked(context: CellContext) -> Iterator[None]:
    """Hold the cell's lock for this shard. The system frees it when the process ends, however it ends."""
    from filelock import FileLock, Timeout

    shard = context.settings.shard
    name = ".run.lock" if shard.whole else f".shard-{shard.number}-of-{shard.count}.lock"
    lock = FileLock(context.folder / name)
    try:
        context.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunRefused(
            f"another process is at work on {context.plan.cell.label}",
            where=str(context.folder),
            hint="wait for it, or give this run an --out of its own",
        ) from None
    except OSError as error:
        raise UserError(
            f"the run directory cannot be written: {error.strerror}",
            where=str(context.folder),
            hint="name another --out",
        ) from error
    try:
        yield
    finally:
        lock.release()


def claim_folder(context: CellContext) -> None:
    """Write down whose folder this is, or refuse a folder that is another's, naming what differs."""
    mine = {
        "cell": context.fingerprint,
        "label": context.plan.cell.label,
        "plan": context.plan.fingerprint,
        "n_samples": context.plan.n_samples,
        "options": options_record(context.plan),
        "model": asdict(context.model.identity) | {"code": context.model.code},
        "task": {"name": context.plan.cell.task.info.name, "spec": context.plan.cell.spec},
        "data": {"root": str(context.root.path.resolve()), "kind": context.root.kind},
        "capabilities": {
            "mask_source": context.capabilities.mask_source,
            "language_model": context.capabilities.language_model,
            "sees_references": context.capabilities.sees_references,
            "reads_images": context.capabilities.reads_images,
        },
        "settings": {
            "model_spec": context.settings.model_spec,
            "allow_errors": context.settings.allow_errors,
            "device": context.settings.device,
            "dtype": context.settings.dtype,
            "workers": context.settings.workers,
            "batch_size": context.settings.batch_size,
        },
    }
    path = context.folder / CELL_FILE
    if not path.exists():
        atomic_write_text(path, json.dumps(mine, indent=1, default=str) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        raise RunRefused(
            f"a run directory that cannot be read: {error}", where=str(path), hint="use a new --out"
        ) from None
    if found.get("cell") != mine["cell"]:
        raise RunRefused(
            f"{context.folder} holds answers under another fingerprint; they are not reused",
            expected="the same model, weights, adapter code, prompts, options and samples",
            where="; ".join(_differences(found, json.loads(json.dumps(mine, default=str)))) or str(path),
            hint="name a new --out directory, or leave --out away: each fingerprint then gets its own",
        )


def _differences(found: dict[str, Any], mine: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key in sorted(set(found) | set(mine)):
        old, new = found.get(key), mine.get(key)
        if old == new or (not prefix and key in ("cell", "data", "settings", "capabilities", "task")):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            lines.extend(_differences(old, new, f"{prefix}{key}."))
        else:
            lines.append(f"{prefix}{key}: there {_short(old)}, here {_short(new)}")
    return lines


def _short(value: object) -> str:
    text = canonical_json(value)
    return text if len(text) <= 60 else text[:57] + "..."


def options_record(plan: Plan) -> dict[str, Any]:
    """The plan's options as plain JSON, unset ones left out."""
    options = plan.options
    record: dict[str, Any] = {"limit": options.limit, "seed": options.seed, "template": options.template}
    record["gen"] = dict(options.gen)
    return {key: value for key, value in record.items() if value not in (None, {})}


def load_index(context: CellContext, progress: Progress) -> JournalIndex:
    """The answers that are there."""
    index = JournalIndex.load(context.journal_folder, context.fingerprint, context.plan.n_samples)
    if index.dropped_lines:
        shown = ", ".join(index.dropped_lines[:3])
        progress.say(f"{len(index.dropped_lines)} torn journal line(s) left out and asked again: {shown}")
    return index


def shard_blocks(context: CellContext) -> range:
    """Blocks of this shard."""
    shard = context.settings.shard
    return range(shard.number - 1, context.plan.n_blocks, shard.count)


def open_blocks(context: CellContext, index: JournalIndex) -> list[list[int]]:
    """Unanswered ordinals of this shard by block; with `retry_errors` the failed ones too."""
    is_open = index.status == 255
    if context.settings.retry_errors:
        failed = [number for number, status in enumerate(STATUS_ORDER) if status.failed]
        is_open = is_open | np.isin(index.status, failed)
    blocks = []
    for block in shard_blocks(context):
        ordinals = context.plan.block_range(block)
        chosen = (np.flatnonzero(is_open[ordinals.start : ordinals.stop]) + ordinals.start).tolist()
        if chosen:
            blocks.append(chosen)
    return blocks


def check_images(context: CellContext, index: JournalIndex) -> None:
    """Refuse to go on when a picture is no longer the one that was answered about."""
    digests: dict[tuple[str, ...], str] = {}
    for planned, answer in index.answers(context.plan.samples()):
        if answer is None or not answer.images:
            continue
        keys = tuple(frame.key for frame in planned.sample.request.frames)
        if keys not in digests:
            digests = {keys: frames_digest(planned)}
        if digests[keys] != answer.images:
            raise RunRefused(
                f"the picture of sample {planned.sample.id} has changed since it was answered",
                where=", ".join(keys),
                expected=f"bytes with digest {answer.images}, found {digests[keys] or 'an unreadable file'}",
                hint="put the original picture back, or use a new --out",
            )


def _check_determinism(context: CellContext, engine: Engine, progress: Progress) -> dict[str, Any]:
    """Ask a hundredth of the samples again at another batch size, and compare answers."""
    n = context.plan.n_samples
    count = min(n, max(DETERMINISM_AT_LEAST, round(n * DETERMINISM_SHARE)))
    ordinals = sorted({int(value) for value in np.linspace(0, n - 1, count)})
    folder = context.folder / "determinism"
    shutil.rmtree(folder, ignore_errors=True)
    other = 1 if engine.batch_size > 1 else 4
    progress.say(f"asking {len(ordinals)} samples again at batch size {other}")
    attempts = np.zeros(n, dtype=np.uint8).tolist()
    engine.answer(CellJob(context.plan, folder, context.fingerprint, [ordinals], attempts, batch_size=other), progress)
    first = load_index(context, progress)
    second = JournalIndex.load(folder, context.fingerprint, n)
    differing: list[str] = []
    wanted = set(ordinals)
    for planned in context.plan.samples():
        if planned.ordinal in wanted:
            one, two = first.answer(planned), second.answer(planned)
            if one is None or two is None or one.response != two.response:
                differing.append(planned.sample.id)
    first.close()
    second.close()
    agree = len(ordinals) - len(differing)
    return {"n": len(ordinals), "agree": agree, "batch_size": other, "differing": differing[:20]}


def finish_cell(
    context: CellContext,
    batch_size: int,
    started: datetime,
    clock: float,
    determinism: dict[str, Any] | None,
) -> ResultRecord:
    """Score the answers and write records, metrics and the result record."""
    # What is torn in the journals was told when they were first read.
    index = JournalIndex.load(context.journal_folder, context.fingerprint, context.plan.n_samples)
    scores = score_cell(context.plan, index, context.folder)
    result = make_result(context, scores, batch_size, started, time.monotonic() - clock, determinism)
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


def make_result(
    context: CellContext,
    scores: Scores,
    batch_size: int,
    started: datetime,
    duration_s: float,
    determinism: dict[str, Any] | None,
) -> ResultRecord:
    """Put together the result record."""
    reasons = _reasons(context, scores)
    return ResultRecord(
        schema_version=SCHEMA_VERSION,
        task=_task_record(context),
        data=_data_record(context, scores),
        model=_model_record(context),
        options=options_record(context.plan),
        engine=EngineRecord(
            name="workers" if context.settings.workers else "local",
            device=context.settings.device,
            dtype=context.settings.dtype,
            batch_size=batch_size,
            workers=context.settings.workers,
        ),
        environment=environment(),
        coverage=_coverage(scores),
        metrics=tuple(_metric_records(context, scores)),
        complete=not reasons,
        reasons=tuple(reasons + scores.error_lines()),
        marks=tuple(_marks(context, scores)),
        determinism=determinism,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=round(duration_s, 3),
    )


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
