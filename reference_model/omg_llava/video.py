"""Clips: short pieces decoded jointly, queries matched from piece to piece (spec 8.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

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
class Tracked:
    """One query is one object through the whole video.

    Attributes:
        class_logits: (Q, K + 1), the mean over pieces.
        mask_logits: (T, Q, h, w) at stride 4.
        queries: (Q, C) of the last piece.
        scores: (Q,) quality logits, the mean over pieces.
    """

    class_logits: torch.Tensor
    mask_logits: torch.Tensor
    queries: torch.Tensor
    scores: torch.Tensor


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
    return torch.tensor(lengths).cumsum(dim=0).tolist()


def track(
    perception: OmgSeg, frames: torch.Tensor, prototypes: torch.Tensor, settings: ClipSettings = ClipSettings()
) -> Tracked:
    """Follow objects through frames (T, 3, H, W) of OMG-Seg's input. `prototypes` (K, P, D) names the classes."""
    pieces = list(_decoded_pieces(perception, frames, prototypes, settings))
    matched = [pieces[0]]
    for piece in pieces[1:]:
        matched.append(_permuted(piece, match_queries(matched[-1].queries, piece.queries)))
    return Tracked(
        class_logits=torch.stack([piece.class_logits for piece in matched]).mean(dim=0),
        mask_logits=torch.cat([piece.mask_logits for piece in matched]),
        queries=matched[-1].queries,
        scores=torch.stack([piece.scores for piece in matched]).mean(dim=0),
    )


def match_queries(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """For each query of the piece before, (Q, C), the index of its successor in the piece after: the assignment with
    the least sum of 1 - cosine.
    """
    from scipy.optimize import linear_sum_assignment

    cosines = F.normalize(after, dim=-1) @ F.normalize(before, dim=-1).T
    _, successors = linear_sum_assignment((1 - cosines).T.double().cpu().numpy())
    return torch.as_tensor(successors, device=after.device)


def decode_piece(perception: OmgSeg, features: VisualFeatures, prototypes: torch.Tensor) -> Tracked:
    """One piece, or one picture: features of a batch of one."""
    decoded = perception.objects(features)
    logits = perception.class_logits(decoded.queries, decoded.mask_logits, features, prototypes)
    masks = decoded.mask_logits[0].transpose(0, 1)
    return Tracked(logits[0], masks, decoded.queries[0], perception.scores(decoded.queries)[0])


def _decoded_pieces(
    perception: OmgSeg, frames: torch.Tensor, prototypes: torch.Tensor, settings: ClipSettings
) -> Iterator[Tracked]:
    start = 0
    for end in piece_ends(len(frames), settings):
        features = perception.features(frames[start:end], n_frames=end - start)
        yield decode_piece(perception, features, prototypes)
        start = end


def _permuted(piece: Tracked, order: torch.Tensor) -> Tracked:
    return dataclasses.replace(
        piece,
        class_logits=piece.class_logits[order],
        mask_logits=piece.mask_logits[:, order],
        queries=piece.queries[order],
        scores=piece.scores[order],
    )
