"""Mask2Former's deformable pixel decoder: the pyramid becomes mask features and three memories.

Mmdet 3.1.0, `MSDeformAttnPixelDecoder`.

transformers' class computes it bit for bit; only its settings are ours.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from omg_llava.config import BackboneConfig, SegmenterConfig


class PixelDecoder(Mask2FormerPixelDecoder):  # type: ignore[misc]
    """See the module."""

    def __init__(self, backbone: BackboneConfig, segmenter: SegmenterConfig) -> None:
        config = Mask2FormerConfig(
            feature_size=segmenter.width,
            mask_feature_size=segmenter.width,
            num_attention_heads=segmenter.n_heads,
            encoder_layers=segmenter.pixel_decoder_layers,
            encoder_feedforward_dim=segmenter.pixel_decoder_ffn,
            feature_strides=[4, 8, 16, 32],
            common_stride=4,
            dropout=0.0,
        )
        super().__init__(config, list(backbone.widths))
        nn.init.normal_(self.level_embed)

    def forward(self, features: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Four maps of strides 4 to 32 to mask features (B, C, H/4, W/4) and three memories (B, C, h, w) of strides
        32, 16, 8, in this order.
        """
        output = super().forward(list(features), output_attentions=False, output_hidden_states=False)
        return output.mask_features, output.multi_scale_features
