"""Stage h: clips with tracking, open vocabulary, proposals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from omg_llava.fusion import instances, panoptic_map, panoptic_segments, proposals
from omg_llava.model import OmgLlava
from omg_llava.open_vocabulary import ensembled_logits, pooled_clip_embeddings, stride32_masks
from omg_llava.preprocessing import CornerFrame
from omg_llava.video import Piece, decode_piece, match_queries, piece_ends, track

from .fused import check_instances, class_counts, settings_of

pytestmark = pytest.mark.golden


Size = tuple[int, int]


def test_clip_pieces_and_matching(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("h_panoptic_video")
    frames, prototypes = stage["frames"], model.prototypes()
    ends = piece_ends(len(frames))
    stage.check("clip_ends", torch.tensor(ends))
    start, before = 0, None
    for number, end in enumerate(ends):
        piece = decode_piece(
            model.perception, model.perception.features(frames[start:end], n_frames=end - start), prototypes
        )
        _check_piece(stage, f"clip{number}", piece, frames.shape[-2:])
        queries = piece.queries
        if before is not None:
            order = match_queries(before, queries)
            stage.check(f"match{number}", order)
            queries = queries[order]
        start, before = end, queries


def _check_piece(stage: Any, name: str, piece: Piece, input_hw: Any) -> None:
    masks = piece.mask_logits.transpose(0, 1)[None]
    stage.check_class_logits(f"{name}_class_logits", piece.class_logits[None], masks)
    stage.check(f"{name}_query", piece.queries[None])
    stage.check(f"{name}_iou_logit", piece.scores[None, :, None])
    full = F.interpolate(piece.mask_logits, tuple(input_hw), mode="bilinear", align_corners=False)
    for match, _ in stage.matching(rf"{name}_mask_logits_every_(\d+)\w\w"):
        step = int(match[1])
        stage.check(match[0], full.transpose(0, 1)[None, ..., ::step, ::step])


def test_first_frames_as_one_piece(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("h_panoptic_video")
    for match, _ in stage.matching(r"(whole(\d+))_class_logits"):
        frames = stage["frames"][: int(match[2])]
        features = model.perception.features(frames, n_frames=len(frames))
        _check_piece(stage, match[1], decode_piece(model.perception, features, model.prototypes()), frames.shape[-2:])


def _pieces(model: OmgLlava, frames: torch.Tensor) -> Iterator[Piece]:
    start = 0
    for end in piece_ends(len(frames)):
        features = model.perception.features(frames[start:end], n_frames=end - start)
        yield decode_piece(model.perception, features, model.prototypes())
        start = end


def test_tracks_through_a_video(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("h_panoptic_video")
    n_things, n_classes = class_counts(goldens)
    frames = stage["frames"]
    hw = (frames.shape[-2], frames.shape[-1])
    tracked = track(_pieces(model, frames))
    stage.check("class_logits", tracked.class_logits[None])
    by_frame = list(tracked.frames())
    for match, expected in stage.matching(r"(.*?)panoptic_(\d+)"):
        case, index = match[1], int(match[2])
        settings = settings_of(goldens, case, object_threshold=0.0)
        size = (expected.shape[0], expected.shape[1])
        masks = CornerFrame(size[1], size[0], hw, hw).to_size(by_frame[index], size)
        segments = panoptic_segments(tracked.class_logits, masks.__getitem__, n_things, settings)
        stage.check(match[0], panoptic_map(segments, size, n_classes))
        check_instances(stage, case, index, instances(tracked.class_logits, masks.__getitem__, n_things, settings))


def test_open_vocabulary(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("h_open_vocab")
    perception, prototypes = model.perception, model.prototypes()
    features = perception.features(stage["images"])
    decoded = perception.objects(features)
    logits = perception.class_logits(decoded.queries, decoded.mask_logits, features, prototypes)
    stage.check_class_logits("class_logits", logits, decoded.mask_logits)
    masks, embeddings, ensembled = [], [], []
    for index in range(len(logits)):
        own, own_masks = features.of(index), decoded.mask_logits[index]
        masks.append(stride32_masks(own, own_masks))
        embeddings.append(pooled_clip_embeddings(perception, own, masks[-1]))
        seen = stage["seen"].bool()
        ensembled.append(ensembled_logits(perception, own, logits[index], own_masks, prototypes, seen))
    stage.check("clip_mask_logits", torch.stack(masks)[:, :, 0])
    stage.check("clip_instance_embedding", torch.stack(embeddings))
    stage.check("ensembled_class_logits", torch.stack(ensembled))


def test_proposals(goldens: Any, model: OmgLlava) -> None:
    """Of the first frames as one piece."""
    stage, video = goldens.stage("h_open_vocab"), goldens.stage("h_panoptic_video")
    n_frames = next((int(match[1]) for match, _ in video.matching(r"whole(\d+)_query")), 3)
    frames = video["frames"][:n_frames]
    piece = decode_piece(model.perception, model.perception.features(frames, n_frames=n_frames), model.prototypes())
    full = F.interpolate(piece.mask_logits[0][None], frames.shape[-2:], mode="bilinear", align_corners=False)[0]
    stage.check("proposal_masks", proposals(piece.scores, full, len(stage["proposal_masks"])))
