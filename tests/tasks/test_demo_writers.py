"""Demo data sets: official layouts, masks of the scenes, same bytes for one seed."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from omgbench.data.scenes import EVALUATION_SEEDS, describe, evaluate, evaluation_seeds, make_scene, render
from omgbench.data.scenes.vocabulary import ANGULAR_SHAPES, LOCATION_WORDS, ROUND_SHAPES, SHAPES
from omgbench.errors import UserError
from omgbench_tasks.gcg.demo import write_gcg_demo
from omgbench_tasks.refcoco.demo import LAYOUTS, write_refer_demo

DATASETS = tuple(LAYOUTS)
N_IMAGES = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    for dataset in DATASETS:
        write_refer_demo(folder, dataset, seed=0, n_images_per_split=N_IMAGES)
    write_gcg_demo(folder, seed=0, n_images_per_split=N_IMAGES)
    return folder


def _refs(root: Path, dataset: str, split_by: str) -> list[dict[str, Any]]:
    refs: list[dict[str, Any]] = pickle.loads((root / dataset / f"refs({split_by}).p").read_bytes())  # noqa: S301
    return refs


def _instances(root: Path, dataset: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / dataset / "instances.json").read_text())
    return content


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_files_are_laid_out_as_the_official_ones(root: Path) -> None:
    names = set(_digests(root))
    annotations = {name for name in names if not name.endswith(".jpg")}
    assert annotations == {
        "refcoco/instances.json",
        "refcoco/refs(unc).p",
        "refcoco/refs(google).p",
        "refcoco+/instances.json",
        "refcoco+/refs(unc).p",
        "refcocog/instances.json",
        "refcocog/refs(umd).p",
        "refcocog/refs(google).p",
        *(
            f"GranDf/annotations/val_test/{split}_gcg_coco_{kind}_gt.json"
            for split in ("val", "test")
            for kind in ("mask", "caption")
        ),
    }
    pictures = names - annotations
    patterns = (r"train2014/COCO_train2014_\d{12}\.jpg", r"GranDf_HA_images/val_test/sa_\d+\.jpg")
    counts = Counter(next(p for p in patterns if re.fullmatch(p, name)) for name in pictures)
    assert counts == {patterns[0]: (3 * N_IMAGES + 1) * 2 + 2 * N_IMAGES + 1, patterns[1]: 2 * N_IMAGES}


def test_one_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    for dataset in DATASETS:
        write_refer_demo(tmp_path, dataset, seed=0, n_images_per_split=N_IMAGES)
        # Writing over earlier demo data is no error and changes nothing.
        write_refer_demo(tmp_path, dataset, seed=0, n_images_per_split=N_IMAGES)
    write_gcg_demo(tmp_path, seed=0, n_images_per_split=N_IMAGES)
    assert _digests(tmp_path) == _digests(root)


# Digests of all annotation files together. Others mean another demo world: raise DEMO_VERSION together with these.
PINNED = {
    "refcoco": "28a24a50a82a75b2",
    "refcoco+": "d0090adb79eb0615",
    "refcocog": "da9a554931aa7f98",
    "gcg": "db4459ab2323087f",
}


@pytest.mark.parametrize("name", PINNED)
def test_annotation_files_are_pinned(name: Any, tmp_path: Path) -> None:
    if name == "gcg":
        written = write_gcg_demo(tmp_path, 0, 2)
    else:
        written = write_refer_demo(tmp_path, name, 0, 2)
    annotations = [path.read_bytes() for path in written if path.suffix != ".jpg"]
    assert hashlib.sha256(b"".join(annotations)).hexdigest()[:16] == PINNED[name]


def test_another_seed_gives_other_data(root: Path, tmp_path: Path) -> None:
    write_refer_demo(tmp_path, "refcoco", seed=1, n_images_per_split=2)
    write_gcg_demo(tmp_path, seed=1, n_images_per_split=2)
    assert not set(_digests(tmp_path).values()) & set(_digests(root).values())


def _splits(dataset: str) -> dict[str, tuple[str, ...]]:
    """Splits of each refs file, as the official ones have them."""
    return {
        "refcoco": {"unc": ("train", "val", "testA", "testB"), "google": ("train", "val", "test")},
        "refcoco+": {"unc": ("train", "val", "testA", "testB")},
        "refcocog": {"umd": ("train", "val", "test"), "google": ("train", "val")},
    }[dataset]


@pytest.mark.parametrize("dataset", DATASETS)
def test_refs_files_have_the_official_keys_and_splits(root: Path, dataset: str) -> None:
    instances = _instances(root, dataset)
    images = {image["id"]: image for image in instances["images"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    for split_by, splits in _splits(dataset).items():
        refs = _refs(root, dataset, split_by)
        assert {ref["split"] for ref in refs} == set(splits)
        assert len({ref["ref_id"] for ref in refs}) == len({ref["ann_id"] for ref in refs}) == len(refs)
        sent_ids = [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]
        assert len(set(sent_ids)) == len(sent_ids) > len(refs)
        for ref in refs:
            assert set(ref) == {
                *("sent_ids", "file_name", "ann_id", "ref_id"),
                *("image_id", "split", "sentences", "category_id"),
            }
            assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
            annotation = annotations[ref["ann_id"]]
            assert (annotation["image_id"], annotation["category_id"]) == (ref["image_id"], ref["category_id"])
            stem = images[ref["image_id"]]["file_name"].removesuffix(".jpg")
            assert re.fullmatch(re.escape(stem) + r"_\d+\.jpg", ref["file_name"])
            assert not (root / "train2014" / ref["file_name"]).exists()
            for sentence in ref["sentences"]:
                assert set(sentence) == {"tokens", "raw", "sent_id", "sent"}
                assert sentence["tokens"] == sentence["sent"].split()
                assert sentence["sent"] == re.sub("[^a-z ]", "", sentence["raw"].lower())


@pytest.mark.parametrize("dataset", DATASETS)
def test_counts_relate_as_in_the_official_sets(root: Path, dataset: str) -> None:
    (by_image, image_splits), *others = _splits(dataset).items()
    refs = _refs(root, dataset, by_image)
    images = {split: {ref["image_id"] for ref in refs if ref["split"] == split} for split in image_splits}
    assert {split: len(ids) for split, ids in images.items()} == {
        split: 1 if split == "train" else N_IMAGES for split in image_splits
    }
    assert (
        sum(map(len, images.values())) == len(set().union(*images.values())) == len(_instances(root, dataset)["images"])
    )
    for split_by, _ in others:
        again = _refs(root, dataset, split_by)
        without = [[{k: v for k, v in ref.items() if k != "split"} for ref in each] for each in (refs, again)]
        assert without[0] == without[1]
        train, val = ({ref["image_id"] for ref in again if ref["split"] == split} for split in ("train", "val"))
        assert train & val


def test_test_splits_refer_to_disjoint_groups_of_categories(root: Path) -> None:
    for dataset in ("refcoco", "refcoco+"):
        names = {c["id"]: c["name"] for c in _instances(root, dataset)["categories"]}
        assert set(names.values()) == set(SHAPES)
        targets = {
            split: {names[ref["category_id"]] for ref in _refs(root, dataset, "unc") if ref["split"] == split}
            for split in ("testA", "testB", "val")
        }
        assert targets["testA"] <= set(ROUND_SHAPES) and targets["testB"] <= set(ANGULAR_SHAPES)
        assert min(map(len, targets.values())) > 2
        assert targets["val"] & set(ROUND_SHAPES) and targets["val"] & set(ANGULAR_SHAPES)


def _decoded(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """As official readers do: polygons drawn one by one and added up."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation[0], list):
        return mask_utils.decode(mask_utils.frPyObjects(segmentation, height, width)).sum(axis=2)
    (rle,) = segmentation
    return mask_utils.decode({"size": rle["size"], "counts": rle["counts"].encode()})


