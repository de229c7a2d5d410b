"""Who may import whom (docs/design.md), and what the package must never do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    *sorted((ROOT / "omgbench").rglob("*.py")),
    *sorted((ROOT / "tasks").rglob("*.py")),
    *sorted((ROOT / "reference_model").rglob("*.py")),
]
LEAVES = {"omgbench", "omgbench.errors", "omgbench.printable"}
"""Version, error types, clean text: everybody may import them."""

ALLOWED: dict[str, set[str]] = {
    "omgbench.errors": set(),
    "omgbench.printable": set(),
    "omgbench.contract": {"data.images"},
    "omgbench.metrics": {"contract"},
    "omgbench.code_identity": set(),
    "omgbench.identity": {"code_identity", "contract"},
    "omgbench.wire": {"contract"},
    "omgbench.registry": {"contract"},
    "omgbench.response_checks": {"contract", "metrics.rle"},
    "omgbench.store": {"contract"},
    "omgbench.selection": {"contract", "registry"},
    "omgbench.data": {"contract", "metrics.rle", "identity"},
    "omgbench.predictions": {"contract", "identity", "metrics.rle", "store", "wire"},
    "omgbench.runner": {
        "contract",
        "data",
        "identity",
        "predictions",
        "registry",
        "response_checks",
        "selection",
        "store",
        "wire",
    },
    "omgbench.reports": {"registry", "store"},
    "omgbench.overlay": {"contract", "metrics.rle"},
    "omgbench.asking": {"contract", "data", "identity", "metrics.rle", "overlay", "registry", "runner"},
    "omgbench.testing": {"contract", "data", "metrics", "response_checks", "wire"},
    "omgbench.adapters": {"contract", "predictions"},
    "omgbench.api": {"contract", "reports", "runner", "store"},
    "omgbench.__main__": {"cli"},
    "omgbench.cli": {"api", "asking", "contract", "data", "identity", "metrics", "registry", "reports", "runner"}
    | {"selection", "store", "testing"},
}
TRAINING_MAY = {"omgbench.data", "omgbench.errors", "omgbench.metrics", "omgbench.contract"}
TASK_MAY = {"omgbench.contract", "omgbench.metrics", "omgbench.data"}


def _module(path: Path) -> str:
    base = next(root for root in (ROOT / "tasks", ROOT / "reference_model", ROOT) if root in path.parents)
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            # `from omgbench import registry` imports a module too.
            if node.module == "omgbench":
                yield from (f"omgbench.{name.name}" for name in node.names)


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "omgbench" in path.relative_to(ROOT).parts[:1]], ids=_module
)
def test_rooms_of_the_harness(path: Path) -> None:
    module = _module(path)
    if module == "omgbench":
        return
    for name in _imports(path):
        own = _room(name) == _room(module)
        if not name.startswith("omgbench") or own or name in LEAVES or name.startswith("omgbench.__"):
            assert not name.startswith(("omgbench_tasks", "omg_llava")), f"{module} imports {name}"
            continue
        allowed = ALLOWED[_room(module)]
        inner = name.removeprefix("omgbench.")
        assert any(inner == room or inner.startswith(f"{room}.") for room in allowed), f"{module} imports {name}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "tasks")], ids=_module)
def test_a_task_knows_no_other_task_and_no_runner(path: Path) -> None:
    module = _module(path)
    for name in _imports(path):
        if name.startswith("omgbench_tasks"):
            assert _room(name) == _room(module), f"{module} imports {name}"
        elif name.startswith("omgbench") and name not in LEAVES:
            assert _room(name) in TASK_MAY, f"{module} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.is_relative_to(ROOT / "reference_model")] or [None], ids=str
)
def test_the_model_stands_alone(path: Path | None) -> None:
    if path is None or path.name == "adapter.py":
        return
    # Training data lies in the same official files that evaluation reads, so it is read by the same readers.
    allowed = TRAINING_MAY if "training" in path.parts else set()
    foreign = {_room(name) for name in _imports(path) if name.split(".")[0] in ("omgbench", "omgbench_tasks")}
    assert foreign <= allowed, f"{path}: {foreign - allowed}"


def test_no_cycle_between_rooms() -> None:
    graph = {room: {f"omgbench.{name.split('.')[0]}" for name in allowed} for room, allowed in ALLOWED.items()}
    # A frame decodes itself through data.images, which knows the contract: the one knot, tied inside a method.
    graph["omgbench.contract"] = set()
    done: set[str] = set()

    def visit(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, " -> ".join((*path, room))
        if room not in done:
            for other in graph[room]:
                visit(other, (*path, room))
            done.add(room)

    for room in graph:
        visit(room, ())


FORBIDDEN = {
    "eval or exec of text": re.compile(r"(?<![\w.])(eval|exec)\("),
    "plain unpickling": re.compile(r"pickle\.loads?\("),
    "unfiltered extraction": re.compile(r"extractall\((?!.*filter=)"),
    "a shell": re.compile(r"shell=True|os\.system\("),
    "remote code by default": re.compile(r"trust_remote_code\s*=\s*True"),
    "certificates unchecked": re.compile(r"_create_unverified_context|verify=False"),
    "hash() across processes": re.compile(r"(?<![\w.])hash\("),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_the_package_never_does(what: str) -> None:
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not FORBIDDEN[what].search(line), f"{path.relative_to(ROOT)}:{number}: {what}: {line.strip()}"
