"""METEOR 1.5 of the official jar, over a pipe that cannot hang."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn

from omgbench.errors import MetricNotComputed
from omgbench.metrics.captions.java import TIMEOUT_VARIABLE, Java, JavaProcess, java_timeout_s, official_file
from omgbench.metrics.captions.text import one_line

METEOR_JAR = "meteor/meteor-1.5.jar"
PARAPHRASES = "meteor/data/paraphrase-en.gz"

_FIELD_MARK = "|||"
_N_STATISTICS = 23


@contextlib.contextmanager
def open_meteor(java: Java) -> Iterator[MeteorScorer]:
    """Start METEOR 1.5 (`-l en -norm`) and stop it at the end of the block, whatever happens.

    It loads its paraphrase table, for some seconds, while the caller goes on.

    Raises:
        MetricNotComputed: the jar is missing or Java cannot be started.
    """
    # Without -a the jar looks for the table beside itself and does not find it in a folder with a space in its name.
    table = str(official_file(PARAPHRASES))
    arguments = ["-Xmx2G", "-jar", str(official_file(METEOR_JAR)), "-", "-", "-stdio", "-l", "en", "-norm", "-a", table]
    with (
        tempfile.TemporaryDirectory(prefix="omgbench-meteor-") as folder,
        JavaProcess(java.path, arguments, folder=Path(folder), piped=True) as process,
    ):
        yield MeteorScorer(process, java_timeout_s())


class MeteorScorer:
    """METEOR 1.5 (Denkowski and Lavie, WMT 2014), values as pycocoevalcap 1.2 gives them.

    Range 0 to 1, higher is better. The corpus value is computed from the summed statistics of all captions; it is
    **not** the mean of the captions' own values. An empty hypothesis, or nothing but empty references, gives 0.
    Quirk of the jar: two one-word captions that match in more than one way (dog/dogs) give 0.

    `|||` parts the fields of the jar's protocol. It is removed from hypotheses, as in the official code, and from
    references too, where the official code lets it cut one reference into two. Tokenised text never holds it: the PTB
    tokenizer parts the bars.

    Args:
        process: the running jar, piped.
        timeout_s: longest wait for one answer; the first includes the loading of the table.
    """

    def __init__(self, process: JavaProcess, timeout_s: float) -> None:
        self._process = process
        self._timeout_s = timeout_s
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read_lines, args=(process.stdout, self._answers), daemon=True).start()

    def score(
        self, references: Sequence[Sequence[str]], hypotheses: Sequence[str], names: Sequence[str]
    ) -> tuple[float, list[float]]:
        """Score hypothesis i against all of references i.

        Args:
            references: for each caption one or more references.
            hypotheses: one for each caption.
            names: what to call each caption in an error.

        Returns:
            The corpus value and each caption's own.

        Raises:
            MetricNotComputed: the jar died, gave no answer in time, or answered with something else than numbers; the
                message names the caption. The scorer cannot be used afterwards.
        """
        captions = zip(references, hypotheses, names, strict=True)
        self._send([_score_request(refs, hypothesis) for refs, hypothesis, _ in captions])
        statistics = [self._statistics(name) for name in names]
        self._send([" ||| ".join(["EVAL", *statistics])])
        values = [self._number(name) for name in names]
        return self._number("the corpus"), values

    def _send(self, lines: list[str]) -> None:
        # In a thread, for a pipe holds little: whoever writes all before reading waits for ever.
        threading.Thread(target=_write_lines, args=(self._process.stdin, lines), daemon=True).start()

    def _statistics(self, name: str) -> str:
        answer = self._answer(name)
        if len(answer.split()) != _N_STATISTICS:
            self._fail(f"METEOR answered {answer[:80]!r}", name)
        return answer

    def _number(self, name: str) -> float:
        answer = self._answer(name)
        try:
            return float(answer)
        except ValueError:
            self._fail(f"METEOR answered {answer[:80]!r}", name)

    def _answer(self, name: str) -> str:
        try:
            line = self._answers.get(timeout=self._timeout_s)
        except queue.Empty:
            limit = f"within {self._timeout_s:g} s ({TIMEOUT_VARIABLE} sets the limit)"
            self._fail(f"METEOR gave no answer {limit}", name)
        if line is None:
            self._fail(f"METEOR stopped: {self._process.last_words()}", name)
        return line

    def _fail(self, what: str, name: str) -> NoReturn:
        self._process.stop()
        raise MetricNotComputed(f"{what}; at {name}")


def _score_request(references: Sequence[str], hypothesis: str) -> str:
    marked = [one_line(reference).replace(_FIELD_MARK, "") for reference in references]
    # The second replacement is the official code's, so that raw text with double spaces scores the same.
    return " ||| ".join(["SCORE", *marked, one_line(hypothesis).replace(_FIELD_MARK, "").replace("  ", " ")])


def _read_lines(stdout: IO[bytes], answers: queue.SimpleQueue[str | None]) -> None:
    # ValueError: the pipe was closed by whoever gave up waiting.
    with contextlib.suppress(OSError, ValueError):
        for line in stdout:
            answers.put(line.decode("utf-8", errors="replace").strip())
    answers.put(None)


def _write_lines(stdin: IO[bytes], lines: list[str]) -> None:
    # A dead reader is noticed, and named, where its answers are awaited.
    with contextlib.suppress(OSError, ValueError):
        for line in lines:
            stdin.write(line.encode("utf-8", errors="replace") + b"\n")
        stdin.flush()
