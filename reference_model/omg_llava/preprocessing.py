"""Pictures, points, boxes and masks into the network's frame, and masks back out of it.

Two frames exist. OMG-LLaVA centres a picture on a square (`SquareFrame`). OMG-Seg resizes it to a short side and pads
at the right and bottom (`CornerFrame`); universal segmentation uses that one. Both feed the same weights, each with
statistics of its own, and both are kept (official dataset/utils/utils.py; seg/configs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from omg_llava.config import ImageConfig
from omg_llava.errors import ModelError
from omg_llava.resize import resize_like_opencv

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
SIZE_DIVISOR = 32
MOST_EDGE_PX = 16384
"""A square of this edge takes 0.75 GiB as a picture and 1 GiB as a mask's logits."""


def rgb(image: Image.Image) -> Image.Image:
    """`image` as 8-bit RGB. 16-bit grey is scaled to 8 bits; an alpha channel is dropped, as the official code does."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((values / 257.0).round().clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class SquareFrame:
    """How a picture lies in OMG-LLaVA's square: centred, one pixel less in front where the padding is odd.

    Attributes:
        width, height: of the original picture.
        side: edge of the network's input.
    """

    width: int
    height: int
    side: int

    @property
    def edge(self) -> int:
        """Edge of the padded square in original pixels."""
        return max(self.width, self.height)

    @property
    def left(self) -> int:
        return (self.edge - self.width) // 2

    @property
    def top(self) -> int:
        return (self.edge - self.height) // 2

    def pad(self, image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
        """The picture on a square of the mean colour, `int(255 * mean)` per channel."""
        if image.width == image.height:
            return image
        square = Image.new("RGB", (self.edge, self.edge), tuple(int(value * 255) for value in mean))
        square.paste(image, (self.left, self.top))
        return square

    def points_xy(self, points: torch.Tensor) -> torch.Tensor:
        """Original pixels (N, 2) to the network's (N, 2), float32. Serves box corners too, both of them."""
        offset = torch.tensor([self.left, self.top], dtype=torch.float32)
        return (points.float() + offset) / self.edge * self.side

    def boxes_xyxy(self, boxes: torch.Tensor) -> torch.Tensor:
        """Original pixels (N, 4) to the network's (N, 4). The official demo shifts the first corner only (a bug)."""
        return self.points_xy(boxes.reshape(-1, 2)).reshape(-1, 4)

    def pad_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """(N, height, width) zero-padded to (N, edge, edge)."""
        right, bottom = self.edge - self.width - self.left, self.edge - self.height - self.top
        return F.pad(masks, (self.left, right, self.top, bottom))

    def masks(self, masks: torch.Tensor) -> torch.Tensor:
        """Boolean masks (N, height, width) in original pixels to float32 0/1 (N, side, side), nearest."""
        padded = self.pad_masks(masks.to(torch.uint8))
        return F.interpolate(padded[:, None], (self.side, self.side), mode="nearest")[:, 0].float()

    def to_original(self, mask_logits: torch.Tensor) -> torch.Tensor:
        """Mask logits (h, w) at any resolution to boolean (height, width): bilinear to the padded square, padding cut
        off, probability above one half. One mask at a time, as a large photograph's square is large.
        """
        square = F.interpolate(mask_logits[None, None], (self.edge, self.edge), mode="bilinear", align_corners=False)
        inside = square[0, 0, self.top : self.top + self.height, self.left : self.left + self.width]
        return inside.sigmoid() > 0.5


def square_pixels(image: Image.Image, config: ImageConfig) -> tuple[torch.Tensor, SquareFrame]:
    """A picture as OMG-LLaVA's network sees it: (3, side, side) float32, and how it lies there.

    PIL's bicubic on 8-bit pixels with its own antialiasing, as `CLIPImageProcessor` does on squares; then scaled to
    0..1, the mean taken off, divided by the deviation.
    """
    if max(image.size) > MOST_EDGE_PX:
        raise ModelError(
            f"the picture has {image.width} x {image.height} pixels, and is padded to a square",
            expected=f"at most {MOST_EDGE_PX} on the longer side",
            hint="cut or shrink it",
        )
    image = rgb(image)
    frame = SquareFrame(image.width, image.height, config.side)
    square = frame.pad(image, config.mean).resize((config.side, config.side), Image.Resampling.BICUBIC)
    return _normalised(np.asarray(square), config.mean, config.std, 255.0), frame


@dataclass(frozen=True, slots=True)
class CornerFrame:
    """How a picture lies in OMG-Seg's input: resized, in the top left corner, zeros to the right and below.

    Attributes:
        width, height: of the original picture.
        resized_hw: after resizing.
        padded_hw: after padding to multiples of 32.
    """

    width: int
    height: int
    resized_hw: tuple[int, int]
    padded_hw: tuple[int, int]

    def points_xy(self, points: torch.Tensor) -> torch.Tensor:
        """Original pixels (N, 2) to the network's (N, 2), float32."""
        scale = torch.tensor([self.resized_hw[1] / self.width, self.resized_hw[0] / self.height])
        return points.float() * scale

    def boxes_xyxy(self, boxes: torch.Tensor) -> torch.Tensor:
        """Original pixels (N, 4) to the network's (N, 4), float32."""
        return self.points_xy(boxes.reshape(-1, 2)).reshape(-1, 4)

    def masks(self, masks: torch.Tensor) -> torch.Tensor:
        """Boolean masks (N, height, width) to float32 0/1 (N, padded height, padded width), nearest."""
        resized = F.interpolate(masks[:, None].to(torch.uint8), self.resized_hw, mode="nearest")[:, 0].float()
        right, bottom = self.padded_hw[1] - self.resized_hw[1], self.padded_hw[0] - self.resized_hw[0]
        return F.pad(resized, (0, right, 0, bottom))

    def to_size(self, mask_logits: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
        """Mask logits (N, h, w) at stride 4 to (N, *size_hw): up to the padded input, padding cut off, bilinear."""
        full = F.interpolate(mask_logits[:, None], self.padded_hw, mode="bilinear", align_corners=False)
        inside = full[..., : self.resized_hw[0], : self.resized_hw[1]]
        return F.interpolate(inside, size_hw, mode="bilinear", align_corners=False)[:, 0]


def scaled_size(width: int, height: int, long_side: int, short_side: int) -> tuple[int, int]:
    """(height, width) after resizing with the aspect kept, at most `long_side` and `short_side` (mmcv's rule:
    int(size * scale + 0.5)), at least one pixel.
    """
    scale = min(long_side / max(width, height), short_side / min(width, height))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def corner_pixels(image: Image.Image, long_side: int, short_side: int) -> tuple[torch.Tensor, CornerFrame]:
    """A picture as OMG-Seg's network sees it: (3, h, w) float32 with ImageNet statistics, h and w multiples of 32.

    The resize is OpenCV's bilinear on 8-bit pixels, which does not smooth before shrinking.
    """
    image = rgb(image)
    height, width = scaled_size(image.width, image.height, long_side, short_side)
    padded = tuple(-(-value // SIZE_DIVISOR) * SIZE_DIVISOR for value in (height, width))
    frame = CornerFrame(image.width, image.height, (height, width), (padded[0], padded[1]))
    resized = resize_like_opencv(np.asarray(image), (height, width))
    pixels = _normalised(resized, IMAGENET_MEAN, IMAGENET_STD, 1.0)
    return F.pad(pixels, (0, padded[1] - width, 0, padded[0] - height)), frame


def _normalised(
    pixels: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...], scale: float
) -> torch.Tensor:
    values = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)) / scale
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
