"""However a run is cut into workers, batches and shards, it ends in the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from omgbench import evaluate
from omgbench.errors import RunRefused
from omgbench.runner.stored import merge, rescore

TASK = "from omgbench.testing.tiny import TinyTask\n\n\ndef tiny():\n    return TinyTask(n_groups=60, per_group=5)\n"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("task") / "task.py"
    path.write_text(TASK)
    return f"{path}:tiny"


@pytest.fixture(scope="module")
def reference(task: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference")
    evaluate("random", [task], out=out)
    return _scores(out)


def _scores(out: Path) -> dict[str, bytes]:
    (cell,) = (path.parent for path in out.glob("*/cell.json"))
    return {name: (cell / name).read_bytes() for name in ("metrics.json", "records.jsonl")}


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_workers_and_batches(
    workers: int, batch_size: int, task: str, reference: dict[str, bytes], tmp_path: Path
) -> None:
    evaluation = evaluate("random", [task], out=tmp_path, workers=workers, batch_size=batch_size)
    assert evaluation.complete
    assert _scores(tmp_path) == reference


def test_more_workers_may_go_on_with_what_fewer_began(task: str, reference: dict[str, bytes], tmp_path: Path) -> None:
    evaluate("random", [task], out=tmp_path, shard="1/3")
    evaluate("random", [task], out=tmp_path, workers=3, batch_size=8)
    assert _scores(tmp_path) == reference


def test_shards_in_one_directory(task: str, reference: dict[str, bytes], tmp_path: Path) -> None:
    for part in (3, 1, 2):
        evaluation = evaluate("random", [task], out=tmp_path, shard=f"{part}/3", batch_size=part)
        assert evaluation.results == ()
    (result,) = merge(tmp_path, [], task_files=[Path(task)])
    assert result.complete
    assert _scores(tmp_path) == reference


def test_shards_in_directories_of_their_own(task: str, reference: dict[str, bytes], tmp_path: Path) -> None:
    parts = [tmp_path / f"part{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, start=1):
        evaluate("random", [task], out=part, shard=f"{number}/3")
    whole = tmp_path / "whole"
    files = [Path(task)]
    (first,) = merge(whole, parts[:2], task_files=files)
    assert not first.complete
    assert "missing" in first.reasons[0]
    (second,) = merge(whole, parts, task_files=files)
    (again,) = merge(whole, parts, task_files=files)
    assert second.complete
    assert again.coverage == second.coverage
    assert _scores(whole) == reference


def test_shards_of_different_models_do_not_merge(task: str, tmp_path: Path) -> None:
    evaluate("random", [task], out=tmp_path / "a", shard="1/2")
    evaluate("random", [task], model_args={"seed": 1}, out=tmp_path / "b", shard="2/2")
    with pytest.raises(RunRefused, match="different models"):
        merge(tmp_path / "whole", [tmp_path / "a", tmp_path / "b"])


def test_scoring_again_gives_the_same_bytes(task: str, reference: dict[str, bytes], tmp_path: Path) -> None:
    evaluate("random", [task], out=tmp_path)
    for path in tmp_path.glob("*/*.json*"):
        if path.name not in ("cell.json",):
            path.unlink()
    rescore(tmp_path, task_files=[Path(task)])
    assert _scores(tmp_path) == reference
