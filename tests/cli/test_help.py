"""Help of every command, with examples that parse; and what help and listing may import."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest

from omgbench.cli import cli
from omgbench.cli.lazy import COMMANDS

HEAVY = ("torch", "transformers", "datasets", "pandas")
NUMERIC = ("numpy", "scipy", "PIL", "pycocotools", "pydantic")
WATCHED = """
import atexit, sys
atexit.register(lambda: print("imported:", *sorted({name.partition(".")[0] for name in sys.modules})))
from omgbench.cli import main
main()
"""
WITH_EXAMPLES = [
    ["run"],
    ["ask"],
    ["score"],
    ["merge"],
    ["show"],
    ["table"],
    ["tasks"],
    ["models"],
    ["model", "convert"],
    ["model", "info"],
    ["train"],
    ["data", "status"],
    ["data", "demo"],
    ["data", "verify"],
    ["check-adapter"],
    ["check-task"],
    ["doctor"],
]
ALL = [[], ["data"], ["model"], *WITH_EXAMPLES]


def commands() -> Iterator[list[str]]:
    """Every command and subcommand there is."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield [name]
        if isinstance(command, click.Group):
            yield from ([name, below] for below in command.commands)


def test_the_lists_here_are_complete() -> None:
    assert sorted([[], *commands()]) == sorted(ALL)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_shows(bench: Any, path: list[str], flag: str) -> None:
    outcome = bench.call(*path, flag)
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.startswith(f"Usage: {' '.join(['omgbench', *path])}")
    prose = outcome.out.split("\n\n")[1].strip()
    assert prose.endswith((".", ":")) or "." in prose, "a sentence says what the command does"


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=" ".join)
def test_every_option_has_a_help_text(path: list[str]) -> None:
    command = _command(path)
    mute = [
        option.name
        for option in command.params
        if isinstance(option, click.Option) and not option.help and not isinstance(option.type, click.Choice)
    ]
    assert mute == []


def _command(path: list[str]) -> click.Command:
    command: click.Command | None = cli
    context = click.Context(cli)
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(context, name)
    assert command is not None
    return command


def examples(text: str) -> list[str]:
    """The `omgbench ...` lines of a help text, without the remarks in brackets behind them."""
    lines = [
        line.strip() for line in text.splitlines() if line.startswith("  ") and line.strip().startswith("omgbench ")
    ]
    return [re.split(r"\s{2,}", line)[0] for line in lines]


@pytest.mark.parametrize("path", [[], *WITH_EXAMPLES], ids=" ".join)
def test_help_has_examples_that_parse(bench: Any, path: list[str]) -> None:
    help_text = bench.call(*path, "--help").out
    found = examples(help_text)
    assert found, f"no example in\n{help_text}"
    for example in found:
        words = shlex.split(example)[1:]
        command, rest = _resolved(words)
        assert not path or words[: len(path)] == path
        # Names and numbers of options and arguments; files of the examples do not exist here.
        command.make_parser(click.Context(command)).parse_args(rest)


def _resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    return command, words


def test_short_help_of_the_list_is_each_command_s_own() -> None:
    """The list is written without importing the commands; its lines must not contradict them."""
    for name, (_, line) in COMMANDS.items():
        assert line.endswith("."), name
        assert _command([name]).help, name


def imported_by(bench: Any, *arguments: str) -> set[str]:
    """Top-level modules that a command has imported when it ends."""
    outcome = bench.spawn(*arguments, code=WATCHED)
    assert outcome.code == 0, outcome.err
    last = outcome.out.splitlines()[-1]
    assert last.startswith("imported:")
    return set(last.split()[1:])


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], HEAVY + NUMERIC),
        (["run", "--help"], HEAVY + NUMERIC),
        (["tasks"], HEAVY + NUMERIC),
        (["models"], HEAVY + NUMERIC),
        (["tasks", "refcoco"], HEAVY),
        (["models", "random"], HEAVY),
        (["data", "status"], HEAVY),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_imports(bench: Any, arguments: list[str], forbidden: tuple[str, ...]) -> None:
    found = imported_by(bench, *arguments)
    assert "omgbench" in found
    assert found.isdisjoint(forbidden), sorted(found.intersection(forbidden))


def test_a_weightless_run_needs_no_deep_learning(bench: Any) -> None:
    found = imported_by(bench, "run", "--model", "random", "--tasks", bench.TINY, "--out", "run")
    assert found.isdisjoint(HEAVY), sorted(found.intersection(HEAVY))


def test_help_names_the_exit_codes(bench: Any) -> None:
    text = " ".join(bench.call("--help").out.split())
    for part in ("0 complete", "1 crash", "2 a mistake of the user", "3 an incomplete result", "130 interrupted"):
        assert part in text
