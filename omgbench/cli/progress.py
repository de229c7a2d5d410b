"""The progress bar: rate, time left, running counts per status. Plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from omgbench.printable import SENTENCE_LIMIT, printable

PLAIN_EVERY_S = 15.0


class PlainProgress:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._label = ""
        self._total = self._done = self._already = 0
        self._counts: dict[str, int] = {}
        self._started = self._shown = 0.0

    def cell_started(self, label: str, total: int, already: int) -> None:
        """A cell begins."""
        self._label, self._total, self._done, self._already = printable(label), total, already, already
        self._counts = {}
        self._started = self._shown = time.monotonic()
        self.say(f"{self._label}: {total} samples" + (f", {already} already answered" if already else ""))

    def advanced(self, statuses: Mapping[str, int]) -> None:
        """Some samples are answered."""
        for name, count in statuses.items():
            self._counts[name] = self._counts.get(name, 0) + count
            self._done += count
        now = time.monotonic()
        if now - self._shown >= PLAIN_EVERY_S:
            self._shown = now
            rate = (self._done - self._already) / max(now - self._started, 1e-9)
            left = max(self._total - self._done, 0) / rate if rate else 0.0
            self.say(f"{self._label}: {self._done}/{self._total}, {rate:.1f}/s, {left:.0f} s left ({self._text()})")

    def cell_finished(self, label: str) -> None:
        """A cell ends."""

    def say(self, line: str) -> None:
        """One line on standard error."""
        print(f"omgbench: {printable(line, SENTENCE_LIMIT)}", file=sys.stderr, flush=True)

    def _text(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in self._counts.items())

    def close(self) -> None:
        """Nothing to close."""


class BarProgress(PlainProgress):
    """A live bar on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar: Any = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task: Any = None

    def cell_started(self, label: str, total: int, already: int) -> None:
        """A cell begins."""
        self._total, self._done, self._already = total, already, already
        self._counts = {}
        self._started = time.monotonic()
        self._task = self._bar.add_task(printable(label), total=total, completed=already, counts="", rate="")

    def advanced(self, statuses: Mapping[str, int]) -> None:
        """Some samples are answered."""
        for name, count in statuses.items():
            self._counts[name] = self._counts.get(name, 0) + count
            self._done += count
        rate = (self._done - self._already) / max(time.monotonic() - self._started, 1e-9)
        self._bar.update(self._task, completed=self._done, counts=self._text(), rate=f"{rate:.1f}/s")

    def say(self, line: str) -> None:
        """A line above the bar."""
        text = f"omgbench: {printable(line, SENTENCE_LIMIT)}"
        self._bar.console.print(text, markup=False, highlight=False, emoji=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


def make_progress(quiet: bool) -> PlainProgress:
    """A bar on a terminal, lines elsewhere or with `quiet`."""
    return BarProgress() if sys.stderr.isatty() and not quiet else PlainProgress()
