"""The built-in tasks keep the contract, and score the edge cases as their official scripts do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omgbench import registry
from omgbench.contract import Box, Mask, Response, Rle, Sample, Span, Status
from omgbench.data.roots import demo_root
from omgbench.metrics.rle import area_px, empty_rle
from omgbench.testing import check_task
from omgbench_tasks.gcg.task import Gcg, phrases_of


@pytest.mark.parametrize("name", ["refcoco", "refcoco_plus", "refcocog"])
def test_referring_tasks_keep_the_contract(name: str) -> None:
    check_task(registry.build_task(name), limit=24).raise_for_failures()


@pytest.mark.slow
def test_gcg_keeps_the_contract() -> None:
    """Slow: each sum starts METEOR's Java."""
    check_task(registry.build_task("gcg"), limit=8, splits=["val"]).raise_for_failures()


def _samples(name: str, split: str = "val") -> tuple[Any, list[Sample]]:
    task = registry.build_task(name)
    info = next(found for found in task.info.splits if found.name == split and not found.subset)
    return task, list(task.samples(info, demo_root(task)))


@pytest.fixture(scope="module")
def refer() -> tuple[Any, list[Sample]]:
    return _samples("refcoco")


def _value(task: Any, records: list[Any], name: str) -> float | None:
    return next(value.value for value in task.summarize(records) if value.name == name)


def test_the_first_mask_counts_and_the_first_box(refer: tuple[Any, list[Sample]]) -> None:
    task, samples = refer
    perfect = task.perfect_answer(samples[0])
    nothing = Mask(empty_rle(perfect.masks[0].rle.size))
    stats = task.score(samples[0], replace(perfect, masks=(perfect.masks[0], nothing))).stats
    assert stats["intersection_px"] == stats["target_px"] > 0
    stats = task.score(samples[0], replace(perfect, masks=(nothing, perfect.masks[0]))).stats
    assert stats["intersection_px"] == 0
    assert not stats["mask_missing"]
    stats = task.score(samples[0], replace(perfect, boxes=(Box((0, 0, 1, 1)), *perfect.boxes))).stats
    assert stats["box_iou"] < 0.1


def test_without_a_box_the_mask_gives_one(refer: tuple[Any, list[Sample]]) -> None:
    task, samples = refer
    perfect = task.perfect_answer(samples[0])
    assert task.score(samples[0], replace(perfect, boxes=())).stats["box_iou"] > 0.9
    assert task.score(samples[0], Response(samples[0].id, Status.EMPTY)).stats["box_iou"] == 0.0


def test_a_missing_mask_under_both_rules(refer: tuple[Any, list[Sample]]) -> None:
    task, samples = refer
    good = [task.score(sample, task.perfect_answer(sample)) for sample in samples[:3]]
    missing = task.score(samples[3], Response(samples[3].id, Status.EMPTY))
    target_px = missing.stats["target_px"]
    whole = sum(record.stats["target_px"] for record in good)
    assert _value(task, [*good, missing], "cIoU") == pytest.approx(whole / (whole + target_px))
    assert _value(task, [*good, missing], "cIoU_skip_missing") == pytest.approx(1.0)
    assert _value(task, [*good, missing], "gIoU") == pytest.approx(0.75, abs=1e-4)


@pytest.mark.parametrize("status", [Status.ERROR, Status.TIMEOUT, Status.MISSING])
def test_a_failed_answer_is_the_worst_case_everywhere(status: Status, refer: tuple[Any, list[Sample]]) -> None:
    task, samples = refer
    good = [task.score(sample, task.perfect_answer(sample)) for sample in samples[:3]]
    failed = task.score(samples[3], replace(task.perfect_answer(samples[3]), status=status))
    both = {name: _value(task, [*good, failed], name) for name in ("cIoU", "cIoU_skip_missing")}
    assert both["cIoU"] == both["cIoU_skip_missing"]
    assert both["cIoU"] < 1.0


