"""Stage h: panoptic and instance fusion, clips with tracking, open vocabulary."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from omg_llava.features import VisualFeatures
from omg_llava.fusion import FusionSettings, Instances, instances, panoptic_map, panoptic_segments, proposals
from omg_llava.model import OmgLlava
from omg_llava.open_vocabulary import ensembled_logits, pooled_clip_embeddings, stride32_masks
from omg_llava.preprocessing import CornerFrame
from omg_llava.video import decode_piece, match_queries, piece_ends, track

pytestmark = pytest.mark.golden


def _settings(goldens: Any, case: str) -> FusionSettings:
    """Thresholds as the case's name gives them."""
    seg = goldens.config["seg"]
    threshold, iou = re.search(r"_thr([\d.]+)", case), re.search(r"iou([\d.]+)", case)
    defaults = seg["fusion_defaults"]
    return FusionSettings(
        object_threshold=float(threshold[1]) if threshold else defaults["object_mask_thr"],
        iou_threshold=float(iou[1]) if iou else defaults["iou_thr"],
        filter_low_score="no_low_score_filter" not in case,
        max_instances=seg["max_per_image"],
    )


def _image_shapes(goldens: Any) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """What the maps were cropped to before they were resized; only the folder's README says so."""
    readme = goldens.folder / "README.md"
    text = readme.read_text() if readme.exists() else ""
    model = re.search(r"img/ori shapes: (\[.*?\])[;.]", text)
    synthetic = re.search(r"synthetic: img_shape (\(\d+, \d+\))", text)
    height, width = goldens.config["image_hw"]
    images = (
        [image for image, _ in ast.literal_eval(model[1])] if model else [(height, width), (height, width * 3 // 4)]
    )
    return images, ast.literal_eval(synthetic[1]) if synthetic else (48, 64)


def _check_instances(stage: Any, case: str, index: int, found: Instances) -> None:
    stage.check(f"{case}_instance_scores_{index}", found.scores)
    stage.check(f"{case}_instance_labels_{index}", found.labels)
    stage.check(f"{case}_instance_boxes_{index}", found.boxes_xyxy)
    stage.check(f"{case}_instance_areas_{index}", found.masks.flatten(1).sum(dim=1))


def test_images(goldens: Any, model: OmgLlava, features: VisualFeatures) -> None:
    stage = goldens.stage("h_panoptic_image")
    seg = goldens.config["seg"]
    n_things, n_classes = seg["num_things_classes"], seg["num_things_classes"] + seg["num_stuff_classes"]
    image_shapes, synthetic_shape = _image_shapes(goldens)
    decoded = model.perception.objects(features)
    logits = model.perception.class_logits(decoded.queries, decoded.mask_logits, features, model.prototypes())
    checked = 0
    for match, expected in stage.matching(r"(.+)_panoptic_(\d+)"):
        case, index = match[1], int(match[2])
        size = (expected.shape[0], expected.shape[1])
        if case.startswith("model"):
            frame = CornerFrame(size[1], size[0], image_shapes[index], features.input_hw)
            classes, masks = logits[index], frame.to_size(decoded.mask_logits[index, :, 0], size)
        else:
            classes, full = stage["synth_class_logits"], stage["synth_mask_logits"]
            cropped = full[None, :, : synthetic_shape[0], : synthetic_shape[1]]
            masks = F.interpolate(cropped, size, mode="bilinear", align_corners=False)[0]
        settings = _settings(goldens, case)
        segments = panoptic_segments(classes, masks.__getitem__, n_things, settings)
        stage.check(match[0], panoptic_map(segments, size, n_classes))
        _check_instances(stage, case, index, instances(classes, masks, n_things, settings))
        checked += 1
    assert checked


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


def _check_piece(stage: Any, name: str, piece: Any, input_hw: Any) -> None:
    stage.check(f"{name}_class_logits", piece.class_logits[None])
    stage.check(f"{name}_query", piece.queries[None])
    stage.check(f"{name}_iou_logit", piece.scores[None, :, None])
    full = F.interpolate(piece.mask_logits, tuple(input_hw), mode="bilinear", align_corners=False)
    stage.check(f"{name}_mask_logits_every_4th", full.transpose(0, 1)[None, ..., ::4, ::4])


def test_first_frames_as_one_piece(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("h_panoptic_video")
    for match, _ in stage.matching(r"(whole(\d+))_class_logits"):
        frames = stage["frames"][: int(match[2])]
        features = model.perception.features(frames, n_frames=len(frames))
        _check_piece(stage, match[1], decode_piece(model.perception, features, model.prototypes()), frames.shape[-2:])


def test_tracks_through_a_video(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("h_panoptic_video")
    seg = goldens.config["seg"]
    n_things, n_classes = seg["num_things_classes"], seg["num_things_classes"] + seg["num_stuff_classes"]
    frames = stage["frames"]
    tracked = track(model.perception, frames, model.prototypes())
    stage.check("class_logits", tracked.class_logits[None])
    hw = (frames.shape[-2], frames.shape[-1])
    for index, frame_logits in enumerate(tracked.mask_logits):
        size = tuple(stage[f"panoptic_{index}"].shape)
        masks = CornerFrame(size[1], size[0], hw, hw).to_size(frame_logits, size)
        for name, iou in ((f"panoptic_{index}", 0.8), (f"iou0.02_panoptic_{index}", 0.02)):
            segments = panoptic_segments(
                tracked.class_logits, masks.__getitem__, n_things, FusionSettings(iou_threshold=iou)
            )
            stage.check(name, panoptic_map(segments, size, n_classes))
        found = instances(tracked.class_logits, masks, n_things, FusionSettings(max_instances=seg["max_per_image"]))
        stage.check(f"instance_scores_{index}", found.scores)
        stage.check(f"instance_labels_{index}", found.labels)
        stage.check(f"instance_boxes_{index}", found.boxes_xyxy)
        stage.check(f"instance_track_ids_{index}", found.ranks + 1)


def test_open_vocabulary(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("h_open_vocab")
    perception, prototypes = model.perception, model.prototypes()
    features = perception.features(stage["images"])
    decoded = perception.objects(features)
    logits = perception.class_logits(decoded.queries, decoded.mask_logits, features, prototypes)
    stage.check("class_logits", logits)
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
    stage, frames = goldens.stage("h_open_vocab"), goldens.stage("h_panoptic_video")["frames"][:3]
    piece = decode_piece(model.perception, model.perception.features(frames, n_frames=3), model.prototypes())
    full = F.interpolate(piece.mask_logits[0][None], frames.shape[-2:], mode="bilinear", align_corners=False)[0]
    stage.check("proposal_masks", proposals(piece.scores, full, len(stage["proposal_masks"])))
