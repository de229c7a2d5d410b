"""The twelve COCO numbers against pycocotools, faster-coco-eval and the oracles, on inputs full of edge cases."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omgbench.contract import Rle
from omgbench.errors import DataError
from omgbench.metrics import average_precision as A
from omgbench.metrics import rle as R
from omgbench.metrics.grounding import iou_matrix

ORACLES = Path(os.environ.get("OMGBENCH_ORACLES") or Path(__file__).parents[2] / "../shared/data")
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SIZE = (130, 140)

Truth = dict[str, Any]
Results = list[dict[str, Any]]


def rectangle(chance: random.Random) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    side = chance.choice([6, 20, 40, 90, 125])
    y, x = chance.randrange(SIZE[0] - 5), chance.randrange(SIZE[1] - 5)
    mask[y : y + side, x : x + side] = True
    return mask if chance.random() < 0.97 else np.zeros(SIZE, dtype=bool)


def shaken(mask: np.ndarray, chance: random.Random) -> np.ndarray:
    steps = chance.choice([(0, 0), (0, 0), (1, 0), (2, 3), (5, 9)])
    return np.roll(mask, steps, axis=(0, 1))


def random_split(seed: int, *, equal_scores: bool = False, categories: int = 1, first_id: int = 1) -> tuple:
    """COCO truth and results: crowds, false and doubled predictions, equal scores, areas that are not the masks'."""
    chance = random.Random(seed)
    ids = [f"sa_{i}" for i in chance.sample(range(1000), 30)]
    annotations, results = [], []
    for image_id in ids:
        for _ in range(chance.choice([0, 1, 2, 3, 6])):
            mask, category = rectangle(chance), chance.randint(1, categories)
            rle = R.to_coco(R.mask_to_rle(mask))
            area = chance.choice([int(mask.sum())] * 3 + [1024, 9216, 1024.5])
            annotations.append(
                {"id": first_id + len(annotations), "image_id": image_id, "category_id": category, "area": area}
                | {"segmentation": rle, "bbox": [0, 0, 1, 1], "iscrowd": int(chance.random() < 0.1)}
            )
            for _ in range(chance.choice([0, 1, 1, 2])):
                results.append((image_id, category, shaken(mask, chance)))
        results += [(image_id, chance.randint(1, categories), rectangle(chance)) for _ in range(chance.choice([0, 1]))]
    chance.shuffle(results)
    truth = {
        "images": [{"id": image_id, "height": SIZE[0], "width": SIZE[1]} for image_id in ids],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": str(i)} for i in range(categories)],
    }
    scored = [
        {"image_id": image_id, "category_id": category, "segmentation": R.to_coco(R.mask_to_rle(mask))}
        | {"score": 1.0 if equal_scores else chance.choice([0.1, 0.5, 0.9, chance.random()])}
        for image_id, category, mask in results
    ]
    return truth, scored


def pycocotools_numbers(truth: Truth, results: Results) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(results))), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def faster_numbers(truth: Truth, results: Results) -> list[float]:
    faster = pytest.importorskip("faster_coco_eval")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = faster.COCO(json.loads(json.dumps(truth)))
        evaluation = faster.COCOeval_faster(coco, coco.loadRes(json.loads(json.dumps(results))), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats[:12]]


def any_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    if isinstance(segmentation, list):
        return R.polygons_to_rle(segmentation, size)
    if isinstance(segmentation["counts"], list):
        return R.rle_from_uncompressed(segmentation["counts"], size)
    return R.canonical_rle(Rle(tuple(segmentation["size"]), segmentation["counts"]), size)


def our_records(truth: Truth, results: Results) -> list[A.ImageMatches]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    records = []
    for image_id, size in sizes.items():
        for category in {category["id"] for category in truth["categories"]}:
            here = [
                [entry for entry in entries if (entry["image_id"], entry["category_id"]) == (image_id, category)]
                for entries in (results, truth["annotations"])
            ]
            predictions, references = here
            records.append(
                A.image_matches(
                    image_id,
                    [any_rle(entry["segmentation"], size) for entry in predictions],
                    [any_rle(entry["segmentation"], size) for entry in references],
                    scores=[entry["score"] for entry in predictions],
                    reference_areas_px=[entry["area"] for entry in references],
                    reference_is_crowd=[bool(entry["iscrowd"]) for entry in references],
                    reference_ids=[entry["id"] for entry in references],
                    category_id=category,
                )
            )
    return records


