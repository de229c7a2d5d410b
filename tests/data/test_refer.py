"""REFER: files of both forms, splits, and ground truth equal to pycocotools' own sum over polygons."""

from __future__ import annotations

import json
import os
import pickle
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from omgbench.contract import Rle
from omgbench.data.coco import Annotation, ImageRecord, Instances, Polygons, Rles, Segmentation, read_instances
from omgbench.data.refer import (
    Ref,
    Sentence,
    class_one_and_two,
    read_refs,
    reference_mask_counts,
    select_split,
    target_of,
)
from omgbench.errors import DataError
from omgbench.metrics.rle import rle_to_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 40, 50
IMAGE = ImageRecord(1, "COCO_train2014_000000000001.jpg", HEIGHT, WIDTH)


def ref_entry(ref_id: int = 1, split: str = "val") -> dict[str, Any]:
    return {
        "ref_id": ref_id,
        "ann_id": 100 + ref_id,
        "category_id": 18,
        "image_id": 1,
        "file_name": f"COCO_train2014_000000000001_{100 + ref_id}.jpg",
        "split": split,
        "sent_ids": [10 * ref_id, 10 * ref_id + 1],
        "sentences": [
            {"tokens": ["the", "dog"], "raw": "The dog!", "sent_id": 10 * ref_id, "sent": "the dog"},
            {"tokens": ["left"], "raw": "left", "sent_id": 10 * ref_id + 1, "sent": "left"},
        ],
    }


def annotation_of(segmentation: Segmentation, image_id: int = 1) -> Annotation:
    return Annotation(101, image_id, 18, segmentation, (0.0, 0.0, 1.0, 1.0), 1.0, False)


def polygons(*parts: list[float]) -> Polygons:
    return Polygons(tuple(array("d", part) for part in parts))


EXPECTED = Ref(1, 101, 18, 1, "val", (Sentence(10, "the dog", "The dog!"), Sentence(11, "left", "left")))


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_pickles_of_python_2_protocols_are_read(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([ref_entry()], protocol=protocol))
    assert read_refs(tmp_path, "unc") == [EXPECTED]


def test_the_json_mirror_is_read_and_the_pickle_wins(tmp_path: Path) -> None:
    (tmp_path / "refs(umd).json").write_text(json.dumps([ref_entry()]), encoding="utf-8")
    assert read_refs(tmp_path, "umd") == [EXPECTED]
    (tmp_path / "refs(umd).p").write_bytes(pickle.dumps([ref_entry(2)], protocol=2))
    assert [ref.ref_id for ref in read_refs(tmp_path, "umd")] == [2]
    (tmp_path / "refs(umd).p").write_bytes(b"")
    with pytest.raises(DataError, match=r"refs\(umd\)\.p"):
        read_refs(tmp_path, "umd")


def test_a_missing_raw_is_the_sentence(tmp_path: Path) -> None:
    entry = ref_entry()
    del entry["sentences"][0]["raw"]
    (tmp_path / "refs(unc).json").write_text(json.dumps([entry]), encoding="utf-8")
    assert read_refs(tmp_path, "unc")[0].sentences[0].raw == "the dog"


def changed(**changes: Any) -> list[Any]:
    return [{**ref_entry(), **changes}]


def sentence(**changes: Any) -> list[Any]:
    return changed(sentences=[{**ref_entry()["sentences"][0], **changes}])


BAD_REFS: dict[str, tuple[Any, str]] = {
    "no list": ({"refs": []}, "content is an object"),
    "ref is text": (["ref"], r"refs\[0\]"),
    "ref id text": (changed(ref_id="1"), "ref_id is '1'"),
    "ref id true": (changed(ref_id=True), "ref_id is true"),
    "no annotation": (changed(ann_id=None), "ann_id is null"),
    "several annotations": (changed(ann_id=[1, 2]), "ann_id is a list of 2"),
    "image id float": (changed(image_id=1.0), "image_id is 1.0"),
    "split number": (changed(split=3), "split is 3"),
    "no sentences": (changed(sentences=None), "sentences is null"),
    "sentence is text": (changed(sentences=["the dog"]), r"refs\[0\] sentences\[0\]"),
    "sentence without text": (sentence(sent=None), "sent is null"),
    "sentence of words": (sentence(sent=["the", "dog"]), "sent is a list of 2"),
    "raw number": (sentence(raw=5), "raw is 5"),
    "sentence id float": (sentence(sent_id=0.5), "sent_id is 0.5"),
    "sentence twice": (changed(sentences=ref_entry()["sentences"][:1] * 2), "sent_id 10 is used twice"),
    "ref twice": ([ref_entry(), ref_entry()], r"ref_id 1 is used twice\n.*refs\[1\]"),
    "missing key": ([{"ref_id": 1, "sentences": []}], "'ann_id' is missing"),
}


