"""GCG's mask numbers against COCOeval, for ids of either type and for records that repeat."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from omgbench.contract import Mask, Record, Response, Rle, Status
from omgbench.metrics.captions import CaptionScores
from omgbench_tasks.gcg import task as gcg_task
from omgbench_tasks.gcg.task import AP_METRICS, CAPTION_METRICS, Gcg

HEIGHT, WIDTH = 24, 32
N_IMAGES = 30
OFFICIAL_ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
Ids = Callable[[int], Any]
CocoRle = dict[str, Any]


class NothingAlike:
    """A text model for which no phrase means the same."""

    name = "none"

    def similarity(self, labels: Sequence[str], phrases: Sequence[str]) -> NDArray[np.float64]:
        return np.zeros((len(labels), len(phrases)))


@pytest.fixture(autouse=True)
def asked_captions(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Captions given to the caption metrics, one list per sum; nothing is scored, as that takes Java."""
    asked: list[list[str]] = []

    def score(references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], **_: Any) -> CaptionScores:
        assert list(references) == list(hypotheses)
        asked.append(list(hypotheses.values()))
        return CaptionScores(not_computed=dict.fromkeys(CAPTION_METRICS, "not in this test"))

    monkeypatch.setattr(gcg_task, "score_captions", score)
    return asked


def rle_of(box: Sequence[int]) -> CocoRle:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    x, y, width, height = box
    mask[y : y + height, x : x + width] = 1
    coco = coco_mask.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": coco["counts"].decode("ascii")}


def random_boxes(rng: random.Random) -> tuple[list[list[int]], list[list[int]]]:
    """True boxes, and predicted ones: some of those moved a little, some anywhere; either list may be empty."""
    true = [
        [rng.randrange(20), rng.randrange(12), rng.randint(4, 12), rng.randint(4, 12)]
        for _ in range(rng.choice(range(5)))
    ]
    moved = [[x + rng.choice((0, 0, 1, 2)), y + rng.choice((0, 1)), w, h] for x, y, w, h in true if rng.random() < 0.7]
    stray = [[rng.randrange(20), rng.randrange(12), 6, 6] for _ in range(rng.choice(range(3)))]
    predicted = moved + stray
    rng.shuffle(predicted)
    return true, predicted


class World:
    """Random masks of 30 images, and predictions for them, under ids made from 1 .. 30 in shuffled file order."""

    def __init__(self, ids: Ids, seed: int) -> None:
        rng = random.Random(seed)
        numbers = list(range(1, N_IMAGES + 1))
        rng.shuffle(numbers)
        self.ids = [ids(number) for number in numbers]
        boxes = [random_boxes(rng) for _ in numbers]
        self.true = {key: list(map(rle_of, true)) for key, (true, _) in zip(self.ids, boxes, strict=True)}
        self.predicted = {key: list(map(rle_of, found)) for key, (_, found) in zip(self.ids, boxes, strict=True)}

    def mask_file(self, sources: Mapping[Any, Any]) -> dict[str, Any]:
        """The annotations of some images under other ids: new id to the id whose masks it has."""
        annotations: list[dict[str, Any]] = []
        for image_id, source in sources.items():
            for rle in self.true[source]:
                area = int(coco_mask.area(rle))
                entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": area}
                annotations.append(entry | {"segmentation": rle, "bbox": [0, 0, 1, 1]})
        images = [{"id": image_id, "height": HEIGHT, "width": WIDTH} for image_id in sources]
        return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}

    def records(self, root: Path) -> list[Record]:
        """Scores of the predictions, from files and through JSON."""
        captions = [
            {"id": number, "image_id": key, "caption": f"Image {key}.", "labels": ["thing"] * len(self.true[key])}
            for number, key in enumerate(self.ids, start=1)
        ]
        caption_file = {"images": [{"id": key} for key in self.ids], "annotations": captions}
        for kind, content in (("caption", caption_file), ("mask", self.mask_file(same(self.ids)))):
            (root / f"val_gcg_coco_{kind}_gt.json").write_text(json.dumps(content), encoding="utf-8")
        gcg = Gcg()
        records = []
        for sample in gcg.samples(gcg.info.splits[0], root):
            found = self.predicted[sample.reference.official_id]
            masks = tuple(Mask(Rle((HEIGHT, WIDTH), rle["counts"])) for rle in found)
            record = gcg.score(sample, Response(sample.id, text=f"Answer {sample.group}.", masks=masks))
            records.append(replace(record, stats=json.loads(json.dumps(record.stats))))
        return records

    def official(self, sources: Mapping[Any, Any]) -> dict[str, float]:
        """COCOeval's twelve numbers."""
        results = [
            {"image_id": image_id, "category_id": 1, "segmentation": rle, "score": 1.0}
            for image_id, source in sources.items()
            for rle in self.predicted[source]
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = self.mask_file(sources)
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(results), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(OFFICIAL_ORDER, evaluation.stats.tolist(), strict=True))


