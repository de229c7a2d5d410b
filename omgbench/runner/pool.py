"""Worker processes on one machine: hands out blocks, restarts the dead, names the stuck.

Workers share no lock and make no collective call. A block that a worker died on is asked again one request at a
time; the request that a worker dies on alone becomes an error, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omgbench.contract import ModelIdentity, Placement, Response, Status
from omgbench.errors import OmgbenchError, PluginError
from omgbench.runner.engine import CellJob, LoadedModel, count_statuses
from omgbench.runner.journal import Answer, JournalWriter, Session
from omgbench.runner.plan import Plan
from omgbench.runner.progress import Progress, WarningsOnly
from omgbench.runner.watchdog import Watchdog

QUEUED_BLOCKS = 2
"""Blocks a worker holds: one at work, one waiting, so that it never waits for us."""
DEATHS_WITHOUT_PROGRESS = 3
FINISH_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """How a worker builds the model: spec, constructor arguments, placement."""

    spec: str
    arguments: Mapping[str, Any]
    placement: Placement


@dataclass(slots=True)
class _Block:
    """Open ordinals that one worker is to answer, and the largest batch allowed."""

    ordinals: list[int]
    most: int = sys.maxsize


@dataclass(slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[str]
    watchdog: Watchdog
    blocks: deque[_Block] = field(default_factory=deque)
    in_flight: list[int] = field(default_factory=list)
    fatal: dict[str, Any] | None = None
    last_words: str = ""
    deadline_hit: bool = False
    retired: bool = False


class PoolEngine:
    """`n_workers` processes that each hold the model.

    Attributes:
        n_workers, batch_size, timeout_s: as asked for; the batch size falls when memory runs out.
        workers: the processes that live.
        events: what they say, as (worker, event), None for the end of a worker.
        say: receives lines for people.
    """

    def __init__(self, model: WorkerModel, n_workers: int, batch_size: int, timeout_s: float | None = None) -> None:
        self._model = model
        self.n_workers = n_workers
        self.batch_size = batch_size
        self.timeout_s = timeout_s
        self.events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self.workers: list[_Worker] = []
        self._loaded: LoadedModel | None = None
        self.say: Any = WarningsOnly().say

    def start(self) -> LoadedModel:
        """Start the first worker and learn from it which model it holds; the others follow with the first cell."""
        self.workers.append(self.spawn(0))
        while self._loaded is None:
            source, event = self.events.get()
            if event is None:
                self.raise_fatal(source)
            self.note(source, event or {})
        return self._loaded

    def answer(self, job: CellJob, progress: Progress) -> None:
        """Answer every open sample of the job."""
        if not job.blocks:
            return
        _Distribution(self, job, progress).run()

    def close(self) -> None:
        """End the workers: each may finish its batch, then it is killed."""
        for worker in self.workers:
            worker.retired = True
            _end_input(worker.process)
            if worker.blocks:
                worker.process.terminate()
        deadline = time.monotonic() + FINISH_WITHIN_S
        for worker in self.workers:
            try:
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self.workers.clear()

    def spawn(self, number: int) -> _Worker:
        """Start a worker process; it says when it is ready."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        process = subprocess.Popen(
            [sys.executable, "-m", "omgbench.runner.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            # A Ctrl-C of the terminal must reach the parent alone, which then lets workers finish their batch.
            start_new_session=True,
        )
        worker = _Worker(
            number, process, Watchdog(f"worker {number} (process {process.pid})", lambda line: self.say(line))
        )
        placement = asdict(self._model.placement) | {"worker": number}
        arguments = dict(self._model.arguments)
        self.tell(worker, {"model": self._model.spec, "model_args": arguments, "placement": placement})
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            self.events.put((worker, json.loads(line)))
        worker.process.wait()
        self.events.put((worker, None))

    def tell(self, worker: _Worker, command: dict[str, Any]) -> None:
        """Send a command; a worker that is gone is noticed by its end of output."""
        with contextlib.suppress(OSError):
            assert worker.process.stdin is not None
            worker.process.stdin.write(json.dumps(command) + "\n")
            worker.process.stdin.flush()

    def note(self, worker: _Worker, event: dict[str, Any]) -> None:
        """Take in what concerns the worker itself. Raises `PluginError` when it holds another model than the first."""
        kind = event.get("event")
        if kind == "ready":
            loaded = LoadedModel(ModelIdentity(**event["identity"]), event["code"], Placement(**event["placement"]))
            if self._loaded is not None and loaded.fingerprint != self._loaded.fingerprint:
                raise PluginError(
                    f"worker {worker.number} holds another model than worker 0",
                    expected="the same identity in every process",
                    hint="the adapter's identity() must not depend on the process",
                )
            self._loaded = loaded
        elif kind == "fatal":
            worker.fatal = event
        elif kind == "died":
            worker.last_words = event["message"]

    def raise_fatal(self, worker: _Worker) -> None:
        """Raise what a worker ended with: `PluginError` for what the user can mend, else `OmgbenchError`."""
        fatal = worker.fatal
        if fatal is not None and fatal["user"]:
            raise PluginError(fatal["message"])
        message = fatal["message"] if fatal else f"it ended with exit code {worker.process.poll()}"
        raise OmgbenchError(f"worker {worker.number} failed: {message}")


