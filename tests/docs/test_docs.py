"""What README and docs print is true: commands run, examples work, links resolve, options exist."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import omg_llava.command

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = sorted((ROOT / "tasks").rglob("*card.md"))
OTHERS = [ROOT / "CHANGELOG.md", ROOT / "results" / "README.md"]
ENTRY_POINT = "from omgbench.cli import main; main()"
RUN_TIMEOUT_S = 300

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- ([^\n]*?) -->\s*\Z")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_LONG_OPTION = re.compile(r"--[a-z][a-z-]*")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the text inside, and the HTML comment right before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def file_name(self) -> str | None:
        found = re.match(r"# file: (\S+)\n", self.text) or re.search(r"\bfile: (\S+)", self.mark)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        mark = _MARK.search(before)
        found.append(Block(page, before.count("\n") + 1, match[1], match[2], mark[1] if mark else ""))
    return found


# ---- examples run ---------------------------------------------------------------------------------------------------


class Walk:
    """Goes through one page's blocks in order, in one folder and one Python namespace."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.module = types.ModuleType(name)

    def take(self, block: Block) -> None:
        if block.file_name is not None:
            path = self.folder / block.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            compiled = compile("\n" * block.line + block.text, str(block.page), "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compiled, self.module.__dict__)  # noqa: S102 (our own pages)
        elif block.mark.startswith("run"):
            self.run(block)

    def run(self, block: Block) -> None:
        exit_code = re.search(r"exit=(\d+)", block.mark)
        for command, expected in commands(block):
            done = subprocess.run(
                arguments(command, self.folder),
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=RUN_TIMEOUT_S,
                check=False,
            )
            where = f"{block.place}: {command}\n{done.stdout}\n{done.stderr}"
            assert done.returncode == (int(exit_code[1]) if exit_code else 0), where
            printed = {line.rstrip() for line in (done.stdout + done.stderr).splitlines()}
            for line in expected:
                assert line.rstrip() in printed, f"{line!r} is not printed by {where}"


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Commands with the output that the page shows; in console blocks `$ ` starts a command, `...` leaves lines out."""
    lines = [line for line in block.text.splitlines() if line.strip()]
    if block.language != "console":
        yield from ((line, []) for line in lines)
        return
    assert lines[0].startswith("$ "), block.place
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in itertools.pairwise([*starts, len(lines)]):
        yield lines[start][2:], [line for line in lines[start + 1 : end] if line.strip() != "..."]


def arguments(command: str, folder: Path) -> list[str]:
    program, *words = shlex.split(command, comments=True)
    assert program == "omgbench", f"only omgbench is run: {command}"
    expanded: list[str] = []
    for word in words:
        expanded += sorted(str(path) for path in folder.glob(word)) if "*" in word else [word]
    return [sys.executable, "-c", ENTRY_POINT, *expanded]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [block for block in blocks(page) if block.language == "python" or block.mark]
    if not taken:
        pytest.skip("nothing to run on this page")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # Classes of an example find their module by name, as they do in a script.
    walk = Walk(tmp_path, f"omgbench_docs_{page.stem}")
    monkeypatch.setitem(sys.modules, walk.module.__name__, walk.module)
    for block in taken:
        walk.take(block)


def test_the_shown_prediction_lines_are_read() -> None:
    from omgbench.predictions import _response

    lines = [
        (block, line)
        for page in PAGES
        for block in blocks(page)
        if block.language == "jsonl"
        for line in block.text.splitlines()
    ]
    assert len(lines) > 8
    for block, line in lines:
        if "protocol" not in json.loads(line):
            _response(json.loads(line), block.place)


# ---- what is named exists -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *OTHERS, *CARDS], ids=names([*PAGES, *OTHERS, *CARDS]))
def test_relative_links_resolve(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


def all_commands() -> dict[str, click.Command]:
    """Every command by its words: `run`, `data status`, ..."""
    from omgbench.cli import cli

    context = click.Context(cli)
    found: dict[str, click.Command] = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": inner_command for inner, inner_command in command.commands.items()}
    return found


def options_of(command: click.Command) -> set[str]:
    """Of `model convert` and `train`, which hand their words on, those of the one model that comes along."""
    own = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    if not command.context_settings.get("ignore_unknown_options"):
        return own
    subparsers = next(action for action in omg_llava.command.parser()._actions if action.choices)
    assert command.name is not None
    return own | set(subparsers.choices[command.name]._option_string_actions)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS, *CARDS], ids=names([*PAGES, *OTHERS, *CARDS]))
def test_named_commands_and_options_exist(page: Path) -> None:
    known = all_commands()
    every = set().union(*map(options_of, known.values())) | {"--version"}
    text = page.read_text(encoding="utf-8")
    code = [line.removeprefix("$ ") for block in blocks(page) for line in block.text.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    for snippet in [*code, *inline]:
        for words in re.findall(r"(?:^|&& )omgbench ([a-z-]+(?: [a-z]+)?)([^&|]*)", snippet.strip()):
            name = words[0] if words[0] in known else words[0].partition(" ")[0]
            if not name.startswith("-"):
                assert name in known, f"{page.name}: omgbench {words[0]}"
                unknown = set(_LONG_OPTION.findall(words[1])) - options_of(known[name])
                assert not unknown, f"{page.name}: omgbench {name} has no {unknown}"
    for snippet in inline:
        if snippet.startswith("--"):
            assert set(_LONG_OPTION.findall(snippet)) <= every, f"{page.name}: {snippet}"


def test_every_command_is_explained() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in all_commands():
        assert f"omgbench {name}" in text, name


def test_the_file_tree_is_the_repository() -> None:
    tree = next(block for block in blocks(ROOT / "README.md") if block.mark == "tree")
    listed = [line.split()[0] for line in tree.text.splitlines()]
    for entry in listed:
        assert (ROOT / entry).exists(), f"README.md lists {entry}"
        assert entry.endswith("/") == (ROOT / entry).is_dir(), entry
    made = {"build", "dist", "venv", "omgbench_runs"}
    there = [path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in made]
    there += [path for path in (ROOT / "omgbench").iterdir() if path.name not in ("__init__.py", "py.typed")]
    there += [path for path in (ROOT / "tasks/omgbench_tasks").iterdir() if path.is_dir()]
    for path in there:
        inside = path.relative_to(ROOT).as_posix()
        if path.name != "__pycache__" and not path.name.endswith(".egg-info"):
            assert any(entry.rstrip("/") == inside or entry.startswith(f"{inside}/") for entry in listed), inside


def test_task_cards_have_one_short_title() -> None:
    from omgbench import registry
    from omgbench.cli.listing import _card

    for plugin in registry.plugins("tasks"):
        if plugin.distribution == "omgbench":
            card = _card(plugin)
            assert card is not None, plugin.name
            title = card.partition("\n")[0]
            assert title.startswith("# ") and len(title) <= 58, title


def test_the_counts_of_the_cards_are_the_tasks() -> None:
    from omgbench import registry
    from omgbench.cli.listing import _card
    from omgbench.selection import cell_label

    for plugin in registry.plugins("tasks"):
        if plugin.distribution != "omgbench":
            continue
        card = _card(plugin) or ""
        for split in registry.build_task(plugin.name).info.splits:
            counts = " | ".join(f"{n:,}" if n is not None else "?" for n in (split.n_samples, split.n_images))
            assert f"| `{cell_label(plugin.name, split)}` | {counts} |" in card, cell_label(plugin.name, split)


# ---- what must not stand there --------------------------------------------------------------------------------------


def test_no_path_of_a_machine() -> None:
    home = re.compile(r"(?<![\w.])/(root|home|work|tmp|Users)/")
    for page in [*PAGES, *OTHERS, *CARDS, ROOT / "CITATION.cff"]:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            assert not home.search(line), f"{page.name}:{number}: {line}"


def test_the_citation_file_is_valid() -> None:
    yaml = pytest.importorskip("yaml")
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["cff-version"] == "1.2.0"
    for entry in (cff, *cff["references"]):
        assert entry["title"] and entry["authors"] and entry["type"]
    import omgbench

    assert cff["message"] and cff["version"] == omgbench.__version__ and cff["license"] == "Apache-2.0"


def test_the_environment_variables_exist() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("omgbench", "tasks", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__)
    )
    for page in [*PAGES, *CARDS]:
        for name in re.findall(r"\bOMGBENCH_[A-Z_]+", page.read_text(encoding="utf-8")):
            assert f'"{name}"' in sources, f"{page.name}: {name}"
