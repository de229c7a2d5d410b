"""A panoptic data set of a few small pictures whose colours say which segment a pixel belongs to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from omg_llava.config import ImageConfig
from omg_llava.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from omg_llava.training.data.panoptic import Framing, PanopticData, PanopticSample

from ..lively import small_config

SIDE = 128
SIZES_WH = ((64, 48), (48, 64), (64, 64), (50, 40))
"""All but the last become twice as large, so that edges stay edges."""
CONFIG = dataclasses.replace(small_config().image, side=SIDE, universal_px=(SIDE, SIDE), clip_px=(SIDE, SIDE))
CATEGORIES = {5: "circle", 3: "square", 80: "ground"}
"""Not in the order of their ids: samples number classes by their place in the file."""

NOTHING, CROWD = 0, 400
SEGMENTS = {70000: 5, 1: 3, 300: 80, 65535: 3}
"""Category of each segment by its id in the PNG."""

COLOURS = {
    NOTHING: (0, 0, 0),
    70000: (255, 0, 0),
    1: (0, 255, 0),
    300: (0, 0, 255),
    65535: (255, 255, 255),
    CROWD: (255, 255, 0),
}
PADDING = {"square": (122, 116, 104), "corner": IMAGENET_MEAN, "clip": IMAGENET_MEAN}
"""Greys, the means that framings fill with."""


def segment_map(width: int, height: int) -> np.ndarray:
    """Ids (height, width): unlike when mirrored or turned, segments that touch, one in two parts."""
    ids = np.full((height, width), NOTHING)
    ids[height // 2 :] = 300
    ids[4 : height // 2 + 6, 3 : width // 3] = 70000
    ids[9 : height - 14, width // 2 : width - 12] = 1
    ids[height - 12 :, : width // 2] = 65535
    ids[:9, width - 10 :] = 65535
    ids[height - 10 : height - 2, width - 20 : width - 3] = CROWD
    return ids


def write(folder: Path, sizes_wh: tuple[tuple[int, int], ...] = SIZES_WH) -> dict[str, Path]:
    """The files by role."""
    files = {"annotations": folder / "panoptic.json", "segments": folder / "segments", "images": folder / "images"}
    for role in ("segments", "images"):
        files[role].mkdir(parents=True)
    for number, (width, height) in enumerate(sizes_wh):
        ids = segment_map(width, height)
        channels = np.stack((ids % 256, ids // 256 % 256, ids // 65536), axis=-1).astype(np.uint8)
        Image.fromarray(channels).save(files["segments"] / f"{number}.png")
        colours = np.array([[COLOURS[int(each)] for each in row] for row in ids], dtype=np.uint8)
        Image.fromarray(colours).save(files["images"] / f"{number}_picture.png")
    files["annotations"].write_text(json.dumps(document(sizes_wh)), encoding="utf-8")
    return files


def document(sizes_wh: tuple[tuple[int, int], ...]) -> dict[str, list[dict[str, object]]]:
    """The JSON file."""
    segments: list[dict[str, object]] = [{"id": each, "category_id": SEGMENTS[each]} for each in SEGMENTS]
    segments.append({"id": CROWD, "category_id": 5, "iscrowd": 1})
    return {
        "images": [
            {"id": number, "file_name": f"{number}_picture.png", "width": width, "height": height}
            for number, (width, height) in enumerate(sizes_wh)
        ],
        "annotations": [
            {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
            for number in range(len(sizes_wh))
        ],
        "categories": [{"id": each, "name": CATEGORIES[each], "isthing": int(each != 80)} for each in CATEGORIES],
    }


def drawn(data: PanopticData, index: int, framing: Framing, seed: int, n_prompts: int = 3) -> PanopticSample:
    """A sample of a generator of its own."""
    return data.sample(index, framing, n_prompts, np.random.RandomState(seed))


def is_mirrored(seed: int) -> bool:
    """The first draw of a sample decides."""
    return bool(np.random.RandomState(seed).rand() < 0.5)


def shown_segments(pixels: torch.Tensor, framing: Framing, config: ImageConfig = CONFIG) -> np.ndarray:
    """Ids (H, W) of the nearest colours of a frame (3, H, W)."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if framing != "square" else (config.mean, config.std)
    values = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    values = values * (255 if framing == "square" else 1)
    colours = values.flatten(1).T
    nearest = torch.cdist(colours, torch.tensor([*COLOURS.values()], dtype=torch.float32)).argmin(dim=1)
    is_padding = (colours - torch.tensor(PADDING[framing])).abs().amax(dim=1) < 30
    ids = np.where(is_padding.numpy(), NOTHING, np.array([*COLOURS])[nearest.numpy()])
    return ids.reshape(pixels.shape[1:])
