"""GranD-f: annotation pairs and prediction folders, with the official script's own treatment of odd files."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from omgbench.contract import Rle
from omgbench.data.grandf import GcgImage, GcgPrediction, read_gcg, read_prediction_folder
from omgbench.errors import DataError

HEIGHT, WIDTH = 20, 30


def coco_rle(seed: int, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    coco = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [height, width], "counts": coco["counts"].decode("ascii")}


def mask_entry(annotation_id: int, image_id: Any) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "segmentation": coco_rle(annotation_id),
        "area": 10.0 * annotation_id,
        "bbox": [0, 0, 5, 5],
        "iscrowd": 0,
    }


def image_entry(image_id: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.jpg", "height": HEIGHT, "width": WIDTH}


def caption_entry(annotation_id: int, image_id: Any, caption: str, *labels: str) -> dict[str, Any]:
    return {"id": annotation_id, "image_id": image_id, "caption": caption, "labels": list(labels)}


def captions_content() -> dict[str, Any]:
    return {
        "images": [{"id": "sa_2"}, {"id": "sa_1"}],
        "annotations": [
            caption_entry(1, "sa_1", "A dog and a cat.", "A dog", "a cat"),
            caption_entry(2, "sa_2", "A bus.", "A bus"),
        ],
    }


def masks_content() -> dict[str, Any]:
    return {
        "images": [image_entry("sa_1"), image_entry("sa_2")],
        "annotations": [mask_entry(3, "sa_1"), mask_entry(4, "sa_2"), mask_entry(1, "sa_1")],
        "categories": [{"id": 1, "name": "object"}],
    }


def read(tmp_path: Path, captions: Any = None, masks: Any = None) -> list[GcgImage]:
    caption_path, mask_path = tmp_path / "caption_gt.json", tmp_path / "mask_gt.json"
    caption_path.write_text(json.dumps(captions_content() if captions is None else captions), encoding="utf-8")
    mask_path.write_text(json.dumps(masks_content() if masks is None else masks), encoding="utf-8")
    return read_gcg(caption_path, mask_path)


def as_rle(coco: dict[str, Any]) -> Rle:
    return Rle(tuple(coco["size"]), coco["counts"])


def test_the_two_files_become_images_in_caption_order(tmp_path: Path) -> None:
    second, first = read(tmp_path)
    assert second.image_id == "sa_2"
    assert first == GcgImage(
        official_id="sa_1",
        file_name="sa_1.jpg",
        height=HEIGHT,
        width=WIDTH,
        captions=("A dog and a cat.",),
        labels=("A dog", "a cat"),
        masks=(as_rle(coco_rle(3)), as_rle(coco_rle(1))),
        areas_px=(30.0, 10.0),
        crowds=(False, False),
    )


def test_numbers_and_texts_are_the_same_id(tmp_path: Path) -> None:
    captions, masks = captions_content(), masks_content()
    for content, as_id in ((captions, int), (masks, str)):
        for entry in content["images"]:
            entry["id"] = as_id(entry["id"][3:])
        for entry in content["annotations"]:
            entry["image_id"] = as_id(entry["image_id"][3:])
    images = read(tmp_path, captions, masks)
    assert [(image.image_id, len(image.masks)) for image in images] == [("2", 1), ("1", 2)]
    assert [image.official_id for image in images] == ["2", "1"]


def test_a_number_stays_the_official_id(tmp_path: Path) -> None:
    captions, masks = captions_content(), masks_content()
    for content in (captions, masks):
        for entry in content["images"]:
            entry["id"] = int(entry["id"][3:])
        for entry in content["annotations"]:
            entry["image_id"] = int(entry["image_id"][3:])
    images = read(tmp_path, captions, masks)
    assert [(image.official_id, image.image_id) for image in images] == [(2, "2"), (1, "1")]


def test_several_captions_are_kept_and_the_first_gives_the_labels(tmp_path: Path) -> None:
    captions = captions_content()
    captions["annotations"].append(caption_entry(3, "sa_1", "Two animals.", "Two animals"))
    image = read(tmp_path, captions)[1]
    assert image.captions == ("A dog and a cat.", "Two animals.")
    assert image.labels == ("A dog", "a cat")


def test_labels_and_masks_may_differ_in_number(tmp_path: Path) -> None:
    captions = captions_content()
    captions["annotations"][0]["labels"] = ["A dog", "a cat", "grass"]
    image = read(tmp_path, captions)[1]
    assert (len(image.labels), len(image.masks)) == (3, 2)


def test_an_image_of_the_mask_file_alone_comes_last_without_captions(tmp_path: Path) -> None:
    masks = masks_content()
    masks["images"].insert(0, image_entry("sa_9"))
    masks["annotations"].append(mask_entry(9, "sa_9"))
    images = read(tmp_path, masks=masks)
    assert [image.image_id for image in images] == ["sa_2", "sa_1", "sa_9"]
    assert (images[2].captions, images[2].labels, len(images[2].masks)) == ((), (), 1)


def test_annotations_of_unlisted_images_are_ignored_as_officially(tmp_path: Path) -> None:
    captions, masks = captions_content(), masks_content()
    captions["annotations"].append(caption_entry(8, "sa_8", "Nothing."))
    masks["annotations"].append(mask_entry(8, "sa_8"))
    assert [image.image_id for image in read(tmp_path, captions, masks)] == ["sa_2", "sa_1"]


def test_bare_image_entries_take_name_and_size_from_id_and_mask(tmp_path: Path) -> None:
    masks = masks_content()
    masks["images"] = [{"id": "sa_1"}, {"id": "sa_2"}]
    assert [(i.file_name, i.height, i.width) for i in read(tmp_path, masks=masks)] == [
        ("sa_2.jpg", HEIGHT, WIDTH),
        ("sa_1.jpg", HEIGHT, WIDTH),
    ]


def test_an_image_may_have_no_mask(tmp_path: Path) -> None:
    masks = masks_content()
    del masks["annotations"][1]
    assert read(tmp_path, masks=masks)[0].masks == ()


Change = Callable[[dict[str, Any], dict[str, Any]], Any]

BAD_PAIRS: dict[str, tuple[Change, str]] = {
    "captions without images": (lambda c, m: c.pop("images"), r"'images' is missing\n.*caption_gt"),
    "masks without images": (lambda c, m: m.pop("images"), r"'images' is missing\n.*mask_gt"),
    "caption image id float": (lambda c, m: c["images"][0].update(id=1.5), "id is 1.5"),
    "caption image twice": (lambda c, m: c["images"].append({"id": "sa_1"}), "image id 'sa_1' is used twice"),
    "no caption": (lambda c, m: c["annotations"].pop(), "image 'sa_2' has no caption"),
    "caption number": (lambda c, m: c["annotations"][0].update(caption=5), r"caption is 5\n.*annotations\[0\]"),
    "no labels": (lambda c, m: c["annotations"][0].pop("labels"), "'labels' is missing"),
    "labels text": (lambda c, m: c["annotations"][0].update(labels="a dog"), "labels is 'a dog'"),
    "label null": (lambda c, m: c["annotations"][0].update(labels=["a", None]), r"labels\[1\] is null"),
    "caption id twice": (lambda c, m: c["annotations"][1].update(id=1), "annotation id 1 is used twice"),
    "caption alone": (lambda c, m: m["images"].pop(), "image 'sa_2' of the caption file is not in the mask file"),
    "image name escapes": (lambda c, m: m["images"][0].update(file_name="../x.jpg"), "inside its folder"),
    "image id escapes": (lambda c, m: m["images"].append({"id": "../x"}), "inside its folder"),
    "image without size or mask": (lambda c, m: m["images"].append({"id": "sa_7"}), "no height and width"),
    "image with half a size": (lambda c, m: m["images"][0].pop("width"), "'width' is missing"),
    "image of no pixel": (lambda c, m: m["images"][0].update(height=0), "image of 0 x 30"),
    "image twice": (lambda c, m: m["images"].append({**image_entry("sa_1"), "height": 5}), "used twice"),
    "other category": (lambda c, m: m["annotations"][0].update(category_id=2), "category_id is 2"),
    "polygons": (lambda c, m: m["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6]]), "segmentation is a list"),
    "mask of another size": (lambda c, m: m["annotations"][0].update(segmentation=coco_rle(1, 5, 5)), "mask of 5 x 5"),
    "bad counts": (lambda c, m: m["annotations"][2]["segmentation"].update(counts="zz"), r"annotations\[2\]"),
    "no area": (lambda c, m: m["annotations"][0].pop("area"), "'area' is missing"),
    "crowd 7": (lambda c, m: m["annotations"][0].update(iscrowd=7), "iscrowd is 7"),
    "mask id twice": (lambda c, m: m["annotations"][2].update(id=3), "annotation id 3 is used twice"),
    "mask id on two images": (lambda c, m: m["annotations"][1].update(id=3), "annotation id 3 is used twice"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_bad_pairs_are_one_data_error(tmp_path: Path, name: str) -> None:
    change, message = BAD_PAIRS[name]
    captions, masks = captions_content(), masks_content()
    change(captions, masks)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, captions, masks)
    assert "_gt.json" in str(caught.value.where)


def prediction() -> dict[str, Any]:
    return {
        "image_id": "sa_1",
        "caption": "A dog and a cat",
        "phrases": ["A dog"],
        "pred_masks": [coco_rle(1), coco_rle(2)],
    }


EXPECTED = GcgPrediction("sa_1", "A dog and a cat", ("A dog",), (as_rle(coco_rle(1)), as_rle(coco_rle(2))))


def read_one(tmp_path: Path, content: Any) -> GcgPrediction | None:
    (tmp_path / "sa_1.json").write_text(json.dumps(content), encoding="utf-8")
    [(image_id, found)] = read_prediction_folder(tmp_path, ["sa_1"])
    assert image_id == "sa_1"
    return found


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"sa_1": p}, lambda p: {"any key": p, "other": 1}])
def test_predictions_are_read_wrapped_or_bare(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    assert read_one(tmp_path, wrap(prediction())) == EXPECTED


def test_a_first_value_that_lacks_a_key_is_no_wrapper(tmp_path: Path) -> None:
    assert read_one(tmp_path, {"settings": {"phrases": []}, **prediction()}) == EXPECTED
    assert read_one(tmp_path, {"settings": {"caption": ""}, **prediction()}) == EXPECTED


def test_the_id_inside_a_prediction_is_not_looked_at(tmp_path: Path) -> None:
    assert read_one(tmp_path, {**prediction(), "image_id": "sa_999"}) == EXPECTED


def test_an_answer_without_masks_is_a_prediction(tmp_path: Path) -> None:
    content = {**prediction(), "phrases": [], "pred_masks": []}
    assert read_one(tmp_path, content) == GcgPrediction("sa_1", "A dog and a cat", (), ())


def test_a_missing_file_is_none_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "sa_1.json").write_text(json.dumps(prediction()), encoding="utf-8")
    assert list(read_prediction_folder(tmp_path, ["sa_0", "sa_1"])) == [("sa_0", None), ("sa_1", EXPECTED)]


BAD_PREDICTIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "list": (lambda p: [p], "content is a list of 1"),
    "empty object": (lambda p: {}, "'pred_masks' is missing"),
    "no caption": (lambda p: p.pop("caption") and p, "'caption' is missing"),
    "caption null": (lambda p: {**p, "caption": None}, "caption is null"),
    "phrases text": (lambda p: {**p, "phrases": "A dog"}, "phrases is 'A dog'"),
    "phrase number": (lambda p: {**p, "phrases": [1]}, r"phrases\[0\] is 1"),
    "no masks": (lambda p: {**p, "pred_masks": None}, "pred_masks is null"),
    "mask is text": (lambda p: {**p, "pred_masks": ["mask"]}, r"pred_masks\[0\]"),
    "mask without size": (lambda p: {**p, "pred_masks": [{"counts": "0"}]}, "'size' is missing"),
    "mask bomb": (lambda p: {**p, "pred_masks": [{"size": [2**20, 2**20], "counts": "0"}]}, "1048576 x 1048576"),
    "counts cut off": (lambda p: {**p, "pred_masks": [coco_rle(1), {"size": [2, 2], "counts": "P"}]}, r"masks\[1\]"),
    "counts too short": (lambda p: {**p, "pred_masks": [{"size": [2, 2], "counts": "1"}]}, "add up to 1"),
}


@pytest.mark.parametrize("name", BAD_PREDICTIONS)
def test_bad_predictions_are_one_data_error(tmp_path: Path, name: str) -> None:
    change, message = BAD_PREDICTIONS[name]
    with pytest.raises(DataError, match=message) as caught:
        read_one(tmp_path, change(copy.deepcopy(prediction())))
    assert "sa_1.json" in str(caught.value.where)


@pytest.mark.parametrize("image_id", ["../sa_1", "a/b", "", "..", "C:x", "a\0"])
def test_image_ids_that_are_no_file_stem_are_refused(tmp_path: Path, image_id: str) -> None:
    with pytest.raises(DataError, match=f"image id is {re.escape(repr(image_id))}"):
        list(read_prediction_folder(tmp_path, [image_id]))


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        list(read_prediction_folder(tmp_path / "absent", []))


ORACLES = Path(os.environ.get("OMGBENCH_ORACLES", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.oracle
def test_counts_of_the_official_reader() -> None:
    folder = ORACLES / "gcg_synth"
    if not folder.is_dir():
        pytest.skip(f"no gcg_synth under {ORACLES}: set OMGBENCH_ORACLES")
    official = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    images = read_gcg(folder / "val_gcg_coco_caption_gt.json", folder / "val_gcg_coco_mask_gt.json")
    predictions = dict(read_prediction_folder(folder / "predictions", [image.image_id for image in images]))
    assert [image.image_id for image in images] == list(official["expected"]["mIoU_per_image"])
    assert sum(len(image.labels) for image in images) == official["expected"]["recall_counts"][1]
    assert all(len(image.masks) == len(image.labels) for image in images)
    found = {image_id: (len(p.phrases), len(p.masks)) for image_id, p in predictions.items() if p is not None}
    assert len(found) == len(images)
    differences = {image_id: phrases - masks for image_id, (phrases, masks) in found.items() if phrases != masks}
    assert differences == {"sa_900185": -1, "sa_900222": 1}
    assert found["sa_900111"] == (0, 0)
