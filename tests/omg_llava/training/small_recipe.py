"""A recipe of four stages of a few steps each, for a model of a few thousand weights, on a few demo scenes."""

from __future__ import annotations

import copy
from typing import Any

from omg_llava.training.recipe import Recipe, parse_recipe

N_SCENES = 6
BASE_VOCABULARY = 320
STAGES = ("perception", "text", "stage1", "stage2")
N_STEPS = {"perception": 2, "text": 3, "stage1": 2, "stage2": 3}
IMAGES = "demo_world/images"

_PANOPTIC = {"annotations": "demo_world/annotations/panoptic.json", "segments": "demo_world/panoptic", "images": IMAGES}
_CAPTIONS = {"family": "llava", "files": {"conversations": "demo_world/llava/captions.json", "images": IMAGES}}
_ANSWERS = {"family": "llava", "files": {"conversations": "demo_world/llava/short_answers.json", "images": IMAGES}}
_REFER = {"family": "refer", "files": {"refer": "demo_world/refcoco", "images": IMAGES}, "options": {"n_sentences": 2}}
_POINTS = {"family": "mdvp", "files": {"annotations": "demo_world/mdvp/points.json", "images": IMAGES}}
_REGIONS = {
    "family": "osprey_detailed",
    "files": {"annotations": "demo_world/osprey/osprey_detailed.json", "images": IMAGES},
}
CHANGES: dict[str, Any] = {
    "image": {"side": 128, "universal_px": [128, 128], "clip_px": [128, 128]},
    "backbone": {"depths": [1, 1, 1, 1], "widths": [16, 16, 32, 32]},
    "segmenter": {
        "width": 32,
        "n_heads": 4,
        "pixel_decoder_layers": 1,
        "pixel_decoder_ffn": 32,
        "decoder_layers": 2,
        "decoder_ffn": 32,
        "n_queries": 10,
    },
    "language": {
        "base_vocab": BASE_VOCABULARY,
        "transformers": {
            "vocab_size": BASE_VOCABULARY + 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
    },
}


def _stage(name: str, objective: str, trains: list[str], data: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "objective": objective,
        "trains": trains,
        "data": data,
        "steps": N_STEPS[name],
        "micro_batch": 2,
        "learning_rate": 1e-3,
        "warmup": 0.0,
        **more,
    }


CONTENT: dict[str, Any] = {
    "name": "small",
    "config": "omg_llava_tiny",
    "changes": CHANGES,
    "seed": 5,
    "demo_scenes": N_SCENES,
    "stages": [
        _stage(
            "perception",
            "perception",
            ["perception"],
            [{"family": "panoptic", "files": _PANOPTIC}],
            options={"n_points": 64, "n_prompts": 2},
        ),
        _stage("text", "text", ["language"], [_REFER, _CAPTIONS], averaging="step", batch=4),
        _stage("stage1", "alignment", ["projectors"], [_CAPTIONS]),
        _stage(
            "stage2",
            "instruction",
            ["language", "projectors", "own_seg_decoder"],
            [{**_REFER, "times": 2}, _ANSWERS, _POINTS, _REGIONS],
            options={"n_points": 64},
        ),
    ],
}


def small_content(*stages: str, **changes: Any) -> dict[str, Any]:
    """The recipe's JSON: some of the stages (all, where none is named), other entries replaced."""
    content = copy.deepcopy(CONTENT)
    content["stages"] = [stage for stage in content["stages"] if stage["name"] in (stages or STAGES)]
    return content | changes


def small_recipe(*stages: str, **changes: Any) -> Recipe:
    """The recipe of `small_content`."""
    return parse_recipe(small_content(*stages, **changes))
