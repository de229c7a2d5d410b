"""Entries of REFER's files for things of the demo world: `annotations` of instances.json, and refs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omgbench.data.scenes.coco import instance_fields
from omgbench.data.scenes.vocabulary import SHAPES
from omgbench.data.scenes.world import SceneObject


def thing_annotation(
    thing: SceneObject, segmentation: list[Any], *, image_id: int, annotation_id: int
) -> dict[str, Any]:
    """An entry of `annotations`; `segmentation` in one of COCO's forms."""
    return {
        "segmentation": segmentation,
        **instance_fields(thing.mask),
        "image_id": image_id,
        "category_id": category_id(thing),
        "id": annotation_id,
    }


def ref_entry(
    thing: SceneObject,
    sentences: Sequence[dict[str, Any]],
    *,
    file_name: str,
    ref_id: int,
    annotation_id: int,
    image_id: int,
    split: str,
) -> dict[str, Any]:
    """An entry of a refs file. No image file has its `file_name`, as in the official files."""
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": file_name,
        "ann_id": annotation_id,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "sentences": list(sentences),
        "category_id": category_id(thing),
    }


def category_id(thing: SceneObject) -> int:
    """The place of its shape among all, from 1."""
    return SHAPES.index(thing.shape) + 1
