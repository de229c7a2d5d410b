"""A backbone that knows words, for models trained from nothing: what OpenCLIP's weights are to the published one.

Segments of whole pictures are told apart by the names of their classes: features pooled under each mask, through CLIP's
head at stride 32 and through maps of their own, which are thrown away, at strides 8 and 16, against word vectors;
scaled cosine and cross entropy. Whole pictures, since features of a thing that fills a crop are not those of the same
thing in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from omg_llava.model import OmgLlava
from omg_llava.training.data.panoptic import PanopticData, PanopticSample
from omg_llava.training.moving import Movable
from omg_llava.training.word_vectors import WordVectors

_SCALE = 20.0
"""Of the cosines; a name has few words in common with most others, so that little sharpness is wanted."""


@dataclass(frozen=True, slots=True)
class ClipBatch(Movable):
    """Pictures (B, 3, S, S); the masks (n_i, S / 2, S / 2) and names (n_i,) of each one's segments."""

    pixels: torch.Tensor
    masks: tuple[torch.Tensor, ...]
    names: tuple[torch.Tensor, ...]


class ClipSource:
    """Pictures with panoptic annotations in OMG-LLaVA's square."""

    def __init__(self, data: PanopticData, seed: int) -> None:
        self.data, self.seed = data, seed

    def __len__(self) -> int:
        return len(self.data)

    def draw(self, index: int, place: int) -> PanopticSample:
        """Picture `index` as the `place`-th of the run, mirrored or not."""
        return self.data.sample(index, "square", 0, np.random.RandomState([self.seed, 4, place]))

    @staticmethod
    def collate(samples: Sequence[PanopticSample]) -> ClipBatch:
        """Pictures as a batch."""
        pixels = torch.cat([sample.pixels for sample in samples])
        return ClipBatch(pixels, tuple(s.masks for s in samples), tuple(s.classes for s in samples))


class ClipObjective(nn.Module):
    """Cross entropy of the right name among all, at each stride."""

    prototypes: torch.Tensor

    def __init__(self, model: OmgLlava, vectors: WordVectors, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("prototypes", vectors.table(names)[:, 0], persistent=False)
        backbone = model.config.backbone
        self.heads = nn.ModuleList(nn.Linear(width, backbone.clip_dim) for width in backbone.widths[1:3])

    @staticmethod
    def counts(batch: ClipBatch) -> dict[str, float]:
        """What losses are averaged over."""
        return {"segments": float(sum(len(names) for names in batch.names))}

    def forward(self, batch: ClipBatch, counts: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Losses by name."""
        _, *maps = self.model.perception.backbone(batch.pixels)
        heads = (*self.heads, self.model.perception.clip_head)
        names = torch.cat(batch.names)
        losses = {}
        for stride, features, head in zip((8, 16, 32), maps, heads, strict=True):
            embedded = F.normalize(head(_pooled(features, batch.masks)), dim=-1)
            logits = _SCALE * embedded @ self.prototypes.T
            losses[f"names_{stride}"] = F.cross_entropy(logits, names, reduction="sum") / max(counts["segments"], 1.0)
        return losses


def _pooled(maps: torch.Tensor, masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Means (n, C) of maps (B, C, h, w) under masks (n_i, H, W) of each picture."""
    pooled = []
    for features, own in zip(maps, masks, strict=True):
        shares = F.interpolate(own[None], features.shape[-2:], mode="area")[0]
        weights = shares / shares.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        pooled.append(torch.einsum("nhw,chw->nc", weights, features))
    return torch.cat(pooled)