@pytest.mark.parametrize("dataset", DATASETS)
def test_masks_and_pictures_are_those_of_the_scenes(root: Path, dataset: Any) -> None:
    coco = COCO(str(root / dataset / "instances.json"))
    forms = Counter(type(annotation["segmentation"][0]) for annotation in coco.anns.values())
    assert set(forms) == {list, dict} and forms[list] > forms[dict]
    refs = {ref["image_id"]: ref for ref in _refs(root, dataset, LAYOUTS[dataset].split_by_image)}
    seeds = {split: iter(evaluation_seeds(0, stream)) for split, stream in LAYOUTS[dataset].splits.items()}
    for image_id, image in coco.imgs.items():
        annotations = coco.imgToAnns[image_id]
        for seed in seeds[refs[image_id]["split"]]:
            scene = make_scene(seed)
            if [SHAPES[a["category_id"] - 1] for a in annotations] == [t.shape for t in scene.objects]:
                break
        size = (image["height"], image["width"])
        assert size == (scene.height, scene.width)
        for annotation, thing in zip(annotations, scene.objects, strict=True):
            decoded = _decoded(annotation, *size)
            assert np.array_equal(decoded, thing.mask)
            x1, y1, x2, y2 = thing.box_xyxy
            assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1]
            assert annotation["area"] == thing.area_px and annotation["iscrowd"] == 0
        with Image.open(root / "train2014" / image["file_name"]) as picture:
            assert picture.format == "JPEG" and picture.mode == "RGB"
            difference = np.asarray(picture).astype(int) - render(scene)
        assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("dataset", DATASETS)
