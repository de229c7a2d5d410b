"""Changed code is another model: every file of the adapter's project that it imports counts, and no other."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omgbench.identity import code_fingerprint
from omgbench.registry import load_target

PROJECT = {
    "unrelated.py": "VALUE = 1\n",
    "helper.py": "VALUE = 1\n",
    "deep.py": "VALUE = 1\n",
    "late.py": "import deep\nVALUE = 1\n",
    "beside.py": "import helper\nclass M:\n    def f(self):\n        import late\n        return helper.VALUE\n",
    "named.py": "import importlib\nclass M:\n    other = importlib.import_module('helper')\n",
    "derived.py": "from pk.base import Base\nclass M(Base):\n    pass\n",
    "made.py": "from helper import VALUE\ndef make():\n    return None\n",
    "pk/__init__.py": "VALUE = 1\n",
    "pk/util.py": "VALUE = 1\n",
    "pk/base.py": "from .more import near\nclass Base:\n    pass\n",
    "pk/broken.py": "this is no Python\n",
    "pk/more/__init__.py": "",
    "pk/more/near.py": "from ..util import VALUE\n",
    "pk/more/alone.py": "VALUE = 1\n",
    "pk/models/__init__.py": "",
    "pk/models/adapter.py": "from pk.util import VALUE\nimport numpy\nclass M:\n    value = VALUE\n",
    "pk/models/relative.py": "from .. import util\ndef f():\n    from ....above import x\nclass M:\n    pass\n",
    "pk/models/broken.py": "try:\n    import pk.broken\nexcept SyntaxError:\n    pass\nclass M:\n    pass\n",
    "pk/models/outside.py": "def f():\n    import helper\nclass M:\n    pass\n",
    "dyn/__init__.py": "",
    "dyn/adapter.py": "import importlib\ndef f(name):\n    importlib.import_module('dyn.' + name)\nclass M: ...\n",
    "dyn/heads/one.py": "VALUE = 1\n",
    "space/models/adapter.py": "from space import util\nclass M:\n    pass\n",
    "space/util.py": "VALUE = 1\n",
}
TOP = {name.split("/")[0].removesuffix(".py") for name in PROJECT}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return _write(tmp_path / "project", PROJECT)


@pytest.fixture(autouse=True)
def _clean_modules() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    _forget()


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in TOP]:
        del sys.modules[name]
    importlib.invalidate_caches()


def _load(folder: Path, spec: str) -> Any:
    """The attribute of a module, loaded as if `folder` were the working folder."""
    _forget()
    sys.path[:] = [str(folder), *(path for path in sys.path if "project" not in path)]
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)


COUNTS = [
    ("beside:M", "beside.py"),
    ("beside:M", "helper.py"),
    ("beside:M", "late.py"),
    ("beside:M", "deep.py"),
    ("named:M", "helper.py"),
    ("derived:M", "pk/base.py"),
    ("derived:M", "pk/more/near.py"),
    ("derived:M", "pk/util.py"),
    ("made:make", "made.py"),
    ("made:make", "helper.py"),
    ("pk.models.adapter:M", "pk/models/adapter.py"),
    ("pk.models.adapter:M", "pk/util.py"),
    ("pk.models.adapter:M", "pk/__init__.py"),
    ("pk.models.relative:M", "pk/util.py"),
    ("pk.models.broken:M", "pk/broken.py"),
    ("pk.models.outside:M", "helper.py"),
    ("dyn.adapter:M", "dyn/heads/one.py"),
    ("space.models.adapter:M", "space/util.py"),
]


@pytest.mark.parametrize(("spec", "file"), COUNTS)
def test_a_file_that_is_imported_counts(project: Path, spec: str, file: str) -> None:
    model = _load(project, spec)
    before = code_fingerprint(model)
    assert code_fingerprint(model) == before
    text = (project / file).read_text()
    (project / file).write_text(text.replace("VALUE = 1", "VALUE = 2") if "VALUE = 1" in text else text + "# more\n")
    assert code_fingerprint(model) != before
    (project / file).write_text(text)
    assert code_fingerprint(model) == before


@pytest.mark.parametrize("spec", sorted({spec for spec, _ in COUNTS}))
def test_a_file_that_nobody_imports_does_not_count(project: Path, spec: str) -> None:
    model = _load(project, spec)
    before = code_fingerprint(model)
    for name in ("unrelated.py", "pk/more/alone.py"):
        (project / name).write_text("VALUE = 2\n")
    (project / "new.py").write_text("")
    (project / "numpy_of_mine.py").write_text("")
    assert code_fingerprint(model) == before


@pytest.mark.parametrize("spec", sorted({spec for spec, _ in COUNTS}))
def test_a_copy_elsewhere_is_the_same_code(project: Path, tmp_path: Path, spec: str) -> None:
    copy = tmp_path / "a folder" / "project of others"
    shutil.copytree(project, copy)
    assert code_fingerprint(_load(project, spec)) == code_fingerprint(_load(copy, spec))


def test_a_file_given_by_its_path_counts_with_its_siblings(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    sys.path.insert(0, str(project))
    one, two = (load_target("models", f"{folder / 'beside.py'}:M") for folder in (project, copy))
    assert code_fingerprint(one) == code_fingerprint(two)
    (copy / "helper.py").write_text("VALUE = 2\n")
    assert code_fingerprint(one) != code_fingerprint(two)


def test_a_file_of_a_package_given_by_its_path_counts_with_the_package(project: Path) -> None:
    sys.path.insert(0, str(project))
    model = load_target("models", f"{project / 'pk/models/adapter.py'}:M")
    before = code_fingerprint(model)
    (project / "pk/util.py").write_text("VALUE = 2\n")
    assert code_fingerprint(model) != before


def test_a_module_that_appears_counts(project: Path) -> None:
    (project / "beside.py").write_text("try:\n    import extra\nexcept ImportError:\n    pass\nclass M:\n    pass\n")
    model = _load(project, "beside:M")
    before = code_fingerprint(model)
    (project / "extra.py").write_text("")
    assert code_fingerprint(model) != before


def test_another_class_of_the_same_module_is_another_model(project: Path) -> None:
    (project / "made.py").write_text("class A:\n    pass\nclass B:\n    pass\n")
    assert code_fingerprint(_load(project, "made:A")) != code_fingerprint(_load(project, "made:B"))


def test_an_instance_counts_as_its_class(project: Path) -> None:
    model = _load(project, "beside:M")
    assert code_fingerprint(model()) == code_fingerprint(model)


def test_other_distributions_do_not_count(project: Path, tmp_path: Path) -> None:
    site = tmp_path / "project-env" / "site-packages"
    shutil.copytree(project, site)
    model = _load(site, "pk.models.outside:M")
    before = code_fingerprint(model)
    (site / "helper.py").write_text("VALUE = 2\n")
    assert code_fingerprint(model) == before
    (site / "pk/__init__.py").write_text("VALUE = 2\n")
    assert code_fingerprint(model) != before
    derived = _load(site, "derived:M")
    before = code_fingerprint(derived)
    (site / "pk/base.py").write_text("class Base:\n    value = 2\n")
    assert code_fingerprint(derived) == before


def test_a_model_of_the_harness_is_cheap_and_stable() -> None:
    from omgbench.testing.models import BlankModel, RandomModel

    assert code_fingerprint(RandomModel) == code_fingerprint(RandomModel())
    assert code_fingerprint(RandomModel) != code_fingerprint(BlankModel)


def test_a_package_of_three_hundred_files(tmp_path: Path) -> None:
    body = "\n".join(f"def f{n}(x):\n    return [x + {n} for _ in range({n})]\n" for n in range(20))
    files = {f"pk/m{n}.py": f"from pk import m{n + 1}\nimport numpy\n{body}" for n in range(300)}
    folder = _write(tmp_path / "project", {**files, "pk/__init__.py": "", "pk/m300.py": "VALUE = 1\n"})
    (folder / "pk/adapter.py").write_text("class M:\n    def f(self):\n        from . import m0\n")
    model = _load(folder, "pk.adapter:M")
    before = code_fingerprint(model)
    (folder / "pk/m300.py").write_text("VALUE = 2\n")
    assert code_fingerprint(model) != before


NOTEBOOK = """
import functools
import helper
THRESHOLD = 0.5
TEMPLATES = {"a": "Where is {text}?"}
COLOURS = frozenset({"red", "green", "blue"})
class Base:
    def common(self):
        return 1
