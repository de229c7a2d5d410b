"""The PTB tokenizer: official tokens, no shifted captions, nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from omgbench.errors import MetricNotComputed
from omgbench.metrics.captions.java import Java
from omgbench.metrics.captions.text import LINE_BREAKS, one_line
from omgbench.metrics.captions.tokenizer import ptb_tokenize

PretendJava = Callable[[str], Java]

OFFICIAL_TOKENS = {
    "A man's dog, isn't it?": "a man 's dog is n't it",
    "Two (2) dogs - one cat; none -- others...": "two -lrb- 2 -rrb- dogs one cat none others",
    "\"Quoted\" 'text' {x} & <p> y </p> [SEG]": "quoted text -lcb- x -rcb- & <p> y </p> -lsb- seg -rsb-",
    "It is 2 1/2 km": "it is 2\u00a01/2 km",
    "a ||| b": "a | | | b",
    "CAFÉ \U0001f600 中": "café 中",
    "nul\x00byte": "nul byte",
    "\ud800 lone": "lone",
    "": "",
    ".": "",
    "   ": "",
}


def test_tokens_are_the_official_ones(java: Java) -> None:
    assert ptb_tokenize([list(OFFICIAL_TOKENS)], java) == [list(OFFICIAL_TOKENS.values())]


def test_no_caption_shifts_another(java: Java) -> None:
    hostile = [f"one{mark}two" for mark in LINE_BREAKS] + [
        "\r\n\n\r",
        "",
        "*NL*",
        "U.S.",
        "<a b\nc>",
        "(650)\n555-0100",
    ]
    hostile += [" ".join(f"w{number}" for number in range(5000)), "\n"]
    marked = [text for number, caption in enumerate(hostile) for text in (caption, f"Mark{number}")]
    first, second, nothing = ptb_tokenize([marked, hostile], java)[0], ptb_tokenize([hostile], java)[0], []
    assert first[1::2] == [f"mark{number}" for number in range(len(hostile))]
    assert second[: len(LINE_BREAKS)] == ["one two"] * len(LINE_BREAKS)
    assert second[-2].count(" ") == 4999
    assert ptb_tokenize([[], ["x"]], java) == [nothing, ["x"]]


def test_sets_do_not_see_each_other(java: Java) -> None:
    # Before a capital letter on the next line, "U.S." would be read as the end of a sentence.
    assert ptb_tokenize([["in the U.S."], ["The dog"]], java) == [["in the u.s."], ["the dog"]]


def test_only_line_breaks_are_folded() -> None:
    assert one_line("a\r\nb\tc  d\u00a0e\u2028") == "a  b\tc  d\u00a0e "
    assert len((" x ".join(LINE_BREAKS)).splitlines()) == len(LINE_BREAKS)


def test_nothing_is_written_but_temporary_files(java: Java, official_package: Path, temporary_folder: Path) -> None:
    folder = official_package / "tokenizer"
    before = folder.stat().st_mtime_ns, sorted(folder.iterdir())
    assert ptb_tokenize([["A dog."]], java) == [["a dog"]]
    assert (folder.stat().st_mtime_ns, sorted(folder.iterdir())) == before
    assert list(temporary_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ("printf 'a\\n' > 0.tok; printf 'b' > 1.tok", "returned 2 lines for 1 captions"),
        ("exit 0", "returned 0 lines for 1 captions"),
        ("echo 'no such class' >&2; exit 1", "ended with exit code 1, saying: no such class"),
        ("kill -9 $$", "was killed by SIGKILL"),
    ],
)
def test_a_failing_java_is_named(commands: str, reason: str, pretend_java: PretendJava, temporary_folder: Path) -> None:
    with pytest.raises(MetricNotComputed, match=f"the PTB tokenizer.*{reason}"):
        ptb_tokenize([["a"], ["b"]], pretend_java(commands))
    assert list(temporary_folder.iterdir()) == []


def test_a_hanging_java_is_killed(
    pretend_java: PretendJava,
    tmp_path: Path,
    temporary_folder: Path,
    has_ended: Callable[[int], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMGBENCH_JAVA_TIMEOUT", "0.5")
    java = pretend_java(f"sleep 600 &\necho $$ $! > '{tmp_path}/pids'\nwait")
    began = time.monotonic()
    with pytest.raises(MetricNotComputed, match=r"the PTB tokenizer failed: no answer within 0\.5 s"):
        ptb_tokenize([["a"], ["b"]], java)
    assert time.monotonic() - began < 5
    assert all(has_ended(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    assert list(temporary_folder.iterdir()) == []
