"""Fixtures of the caption metrics: a Java, one METEOR for the whole session, and pretended Javas."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omgbench.metrics.captions import CAPTION_METRICS, CaptionScores, meteor, score_captions
from omgbench.metrics.captions.java import Java, find_java
from omgbench.metrics.captions.meteor import MeteorScorer, open_meteor

Captions = tuple[dict[str, list[str]], dict[str, str]]
BareScores = dict[str, tuple[float, list[float]]]

_WORDS = ["a", "the", "two", "man", "woman", "dog", "dogs", "cat", "rides", "riding", "sits", "on", "in", "of", "red"]
_WORDS += ["big", "large", "bike", "bicycle", "beach", "table"]
_ENDS = ["", ".", " , near the U.S.", " (left)", " 's hat", '"', " 2 1/2 km", "; café", "!", " [SEG]", " - <p> it </p>"]


@pytest.fixture(scope="session")
def java() -> Java:
    """The Java that the tests run with."""
    return find_java()


@pytest.fixture(scope="session")
def official_package() -> Path:
    """Folder of the installed pycocoevalcap."""
    spec = importlib.util.find_spec("pycocoevalcap")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.fixture(scope="session")
def linked_package(official_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes pycocoevalcap again in a writable folder of the given name, its large file as a link."""

    def copy_or_link(source: str, target: str) -> None:
        # The jar looks beside where it really lies, so a link to it would prove nothing.
        (os.symlink if source.endswith(".gz") else shutil.copy)(source, target)

    def link(name: str) -> Path:
        copy = tmp_path_factory.mktemp("installed") / name / "pycocoevalcap"
        ignored = shutil.ignore_patterns("spice", "__pycache__")
        shutil.copytree(official_package, copy, copy_function=copy_or_link, ignore=ignored)
        return copy

    return link


@pytest.fixture(scope="session")
def running_meteor(java: Java, linked_package: Callable[[str], Path]) -> Iterator[MeteorScorer]:
    """One METEOR for all tests, installed in a folder where the bare one cannot find its table."""
    package = linked_package("Program Files é")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "official_file", lambda relative_path: package / relative_path)
        with open_meteor(java) as scorer:
            yield scorer


@pytest.fixture(scope="session")
def sample() -> Captions:
    """Forty items with one to three references and awkward ends, deterministic."""
    rng = random.Random(7)

    def caption() -> str:
        text = " ".join(rng.choices(_WORDS, k=rng.randint(1, 9))) + rng.choice(_ENDS)
        return text.capitalize()

    references = {f"item {number}": [caption() for _ in range(rng.randint(1, 3))] for number in range(40)}
    hypotheses = {item: rng.choice([caption(), texts[0], texts[-1] + " ok"]) for item, texts in references.items()}
    references["empty reference"], hypotheses["empty reference"] = [""], "a dog"
    references["nothing said"], hypotheses["nothing said"] = ["a dog", "a cat"], ""
    references["both empty"], hypotheses["both empty"] = ["."], ""
    return references, hypotheses


@pytest.fixture(scope="session")
def bare_process(
    linked_package: Callable[[str], Path], sample: Captions, java: Java
) -> Iterator[subprocess.Popen[bytes]]:
    """pycocoevalcap scoring the sample in a process of its own, while other tests run."""
    package = linked_package("plain")
    captions = package.parent / "captions.json"
    captions.write_text(json.dumps(dict(zip(("references", "hypotheses"), sample, strict=True))))
    path = os.pathsep.join([str(Path(java.path).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("bare_pycocoevalcap.py")), str(captions)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(package.parent), "PATH": path},
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def sample_scores(bare_process: subprocess.Popen[bytes], sample: Captions) -> CaptionScores:
    """The sample scored by us, under a locale with a decimal comma (which kills the bare METEOR)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
        return score_captions(*sample, metrics=CAPTION_METRICS)


@pytest.fixture(scope="session")
def bare_scores(bare_process: subprocess.Popen[bytes], sample_scores: CaptionScores) -> BareScores:
    """The sample scored by pycocoevalcap: metric -> corpus value and items' values."""
    output, _ = bare_process.communicate(timeout=120)
    scores: BareScores = json.loads(output)
    return scores


@pytest.fixture
def pretend_java(tmp_path: Path) -> Callable[[str], Java]:
    """A launcher that answers `-version` and otherwise runs the given shell commands."""
    if os.name != "posix":
        pytest.skip("a shell script stands for Java")

    def write(commands: str) -> Java:
        path = tmp_path / "pretended" / "bin" / "java"
        path.parent.mkdir(parents=True)
        answer = """case " $* " in *" -version "*) echo 'openjdk version "99.1"' >&2; exit 0;; esac"""
        path.write_text(f"#!/bin/sh\n{answer}\n{commands}\n")
        path.chmod(0o755)
        return Java(str(path), "99.1", "PATH")

    return write


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that takes every temporary file of the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def has_ended() -> Callable[[int], bool]:
    """Whether the process with this id is gone (or a zombie) within two seconds."""

    def check(pid: int) -> bool:
        deadline = time.monotonic() + 2
        while _is_running(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    return check


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()