@pytest.mark.parametrize("suffix", ["p", "json"])
@pytest.mark.parametrize("name", BAD_REFS)
def test_bad_refs_are_one_data_error(tmp_path: Path, name: str, suffix: str) -> None:
    content, message = BAD_REFS[name]
    data = pickle.dumps(content, protocol=2) if suffix == "p" else json.dumps(content).encode()
    (tmp_path / f"refs(unc).{suffix}").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_refs(tmp_path, "unc")
    assert f"refs(unc).{suffix}" in str(caught.value.where)


def test_bytes_in_a_pickle_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(sentence(sent=b"the dog"), protocol=3))
    with pytest.raises(DataError, match="sent is b'the dog'"):
        read_refs(tmp_path, "unc")


def test_an_absent_or_escaping_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"refs\(unc\)\.p or refs\(unc\)\.json"):
        read_refs(tmp_path, "unc")
    with pytest.raises(DataError, match="inside its folder"):
        read_refs(tmp_path, "/../../x")


def test_splits_follow_refer() -> None:
    splits = ["train", "val", "testA", "testB", "testAB", "testC", "test"]
    refs = [Ref(index, 1, 1, 1, split, ()) for index, split in enumerate(splits)]

    def chosen(split: str) -> list[str]:
        return [ref.split for ref in select_split(refs, split)]

    assert chosen("train") == ["train"]
    assert chosen("val") == ["val"]
    assert chosen("testA") == ["testA", "testAB"]
    assert chosen("testB") == ["testB", "testAB"]
    assert chosen("testC") == ["testC"]
    assert chosen("testAB") == ["testAB"]
    assert chosen("test") == ["testA", "testB", "testAB", "testC", "test"]
    with pytest.raises(DataError, match="no split is called 'vall'"):
        chosen("vall")


def test_target_of_finds_or_says_what_is_missing() -> None:
    annotation, other = annotation_of(polygons()), annotation_of(polygons(), image_id=2)
    second = ImageRecord(2, "2.jpg", 5, 5)
    instances = Instances({1: IMAGE, 2: second}, {101: annotation}, {})
    assert target_of(EXPECTED, instances) == (annotation, IMAGE)
    with pytest.raises(DataError, match="ann_id 101 is not in"):
        target_of(EXPECTED, Instances({1: IMAGE}, {}, {}))
    with pytest.raises(DataError, match="image_id 1 is not in"):
        target_of(EXPECTED, Instances({2: second}, {101: annotation}, {}))
    with pytest.raises(DataError, match=r"annotation 101 lies on image 2\n.*ref_id 1"):
        target_of(EXPECTED, Instances({1: IMAGE, 2: second}, {101: other}, {}))


def random_parts(rng: np.random.Generator) -> list[list[float]]:
    """Polygons that overlap, reach out of the image, are tiny, odd or of too few numbers; the first is a proper one."""
    parts = []
    for index in range(int(rng.integers(1, 6))):
        n_numbers = int(rng.integers(6, 20)) if index == 0 else int(rng.integers(0, 20))
        spread = float(rng.choice([3.0, 30.0, 80.0]))
        centre = rng.uniform(0, 40, size=2)
        xy = np.resize(centre, n_numbers) + rng.uniform(-spread, spread, size=n_numbers)
        parts.append(np.round(xy, 2).tolist())
    return parts + [parts[0]] * int(rng.integers(0, 3))


def official_counts(parts: list[list[float]]) -> np.ndarray:
    """REFER's getMask, in its own steps."""
    return np.sum(coco_mask.decode(coco_mask.frPyObjects(parts, HEIGHT, WIDTH)), axis=2).astype(np.uint8)


