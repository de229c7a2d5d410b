"""Panoptic annotations as perception training uses them: pictures, pseudo clips, prompts (COCO's panoptic format)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from omg_llava.config import ImageConfig
from omg_llava.preprocessing import CornerFrame, SquareFrame, corner_pixels, rgb, square_pixels
from omg_llava.visual_prompts import PromptKind
from omgbench.data.panoptic import PanopticFile, PanopticImage, read_panoptic, read_segment_ids
from omgbench.errors import DataError

Framing = Literal["square", "corner", "clip"]
_TARGET_SHRINK = 2
_CLIP_SHIFT = 0.15
_PROMPT_KINDS: tuple[PromptKind, ...] = ("point", "box", "mask")
_PROMPT_SHARES = (0.4, 0.4, 0.2)


@dataclass(frozen=True, slots=True)
class PanopticSample:
    """One picture, or a pseudo clip made of one, in the network's frame.

    Attributes:
        pixels: (T, 3, H, W).
        masks: (n, T * H / 2, W / 2) float, shares of each cell; frames below each other.
        classes: (n,) places among the categories.
        prompt_kind: of all prompts on this picture.
        prompts: values as `PromptSet` takes them.
        prompted: (P,) the segment each prompt points at.
        place_hw: as `PromptSet` takes it.
    """

    pixels: torch.Tensor
    masks: torch.Tensor
    classes: torch.Tensor
    prompt_kind: PromptKind
    prompts: torch.Tensor
    prompted: torch.Tensor
    place_hw: tuple[int, int] | None = None


def padded(sample: PanopticSample, height: int, width: int) -> PanopticSample:
    """The sample with zeros to the right and below, up to a batch's size."""
    below, right = height - sample.pixels.shape[-2], width - sample.pixels.shape[-1]
    if not below and not right:
        return sample
    padding = (0, right, 0, below)
    by_frame = sample.masks.unflatten(1, (len(sample.pixels), -1))
    masks = F.pad(by_frame, tuple(value // _TARGET_SHRINK for value in padding)).flatten(1, 2)
    prompts = F.pad(sample.prompts, padding) if sample.prompt_kind == "mask" else sample.prompts
    return dataclasses.replace(sample, pixels=F.pad(sample.pixels, padding), masks=masks, prompts=prompts)


class PanopticData:
    """Annotated pictures of a panoptic file.

    Args:
        annotations, segments, images: the JSON file, the folder of PNGs, the folder of pictures.
    """

    def __init__(self, annotations: Path, segments: Path, images: Path, config: ImageConfig) -> None:
        self.file: PanopticFile = read_panoptic(annotations)
        self.segments, self.images, self.config = segments, images, config
        self._places = {category_id: place for place, category_id in enumerate(self.file.categories)}

    @classmethod
    def from_files(cls, files: Mapping[str, Path], config: ImageConfig) -> PanopticData:
        return cls(files["annotations"], files["segments"], files["images"], config)

    @property
    def class_names(self) -> list[str]:
        """Names of the categories, in the order that samples number them by."""
        return [category.name for category in self.file.categories.values()]

    def __len__(self) -> int:
        return len(self.file.images)

    @property
    def paths(self) -> list[Path]:
        """Files of all pictures."""
        return [self.path(index) for index in range(len(self))]

    def path(self, index: int) -> Path:
        """The picture's file."""
        return self.images / self.file.images[index].image.file_name

    def annotated(self, index: int) -> tuple[Image.Image, NDArray[np.bool_], torch.Tensor]:
        """The picture, its segments' masks (n, height, width) and classes (n,); crowds are left out."""
        return self._picture(index), *self._masks(self.file.images[index])

    def sample(self, index: int, framing: Framing, n_prompts: int, random: np.random.RandomState) -> PanopticSample:
        """A picture in a framing, mirrored in half the draws, with prompts on drawn segments."""
        image, masks, classes = self.annotated(index)
        if random.rand() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            masks = masks[:, :, ::-1]
        pixels, placed, place_hw = _framed(image, torch.from_numpy(np.ascontiguousarray(masks)), framing, self.config)
        if framing == "clip":
            pixels, placed = _pseudo_clip(pixels, placed, random)
        kept = placed.flatten(1).any(dim=1)
        placed, classes = placed[kept], classes[kept]
        kind, prompts, prompted = _prompts(placed, n_prompts, random)
        targets = F.avg_pool2d(placed[:, None], _TARGET_SHRINK)[:, 0]
        return PanopticSample(pixels, targets, classes, kind, prompts, prompted, place_hw)

    def _picture(self, index: int) -> Image.Image:
        record, path = self.file.images[index].image, self.path(index)
        try:
            with Image.open(path) as opened:
                image = rgb(opened)
        # Decoders meet damage with exceptions of every kind.
        except Exception as error:
            raise DataError(f"the picture cannot be read: {error}", where=str(path)) from None
        if image.size != (record.width, record.height):
            raise DataError(
                f"the picture has {image.width} x {image.height} pixels",
                expected=f"{record.width} x {record.height}",
                where=str(path),
            )
        return image

    def _masks(self, annotated: PanopticImage) -> tuple[NDArray[np.bool_], torch.Tensor]:
        record = annotated.image
        ids = read_segment_ids(self.segments / annotated.png_name, record.height, record.width)
        segments = [segment for segment in annotated.segments if not segment.iscrowd]
        wanted = np.array([segment.id for segment in segments], dtype=np.int32)
        classes = torch.tensor([self._places[segment.category_id] for segment in segments], dtype=torch.long)
        return ids == wanted[:, None, None], classes


def _framed(
    image: Image.Image, masks: torch.Tensor, framing: Framing, config: ImageConfig
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int] | None]:
    """Pixels (1, 3, H, W), masks (n, H, W), and what a prompt's place is divided by, None for (H, W)."""
    frame: SquareFrame | CornerFrame
    if framing == "square":
        pixels, frame = square_pixels(image, config)
        return pixels[None], frame.masks(masks), None
    pixels, frame = corner_pixels(image, *(config.clip_px if framing == "clip" else config.universal_px))
    return pixels[None], frame.masks(masks), frame.resized_hw


def _pseudo_clip(
    pixels: torch.Tensor, masks: torch.Tensor, random: np.random.RandomState
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames: the picture, and the picture shifted; masks one below the other."""
    dy, dx = (
        int(share * side)
        for share, side in zip(random.uniform(-_CLIP_SHIFT, _CLIP_SHIFT, 2), pixels.shape[-2:], strict=True)
    )
    frames = torch.cat((pixels, _shifted(pixels, dy, dx)))
    return frames, torch.cat((masks, _shifted(masks, dy, dx)), dim=-2)


def _shifted(maps: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)))
    top, left = max(-dy, 0), max(-dx, 0)
    return padded[..., top : top + height, left : left + width]


def _prompts(
    masks: torch.Tensor, n_prompts: int, random: np.random.RandomState
) -> tuple[PromptKind, torch.Tensor, torch.Tensor]:
    kind = _PROMPT_KINDS[random.choice(3, p=_PROMPT_SHARES)]
    chosen = torch.from_numpy(random.randint(0, max(len(masks), 1), size=n_prompts if len(masks) else 0))
    if kind == "mask":
        return kind, masks[chosen], chosen
    values = []
    for mask in masks[chosen]:
        rows, columns = mask.nonzero().unbind(1)
        if kind == "point":
            place = random.randint(len(rows))
            values.append(torch.stack((columns[place], rows[place])).float())
        else:
            corners = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
            values.append(corners)
    width = 2 if kind == "point" else 4
    return kind, torch.stack(values) if values else torch.zeros(0, width), chosen
