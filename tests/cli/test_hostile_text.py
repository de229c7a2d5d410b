"""Text of models, data and result files is printed as text: it steers no terminal and forges no line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from omgbench.cli.progress import BarProgress, PlainProgress
from omgbench.printable import printable, printable_lines, printable_message

HISTORIC = Path(__file__).parents[1] / "store" / "historic" / "schema_1.json"
FORGED = "refcoco:val  honest  10/10 answered (10 ok)"
HOSTILE = {
    "title": "a\x1b]0;owned\x07b",
    "colour": "\x1b[31mred",
    "one byte": "a\x9b31mred",
    "forged line": f"a\n{FORGED}",
    "carriage return": f"a\r{FORGED}",
    "line separator": f"a\u2028{FORGED}",
    "order": "a\u202egnp.exe\u2066b\u2069",
    "nul": "a\x00b",
    "long": "E" * 900_000,
}
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMATS = ("text", "markdown", "latex", "csv")


def assert_harmless(text: str) -> None:
    """No control character, no forged line, no endless line."""
    assert not HARMFUL.search(text), ascii(HARMFUL.search(text))
    lines = text.splitlines()
    assert not [line for line in lines if line.startswith(FORGED)]
    assert max(map(len, lines), default=0) < 8000


def write_result(bench: Any, text: str) -> Path:
    """An incomplete result in which every free text is `text`."""
    value = json.loads(HISTORIC.read_text(encoding="utf-8"))
    value["task"] |= {"title": text, "split": text, "subset": text}
    value["model"] |= {"name": text, "weights": text, "code": text}
    value["data"]["requests"] = text
    value["environment"]["omgbench"] = text
    value["coverage"]["statuses"] = {text: 10}
    value["metrics"] = value["metrics"][:2]
    value["metrics"][0] |= {"value": None, "note": text}
    value["metrics"][1] |= {"name": text, "note": text}
    value |= {"complete": False, "reasons": [text, text], "marks": [text, "demo data"], "finished": text}
    value["determinism"] = {"agree": text, "n": text}
    path: Path = bench.write("run/cell/result.json", value)
    return path


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_show(bench: Any, text: str) -> None:
    write_result(bench, text)
    outcome = bench.call("show", "run")
    assert outcome.code == 0, outcome.err
    assert_harmless(outcome.out + outcome.err)
    # Title, heads, rule, row, four notes, an empty line; the result, 2 metrics, 2 lines of origin, marks, 2 reasons,
    # determinism: nothing else.
    assert len(outcome.out.splitlines()) == 9 + 9, outcome.out


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_table(bench: Any, text: str, format_: str) -> None:
    write_result(bench, text)
    outcome = bench.call("table", "run", "--format", format_)
    assert outcome.code == 0, outcome.err
    assert_harmless(outcome.out + outcome.err)
    lines = {"text": 4 + 4, "markdown": 3 + 1 + 4, "latex": 4 + 7, "csv": 3}[format_]
    assert len(outcome.out.splitlines()) == lines, outcome.out


def test_a_file_name_cannot_steer_the_terminal(bench: Any) -> None:
    write_result(bench, "fine")
    outcome = bench.call("table", "run", "--output", "\x1b[31mred")
    assert outcome.out == "wrote \\x1b[31mred\n"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_messages_about_bad_files(bench: Any, text: str) -> None:
    value = json.loads(HISTORIC.read_text(encoding="utf-8"))
    bench.write("run/result.json", value | {text: 1})
    outcome = bench.call("show", "run")
    assert outcome.code == 2
    assert_harmless(outcome.out + outcome.err)
    assert len(outcome.messages) == 1


@pytest.mark.parametrize("text", [HOSTILE[name] for name in ("title", "order", "long")], ids=["title", "order", "long"])
def test_usage_errors(bench: Any, text: str) -> None:
    outcome = bench.call("table", "run", "--format", text)
    assert outcome.code == 2
    assert_harmless(outcome.out + outcome.err)
    assert outcome.err.startswith("Usage: omgbench table")
    assert "--format" in outcome.err


def test_help_without_a_command_keeps_its_lines(bench: Any) -> None:
    outcome = bench.call()
    assert len((outcome.out + outcome.err).splitlines()) > 20


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_run_with_hostile_errors_and_notes(bench: Any, text: str) -> None:
    model = bench.model(f"def respond(self, requests): raise ValueError({text!r})\n")
    values = ", ".join(f"MetricValue({name!r}, None, 0, {text!r})" for name in ("cIoU", "accuracy"))
    task = bench.task(f"def summarize(self, records): return [{values}]\n")
    outcome = bench.call("run", "--model", model, "--tasks", task, "--out", "run", "--quiet")
    assert "mine:val  mine  " in outcome.out, outcome.err
    assert_harmless(outcome.out)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_run_with_a_hostile_name(bench: Any, text: str) -> None:
    model = bench.model(f"def identity(self): return ModelIdentity({text!r}, '1', 'none')\n")
    outcome = bench.call("run", "--model", model, "--tasks", bench.TINY, "--out", "run", "--quiet")
    assert outcome.code in (0, 2, 3), outcome.err
    assert outcome.out or outcome.messages
    assert_harmless(outcome.out + outcome.err)


@pytest.mark.parametrize("kind", [PlainProgress, BarProgress])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_progress(kind: type[PlainProgress], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    progress = kind()
    progress.cell_started(text, 10, 0)
    progress.advanced({"ok": 10})
    progress.say(text)
    progress.say("[red]:smile:[/red]")
    progress.close()
    err = capsys.readouterr().err
    assert_harmless(err)
    assert "omgbench: [red]:smile:[/red]\n" in err


def test_printable() -> None:
    assert printable("a\x1b[31m\n\x7f\x9b\u202e\u2069\u2028\ud800 b\\x é 漢") == (
        "a\\x1b[31m\\x0a\\x7f\\x9b\\u202e\\u2069\\u2028\\ud800 b\\x é 漢"
    )
    assert printable("a" * 300) == "a" * 300
    assert printable("a" * 301) == "a" * 297 + "..."
    assert printable("\x00" * 5, limit=10) == "\\x00\\x0..."
    assert printable("") == ""


def test_lines_of_a_message() -> None:
    assert printable_lines("a\x00\n  b\r\n\nc") == "a\\x00\n  b\\x0d\n\nc"
    assert printable_lines("a\nb\nc", max_lines=2) == "a\nb\n..."
    assert printable_lines("a\nb", max_lines=2) == "a\nb"
    assert printable_message("a\nb\n\n  c") == "a\n    b\n\n  c"
