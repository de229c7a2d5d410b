"""COCO instance files, as REFER's `instances.json` and GranD-f's mask files are: every entry checked once on reading.

Format: cocodataset.org, "Data format"; quirks of polygons and run lengths as in pycocotools.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omgbench.contract import Rle
from omgbench.data.jsonfile import checked, entries, finite, put_once, read_json, require, require_number, shown
from omgbench.errors import DataError
from omgbench.metrics.rle import MAX_COORDINATE_PX, MAX_PIXELS, canonical_rle, rle_from_uncompressed

Id = int | str
"""COCO numbers its images; GranD-f names them by file stem."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of an annotation file.

    Attributes:
        id: unique in its file.
        file_name: relative to the image folder and certain to stay inside it.
        height, width: pixels, at least 1, at most 2**28 pixels in all.
    """

    id: Id
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Polygons:
    """A segmentation as outlines; without any it is empty.

    Attributes:
        parts_xy: one flat `x1, y1, x2, y2, ...` per polygon, float64 pixels, read only. As in pycocotools, a part of
            fewer than six numbers covers nothing and an odd last number counts for nothing.
    """

    parts_xy: tuple[array[float], ...]


@dataclass(frozen=True, slots=True)
class Rles:
    """A segmentation as masks of the image's own size; one for a crowd, more where the file lists several."""

    parts: tuple[Rle, ...]


Segmentation = Polygons | Rles


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotated object.

    Attributes:
        id: unique in its file.
        image_id: an image of the same file.
        category_id: the benchmark's own number.
        segmentation: outlines or masks.
        bbox_xywh: (left, top, width, height) in pixels, finite, width and height not negative.
        area_px: as the file states it; not computed from the segmentation.
        iscrowd: the object is a group that was not annotated one by one.
    """

    id: Id
    image_id: Id
    category_id: int
    segmentation: Segmentation
    bbox_xywh: tuple[float, float, float, float]
    area_px: float
    iscrowd: bool


@dataclass(frozen=True, slots=True)
class Instances:
    """A whole file: images and annotations by id in file order, category names by id."""

    images: Mapping[Id, ImageRecord]
    annotations: Mapping[Id, Annotation]
    categories: Mapping[int, str]


def read_instances(path: Path) -> Instances:
    """Read `{images, annotations, categories}`; other keys are ignored, a missing `iscrowd` is 0.

    Raises:
        DataError: the file is not JSON; an entry lacks a key or holds another type; an id is used twice with different
            content; an annotation names an unknown image; an image has no pixel or more than 2**28, or a name that
            leads out of its folder; a segmentation, box or area that cannot be one.
    """
    content = read_json(path)
    images: dict[Id, ImageRecord] = {}
    for entry, where in entries(content, "images", path):
        image = image_record(entry, where)
        put_once(images, image.id, image, "image id", where)
    categories: dict[int, str] = {}
    for entry, where in entries(content, "categories", path):
        put_once(categories, require(entry, "id", int, where), require(entry, "name", str, where), "category id", where)
    annotations: dict[Id, Annotation] = {}
    for entry, where in entries(content, "annotations", path):
        annotation = _annotation(entry, images, where)
        put_once(annotations, annotation.id, annotation, "annotation id", where)
    return Instances(images, annotations, categories)


def image_record(entry: object, where: str) -> ImageRecord:
    """Check one entry of `images`. Raises `DataError`."""
    image_id = require(entry, "id", (int, str), where)
    file_name = checked_file_name(require(entry, "file_name", str, where), where)
    height, width = require(entry, "height", int, where), require(entry, "width", int, where)
    return ImageRecord(image_id, file_name, *checked_size(height, width, where))


def checked_size(height: int, width: int, where: str) -> tuple[int, int]:
    """(height, width) in pixels. Raises `DataError` unless both are at least 1 and the area is at most 2**28."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DataError(
            f"image of {shown(height)} x {shown(width)} pixels (height x width)",
            expected=f"1 to {MAX_PIXELS} pixels",
            where=where,
        )
    return height, width


def checked_file_name(name: str, where: str, what: str = "file_name") -> str:
    """`name` if it stays inside the folder that it is joined to, on any system: relative, forward slashes, no dots.

    Raises:
        DataError: empty, absolute, with a drive letter, a backslash, a null character, or a part that is empty, `.` or
            `..`.
    """
    is_foreign = "\\" in name or "\0" in name or name[1:2] == ":"
    if is_foreign or any(part in ("", ".", "..") for part in name.split("/")):
        raise DataError(
            f"{what} is {shown(name)}", expected="a relative path that stays inside its folder", where=where
        )
    return name


