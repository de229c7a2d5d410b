"""Fresh weights: told by the seed, and where they part from transformers' own."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as DeformableAttention,
)

from omg_llava.config import OmgLlavaConfig
from omg_llava.errors import ModelError
from omg_llava.model import OmgLlava
from omg_llava.training.initial_weights import fresh_model
from omg_llava.training.word_vectors import WordVectors

from ..lively import small_config

CONFIG = small_config()


def _vectors(config: OmgLlavaConfig = CONFIG) -> WordVectors:
    return WordVectors([item.prompt for each in config.class_sets for item in each.classes], config.backbone.clip_dim)


@pytest.fixture(scope="module")
def model() -> OmgLlava:
    """Never changed by a test."""
    return fresh_model(CONFIG, _vectors(), 1)


def test_weights_depend_on_the_seed_alone(model: OmgLlava) -> None:
    torch.manual_seed(99)
    again, other = (fresh_model(CONFIG, _vectors(), seed).state_dict() for seed in (1, 2))
    own = model.state_dict()
    assert [name for name, value in own.items() if not torch.equal(value, again[name])] == []
    assert sum(not torch.equal(value, other[name]) for name, value in own.items()) > 20


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fresh_model(CONFIG, _vectors(), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_branches_of_the_backbone_are_open(model: OmgLlava) -> None:
    scales = [p for name, p in model.named_parameters() if name.endswith("layer_scale_parameter")]
    assert len(scales) == sum(CONFIG.backbone.depths)
    assert all((scale == 1).all() for scale in scales)


def test_label_spaces_are_embedded_by_the_vectors(model: OmgLlava) -> None:
    [class_set] = CONFIG.class_sets
    assert torch.equal(model.prototypes(class_set.name), _vectors().prototypes(class_set))


def test_a_class_without_words_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="no vector for"):
        fresh_model(CONFIG, WordVectors(["circle"], CONFIG.backbone.clip_dim), 1)


def _attentions(model: OmgLlava) -> list[DeformableAttention]:
    return [m for m in model.perception.pixel_decoder.modules() if isinstance(m, DeformableAttention)]


def test_heads_look_around_themselves(model: OmgLlava) -> None:
    """Point by point: on the square around a pixel, in the head's direction, one step farther each time."""
    attentions = _attentions(model)
    assert len(attentions) == CONFIG.segmenter.pixel_decoder_layers
    for attention in attentions:
        n_heads, n_points = attention.n_heads, attention.n_points
        offsets = attention.sampling_offsets.bias.view(n_heads, attention.n_levels, n_points, 2)
        for head in range(n_heads):
            angle = 2 * math.pi * head / n_heads
            longest = max(abs(math.cos(angle)), abs(math.sin(angle)))
            for point in range(n_points):
                expected = [(point + 1) * part(angle) / longest for part in (math.cos, math.sin)]
                for level in range(attention.n_levels):
                    assert offsets[head, level, point].tolist() == pytest.approx(expected, abs=1e-5)


def test_heads_look_there_whatever_they_see_and_at_all_points_alike(model: OmgLlava) -> None:
    for attention in _attentions(model):
        for value in (
            attention.sampling_offsets.weight,
            attention.attention_weights.weight,
            attention.attention_weights.bias,
            attention.value_proj.bias,
            attention.output_proj.bias,
        ):
            assert not value.any()
        for layer in (attention.value_proj, attention.output_proj):
            limit = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert 0.8 * limit < layer.weight.abs().max() <= limit


def test_a_fresh_model_trains_and_is_finite(model: OmgLlava) -> None:
    assert model.training
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    features = model.perception.features(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(model.perception.objects(features).mask_logits).all()
