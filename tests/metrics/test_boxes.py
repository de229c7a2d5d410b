"""Box rules against pixel counting and plain formulas, the lmms-eval parser, and the oracles."""

from __future__ import annotations

import json
import os
import random
from fractions import Fraction
from pathlib import Path

import pytest

from omgbench.errors import UserError
from omgbench.metrics import boxes as B

ORACLES = Path(os.environ.get("OMGBENCH_ORACLES") or Path(__file__).parents[2] / "../shared/data")


def random_pixel_box(chance: random.Random) -> tuple[float, float, float, float]:
    x, y = chance.randint(0, 8), chance.randint(0, 8)
    return (x, y, x + chance.randint(0, 8), y + chance.randint(0, 8))


def pixels(box: tuple[float, float, float, float]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}


def test_continuous_iou_counts_pixels_on_whole_boxes() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        a, b = random_pixel_box(chance), random_pixel_box(chance)
        union = pixels(a) | pixels(b)
        expected = Fraction(len(pixels(a) & pixels(b)), len(union)) if union else 0
        assert B.box_iou_xyxy(a, b) == float(expected) == B.box_iou_xyxy(b, a)


def test_inclusive_pixels_is_the_same_except_for_a_single_shared_row_or_column() -> None:
    chance = random.Random(2)
    thin = 0
    for _ in range(2000):
        a, b = random_pixel_box(chance), random_pixel_box(chance)
        columns, rows = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        expected = B.box_iou_xyxy(a, b) if columns > 1 and rows > 1 else 0.0
        thin += min(columns, rows) == 1
        assert B.box_iou_inclusive_pixels(a, b) == expected
    assert thin > 50


def test_inclusive_pixels_on_fractions_of_a_pixel() -> None:
    # xywh [0, 0, 10.5, 10] and [0.5, 0, 10, 10]: the last pixels are 9.5 and 9.5, so 9 + 1 columns are common.
    assert B.box_iou_inclusive_pixels((0, 0, 10.5, 10), (0.5, 0, 10.5, 10)) == 100 / (105 + 100 - 100)


@pytest.mark.parametrize(
    "box", [(3, 3, 1, 1), (3, 0, 1, 5), (0, 0, 0, 0), (2, 2, 2, 2), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 0)]
)
@pytest.mark.parametrize("rule", B.BOX_IOU_RULES)
def test_boxes_without_area_or_sense_meet_nothing(box: tuple[float, float, float, float], rule: str) -> None:
    assert B.box_overlap(box, (0, 0, 5, 5), rule).iou == 0.0
    assert B.box_overlap(box, box, rule).iou == 0.0


def test_centre_on_the_border_is_inside() -> None:
    reference = (0, 0, 4, 4)
    assert B.center_inside((3, 3, 5, 5), reference)
    assert B.center_inside((-1, -1, 1, 1), reference)
    assert not B.center_inside((3, 3, 5.1, 5), reference)
    assert not B.center_inside((1, -3, 2, 2), reference)


def test_a_centre_on_the_border_is_inside_in_fractions_and_in_pixels() -> None:
    # From refer_coco_real: the centre y is (0.56 + 0.59) / 2 = 0.575, the lower border 246.1 / 428 = 0.575.
    width, height = 640, 428
    prediction, reference_px = (0.93, 0.56, 0.94, 0.59), (596.87, 232.88, 606.61, 246.1)
    reference = tuple(side / (width, height)[i % 2] for i, side in enumerate(reference_px))
    prediction_px = tuple(side * (width, height)[i % 2] for i, side in enumerate(prediction))
    assert (prediction_px[1] + prediction_px[3]) / 2 > reference_px[3]
    assert B.center_inside(prediction, reference) and B.center_inside(prediction_px, reference_px)
    assert not B.center_inside((0.93, 0.56, 0.94, 0.590001), reference)


def test_no_box_and_unknown_rules() -> None:
    assert B.box_overlap(None, (0, 0, 1, 1)) == B.BoxOverlap(0.0, False)
    with pytest.raises(UserError, match="box rule"):
        B.box_overlap((0, 0, 1, 1), (0, 0, 1, 1), "xtuner")


def summed(rows: list[B.BoxOverlap]) -> B.ReferringBoxSums:
    sums = B.ReferringBoxSums()
    for row in rows:
        sums.add(row)
    return sums


