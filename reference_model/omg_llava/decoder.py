"""OMG-Seg's query decoder: masked cross attention, self attention, feed-forward, nine times.

Official mask2former_vid_semanticsam.py.

Every prediction draws a mask; where that mask is negative, the next cross attention may not look. Learned object
queries see each other. Prompts and [SEG] tokens are *isolated*: each is decoded as if alone, though all of one picture
share its keys. The official code spends a batch entry, and keys of its own, on each; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from omg_llava.config import SegmenterConfig
from omg_llava.features import VisualFeatures

AttentionRule = Callable[[torch.Tensor], torch.Tensor]
"""Mask logits (B, N, T, h, w) at the size of a memory level to True where attention is blocked."""


def outside_predicted_mask(mask_logits: torch.Tensor) -> torch.Tensor:
    """The usual rule: blocked where the predicted probability is below one half."""
    return mask_logits.sigmoid() < 0.5


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the decoder leaves behind.

    Attributes:
        queries: (B, N, C) after the last layer, before `post_norm`.
        positions: (B, N, C), the same for all layers.
        mask_logits: (B, N, T, H / 4, W / 4) of the last prediction.
        steps: every prediction in order, the one before the first layer included, where they were asked for.
    """

    queries: torch.Tensor
    positions: torch.Tensor
    mask_logits: torch.Tensor
    steps: tuple[Step, ...] = ()

    @property
    def embedding(self) -> torch.Tensor:
        """(B, N, 2C): query feature beside query position, what the language model is told."""
        return torch.cat((self.queries, self.positions), dim=-1)


@dataclass(frozen=True, slots=True)
class Step:
    """One prediction.

    Attributes:
        queries: (B, N, C) it was made from.
        mask_logits: (B, N, T, H / 4, W / 4).
        blocked: (B, N, T * h * w) for the next cross attention, before fully blocked rows are released.
    """

    queries: torch.Tensor
    mask_logits: torch.Tensor
    blocked: torch.Tensor = field(repr=False)


def mlp(width_in: int, width: int, width_out: int) -> nn.Sequential:
    """Three linear layers with ReLU between them."""
    return nn.Sequential(
        nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width_out)
    )


