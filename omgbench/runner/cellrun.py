"""One cell of a run: check what is there, answer what is open, score, write the result."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np

from omgbench.contract import Response
from omgbench.errors import RunRefused
from omgbench.runner.claim import claim_folder, locked
from omgbench.runner.context import CellContext
from omgbench.runner.engine import CellJob, Engine
from omgbench.runner.journal import STATUS_ORDER, UNANSWERED, JournalIndex
from omgbench.runner.prefetch import FrameId, frame_id, frames_digest
from omgbench.runner.progress import Progress, WarningsOnly
from omgbench.runner.results import DETERMINISM_FILE, finish_cell
from omgbench.store import ResultRecord, atomic_write_text
from omgbench.store.files import remove_leftovers

DETERMINISM_SHARE = 0.01
DETERMINISM_AT_LEAST = 8


def run_cell(context: CellContext, engine: Engine, progress: Progress) -> ResultRecord | None:
    """Answer what is open and score the cell. None when this was one shard of several."""
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
        if context.settings.check_determinism:
            found = _check_determinism(context, engine, progress)
            atomic_write_text(context.folder / DETERMINISM_FILE, json.dumps(found) + "\n")
        return finish_cell(context)


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
    is_open = index.status == UNANSWERED
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
    digests: dict[tuple[FrameId, ...], str] = {}
    for planned in context.plan.samples():
        answered = index.images_of(planned.ordinal)
        if not answered:
            continue
        frames = planned.sample.request.frames
        ids = tuple(map(frame_id, frames))
        if ids not in digests:
            # Only the picture at hand is remembered: its samples stand together.
            digests = {ids: frames_digest(planned)}
        if digests[ids] != answered:
            raise RunRefused(
                f"the picture of sample {planned.sample.id} has changed since it was answered",
                where=", ".join(frame.key for frame in frames),
                expected=f"bytes with digest {answered}, found {digests[ids] or 'an unreadable file'}",
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
    job = CellJob(context.plan, folder, context.fingerprint, [ordinals], [0] * n, batch_size=other)
    engine.answer(job, WarningsOnly())
    first = JournalIndex.load(context.journal_folder, context.fingerprint, n)
    second = JournalIndex.load(folder, context.fingerprint, n)
    differing: list[str] = []
    wanted = set(ordinals)
    for planned in context.plan.samples():
        if planned.ordinal in wanted:
            one, two = first.answer(planned), second.answer(planned)
            if one is None or two is None or _essence(one.response) != _essence(two.response):
                differing.append(planned.sample.id)
    first.close()
    second.close()
    agree = len(ordinals) - len(differing)
    return {"n": len(ordinals), "agree": agree, "batch_size": other, "differing": differing[:20]}


def _essence(response: Response) -> Response:
    """A response without what may differ from call to call, such as seconds."""
    return replace(response, usage={})