def our_numbers(truth: Truth, results: Results) -> list[float]:
    numbers = A.average_precision(our_records(truth, results))
    assert tuple(numbers) == NAMES
    return list(numbers.values())


@pytest.mark.parametrize("equal_scores", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_equal_to_pycocotools_and_faster_coco_eval(seed: int, equal_scores: bool) -> None:
    truth, results = random_split(seed, equal_scores=equal_scores)
    ours = our_numbers(truth, results)
    assert ours == pytest.approx(pycocotools_numbers(truth, results), abs=1e-12)
    if not equal_scores:
        assert len({round(number, 6) for number in ours}) > 8


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_faster_coco_eval(seed: int) -> None:
    truth, results = random_split(seed)
    for number, image in enumerate(truth["images"]):
        old, image["id"] = image["id"], number
        for entry in [*truth["annotations"], *results]:
            entry["image_id"] = number if entry["image_id"] == old else entry["image_id"]
    assert our_numbers(truth, results) == pytest.approx(faster_numbers(truth, results), abs=1e-12)


def test_several_categories_are_averaged_and_absent_ones_left_out() -> None:
    truth, results = random_split(21, categories=3)
    truth["categories"].append({"id": 9, "name": "absent"})
    assert our_numbers(truth, results) == pytest.approx(pycocotools_numbers(truth, results), abs=1e-12)


def test_a_match_with_annotation_id_zero_counts_as_none_like_in_cocoeval() -> None:
    truth, results = random_split(3, first_id=0)
    truth["annotations"][0] |= {"iscrowd": 0, "area": 500}
    results.append(truth["annotations"][0] | {"score": 1.0})
    renumbered = json.loads(json.dumps(truth))
    for annotation in renumbered["annotations"]:
        annotation["id"] += 1
    ours = our_numbers(truth, results)
    assert ours == pytest.approx(pycocotools_numbers(truth, results), abs=1e-12)
    assert ours != our_numbers(renumbered, results)


def test_at_most_a_hundred_predictions_of_an_image_count() -> None:
    truth, results = random_split(5)
    many = [entry | {"image_id": results[0]["image_id"]} for entry in results * 4][:160]
    for number, entry in enumerate(many):
        entry["score"] = (number * 37 % 160) / 160
    everything = results + many
    assert our_numbers(truth, everything) == pytest.approx(pycocotools_numbers(truth, everything), abs=1e-12)
    assert max(len(record.scores) for record in our_records(truth, everything)) == 100


def test_of_equally_good_references_the_later_one_is_taken() -> None:
    left, right = np.zeros((2, *SIZE), dtype=bool)
    left[:10, :10] = right[:10, 10:20] = True
    rles = [R.to_coco(R.mask_to_rle(mask)) for mask in (left, right, left | right, right)]
    shared = {"image_id": "a", "category_id": 1, "area": 100, "iscrowd": 0, "bbox": [0, 0, 1, 1]}
    truth = {
        "images": [{"id": "a", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [shared | {"id": i + 1, "segmentation": rle} for i, rle in enumerate(rles[:2])],
        "categories": [{"id": 1}],
    }
    results = [shared | {"score": 0.9 - i / 10, "segmentation": rle} for i, rle in enumerate(rles[2:])]
    numbers = our_numbers(truth, results)
    assert numbers == pytest.approx(pycocotools_numbers(truth, results), abs=1e-12)
    assert numbers[NAMES.index("AP50")] == pytest.approx(51 / 101)


def test_the_order_of_predictions_decides_when_all_scores_are_equal() -> None:
    truth, results = random_split(8, equal_scores=True)
    turned = results[::-1]
    assert our_numbers(truth, turned) == pytest.approx(pycocotools_numbers(truth, turned), abs=1e-12)
    assert our_numbers(truth, turned) != our_numbers(truth, results)


def test_the_order_of_images_does_not_matter_and_records_survive_json() -> None:
    truth, results = random_split(9, equal_scores=True)
    records = our_records(truth, results)
    whole = repr(A.average_precision(records))
    random.Random(1).shuffle(records)
    back = [A.ImageMatches.from_json(json.loads(json.dumps(record.to_json()))) for record in records]
    assert back == records
    assert repr(A.average_precision(back)) == whole


def test_small_batches_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    records = our_records(*random_split(10))
    whole = A.average_precision(records)
    monkeypatch.setattr(A, "_BATCH_ELEMENTS", 700)
    assert A.average_precision(records) == whole


def test_without_predictions_everything_is_zero_and_without_references_minus_one() -> None:
    truth, results = random_split(11)
    for annotation in truth["annotations"]:
        annotation["area"] = 100
    numbers = dict(zip(NAMES, our_numbers(truth, []), strict=True))
    absent = {"APm", "APl", "ARm", "ARl"}
    assert {name for name, number in numbers.items() if number == A.NO_REFERENCE} == absent
    assert {number for name, number in numbers.items() if name not in absent} == {0.0}
    assert set(our_numbers(truth | {"annotations": []}, results)) == {A.NO_REFERENCE}
    assert set(A.average_precision([]).values()) == {A.NO_REFERENCE}


def test_perfect_predictions_have_precision_one() -> None:
    truth, _ = random_split(12)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"] and any_area(a)]
    perfect = [annotation | {"score": 1.0} for annotation in truth["annotations"]]
    numbers = dict(zip(NAMES, our_numbers(truth, perfect), strict=True))
    assert numbers["AP"] == numbers["AP50"] == numbers["AR100"] == 1.0


def any_area(annotation: dict[str, Any]) -> bool:
    return R.area_px(any_rle(annotation["segmentation"], SIZE)) > 0


def test_a_matrix_known_already_saves_the_comparison() -> None:
    rng = np.random.default_rng(1)
    masks = [R.mask_to_rle(rng.random(SIZE) < share) for share in (0.2, 0.5, 0.0, 0.9)]
    scores = [0.1, 0.9, 0.5, 0.9]
    record = A.image_matches("a", masks, masks[1:], scores=scores)
    assert record == A.image_matches("a", masks, masks[1:], scores=scores, iou=iou_matrix(masks, masks[1:]))
    assert record.scores == (0.9, 0.9, 0.5, 0.1)
    assert record.iou[0][0] == record.iou[1][2] == 1.0 > record.iou[3][0] > 0.0
    assert record.iou[2] == (0.0, 0.0, 0.0)


def test_wrong_input_is_an_error_for_people() -> None:
    mask = R.empty_rle(SIZE)
    record = A.image_matches("a", [mask], [mask])
    assert record.scores == (1.0,) and record.iou == ((0.0,),) and record.reference_ids == (1,)
    with pytest.raises(DataError, match="twice"):
        A.average_precision([record, record])
    with pytest.raises(DataError, match="scores"):
        A.image_matches("a", [mask], [mask], scores=[0.1, 0.2])
    with pytest.raises(DataError, match="finite"):
        A.image_matches("a", [mask], [mask], scores=[float("nan")])
    with pytest.raises(DataError, match="reference_ids"):
        A.image_matches("a", [mask], [mask], reference_ids=[1, 2])


def oracle(name: str) -> Path:
    if not (ORACLES / name).is_dir():
        pytest.skip(f"no oracle folder {ORACLES / name}; set OMGBENCH_ORACLES")
    return ORACLES / name


@pytest.mark.oracle
def test_published_coco_table() -> None:
    folder = oracle("coco_instance")
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    expected = json.loads((folder / "expected.json").read_text())["expected"]["segm"]
    assert dict(zip(NAMES, our_numbers(truth, results), strict=True)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.oracle
def test_grounded_captions_of_the_official_script() -> None:
    folder = oracle("gcg_synth")
    truth = json.loads((folder / "val_gcg_coco_mask_gt.json").read_text())
    results = []
    for image in truth["images"]:
        saved = json.loads((folder / f"predictions/{image['id']}.json").read_text())
        saved = saved if "pred_masks" in saved else next(iter(saved.values()))
        shared = {"image_id": image["id"], "category_id": 1, "score": 1.0}
        results += [shared | {"segmentation": mask} for mask in saved["pred_masks"]]
    truth["categories"] = [{"id": 1}]
    truth["annotations"] = [annotation | {"iscrowd": 0} for annotation in truth["annotations"]]
    expected = json.loads((folder / "expected.json").read_text())["expected"]["segm"]
    assert dict(zip(NAMES, our_numbers(truth, results), strict=True)) == pytest.approx(expected, abs=1e-12)
