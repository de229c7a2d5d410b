"""Stages a to d: backbone, pixel decoder, query decoder, prompts, perception prior."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from omg_llava.features import VisualFeatures
from omg_llava.model import OmgLlava
from omg_llava.perception_prior import fold, perception_prior
from omg_llava.visual_prompts import PromptSet, mask_centres_xy

pytestmark = pytest.mark.golden
BATCHES = ("", "_rect")


@pytest.mark.parametrize("batch", BATCHES)
def test_backbone(goldens: Any, model: OmgLlava, batch: str) -> None:
    stage = goldens.stage(f"a_backbone{batch}")
    recorded = goldens.config
    size = recorded["rect_hw"] if batch else [recorded["batch"], 3, *recorded["image_hw"]]
    assert list(stage["images"].shape)[-len(size) :] == size
    maps = model.perception.backbone(stage["images"])
    for index, found in enumerate(maps):
        stage.check(f"feat{index}", found)
    if "stem" in stage:
        stage.check("stem", model.perception.backbone.embeddings(stage["images"]))


@pytest.mark.parametrize("batch", BATCHES)
def test_pixel_decoder(goldens: Any, model: OmgLlava, batch: str) -> None:
    images = goldens.stage(f"a_backbone{batch}")["images"]
    stage = goldens.stage(f"b_pixel_decoder{batch}")
    decoder = model.perception.pixel_decoder
    kept: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: kept.__setitem__(name, out))
        for name, module in [
            *((f"input_proj{index}", part) for index, part in enumerate(decoder.input_projections)),
            *((f"encoder_layer{index}", part) for index, part in enumerate(decoder.encoder.layers)),
        ]
    ]
    mask_features, memories = decoder(model.perception.backbone(images))
    for hook in hooks:
        hook.remove()
    for index, memory in enumerate(memories):
        stage.check(f"memory{index}", memory)
    for name in stage.tensors:
        if name in kept:
            found = kept[name][0] if isinstance(kept[name], tuple) else kept[name]
            stage.check(name, found[: len(stage[name])])
    checked = 0
    for match, _ in stage.matching(r"mask_features(_image(\d+))?(_every_(\d+)\w\w_channel)?"):
        found = mask_features
        if match[2]:
            found = found[int(match[2]) : int(match[2]) + 1]
        stage.check(match[0], found[:, :: int(match[4] or 1)])
        checked += 1
    assert checked


def _check_decoder(stage: Any, model: OmgLlava, features: VisualFeatures) -> None:
    decoded = model.perception.objects(features, keep_steps=True)
    assert len(decoded.steps) == len(model.perception.decoder.layers) + 1
    for match, _ in stage.matching(r"(class_logits|iou_logit|mask_logits|attn_mask)_(\d+)"):
        step = decoded.steps[int(match[2])]
        masks = step.mask_logits
        if match[1] == "mask_logits":
            stage.check(match[0], masks[:, :, 0])
        elif match[1] == "attn_mask":
            stage.check(match[0], step.blocked)
        elif match[1] == "iou_logit":
            stage.check(match[0], model.perception.scores(step.queries)[..., None])
        else:
            logits = model.perception.class_logits(step.queries, masks, features, model.prototypes())
            stage.check_class_logits(match[0], logits, masks)
    for match, _ in stage.matching(r"query_after_layer(\d+)"):
        stage.check(match[0], decoded.steps[int(match[1]) + 1].queries)
    stage.check("query_pos", decoded.positions)
    full = F.interpolate(decoded.mask_logits[:, :, 0], features.input_hw, mode="bilinear", align_corners=False)
    for match, _ in stage.matching(r"mask_logits_image_size_every_(\d+)\w\w"):
        step = int(match[1])
        stage.check(match[0], full[..., ::step, ::step])


@pytest.mark.parametrize("batch", BATCHES)
def test_query_decoder(goldens: Any, model: OmgLlava, batch: str) -> None:
    images = goldens.stage(f"a_backbone{batch}")["images"]
    _check_decoder(goldens.stage(f"c_decoder{batch}"), model, model.perception.features(images))


@pytest.mark.parametrize("batch", BATCHES)
def test_perception_prior(goldens: Any, model: OmgLlava, batch: str) -> None:
    stage = goldens.stage(f"d_prior{batch}")
    percepts = model.perceive(goldens.stage(f"a_backbone{batch}")["images"])
    folded = [fold(item.features.stride32[0, 0], model.config.projector.pixel_shuffle) for item in percepts]
    priors = [item.prior for item in percepts]
    stage.check("foreground_score", torch.stack([prior.foreground_score for prior in priors]))
    stage.check("weighted_prob", torch.stack([prior.weights for prior in priors]))
    grid = priors[0].weights.shape[-2:]
    stage.check("pixel_query", torch.stack([prior.prior.unflatten(0, grid) for prior in priors]))
    visual = [torch.cat((cells, prior.prior), dim=-1) for cells, prior in zip(folded, priors, strict=True)]
    stage.check("visual_feat", torch.stack(visual))
    stage.check("query_pos_feat", torch.stack([item.objects for item in percepts]))
    queries = torch.arange(len(priors[0].kept))
    stage.check("token_not_owned", torch.stack([prior.owner != queries[:, None] for prior in priors]))
    stage.check("query_kept", torch.stack([prior.kept for prior in priors]))
    for index, percept in enumerate(percepts):
        if f"tokens_image{index}" in stage:
            stage.check(f"tokens_image{index}", model.image_tokens(percept))


@pytest.mark.parametrize(("suffix", "option"), [("_without_prior", "use_prior"), ("_without_queries", "use_queries")])
def test_ablations_of_the_projector(goldens: Any, model: OmgLlava, suffix: str, option: str) -> None:
    stage = goldens.stage("d_prior")
    percepts = model.perceive(goldens.stage("a_backbone")["images"])
    options = model.projector.options
    model.projector.options = dataclasses.replace(options, **{option: False})
    try:
        for index, percept in enumerate(percepts):
            if f"tokens_image{index}{suffix}" in stage:
                stage.check(f"tokens_image{index}{suffix}", model.image_tokens(percept))
    finally:
        model.projector.options = options


def test_the_prior_needs_no_full_size_masks(goldens: Any, model: OmgLlava, features: VisualFeatures) -> None:
    """The four pixels per cell that are computed are those that the official detour by the full size reads."""
    decoded = model.perception.objects(features)
    logits = model.perception.class_logits(decoded.queries, decoded.mask_logits, features, model.prototypes())
    masks = decoded.mask_logits[0, :, 0]
    prior = perception_prior(logits[0], masks, decoded.embedding[0], 32 * model.config.projector.pixel_shuffle)
    full = F.interpolate(masks[None], features.input_hw, mode="bilinear", align_corners=False).sigmoid()
    factor = prior.foreground_score[None, :, None, None] / 2 + 0.5
    expected = F.interpolate(full * factor, prior.weights.shape[-2:], mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(prior.weights, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "prefix", "values"),
    [("point", "point", "point_prompts"), ("box", "box", "box_prompts"), ("mask", "region", "region_prompts")],
)
def test_prompts(goldens: Any, model: OmgLlava, features: VisualFeatures, kind: Any, prefix: str, values: str) -> None:
    stage = goldens.stage("c_prompts")
    owners = stage[f"{prefix}_batch_idx"]
    found: dict[str, dict[int, torch.Tensor]] = {}

    def note(name: str, index: int, tensor: torch.Tensor) -> None:
        found.setdefault(f"{prefix}_{name}", {})[index] = tensor

    for image in owners.unique().tolist():
        places = (owners == image).nonzero()[:, 0]
        prompts = PromptSet(kind, stage[values][places], features.input_hw)
        decoded = model.perception.prompted(features.of(image), prompts, keep_steps=True)
        embeddings = decoded.embedding[0]
        tokens = model.projector.prompt_tokens(embeddings)
        for place, index in enumerate(places.tolist()):
            note("query_init", index, decoded.steps[0].queries[0, place : place + 1])
            note("query_pos", index, decoded.positions[0, place : place + 1])
            note("query_out", index, embeddings[place : place + 1])
            note("llm_embedding", index, tokens[place])
            for number, step in enumerate(decoded.steps):
                note(f"mask_logits_{number}", index, step.mask_logits[0, place])
                note(f"attn_mask_{number}", index, step.blocked[0, place : place + 1])
    if kind == "mask":
        for index, point in enumerate(mask_centres_xy(stage[values])):
            note("points", index, point)
    checked = 0
    for name, rows in found.items():
        if name in stage:
            stage.check(name, torch.stack([rows[index] for index in range(len(owners))]))
            checked += 1
    recorded = [name for name in stage.tensors if name.startswith(prefix) and not name.endswith(("prompts", "idx"))]
    assert checked == len(recorded)
