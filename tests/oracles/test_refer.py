"""refCOCO numbers of LISA's, OMG-LLaVA's and lmms-eval's scripts, through a whole offline run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omgbench.contract import Box, Mask, Response, Rle, Status
from omgbench.data.coco import read_instances
from omgbench.data.refer import read_refs, select_split
from omgbench.metrics.boxes import parse_box_lmms_eval
from omgbench.predictions import write_predictions
from omgbench.runner.imported import score_predictions
from omgbench.runner.scoring import read_records
from omgbench.store import ResultRecord

THRESHOLDS = ("0.5", "0.6", "0.7", "0.8", "0.9")
FOLDERS = ("refer_synth", "refer_coco_real")


@pytest.mark.parametrize("name", FOLDERS)
def test_masks_of_lisa_and_omg_llava(name: str, oracles: Any, tmp_path: Path) -> None:
    folder = oracles.folder(name)
    expected = oracles.expected(folder.name)["refcoco"]
    assert set(expected) == {"val", "testA", "testB", "test"}
    for split, numbers in expected.items():
        result, stats = _run(folder, split, _masks(folder, split), tmp_path / split)
        official = {key: numbers[key] for key in ("lisa", "omg_llava_skips_missing_mask")}
        measured = {
            "lisa": _measured(folder, split, result, stats, skip=False),
            "omg_llava_skips_missing_mask": _measured(folder, split, result, stats, skip=True),
        }
        # The official sums are float32.
        oracles.assert_same(measured, official, 1e-6, f"{name}/{split}")


@pytest.mark.parametrize("name", FOLDERS)
def test_boxes_of_lmms_eval(name: str, oracles: Any, tmp_path: Path) -> None:
    folder = oracles.folder(name)
    expected = oracles.expected(folder.name)["refcoco"]
    with_boxes = {split: numbers["rec_lmms_eval"] for split, numbers in expected.items() if split != "test"}
    for split, official in with_boxes.items():
        result, _ = _run(folder, split, _boxes(folder, split), tmp_path / split)
        measured = {"n": result.metric("IoU").n, "IoU": result.value("IoU"), "Center_ACC": result.value("Center_Acc")}
        measured |= {f"ACC@{t}": result.value(f"Acc@{t}") for t in (0.1, 0.3, 0.5, 0.7, 0.9)}
        oracles.assert_same(measured, official, 1e-9, f"{name}/{split}")


@pytest.mark.parametrize("name", FOLDERS)
def test_the_json_mirror_holds_what_the_pickle_holds(name: str, oracles: Any, tmp_path: Path) -> None:
    folder = oracles.folder(name) / "refcoco"
    (tmp_path / "refs(unc).json").write_bytes((folder / "refs(unc).json").read_bytes())
    if not (folder / "refs(unc).p").exists():
        pytest.skip(f"{folder} has no pickle to compare with")
    assert read_refs(tmp_path, "unc") == read_refs(folder, "unc")


def _run(
    folder: Path, split: str, responses: Iterator[Response], out: Path
) -> tuple[ResultRecord, list[dict[str, Any]]]:
    """A whole offline run: prediction file, plan, journal, records, metrics."""
    file = out.with_suffix(".jsonl")
    write_predictions(file, "official predictions", responses)
    outcome = score_predictions(file, f"refcoco:{split}", data=folder, out=out)
    assert outcome.complete
    cell = out / f"refcoco-{split}"
    return outcome.results[0], [record.stats for record in read_records(cell / "records.jsonl")]


def _predictions(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    rows = json.loads((folder / "refcoco_predictions.json").read_text(encoding="utf-8"))
    of_split = {ref.ref_id for ref in select_split(read_refs(folder / "refcoco", "unc"), split)}
    return (row for row in rows if row["ref_id"] in of_split)


def _masks(folder: Path, split: str) -> Iterator[Response]:
    for row in _predictions(folder, split):
        request_id, rle = f"refcoco:{split}#{row['sent_id']}", row["mask"]
        if rle is None:
            yield Response(request_id, Status.EMPTY)
        else:
            yield Response(request_id, masks=(Mask(Rle((rle["size"][0], rle["size"][1]), rle["counts"])),))


def _boxes(folder: Path, split: str) -> Iterator[Response]:
    images = read_instances(folder / "refcoco" / "instances.json").images
    for row in _predictions(folder, split):
        image = images[row["image_id"]]
        x1, y1, x2, y2 = parse_box_lmms_eval(row["rec_text"])
        xyxy = (x1 * image.width, y1 * image.height, x2 * image.width, y2 * image.height)
        yield Response(f"refcoco:{split}#{row['sent_id']}", text=row["rec_text"], boxes=(Box(xyxy),))


def _measured(
    folder: Path, split: str, result: ResultRecord, stats: list[dict[str, Any]], *, skip: bool
) -> dict[str, Any]:
    counted = [item for item in stats if not (skip and item["mask_missing"])]
    ious = [_iou(item) for item in stats]
    return {
        "images": result.data.n_groups,
        "refs": len(select_split(read_refs(folder / "refcoco", "unc"), split)),
        "sentences": result.metric("cIoU").n,
        "cIoU": result.value("cIoU_skip_missing" if skip else "cIoU"),
        "gIoU": result.value("gIoU"),
        "intersection": float(sum(item["intersection_px"] for item in counted)),
        "union": float(sum(_union(item) for item in counted)),
        "mean_sentence_iou": sum(ious) / len(ious),
        "Pr": {t: result.value(f"Pr@{t}") for t in THRESHOLDS},
    }


def _union(item: dict[str, Any]) -> int:
    return int(item["prediction_px"] + item["target_px"] - item["intersection_px"])


def _iou(item: dict[str, Any]) -> float:
    union = _union(item)
    return float(item["intersection_px"] / (union + 1e-5)) if union else 1.0
