"""Overlaps and referring sums against dense histograms as the official scripts take them, and against oracles."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omgbench.contract import Rle
from omgbench.errors import DataError
from omgbench.metrics import iou as M
from omgbench.metrics import rle as R

ORACLES = Path(os.environ.get("OMGBENCH_ORACLES") or Path(__file__).parents[2] / "../shared/data")


def random_rle(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, Rle]:
    mask = rng.random(size) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    return mask, R.mask_to_rle(mask)


def histogram_overlap(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Intersection and union of class 1 as LISA's histogram gives them, for a target with values 0, 1, 2, ..."""
    torch = pytest.importorskip("torch")
    output, truth = torch.tensor(prediction).float().view(-1), torch.tensor(target).float().view(-1)
    inside, area, truth_area = (
        torch.histc(values, bins=2, min=0, max=1) for values in (output[output == truth], output, truth)
    )
    return float(inside[1]), float((area + truth_area - inside)[1])


def test_overlap_is_the_official_histogram_also_where_polygons_overlap() -> None:
    rng = np.random.default_rng(1)
    seen_two = 0
    for _ in range(200):
        size = (int(rng.integers(1, 30)), int(rng.integers(1, 30)))
        parts = [random_rle(rng, size) for _ in range(rng.integers(1, 4))]
        summed = np.sum([dense for dense, _ in parts], axis=0)
        prediction, prediction_rle = random_rle(rng, size)
        found = M.overlap(prediction_rle, R.exactly_one_of([rle for _, rle in parts]))
        assert (found.intersection_px, found.union_px) == histogram_overlap(prediction, summed)
        assert found.prediction_px == prediction.sum()
        seen_two += bool((prediction & (summed > 1)).any())
    assert seen_two > 20


def test_no_mask_is_an_empty_mask() -> None:
    target = R.mask_to_rle(np.eye(5, dtype=bool))
    assert M.overlap(None, target) == M.overlap(R.empty_rle((5, 5)), target) == M.MaskOverlap(0, 0, 5)


def test_masks_of_different_size_are_refused() -> None:
    with pytest.raises(DataError, match="different size"):
        M.overlap(R.empty_rle((5, 6)), R.empty_rle((6, 5)))
    with pytest.raises(DataError, match="different size"):
        M.pairwise_iou([R.empty_rle((5, 6))], [R.empty_rle((6, 5))])


def test_iou_of_nothing_is_one() -> None:
    assert M.MaskOverlap(0, 0, 0).iou == 1.0
    assert M.MaskOverlap(0, 0, 3).iou == 0.0
    assert M.MaskOverlap(2, 3, 4).iou == 0.4


def test_pairwise_iou_against_dense_arrays() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        size = (int(rng.integers(1, 25)), int(rng.integers(1, 25)))
        predictions = [random_rle(rng, size) for _ in range(rng.integers(0, 5))]
        references = [random_rle(rng, size) for _ in range(rng.integers(0, 5))]
        crowd = [bool(flag) for flag in rng.random(len(references)) < 0.3]
        expected = np.zeros((len(predictions), len(references)))
        for i, (prediction, _) in enumerate(predictions):
            for j, (reference, _) in enumerate(references):
                both = (prediction & reference).sum()
                whole = prediction.sum() if crowd[j] else (prediction | reference).sum()
                expected[i, j] = both / whole if whole else 0.0
        found = M.pairwise_iou([rle for _, rle in predictions], [rle for _, rle in references], crowd)
        assert found.shape == expected.shape and found.dtype == np.float64
        assert (found == expected).all()


def plain_metrics(rows: list[tuple[M.MaskOverlap, str]]) -> dict[str, float]:
    """The definitions, one sentence at a time; second entry of a row: answered, without_mask or failed."""
    common = whole = whole_skipping = ious = 0.0
    hits = dict.fromkeys((0.5, 0.6, 0.7, 0.8, 0.9), 0)
    for sentence, how in rows:
        inter = 0 if how == "failed" else sentence.intersection_px
        union = sentence.target_px if how == "failed" else sentence.union_px
        common, whole = common + inter, whole + union
        whole_skipping += 0 if how == "without_mask" else union
        if how != "failed":
            ious += inter / (union + 1e-5) + (union == 0)
            for threshold in hits:
                hits[threshold] += union == 0 or 10 * inter >= round(10 * threshold) * union
    return {
        "cIoU": common / (whole + 1e-10),
        "gIoU": ious / len(rows),
        **{f"Pr@{threshold}": hit / len(rows) for threshold, hit in hits.items()},
        "cIoU_skip_missing": common / (whole_skipping + 1e-10),
    }


def random_rows(seed: int, n: int = 300) -> list[tuple[M.MaskOverlap, str]]:
    chance = random.Random(seed)
    rows = []
    for _ in range(n):
        how = chance.choice(["answered"] * 8 + ["without_mask", "failed"])
        target, predicted = chance.choice([0, 10, 20, 1000]), chance.choice([0, 10, 20, 1000])
        common = 0 if how == "without_mask" else chance.randint(0, min(target, predicted))
        rows.append((M.MaskOverlap(common, 0 if how == "without_mask" else predicted, target), how))
    return rows


