"""From perception to the language model and back (official modeling_projector.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from omg_llava.config import OmgLlavaConfig
from omg_llava.decoder import Attention

_CROSS_ATTENTION_HEADS = 32


def _two_layers(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out))


class QueryProjector(nn.Module):
    """Query embeddings (..., 2C) to language tokens (..., D); no activation after the first layer."""

    def __init__(self, width_in: int, width_folded: int, width_out: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width_in, width_folded)
        self.mlp = _two_layers(width_folded, width_out)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.mlp(self.widen(embeddings))
        return tokens


class CrossAttention(nn.Module):
    """Table 8, M1: object tokens look at the pixel tokens; post-norm, then a feed-forward with ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        n_heads = next(n for n in range(min(_CROSS_ATTENTION_HEADS, width), 0, -1) if width % n == 0)
        self.attention = Attention(width, n_heads)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)

    def forward(self, objects: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """(N, D) objects, (V, D) pixels to (N, D)."""
        seen = self.attention(objects[None], pixels[None], pixels[None])[0]
        objects = self.norm(objects + seen)
        result: torch.Tensor = self.ffn_norm(objects + self.fc2(F.relu(self.fc1(objects))))
        return result


class VisualProjector(nn.Module):
    """Pixel tokens, a separator, object tokens; and tokens of visual prompts."""

    def __init__(self, config: OmgLlavaConfig) -> None:
        super().__init__()
        self.options = config.projector
        folded = config.backbone.widths[-1] * config.projector.pixel_shuffle**2
        embedding = 2 * config.segmenter.width
        width = config.language.hidden_size
        self.query = QueryProjector(embedding, folded, width)
        self.pixel = _two_layers(folded + embedding, width)
        self.separator = nn.Embedding(1, width)
        self.prompt_query = QueryProjector(embedding, folded, width) if self.options.own_prompt_projector else None
        self.cross_attention = CrossAttention(width) if self.options.cross_attention else None

    def image_tokens(self, folded: torch.Tensor, prior: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        """What the language model sees of a picture, (V, D).

        Args:
            folded: (cells, f * f * C4), the stride-32 map folded.
            prior: (cells, 2C), the perception prior.
            objects: (n, 2C), embeddings of the kept queries, in query order.
        """
        if not self.options.use_prior:
            prior = torch.zeros_like(prior)
        pixels: torch.Tensor = self.pixel(torch.cat((folded, prior), dim=-1))
        if not self.options.use_queries:
            return pixels
        tokens = self.query(objects)
        if self.cross_attention is not None:
            tokens = self.cross_attention(tokens, pixels)
        return torch.cat((pixels, self.separator.weight, tokens))

    def prompt_tokens(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Visual prompts (N, 2C) to tokens (N, D): by the object queries' projector unless they have their own."""
        tokens: torch.Tensor = (self.prompt_query or self.query)(embeddings)
        return tokens


class TextProjector(nn.Module):
    """Hidden states of `[SEG]` to decoder queries: (N, D) to features and positions, (N, C) each."""

    def __init__(self, config: OmgLlavaConfig) -> None:
        super().__init__()
        self.mlp = _two_layers(config.language.hidden_size, 2 * config.segmenter.width)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries, positions = self.mlp(states).chunk(2, dim=-1)
        return queries, positions
