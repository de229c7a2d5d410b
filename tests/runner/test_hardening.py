"""Races, orphans, dead models, colliding keys: what a long job on a shared machine meets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omgbench import evaluate
from omgbench.contract import (
    Capabilities,
    Frame,
    Intent,
    ModelDied,
    ModelIdentity,
    Placement,
    Record,
    Request,
    Response,
    Sample,
    SplitInfo,
)
from omgbench.errors import DataError, OmgbenchError, RunRefused, UserError
from omgbench.runner.claim import locked
from omgbench.runner.context import CellContext, CellSettings, Shard
from omgbench.runner.engine import LoadedModel
from omgbench.runner.journal import JournalIndex
from omgbench.runner.plan import PlanOptions, make_plan
from omgbench.runner.prefetch import AHEAD_BYTES, ImageReader, with_images
from omgbench.selection import Cell
from omgbench.store.cell import CELL_FILE, read_cell_file
from omgbench.testing import TinyTask, tiny_frame
from omgbench.testing.models import RandomModel

DATA = Path()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from omgbench.cli import main; main()", *arguments]


def test_shards_started_together_do_not_disturb_each_other(tmp_path: Path) -> None:
    arguments = [
        "run",
        "--model",
        "random",
        "--tasks",
        "omgbench.testing.tiny:TinyTask",
        "--out",
        str(tmp_path),
        "--quiet",
    ]
    processes = [
        subprocess.Popen(_command(*arguments, "--shard", f"{n}/6"), stderr=subprocess.PIPE, text=True)
        for n in range(1, 7)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def _context(folder: Path, shard: Shard) -> CellContext:
    task = TinyTask()
    cell = Cell(task, None, task.info.splits[0])
    plan = make_plan(cell, DATA, PlanOptions())
    from omgbench.data.roots import DataRoot

    loaded = LoadedModel(ModelIdentity("m", "1", "none"), "code")
    return CellContext(
        plan, DataRoot(DATA, "none"), folder, Capabilities(frozenset(Intent)), loaded, CellSettings(shard)
    )


@pytest.mark.parametrize(
    ("held", "wanted", "free"),
    [
        (Shard(1, 2), Shard(2, 2), True),
        (Shard(1, 2), Shard(1, 2), False),
        (Shard(1, 2), Shard(), False),
        (Shard(), Shard(1, 2), False),
        (Shard(1, 2), Shard(1, 3), False),
        (Shard(), Shard(), False),
    ],
)
def test_parts_that_share_samples_exclude_each_other(held: Shard, wanted: Shard, free: bool, tmp_path: Path) -> None:
    # flock is per open file, so two contexts of one process stand for two processes.
    with locked(_context(tmp_path, held)):
        if free:
            with locked(_context(tmp_path, wanted)):
                pass
        else:
            with pytest.raises(RunRefused, match="another process"), locked(_context(tmp_path, wanted)):
                pass
    with locked(_context(tmp_path, wanted)):
        pass


HANGS = """
import time
from omgbench.testing.models import RandomModel


class Hangs(RandomModel):
    def respond(self, requests):
        open("worker.pid", "w").write(str(__import__("os").getpid()))
        time.sleep(600)
"""


def test_a_worker_that_hangs_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(HANGS)
    command = _command(
        "run",
        "--model",
        "model.py:Hangs",
        "--tasks",
        "omgbench.testing.tiny:TinyTask",
        "--workers",
        "1",
        "--out",
        "run",
    )
    parent = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pid_file = tmp_path / "worker.pid"
    _wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    worker = int(pid_file.read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _wait_for(lambda: not _alive(worker))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_stuck_model_is_named_while_it_is_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines look at their watchdogs; the wait is shortened, not the way."""
    from omgbench.runner import engine, watchdog

    lines: list[str] = []

    class Ear:
        def cell_started(self, label: str, total: int, already: int) -> None: ...
        def advanced(self, statuses: Any) -> None: ...
        def cell_finished(self, label: str) -> None: ...
        def say(self, line: str) -> None:
            lines.append(line)

    class Slow(RandomModel):
        def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
            time.sleep(0.5)
            return super().respond(requests)

    impatient = lambda *arguments: watchdog.Watchdog(*arguments, first_s=0.1)  # noqa: E731
    monkeypatch.setattr(engine, "Watchdog", impatient)
    monkeypatch.setattr(engine, "WatchdogThread", lambda dog: watchdog.WatchdogThread(dog, every_s=0.05))
    evaluate(Slow(), TinyTask(1, 1), out=tmp_path / "local", progress=Ear())
    assert any("the model has been at one batch" in line and "00000000" in line for line in lines)

    lines.clear()
    (tmp_path / "model.py").write_text(
        "import time\nfrom omgbench.testing.models import RandomModel\n\n\nclass Slow(RandomModel):\n"
        "    def respond(self, requests):\n        time.sleep(3)\n        return super().respond(requests)\n"
    )
    from omgbench.runner import pool

    monkeypatch.setattr(pool, "Watchdog", impatient)
    spec = f"{tmp_path / 'model.py'}:Slow"
    evaluate(spec, "omgbench.testing.tiny:TinyTask", out=tmp_path / "pool", workers=1, limit=1, progress=Ear())
    assert any("worker 0" in line and "00000000" in line for line in lines)


