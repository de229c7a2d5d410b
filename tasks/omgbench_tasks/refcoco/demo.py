"""Demo data in the layout of refCOCO, refCOCO+ and refCOCOg."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omgbench.data.scenes.build import make_scene
from omgbench.data.scenes.checker import refers_only_to
from omgbench.data.scenes.coco import mask_to_segmentation
from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.files import demo_info, refuse_real_data, write_jpeg, write_json, write_pickle
from omgbench.data.scenes.query import Noun, Query
from omgbench.data.scenes.refer_entries import ref_entry, thing_annotation
from omgbench.data.scenes.referring import referring_expressions
from omgbench.data.scenes.seeds import SCENES_PER_STREAM, evaluation_seeds
from omgbench.data.scenes.vocabulary import ANGULAR_SHAPES, ROUND_SHAPES, SHAPES
from omgbench.data.scenes.wording import ExpressionStyle
from omgbench.data.scenes.world import Scene, SceneObject
from omgbench.errors import UserError

DatasetName = Literal["refcoco", "refcoco+", "refcocog"]
IMAGE_FOLDER = "train2014"
MAX_IMAGES_PER_SPLIT = SCENES_PER_STREAM // 2
MAX_REFS_PER_IMAGE = 4
TARGET_KEY = 6

SPLIT_SHAPES = {"testA": frozenset(ROUND_SHAPES), "testB": frozenset(ANGULAR_SHAPES)}
"""testA refers to round things only, testB to angular things only, as the official ones to people and to all else."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What differs between the three data sets.

    Attributes:
        splits: splits by image, each with its stream of evaluation seeds.
        split_by_image: name of the refs file with these splits.
        splits_by_ref: splits of the google file, dealt out ref by ref over the same images; None for no such file.
        first_image_id: ids count up from here, annotation ids from ten times this number.
    """

    style: ExpressionStyle
    sentences_per_ref: int
    splits: dict[str, int]
    split_by_image: str
    splits_by_ref: tuple[str, ...] | None
    first_image_id: int


class _Target(NamedTuple):
    thing: SceneObject
    texts: tuple[str, ...]


LAYOUTS: dict[DatasetName, _Layout] = {
    "refcoco": _Layout(
        style="short",
        sentences_per_ref=3,
        splits={"train": 0, "val": 1, "testA": 2, "testB": 3},
        split_by_image="unc",
        splits_by_ref=("val", "test", "train", "train", "train"),
        first_image_id=1_000_000,
    ),
    "refcoco+": _Layout(
        style="no_location",
        sentences_per_ref=3,
        splits={"train": 10, "val": 11, "testA": 12, "testB": 13},
        split_by_image="unc",
        splits_by_ref=None,
        first_image_id=2_000_000,
    ),
    "refcocog": _Layout(
        style="long",
        sentences_per_ref=2,
        splits={"train": 20, "val": 21, "test": 22},
        split_by_image="umd",
        splits_by_ref=("val", "train", "train", "train"),
        first_image_id=3_000_000,
    ),
}


def write_refer_demo(
    data_root: Path, dataset: DatasetName, seed: int, n_images_per_split: int = 20
) -> tuple[Path, ...]:
    """Write one data set of the demo world as the official release lays it out.

        refcoco/instances.json  refcoco/refs(unc).p  refcoco/refs(google).p
        refcoco+/instances.json  refcoco+/refs(unc).p
        refcocog/instances.json  refcocog/refs(umd).p  refcocog/refs(google).p
        train2014/COCO_train2014_000001000000.jpg ...       one image folder for the three

    unc has train, val, testA (round things), testB (angular things); umd has train, val, test; both split by image.
    google files hold the same refs, split ref by ref over shared images: train, val, test for refcoco, train and val
    for refcocog, which has no google test split. Images of the train split are a quarter of `n_images_per_split`.
    Segmentations are polygons, or a list of one RLE dict where a mask has a hole; both decode to the visible mask.
    Annotation files have the same bytes on every machine; JPEG bytes depend on the JPEG library.

    Args:
        data_root: the folder; made if absent.
        dataset: "refcoco" (short sentences), "refcoco+" (no words of place), "refcocog" (long sentences).
        seed: 0 .. 99; another seed, other scenes.
        n_images_per_split: 1 .. 500 images in each split but train; every one has at least one ref.

    Returns:
        The files written, annotation files last, so that they stand for a complete set of images.

    Raises:
        UserError: an unknown data set, a number out of range, or real annotations where the demo data would go.
    """
    if dataset not in LAYOUTS:
        raise UserError(f"demo data for {dataset!r}", expected=f"one of {', '.join(LAYOUTS)}")
    if not 1 <= n_images_per_split <= MAX_IMAGES_PER_SPLIT:
        raise UserError(f"{n_images_per_split} images per split", expected=f"1 to {MAX_IMAGES_PER_SPLIT}")
    layout, folder = LAYOUTS[dataset], data_root / dataset
    refuse_real_data(folder / "instances.json")
    collection = _Collection(layout)
    for split, stream in layout.splits.items():
        n_images = max(1, n_images_per_split // 4) if split == "train" else n_images_per_split
        for scene, targets in _scenes(layout, split, evaluation_seeds(seed, stream), n_images):
            collection.add(scene, targets, split)
    written = [write_jpeg(data_root / IMAGE_FOLDER / name, scene) for name, scene in collection.pictures.items()]
    written.append(write_json(folder / "instances.json", collection.instances(seed)))
    written.append(write_pickle(folder / f"refs({layout.split_by_image}).p", collection.refs))
    if layout.splits_by_ref is not None:
        cycle = layout.splits_by_ref
        google = [{**ref, "split": cycle[ref["ref_id"] % len(cycle)]} for ref in collection.refs]
        written.append(write_pickle(folder / "refs(google).p", google))
    return tuple(written)


def _scenes(layout: _Layout, split: str, seeds: range, n_images: int) -> Iterator[tuple[Scene, list[_Target]]]:
    """The first scenes of the seeds in which the split finds something to refer to."""
    found = 0
    for seed in seeds:
        scene = make_scene(seed)
        targets = _targets(layout, scene, split)
        if targets:
            found += 1
            yield scene, targets
        if found == n_images:
            return
    raise UserError(f"{found} scenes for split {split}", expected=f"{n_images}", hint="ask for fewer images")


def _targets(layout: _Layout, scene: Scene, split: str) -> list[_Target]:
    """Things to refer to and their sentences; things that shape and colour do not tell apart come first."""
    shapes = SPLIT_SHAPES.get(split, frozenset(SHAPES))
    things = [thing for thing in Draws(TARGET_KEY, scene.seed).shuffled(scene.objects) if thing.shape in shapes]
    things.sort(key=lambda thing: refers_only_to(Query(Noun(thing.shape, thing.color)), scene, thing.id))
    targets = []
    for thing in things:
        expressions = referring_expressions(scene, thing.id, layout.style, limit=layout.sentences_per_ref)
        if expressions:
            targets.append(_Target(thing, tuple(expression.text for expression in expressions)))
    return targets[:MAX_REFS_PER_IMAGE]


@dataclass
class _Collection:
    """Entries of the annotation files as they grow."""

    layout: _Layout
    pictures: dict[str, Scene] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    refs: list[dict[str, Any]] = field(default_factory=list)
    n_sentences: int = 0

    def add(self, scene: Scene, targets: list[_Target], split: str) -> None:
        """Take in a scene: its image, all its things as annotations, its refs."""
        image_id = self.layout.first_image_id + len(self.images)
        name = f"COCO_train2014_{image_id:012d}.jpg"
        self.pictures[name] = scene
        self.images.append({"file_name": name, "height": scene.height, "width": scene.width, "id": image_id})
        first_annotation_id = 10 * self.layout.first_image_id + len(self.annotations)
        for index, thing in enumerate(scene.objects):
            segmentation = mask_to_segmentation(thing.mask)
            self.annotations.append(
                thing_annotation(thing, segmentation, image_id=image_id, annotation_id=first_annotation_id + index)
            )
        for target in targets:
            self._add_ref(target, split, image_id, first_annotation_id + target.thing.id - 1)

    def _add_ref(self, target: _Target, split: str, image_id: int, annotation_id: int) -> None:
        sentences = [self._sentence(text) for text in target.texts]
        self.refs.append(
            ref_entry(
                target.thing,
                sentences,
                file_name=f"COCO_train2014_{image_id:012d}_{target.thing.id}.jpg",
                ref_id=len(self.refs),
                annotation_id=annotation_id,
                image_id=image_id,
                split=split,
            )
        )

    def _sentence(self, text: str) -> dict[str, Any]:
        raw = text[0].upper() + text[1:] + "." if self.layout.style == "long" else text
        sent = re.sub(r"[^a-z ]", "", raw.lower())
        self.n_sentences += 1
        return {"tokens": sent.split(), "raw": raw, "sent_id": self.n_sentences - 1, "sent": sent}

    def instances(self, seed: int) -> dict[str, Any]:
        """The content of instances.json."""
        categories = [
            {"supercategory": "round" if shape in ROUND_SHAPES else "angular", "id": index + 1, "name": shape}
            for index, shape in enumerate(SHAPES)
        ]
        return {
            "info": demo_info(seed),
            "licenses": [],
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }
