"""Worker processes that die, hang or run out of memory cost what they must and no more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from omgbench import evaluate
from omgbench.contract import Placement
from omgbench.errors import OmgbenchError, PluginError
from omgbench.runner.pool import PoolEngine, WorkerModel
from omgbench.runner.watchdog import Watchdog

MODELS = '''
import os, sys, time
from omgbench.testing.models import RandomModel

POISON = "tiny:val#"


def poisoned(requests, number=17):
    return [request for request in requests if request.id == _ids()[number]]


def _ids():
    from omgbench.testing.tiny import TinyTask
    task = TinyTask(n_groups=20, per_group=3)
    return [sample.id for sample in task.samples(task.info.splits[0], None)]


class Dies(RandomModel):
    def respond(self, requests):
        if poisoned(requests):
            os._exit(9)
        return super().respond(requests)


class Hangs(RandomModel):
    def respond(self, requests):
        if poisoned(requests):
            time.sleep(1000)
        return super().respond(requests)


class Prints(RandomModel):
    def respond(self, requests):
        print("a model that talks on standard output")
        os.write(1, b"even past Python\\n")
        return super().respond(requests)


class CannotLoad(RandomModel):
    def load(self, placement):
        raise RuntimeError("no such checkpoint")


class DiesAtOnce(RandomModel):
    def load(self, placement):
        os._exit(5)


class Forks(RandomModel):
    """Another identity in each worker."""

    def load(self, placement):
        self.worker = placement.worker

    def identity(self):
        from dataclasses import replace
        return replace(super().identity(), weights=str(self.worker))
'''
TASK = "from omgbench.testing.tiny import TinyTask\n\n\ndef tiny():\n    return TinyTask(n_groups=20, per_group=3)\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "task.py").write_text(TASK)
    return tmp_path


def _evaluate(files: Path, model: str, **options: object) -> object:
    return evaluate(f"{files / 'models.py'}:{model}", [f"{files / 'task.py'}:tiny"], out=files / "out", **options)


@pytest.mark.parametrize(
    ("model", "status", "words"), [("Dies", "error", "died"), ("Hangs", "timeout", "no answer within")]
)
def test_the_request_that_kills_a_worker_is_one_record(files: Path, model: str, status: str, words: str) -> None:
    evaluation = _evaluate(files, model, workers=2, batch_size=8, timeout_s=2.0)
    (result,) = evaluation.results  # type: ignore[attr-defined]
    assert result.coverage.statuses == {"ok": 59, status: 1}
    assert any(words in reason for reason in result.reasons)
    assert not result.complete


def test_a_model_that_prints_does_not_disturb_the_protocol(files: Path) -> None:
    assert _evaluate(files, "Prints", workers=2).complete  # type: ignore[attr-defined]


def test_a_model_that_cannot_load_says_why(files: Path) -> None:
    with pytest.raises(PluginError, match="no such checkpoint"):
        _evaluate(files, "CannotLoad", workers=2)


def test_a_worker_that_dies_at_once_is_no_endless_loop(files: Path) -> None:
    with pytest.raises(OmgbenchError, match="exit code 5"):
        _evaluate(files, "DiesAtOnce", workers=2)


def test_workers_must_hold_one_and_the_same_model(files: Path) -> None:
    with pytest.raises(PluginError, match="another model"):
        _evaluate(files, "Forks", workers=2)


def test_no_worker_outlives_its_pool(files: Path) -> None:
    engine = PoolEngine(WorkerModel("random", {}, Placement()), 1, 1)
    engine.start()
    process = engine.workers[0].process
    engine.close()
    assert process.poll() is not None


def test_a_stuck_batch_is_reported_by_name() -> None:
    lines: list[str] = []
    watchdog = Watchdog("worker 3", lines.append, first_s=0.05)
    watchdog.started(["a", "b", "c", "d", "e", "f"])
    watchdog.look()
    assert lines == []
    time.sleep(0.06)
    watchdog.look()
    watchdog.look()
    assert len(lines) == 1
    assert "worker 3" in lines[0]
    assert "a, b, c, d and 2 more" in lines[0]
    watchdog.finished()
    assert watchdog.busy_s() == 0.0
