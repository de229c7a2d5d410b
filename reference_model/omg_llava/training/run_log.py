"""The log of a run: one JSON object per step, cut back to the checkpoint that a run goes on from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omg_llava.training.loop import StepReport


class RunLog:
    """Lines of `StepReport.to_json` in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, step: StepReport) -> None:
        """Append a step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(step.to_json() + "\n")

    def read(self) -> Iterator[dict[str, Any]]:
        """Every whole line."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry

    def cut(self, stage: str, last_step: int) -> None:
        """Take out what a stage did after a step: it will be done again."""
        kept = [entry for entry in self.read() if entry["stage"] != stage or entry["step"] <= last_step]
        partial = self.path.with_name(f".{self.path.name}.tmp")
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        partial.replace(self.path)
