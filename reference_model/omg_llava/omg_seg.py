"""OMG-Seg, the perception part: one frozen network that finds objects, classes and masks, with or without prompts.

It computes in float32 whatever the language model does, as the official one does.
"""

from __future__ import annotations

import torch
from torch import nn

from omg_llava.backbone import Backbone, ClipHead
from omg_llava.config import BackboneConfig, SegmenterConfig
from omg_llava.decoder import ClassHead, Decoded, MaskDecoder
from omg_llava.features import VisualFeatures, clip_features
from omg_llava.pixel_decoder import PixelDecoder
from omg_llava.visual_prompts import PromptEncoder, PromptSet


class OmgSeg(nn.Module):
    """Backbone, pixel decoder, query decoder, heads, prompts."""

    def __init__(self, backbone: BackboneConfig, segmenter: SegmenterConfig) -> None:
        super().__init__()
        self.backbone = Backbone(backbone)
        self.clip_head = ClipHead(backbone)
        self.pixel_decoder = PixelDecoder(backbone, segmenter)
        self.level_embed = nn.Embedding(3, segmenter.width)
        self.query_feat = nn.Embedding(segmenter.n_queries, segmenter.width)
        self.query_embed = nn.Embedding(segmenter.n_queries, segmenter.width)
        self.decoder = MaskDecoder(segmenter)
        self.class_head = ClassHead(segmenter, backbone.clip_dim)
        self.prompt_encoder = PromptEncoder(segmenter)

    def features(self, pixels: torch.Tensor, n_frames: int = 1) -> VisualFeatures:
        """(B * n_frames, 3, H, W) normalised RGB, H and W multiples of 32, to the features of B pictures or clips."""
        maps = self.backbone(pixels)
        mask_features, memories = self.pixel_decoder(maps)
        hw = (pixels.shape[-2], pixels.shape[-1])
        return clip_features(mask_features, memories, self.level_embed.weight, maps[-1], n_frames, hw)

    def objects(self, features: VisualFeatures, *, keep_steps: bool = False) -> Decoded:
        """The learned object queries, decoded."""
        n = len(features.mask_features)
        queries = self.query_feat.weight.expand(n, -1, -1)
        positions = self.query_embed.weight.expand(n, -1, -1)
        decoded: Decoded = self.decoder(queries, positions, features, keep_steps=keep_steps)
        return decoded

    def prompted(self, features: VisualFeatures, prompts: PromptSet, *, keep_steps: bool = False) -> Decoded:
        """Prompts on one picture (features of a batch of one), each decoded alone: (1, N, ...)."""
        queries, positions = self.prompt_encoder(prompts)
        decoded: Decoded = self.decoder(
            queries, positions, features, rule=prompts.rule(), isolated=True, keep_steps=keep_steps
        )
        return decoded

    def class_logits(
        self, queries: torch.Tensor, mask_logits: torch.Tensor, features: VisualFeatures, prototypes: torch.Tensor
    ) -> torch.Tensor:
        """(B, N, K + 1) of queries (B, N, C) and their masks."""
        logits: torch.Tensor = self.class_head(self.decoder.post_norm(queries), mask_logits, features, prototypes)
        return logits

    def scores(self, queries: torch.Tensor) -> torch.Tensor:
        """Quality logits (B, N) of queries (B, N, C)."""
        return self.class_head.score(self.decoder.post_norm(queries))
