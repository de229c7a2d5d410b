"""Says which requests a model has been at for too long, so that a hang has a name within a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

FIRST_REPORT_S = 30.0
REPORT_EVERY_S = 60.0


class Watchdog:
    """Watches one worker (or this process). `report` is called with a line for people."""

    def __init__(self, name: str, report: Callable[[str], None], first_s: float = FIRST_REPORT_S) -> None:
        self.name = name
        self._report = report
        self._first_s = first_s
        self._lock = threading.Lock()
        self._ids: tuple[str, ...] = ()
        self._since = 0.0
        self._next_report = 0.0

    def started(self, ids: Sequence[str]) -> None:
        """A batch begins."""
        with self._lock:
            self._ids, self._since = tuple(ids), time.monotonic()
            self._next_report = self._since + self._first_s

    def finished(self) -> None:
        """The batch is answered."""
        with self._lock:
            self._ids = ()

    def busy_s(self) -> float:
        """Seconds since the batch in flight began; 0 when none is."""
        with self._lock:
            return time.monotonic() - self._since if self._ids else 0.0

    def look(self) -> None:
        """Report when it is time to. Call at least every few seconds."""
        now = time.monotonic()
        with self._lock:
            if not self._ids or now < self._next_report:
                return
            ids, seconds = self._ids, now - self._since
            self._next_report = now + REPORT_EVERY_S
        shown = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
        self._report(f"{self.name} has been at one batch for {seconds:.0f} s: {shown}")


class WatchdogThread:
    """Looks at a watchdog from a thread, for a model that runs in this process."""

    def __init__(self, watchdog: Watchdog, every_s: float = 1.0) -> None:
        self._watchdog = watchdog
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self._watchdog

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._watchdog.look()