def _annotation(entry: object, images: Mapping[Id, ImageRecord], where: str) -> Annotation:
    image_id = require(entry, "image_id", (int, str), where)
    image = images.get(image_id)
    if image is None:
        raise DataError(f"image_id {shown(image_id)} is not among the images", expected="a known image", where=where)
    return Annotation(
        id=require(entry, "id", (int, str), where),
        image_id=image_id,
        category_id=require(entry, "category_id", int, where),
        segmentation=segmentation_of(entry, (image.height, image.width), where),
        bbox_xywh=_bbox_xywh(entry, where),
        area_px=area_px_of(entry, where),
        iscrowd=iscrowd_of(entry, where),
    )


def _bbox_xywh(entry: object, where: str) -> tuple[float, float, float, float]:
    bbox = require(entry, "bbox", list, where)
    if len(bbox) != 4:
        raise DataError(f"bbox has {len(bbox)} numbers", expected="[x, y, width, height]", where=where)
    x, y, width, height = (finite(value, "bbox", where) for value in bbox)
    if width < 0 or height < 0:
        raise DataError(f"bbox is {width} wide and {height} high", expected="a size that is not negative", where=where)
    return x, y, width, height


def area_px_of(entry: object, where: str) -> float:
    """The `area` of an annotation, finite and not negative. Raises `DataError`."""
    area_px = require_number(entry, "area", where)
    if area_px < 0:
        raise DataError(f"area is {area_px}", expected="a number that is not negative", where=where)
    return area_px


def iscrowd_of(entry: object, where: str) -> bool:
    """The `iscrowd` of an annotation, False when it has none. Raises `DataError` unless it is 0 or 1."""
    if isinstance(entry, dict) and "iscrowd" not in entry:
        return False
    iscrowd = require(entry, "iscrowd", int, where)
    if iscrowd not in (0, 1):
        raise DataError(f"iscrowd is {shown(iscrowd)}", expected="0 or 1", where=where)
    return iscrowd == 1


def segmentation_of(entry: object, size: tuple[int, int], where: str) -> Segmentation:
    """The `segmentation` of an annotation on an image of `size` (height, width).

    Read are: a list of polygons, also an empty one; one run-length object, compressed or not; a list of such objects.

    Raises:
        DataError: anything else, a mask of another size, or polygons that pycocotools has no result for: the first
            with fewer than five numbers (it then takes all for boxes and fails), a number that is not finite or lies
            absurdly far out.
    """
    value = require(entry, "segmentation", (list, dict), where)
    if isinstance(value, dict):
        return Rles((rle_of(value, size, f"{where} segmentation"),))
    if value and all(type(part) is dict for part in value):
        return Rles(tuple(rle_of(part, size, f"{where} segmentation[{index}]") for index, part in enumerate(value)))
    parts = [_polygon(part, f"{where} segmentation[{index}]") for index, part in enumerate(value)]
    if parts and len(parts[0]) < 5:
        raise DataError(f"polygon of {len(parts[0])} numbers", expected="x, y of at least three points", where=where)
    return Polygons(tuple(parts))


def _polygon(value: object, where: str) -> array[float]:
    numbers = checked(value, list, "polygon", where)
    try:
        polygon = array("d", numbers)
    except (TypeError, OverflowError):
        raise DataError(
            "polygon with a coordinate that is no number", expected="x1, y1, x2, ...", where=where
        ) from None
    # NaN hides from min and max, but makes the sum NaN.
    if numbers and not (_is_near(min(numbers)) and _is_near(max(numbers)) and math.isfinite(sum(numbers))):
        raise DataError(
            "polygon with a coordinate that is not finite or lies absurdly far out",
            expected=f"at most {MAX_COORDINATE_PX} pixels from the corner",
            where=where,
        )
    return polygon


def _is_near(coordinate_px: float) -> bool:
    return -MAX_COORDINATE_PX <= coordinate_px <= MAX_COORDINATE_PX


def rle_of(value: object, size: tuple[int, int], where: str) -> Rle:
    """The mask of a run-length object `{size: [height, width], counts}` on an image of `size`, in canonical form.

    `counts` is COCO's compressed string (as text or bytes) or a list of run lengths. Raises `DataError`.
    """
    entry = checked(value, dict, "mask", where)
    stated = rle_size(entry, where)
    if stated != size:
        raise DataError(
            f"mask of {stated[0]} x {stated[1]} pixels (height x width)",
            expected=f"the image's {size[0]} x {size[1]}",
            where=where,
        )
    counts = entry.get("counts")
    try:
        if type(counts) is list:
            return rle_from_uncompressed([checked(run, int, "run length", where) for run in counts], size)
        text = counts.decode("latin-1") if type(counts) is bytes else counts
        return canonical_rle(Rle(size, checked(text, str, "counts", where)), size)
    except DataError as error:
        raise DataError(error.found, expected=error.expected, where=where) from None


def rle_size(value: object, where: str) -> tuple[int, int]:
    """The (height, width) that a run-length object states, checked as an image's. Raises `DataError`."""
    size = require(value, "size", list, where)
    if len(size) != 2:
        raise DataError(f"size has {len(size)} numbers", expected="[height, width]", where=where)
    return checked_size(checked(size[0], int, "height", where), checked(size[1], int, "width", where), where)