class Attention(nn.Module):
    """Multi-head attention with biases, as `torch.nn.MultiheadAttention` computes it."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, N, C), (B, L, C), (B, L, C) and (B, N, L), True = may look, to (B, N, C)."""
        query, key, value = (
            projection(tokens).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for projection, tokens in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        mask = None if allowed is None else allowed[:, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        result: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result

    def of_itself(self, values: torch.Tensor) -> torch.Tensor:
        """Attention with a single key: the softmax is 1, so query and key do not matter."""
        result: torch.Tensor = self.out(self.value(values))
        return result


class DecoderLayer(nn.Module):
    """Post-norm: cross attention, self attention, feed-forward."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        width = config.width
        self.cross_attention = Attention(width, config.n_heads)
        self.self_attention = Attention(width, config.n_heads)
        self.fc1 = nn.Linear(width, config.decoder_ffn)
        self.fc2 = nn.Linear(config.decoder_ffn, width)
        self.cross_norm = nn.LayerNorm(width)
        self.self_norm = nn.LayerNorm(width)
        self.ffn_norm = nn.LayerNorm(width)

    def forward(
        self,
        queries: torch.Tensor,
        positions: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        allowed: torch.Tensor,
        isolated: bool,
    ) -> torch.Tensor:
        """Queries (B, N, C) one layer on."""
        placed = queries + positions
        queries = self.cross_norm(queries + self.cross_attention(placed, keys, values, allowed))
        if isolated:
            seen = self.self_attention.of_itself(queries)
        else:
            placed = queries + positions
            seen = self.self_attention(placed, placed, queries)
        queries = self.self_norm(queries + seen)
        result: torch.Tensor = self.ffn_norm(queries + self.fc2(F.relu(self.fc1(queries))))
        return result


class MaskDecoder(nn.Module):
    """Queries in, queries and masks out. The base model has one; RefSeg and GCG checkpoints have a second for [SEG]."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.post_norm = nn.LayerNorm(config.width)
        self.mask_embed = mlp(config.width, config.width, config.width)

    def forward(
        self,
        queries: torch.Tensor,
        positions: torch.Tensor,
        features: VisualFeatures,
        *,
        rule: AttentionRule = outside_predicted_mask,
        isolated: bool = False,
        keep_steps: bool = False,
    ) -> Decoded:
        """Decode queries (B, N, C) with positions (B, N, C) against the features of their pictures.

        Args:
            rule: where a cross attention may not look, given the mask predicted before it.
            isolated: each query is alone; otherwise they attend to each other.
            keep_steps: keep every prediction, for training and for tests.
        """
        steps = []
        mask_logits = self.masks(queries, features)
        for index, layer in enumerate(self.layers):
            level = features.levels[index % len(features.levels)]
            blocked = _blocked(mask_logits, level.size, rule)
            if keep_steps:
                steps.append(Step(queries, mask_logits, blocked))
            # A query that may look nowhere looks everywhere.
            allowed = ~blocked | blocked.all(dim=-1, keepdim=True)
            keys = level.tokens + level.positions
            queries = layer(queries, positions, keys, level.tokens, allowed, isolated)
            mask_logits = self.masks(queries, features)
        if keep_steps:
            level = features.levels[len(self.layers) % len(features.levels)]
            steps.append(Step(queries, mask_logits, _blocked(mask_logits, level.size, rule)))
        return Decoded(queries, positions, mask_logits, tuple(steps))

    def masks(self, queries: torch.Tensor, features: VisualFeatures) -> torch.Tensor:
        """Mask logits (B, N, T, H / 4, W / 4) of queries (B, N, C)."""
        kernels = self.mask_embed(self.post_norm(queries))
        return torch.einsum("bnc,btchw->bnthw", kernels, features.mask_features)


def _blocked(mask_logits: torch.Tensor, size: tuple[int, int], rule: AttentionRule) -> torch.Tensor:
    """The rule at the size of the next memory level, (B, N, T * h * w). No gradient flows here."""
    with torch.no_grad():
        frames = F.interpolate(mask_logits.flatten(0, 1), size, mode="bilinear", align_corners=False)
        return rule(frames.unflatten(0, mask_logits.shape[:2])).flatten(2)


class ClassHead(nn.Module):
    """Scores queries against text embeddings of class names."""

    def __init__(self, config: SegmenterConfig, clip_dim: int) -> None:
        super().__init__()
        width = config.width
        self.pool_norm = nn.LayerNorm(width)
        self.pool_proj = nn.Linear(width, width)
        self.cls_proj = mlp(width, width, clip_dim)
        self.score_proj = mlp(width, width, 1)
        # A constant, not a weight: exp(4.6052) = 100.00296.
        self.logit_scale = float(torch.tensor(config.logit_scale_log, dtype=torch.float32, device="cpu").exp())

    def forward(
        self, normed: torch.Tensor, mask_logits: torch.Tensor, features: VisualFeatures, prototypes: torch.Tensor
    ) -> torch.Tensor:
        """Class logits (B, N, K + 1), the last column void.

        Args:
            normed: queries after `post_norm`, (B, N, C).
            mask_logits: their masks, (B, N, T, H / 4, W / 4). The features under the mask enter the class, so a logit
                that changes sign moves class logits by a step.
            prototypes: unit text embeddings (K, P, D), P synonyms per class; the best one counts.
        """
        inside = (mask_logits > 0).to(normed.dtype)
        summed = torch.einsum("bnthw,btchw->bnc", inside, features.mask_features)
        pooled = summed / (inside.sum(dim=(2, 3, 4))[..., None] + 1e-8)
        embedding = self.cls_proj(self.pool_proj(self.pool_norm(pooled)) + normed)
        return self.logits(embedding, prototypes)

    def logits(self, embedding: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
        """Embeddings (..., D) of any length against prototypes (K, P, D): scaled cosine, the best synonym, and void.

        Void is an all-zero text embedding, hence its logit is 0 whatever the query.
        """
        cosines = torch.einsum("...d,kpd->...kp", F.normalize(embedding, dim=-1), prototypes)
        classes = cosines.amax(dim=-1) * self.logit_scale
        return torch.cat((classes, torch.zeros_like(classes[..., :1])), dim=-1)

    def score(self, normed: torch.Tensor) -> torch.Tensor:
        """Quality logits (B, N) of queries after `post_norm`; used to rank class-agnostic proposals."""
        scores: torch.Tensor = self.score_proj(normed)[..., 0]
        return scores
