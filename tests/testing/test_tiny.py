"""The made task: lazy, exact, and with pictures where they are wished."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omgbench.contract import Mask, Response, Rle, Sample, Status
from omgbench.errors import DataError
from omgbench.metrics.rle import parse_runs
from omgbench.testing import RandomModel, TinyTask, WholeImageModel, check_task


def listed(task: TinyTask, root: Path = Path()) -> list[Sample]:
    return list(task.samples(task.info.splits[0], root))


def values(task: TinyTask, answers: list[Response]) -> dict[str, float | None]:
    records = [task.score(sample, answer) for sample, answer in zip(listed(task), answers, strict=True)]
    return {value.name: value.value for value in task.summarize(records)}


@pytest.mark.parametrize("task", [TinyTask(), TinyTask(3, 1, 2, 2), TinyTask(2, 5, 31, 17, seed=9)])
def test_it_keeps_the_contract(task: TinyTask) -> None:
    check_task(task).raise_for_failures()


def test_samples_come_one_by_one() -> None:
    endless = TinyTask(n_groups=10**12, per_group=7)
    split = endless.info.splits[0]
    assert split.n_samples == 7 * 10**12
    first = list(itertools.islice(endless.samples(split, Path()), 15))
    assert [sample.group for sample in first] == ["00000000"] * 7 + ["00000001"] * 7 + ["00000002"]
    assert len({sample.id for sample in first}) == 15


def _targets(task: TinyTask) -> list[Rle]:
    return [task.target(sample.reference) for sample in listed(task)]


def test_rectangles_differ_and_depend_on_the_seed() -> None:
    targets = _targets(TinyTask(20, 5))
    assert len(set(targets)) > 90
    assert targets != _targets(TinyTask(20, 5, seed=1))


def test_scores_are_exact() -> None:
    task = TinyTask(4, 3, 40, 30)
    samples = listed(task)
    answers = list(RandomModel().respond([sample.request for sample in samples]))
    sums = np.zeros(2, int)
    for sample, answer in zip(samples, answers, strict=True):
        one, other = (
            np.repeat(np.arange(runs.size) % 2 == 1, runs)
            for runs in (parse_runs(answer.masks[0].rle.counts), parse_runs(task.target(sample.reference).counts))
        )
        sums += [int((one & other).sum()), int((one | other).sum())]
    assert values(task, answers)["cIoU"] == sums[0] / sums[1]


def test_whole_image_scores_the_share_of_the_target() -> None:
    task = TinyTask(5, 2, 20, 10)
    answers = list(WholeImageModel().respond([sample.request for sample in listed(task)]))
    target_px = sum(int(parse_runs(task.target(sample.reference).counts)[1::2].sum()) for sample in listed(task))
    assert values(task, answers)["cIoU"] == target_px / (10 * 200)


def test_several_masks_count_as_their_union_and_failures_as_nothing() -> None:
    task = TinyTask(1, 1)
    (sample,) = listed(task)
    target = Mask(task.target(sample.reference))
    assert task.score(sample, Response(sample.id, masks=(target, target))).stats["intersection_px"] > 0
    failed = task.score(sample, Response(sample.id, Status.ERROR, masks=(target,)))
    assert failed.stats["intersection_px"] == 0
    assert failed.stats["union_px"] > 0


def test_frames_cannot_be_read_unless_painted(tmp_path: Path) -> None:
    source = listed(TinyTask())[0].request.frames[0].source
    assert callable(source)
    with pytest.raises(DataError, match="images=True"):
        source()

    task = TinyTask(2, 3, 32, 24, images=True)
    task.write_demo(tmp_path, 0)
    frame = listed(task, tmp_path)[-1].request.frames[0]
    assert isinstance(frame.source, Path)
    picture = Image.open(frame.source)
    assert picture.size == (32, 24)
    box = task.target(5)
    inside = np.repeat(np.arange(len(parse_runs(box.counts))) % 2 == 1, parse_runs(box.counts)).reshape(32, 24).T
    assert len(np.unique(np.asarray(picture)[inside], axis=0)) == 1


def test_arguments_may_come_as_text() -> None:
    assert TinyTask(n_groups="2", per_group="4").info.splits[0].n_samples == 8
