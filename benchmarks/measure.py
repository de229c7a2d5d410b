"""CPU seconds, wall seconds and peak memory of a command, each run a process of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a command cost; `peak_mb` is its largest resident set, in 10**6 bytes."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    code: int


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> Cost:
    """Run a command with its output thrown away."""
    started = time.perf_counter()
    pid = os.posix_spawnp(
        command[0],
        list(command),
        {**os.environ, **(environment or {})},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
    )
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    # Linux counts in KiB, macOS in bytes.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return Cost(usage.ru_utime + usage.ru_stime, wall, peak, os.waitstatus_to_exitcode(status))


def best(command: Sequence[str], repeats: int, environment: dict[str, str] | None = None) -> Cost:
    """The run with the least CPU time of several, after one to warm up."""
    run(command, environment)
    return min((run(command, environment) for _ in range(repeats)), key=lambda cost: cost.cpu_s)
