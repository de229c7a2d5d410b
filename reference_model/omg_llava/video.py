"""Clips: short pieces decoded jointly, queries matched from piece to piece (official mask2former_vid_minvis.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F

from omg_llava.features import VisualFeatures
from omg_llava.omg_seg import OmgSeg


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """How a video is cut.

    Attributes:
        piece: frames per piece of a long video.
        short_piece: frames per piece of a short one.
        short_limit: a video of more frames is long.
    """

    piece: int = 2
    short_piece: int = 3
    short_limit: int = 15


@dataclass(frozen=True, slots=True)
class Piece:
    """A few frames decoded jointly, or one picture.

    Attributes:
        class_logits: (Q, K + 1).
        mask_logits: (T, Q, h, w) at stride 4.
        queries: (Q, C), final.
        scores: (Q,) quality logits.
    """

    class_logits: torch.Tensor
    mask_logits: torch.Tensor
    queries: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True, slots=True)
class Tracked:
    """A video in which a place among the queries is one object.

    Attributes:
        class_logits: (Q, K + 1), the mean over pieces.
        scores: (Q,) quality logits, the mean over pieces.
        pieces: mask logits (T, Q, h, w) of each piece on the CPU, as decoded, with the order (Q,) that puts its queries
            into their places.
    """

    class_logits: torch.Tensor
    scores: torch.Tensor
    pieces: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def frames(self) -> Iterator[torch.Tensor]:
        """Mask logits (Q, h, w) of each frame, queries in their places."""
        for mask_logits, order in self.pieces:
            for frame in mask_logits:
                yield frame[order]


def piece_ends(n_frames: int, settings: ClipSettings = ClipSettings()) -> list[int]:
    """Exclusive ends of the pieces. Where the frames do not fill them, the last pieces are one frame shorter each."""
    size = settings.piece if n_frames > settings.short_limit else settings.short_piece
    n_pieces = -(-n_frames // size)
    lacking = n_pieces * size - n_frames
    lengths = [size] * n_pieces
    if lacking < n_pieces:
        for place in range(n_pieces - lacking, n_pieces):
            lengths[place] -= 1
    else:
        lengths[-1] -= lacking
    return list(accumulate(lengths))


def track(pieces: Iterable[Piece]) -> Tracked:
    """Put the queries of successive pieces into the places of the first one's."""
    class_logits, scores, kept = [], [], []
    before: torch.Tensor | None = None
    for piece in pieces:
        if before is None:
            order = torch.arange(len(piece.queries), device=piece.queries.device)
        else:
            order = match_queries(before, piece.queries)
        before = piece.queries[order]
        class_logits.append(piece.class_logits[order])
        scores.append(piece.scores[order])
        kept.append((piece.mask_logits.cpu(), order.cpu()))
    return Tracked(torch.stack(class_logits).mean(dim=0), torch.stack(scores).mean(dim=0), tuple(kept))


def match_queries(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """For each query of the piece before, (Q, C), the index of its successor in the piece after: the assignment with
    the least sum of 1 - cosine.
    """
    from scipy.optimize import linear_sum_assignment

    cosines = F.normalize(after, dim=-1) @ F.normalize(before, dim=-1).T
    _, successors = linear_sum_assignment((1 - cosines).T.cpu().double().numpy())
    return torch.as_tensor(successors, device=after.device)


def decode_piece(perception: OmgSeg, features: VisualFeatures, prototypes: torch.Tensor) -> Piece:
    """One piece, or one picture: features of a batch of one."""
    decoded = perception.objects(features)
    logits = perception.class_logits(decoded.queries, decoded.mask_logits, features, prototypes)
    masks = decoded.mask_logits[0].transpose(0, 1)
    return Piece(logits[0], masks, decoded.queries[0], perception.scores(decoded.queries)[0])
