"""The losses of OMG-LLaVA's two stages (official model/omg_llava.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from omg_llava.vocabulary import IGNORED

Uniform = Callable[[int, int], torch.Tensor]
"""(N, P) to coordinates (N, P, 2), uniform in 0..1."""


@dataclass(frozen=True, slots=True)
class MaskLossConfig:
    """How masks are compared: on points, most of them where the prediction is unsure.

    Attributes:
        n_points: per mask.
        oversample: candidates per point.
        importance: share of the points taken from the least sure candidates; the rest is anywhere.
        dice_weight, bce_weight: of the two terms, times 0.1 and 0.4 when they join the text's loss.
    """

    n_points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    dice_weight: float = 5.0
    bce_weight: float = 5.0
    dice_share: float = 0.1
    bce_share: float = 0.4


@dataclass(frozen=True, slots=True)
class MaskLosses:
    """Both terms per prediction of the decoder, (L + 1,) each, their own weights in them."""

    dice: torch.Tensor
    bce: torch.Tensor

    def shared(self, config: MaskLossConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """What joins the text's loss: sums over predictions times their shares."""
        return self.dice.sum() * config.dice_share, self.bce.sum() * config.bce_share


def text_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    n_tokens: float | None = None,
) -> torch.Tensor:
    """Cross entropy of the next token over the counted positions: their mean, or their sum divided by `n_tokens`.

    Args:
        hidden: last hidden states (B, L, D).
        labels: (B, L).
        head: hidden states (n, D) to logits (n, V). It sees counted positions alone, as rows of logits are long.
    """
    counted = labels[:, 1:] != IGNORED
    logits, wanted = head(hidden[:, :-1][counted]).float(), labels[:, 1:][counted]
    return F.cross_entropy(logits, wanted, reduction="sum") / (len(wanted) if n_tokens is None else n_tokens)


def mask_losses(
    predictions: torch.Tensor,
    targets: torch.Tensor,
    config: MaskLossConfig = MaskLossConfig(),
    *,
    points: torch.Tensor | None = None,
    uniform: Uniform | None = None,
    n_masks: float | None = None,
) -> MaskLosses:
    """Dice and cross entropy of every prediction of the `[SEG]` decoder.

    Args:
        predictions: mask logits (L + 1, N, h, w).
        targets: (N, H, W) float, 1 inside; N masks in the order of the `[SEG]` labels of the batch.
        points: (L + 1, N, P, 2) as (x, y) in 0..1; drawn anew for each prediction where they are left out.
        uniform: source of random coordinates.
        n_masks: what sums over masks are divided by; None = N.
    """
    draw = uniform or (lambda n, p: torch.rand(n, p, 2, device=predictions.device))
    dice, bce = [], []
    n_masks = len(targets) if n_masks is None else n_masks
    for index, logits in enumerate(predictions):
        chosen = points[index] if points is not None else uncertain_points(logits, config, draw)
        found, wanted = sample(logits, chosen), sample(targets, chosen)
        shares = found.sigmoid()
        overlap = (2 * (shares * wanted).sum(dim=1) + 1) / (shares.sum(dim=1) + wanted.sum(dim=1) + 1)
        dice.append(config.dice_weight * (1 - overlap).sum() / (n_masks + 1e-4))
        errors = F.binary_cross_entropy_with_logits(found, wanted, reduction="sum")
        bce.append(config.bce_weight * errors / (n_masks * found.shape[1] + 1e-4))
    return MaskLosses(torch.stack(dice), torch.stack(bce))


@torch.no_grad()
def uncertain_points(logits: torch.Tensor, config: MaskLossConfig, uniform: Uniform) -> torch.Tensor:
    """Where to compare masks, (N, P, 2): the candidates whose logits (N, h, w) are nearest zero, then random ones."""
    n_masks = len(logits)
    candidates = uniform(n_masks, int(config.n_points * config.oversample))
    n_unsure = int(config.n_points * config.importance)
    unsure = (-sample(logits, candidates).abs()).topk(n_unsure, dim=1).indices
    kept = candidates.gather(1, unsure[..., None].expand(-1, -1, 2))
    return torch.cat((kept, uniform(n_masks, config.n_points - n_unsure)), dim=1)


def sample(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Maps (N, h, w) at points (N, P, 2), (x, y) in 0..1, bilinear: (N, P)."""
    grid = 2 * points[:, None] - 1
    return F.grid_sample(maps[:, None].float(), grid, align_corners=False)[:, 0, 0]


def alignment_loss(reconstructed: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Stage 1: ten times the mean squared error between query embeddings (N, 2C) and what comes back of them through
    both projectors.
    """
    return 10 * F.mse_loss(reconstructed, embeddings)


def aligned_queries(owner: torch.Tensor, n_queries: int) -> torch.Tensor:
    """(Q,) bool: which queries stage 1 aligns, given who owns each token (cells,).

    Every query that does *not* own all tokens, hence nearly all: the official mask is inverted, and checkpoints were
    trained with it.
    """
    owned = torch.bincount(owner, minlength=n_queries)
    return owned < len(owner)
