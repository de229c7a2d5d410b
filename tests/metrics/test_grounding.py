"""Matched mIoU and mask recall against plain loops over dense masks, with the official quirks, and the oracles."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omgbench.contract import Rle
from omgbench.metrics import grounding as G
from omgbench.metrics import rle as R

ORACLES = Path(os.environ.get("OMGBENCH_ORACLES") or Path(__file__).parents[2] / "../shared/data")


def dense_iou(predictions: list[np.ndarray], references: list[np.ndarray]) -> np.ndarray:
    iou = np.zeros((len(predictions), len(references)))
    for i, prediction in enumerate(predictions):
        for j, reference in enumerate(references):
            with np.errstate(invalid="ignore"):
                iou[i, j] = (prediction & reference).sum() / (prediction | reference).sum()
    return iou


def shrinking_mean(iou: np.ndarray) -> float:
    """Greedy matching on a matrix that really loses its rows and columns."""
    taken = []
    while iou.size and np.max(iou) > 0:
        i, j = np.unravel_index(np.argmax(iou), iou.shape)
        taken.append(iou[i, j])
        iou = np.delete(np.delete(iou, i, axis=0), j, axis=1)
    return float(np.mean(taken)) if taken else 0.0


def literal_recall(iou: np.ndarray, words: np.ndarray) -> tuple[list[tuple[int, int]], bool]:
    """The script's loop on copies, errors included."""
    iou, words, matches = iou.copy(), words.copy(), []
    try:
        while iou.size > 0:
            best = np.unravel_index(np.argmax(iou), iou.shape)
            if iou[best] < 0.5 or words[best] < 0.5:
                break
            matches.append((int(best[0]), int(best[1])))
            iou[best[0], :] = iou[:, best[1]] = 0
            words[best[0], :] = words[:, best[1]] = 0
    except IndexError:
        return [], True
    return matches, False


def random_masks(rng: np.random.Generator, size: tuple[int, int]) -> list[np.ndarray]:
    return [rng.random(size) < rng.choice([0.0, 0.3, 0.7, 1.0]) for _ in range(rng.integers(0, 5))]


def test_iou_matrix_is_the_dense_one_with_nan_for_two_empty_masks() -> None:
    rng = np.random.default_rng(1)
    nans = 0
    for _ in range(200):
        size = (int(rng.integers(1, 9)), int(rng.integers(1, 9)))
        predictions, references = random_masks(rng, size), random_masks(rng, size)
        found = G.iou_matrix(list(map(R.mask_to_rle, predictions)), list(map(R.mask_to_rle, references)))
        expected = dense_iou(predictions, references)
        np.testing.assert_array_equal(found, expected)
        assert G.mean_matched_iou(found) == pytest.approx(shrinking_mean(expected), abs=1e-15)
        nans += int(np.isnan(found).any())
    assert nans > 20


def random_values(chance: random.Random, rows: int, columns: int) -> np.ndarray:
    values = [[chance.choice([0.0, 0.5, 0.49, 0.7, 0.7, chance.random()]) for _ in range(columns)] for _ in range(rows)]
    return np.array(values).reshape(rows, columns)


def test_greedy_mean_with_equal_entries() -> None:
    chance = random.Random(2)
    for _ in range(500):
        iou = random_values(chance, chance.randint(0, 5), chance.randint(0, 5))
        before = iou.copy()
        assert G.mean_matched_iou(iou) == pytest.approx(shrinking_mean(iou), abs=1e-15)
        assert (iou == before).all()


def test_greedy_mean_by_hand() -> None:
    # 0.9 goes first and leaves 0.2 for the others, although 0.8 + 0.7 would be more.
    iou = [[0.9, 0.8, 0.0], [0.7, 0.2, 0.0]]
    assert G.mean_matched_iou(iou) == pytest.approx(0.55)
    assert G.mean_reference_iou(iou) == pytest.approx(1.1 / 3)


def test_a_nan_ends_the_script_before_its_first_pair() -> None:
    iou = [[math.nan, 0.0], [0.0, 0.8]]
    assert G.mean_matched_iou(iou) == 0.0 == shrinking_mean(np.array(iou))
    assert G.mean_reference_iou(iou) == pytest.approx(0.4)


