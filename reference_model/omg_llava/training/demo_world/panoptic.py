"""The demo world in COCO's panoptic format; a category for every look of a thing, and for every ground."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import numpy as np

from omgbench.data.scenes.vocabulary import COLORS, PATTERNS, SHAPES, SIZES, STUFF
from omgbench.data.scenes.world import Scene, SceneObject


def look(thing: SceneObject) -> str:
    """ "small red circle", "large striped blue star": all that a thing's looks are."""
    return _look(thing.size, thing.pattern, thing.color, thing.shape)


def _look(size: str, pattern: str, color: str, shape: str) -> str:
    return " ".join(word for word in (size, "" if pattern == "plain" else pattern, color, shape) if word)


LOOKS = tuple(_look(*words) for words in product(SIZES, PATTERNS, COLORS, SHAPES))
CATEGORIES = [{"id": n, "name": name, "isthing": 1} for n, name in enumerate(LOOKS, start=1)]
CATEGORIES += [{"id": n, "name": name, "isthing": 0} for n, name in enumerate(STUFF, start=len(LOOKS) + 1)]
_IDS = {str(category["name"]): category["id"] for category in CATEGORIES}


def annotation(scene: Scene, image_id: int, png_name: str) -> dict[str, Any]:
    """The entry of `annotations`; segment ids are those of the scene."""
    names = {thing.id: look(thing) for thing in scene.objects} | {region.id: region.name for region in scene.stuff}
    present = {int(number) for number in np.unique(scene.segment_map)}
    segments = [
        {"id": number, "category_id": _IDS[name], "iscrowd": 0} for number, name in names.items() if number in present
    ]
    return {"image_id": image_id, "file_name": png_name, "segments_info": segments}


def png_bytes(scene: Scene) -> bytes:
    """The PNG of segment ids, R + 256 G + 65536 B."""
    from PIL import Image

    channels = np.zeros((*scene.segment_map.shape, 3), dtype=np.uint8)
    channels[..., 0] = scene.segment_map
    buffer = io.BytesIO()
    Image.fromarray(channels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
