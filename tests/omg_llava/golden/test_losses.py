"""Stage i: the losses of both training stages, and gradients of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from omg_llava.conversion.keys import language_targets, perception_targets, projector_targets, without_llm_prefix
from omg_llava.features import VisualFeatures
from omg_llava.model import OmgLlava, Percept
from omg_llava.sequence import Placeholders, splice_batch
from omg_llava.training.losses import (
    MaskLossConfig,
    MaskLosses,
    aligned_queries,
    alignment_loss,
    mask_losses,
    text_loss,
    uncertain_points,
)

from .prompted import prompt_tokens

pytestmark = pytest.mark.golden


@pytest.fixture
def settings(goldens: Any) -> MaskLossConfig:
    loss = goldens.config["loss"]
    return MaskLossConfig(loss["num_points"], loss["oversample_ratio"], loss["importance_sample_ratio"])


@pytest.fixture(scope="module")
def percepts(goldens: Any, model: OmgLlava) -> list[Percept]:
    with torch.no_grad():
        return model.perceive(goldens.stage("a_backbone")["images"])


@pytest.fixture
def trainable(goldens: Any, model: OmgLlava) -> Iterator[dict[str, list[tuple[torch.nn.Parameter, Any]]]]:
    """The parameters whose gradients are recorded, by official name, each with the cut that it is."""
    stage, parameters = goldens.stage("i_losses"), dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for match, _ in stage.matching("grad:(.*)"):
        name = match[1]
        own = without_llm_prefix(name)
        targets = (
            language_targets(own, model.config.language)
            if own is not None
            else projector_targets(name) or perception_targets(name.removeprefix("visual_encoder."))
        )
        found[name] = [(parameters[target.name], target) for target in targets]
    for parts in found.values():
        for parameter, _ in parts:
            parameter.requires_grad_(True)
    with torch.enable_grad():
        yield found
    for parts in found.values():
        for parameter, _ in parts:
            parameter.requires_grad_(False)
            parameter.grad = None


def _points(stage: Any, n_steps: int) -> torch.Tensor:
    return torch.stack([stage[f"point_coords_{index}"] for index in range(n_steps)])


def _stage_two(
    stage: Any, model: OmgLlava, percepts: list[Percept], features: VisualFeatures, settings: MaskLossConfig
) -> tuple[torch.Tensor, MaskLosses, torch.Tensor]:
    """Text loss, mask losses, mask logits of every prediction."""
    placeholders = Placeholders(
        model.special,
        [model.image_tokens(percept) for percept in percepts],
        prompt_tokens(stage, model, features, "regions"),
        prompt_tokens(stage, model, features, "points"),
    )
    batch = splice_batch(stage["input_ids"], stage["attention_mask"], stage["labels"], model.embed, placeholders)
    placeholders.check_all_used()
    hidden = model.read(batch.embeds, batch.attention_mask, batch.position_ids)
    predictions = []
    for row, percept in enumerate(percepts):
        states = hidden.seg[row][batch.labels[row] == model.special.seg]
        if len(states):
            steps = model.decode_seg(percept.features, states, keep_steps=True).steps
            predictions.append(torch.stack([step.mask_logits[0, :, 0] for step in steps]))
    masks = torch.cat(predictions, dim=1)
    losses = mask_losses(masks, stage["gt_masks"], settings, points=_points(stage, len(masks)))
    return text_loss(hidden.last, batch.labels, model.logits), losses, masks


def test_stage_two_and_its_gradients(
    goldens: Any,
    model: OmgLlava,
    percepts: list[Percept],
    features: VisualFeatures,
    settings: MaskLossConfig,
    trainable: dict[str, Any],
) -> None:
    stage = goldens.stage("i_losses")
    text, masks, predictions = _stage_two(stage, model, percepts, features, settings)
    for index, logits in enumerate(predictions):
        stage.check(f"pred_mask_logits_{index}", logits[:, None].detach())
    stage.check("stage2_loss", text[None].detach())
    stage.check("dice_per_prediction", masks.dice.detach())
    stage.check("mask_per_prediction", masks.bce.detach())
    dice, bce = masks.shared(settings)
    stage.check("stage2_loss_dice", dice[None].detach())
    stage.check("stage2_loss_mask", bce[None].detach())
    total = text + dice + bce
    stage.check("stage2_total", total[None].detach())
    total.backward()
    for name, parts in trainable.items():
        recorded, atol = stage.recorded(f"grad:{name}"), stage.atol(f"grad:{name}")
        for parameter, target in parts:
            torch.testing.assert_close(parameter.grad, target.take(recorded), atol=atol, rtol=1e-4, msg=name)


def test_points_are_drawn_as_officially(goldens: Any, settings: MaskLossConfig) -> None:
    stage = goldens.stage("i_losses")
    n_steps = sum(1 for _ in stage.matching(r"pred_mask_logits_\d+"))
    draws = iter([stage[f"rand_{index}"] for index in range(sum(1 for _ in stage.matching(r"rand_\d+")))])

    def drawn(n_masks: int, n_points: int) -> torch.Tensor:
        points = next(draws)
        assert points.shape == (n_masks, n_points, 2)
        return points

    for index in range(n_steps):
        chosen = uncertain_points(stage[f"pred_mask_logits_{index}"][:, 0], settings, drawn)
        # The official order of equally unsure points is that of a top-k, hence open: compare as sets.
        expected = stage[f"point_coords_{index}"]
        assert chosen.shape == expected.shape
        for own, wanted in zip(chosen, expected, strict=True):
            assert set(map(tuple, own.tolist())) == set(map(tuple, wanted.tolist()))
    assert n_steps and next(draws, None) is None


def test_stage_one(goldens: Any, model: OmgLlava, percepts: list[Percept]) -> None:
    stage = goldens.stage("i_losses")
    placeholders = Placeholders(
        model.special, [model.image_tokens(percept) for percept in percepts], torch.zeros(0, 1), torch.zeros(0, 1)
    )
    batch = splice_batch(
        stage["stage1_input_ids"], stage["stage1_attention_mask"], stage["stage1_labels"], model.embed, placeholders
    )
    placeholders.check_all_used()
    hidden = model.read(batch.embeds, batch.attention_mask, batch.position_ids)
    stage.check("stage1_loss", text_loss(hidden.last, batch.labels, model.logits)[None])
    embeddings = torch.cat(
        [percept.objects[aligned_queries(percept.prior.owner, len(percept.prior.kept))] for percept in percepts]
    )
    stage.check("stage1_target", embeddings)
    reconstructed = torch.cat(model.text_projector(model.projector.query(embeddings)), dim=-1)
    stage.check("stage1_reconstructed", reconstructed)
    stage.check("stage1_loss_proj", alignment_loss(reconstructed, embeddings)[None])
