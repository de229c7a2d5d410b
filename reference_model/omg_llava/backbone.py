"""OpenCLIP's ConvNeXt as a feature pyramid, and CLIP's head on pooled features (official openclip_backbone.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import ConvNextConfig, ConvNextModel

from omg_llava.config import BackboneConfig

_EPSILON = 1e-6


class Backbone(nn.Module):
    """Four raw stage outputs; no norm follows a stage, unlike transformers' `ConvNextBackbone`."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        trunk = ConvNextModel(
            ConvNextConfig(
                depths=list(config.depths),
                hidden_sizes=list(config.widths),
                layer_norm_eps=_EPSILON,
                drop_path_rate=0.0,
            )
        )
        self.embeddings = trunk.embeddings
        self.stages = trunk.encoder.stages

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W) normalised RGB to four maps (B, width_s, H / stride, W / stride), strides 4, 8, 16, 32."""
        features = []
        hidden = self.embeddings(pixels)
        for stage in self.stages:
            hidden = stage(hidden)
            features.append(hidden)
        return tuple(features)


class ClipHead(nn.Module):
    """CLIP's own projection of a pooled stride-32 feature, for the open-vocabulary ensemble."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        hidden = 2 * config.clip_dim
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, config.clip_dim, bias=False)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """(..., width) to (..., clip_dim), not normalised."""
        projected: torch.Tensor = self.fc2(F.gelu(self.fc1(self.norm(pooled))))
        return projected
