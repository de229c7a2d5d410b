"""What a run tells while it works. The command line shows it as a bar; the Python API is silent unless asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol

from omgbench.printable import SENTENCE_LIMIT, printable


class Progress(Protocol):
    """Receives the progress of a run, cell by cell."""

    def cell_started(self, label: str, total: int, already: int) -> None: ...

    def advanced(self, statuses: Mapping[str, int]) -> None: ...

    def cell_finished(self, label: str) -> None: ...

    def say(self, line: str) -> None: ...


class WarningsOnly:
    """Shows no progress; what must be known (demo data, torn journals, a stuck model) goes to standard error."""

    def cell_started(self, label: str, total: int, already: int) -> None:
        """Nothing to show."""

    def advanced(self, statuses: Mapping[str, int]) -> None:
        """Nothing to show."""

    def cell_finished(self, label: str) -> None:
        """Nothing to show."""

    def say(self, line: str) -> None:
        """One line on standard error."""
        print(f"omgbench: {printable(line, SENTENCE_LIMIT)}", file=sys.stderr)
