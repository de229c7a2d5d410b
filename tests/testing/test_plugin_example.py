"""A stranger's plug-in is installed like any package, found by its entry points, and passes the public checks."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "plugin_example"
FIND = """
from importlib.metadata import entry_points
for group in ("omgbench.models", "omgbench.tasks"):
    found = [point for point in entry_points(group=group) if point.dist.name == "omgbench-acme"]
    for point in found:
        print(group, point.name, point.load().__qualname__, point.dist.version)
"""


def run(*command: str, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, without what keeps it out of our own test run."""
    if importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("hatchling and pip are needed to install the example; both come with omgbench[dev]")
    folder = tmp_path_factory.mktemp("stranger") / "project"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("conftest.py", "__pycache__"))
    return folder


@pytest.fixture(scope="module")
def python_path(project: Path) -> str:
    """An import path on which the installed plug-in and this omgbench stand."""
    target = project.parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    run(*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(project), cwd=project.parent)
    spec = importlib.util.find_spec("omgbench")
    assert spec is not None
    assert spec.origin is not None
    return os.pathsep.join([str(target), str(Path(spec.origin).parents[1])])


def test_the_installed_plugin_is_found_by_its_entry_points(project: Path, python_path: str) -> None:
    lines = run(sys.executable, "-c", FIND, cwd=project.parent, PYTHONPATH=python_path).splitlines()
    assert lines == ["omgbench.models acme AcmeModel 0.1.0", "omgbench.tasks acme_colours AcmeColours 0.1.0"]


def test_the_strangers_own_tests_pass(project: Path, python_path: str) -> None:
    shown = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project, PYTHONPATH=python_path)
    assert "2 passed" in shown


def test_its_model_solves_its_task(project: Path, python_path: str) -> None:
    code = (
        "import sys, pathlib\n"
        "from omgbench_acme.model import AcmeModel\nfrom omgbench_acme.task import AcmeColours\n"
        "root, task, model = pathlib.Path(sys.argv[1]), AcmeColours(), AcmeModel()\n"
        "task.write_demo(root, 1)\n"
        "samples = list(task.samples(task.info.splits[0], root))\n"
        "answers = model.respond([sample.request for sample in samples])\n"
        "values = task.summarize(map(task.score, samples, answers))\n"
        "print(len(samples), *(value.value for value in values))\n"
    )
    folder = project.parent / "data"
    shown = run(sys.executable, "-c", code, str(folder), cwd=project.parent, PYTHONPATH=python_path)
    assert shown.split() == ["12", "1.0", "1.0"]


def test_the_example_stays_as_small_as_the_guide_says() -> None:
    lines = [line for file in EXAMPLE.glob("src/**/*.py") for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) < 160
    code = "".join(file.read_text(encoding="utf-8") for file in EXAMPLE.glob("src/**/*.py"))
    assert set(re.findall(r"(?:from|import) (omgbench\b[\w.]*)", code)) == {"omgbench.contract"}
