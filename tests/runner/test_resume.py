"""Killed at any instant and started again, a run asks nothing twice that is journaled and ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BATCH = 4
MODEL = '''
import os, time
from omgbench.testing.models import RandomModel


class Logged(RandomModel):
    """Random answers that take their time; notes every id it is asked."""

    def respond(self, requests):
        with open(os.environ["ASKED_LOG"], "a") as log:
            log.write("".join(request.id + "\\n" for request in requests))
        time.sleep(float(os.environ["SECONDS_PER_BATCH"]))
        return super().respond(requests)
'''
TASK = """
import os

from omgbench.testing.tiny import TinyTask


def many():
    return TinyTask(n_groups=int(os.environ["N_GROUPS"]), per_group=4)
"""


class Runs:
    """Starts the same run again and again."""

    def __init__(self, folder: Path, n_groups: int = 300) -> None:
        self.folder = folder
        self.n_groups = n_groups
        self.log = folder / "asked.log"
        (folder / "model.py").write_text(MODEL)
        (folder / "task.py").write_text(TASK)

    def start(self, out: Path, *extra: str, seconds: float = 0.008) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from omgbench.cli import main; main()", "run", "--quiet"]
        command += ["--model", f"{self.folder / 'model.py'}:Logged", "--tasks", f"{self.folder / 'task.py'}:many"]
        command += ["--batch-size", str(BATCH), "--out", str(out), *extra]
        environment = os.environ | {"ASKED_LOG": str(self.log), "SECONDS_PER_BATCH": str(seconds)}
        environment["N_GROUPS"] = str(self.n_groups)
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def asked(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def finish(self, out: Path, *extra: str) -> None:
        process = self.start(out, *extra, seconds=0.0)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()


def _journaled(out: Path) -> set[str]:
    found = set()
    for path in out.glob("*/journal/*.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"}\n"):
                entry = json.loads(line)
                if "r" in entry:
                    found.add(entry["r"]["id"])
    return found


def _scores(out: Path) -> dict[str, bytes]:
    (cell,) = (path.parent for path in out.glob("*/cell.json"))
    return {name: (cell / name).read_bytes() for name in ("metrics.json", "records.jsonl")}


def _kill_again_and_again(runs: Runs, out: Path, kills: int, seed: int, *extra: str) -> None:
    """Kill, and hold every later question against what was journaled at that moment."""
    chance = random.Random(seed)
    kept: list[tuple[int, set[str]]] = []
    done = 0
    while done < kills:
        process = runs.start(out, *extra)
        wait = chance.uniform(0.02, 1.6)
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
        else:
            assert process.returncode == 0
            break
        time.sleep(0.05)
        kept.append((len(runs.asked()), _journaled(out)))
    assert done == kills, "the run ended before all kills; make it longer"
    asked = runs.asked()
    for position, journaled in kept:
        assert not journaled.intersection(asked[position:]), "a journaled answer was asked again"


@pytest.mark.parametrize(("kills", "workers"), [(4, "0"), (3, "2")])
def test_a_few_kills(tmp_path: Path, kills: int, workers: str) -> None:
    _check_kills(Runs(tmp_path, n_groups=1500), tmp_path, kills, workers)


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "workers"), [(70, "0"), (30, "3")])
def test_a_hundred_kills(tmp_path: Path, kills: int, workers: str) -> None:
    _check_kills(Runs(tmp_path, n_groups=9000), tmp_path, kills, workers)


def _check_kills(runs: Runs, folder: Path, kills: int, workers: str) -> None:
    unbroken = folder / "unbroken"
    runs.finish(unbroken)
    runs.log.unlink()
    broken = folder / "broken"
    _kill_again_and_again(runs, broken, kills, kills, "--workers", workers)
    runs.finish(broken, "--workers", workers)
    assert _scores(broken) == _scores(unbroken)
    asked = runs.asked()
    repeated = len(asked) - len(set(asked))
    in_flight = BATCH * max(1, int(workers))
    assert repeated <= kills * in_flight, f"{repeated} questions were repeated over {kills} kills"


def test_a_torn_tail_and_a_damaged_line_are_asked_again(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    out = tmp_path / "run"
    runs.finish(out, "--limit", "40")
    before = _scores(out)
    (journal,) = out.glob("*/journal/*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = lines[5].replace(b'"n":4', b'"n":9')
    assert damaged != lines[5]
    journal.write_bytes(b"".join([*lines[:5], damaged, *lines[6:-1], lines[-1][: len(lines[-1]) // 2]]))
    runs.log.unlink()
    runs.finish(out, "--limit", "40")
    assert len(runs.asked()) == 2
    assert _scores(out) == before


def test_a_finished_run_asks_nothing(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    out = tmp_path / "run"
    runs.finish(out, "--limit", "20")
    runs.log.unlink()
    runs.finish(out, "--limit", "20")
    assert runs.asked() == []


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    out = tmp_path / "run"
    for workers in ("0", "2"):
        process = runs.start(out, "--workers", workers)
        deadline = time.monotonic() + 30
        before = len(_journaled(out)) if out.exists() else 0
        while len(_journaled(out)) <= before and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors.decode()
        text = errors.decode()
        assert "Go on with" in text
        assert "Traceback" not in text
