"""A worker process: builds the model anew, answers the samples it is told to, journals them to a file of its own.

Speaks JSON lines: commands on standard input, events on what was standard output. Everything that the model prints
goes to standard error. The end of its input ends the worker, so none outlives a killed parent for longer than the
batch in flight.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from omgbench import registry
from omgbench.contract import Placement, Status
from omgbench.errors import OmgbenchError
from omgbench.runner.ask import Asker, describe_error
from omgbench.runner.engine import load_model, pick
from omgbench.runner.journal import JournalWriter
from omgbench.runner.loop import answer_samples
from omgbench.runner.plan import PlannedSample, PlanOptions, planned_samples
from omgbench.selection import Cell, choose_splits


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

    def __init__(self, command: dict[str, Any]) -> None:
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
        self.journal = JournalWriter(Path(command["journal_folder"]), command["cell_fp"])
        self._stream: Iterator[PlannedSample] = iter(())
        self._next = sys.maxsize

    def take(self, ordinals: Sequence[int]) -> Iterator[PlannedSample]:
        """The samples with these ascending ordinals."""
        if ordinals[0] < self._next:
            self._stream = planned_samples(self.cell, self._data_root, self._options)
        self._next = ordinals[-1] + 1
        return pick(self._stream, ordinals)


def main() -> int:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = _Channel(_take_standard_output())
    signal.signal(signal.SIGTERM, channel.stop)
    try:
        _serve(sys.stdin, channel)
    except OmgbenchError as error:
        channel.send(event="fatal", user=error.exit_code == 2, message=str(error))
        return error.exit_code
    except (BrokenPipeError, _Stop):
        return 1
    except Exception as error:
        channel.send(event="fatal", user=False, message=describe_error(error))
        raise
    return 0


def _serve(commands: IO[str], channel: _Channel) -> None:
    first = json.loads(commands.readline())
    model = registry.build_model(first["model"], first["model_args"])
    loaded = load_model(model, Placement(**first["placement"]))
    channel.send(event="ready", identity=asdict(loaded.identity), code=loaded.code)
    asker = Asker(model, registry.capabilities_of(model, first["model"]), 1)
    at_work: _CellAtWork | None = None
    for line in commands:
        command = json.loads(line)
        if command["command"] == "cell":
            at_work = _CellAtWork(command)
        elif at_work is not None:
            asker.batch_size = allowed = min(command["batch_size"], command["most"])
            attempts = dict(zip(command["ordinals"], command["attempts"], strict=True))
            answer_samples(
                at_work.take(command["ordinals"]),
                at_work.cell.task,
                asker,
                at_work.journal,
                channel,
                _Attempts(attempts),
            )
            channel.send(event="done", shrunk_to=asker.batch_size if asker.batch_size < allowed else None)
    model.close()


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
