"""The perception prior: what OMG-Seg saw, laid over the pixel tokens, and which objects get a token.

Official omg_seg_visual_encoder.py.

Each object query weighs a pixel by its mask's probability times half of (1 + class score). A pixel token's prior is the
softmax-weighted mean of the query embeddings there; a query that wins at least one token becomes an object token.
The paper speaks of filtering by score; the released code, and so every checkpoint, has no other filter than this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PerceptionPrior:
    """The prior of one picture.

    Attributes:
        foreground_score: (Q,) best class probability without void.
        weights: (Q, h, w) on the token grid.
        prior: (h * w, 2C) for the pixel tokens.
        owner: (h * w,) the query that wins each token.
        kept: (Q,) bool, queries that win at least one. Between 1 and h * w of them.
    """

    foreground_score: torch.Tensor
    weights: torch.Tensor
    prior: torch.Tensor
    owner: torch.Tensor
    kept: torch.Tensor

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(item.nbytes for item in (self.foreground_score, self.weights, self.prior, self.owner, self.kept))


def perception_prior(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, embeddings: torch.Tensor, cell_px: int
) -> PerceptionPrior:
    """The prior from class logits (Q, K + 1), mask logits (Q, H / 4, W / 4) and query embeddings (Q, 2C).

    `cell_px` is the edge of a pixel token's cell, 64 in the released models: stride 32, folded by 2. H and W are
    multiples of it.
    """
    score = class_logits.softmax(dim=-1)[:, :-1].amax(dim=-1)
    weights = cell_probabilities(mask_logits, 0.5 * score + 0.5, cell_px)
    # The softmax runs over values in 0..1, not logits, and over all queries: weights differ by a factor e at most.
    shares = weights.flatten(1).softmax(dim=0)
    owner = weights.flatten(1).argmax(dim=0)
    kept = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
    kept[owner] = True
    return PerceptionPrior(score, weights, shares.T @ embeddings, owner, kept)


def cell_probabilities(mask_logits: torch.Tensor, factor: torch.Tensor, cell_px: int) -> torch.Tensor:
    """`factor` (Q,) times the mask's probability in each token's cell, (Q, H / cell_px, W / cell_px).

    The official code enlarges the logits fourfold to the input's size, takes the sigmoid and shrinks bilinearly to the
    token grid. Shrinking without smoothing reads the four pixels in the middle of each cell and nothing else, so only
    those are made: 4 x 256 values per query in place of a million.
    """
    step = cell_px // 4
    n, height, width = mask_logits.shape
    blocks = mask_logits.view(n, height // step, step, width // step, step)
    middle = slice(step // 2 - 1, step // 2 + 1)
    corners = blocks[:, :, middle][..., middle]
    # The two middle pixels of a cell, 31 and 32 of 64, lie at 7.375 and 7.625 on the grid of stride 4.
    mix = torch.tensor([[0.625, 0.375], [0.375, 0.625]], device=mask_logits.device, dtype=mask_logits.dtype)
    pixels = torch.einsum("ai,nyixj,bj->nyxab", mix, corners, mix)
    return (pixels.sigmoid() * factor[:, None, None, None, None]).mean(dim=(-2, -1))


def fold(stride32: torch.Tensor, factor: int) -> torch.Tensor:
    """A map (C, h, w) to tokens (h / f * w / f, f * f * C): space to depth, channels ordered row, column, channel."""
    channels, height, width = stride32.shape
    cells = stride32.view(channels, height // factor, factor, width // factor, factor)
    return cells.permute(1, 3, 2, 4, 0).reshape(height // factor * (width // factor), factor * factor * channels)
