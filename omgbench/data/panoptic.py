"""COCO panoptic files: one JSON document and a PNG of segment ids per image (cocodataset.org, "Data format")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omgbench.data.coco import Id, ImageRecord, checked_file_name, image_record, iscrowd_of
from omgbench.data.jsonfile import checked, entries, put_once, read_json, require, shown
from omgbench.errors import DataError

MAX_SEGMENT_ID = 256**3 - 1


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """One segment of an image: its id in the PNG, its category, whether it stands for a crowd."""

    id: int
    category_id: int
    iscrowd: bool


@dataclass(frozen=True, slots=True)
class PanopticImage:
    """One annotated image: the picture, the PNG's name, its segments in file order."""

    image: ImageRecord
    png_name: str
    segments: tuple[SegmentRecord, ...]


@dataclass(frozen=True, slots=True)
class PanopticCategory:
    """A class: its name, and whether its segments are countable things."""

    id: int
    name: str
    isthing: bool


@dataclass(frozen=True, slots=True)
class PanopticFile:
    """A whole file: annotated images in file order, categories by id."""

    images: tuple[PanopticImage, ...]
    categories: Mapping[int, PanopticCategory]


def read_panoptic(path: Path) -> PanopticFile:
    """Read `{images, annotations, categories}`.

    Raises:
        DataError: not JSON; an entry lacks a key or holds another type; an annotation of an unknown image, a second
            annotation of one, a segment of an unknown category, a segment id out of 1 .. 2**24 - 1 or used twice in
            an image; a file name that leads out of its folder.
    """
    content = read_json(path)
    categories: dict[int, PanopticCategory] = {}
    for entry, where in entries(content, "categories", path):
        isthing = require(entry, "isthing", int, where)
        if isthing not in (0, 1):
            raise DataError(f"isthing is {shown(isthing)}", expected="0 or 1", where=where)
        category = PanopticCategory(require(entry, "id", int, where), require(entry, "name", str, where), isthing == 1)
        put_once(categories, category.id, category, "category id", where)
    images: dict[Id, ImageRecord] = {}
    for entry, where in entries(content, "images", path):
        image = image_record(entry, where)
        put_once(images, image.id, image, "image id", where)
    annotated: dict[Id, PanopticImage] = {}
    for entry, where in entries(content, "annotations", path):
        image_id = require(entry, "image_id", (int, str), where)
        if image_id not in images:
            raise DataError(f"image_id {shown(image_id)} is not among the images", where=where)
        if image_id in annotated:
            raise DataError(f"a second annotation of image {shown(image_id)}", where=where)
        png_name = checked_file_name(require(entry, "file_name", str, where), where)
        annotated[image_id] = PanopticImage(images[image_id], png_name, _segments(entry, categories, where))
    return PanopticFile(tuple(annotated.values()), categories)


def _segments(entry: object, categories: Mapping[int, PanopticCategory], where: str) -> tuple[SegmentRecord, ...]:
    segments: dict[int, SegmentRecord] = {}
    for index, item in enumerate(checked(require(entry, "segments_info", list, where), list, "segments_info", where)):
        here = f"{where}.segments_info[{index}]"
        segment_id, category_id = require(item, "id", int, here), require(item, "category_id", int, here)
        if not 1 <= segment_id <= MAX_SEGMENT_ID or segment_id in segments:
            raise DataError(f"segment id {shown(segment_id)}", expected=f"1 to {MAX_SEGMENT_ID}, each once", where=here)
        if category_id not in categories:
            raise DataError(f"category_id {shown(category_id)} is not among the categories", where=here)
        segments[segment_id] = SegmentRecord(segment_id, category_id, iscrowd_of(item, here))
    return tuple(segments.values())


def read_segment_ids(path: Path, height: int, width: int) -> NDArray[np.int32]:
    """Segment ids (height, width) of a panoptic PNG: R + 256 G + 65536 B; 0 where nothing is annotated.

    Raises:
        DataError: no PNG, a damaged one, one of another size, or one without red, green and blue.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.size != (width, height):
                raise DataError(
                    f"the PNG has {image.width} x {image.height} pixels",
                    expected=f"{width} x {height}",
                    where=str(path),
                )
            if image.mode not in ("RGB", "RGBA"):
                raise DataError(f"a PNG of mode {image.mode}", expected="RGB", where=str(path))
            channels = np.asarray(image.convert("RGB"), dtype=np.int32)
    except (DataError, MemoryError):
        raise
    # Decoders meet damage with exceptions of every kind.
    except Exception as error:
        raise DataError(f"the PNG cannot be read: {error}", where=str(path)) from None
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]