class _Distribution:
    """One cell handed out to the workers of a pool."""

    def __init__(self, pool: PoolEngine, job: CellJob, progress: Progress) -> None:
        self._pool = pool
        self._job = job
        self._progress = progress
        self._batch_size = job.batch_size or pool.batch_size
        self._queue: deque[_Block] = deque(_Block(list(block)) for block in _joined(job.blocks, self._batch_size))
        self._journal = JournalWriter(job.journal_folder, job.cell_fp, Session("workers", "", self._batch_size))
        self._deaths = 0
        self._died_on: Counter[int] = Counter()
        pool.say = progress.say

    def run(self) -> None:
        pool = self._pool
        wanted = min(pool.n_workers, len(self._queue))
        while len(pool.workers) < wanted:
            pool.workers.append(pool.spawn(len(pool.workers)))
        for worker in pool.workers:
            pool.tell(worker, _cell_command(self._job, self._batch_size))
        for held in range(1, QUEUED_BLOCKS + 1):
            # Everybody has a first block before anybody has a second.
            for worker in pool.workers:
                self._feed(worker, held)
        try:
            while self._queue or any(worker.blocks for worker in pool.workers):
                self._step()
        finally:
            self._journal.close()
        if self._job.batch_size is None:
            pool.batch_size = self._batch_size

    def _feed(self, worker: _Worker, held: int = QUEUED_BLOCKS) -> None:
        while self._queue and len(worker.blocks) < held:
            block = self._queue.popleft()
            worker.blocks.append(block)
            attempts = [int(self._job.attempt_of[ordinal]) for ordinal in block.ordinals]
            self._pool.tell(
                worker,
                {
                    "command": "answer",
                    "ordinals": block.ordinals,
                    "attempts": attempts,
                    "batch_size": self._batch_size,
                    "most": block.most,
                },
            )

    def _step(self) -> None:
        try:
            worker, event = self._pool.events.get(timeout=1.0)
        except queue.Empty:
            self._watch()
            return
        self._watch()
        if worker.retired:
            return
        if event is None:
            self._bury(worker)
            return
        self._pool.note(worker, event)
        kind = event["event"]
        if kind == "started":
            worker.in_flight = event["ordinals"]
            worker.watchdog.started(event["ids"])
        elif kind == "finished":
            self._finished(worker, event)
        elif kind == "done":
            worker.blocks.popleft()
            self._batch_size = min(self._batch_size, event["shrunk_to"] or self._batch_size)
            self._feed(worker)

    def _finished(self, worker: _Worker, event: dict[str, Any]) -> None:
        answered = set(event["ordinals"])
        block = worker.blocks[0]
        block.ordinals = [ordinal for ordinal in block.ordinals if ordinal not in answered]
        worker.in_flight = []
        worker.watchdog.finished()
        self._deaths = 0
        self._progress.advanced(count_statuses(Status(status) for status in event["statuses"]))

    def _watch(self) -> None:
        limit = self._pool.timeout_s
        for worker in self._pool.workers:
            worker.watchdog.look()
            if limit is not None and worker.in_flight and worker.watchdog.busy_s() > limit and not worker.deadline_hit:
                worker.deadline_hit = True
                worker.process.kill()

    def _bury(self, worker: _Worker) -> None:
        """A worker is gone: give its work back and start another in its place."""
        if worker.fatal is not None:
            self._pool.raise_fatal(worker)
        worker.retired = True
        if len(worker.in_flight) == 1:
            ordinal = worker.in_flight[0]
            self._died_on[ordinal] += 1
            # Once may be another's fault (the system kills what is largest); twice alone is its own.
            if worker.deadline_hit or self._died_on[ordinal] > 1:
                self._give_up(worker, ordinal)
        elif not worker.in_flight:
            self._deaths += 1
        if self._deaths >= DEATHS_WITHOUT_PROGRESS:
            self._pool.raise_fatal(worker)
        self._return_blocks(worker)
        fresh = self._pool.spawn(worker.number)
        self._pool.workers[self._pool.workers.index(worker)] = fresh
        self._progress.say(f"worker {worker.number} ended (exit code {worker.process.poll()}); started anew")
        self._pool.tell(fresh, _cell_command(self._job, self._batch_size))
        self._feed(fresh)

    def _return_blocks(self, worker: _Worker) -> None:
        suspects = set(worker.in_flight)
        for block in reversed(worker.blocks):
            rest = [ordinal for ordinal in block.ordinals if ordinal not in suspects]
            alone = [ordinal for ordinal in block.ordinals if ordinal in suspects]
            if rest:
                self._queue.appendleft(_Block(rest, block.most))
            for ordinal in reversed(alone):
                self._queue.appendleft(_Block([ordinal], 1))
        worker.blocks.clear()

    def _give_up(self, worker: _Worker, ordinal: int) -> None:
        """The request that killed a worker all by itself."""
        if worker.deadline_hit:
            status, text = Status.TIMEOUT, f"no answer within {self._pool.timeout_s:g} s"
        else:
            status, text = Status.ERROR, f"the worker process died on it ({worker.last_words or _exit(worker)})"
        planned = next(item for item in self._job.plan.samples() if item.ordinal == ordinal)
        response = Response(planned.sample.id, status, error=text)
        self._journal.append([Answer(ordinal, "", int(self._job.attempt_of[ordinal]), response)])
        for block in worker.blocks:
            block.ordinals = [other for other in block.ordinals if other != ordinal]
        worker.in_flight = []
        self._progress.advanced({status.value: 1})


def _exit(worker: _Worker) -> str:
    return f"exit code {worker.process.poll()}"


def _joined(blocks: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Blocks joined until each holds a whole batch, so that large batches are not cut short."""
    joined: list[list[int]] = []
    for block in blocks:
        if joined and len(joined[-1]) < batch_size:
            joined[-1].extend(block)
        else:
            joined.append(list(block))
    return joined


def _cell_command(job: CellJob, batch_size: int) -> dict[str, Any]:
    plan: Plan = job.plan
    return {
        "command": "cell",
        "task": plan.cell.spec,
        "subset": plan.cell.split.subset,
        "split": plan.cell.split.name,
        "data_root": str(plan.data_root),
        "options": asdict(plan.options),
        "journal_folder": str(job.journal_folder),
        "cell_fp": job.cell_fp,
        "batch_size": batch_size,
    }


def _end_input(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
