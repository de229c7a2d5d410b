"""Instance files in COCO's layout: what is kept, and one DataError for each way to be wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from omgbench.contract import Rle
from omgbench.data.coco import Annotation, ImageRecord, Instances, Polygons, Rles, checked_file_name, read_instances
from omgbench.errors import DataError

from ..documents import Change, drop, put, repeat

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 20, 30
SQUARE = [2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]
EMPTY_COUNTS = [HEIGHT * WIDTH]


def content_of(segmentation: Any = None) -> dict[str, Any]:
    return {
        "info": {"description": "ignored"},
        "images": [{"id": 42, "file_name": "COCO_train2014_000000000042.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {
                "id": 7,
                "image_id": 42,
                "category_id": 18,
                "segmentation": [SQUARE] if segmentation is None else segmentation,
                "bbox": [2, 2.5, 8.0, 8],
                "area": 64,
                "iscrowd": 0,
            }
        ],
        "categories": [{"supercategory": "animal", "id": 18, "name": "dog"}],
    }


def read(tmp_path: Path, content: Any) -> Instances:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_instances(path)


def segmentation_of(tmp_path: Path, segmentation: Any) -> Polygons | Rles:
    return read(tmp_path, content_of(segmentation)).annotations[7].segmentation


def random_mask(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.5


def test_a_file_becomes_values(tmp_path: Path) -> None:
    instances = read(tmp_path, content_of())
    assert instances.images == {42: ImageRecord(42, "COCO_train2014_000000000042.jpg", HEIGHT, WIDTH)}
    assert instances.categories == {18: "dog"}
    annotation = instances.annotations[7]
    assert isinstance(annotation, Annotation)
    assert (annotation.id, annotation.image_id, annotation.category_id) == (7, 42, 18)
    assert annotation.bbox_xywh == (2.0, 2.5, 8.0, 8.0)
    assert annotation.area_px == 64.0
    assert annotation.iscrowd is False
    assert isinstance(annotation.segmentation, Polygons)
    assert [list(part) for part in annotation.segmentation.parts_xy] == [SQUARE]


def test_text_ids_and_a_missing_iscrowd_are_read(tmp_path: Path) -> None:
    content = content_of()
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = "sa_1"
    del content["annotations"][0]["iscrowd"]
    instances = read(tmp_path, content)
    assert instances.annotations[7].image_id == "sa_1"
    assert instances.annotations[7].iscrowd is False


def test_equal_repetitions_are_one(tmp_path: Path) -> None:
    content = content_of()
    for key in ("images", "annotations", "categories"):
        content[key] *= 2
    instances = read(tmp_path, content)
    assert (len(instances.images), len(instances.annotations), len(instances.categories)) == (1, 1, 1)


def test_run_lengths_of_every_form_decode_to_the_same_mask(tmp_path: Path) -> None:
    mask = random_mask(1)
    coco = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    changes = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False))
    runs = np.diff(changes, prepend=0, append=mask.size).tolist()
    compressed = {"size": [HEIGHT, WIDTH], "counts": coco["counts"].decode("ascii")}
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": runs}
    expected = Rle((HEIGHT, WIDTH), compressed["counts"])
    assert segmentation_of(tmp_path, compressed) == Rles((expected,))
    assert segmentation_of(tmp_path, uncompressed) == Rles((expected,))
    assert segmentation_of(tmp_path, [uncompressed, compressed]) == Rles((expected, expected))


def test_empty_runs_of_foreign_encoders_are_mended(tmp_path: Path) -> None:
    runs = [100, 0, 50, 60, 0, 40, HEIGHT * WIDTH - 250]
    [rle] = segmentation_of(tmp_path, {"size": [HEIGHT, WIDTH], "counts": runs}).parts
    expected = np.zeros(HEIGHT * WIDTH, dtype=bool)
    expected[150:250] = True
    decoded = coco_mask.decode({"size": list(rle.size), "counts": rle.counts})
    assert (decoded.ravel(order="F") == expected).all()


def test_what_pycocotools_draws_nothing_for_is_kept(tmp_path: Path) -> None:
    parts = [[2, 2, 10, 10, 3], [], [1], [1, 2], [1, 1, 9, 9], SQUARE]
    segmentation = segmentation_of(tmp_path, parts)
    assert isinstance(segmentation, Polygons)
    assert [list(part) for part in segmentation.parts_xy] == parts
    assert segmentation_of(tmp_path, []) == Polygons(())


IMAGE, ANNOTATION, CATEGORY = ("images", 0), ("annotations", 0), ("categories", 0)
SEGMENTATION = (*ANNOTATION, "segmentation")


def rle(counts: Any, size: Any = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}


BAD_FILES: dict[str, tuple[Change, str]] = {
    "no images": (drop("images"), "'images' is missing"),
    "no annotations": (drop("annotations"), "'annotations' is missing"),
    "no categories": (drop("categories"), "'categories' is missing"),
    "images by id": (put("images", {"42": {}}), "images is an object of 1 keys"),
    "image null": (put(*IMAGE, None), r"images\[0\]"),
    "image without id": (drop(*IMAGE, "id"), r"'id' is missing\n.*images\[0\]"),
    "image id true": (put(*IMAGE, "id", True), "id is true"),
    "image id float": (put(*IMAGE, "id", 42.0), "id is 42.0"),
    "image id used twice": (repeat(0, "images", "height", 21), r"image id 42 is used twice\n.*images\[1\]"),
    "height zero": (put(*IMAGE, "height", 0), "image of 0 x 30"),
    "width negative": (put(*IMAGE, "width", -5), "image of 20 x -5"),
    "height text": (put(*IMAGE, "height", "20"), "height is '20'"),
    "image bomb": (put(*IMAGE, "height", 2**28), "1 to 268435456 pixels"),
    "astronomic height": (put(*IMAGE, "height", 10**4000), "a whole number of 13288 bits"),
    "file_name missing": (drop(*IMAGE, "file_name"), "'file_name' is missing"),
    "file_name number": (put(*IMAGE, "file_name", 5), "file_name is 5"),
    "file_name climbs out": (put(*IMAGE, "file_name", "../../etc/passwd"), "inside its folder"),
    "file_name absolute": (put(*IMAGE, "file_name", "/etc/passwd"), "inside its folder"),
    "file_name of two systems": (put(*IMAGE, "file_name", "..\\..\\secret.jpg"), "inside its folder"),
    "file_name with a drive": (put(*IMAGE, "file_name", "C:secret.jpg"), "inside its folder"),
    "file_name with a null": (put(*IMAGE, "file_name", "a.jpg\0.png"), "inside its folder"),
    "file_name empty": (put(*IMAGE, "file_name", ""), "inside its folder"),
    "file_name surrogate": (put(*IMAGE, "file_name", "a\ud800.jpg"), "lone surrogates"),
    "category without name": (drop(*CATEGORY, "name"), r"'name' is missing\n.*categories\[0\]"),
    "category id text": (put(*CATEGORY, "id", "18"), "id is '18'"),
    "category used twice": (repeat(0, "categories", "name", "cat"), "category id 18 is used twice"),
    "annotation list": (put(*ANNOTATION, [1]), r"annotations\[0\]"),
    "annotation without id": (drop(*ANNOTATION, "id"), r"'id' is missing\n.*annotations\[0\]"),
    "annotation used twice": (repeat(0, "annotations", "area", 9), "annotation id 7 is used twice"),
    "unknown image": (put(*ANNOTATION, "image_id", 43), "image_id 43 is not among the images"),
    "image id as text": (put(*ANNOTATION, "image_id", "42"), "image_id '42' is not among the images"),
    "category null": (put(*ANNOTATION, "category_id", None), "category_id is null"),
    "bbox missing": (drop(*ANNOTATION, "bbox"), "'bbox' is missing"),
    "bbox of three": (put(*ANNOTATION, "bbox", [1, 2, 3]), "bbox has 3 numbers"),
    "bbox NaN": (put(*ANNOTATION, "bbox", [1, 2, float("nan"), 4]), "bbox is nan"),
    "bbox text": (put(*ANNOTATION, "bbox", [1, 2, "3", 4]), "bbox is '3'"),
    "bbox negative": (put(*ANNOTATION, "bbox", [1, 2, -3, 4]), "not negative"),
    "area infinite": (put(*ANNOTATION, "area", float("inf")), "area is inf"),
    "area negative": (put(*ANNOTATION, "area", -1), "area is -1"),
    "area missing": (drop(*ANNOTATION, "area"), "'area' is missing"),
    "iscrowd 2": (put(*ANNOTATION, "iscrowd", 2), "iscrowd is 2"),
    "iscrowd text": (put(*ANNOTATION, "iscrowd", "0"), "iscrowd is '0'"),
    "segmentation missing": (drop(*SEGMENTATION), "'segmentation' is missing"),
    "segmentation null": (put(*SEGMENTATION, None), "segmentation is null"),
    "segmentation flat": (put(*SEGMENTATION, SQUARE), r"segmentation\[0\]"),
    "segmentation mixed": (put(*SEGMENTATION, [SQUARE, rle(EMPTY_COUNTS)]), r"segmentation\[1\]"),
    "first polygon empty": (put(*SEGMENTATION, [[], SQUARE]), "polygon of 0 numbers"),
    "first polygon a box": (put(*SEGMENTATION, [[1, 2, 3, 4]]), "polygon of 4 numbers"),
    "polygon NaN first": (put(*SEGMENTATION, [[float("nan"), *SQUARE[1:]]]), "not finite"),
    "polygon NaN inside": (put(*SEGMENTATION, [[*SQUARE[:3], float("nan"), *SQUARE[4:]]]), "not finite"),
    "polygon infinite": (put(*SEGMENTATION, [[float("inf"), -float("inf"), *SQUARE]]), "not finite"),
    "polygon far out": (put(*SEGMENTATION, [[*SQUARE, 1e9, 1e9]]), "absurdly far out"),
    "polygon of text": (put(*SEGMENTATION, [["1", *SQUARE[1:]]]), "no number"),
    "polygon nested": (put(*SEGMENTATION, [[SQUARE]]), "no number"),
    "polygon of a huge integer": (put(*SEGMENTATION, [[10**400, *SQUARE[1:]]]), "no number"),
    "mask without size": (put(*SEGMENTATION, {"counts": EMPTY_COUNTS}), "'size' is missing"),
    "mask size of three": (put(*SEGMENTATION, rle(EMPTY_COUNTS, (20, 30, 1))), "size has 3 numbers"),
    "mask of another size": (put(*SEGMENTATION, rle(EMPTY_COUNTS, (30, 20))), "mask of 30 x 20"),
    "mask too wide": (put(*SEGMENTATION, rle([20 * 31], (20, 31))), "mask of 20 x 31"),
    "mask bomb": (put(*SEGMENTATION, rle(EMPTY_COUNTS, (2**20, 2**20))), "1 to 268435456 pixels"),
    "mask without counts": (put(*SEGMENTATION, {"size": [HEIGHT, WIDTH]}), "counts is null"),
    "runs too few": (put(*SEGMENTATION, rle([500])), "add up to 500"),
    "runs too many": (put(*SEGMENTATION, rle([600, 2**27])), "add up to"),
    "runs negative": (put(*SEGMENTATION, rle([700, -100])), "negative"),
    "runs none": (put(*SEGMENTATION, rle([])), "run lengths"),
    "runs of floats": (put(*SEGMENTATION, rle([600.0])), "run length is 600.0"),
    "run of 2**70": (put(*SEGMENTATION, rle([2**70])), "run length"),
    "counts empty": (put(*SEGMENTATION, rle("")), "add up to 0"),
    "counts cut off": (put(*SEGMENTATION, rle("hb0PP")), "mask counts"),
    "counts not ASCII": (put(*SEGMENTATION, rle("é猫")), "mask counts"),
    "counts too long": (put(*SEGMENTATION, rle("1" * 100_000)), "mask counts"),
    "counts foreign": (put(*SEGMENTATION, rle("b'hb0'")), "mask counts"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_data_error(tmp_path: Path, name: str) -> None:
    change, message = BAD_FILES[name]
    content = copy.deepcopy(content_of())
    change(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert "instances.json" in str(caught.value.where)


@pytest.mark.parametrize("name", ["a.jpg", "val2014/a.jpg", "a..b.jpg", ".hidden", "näme 1.png"])
def test_ordinary_file_names_pass(name: str) -> None:
    assert checked_file_name(name, "x") == name


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "a//b", "a/", "./a", "a\\b", "\\\\host\\x", "d:/x"])
def test_other_file_names_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="inside its folder"):
        checked_file_name(name, "x")
