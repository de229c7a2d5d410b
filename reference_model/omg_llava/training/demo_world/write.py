"""Writes the demo world's training data: pictures once, and annotations in the official files of each data family."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from filelock import FileLock

from omg_llava.training.demo_world import panoptic
from omg_llava.training.demo_world.questions import questions
from omgbench.data.scenes.build import make_scene
from omgbench.data.scenes.caption import GroundedCaption, describe
from omgbench.data.scenes.coco import mask_to_rle
from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.files import demo_info, refuse_real_data, write_bytes, write_jpeg, write_json, write_pickle
from omgbench.data.scenes.refer_entries import ref_entry, thing_annotation
from omgbench.data.scenes.referring import STYLES, referring_expressions
from omgbench.data.scenes.seeds import DEMO_VERSION, TRAINING_SEEDS
from omgbench.data.scenes.vocabulary import SHAPES
from omgbench.data.scenes.world import Scene
from omgbench.errors import UserError

FOLDER = "demo_world"
SENTENCES = 3
REFS_FILES = {"short": "refs(unc).p", "no_location": "refs(unc).p", "long": "refs(umd).p"}
REFER_FOLDERS = {"short": "refcoco", "no_location": "refcoco+", "long": "refcocog"}
_MARK_FILE = "annotations/panoptic.json"
_CHUNK = 50
POINT_KEY = 8


@dataclass
class _Entries:
    """What one scene gives to each annotation file."""

    image: dict[str, Any]
    panoptic: dict[str, Any]
    things: list[dict[str, Any]]
    refs: dict[str, list[dict[str, Any]]]
    grounded: dict[str, Any]
    caption: dict[str, Any]
    short_answers: dict[str, Any]
    regions: dict[str, Any] | None
    points: list[dict[str, Any]] = field(default_factory=list)


def write_demo_world(
    data_root: Path, n_scenes: int, report: Callable[[int, int], None] = lambda done, of: None
) -> Path:
    """Write the scenes of the first training seeds, none of which any evaluation data has, unless they are there.

        demo_world/images/000000000000.jpg ...               demo_world/panoptic/*.png, annotations/panoptic.json
        demo_world/refcoco, refcoco+, refcocog               REFER's files; every ref is of the split train
        demo_world/grandf/GranDf_HA_GCG_train.json           grounded captions
        demo_world/llava/captions.json, short_answers.json   LLaVA's conversations
        demo_world/osprey/osprey_detailed.json               region captions, masks
        demo_world/mdvp/points.json                          region captions, points

    Args:
        data_root: the folder; made if absent.
        n_scenes: at least 1.
        report: called with the scenes done and all.

    Returns:
        The folder `demo_world`.

    Raises:
        UserError: annotations that are no demo data lie there.
    """
    folder = data_root / FOLDER
    if n_scenes < 1:
        raise UserError(f"{n_scenes} scenes", expected="at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    # Trainings that begin together write it once.
    with FileLock(folder / ".lock"):
        _write_world(folder, n_scenes, report)
    return folder


def _write_world(folder: Path, n_scenes: int, report: Callable[[int, int], None]) -> None:
    done = folder / f"complete_{DEMO_VERSION}_{n_scenes}"
    if done.exists():
        return
    refuse_real_data(folder / _MARK_FILE)
    for other in folder.glob("complete_*"):
        other.unlink()
    scenes: list[_Entries] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for entries in pool.map(_write_scene, range(n_scenes), [folder] * n_scenes, chunksize=_CHUNK):
            scenes.append(entries)
            report(len(scenes), n_scenes)
    _write_annotations(folder, scenes)
    write_bytes(done, b"")


def _write_scene(number: int, folder: Path) -> _Entries:
    scene = make_scene(TRAINING_SEEDS[number])
    name = f"{number:012d}"
    write_jpeg(folder / "images" / f"{name}.jpg", scene)
    write_bytes(folder / "panoptic" / f"{name}.png", panoptic.png_bytes(scene))
    return _entries(scene, number, f"{name}.jpg")


def _entries(scene: Scene, number: int, file_name: str) -> _Entries:
    things = [_thing(scene, number, index) for index in range(len(scene.objects))]
    refs: dict[str, list[dict[str, Any]]] = {style: _refs(scene, number, style) for style in STYLES}
    sentences = {
        ref["ann_id"] - things[0]["id"]: ref["sentences"][0]["raw"] for ref in refs["long"] if ref["sentences"]
    }
    short = [(item.question, item.answer) for item in questions(scene)]
    caption = describe(scene)
    return _Entries(
        image={"id": number, "file_name": file_name, "height": scene.height, "width": scene.width},
        panoptic=panoptic.annotation(scene, number, file_name.replace(".jpg", ".png")),
        things=things,
        refs=refs,
        grounded=_grounded(scene, caption, file_name),
        caption=_conversation(file_name, [("Describe this image.", caption.text)]),
        short_answers=_conversation(file_name, short),
        regions=_regions(things, sentences, scene, number, file_name),
        points=_points(scene, sentences, file_name),
    )


def _thing(scene: Scene, number: int, index: int) -> dict[str, Any]:
    thing = scene.objects[index]
    segmentation = [mask_to_rle(thing.mask)]
    return thing_annotation(thing, segmentation, image_id=number, annotation_id=10 * number + index)


def _refs(scene: Scene, number: int, style: Any) -> list[dict[str, Any]]:
    refs = []
    for index, thing in enumerate(scene.objects):
        texts = [item.text for item in referring_expressions(scene, thing.id, style, limit=SENTENCES)]
        if not texts:
            continue
        sentences = [
            {"tokens": text.split(), "raw": text, "sent_id": 100 * number + 10 * index + place, "sent": text}
            for place, text in enumerate(texts)
        ]
        refs.append(
            ref_entry(
                thing,
                sentences,
                file_name=f"{number:012d}_{index}.jpg",
                ref_id=10 * number + index,
                annotation_id=10 * number + index,
                image_id=number,
                split="train",
            )
        )
    return refs


def _grounded(scene: Scene, caption: GroundedCaption, file_name: str) -> dict[str, Any]:
    """An entry of GranD-f. Its phrases are keys; of one that is said twice, the first place counts."""
    groundings: dict[str, dict[str, Any]] = {}
    for phrase in caption.phrases:
        mask_rle = mask_to_rle(scene.mask_of(phrase.segment_ids))
        groundings.setdefault(phrase.text, {"token_positives": [phrase.start, phrase.end], "rle_masks": [mask_rle]})
    return {"file_name": file_name, "caption": caption.text, "groundings": groundings}


def _conversation(file_name: str, turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    conversations = []
    for place, (question, answer) in enumerate(turns):
        value = f"<image>\n{question}" if place == 0 else question
        conversations += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    return {"id": file_name.removesuffix(".jpg"), "image": file_name, "conversations": conversations}


def _regions(
    things: list[dict[str, Any]], sentences: dict[int, str], scene: Scene, number: int, file_name: str
) -> dict[str, Any] | None:
    """An entry of Osprey's detailed descriptions."""
    told = sorted(sentences)
    if not told:
        return None
    return {
        "id": number,
        "file_name": file_name,
        "height": scene.height,
        "width": scene.width,
        "annotation": [
            {"bbox": things[index]["bbox"], "segmentation": things[index]["segmentation"][0]} for index in told
        ],
        "description": [_sentence(sentences[index]) for index in told],
    }


def _points(scene: Scene, sentences: dict[int, str], file_name: str) -> list[dict[str, Any]]:
    """An entry of MDVP's brief captions for one of the things: a point somewhere on it."""
    if not sentences:
        return []
    draws = Draws(POINT_KEY, scene.seed, scene.frame)
    index = draws.pick(sorted(sentences))
    rows, columns = scene.objects[index].mask.nonzero()
    place = draws.below(len(rows))
    question = {"from": "human", "value": "Please describe <Mark 1> in the image."}
    answer = {"from": "gpt", "value": _sentence(sentences[index])}
    point_xy = [int(columns[place]), int(rows[place])]
    return [{"image": file_name, "points": [point_xy], "conversations": [question, answer]}]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _write_annotations(folder: Path, scenes: Sequence[_Entries]) -> None:
    info = demo_info(TRAINING_SEEDS.start)
    images = [scene.image for scene in scenes]
    things = [thing for scene in scenes for thing in scene.things]
    categories = [{"supercategory": "thing", "id": n, "name": name} for n, name in enumerate(SHAPES, start=1)]
    instances = {"info": info, "images": images, "annotations": things, "categories": categories}
    for style, name in REFER_FOLDERS.items():
        write_json(folder / name / "instances.json", instances)
        write_pickle(folder / name / REFS_FILES[style], [ref for scene in scenes for ref in scene.refs[style]])
    write_json(folder / "grandf" / "GranDf_HA_GCG_train.json", [scene.grounded for scene in scenes])
    write_json(folder / "llava" / "captions.json", [scene.caption for scene in scenes])
    write_json(folder / "llava" / "short_answers.json", [scene.short_answers for scene in scenes])
    write_json(folder / "osprey" / "osprey_detailed.json", [scene.regions for scene in scenes if scene.regions])
    write_json(folder / "mdvp" / "points.json", [entry for scene in scenes for entry in scene.points])
    annotations = [scene.panoptic for scene in scenes]
    content = {"info": info, "images": images, "annotations": annotations, "categories": panoptic.CATEGORIES}
    write_json(folder / _MARK_FILE, content)