def test_written_sentences_mean_the_written_mask_only(root: Path, dataset: Any) -> None:
    """The scene is found again from the masks alone; its sentences are read from the words alone."""
    layout = LAYOUTS[dataset]
    boxes = {}
    for stream in layout.splits.values():
        for seed in evaluation_seeds(0, stream)[: 4 * N_IMAGES]:
            scene = make_scene(seed)
            boxes[tuple(thing.box_xyxy for thing in scene.objects)] = scene
    instances = COCO(str(root / dataset / "instances.json"))
    place_words = 0
    for ref in _refs(root, dataset, layout.split_by_image):
        annotations = instances.imgToAnns[ref["image_id"]]
        key = tuple((int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in (a["bbox"] for a in annotations))
        scene = boxes[key]
        assert scene.seed in EVALUATION_SEEDS
        target = [a["id"] for a in annotations].index(ref["ann_id"]) + 1
        for sentence in ref["sentences"]:
            for words in (sentence["raw"], sentence["sent"]):
                assert evaluate(words, scene) == evaluate(words, scene, lenient=True) == {target}
            place_words += bool(set(sentence["tokens"]) & LOCATION_WORDS)
    assert (place_words == 0) == (dataset == "refcoco+")


@pytest.mark.parametrize("split", ["val", "test"])
def test_gcg_phrases_and_masks_are_those_of_the_captions(root: Path, split: str) -> None:
    folder = root / "GranDf/annotations/val_test"
    masks = COCO(str(folder / f"{split}_gcg_coco_mask_gt.json"))
    captions = COCO(str(folder / f"{split}_gcg_coco_caption_gt.json"))
    assert set(masks.imgs) == set(captions.imgs) and len(masks.imgs) == N_IMAGES
    assert min(masks.anns) == 1 and {a["category_id"] for a in masks.anns.values()} == {1}
    stream = {"val": 30, "test": 31}[split]
    for image_id, seed in zip(captions.imgs, evaluation_seeds(0, stream), strict=False):
        scene = make_scene(seed)
        caption = describe(scene)
        (annotation,) = captions.imgToAnns[image_id]
        assert annotation["caption"] == caption.text
        assert annotation["labels"] == [phrase.text for phrase in caption.phrases]
        assert 2 <= len(annotation["labels"]) <= 6
        for mask, phrase in zip(masks.imgToAnns[image_id], caption.phrases, strict=True):
            ids = list(phrase.object_ids + phrase.stuff_ids)
            assert np.array_equal(mask_utils.decode(mask["segmentation"]), np.isin(scene.segment_map, ids))
            assert mask["area"] == mask_utils.area(mask["segmentation"])
        image = captions.imgs[image_id]
        assert image["file_name"] == f"{image_id}.jpg" and re.fullmatch(r"sa_\d+", image_id)
        with Image.open(root / "GranDf_HA_images/val_test" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (scene.width, scene.height)


def test_a_writer_that_is_stopped_leaves_no_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, scene: object) -> Path:
        raise OSError("disk full")

    for module, write in (
        ("omgbench_tasks.refcoco.demo", lambda: write_refer_demo(tmp_path, "refcoco", 0, 1)),
        ("omgbench_tasks.gcg.demo", lambda: write_gcg_demo(tmp_path, 0, 1)),
    ):
        monkeypatch.setattr(f"{module}.write_jpeg", fail)
        with pytest.raises(OSError, match="disk full"):
            write()
    assert _digests(tmp_path) == {}


def test_real_data_is_left_alone(tmp_path: Path) -> None:
    real = tmp_path / "refcoco+" / "instances.json"
    gcg = tmp_path / "GranDf/annotations/val_test/test_gcg_coco_mask_gt.json"
    for path in (real, gcg):
        path.parent.mkdir(parents=True)
        path.write_text('{"images": []}')
    with pytest.raises(UserError, match="not demo data"):
        write_refer_demo(tmp_path, "refcoco+", 0, 1)
    with pytest.raises(UserError, match="not demo data"):
        write_gcg_demo(tmp_path, 0, 1)
    assert set(_digests(tmp_path)) == {str(path.relative_to(tmp_path)) for path in (real, gcg)}


def test_impossible_wishes_are_refused(tmp_path: Path) -> None:
    wishes: list[tuple[Any, int, int]] = [
        ("refclef", 0, 1),
        ("refcoco", 0, 0),
        ("refcoco", 0, 501),
        ("refcoco", 100, 1),
    ]
    for dataset, seed, n_images in wishes:
        with pytest.raises(UserError):
            write_refer_demo(tmp_path, dataset, seed, n_images)
    for seed, n_images in ((0, 0), (0, 1001), (-1, 1)):
        with pytest.raises(UserError):
            write_gcg_demo(tmp_path, seed, n_images)
    assert _digests(tmp_path) == {}
