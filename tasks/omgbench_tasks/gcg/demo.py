"""Demo data in the layout of grounded conversation generation on GranD-f."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omgbench.data.scenes.build import make_scene
from omgbench.data.scenes.caption import describe
from omgbench.data.scenes.coco import instance_fields, mask_to_rle
from omgbench.data.scenes.files import demo_info, refuse_real_data, write_jpeg, write_json
from omgbench.data.scenes.seeds import SCENES_PER_STREAM, evaluation_seeds
from omgbench.data.scenes.world import Scene
from omgbench.errors import UserError

ANNOTATION_FOLDER = "GranDf/annotations/val_test"
IMAGE_FOLDER = "GranDf_HA_images/val_test"
STREAMS = {"val": 30, "test": 31}
FIRST_IMAGE_NUMBER = 90_000_000


def write_gcg_demo(data_root: Path, seed: int, n_images_per_split: int = 20) -> tuple[Path, ...]:
    """Write the demo world as GranD-f's val and test splits, in the folders that GLaMM's data guide names.

        GranDf/annotations/val_test/{val,test}_gcg_coco_{mask,caption}_gt.json
        GranDf_HA_images/val_test/sa_90030000.jpg ...       one image folder for both splits

    Image ids are strings and the stem of the file name. `labels[i]` of an image is the phrase of its i-th mask; a
    phrase for several things has their union as its mask. Annotation ids start at 1, as COCO's evaluation needs.
    Annotation files have the same bytes on every machine; JPEG bytes depend on the JPEG library.

    Args:
        data_root: the folder; made if absent.
        seed: 0 .. 99; another seed, other scenes.
        n_images_per_split: 1 .. 1000.

    Returns:
        The files written, annotation files last, so that they stand for a complete set of images.

    Raises:
        UserError: a number out of range, or real annotations where the demo data would go.
    """
    if not 1 <= n_images_per_split <= SCENES_PER_STREAM:
        raise UserError(f"{n_images_per_split} images per split", expected=f"1 to {SCENES_PER_STREAM}")
    folder = data_root / ANNOTATION_FOLDER
    paths = {(split, kind): folder / f"{split}_gcg_coco_{kind}_gt.json" for split in STREAMS for kind in KINDS}
    for path in paths.values():
        refuse_real_data(path)
    scenes = {
        split: [make_scene(number) for number in evaluation_seeds(seed, stream)[:n_images_per_split]]
        for split, stream in STREAMS.items()
    }
    written = [
        write_jpeg(data_root / IMAGE_FOLDER / f"{_image_id(scene)}.jpg", scene)
        for split_scenes in scenes.values()
        for scene in split_scenes
    ]
    for (split, kind), path in paths.items():
        written.append(write_json(path, {"info": demo_info(seed), **KINDS[kind](scenes[split])}))
    return tuple(written)


def _image_id(scene: Scene) -> str:
    return f"sa_{FIRST_IMAGE_NUMBER + scene.seed}"


def _images(scenes: list[Scene]) -> list[dict[str, Any]]:
    return [
        {"id": _image_id(s), "file_name": f"{_image_id(s)}.jpg", "height": s.height, "width": s.width} for s in scenes
    ]


def _mask_file(scenes: list[Scene]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for scene in scenes:
        for phrase in describe(scene).phrases:
            mask = scene.mask_of(phrase.segment_ids)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": _image_id(scene),
                    "category_id": 1,
                    "segmentation": mask_to_rle(mask),
                    **instance_fields(mask),
                }
            )
    return {
        "images": _images(scenes),
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
    }


def _caption_file(scenes: list[Scene]) -> dict[str, Any]:
    annotations = []
    for number, scene in enumerate(scenes, start=1):
        caption = describe(scene)
        labels = [phrase.text for phrase in caption.phrases]
        annotations.append({"id": number, "image_id": _image_id(scene), "caption": caption.text, "labels": labels})
    return {"images": _images(scenes), "annotations": annotations}


KINDS = {"mask": _mask_file, "caption": _caption_file}