def cut(x, least=2):
    return x > THRESHOLD and x > least
class M(Base):
    size = 3
    @property
    def wording(self):
        return TEMPLATES["a"]
    @staticmethod
    def fixed():
        return 7
    @functools.lru_cache
    def kept(self):
        return 9
    def f(self, x):
        try:
            return cut(x) and x in {"one", "two", "three"} and [y + 11 for y in x]
        except ValueError:
            return helper.VALUE
    def late(self):
        from pk import util
        return util.VALUE
itself = []
itself.append(itself)
class Odd(M):
    loop = itself
"""
CHANGES = {
    "a constant": ("THRESHOLD = 0.5", "THRESHOLD = 0.6"),
    "a template": ("Where is", "Segment"),
    "a base class": ("return 1\n", "return 2\n"),
    "a function": ("x > THRESHOLD", "x < THRESHOLD"),
    "a default": ("least=2", "least=3"),
    "an attribute": ("size = 3", "size = 4"),
    "a static method": ("return 7", "return 8"),
    "a decorated method": ("return 9", "return 10"),
    "a set in code": ('"three"}', '"four"}'),
    "a comprehension": ("y + 11", "y + 12"),
    "what is caught": ("ValueError", "TypeError"),
}


def _cell(text: str, name: str = "notebook_of_a_test") -> Any:
    module = types.ModuleType(name)
    exec(compile(text, "<cell>", "exec"), vars(module))  # noqa: S102  (as a notebook does)
    return module


@pytest.mark.parametrize("change", CHANGES)
def test_a_class_of_a_notebook(project: Path, change: str) -> None:
    sys.path.insert(0, str(project))
    old, new = CHANGES[change]
    assert old in NOTEBOOK
    before = code_fingerprint(_cell(NOTEBOOK).M)
    assert code_fingerprint(_cell("\n\n" + NOTEBOOK).M) == before, "a cell that moved"
    assert code_fingerprint(_cell(NOTEBOOK.replace(old, new)).M) != before


@pytest.mark.parametrize("file", ["helper.py", "pk/util.py"])
def test_files_that_a_notebook_imports(project: Path, file: str) -> None:
    sys.path.insert(0, str(project))
    model = _cell(NOTEBOOK).M
    before = code_fingerprint(model)
    (project / "unrelated.py").write_text("VALUE = 2\n")
    assert code_fingerprint(model) == before
    (project / file).write_text("VALUE = 2\n")
    assert code_fingerprint(model) != before


def test_a_list_that_holds_itself(project: Path) -> None:
    sys.path.insert(0, str(project))
    cell = _cell(NOTEBOOK)
    assert code_fingerprint(cell.Odd) not in ("", code_fingerprint(cell.M))


def test_a_class_made_in_bare_globals() -> None:
    def made(value: int) -> Any:
        space: dict[str, Any] = {}
        exec(f"class M:\n    def f(self):\n        return {value}", space)  # noqa: S102
        return space["M"]

    assert code_fingerprint(made(1)) == code_fingerprint(made(1)) != code_fingerprint(made(2))


def _by_stdin(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False)


def _by_command(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("start", [_by_stdin, _by_command])
def test_a_script_without_a_file(
    start: Callable[[str], subprocess.CompletedProcess[str]], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project), *sys.path]))
    script = NOTEBOOK + "\nfrom omgbench.identity import code_fingerprint\n__file__ = '<stdin>'\n"
    prints = []
    for text in (script, script, script.replace("y + 11", "y + 12")):
        done = start(text + "print(code_fingerprint(M()))")
        assert done.returncode == 0, done.stderr
        prints.append(done.stdout)
    # Each process has its own order of sets.
    assert prints[0] == prints[1] != prints[2]