def test_a_record_holds_numbers_not_pictures(refer: tuple[Any, list[Sample]]) -> None:
    task, samples = refer
    record = task.score(samples[0], task.perfect_answer(samples[0]))
    assert len(json.dumps(record.stats)) < 200


def test_an_overlap_of_polygons_is_neither_target_nor_background(tmp_path: Path) -> None:
    """Two squares of 10 x 10 that share 5 x 10: the official target is the 100 pixels under exactly one of them."""
    squares = [[0, 0, 10, 0, 10, 10, 0, 10], [5, 0, 15, 0, 15, 10, 5, 10]]
    folder = tmp_path / "refcoco"
    folder.mkdir()
    image = {"id": 1, "file_name": "a.jpg", "height": 20, "width": 20}
    annotation = {"id": 5, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 150, "bbox": [0, 0, 15, 10]}
    instances = {
        "images": [image],
        "annotations": [annotation | {"segmentation": squares}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    ref = {"ref_id": 1, "ann_id": 5, "category_id": 1, "image_id": 1, "split": "val", "sent_ids": [1]}
    ref["sentences"] = [{"sent_id": 1, "sent": " The Square ", "raw": "x", "tokens": []}]
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).json").write_text(json.dumps([ref]))
    task = registry.build_task("refcoco")
    (sample,) = task.samples(task.info.splits[0], tmp_path)
    assert sample.request.text == "The Square"
    assert sample.id == "refcoco:val#1"
    assert area_px(sample.reference.mask) == 100


def _response(phrases: list[tuple[str, tuple[int, ...]]], n_masks: int) -> Response:
    spans = tuple(Span(phrase, masks=masks) for phrase, masks in phrases)
    return Response("x", text="", masks=(Mask(Rle((1, 1), "1")),) * n_masks, spans=spans)


@pytest.mark.parametrize(
    ("phrases", "n_masks", "expected"),
    [
        ([("a", (0,)), ("b", (1,))], 2, ["a", "b"]),
        ([("a", (1,)), ("b", (0,))], 2, ["b", "a"]),
        ([("dogs", (0, 1)), ("b", (2,))], 3, ["dogs", "dogs", "b"]),
        ([("a", (0,)), ("more", ())], 1, ["a", "more"]),
        ([("a", (0,))], 2, ["a"]),
        ([("b", (1,))], 2, []),
        ([], 0, []),
    ],
)
def test_phrases_stand_in_the_order_of_their_masks(
    phrases: list[tuple[str, tuple[int, ...]]], n_masks: int, expected: list[str]
) -> None:
    assert phrases_of(_response(phrases, n_masks)) == expected


def test_the_official_folder_and_its_gaps(tmp_path: Path) -> None:
    task = Gcg()
    split = task.info.splits[0]
    samples = list(task.samples(split, demo_root(task)))
    for sample in samples[1:]:
        perfect = task.perfect_answer(sample)
        content = {
            "image_id": sample.reference.image_id,
            "caption": perfect.text,
            "phrases": [span.phrase for span in perfect.spans],
            "pred_masks": [{"size": list(mask.rle.size), "counts": mask.rle.counts} for mask in perfect.masks],
        }
        # The official readers take an object that is wrapped once.
        (tmp_path / f"{sample.reference.image_id}.json").write_text(json.dumps({"wrapped": content}))
    responses = list(task.read_official_predictions(tmp_path, samples))
    assert [response.status for response in responses[:2]] == [Status.MISSING, Status.OK]
    for sample, response in zip(samples[1:], responses[1:], strict=True):
        assert task.score(sample, response).stats == task.score(sample, task.perfect_answer(sample)).stats


def test_recall_without_its_text_model_is_not_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    task = Gcg()
    sample = next(iter(task.samples(task.info.splits[0], demo_root(task))))
    values = task._recall_values([task.score(sample, task.perfect_answer(sample)).stats])
    assert values["Recall"].value is None
    assert "bert-base-uncased" in values["Recall"].note
    assert values["Recall_by_text_model"].value is None
