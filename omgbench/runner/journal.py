"""The journal of a cell: every answer, appended as it arrives, checksummed line by line.

A process writes a file of its own, opened anew at each start, so two processes never share one. Reading is a union:
a torn last line (the process was killed while writing) or a line whose checksum fails is left out and asked again.
Line form: `{"crc":"8 hex digits",...}`; the checksum covers everything behind it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from omgbench.contract import Response, Status
from omgbench.errors import OmgbenchError, RunRefused
from omgbench.runner.plan import PlannedSample
from omgbench.wire import response_from_plain, response_to_json

JOURNAL_VERSION = 1
_MOST_ATTEMPTS = 2**16 - 2
_PREFIX = b'{"crc":"'
_BODY_AT = len(_PREFIX) + 8 + 2
STATUS_ORDER = tuple(Status)
_STATUS_NUMBER = {status.value: number for number, status in enumerate(STATUS_ORDER)}
UNANSWERED = 255
_MAX_OPEN_FILES = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """One journaled answer.

    Attributes:
        ordinal: the sample's place in the plan.
        images: digest of the image bytes that were shown; "" when the model reads none.
        attempt: 0, or higher when a failed request was asked again; the highest counts.
        response: the answer.
    """

    ordinal: int
    images: str
    attempt: int
    response: Response


def _seal(body: bytes) -> bytes:
    return b'%s%08x",%s\n' % (_PREFIX, zlib.crc32(body), body)


def _open_sealed(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(_PREFIX) or not line.endswith(b"}\n"):
        return None
    body = line[_BODY_AT:-1]
    if b"%08x" % zlib.crc32(body) != line[len(_PREFIX) : len(_PREFIX) + 8]:
        return None
    try:
        value: dict[str, Any] = json.loads(b"{" + body)
    except (ValueError, RecursionError):
        return None
    return value


@dataclass(frozen=True, slots=True)
class Session:
    """One process's time at a cell, as its journal tells it.

    Attributes:
        engine: local or workers.
        device: what the adapter said it uses.
        batch_size: the batch size it began with.
        started: ISO time, UTC.
        seconds: from then to its last answer.
    """

    engine: str
    device: str
    batch_size: int
    started: str = ""
    seconds: float = 0.0


class JournalWriter:
    """Appends answers to a file of its own. One write and one fdatasync per batch: a killed process loses at most the
    batch in flight, and so does a power failure."""

    def __init__(self, folder: Path, cell_fp: str, session: Session) -> None:
        self._folder = folder
        self._cell_fp = cell_fp
        self._session = replace(session, started=datetime.now(UTC).isoformat(timespec="seconds"))
        self._clock = time.monotonic()
        self._fd: int | None = None

    def append(self, answers: Iterable[Answer]) -> None:
        """Write answers so that they survive whatever happens next."""
        seconds = round(time.monotonic() - self._clock, 3)
        data = b"".join(_seal(_answer_body(answer, seconds)) for answer in answers)
        if not data:
            return
        try:
            if self._fd is None:
                self._fd = self._open()
            _write_all(self._fd, data)
            _sync(self._fd)
        except OSError as error:
            raise OmgbenchError(
                f"answers cannot be written: {error.strerror}\n"
                f"  where: {self._folder}\n"
                f"  next: make room there; the same command goes on with what was written so far"
            ) from error

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Names sort by start time; the random part keeps two machines on one shared folder apart.
        name = f"{_next_number(self._folder):06d}-{uuid.uuid4().hex[:8]}.jsonl"
        fd = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        session = asdict(self._session)
        del session["seconds"]
        header = {"journal": JOURNAL_VERSION, "cell": self._cell_fp, "session": session}
        _write_all(fd, _seal(json.dumps(header)[1:].encode()))
        return fd

    def close(self) -> None:
        """Close the file; an empty journal was never opened."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


# macOS has no fdatasync.
_sync = getattr(os, "fdatasync", os.fsync)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _next_number(folder: Path) -> int:
    return max((int(path.name[:6]) for path in journal_files(folder)), default=-1) + 1


def journal_files(folder: Path) -> list[Path]:
    """The journal files of a cell, oldest first."""
    return sorted(path for path in folder.glob("*.jsonl") if path.name[:6].isdigit())


def _answer_body(answer: Answer, seconds: float) -> bytes:
    head = {
        "n": answer.ordinal,
        "img": answer.images,
        "try": answer.attempt,
        "s": seconds,
        "r": None,
    }
    text = json.dumps(head, separators=(",", ":"))[1:-5].encode()
    return text + response_to_json(answer.response) + b"}"


