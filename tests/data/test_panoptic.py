"""COCO panoptic files: what is kept, one DataError for each way to be wrong, and PNGs of segment ids."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omgbench.data.coco import ImageRecord
from omgbench.data.panoptic import (
    MAX_SEGMENT_ID,
    PanopticCategory,
    PanopticFile,
    PanopticImage,
    SegmentRecord,
    read_panoptic,
    read_segment_ids,
)
from omgbench.errors import DataError

from ..documents import Change, drop, put, repeat

HEIGHT, WIDTH = 6, 9
CONTENT: dict[str, Any] = {
    "info": {"description": "ignored"},
    "images": [
        {"id": 139, "file_name": "000000000139.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": "b", "file_name": "val/b.jpg", "height": 4, "width": 5},
        {"id": 7, "file_name": "without_annotation.jpg", "height": 1, "width": 1},
    ],
    "annotations": [
        {"image_id": "b", "file_name": "val/b.png", "segments_info": []},
        {
            "image_id": 139,
            "file_name": "000000000139.png",
            "segments_info": [
                {"id": 3226956, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 2, 3], "area": 6},
                {"id": 1, "category_id": 200, "iscrowd": 0, "bbox": [2, 0, 2, 3], "area": 6},
                {"id": MAX_SEGMENT_ID, "category_id": 1, "iscrowd": 1, "bbox": [4, 0, 1, 1], "area": 1},
            ],
        },
    ],
    "categories": [
        {"supercategory": "person", "isthing": 1, "id": 1, "name": "person"},
        {"supercategory": "textile", "isthing": 0, "id": 200, "name": "rug-merged"},
    ],
}


def read(tmp_path: Path, content: Any) -> PanopticFile:
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_panoptic(path)


def test_a_file_becomes_values(tmp_path: Path) -> None:
    file = read(tmp_path, CONTENT)
    first, second = file.images
    assert first == PanopticImage(ImageRecord("b", "val/b.jpg", 4, 5), "val/b.png", ())
    assert second.image == ImageRecord(139, "000000000139.jpg", HEIGHT, WIDTH)
    assert second.png_name == "000000000139.png"
    assert second.segments == (
        SegmentRecord(3226956, 1, False),
        SegmentRecord(1, 200, False),
        SegmentRecord(MAX_SEGMENT_ID, 1, True),
    )
    assert file.categories == {
        1: PanopticCategory(1, "person", True),
        200: PanopticCategory(200, "rug-merged", False),
    }
    assert list(file.categories) == [1, 200]


def test_a_missing_iscrowd_and_equal_repetitions_are_read(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    del content["annotations"][1]["segments_info"][2]["iscrowd"]
    content["images"] *= 2
    content["categories"] *= 2
    file = read(tmp_path, content)
    assert [segment.iscrowd for segment in file.images[1].segments] == [False] * 3
    assert len(file.images) == len(file.categories) == 2


IMAGE, ANNOTATION, CATEGORY = ("images", 0), ("annotations", 1), ("categories", 1)
SEGMENT = (*ANNOTATION, "segments_info", 1)

BAD_FILES: dict[str, tuple[Change, str]] = {
    "no images": (drop("images"), "'images' is missing"),
    "no annotations": (drop("annotations"), "'annotations' is missing"),
    "no categories": (drop("categories"), "'categories' is missing"),
    "categories by id": (put("categories", {"1": {}}), "categories is an object of 1 keys"),
    "image null": (put(*IMAGE, None), r"images\[0\]"),
    "image without height": (drop(*IMAGE, "height"), r"'height' is missing\n.*images\[0\]"),
    "image bomb": (put(*IMAGE, "height", 2**28), "1 to 268435456 pixels"),
    "image used twice": (repeat(1, "images", "height", 9), r"image id 'b' is used twice\n.*images\[3\]"),
    "image climbs out": (put(*IMAGE, "file_name", "../../etc/passwd"), "inside its folder"),
    "category number": (put(*CATEGORY, 5), r"found 5\n.*categories\[1\]"),
    "category without name": (drop(*CATEGORY, "name"), r"'name' is missing\n.*categories\[1\]"),
    "category without isthing": (drop(*CATEGORY, "isthing"), "'isthing' is missing"),
    "isthing text": (put(*CATEGORY, "isthing", "0"), "isthing is '0'"),
    "isthing 2": (put(*CATEGORY, "isthing", 2), "isthing is 2"),
    "category used twice": (repeat(1, "categories", "isthing", 1), "category id 200 is used twice"),
    "annotation null": (put(*ANNOTATION, None), r"annotations\[1\]"),
    "annotation without image": (drop(*ANNOTATION, "image_id"), "'image_id' is missing"),
    "annotation of a float": (put(*ANNOTATION, "image_id", 139.0), "image_id is 139.0"),
    "unknown image": (put(*ANNOTATION, "image_id", 8), r"image_id 8 is not among the images\n.*annotations\[1\]"),
    "image id as text": (put(*ANNOTATION, "image_id", "139"), "image_id '139' is not among the images"),
    "annotated twice": (put(*ANNOTATION, "image_id", "b"), "a second annotation of image 'b'"),
    "PNG missing": (drop(*ANNOTATION, "file_name"), r"'file_name' is missing\n.*annotations\[1\]"),
    "PNG number": (put(*ANNOTATION, "file_name", 5), "file_name is 5"),
    "PNG climbs out": (put(*ANNOTATION, "file_name", "../secret.png"), "inside its folder"),
    "PNG absolute": (put(*ANNOTATION, "file_name", "/etc/passwd"), "inside its folder"),
    "PNG of two systems": (put(*ANNOTATION, "file_name", "..\\..\\secret.png"), "inside its folder"),
    "PNG with a drive": (put(*ANNOTATION, "file_name", "C:secret.png"), "inside its folder"),
    "PNG with a null": (put(*ANNOTATION, "file_name", "a.png\0.txt"), "inside its folder"),
    "PNG empty": (put(*ANNOTATION, "file_name", ""), "inside its folder"),
    "PNG surrogate": (put(*ANNOTATION, "file_name", "a\ud800.png"), "lone surrogates"),
    "segments missing": (drop(*ANNOTATION, "segments_info"), "'segments_info' is missing"),
    "segments by id": (put(*ANNOTATION, "segments_info", {}), "segments_info is an object of 0 keys"),
    "segment null": (put(*SEGMENT, None), r"found null\n.*annotations\[1\]\.segments_info\[1\]"),
    "segment without id": (drop(*SEGMENT, "id"), r"'id' is missing\n.*segments_info\[1\]"),
    "segment id true": (put(*SEGMENT, "id", True), "id is true"),
    "segment id 0": (put(*SEGMENT, "id", 0), "segment id 0"),
    "segment id negative": (put(*SEGMENT, "id", -1), "segment id -1"),
    "segment id too large": (put(*SEGMENT, "id", 256**3), "segment id 16777216"),
    "segment id astronomic": (put(*SEGMENT, "id", 10**4000), "segment id a whole number of 13288 bits"),
    "segment id twice": (put(*SEGMENT, "id", 3226956), r"segment id 3226956\n.*segments_info\[1\]"),
    "segment without category": (drop(*SEGMENT, "category_id"), "'category_id' is missing"),
    "category text": (put(*SEGMENT, "category_id", "1"), "category_id is '1'"),
    "category unknown": (put(*SEGMENT, "category_id", 2), "category_id 2 is not among the categories"),
    "iscrowd 2": (put(*SEGMENT, "iscrowd", 2), "iscrowd is 2"),
    "iscrowd text": (put(*SEGMENT, "iscrowd", "0"), "iscrowd is '0'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_data_error(tmp_path: Path, name: str) -> None:
    change, message = BAD_FILES[name]
    content = copy.deepcopy(CONTENT)
    change(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert "panoptic.json" in str(caught.value.where)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"images": []}'])
def test_what_is_no_panoptic_document_is_a_data_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "panoptic.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"panoptic\.json"):
        read_panoptic(path)


# PNGs


def _ids() -> np.ndarray:
    """Ids of every channel, the largest among them, and 0."""
    ids = np.random.default_rng(0).integers(0, MAX_SEGMENT_ID, (HEIGHT, WIDTH), endpoint=True)
    ids[0, :5] = (0, 1, 256, 65536, MAX_SEGMENT_ID)
    return ids


def _channels(ids: np.ndarray) -> np.ndarray:
    return np.stack((ids % 256, ids // 256 % 256, ids // 65536), axis=-1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_ids_are_red_plus_256_green_plus_65536_blue(tmp_path: Path, mode: str) -> None:
    Image.fromarray(_channels(_ids())).convert(mode).save(tmp_path / "a.png")
    found = read_segment_ids(tmp_path / "a.png", HEIGHT, WIDTH)
    assert found.dtype == np.int32
    assert np.array_equal(found, _ids())


@pytest.mark.parametrize(("height", "width"), [(WIDTH, HEIGHT), (HEIGHT, WIDTH + 1), (HEIGHT - 1, WIDTH)])
def test_a_png_of_another_size_is_a_data_error(tmp_path: Path, height: int, width: int) -> None:
    Image.fromarray(_channels(_ids())).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="9 x 6 pixels") as caught:
        read_segment_ids(tmp_path / "a.png", height, width)
    assert caught.value.expected == f"{width} x {height}"
    assert "a.png" in str(caught.value.where)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_a_png_without_three_channels_is_a_data_error(tmp_path: Path, mode: str) -> None:
    """`convert("RGB")` would make an id of a grey or of a palette's colour."""
    grey = np.full((HEIGHT, WIDTH), 7, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(grey)
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png"):
        read_segment_ids(tmp_path / "a.png", HEIGHT, WIDTH)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_HEAD = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
_BODY = _chunk(b"IDAT", zlib.compress(bytes(HEIGHT * (1 + 3 * WIDTH))))
_END = _chunk(b"IEND", b"")
_TEXT_BOMB = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21)))
BAD_PNGS = {
    "empty": b"",
    "text": b"not a PNG",
    "a GIF": b"GIF89a" + bytes(20),
    "header alone": _HEAD,
    "no pixels": _HEAD + _END,
    "pixels that are no zlib": _HEAD + _chunk(b"IDAT", b"garbage!") + _END,
    "pixels cut off": _HEAD + _chunk(b"IDAT", zlib.compress(bytes(HEIGHT * (1 + 3 * WIDTH)))[:-8]) + _END,
    "a bad checksum": _HEAD[:-1] + b"x" + _BODY + _END,
    "a text bomb": _HEAD + _TEXT_BOMB + _BODY + _END,
    "a text bomb behind the pixels": _HEAD + _BODY + _TEXT_BOMB + _END,
    "a short chunk": _HEAD + _chunk(b"gAMA", b"") + _BODY + _END,
    "a frame outside": _HEAD + _chunk(b"acTL", struct.pack(">II", 2, 0)) + _chunk(b"fcTL", bytes(26)) + _BODY + _END,
}


def test_the_handmade_png_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_HEAD + _BODY + _END)
    assert not read_segment_ids(tmp_path / "a.png", HEIGHT, WIDTH).any()


@pytest.mark.parametrize("name", BAD_PNGS)
def test_what_is_no_png_is_a_data_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(BAD_PNGS[name])
    with pytest.raises(DataError, match=r"a\.png"):
        read_segment_ids(tmp_path / "a.png", HEIGHT, WIDTH)


def test_a_jpeg_called_png_is_a_data_error(tmp_path: Path) -> None:
    Image.fromarray(_channels(_ids())).save(tmp_path / "a.png", "JPEG")
    with pytest.raises(DataError, match=r"a\.png"):
        read_segment_ids(tmp_path / "a.png", HEIGHT, WIDTH)


def test_no_file_and_a_folder_are_data_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(DataError, match=path.name):
            read_segment_ids(path, HEIGHT, WIDTH)