class DeadAfter(RandomModel):
    """An accelerator whose context is gone: whatever is asked then fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.dead = False

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        self.dead = self.dead or any(request.id == "00000005" for request in requests)
        if self.dead:
            raise self.error
        yield from super().respond(requests)


@pytest.mark.parametrize(
    "error", [ModelDied("gone"), RuntimeError("CUDA error: device-side assert triggered")], ids=["ModelDied", "CUDA"]
)
def test_a_dead_model_stops_the_run_and_keeps_what_is_answered(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OmgbenchError, match="--workers 1"):
        evaluate(DeadAfter(error), TinyTask(), out=tmp_path)
    (journal,) = tmp_path.glob("*/journal/*.jsonl")
    assert len(journal.read_text().splitlines()) == 1 + 5


DIES = """
from omgbench.contract import ModelDied
from omgbench.testing.models import RandomModel


class Dies(RandomModel):
    dead = False

    def respond(self, requests):
        self.dead = self.dead or any(request.id == "00000005" for request in requests)
        if self.dead:
            raise ModelDied("the device is lost")
        return super().respond(requests)
"""


def test_with_workers_only_the_request_it_dies_on_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(DIES)
    evaluation = evaluate(
        f"{tmp_path / 'model.py'}:Dies", "omgbench.testing.tiny:TinyTask", out=tmp_path / "run", workers=1, batch_size=4
    )
    (result,) = evaluation.results
    assert result.coverage.statuses == {"ok": 23, "error": 1}
    assert any("the device is lost" in reason for reason in result.reasons)


def test_another_dtype_is_another_model(tmp_path: Path) -> None:
    evaluate("random", TinyTask(), out=tmp_path, dtype="float32")
    with pytest.raises(RunRefused, match=r'model.dtype: there "float32", here "float16"'):
        evaluate("random", TinyTask(), out=tmp_path, dtype="float16")


def test_the_result_tells_how_the_answers_came_about_not_the_last_command(tmp_path: Path) -> None:
    class Placed(RandomModel):
        def load(self, placement: Placement) -> Placement:
            return replace(placement, device="cuda:1")

    evaluate(Placed(), TinyTask(), out=tmp_path, shard="1/2", batch_size=2)
    evaluate(Placed(), TinyTask(), out=tmp_path, batch_size=8)
    (result,) = evaluate(Placed(), TinyTask(), out=tmp_path, batch_size=16).results
    assert result.engine.batch_sizes == (2, 8)
    assert result.engine.device == "cuda:1"
    assert result.engine.processes == 2


def test_a_determinism_check_is_remembered(tmp_path: Path) -> None:
    evaluate("random", TinyTask(), out=tmp_path, check_determinism=True)
    (result,) = evaluate("random", TinyTask(), out=tmp_path).results
    assert result.determinism is not None
    assert result.determinism["agree"] == 8


def test_the_default_directory_has_room_for_other_samples_of_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = evaluate("random", TinyTask(n_groups=2))
    second = evaluate("random", TinyTask(n_groups=3))
    assert first.out == second.out
    assert [result.data.n_samples for result in (*first.results, *second.results)] == [6, 9]
    assert len(list(tmp_path.glob("omgbench_runs/*/tiny-val*"))) == 2


class KeyTwice(TinyTask):
    """Four pictures under one key."""

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        for sample in super().samples(split, data_root):
            shown = tiny_frame(8, 6, "the same key", seed=int(sample.group))
            yield replace(sample, request=replace(sample.request, frames=(shown,)))


def test_one_key_for_two_pictures_shows_neither_for_the_other(tmp_path: Path) -> None:
    class Looks(RandomModel):
        seen: dict[str, bytes] = {}  # noqa: RUF012
        keys: set[str] = set()  # noqa: RUF012

        def capabilities(self) -> Capabilities:
            return replace(super().capabilities(), reads_images=True)

        def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
            for request in requests:
                self.seen[request.id] = request.frames[0].image.tobytes()
                self.keys.add(request.frames[0].key)
            return super().respond(requests)

    task = KeyTwice(n_groups=4, per_group=2, width=8, height=6)
    evaluate(Looks(), task, out=tmp_path)
    for sample in task.samples(task.info.splits[0], DATA):
        assert Looks.seen[sample.id] == sample.request.frames[0].image.tobytes()
    assert len(Looks.keys) == 4, "what a model may cache by is one key per picture"
    again = evaluate(Looks(), task, out=tmp_path)
    assert again.complete, "a run that goes on holds each answer against its own picture"


def test_read_ahead_is_bounded_by_bytes_and_forgets_what_was_shown() -> None:
    opened: list[str] = []

    def source(name: str) -> Any:
        def read() -> bytes:
            opened.append(name)
            return b"not a picture"

        return read

    side = 8192
    assert 3 * side * side * 3 > AHEAD_BYTES
    task = TinyTask()
    cell = Cell(task, None, task.info.splits[0])
    planned = list(make_plan(cell, DATA, PlanOptions()).samples())[:12]
    large = [
        replace(
            item,
            sample=replace(
                item.sample,
                request=replace(item.sample.request, frames=(Frame(f"f{n // 2}", side, side, source(f"f{n // 2}")),)),
            ),
        )
        for n, item in enumerate(planned)
    ]
    with ImageReader() as reader:
        stream = with_images(large, 100, reader)
        next(stream)
        time.sleep(0.2)
        assert len(opened) <= 4, "twelve such pictures are two gigabytes"
        list(stream)
        assert not reader._futures


def test_a_record_of_another_status_cannot_hide_a_failure(tmp_path: Path) -> None:
    from omgbench.contract import Status

    class Hides(TinyTask):
        def score(self, sample: Sample, response: Response) -> Record:
            return replace(super().score(sample, response), status=Status.OK)

    class Fails(RandomModel):
        def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
            raise OSError("down")

    with pytest.raises(OmgbenchError, match="status ok; expected"):
        evaluate(Fails(), Hides(), out=tmp_path)


def test_two_tasks_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two tasks are called 'tiny'"):
        evaluate("random", [TinyTask(), TinyTask(n_groups=2)], out=tmp_path)


def test_an_unsupported_request_anywhere_leaves_the_cell_out_before_loading(tmp_path: Path) -> None:
    from omgbench.contract import Turn

    class LastHasHistory(TinyTask):
        def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
            *first, last = super().samples(split, data_root)
            yield from first
            yield replace(last, request=replace(last.request, history=(Turn("user", "hello"),)))

    class NoHistory(RandomModel):
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities(), history=False)

        def load(self, placement: Placement) -> None:
            raise AssertionError("loaded in vain")

    evaluation = evaluate(NoHistory(), LastHasHistory(), out=tmp_path)
    assert "conversations" in evaluation.left_out["tiny:val"]


@pytest.mark.parametrize(
    "entry",
    ['"n":"x"', '"n":-1', '"n":0,"try":700000', '"n":0,"try":0,"s":0,"r":{"status":"nope"}', '"n":0,"try":0', '"n":['],
)
def test_a_sealed_line_that_makes_no_sense_is_left_out(entry: str, tmp_path: Path) -> None:
    from omgbench.runner.journal import _seal

    evaluate("random", TinyTask(), out=tmp_path)
    (journal,) = tmp_path.glob("*/journal/*.jsonl")
    with journal.open("ab") as stream:
        stream.write(_seal((entry + "}").encode()))
    index = JournalIndex.load(journal.parent, read_cell_file(journal.parent.parent).cell, 24)
    assert index.n_answered() == 24
    assert len(index.dropped_lines) == 1


@pytest.mark.parametrize(
    "change",
    [{"task": "x"}, {"surplus": 1}, {"label": 3}, {"options": {"gen": [1]}}, {"model": {}}, {"n_samples": "many"}],
    ids=str,
)
def test_a_made_up_cell_file_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    evaluate("random", TinyTask(), out=tmp_path)
    path = tmp_path / "tiny-val" / CELL_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="a cell that cannot be read"):
        read_cell_file(path.parent)