class JournalIndex:
    """Where each sample's counting answer lies, in a few bytes a sample.

    Attributes:
        status: per sample the index into `STATUS_ORDER`, 255 where unanswered; uint8.
        attempt: attempts made so far, uint16 (0 where unanswered).
        dropped_lines: torn or damaged lines that were left out, as `file:line`.
        sessions: one per journal file.
    """

    def __init__(self, n_samples: int) -> None:
        self.status: NDArray[np.uint8] = np.full(n_samples, UNANSWERED, dtype=np.uint8)
        self.attempt: NDArray[np.uint16] = np.zeros(n_samples, dtype=np.uint16)
        self.sessions: list[Session] = []
        self.dropped_lines: list[str] = []
        self._file: NDArray[np.int32] = np.full(n_samples, -1, dtype=np.int32)
        self._offset: NDArray[np.int64] = np.zeros(n_samples, dtype=np.int64)
        self._paths: list[Path] = []
        self._open: dict[int, IO[bytes]] = {}

    @classmethod
    def load(cls, folder: Path, cell_fp: str, n_samples: int) -> JournalIndex:
        """Read every journal of a cell. Raises `RunRefused` for a journal of another model, plan or option set."""
        index = cls(n_samples)
        for path in journal_files(folder):
            index._read(path, cell_fp)
        return index

    def _read(self, path: Path, cell_fp: str) -> None:
        number = len(self._paths)
        self._paths.append(path)
        offset = 0
        session: Session | None = None
        with path.open("rb") as stream:
            for line_number, line in enumerate(stream, start=1):
                entry = _open_sealed(line)
                if entry is not None and "journal" in entry:
                    session = _session(path, entry, cell_fp)
                elif entry is None or session is None or not self._note(entry, number, offset):
                    self.dropped_lines.append(f"{path.name}:{line_number}")
                else:
                    session = replace(session, seconds=max(session.seconds, entry["s"]))
                offset += len(line)
        if session is not None:
            self.sessions.append(session)

    def _note(self, entry: dict[str, Any], file: int, offset: int) -> bool:
        """Take one answer in; False for a line that is none of ours, whatever its checksum says."""
        n, attempt, response = entry.get("n"), entry.get("try"), entry.get("r")
        status = response.get("status", Status.OK.value) if isinstance(response, dict) else None
        if not isinstance(n, int) or not isinstance(attempt, int) or not isinstance(entry.get("s"), int | float):
            return False
        if status not in _STATUS_NUMBER or not (0 <= n < len(self.status) and 0 <= attempt <= _MOST_ATTEMPTS):
            return False
        if self._file[n] < 0 or attempt + 1 > self.attempt[n]:
            self._file[n], self._offset[n] = file, offset
            self.attempt[n] = attempt + 1
            self.status[n] = _STATUS_NUMBER[status]
        return True

    def answered(self, ordinal: int) -> bool:
        """Whether a counting answer is there."""
        return bool(self._file[ordinal] >= 0)

    def n_answered(self) -> int:
        """How many samples have one."""
        return int((self._file >= 0).sum())

    def counts(self) -> dict[str, int]:
        """Answers by status, unanswered samples as `missing`."""
        values, numbers = np.unique(self.status, return_counts=True)
        counts: dict[str, int] = {}
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            name = STATUS_ORDER[value].value if value != UNANSWERED else Status.MISSING.value
            counts[name] = counts.get(name, 0) + number
        return {status.value: counts[status.value] for status in STATUS_ORDER if status.value in counts}

    def images_of(self, ordinal: int) -> str:
        """Digest of the pictures that a sample was answered about; "" without answer or pictures."""
        if self._file[ordinal] < 0:
            return ""
        entry = self._entry(ordinal)
        return str(entry.get("img", "")) if entry is not None else ""

    def _entry(self, ordinal: int) -> dict[str, Any] | None:
        stream = self._stream(int(self._file[ordinal]))
        stream.seek(int(self._offset[ordinal]))
        return _open_sealed(stream.readline())

    def answer(self, planned: PlannedSample) -> Answer | None:
        """The counting answer of a sample, read from its file; None when there is none."""
        n = planned.ordinal
        if self._file[n] < 0:
            return None
        entry = self._entry(n)
        where = f"{self._paths[int(self._file[n])]}, sample {planned.sample.id}"
        # The journal's header stands for the plan, hence for every request; this is for damaged files.
        if entry is None or entry["r"].get("id") != planned.sample.id:
            raise RunRefused("a journaled answer belongs to another request", where=where, hint="use a new --out")
        response = response_from_plain(entry["r"], where)
        return Answer(n, str(entry.get("img", "")), entry["try"], response)

    def _stream(self, file: int) -> IO[bytes]:
        if file not in self._open:
            if len(self._open) >= _MAX_OPEN_FILES:
                self.close()
            self._open[file] = self._paths[file].open("rb")
        return self._open[file]

    def close(self) -> None:
        """Close the journals that were read."""
        for stream in self._open.values():
            stream.close()
        self._open.clear()

    def answers(self, planned: Iterable[PlannedSample]) -> Iterator[tuple[PlannedSample, Answer | None]]:
        """Pair each sample with its answer."""
        for sample in planned:
            yield sample, self.answer(sample)
        self.close()


def _session(path: Path, entry: dict[str, Any], cell_fp: str) -> Session:
    """The header of a journal, held against the cell it is read for."""
    if entry.get("journal") != JOURNAL_VERSION:
        raise RunRefused(
            f"a journal of version {entry.get('journal')!r}",
            where=str(path),
            expected=f"version {JOURNAL_VERSION}",
            hint="pip install -U omgbench, or name a new --out directory",
        )
    if entry.get("cell") != cell_fp:
        raise RunRefused(
            "the run directory holds answers of another model, plan or set of options",
            where=str(path),
            expected=f"answers made under fingerprint {cell_fp}",
            hint="name a new --out directory, or repeat the first command exactly",
        )
    found = entry.get("session")
    found = found if isinstance(found, dict) else {}
    batch_size = found.get("batch_size")
    return Session(
        engine=str(found.get("engine", "")),
        device=str(found.get("device", "")),
        batch_size=batch_size if isinstance(batch_size, int) else 0,
        started=str(found.get("started", "")),
    )