def summed(rows: list[tuple[M.MaskOverlap, str]]) -> M.ReferringSums:
    sums = M.ReferringSums()
    for sentence, how in rows:
        sums.add(sentence, mask_missing=how == "without_mask", failed=how == "failed")
    return sums


@pytest.mark.parametrize("seed", range(5))
def test_sums_against_the_definitions(seed: int) -> None:
    rows = random_rows(seed)
    assert summed(rows).values() == pytest.approx(plain_metrics(rows), rel=1e-12)


def test_merging_shards_in_any_order_gives_the_same_bytes() -> None:
    rows = random_rows(11)
    whole = summed(rows)
    chance = random.Random(2)
    for _ in range(20):
        chance.shuffle(rows)
        cuts = sorted(chance.sample(range(len(rows) + 1), 4))
        shards = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
        merged = sum((summed(shard) for shard in shards), M.ReferringSums())
        assert merged == whole
        assert repr(merged.values()) == repr(whole.values())


def test_plain_float_sums_would_not_pass_that_test() -> None:
    values = [0.1, 0.7, 1e-9, 1 / 3] * 25
    exact = M.ExactSum()
    for value in values:
        exact.add(value)
    backwards = M.ExactSum()
    for value in sorted(values):
        backwards.add(value)
    assert exact == backwards
    assert sum(values) != sum(sorted(values))


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.5, 0.1, 5e-324, 1e300, 1.7976931348623157e308])
def test_exact_sum_holds_every_float(value: float) -> None:
    exact = M.ExactSum()
    exact.add(value)
    assert exact.mean(1) == value
    assert exact.mean(0) is None


def test_a_failed_sentence_is_the_worst_case_everywhere() -> None:
    sums = M.ReferringSums()
    sums.add(M.MaskOverlap(5, 5, 5))
    sums.add(M.MaskOverlap(0, 0, 0), failed=True)
    sums.add(M.MaskOverlap(9, 9, 10), failed=True, mask_missing=True)
    values = sums.values()
    assert values["cIoU"] == values["cIoU_skip_missing"] == pytest.approx(5 / 15)
    assert values["gIoU"] == pytest.approx(1 / 3, abs=1e-6)
    assert values["Pr@0.5"] == 1 / 3


def test_without_sentences_there_are_no_values_and_without_masks_zeros() -> None:
    assert set(M.ReferringSums().values().values()) == {None}
    sums = M.ReferringSums()
    sums.add(M.MaskOverlap(0, 0, 7), mask_missing=True)
    assert set(sums.values().values()) == {0.0}


def official_target(segmentation: Any, size: tuple[int, int]) -> Rle:
    if not segmentation:
        return R.empty_rle(size)
    if isinstance(segmentation, dict):
        segmentation = [segmentation]
    if isinstance(segmentation[0], dict):
        parts = [
            Rle(size, part["counts"])
            if isinstance(part["counts"], str)
            else R.rle_from_uncompressed(part["counts"], size)
            for part in segmentation
        ]
    else:
        parts = R.polygons_to_rles(segmentation, size)
    return R.exactly_one_of(parts)


def oracle_sums(folder: Path, split: str) -> M.ReferringSums:
    instances = json.loads((folder / "refcoco/instances.json").read_text())
    images = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    predictions = {p["sent_id"]: p["mask"] for p in json.loads((folder / "refcoco_predictions.json").read_text())}
    sums = M.ReferringSums()
    for ref in json.loads((folder / "refcoco/refs(unc).json").read_text()):
        if ref["split"] != split and not (split == "test" and "test" in ref["split"]):
            continue
        size = images[ref["image_id"]]
        target = official_target(annotations[ref["ann_id"]]["segmentation"], size)
        for sentence in ref["sentences"]:
            mask = predictions[sentence["sent_id"]]
            prediction = None if mask is None else Rle((mask["size"][0], mask["size"][1]), mask["counts"])
            assert prediction is None or R.check_rle(prediction, size) is None
            sums.add(M.overlap(prediction, target), mask_missing=prediction is None)
    return sums


@pytest.mark.oracle
@pytest.mark.parametrize("split", ["val", "testA", "testB", "test"])
@pytest.mark.parametrize("name", ["refer_synth", "refer_coco_real"])
def test_numbers_of_the_official_scripts(name: str, split: str) -> None:
    folder = ORACLES / name
    if not folder.is_dir():
        pytest.skip(f"no oracle folder {folder}; set OMGBENCH_ORACLES")
    expected = json.loads((folder / "expected.json").read_text())["refcoco"][split]
    lisa, skipping = expected["lisa"], expected["omg_llava_skips_missing_mask"]
    sums = oracle_sums(folder, split)
    values = sums.values()
    assert sums.n == lisa["sentences"]
    assert (sums.intersection_px, sums.union_px) == (lisa["intersection"], lisa["union"])
    assert sums.union_without_missing_px == skipping["union"] < sums.union_px
    assert values["cIoU"] == pytest.approx(lisa["cIoU"], abs=1e-12)
    assert values["cIoU_skip_missing"] == pytest.approx(skipping["cIoU"], abs=1e-12)
    assert values["gIoU"] == pytest.approx(lisa["gIoU"], abs=1e-6)
    for threshold, share in lisa["Pr"].items():
        assert values[f"Pr@{threshold}"] == pytest.approx(share, abs=1e-12)
