"""Points, boxes and masks that a user draws, as queries of the decoder (official mask2former_vid_semanticsam.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from omg_llava.config import SegmenterConfig
from omg_llava.decoder import AttentionRule, outside_predicted_mask
from omg_llava.positions import box_code

PromptKind = Literal["point", "box", "mask"]
_HALF_BOX = 3.0
_BLOCKED_LOGIT = -100.0


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of one kind on one picture, in the network's frame.

    Attributes:
        kind: what they are.
        values: points (N, 2) as (x, y); boxes (N, 4) as xyxy; masks (N, H, W), 1 inside.
        input_hw: (H, W) of the network's input.
        place_hw: (H, W) that a query's place is divided by; None = `input_hw`.
    """

    kind: PromptKind
    values: torch.Tensor
    input_hw: tuple[int, int]
    place_hw: tuple[int, int] | None = None

    def points_xy(self) -> torch.Tensor:
        """(N, 2): the point itself, the box's centre, the mask's centre."""
        if self.kind == "point":
            return self.values
        if self.kind == "box":
            return (self.values[:, :2] + self.values[:, 2:]) / 2
        return mask_centres_xy(self.values)

    def rule(self) -> AttentionRule:
        """Where the decoder may not look."""
        if self.kind == "point":
            return outside_predicted_mask
        return self._outside_box if self.kind == "box" else self._outside_region

    def _outside_box(self, mask_logits: torch.Tensor) -> torch.Tensor:
        """Outside the predicted mask or outside the box. The size of a box enters here only, not into its query."""
        height, width = mask_logits.shape[-2:]
        grid = torch.tensor([width, height] * 2, device=mask_logits.device)
        unit = torch.tensor([self.input_hw[1], self.input_hw[0]] * 2, device=mask_logits.device)
        cells = (self.values / unit).clamp(0, 1) * grid
        cells[:, 2:] += 1
        x1, y1, x2, y2 = cells.floor()[..., None].unbind(1)
        columns = torch.arange(width, device=mask_logits.device)
        rows = torch.arange(height, device=mask_logits.device)
        inside = ((rows >= y1) & (rows < y2))[:, :, None] & ((columns >= x1) & (columns < x2))[:, None, :]
        return outside_predicted_mask(mask_logits.masked_fill(~inside[None, :, None], _BLOCKED_LOGIT))

    def _outside_region(self, mask_logits: torch.Tensor) -> torch.Tensor:
        """Outside the region itself; what is predicted does not matter."""
        regions = F.interpolate(self.values[:, None].float(), mask_logits.shape[-2:], mode="nearest")
        return (regions == 0)[None].expand_as(mask_logits)


class PromptEncoder(nn.Module):
    """A prompt becomes a query: one learned content for all, the place as position."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.type_embed = nn.Embedding(2, config.width)
        self.mask_token = nn.Embedding(1, config.width)
        self.place_proj = nn.Linear(2 * config.width, config.width)

    def forward(self, prompts: PromptSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and positions, (1, N, C) each. Row 1 of `type_embed` is never used (official)."""
        places = place_boxes(prompts.points_xy(), prompts.place_hw or prompts.input_hw)
        positions = self.place_proj(box_code(places, self.type_embed.embedding_dim))
        content = self.type_embed.weight[0] + self.mask_token.weight[0]
        return content.expand_as(positions)[None], positions[None]


def place_boxes(points_xy: torch.Tensor, input_hw: tuple[int, int]) -> torch.Tensor:
    """A box of 6 x 6 pixels around each point, (N, 4) as (cx, cy, w, h) in 0..1, kept off the border by 1e-5."""
    height, width = input_hw
    corners = torch.cat((points_xy - _HALF_BOX, points_xy + _HALF_BOX), dim=1)
    x1, y1, x2, y2 = (corners / torch.tensor([width, height, width, height], device=corners.device)).unbind(1)
    boxes = torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=1)
    # An inverse sigmoid that clamps, and a sigmoid: the identity but near 0 and 1.
    boxes = boxes.clamp(0, 1)
    logits = torch.log(boxes.clamp(min=1e-5) / (1 - boxes).clamp(min=1e-5))
    return logits.sigmoid()


def mask_centres_xy(masks: torch.Tensor) -> torch.Tensor:
    """Centre (x, y) of each mask of (N, H, W), float32 (N, 2); (0, 0) for an empty one.

    The place that an approximate distance transform reaches last, first in row-major order: waves of a 3 x 3
    convolution with weights exp(-distance / 0.35) start at the background and at a border of one pixel. It is neither
    the Euclidean nor the chessboard centre, and checkpoints were trained with it.
    """
    # Each wave asks whether it was the last: not a question for an accelerator.
    centres = [_mask_centre_xy(mask) for mask in masks.bool().cpu()]
    return torch.stack(centres).to(masks.device) if centres else torch.zeros(0, 2, device=masks.device)


def _mask_centre_xy(mask: torch.Tensor) -> torch.Tensor:
    """One mask (H, W) bool. Works on the mask's tight box: background outside it is a source as any other."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return torch.zeros(2, device=mask.device)
    top, left = int(rows[0]), int(columns[0])
    crop = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    distance = _wave_distance(~F.pad(crop, (1, 1, 1, 1)))[1:-1, 1:-1]
    index = int(distance.flatten().argmax())
    y, x = divmod(index, crop.shape[1])
    return torch.tensor([left + x, top + y], dtype=torch.float32, device=mask.device)


def _wave_distance(sources: torch.Tensor) -> torch.Tensor:
    """Approximate distance (H, W) to the nearest source (kornia 0.7's `distance_transform`, kernel 3, h 0.35)."""
    steps = torch.tensor([2**0.5, 1.0, 2**0.5, 1.0, 0.0, 1.0, 2**0.5, 1.0, 2**0.5], device=sources.device)
    kernel = torch.exp(-steps / 0.35).view(1, 1, 3, 3)
    reached = sources.float()[None, None]
    distance = torch.zeros_like(reached)
    for wave in range(max(sources.shape)):
        spread = F.conv2d(F.pad(reached, (1, 1, 1, 1), mode="replicate"), kernel)
        cost = -0.35 * torch.log(spread)
        cost = torch.where(torch.isinf(cost), torch.zeros_like(cost), cost)
        fresh = cost > 0
        if not fresh.any():
            break
        distance = distance + (3 * wave // 2 + cost) * fresh
        reached = torch.where(fresh, torch.ones_like(reached), reached)
    return distance[0, 0]