def test_images_without_masks() -> None:
    assert G.mean_matched_iou(np.zeros((0, 3))) == G.mean_matched_iou(np.zeros((3, 0))) == 0.0
    assert G.mean_reference_iou(np.zeros((0, 3))) == 0.0
    assert G.mean_reference_iou(np.zeros((3, 0))) is None
    assert G.iou_matrix([], []).shape == (0, 0)


def test_recall_against_the_script_loop() -> None:
    chance = random.Random(3)
    ran_out = matched = 0
    for _ in range(3000):
        n_true, n_predicted = chance.randint(0, 4), chance.randint(0, 4)
        iou = random_values(chance, n_true, n_predicted)
        if iou.size and chance.random() < 0.1:
            iou[chance.randrange(n_true), chance.randrange(n_predicted)] = math.nan
        n_labels = max(0, n_true + chance.choice([0, 0, 0, -1, 1]))
        n_phrases = max(0, n_predicted + chance.choice([0, 0, 0, -1, 1]))
        words = random_values(chance, n_labels, n_phrases)
        found = G.mask_recall(iou, words)
        assert (list(found.matches), found.phrases_ran_out) == literal_recall(iou, words)
        assert found.n_labels == n_labels and found.n_matched == len(found.matches)
        ran_out += found.phrases_ran_out
        matched += found.n_matched
    assert ran_out > 100 and matched > 1000


def test_recall_stops_instead_of_trying_the_next_pair() -> None:
    iou = [[0.9, 0.0], [0.0, 0.8]]
    assert G.mask_recall(iou, [[0.1, 0.0], [0.0, 1.0]]).matches == ()
    assert G.mask_recall(iou, [[0.5, 0.0], [0.0, 0.49]]).matches == ((0, 0),)


def test_two_empty_masks_match_when_their_words_do() -> None:
    assert G.mask_recall([[math.nan]], [[0.5]]).matches == ((0, 0),)
    assert G.mask_recall([[math.nan]], [[0.4]]).matches == ()


def test_too_few_phrases_lose_the_matches_of_the_image_but_not_its_labels() -> None:
    found = G.mask_recall([[0.9, 0.0], [0.0, 0.8]], [[1.0], [0.0]])
    assert found == G.MaskRecall((), 2, phrases_ran_out=True)
    assert G.mask_recall([[0.9, 0.0], [0.0, 0.4]], [[1.0], [0.0]]) == G.MaskRecall(((0, 0),), 2)


def shared_words(a: str, b: str) -> float:
    mine, theirs = set(a.lower().split()), set(b.lower().split())
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 0.0


def rles(coco: list[dict[str, Any]]) -> list[Rle]:
    return [Rle((mask["size"][0], mask["size"][1]), mask["counts"]) for mask in coco]


@pytest.mark.oracle
def test_numbers_of_the_official_script() -> None:
    folder = ORACLES / "gcg_synth"
    if not folder.is_dir():
        pytest.skip(f"no oracle folder {folder}; set OMGBENCH_ORACLES")
    expected = json.loads((folder / "expected.json").read_text())["expected"]
    truth = json.loads((folder / "val_gcg_coco_mask_gt.json").read_text())
    captions = json.loads((folder / "val_gcg_coco_caption_gt.json").read_text())["annotations"]
    labels = {caption["image_id"]: caption["labels"] for caption in captions}
    miou, matched, n_labels = [], 0, 0
    for image in truth["images"]:
        name = image["id"]
        saved = json.loads((folder / f"predictions/{name}.json").read_text())
        saved = saved if "pred_masks" in saved else next(iter(saved.values()))
        references = rles([a["segmentation"] for a in truth["annotations"] if a["image_id"] == name])
        iou = G.iou_matrix(rles(saved["pred_masks"]), references)
        words = [[shared_words(label, phrase) for phrase in saved["phrases"]] for label in labels[name]]
        recall = G.mask_recall(iou.T, np.array(words).reshape(len(labels[name]), -1))
        miou.append(G.mean_matched_iou(iou))
        assert miou[-1] == pytest.approx(expected["mIoU_per_image"][name], abs=1e-12)
        found = "IndexError" if recall.phrases_ran_out else [list(pair) for pair in recall.matches]
        assert found == expected["recall_matches_per_image"][name]
        matched, n_labels = matched + recall.n_matched, n_labels + recall.n_labels
    assert math.fsum(miou) / len(miou) == pytest.approx(expected["mIoU"], abs=1e-12)
    assert [matched, n_labels] == expected["recall_counts"]
