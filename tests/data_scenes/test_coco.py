"""Masks in COCO's forms, and the files of demo data."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from omgbench.data.scenes.coco import instance_fields, mask_to_rle, mask_to_segmentation
from omgbench.data.scenes.files import demo_info, refuse_real_data, write_bytes, write_json, write_pickle
from omgbench.errors import UserError


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.8, 1.0])
def test_segmentations_of_random_masks_decode_to_them(density: float) -> None:
    rng = np.random.default_rng(0)
    forms = set()
    for _ in range(60):
        height, width = rng.integers(1, 24, 2)
        mask = rng.random((height, width)) < density
        mask[rng.integers(height), rng.integers(width)] = True
        segmentation = mask_to_segmentation(mask)
        if isinstance(segmentation[0], dict):
            decoded = mask_utils.decode(segmentation[0])
        else:
            polygons = mask_utils.frPyObjects(segmentation, int(height), int(width))
            decoded = mask_utils.decode(polygons).sum(axis=2)
        assert np.array_equal(decoded, mask)
        forms.add(type(segmentation[0]))
        assert json.loads(json.dumps(segmentation)) == segmentation
    assert list in forms


def test_a_mask_with_a_hole_is_rle_and_pieces_are_polygons() -> None:
    mask = np.zeros((9, 20), dtype=bool)
    mask[1:4, 1:4] = mask[5:8, 3:9] = mask[0:3, 12:15] = True
    assert [len(polygon) for polygon in mask_to_segmentation(mask)] == [8, 8, 8]
    mask[6, 5] = False
    (rle,) = mask_to_segmentation(mask)
    assert rle == mask_to_rle(mask)
    assert isinstance(rle, dict) and isinstance(rle["counts"], str) and rle["size"] == [9, 20]


def test_instance_fields_agree_with_pycocotools() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        mask = rng.random((11, 17)) < 0.05
        rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
        fields = instance_fields(mask)
        assert fields["area"] == mask_utils.area(rle) and fields["iscrowd"] == 0
        assert fields["bbox"] == mask_utils.toBbox(rle).tolist()


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bytes(tmp_path / "a" / "b.json", b"old")
    assert path.read_bytes() == b"old"

    def fail(self: Path, target: Path) -> Path:
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and [entry.name for entry in path.parent.iterdir()] == ["b.json"]


def test_pickles_depend_on_values_only(tmp_path: Path) -> None:
    shared = "some words"
    same = [{"key": shared, "other": shared}]
    apart = [{"".join(["k", "ey"]): "".join(["some", " words"]), "other": "".join(["some ", "words"])}]
    first, second = write_pickle(tmp_path / "1.p", same), write_pickle(tmp_path / "2.p", apart)
    assert first.read_bytes() == second.read_bytes() and first.read_bytes().startswith(b"\x80\x02")
    assert pickle.loads(first.read_bytes()) == same  # noqa: S301


def test_real_annotations_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    refuse_real_data(path)
    write_json(path, {"info": demo_info(0), "images": []})
    refuse_real_data(path)
    write_json(path, {"info": {"description": "COCO 2014"}, "images": []})
    with pytest.raises(UserError, match="not demo data"):
        refuse_real_data(path)
