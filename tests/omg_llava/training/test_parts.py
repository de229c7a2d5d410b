"""Which weights a stage trains, how they are kept, and where the decoder of `[SEG]` begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omg_llava.config import LoraConfig, SegTokenConfig
from omg_llava.errors import ModelError
from omg_llava.model import OmgLlava
from omg_llava.training.parts import PARTS, copy_seg_decoder, load_trained, save_trained, train_only, trained_weights

from ..lively import small_config

OWN_DECODER = SegTokenConfig(own_decoder=True, embedding="concat")


def build(*, lora: bool = False, own_decoder: bool = True, family: str = "internlm2", seed: int = 0) -> OmgLlava:
    config = small_config(family=family)
    if own_decoder:
        config = dataclasses.replace(config, seg_token=OWN_DECODER)
    if lora:
        config = dataclasses.replace(config, language=dataclasses.replace(config.language, lora=LoraConfig(rank=2)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OmgLlava(config)


@pytest.fixture(scope="module")
def plain() -> OmgLlava:
    return build()


@pytest.fixture(scope="module")
def adapted() -> OmgLlava:
    return build(lora=True)


@pytest.fixture
def model(plain: OmgLlava) -> Iterator[OmgLlava]:
    yield plain
    plain.requires_grad_(True)


def trained(model: OmgLlava, *parts: str) -> set[str]:
    train_only(model, parts)
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_parts_cover_the_model_and_some_lie_in_others(adapted: OmgLlava) -> None:
    names = [name for name, _ in adapted.named_parameters()]
    inside = {"language": ({"lora"}, {"vocabulary"}, set()), "perception": ({"backbone"}, {"segmenter"})}
    for name in names:
        found = {part for part, rule in PARTS.items() if rule(name)}
        [whole] = found - {"lora", "vocabulary", "backbone", "segmenter"}
        assert found - {whole} in inside.get(whole, (set(),)), name
    assert {part for part, rule in PARTS.items() if any(rule(name) for name in names)} == PARTS.keys()


def test_stage_one_trains_both_projectors_alone(model: OmgLlava) -> None:
    found = trained(model, "projectors")
    assert {name.partition(".")[0] for name in found} == {"projector", "text_projector", "seg_state"}
    modules = (model.projector, model.text_projector, model.seg_state)
    assert len(found) == sum(1 for module in modules for _ in module.parameters())


def test_stage_two_trains_adapters_vocabulary_and_projectors(adapted: OmgLlava) -> None:
    """The released configuration: LoRA everywhere, embeddings, the head's base weight, projectors; nothing else."""
    found = trained(adapted, "lora", "vocabulary", "projectors")
    language = {name for name in found if name.startswith("llm.")}
    base = {name for name in language if ".lora_" not in name}
    assert base == {"llm.model.embed_tokens.weight", "llm.lm_head.base_layer.weight"}
    matrices = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for layer in range(2):
        for matrix in matrices:
            own = {name for name in language if f".layers.{layer}." in name and f".{matrix}." in name}
            assert sum(".lora_B." in name for name in own) == 1, matrix
    assert {name for name in language if "lm_head" in name} == base - {"llm.model.embed_tokens.weight"} | {
        "llm.lm_head.lora_A.default.weight",
        "llm.lm_head.lora_B.default.weight",
    }
    assert not any(name.startswith(("perception.", "own_seg_decoder.")) for name in found)
    assert {name for name in found if not name.startswith("llm.")} == trained(adapted, "projectors")


@pytest.mark.parametrize("family", ["phi3", "qwen2"])
def test_the_vocabulary_is_both_matrices_in_every_family(family: str) -> None:
    model = build(own_decoder=False, family=family)
    assert trained(model, "vocabulary") == {"llm.model.embed_tokens.weight", "llm.lm_head.weight"}


def test_what_is_not_named_is_frozen_again(model: OmgLlava) -> None:
    every = {name for name, _ in model.named_parameters()}
    assert trained(model, "perception", "language", "projectors", "own_seg_decoder") == every
    assert trained(model, "own_seg_decoder") == {name for name in every if name.startswith("own_seg_decoder.")}
    assert trained(model) == set()
    backbone = trained(model, "backbone")
    assert backbone < trained(model, "perception")
    assert all(name.startswith(("perception.backbone.", "perception.clip_head.")) for name in backbone)


def test_parts_that_cannot_be_trained_are_model_errors(model: OmgLlava) -> None:
    with pytest.raises(ModelError, match="no part is called 'projector'"):
        train_only(model, ["projectors", "projector"])
    with pytest.raises(ModelError, match="the model has no lora"):
        train_only(model, ["lora"])
    with pytest.raises(ModelError, match="the model has no own_seg_decoder"):
        train_only(build(own_decoder=False), ["own_seg_decoder"])


def test_what_is_saved_is_read_back_and_nothing_else_changes(model: OmgLlava, tmp_path: Path) -> None:
    other = build(seed=1)
    names = trained(model, "projectors", "own_seg_decoder")
    path = tmp_path / "deeper" / "weights.safetensors"
    save_trained(model, path)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    assert load_file(path).keys() == names == trained_weights(model).keys()
    before = {name: parameter.detach().clone() for name, parameter in other.named_parameters()}
    load_trained(other, path)
    own = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, own[name] if name in names else before[name]), name
    assert any(not torch.equal(before[name], own[name]) for name in names)
    save_trained(other, path)
    assert load_file(path).keys() == {name for name, _ in other.named_parameters()}


def test_what_layers_share_is_saved_once_and_stays_shared(adapted: OmgLlava, tmp_path: Path) -> None:
    """Queries, keys and values of InternLM2 have one first factor."""
    names = trained(adapted, "lora")
    shared = [name for name in names if "lora_A" in name and "self_attn" in name and "o_proj" not in name]
    assert len(shared) == 2
    save_trained(adapted, tmp_path / "lora.safetensors")
    other = build(lora=True, seed=1)
    load_trained(other, tmp_path / "lora.safetensors")
    attention, own = other.llm.model.layers[1].self_attn, adapted.llm.model.layers[1].self_attn
    for part in ("q_proj", "k_proj", "v_proj"):
        factor = getattr(attention, part).lora_A["default"].weight
        assert factor is attention.q_proj.lora_A["default"].weight
        assert torch.equal(factor, own.q_proj.lora_A["default"].weight)


@pytest.mark.parametrize(
    "tensors",
    [{"projector.nowhere": torch.zeros(2)}, {"projector.separator.weight": torch.zeros(2, 64)}],
    ids=["unknown", "another shape"],
)
def test_foreign_weights_are_a_model_error(model: OmgLlava, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="no parameter projector") as caught:
        load_trained(model, tmp_path / "foreign.safetensors")
    assert "foreign.safetensors" in str(caught.value)


def test_the_decoder_of_seg_begins_as_a_copy(model: OmgLlava) -> None:
    assert model.own_seg_decoder is not None
    own, seen = model.own_seg_decoder.state_dict(), model.perception.decoder.state_dict()
    assert any(not torch.equal(own[name], value) for name, value in seen.items())
    copy_seg_decoder(model)
    assert own.keys() == seen.keys()
    assert all(torch.equal(own[name], value) for name, value in seen.items())
    with torch.no_grad():
        next(model.own_seg_decoder.parameters()).add_(1)
    assert any(not torch.equal(own[name], value) for name, value in seen.items()), "a copy, not the same weights"


def test_a_model_without_such_a_decoder_cannot_begin_it() -> None:
    with pytest.raises(ModelError, match="no decoder of its own"):
        copy_seg_decoder(build(own_decoder=False))
