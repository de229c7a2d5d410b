"""REFER's annotations (refCOCO, refCOCO+, refCOCOg): expressions, splits and the official ground-truth masks.

Format and rules: lichengunc/refer, refer.py; ground truth as compared by LISA, utils/dataset.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from omgbench.contract import Rle
from omgbench.data.coco import Annotation, ImageRecord, Instances, checked_file_name
from omgbench.data.jsonfile import checked, read_json, require, shown
from omgbench.data.locate import STATUS_HINT
from omgbench.data.parts import part_counts, part_rles
from omgbench.data.unpickle import load_plain_pickle
from omgbench.errors import DataError
from omgbench.metrics.rle import area_px, empty_rle, exactly_one_of, to_coco, union_of


@dataclass(frozen=True, slots=True)
class Sentence:
    """One referring expression: `sent` as the benchmark poses it, `raw` as it was typed."""

    sent_id: int
    sent: str
    raw: str


@dataclass(frozen=True, slots=True)
class Ref:
    """One object that expressions refer to.

    Attributes:
        ref_id: unique in its file.
        ann_id, image_id: the annotation and image record in `instances.json`. The ref's own `file_name` is never used:
            it carries an annotation suffix and names no file.
        category_id: COCO's number.
        split: `train`, `val`, `test`, `testA`, `testB`, ...; see `select_split`.
        sentences: in file order.
    """

    ref_id: int
    ann_id: int
    category_id: int
    image_id: int
    split: str
    sentences: tuple[Sentence, ...]


def read_refs(folder: Path, split_by: str) -> list[Ref]:
    """Read `refs(<split_by>).p`, or its JSON mirror `refs(<split_by>).json` when there is no `.p`.

    Args:
        folder: data set folder, which also holds `instances.json`.
        split_by: who made the splits: `unc`, `google`, `umd`.

    A sentence without `raw` has its `sent` there.

    Raises:
        DataError: neither file is there; the pickle holds more than plain data; an entry lacks a key or holds another
            type; a ref id, or a sentence id within one ref, is used twice.
    """
    name = checked_file_name(f"refs({split_by})", str(folder), "name of the expressions")
    pickled, mirror = folder / f"{name}.p", folder / f"{name}.json"
    if not pickled.exists() and not mirror.exists():
        raise DataError(
            "no expressions found", expected=f"{pickled.name} or {mirror.name}", where=str(folder), hint=STATUS_HINT
        )
    path = pickled if pickled.exists() else mirror
    content = load_plain_pickle(path) if path is pickled else read_json(path)
    return _refs(checked(content, list, "content", str(path)), path)


def _refs(content: list[object], path: Path) -> list[Ref]:
    refs: dict[int, Ref] = {}
    for index, entry in enumerate(content):
        where = f"{path}: refs[{index}]"
        ref = _ref(entry, where)
        if refs.setdefault(ref.ref_id, ref) is not ref:
            raise DataError(f"ref_id {ref.ref_id} is used twice", expected="unique ids", where=where)
    return list(refs.values())


def _ref(entry: object, where: str) -> Ref:
    sentences: dict[int, Sentence] = {}
    for index, sentence_entry in enumerate(require(entry, "sentences", list, where)):
        sentence = _sentence(sentence_entry, f"{where} sentences[{index}]")
        if sentences.setdefault(sentence.sent_id, sentence) is not sentence:
            raise DataError(f"sent_id {sentence.sent_id} is used twice", expected="unique ids", where=where)
    return Ref(
        ref_id=require(entry, "ref_id", int, where),
        ann_id=require(entry, "ann_id", int, where),
        category_id=require(entry, "category_id", int, where),
        image_id=require(entry, "image_id", int, where),
        split=require(entry, "split", str, where),
        sentences=tuple(sentences.values()),
    )


def _sentence(entry: object, where: str) -> Sentence:
    sent = require(entry, "sent", str, where)
    has_raw = isinstance(entry, dict) and "raw" in entry
    raw = require(entry, "raw", str, where) if has_raw else sent
    return Sentence(require(entry, "sent_id", int, where), sent, raw)


def select_split(refs: Iterable[Ref], split: str) -> list[Ref]:
    """The refs of a split by REFER's own rule (`getRefIds`), in order.

    `train`, `val` and joint names such as `testAB` by equality; `testA`, `testB`, `testC` when their last letter occurs
    in the ref's split, which takes in joint splits; `test` when `test` occurs in it, so for refCOCO it is testA and
    testB together.

    Raises:
        DataError: REFER knows no such split.
    """
    if split in ("train", "val", "testAB", "testAC", "testBC"):
        return [ref for ref in refs if ref.split == split]
    if split in ("testA", "testB", "testC"):
        return [ref for ref in refs if split[-1] in ref.split]
    if split == "test":
        return [ref for ref in refs if "test" in ref.split]
    raise DataError(f"no split is called {shown(split)}", expected="train, val, test, testA, testB or testC")


def target_of(ref: Ref, instances: Instances) -> tuple[Annotation, ImageRecord]:
    """The annotation and the image that a ref points to.

    Raises:
        DataError: one of them is not in the instances, or the annotation lies on another image.
    """
    where = f"ref_id {ref.ref_id}"
    annotation = instances.annotations.get(ref.ann_id)
    image = instances.images.get(ref.image_id)
    if annotation is None or image is None:
        missing = f"ann_id {ref.ann_id}" if annotation is None else f"image_id {ref.image_id}"
        raise DataError(
            f"{missing} is not in instances.json", expected="refs and instances of one release", where=where
        )
    if annotation.image_id != image.id:
        raise DataError(
            f"annotation {shown(annotation.id)} lies on image {shown(annotation.image_id)}",
            expected=f"image {shown(image.id)}",
            where=where,
        )
    return annotation, image


def reference_mask_counts(annotation: Annotation, image: ImageRecord) -> NDArray[np.uint8]:
    """The official ground truth: how many parts of the annotation cover each pixel, uint8 of shape (height, width).

    LISA, GLaMM and OMG-LLaVA compare with the value 1 alone, so a pixel under two polygons of one annotation is
    neither target nor background. The sum wraps at 256, as the official cast to uint8 does. An empty segmentation is
    all zero. A segmentation that is one run-length object, for which the official code fails, is that mask.

    Raises:
        DataError: a polygon with an outline of absurd length.
    """
    return part_counts(annotation.segmentation, (image.height, image.width), _where(annotation))


def class_one_and_two(annotation: Annotation, image: ImageRecord) -> tuple[Rle, Rle | None]:
    """The pixels where `reference_mask_counts` is 1, and those where it is 2 or more, None when there are none.

    Nothing is decoded. Differs from the counts only where 256 or more parts of one annotation overlap.

    Raises:
        DataError: a polygon with an outline of absurd length.
    """
    rles = part_rles(annotation.segmentation, (image.height, image.width), _where(annotation))
    if not rles:
        return empty_rle((image.height, image.width)), None
    union = union_of(rles)
    if sum(area_px(rle) for rle in rles) == area_px(union):
        return union, None
    return exactly_one_of(rles), _at_least_two_of(rles)


def _where(annotation: Annotation) -> str:
    return f"annotation {shown(annotation.id)}"


def _at_least_two_of(rles: Sequence[Rle]) -> Rle:
    """The pixels that lie in two or more of at least two masks."""
    once: dict[str, Any] = to_coco(rles[0])
    twice: dict[str, Any] = to_coco(empty_rle(rles[0].size))
    for part in map(to_coco, rles[1:]):
        twice = coco_mask.merge([twice, coco_mask.merge([once, part], intersect=True)])
        once = coco_mask.merge([once, part])
    return Rle(rles[0].size, twice["counts"].decode("ascii"))
