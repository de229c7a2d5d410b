"""What is installed is what is in the tree: nothing missing, nothing generic, every entry point known."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = {Path(path).name: ROOT / path for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a freshly built wheel."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_file_of_the_packages(wheel: list[str]) -> None:
    for package, folder in PACKAGES.items():
        expected = {
            f"{package}/{path.relative_to(folder).as_posix()}"
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        found = {name for name in wheel if name.startswith(f"{package}/")}
        assert found == expected


def test_the_wheel_brings_no_generic_names(wheel: list[str]) -> None:
    top = {name.partition("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_registered_names_are_the_installed_ones() -> None:
    for group in ("omgbench.tasks", "omgbench.models"):
        written = PROJECT["project"]["entry-points"][group]
        installed = {
            point.name: point.value
            for point in importlib.metadata.entry_points(group=group)
            if point.dist is not None and point.dist.name == "omgbench"
        }
        assert installed == written, "pip install -e . again: entry points are copied when a package is installed"


def test_constraints_are_plain_pins_that_fit_the_project() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == "2.13.0"
    assert not [line for line in lines if "://" in line or "+" in line]
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["test"]
    names = {name.lower().replace("_", "-") for name in pins}
    for requirement in wanted:
        name = requirement.partition("[")[0].partition(">")[0].partition("=")[0].strip().lower()
        assert name == "omgbench" or name in names, f"{name} has no pin"