def test_ground_truth_equals_pycocotools_on_random_polygons() -> None:
    rng = np.random.default_rng(5)
    n_overlapping = 0
    for _ in range(400):
        parts = random_parts(rng)
        expected = official_counts(parts)
        annotation = annotation_of(polygons(*parts))
        counts = reference_mask_counts(annotation, IMAGE)
        one, two = class_one_and_two(annotation, IMAGE)
        assert counts.dtype == np.uint8
        assert (counts == expected).all()
        assert (rle_to_mask(one) == (expected == 1)).all()
        assert (two is None) == (not (expected >= 2).any())
        if two is not None:
            assert (rle_to_mask(two) == (expected >= 2)).all()
            n_overlapping += 1
    assert 100 < n_overlapping < 400


def test_overlap_is_neither_target_nor_background() -> None:
    square, shifted = [0, 0, 10, 0, 10, 10, 0, 10], [5, 0, 15, 0, 15, 10, 5, 10]
    annotation = annotation_of(polygons(square, shifted))
    one, two = class_one_and_two(annotation, IMAGE)
    assert two is not None
    assert rle_to_mask(one).sum() == 100
    assert rle_to_mask(two).sum() == 50
    assert np.bincount(reference_mask_counts(annotation, IMAGE).ravel()).tolist() == [HEIGHT * WIDTH - 150, 100, 50]


def test_the_sum_wraps_at_256_as_officially() -> None:
    square: list[float] = [0, 0, 10, 0, 10, 10, 0, 10]
    parts = [square] * 257
    counts = reference_mask_counts(annotation_of(polygons(*parts)), IMAGE)
    assert (counts == official_counts(parts)).all()
    assert counts.max() == 1


@pytest.mark.parametrize("segmentation", [Polygons(()), polygons([1, 1, 5, 5, 9]), Rles(())])
def test_an_empty_segmentation_is_all_zero(segmentation: Segmentation) -> None:
    one, two = class_one_and_two(annotation_of(segmentation), IMAGE)
    assert (one.size, two) == ((HEIGHT, WIDTH), None)
    assert not rle_to_mask(one).any()
    assert not reference_mask_counts(annotation_of(segmentation), IMAGE).any()


def test_listed_masks_add_up_like_polygons() -> None:
    masks = np.random.default_rng(3).random((3, HEIGHT, WIDTH)) < 0.4
    parts = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    rles = Rles(tuple(Rle((HEIGHT, WIDTH), part["counts"].decode("ascii")) for part in parts))
    one, two = class_one_and_two(annotation_of(rles), IMAGE)
    assert two is not None
    assert (rle_to_mask(one) == (masks.sum(axis=0) == 1)).all()
    assert (rle_to_mask(two) == (masks.sum(axis=0) >= 2)).all()
    assert (reference_mask_counts(annotation_of(rles), IMAGE) == masks.sum(axis=0)).all()


def test_an_outline_of_absurd_length_names_its_annotation() -> None:
    zigzag = [value for _ in range(3000) for value in (0.0, 0.0, 100_000.0, 1.0)]
    with pytest.raises(DataError, match="annotation 101"):
        class_one_and_two(annotation_of(polygons(zigzag)), IMAGE)


ORACLES = Path(os.environ.get("OMGBENCH_ORACLES", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["refer_synth", "refer_coco_real"])
def test_counts_of_the_official_reader(name: str) -> None:
    folder = ORACLES / name / "refcoco"
    if not folder.is_dir():
        pytest.skip(f"no {name} under {ORACLES}: set OMGBENCH_ORACLES")
    refs = read_refs(folder, "unc")
    instances = read_instances(folder / "instances.json")
    expected = json.loads((folder.parent / "expected.json").read_text(encoding="utf-8"))["refcoco"]
    assert expected
    for split, official in expected.items():
        chosen = select_split(refs, split)
        images = {target_of(ref, instances)[1].id for ref in chosen}
        n_sentences = sum(len(ref.sentences) for ref in chosen)
        counts = {key: official["lisa"][key] for key in ("images", "refs", "sentences")}
        assert counts == {"images": len(images), "refs": len(chosen), "sentences": n_sentences}
