"""Names to plug-ins: clashes, broken packages, files, nearest names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omgbench import registry
from omgbench.errors import PluginError
from omgbench.selection import select


def _distribution(folder: Path, name: str, points: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An import path of its own for made-up distributions."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_clash_names_both_packages(stranger: Path) -> None:
    _distribution(stranger, "other-bench", "[omgbench.tasks]\ngcg = other.task:Gcg\n")
    with pytest.raises(PluginError, match="two packages") as error:
        registry.find("tasks", "gcg")
    assert "omgbench 0" in str(error.value)
    assert "other-bench 1.0" in str(error.value)
    assert registry.find("tasks", "refcoco").distribution == "omgbench"


def test_a_broken_plug_in_shows_its_own_error_and_spoils_no_other(stranger: Path) -> None:
    (stranger / "broken_bench.py").write_text("import a_package_that_is_not_there\n")
    _distribution(stranger, "broken-bench", "[omgbench.models]\nbroken = broken_bench:Model\n")
    assert "broken" in [plugin.name for plugin in registry.plugins("models")]
    with pytest.raises(PluginError, match="a_package_that_is_not_there") as error:
        registry.build_model("broken")
    assert "pip install a_package_that_is_not_there" in str(error.value)
    assert registry.build_model("random") is not None


def test_listing_imports_no_plug_in(stranger: Path) -> None:
    (stranger / "loud_bench.py").write_text("raise SystemExit('imported')\n")
    _distribution(stranger, "loud-bench", "[omgbench.tasks]\nloud = loud_bench:Task\n")
    code = "import sys; sys.argv = ['omgbench', 'tasks']; from omgbench.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(stranger), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "loud" in done.stdout
    assert "RefCOCO" in done.stdout


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rndom", "did you mean random"),
        ("nowhere.py:Model", "does not exist"),
        ("omgbench.testing.models:RandmModel", "RandomModel"),
        ("no_such_package:Model", "could not be imported"),
        ("omgbench.errors:EXIT_OK", "without capabilities"),
    ],
)
def test_a_model_that_cannot_be_had(spec: str, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        registry.build_model(spec)


def test_two_files_of_one_name_do_not_shadow_each_other(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.py").write_text(
            f"from omgbench.testing.models import RandomModel\n\nclass M(RandomModel):\n    number = {number}\n"
        )
    models = [registry.build_model(f"{tmp_path / str(number) / 'model.py'}:M") for number in (1, 2)]
    assert [model.number for model in models] == [1, 2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "split", "labels"),
    [
        ("gcg", None, ["gcg:val", "gcg:test"]),
        ("gcg:val,gcg:val", None, ["gcg:val"]),
        ("refcoco:testA", None, ["refcoco:testA"]),
        ("refcocog/google:val", None, ["refcocog/google:val"]),
        ("refcoco*", "val", ["refcoco:val", "refcoco_plus:val", "refcocog:val"]),
        ("refcoco:all", None, ["refcoco:val", "refcoco:testA", "refcoco:testB", "refcoco:test"]),
        ("refcoco", "testB", ["refcoco:testB"]),
        (" gcg:val , refcoco:val", "test", ["gcg:val", "refcoco:val"]),
    ],
)
def test_what_a_selection_means(text: str, split: str | None, labels: list[str]) -> None:
    assert [cell.label for cell in select(text, split)] == labels