def same(ids: Sequence[Any]) -> dict[Any, Any]:
    return {key: key for key in ids}


def summed(records: Sequence[Record]) -> dict[str, float | None]:
    return {value.name: value.value for value in Gcg(NothingAlike()).summarize(iter(records))}


def ap_of(records: Sequence[Record]) -> dict[str, float | None]:
    values = summed(records)
    return {name: values[name] for name in AP_METRICS}


def as_number(number: int) -> int:
    return number


def as_text(number: int) -> str:
    return f"sa_{number}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ids", [as_number, as_text, str])
def test_all_twelve_numbers_are_cocoevals(ids: Ids, seed: int, tmp_path: Path) -> None:
    world = World(ids, seed)
    records = world.records(tmp_path)
    official = world.official(same(world.ids))
    assert ap_of(records) == pytest.approx(official, rel=0, abs=1e-12)
    shuffled = random.Random(seed).sample(records, len(records))
    assert ap_of(shuffled) == ap_of(records)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_numbers_is_not_that_of_their_texts(seed: int, tmp_path: Path) -> None:
    """Else the test above could not tell them apart."""
    as_numbers, as_texts = World(as_number, seed), World(str, seed)
    assert abs(as_numbers.official(same(as_numbers.ids))["AP"] - as_texts.official(same(as_texts.ids))["AP"]) > 1e-6


def test_ids_of_both_types_go_by_their_texts(tmp_path: Path) -> None:
    mixed = World(lambda number: number if number % 2 else str(number), 0)
    texts = World(str, 0)
    assert ap_of(mixed.records(tmp_path)) == pytest.approx(texts.official(same(texts.ids)), rel=0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_is_a_set_in_which_images_stand_several_times(seed: int, tmp_path: Path) -> None:
    world = World(as_number, seed)
    records = world.records(tmp_path)
    drawn = random.Random(seed).choices(records, k=len(records))
    copies = dict(enumerate(sorted(record.stats["image_id"] for record in drawn)))
    assert ap_of(drawn) == pytest.approx(world.official(copies), rel=0, abs=1e-12)


def test_a_repeated_record_counts_twice(tmp_path: Path, asked_captions: list[list[str]]) -> None:
    records = World(as_text, 0).records(tmp_path)
    miou = {record.id: summed([record])["mIoU"] for record in records}
    one = max(records, key=lambda record: miou[record.id] or 0.0)
    other = min(records, key=lambda record: miou[record.id] or 0.0)
    high, low = miou[one.id], miou[other.id]
    assert high is not None
    assert low is not None
    assert high > low
    asked_captions.clear()
    values = {value.name: value for value in Gcg(NothingAlike()).summarize([one, one, other])}
    assert values["mIoU"].value == pytest.approx((2 * high + low) / 3, rel=1e-12)
    assert {name: values[name].n for name in ("METEOR", "AP50", "mIoU")} == {"METEOR": 3, "AP50": 3, "mIoU": 3}
    n_labels = 2 * len(one.stats["labels"]) + len(other.stats["labels"])
    assert values["Recall_by_text_model"].n == n_labels
    assert asked_captions == [[one.stats["caption"], one.stats["caption"], other.stats["caption"]]]


def test_captions_stay_in_the_order_of_the_caption_file(tmp_path: Path, asked_captions: list[list[str]]) -> None:
    world = World(as_number, 0)
    summed(world.records(tmp_path))
    assert asked_captions == [[f"Answer {key}." for key in world.ids]]


@pytest.mark.parametrize("status", [Status.ERROR, Status.TIMEOUT, Status.MISSING])
def test_a_failed_answer_is_no_caption_and_no_mask(status: Status, tmp_path: Path) -> None:
    World(as_number, 0).records(tmp_path)
    gcg = Gcg()
    for sample in gcg.samples(gcg.info.splits[0], tmp_path):
        failed = gcg.score(sample, replace(gcg.perfect_answer(sample), status=status))
        assert failed.stats == gcg.score(sample, Response(sample.id, Status.EMPTY, text="")).stats
