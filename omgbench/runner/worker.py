"""A worker process: builds the model anew, answers the samples it is told to, journals them to a file of its own.

Speaks JSON lines: commands on standard input, events on what was standard output. Everything that the model prints
goes to standard error. The end of its input ends the worker, so none outlives a killed parent for longer than the
batch in flight.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from omgbench import registry
from omgbench.contract import ModelDied, Placement, Status
from omgbench.errors import OmgbenchError
from omgbench.runner.ask import Asker, describe_error
from omgbench.runner.engine import load_model, pick
from omgbench.runner.journal import JournalWriter, Session
from omgbench.runner.loop import answer_samples
from omgbench.runner.plan import PlannedSample, PlanOptions, planned_samples
from omgbench.runner.prefetch import ImageReader
from omgbench.selection import Cell, choose_splits

EXIT_DIED = 70
PARENT_CHECK_S = 1.0


class _Stop(Exception):
    """The parent wants an end at the next batch border."""


class _Channel:
    """Sends events to the parent; stops at a batch border once told to."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._ordinals: list[int] = []
        self._stopping = False

    def stop(self, *_: object) -> None:
        self._stopping = True

    def send(self, **event: Any) -> None:
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def batch_started(self, ordinals: Sequence[int], ids: Sequence[str]) -> None:
        if self._stopping:
            raise _Stop
        self._ordinals = list(ordinals)
        self.send(event="started", ordinals=self._ordinals, ids=list(ids))

    def batch_finished(self, statuses: Sequence[Status]) -> None:
        self.send(event="finished", ordinals=self._ordinals, statuses=[status.value for status in statuses])


class _CellAtWork:
    """The cell a worker is on: streams its samples forward, again from the start only when told to go back."""

    def __init__(self, command: dict[str, Any], device: str) -> None:
        task = registry.build_task(command["task"])
        split = next(
            found
            for found in choose_splits(task, command["subset"], command["split"])
            if found.subset == command["subset"]
        )
        self.cell = Cell(task, command["task"], split)
        self._data_root = Path(command["data_root"])
        options = command["options"]
        self._options = PlanOptions(
            options["limit"], options["seed"], options["template"], tuple((key, value) for key, value in options["gen"])
        )
        session = Session("workers", device, command["batch_size"])
        self.journal = JournalWriter(Path(command["journal_folder"]), command["cell_fp"], session)
        self._stream: Iterator[PlannedSample] = iter(())
        self._next = sys.maxsize
        self._taken: dict[tuple[int, ...], list[PlannedSample]] = {}

    def take(self, ordinals: Sequence[int]) -> list[PlannedSample]:
        """The samples with these ascending ordinals; remembered until another block is taken."""
        key = tuple(ordinals)
        if key not in self._taken:
            if ordinals[0] < self._next:
                self._stream = planned_samples(self.cell, self._data_root, self._options)
            self._next = ordinals[-1] + 1
            self._taken = {key: list(pick(self._stream, ordinals))}
        return self._taken[key]


def main() -> int:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    channel = _Channel(_take_standard_output())
    signal.signal(signal.SIGTERM, channel.stop)
    try:
        _serve(sys.stdin, channel)
    except OmgbenchError as error:
        channel.send(event="fatal", user=error.exit_code == 2, message=str(error))
        return error.exit_code
    except (BrokenPipeError, _Stop):
        return 1
    except ModelDied as error:
        channel.send(event="died", message=str(error))
        return EXIT_DIED
    except Exception as error:
        channel.send(event="fatal", user=False, message=describe_error(error))
        raise
    return 0


class _Commands:
    """The parent's commands, read on a thread, so that the next can be looked at while one is at work."""

    def __init__(self, stream: IO[str]) -> None:
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._next: dict[str, Any] | None = None
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def take(self) -> dict[str, Any] | None:
        """The next command; waits for it. None at the end."""
        command, self._next = self._next, None
        return command or self._queue.get()

    def peek(self) -> dict[str, Any] | None:
        """The next command if it is there already; it stays to be taken."""
        if self._next is None:
            with contextlib.suppress(queue.Empty):
                self._next = self._queue.get_nowait()
                if self._next is None:
                    # The end, which must be found again.
                    self._queue.put(None)
        return self._next


def _serve(stream: IO[str], channel: _Channel) -> None:
    first = json.loads(stream.readline())
    model = registry.build_model(first["model"], first["model_args"])
    loaded = load_model(model, Placement(**first["placement"]))
    channel.send(event="ready", identity=asdict(loaded.identity), code=loaded.code, placement=asdict(loaded.placement))
    asker = Asker(model, registry.capabilities_of(model, first["model"]), 1)
    commands = _Commands(stream)
    at_work: _CellAtWork | None = None
    with ImageReader() as reader:
        while (command := commands.take()) is not None:
            if command["command"] == "cell":
                if at_work is not None:
                    at_work.journal.close()
                at_work = _CellAtWork(command, loaded.placement.device)
            elif at_work is not None:
                _answer(command, at_work, asker, channel, reader, commands)
    model.close()


def _answer(
    command: dict[str, Any],
    at_work: _CellAtWork,
    asker: Asker,
    channel: _Channel,
    reader: ImageReader,
    commands: _Commands,
) -> None:
    def upcoming() -> Sequence[PlannedSample]:
        following = commands.peek()
        return at_work.take(following["ordinals"]) if following and following["command"] == "answer" else ()

    asker.batch_size = allowed = min(command["batch_size"], command["most"])
    attempts = _Attempts(dict(zip(command["ordinals"], command["attempts"], strict=True)))
    samples = at_work.take(command["ordinals"])
    answer_samples(samples, at_work.cell.task, asker, at_work.journal, channel, reader, attempts, upcoming)
    channel.send(event="done", shrunk_to=asker.batch_size if asker.batch_size < allowed else None)


def _end_with_parent() -> None:
    """A worker that hangs in its model must not outlive a killed parent: it would hold the accelerator for ever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Attempts(Sequence[int]):
    """Attempts by ordinal, for the few ordinals of a block."""

    def __init__(self, by_ordinal: dict[int, int]) -> None:
        self._by_ordinal = by_ordinal

    def __getitem__(self, ordinal: Any) -> Any:
        return self._by_ordinal[ordinal]

    def __len__(self) -> int:
        return len(self._by_ordinal)


def _take_standard_output() -> IO[str]:
    """Keep standard output for events and send everything else that is printed to standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