def random_rows(seed: int) -> list[B.BoxOverlap]:
    chance = random.Random(seed)
    values = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
    return [B.BoxOverlap(chance.choice([*values, chance.random()]), chance.random() < 0.5) for _ in range(300)]


def test_sums_against_the_definitions() -> None:
    rows = random_rows(3)
    values = summed(rows).values()
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert values[f"Acc@{threshold}"] == sum(row.iou >= threshold for row in rows) / 300
    assert values["IoU"] == pytest.approx(sum(row.iou for row in rows) / 300, rel=1e-12)
    assert values["Center_Acc"] == sum(row.center_inside for row in rows) / 300
    assert set(B.ReferringBoxSums().values().values()) == {None}


def test_merging_shards_in_any_order_gives_the_same_bytes() -> None:
    rows = random_rows(4)
    whole = summed(rows)
    chance = random.Random(5)
    for _ in range(20):
        chance.shuffle(rows)
        cut = chance.randrange(300)
        merged = summed(rows[cut:]) + summed(rows[:cut])
        assert merged == whole
        assert repr(merged.values()) == repr(whole.values())


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("The box is [0.32,0.76, 0.54,1.00].", (0.32, 0.76, 0.54, 1.0)),
        ("[ -1,\n2, 3.5, 4 ] or [0.0, 0.0, 1.0, 1.0]", (-1.0, 2.0, 3.5, 4.0)),
        ("[1, 2, 3] then [4, 3, 2, 1]", (4.0, 3.0, 2.0, 1.0)),
        ("(0.40, 0.09, 0.95, 0.60)", (0, 0, 0, 0)),
        ("[0.1 , 0.2, 0.3, 0.4]", (0, 0, 0, 0)),
        ("[.1, .2, .3, .4]", (0, 0, 0, 0)),
        ("[+1, 2, 3, 4]", (0, 0, 0, 0)),
        ("[1., 2, 3, 4]", (0, 0, 0, 0)),
        ("[1e-3, 2, 3, 4]", (0, 0, 0, 0)),
        ("[1, 2, 3, 4, 5]", (0, 0, 0, 0)),
        ("I cannot see it", (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_lmms_eval_parser(text: str, box: tuple[float, float, float, float]) -> None:
    assert B.parse_box_lmms_eval(text) == box


def test_lmms_eval_parser_takes_long_nonsense_quickly() -> None:
    assert B.parse_box_lmms_eval("[" * 50_000 + "1," * 50_000) == (0, 0, 0, 0)
    huge = B.parse_box_lmms_eval("[0, 0, " + "9" * 400 + ", 1]")
    assert B.box_overlap(huge, (0, 0, 1, 1)).iou == 0.0


@pytest.mark.oracle
@pytest.mark.parametrize("split", ["val", "testA", "testB"])
@pytest.mark.parametrize("name", ["refer_synth", "refer_coco_real"])
def test_numbers_of_lmms_eval(name: str, split: str) -> None:
    folder = ORACLES / name
    if not folder.is_dir():
        pytest.skip(f"no oracle folder {folder}; set OMGBENCH_ORACLES")
    expected = json.loads((folder / "expected.json").read_text())["refcoco"][split]["rec_lmms_eval"]
    instances = json.loads((folder / "refcoco/instances.json").read_text())
    images = {image["id"]: (image["width"], image["height"]) for image in instances["images"]}
    annotations = {annotation["id"]: annotation["bbox"] for annotation in instances["annotations"]}
    texts = {p["sent_id"]: p["rec_text"] for p in json.loads((folder / "refcoco_predictions.json").read_text())}
    sums = B.ReferringBoxSums()
    for ref in json.loads((folder / "refcoco/refs(unc).json").read_text()):
        if ref["split"] != split:
            continue
        (width, height), (x, y, w, h) = images[ref["image_id"]], annotations[ref["ann_id"]]
        reference = (x / width, y / height, (x + w) / width, (y + h) / height)
        for sentence in ref["sentences"]:
            sums.add(B.box_overlap(B.parse_box_lmms_eval(texts[sentence["sent_id"]]), reference))
    values = sums.values()
    assert sums.n == expected["n"]
    assert values["IoU"] == pytest.approx(expected["IoU"], abs=1e-12)
    assert values["Center_Acc"] == pytest.approx(expected["Center_ACC"], abs=1e-12)
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert values[f"Acc@{threshold}"] == pytest.approx(expected[f"ACC@{threshold}"], abs=1e-12)
