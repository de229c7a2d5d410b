"""The converter against the names and shapes of the official files at full size; nothing has weights."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from omg_llava.config import LanguageConfig, LoraConfig, OmgLlavaConfig, load_config
from omg_llava.conversion.class_sets import read_class_set
from omg_llava.conversion.keys import open_clip_name
from omg_llava.conversion.plan import Plan, check_plan, make_plan
from omg_llava.conversion.sources import Tensor, open_omg_llava, open_omg_seg
from omg_llava.errors import ModelError
from omg_llava.model import OmgLlava

from . import official_names as names
from .official_names import InternLM2, Perception, Shapes, n_parameters

SEG, LLM = Perception(), InternLM2()
RANK = 512
Builder = Callable[[OmgLlavaConfig], OmgLlava]
CLASS_EMBEDDINGS = {"class_sets.coco_panoptic.prototypes": (133, 17, 768)}


@dataclass
class Files:
    """Shapes of the tensors in the three official files."""

    omg_seg: Shapes
    omg_llava: Shapes
    language: Shapes

    def plan(self, config: LanguageConfig) -> Plan:
        return make_plan(*(tensors(getattr(self, part), part) for part in ("omg_seg", "omg_llava", "language")), config)

    def holder(self, name: str) -> Shapes:
        """The file that a tensor is in."""
        return next(part for part in (self.omg_llava, self.omg_seg, self.language) if name in part)


def tensors(shapes: Shapes, file: str) -> list[Tensor]:
    return [
        Tensor(name, file, shape, torch.float16, lambda shape=shape: torch.empty(shape, device="meta"))
        for name, shape in shapes.items()
    ]


def released(*, own_decoder: bool = False, old_peft: bool = False) -> Files:
    checkpoint = names.stage_2(LLM, SEG, own_decoder=own_decoder, old_peft=old_peft)
    return Files(names.omg_seg(SEG), checkpoint, names.internlm2(LLM))


def config_of(name: str = "omg_llava_7b", *, own_decoder: bool = False, kept: bool = False) -> OmgLlavaConfig:
    base = load_config(name)
    return dataclasses.replace(
        base,
        language=dataclasses.replace(base.language, lora=LoraConfig(RANK, RANK / 2) if kept else None),
        seg_token=dataclasses.replace(base.seg_token, own_decoder=own_decoder),
        class_sets=(read_class_set("coco_panoptic"),),
    )


@pytest.fixture(scope="module", autouse=True)
def built() -> Iterator[Builder]:
    """Models by configuration, each built once, for the converter too: adapters take a second to attach."""
    models: dict[str, OmgLlava] = {}

    def build(config: OmgLlavaConfig) -> OmgLlava:
        key = config.to_json()
        if key not in models:
            with torch.device("meta"):
                models[key] = OmgLlava(config)
        return models[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omg_llava.conversion.plan.OmgLlava", build)
        yield build


def n_numbers(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def test_there_are_655_tensors_in_omg_seg() -> None:
    assert len(names.omg_seg(SEG)) == 655


def test_parameter_counts_of_the_tables() -> None:
    checkpoint = names.stage_2(LLM, SEG, own_decoder=True)
    visual = {name: shape for name, shape in checkpoint.items() if name.startswith("projector.")}
    text = {name: shape for name, shape in checkpoint.items() if name.startswith("projector_text2vision.")}
    adapters = {name: shape for name, shape in checkpoint.items() if "lora_" in name}
    assert round(n_parameters(names.backbone(SEG) | names.clip_head(SEG)) / 1e6, 1) == 199.8
    assert round(n_parameters(names.omg_seg(SEG)) / 1e6, 1) == 220.8
    assert n_parameters(names.decoder(SEG, own=True)) == 14_406_656
    assert n_parameters(adapters) == 1_257_441_280
    assert n_parameters(visual) == 89_155_584
    assert n_parameters(text) == 2_360_320
    assert n_parameters({"": checkpoint["llm.base_model.model.model.tok_embeddings.weight"]}) == 379_076_608


@pytest.mark.parametrize("own_decoder", [False, True])
def test_parameter_counts_of_our_model(built: Builder, own_decoder: bool) -> None:
    model = built(config_of(own_decoder=own_decoder))
    backbone = n_numbers(model.perception.backbone.parameters())
    clip_head = n_numbers(model.perception.clip_head.parameters())
    assert backbone == n_parameters(names.backbone(SEG))
    assert clip_head == n_parameters(names.clip_head(SEG))
    assert round((backbone + clip_head) / 1e6, 1) == 199.8
    assert n_numbers(model.perception.parameters()) == n_parameters(names.omg_seg(SEG)) == 220_781_185
    assert n_numbers(model.projector.parameters()) == 89_155_584
    assert n_numbers(model.text_projector.parameters()) == 2_360_320
    assert model.llm.model.embed_tokens.weight.numel() == model.llm.lm_head.weight.numel() == 379_076_608
    assert n_numbers(model.llm.parameters()) == n_parameters(names.internlm2(LLM)) + 2 * 4 * 4096
    assert (model.own_seg_decoder is not None) is own_decoder
    if model.own_seg_decoder is not None:
        assert n_numbers(model.own_seg_decoder.parameters()) == 14_406_656


def test_parameter_count_of_kept_adapters(built: Builder) -> None:
    # Queries, keys and values share one A, which `named_parameters` counts once.
    llm = built(config_of(kept=True)).llm
    adapters = [tensor for name, tensor in llm.named_parameters() if "lora_" in name]
    assert n_numbers(adapters) == 1_257_441_280


def assert_makes_up(plan: Plan, config: OmgLlavaConfig, model: nn.Module) -> None:
    """The plan has exactly the model's tensors, in what it says and in what it gives."""
    check_plan(plan, config, CLASS_EMBEDDINGS)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert plan.shapes(kept=config.language.lora is not None) | CLASS_EMBEDDINGS == expected
    given = [(name, tuple(tensor.shape)) for name, tensor in plan.tensors(config.language.lora, 0.5)]
    assert len(given) == len(dict(given)), "a tensor is given twice"
    assert dict(given) | CLASS_EMBEDDINGS == expected


@pytest.mark.parametrize("kept", [False, True], ids=["merged", "kept"])
@pytest.mark.parametrize("old_peft", [False, True], ids=["peft", "old peft"])
@pytest.mark.parametrize("own_decoder", [False, True], ids=["general", "RefSeg and GCG"])
def test_released_checkpoints(built: Builder, own_decoder: bool, old_peft: bool, kept: bool) -> None:
    config = config_of(own_decoder=own_decoder, kept=kept)
    plan = released(own_decoder=own_decoder, old_peft=old_peft).plan(config.language)
    assert plan.rank == RANK
    assert plan.has_own_decoder is own_decoder
    assert_makes_up(plan, config, built(config))


def test_stage_1(built: Builder) -> None:
    config = config_of()
    plan = dataclasses.replace(released(), omg_llava=names.stage_1(LLM, SEG)).plan(config.language)
    assert plan.rank is None
    assert not plan.has_own_decoder
    assert_makes_up(plan, config, built(config))


def test_no_two_tensors_of_a_file_go_to_one_place() -> None:
    """Only the trained vocabulary replaces something: the base model's."""
    config = config_of().language
    files = released(own_decoder=True)
    packed = [name for name in files.omg_seg | files.omg_llava if "in_proj_" in name]
    fused = [name for name in files.omg_llava | files.language if ".wqkv." in name]
    places = [
        (part, target)
        for part in ("omg_seg", "omg_llava", "language")
        for target in _targets(dataclasses.replace(Files({}, {}, {}), **{part: getattr(files, part)}).plan(config))
    ]
    n_official = sum(len(getattr(files, part)) for part in ("omg_seg", "omg_llava", "language"))
    assert len(places) == n_official + 2 * len(packed) + 2 * len(fused)
    assert len(places) - len({target for _, target in places}) == 2


def _targets(plan: Plan) -> list[str]:
    factors = [f"{module}.lora_{letter}" for module, found in plan.low_rank.items() for letter in found]
    return [*plan.plain, *factors]


PLACES = {
    "backbone.layer3.blocks.26.mlp.fc2.weight": "perception.backbone.stages.2.layers.26.pwconv2.weight",
    "backbone.layer4.blocks.0.gamma": "perception.backbone.stages.3.layers.0.layer_scale_parameter",
    "panoptic_head.query_embed.weight": "perception.query_embed.weight",
    "panoptic_head.query_feat.weight": "perception.query_feat.weight",
    "panoptic_head.pixel_decoder.level_encoding.weight": "perception.pixel_decoder.level_embed",
    "panoptic_head.level_embed.weight": "perception.level_embed.weight",
    "panoptic_head.pixel_decoder.encoder.layers.5.norms.0.bias": (
        "perception.pixel_decoder.encoder.layers.5.self_attn_layer_norm.bias"
    ),
    "panoptic_head.pixel_decoder.encoder.layers.5.norms.1.bias": (
        "perception.pixel_decoder.encoder.layers.5.final_layer_norm.bias"
    ),
    "panoptic_head.transformer_decoder.layers.8.norms.0.weight": "perception.decoder.layers.8.cross_norm.weight",
    "panoptic_head.transformer_decoder.layers.8.norms.1.weight": "perception.decoder.layers.8.self_norm.weight",
    "panoptic_head.transformer_decoder.layers.8.norms.2.weight": "perception.decoder.layers.8.ffn_norm.weight",
    "panoptic_head.iou_embed.2.weight": "perception.class_head.score_proj.2.weight",
    "panoptic_head.cls_proj.2.weight": "perception.class_head.cls_proj.2.weight",
    "panoptic_head.mask_embed.2.weight": "perception.decoder.mask_embed.2.weight",
    "visual_encoder.panoptic_head.mask_embed_llm.2.weight": "own_seg_decoder.mask_embed.2.weight",
    "visual_encoder.panoptic_head.transformer_decoder_llm.layers.0.cross_attn.attn.out_proj.weight": (
        "own_seg_decoder.layers.0.cross_attention.out.weight"
    ),
    "projector.model.model.2.weight": "projector.query.mlp.2.weight",
    "projector.model.model_feat.2.weight": "projector.pixel.2.weight",
    "model.layers.31.feed_forward.w1.weight": "llm.model.layers.31.mlp.gate_proj.weight",
    "model.layers.31.feed_forward.w3.weight": "llm.model.layers.31.mlp.up_proj.weight",
    "model.layers.31.attention_norm.weight": "llm.model.layers.31.input_layernorm.weight",
    "model.layers.31.ffn_norm.weight": "llm.model.layers.31.post_attention_layernorm.weight",
    "llm.base_model.model.model.tok_embeddings.weight": "llm.model.embed_tokens.weight",
    "llm.base_model.model.output.base_layer.weight": "llm.lm_head.weight",
}
"""Tensors whose shape would fit elsewhere too."""


def test_places_that_shapes_do_not_tell() -> None:
    plan = released(own_decoder=True).plan(config_of().language)
    assert {plan.plain[ours].source.name: ours for ours in PLACES.values()} == PLACES


def test_packed_attention_is_cut_into_query_key_value_in_this_order() -> None:
    plan = released(own_decoder=True).plan(config_of().language)
    rows = torch.arange(768.0)
    for base in ("perception.decoder", "own_seg_decoder"):
        module = f"{base}.layers.4.self_attention"
        cuts = [plan.plain[f"{module}.{part}.bias"].target.take(rows) for part in ("query", "key", "value")]
        assert torch.equal(torch.cat(cuts), rows)
        assert {plan.plain[f"{module}.{part}.bias"].source.name[-12:] for part in ("query", "key", "value")} == {
            "in_proj_bias"
        }


def test_open_clip_gives_the_backbone() -> None:
    official = names.open_clip(SEG)
    renamed = {open_clip_name(name): shape for name, shape in official.items() if open_clip_name(name) is not None}
    assert renamed == names.backbone(SEG) | names.clip_head(SEG)
    text_tower = [name for name in official if not name.startswith("visual.")]
    assert text_tower
    assert all(open_clip_name(name) is None for name in text_tower)


def saved(shapes: Shapes, path: Path, *, wrapped: bool = False) -> Path:
    """A file with one byte for each tensor, however large the tensor says it is."""
    content = {name: torch.zeros((), dtype=torch.uint8).expand(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": content, "meta": {"epoch": 12}} if wrapped else content, path)
    return path


def test_backbone_from_open_clip(tmp_path: Path) -> None:
    config = config_of()
    buffers: Shapes = {"panoptic_head.cls_embed": (768, 134, 17), "panoptic_head.logit_scale": ()}
    omg_seg = saved(names.panoptic_head(SEG) | buffers, tmp_path / "omg_seg.pth", wrapped=True)
    with pytest.raises(ModelError, match=r"no backbone\.\*"):
        open_omg_seg(omg_seg, None)
    perception = open_omg_seg(omg_seg, saved(names.open_clip(SEG), tmp_path / "clip.pth"))
    files = released()
    plan = make_plan(perception, tensors(files.omg_llava, ""), tensors(files.language, ""), config.language)
    check_plan(plan, config, CLASS_EMBEDDINGS)
    assert len(perception) == 655
    taken = {piece.source.name: piece.source.shape for name, piece in plan.plain.items() if "perception." in name}
    assert taken == names.omg_seg(SEG)


def native(name: str) -> tuple[OmgLlavaConfig, Shapes, Shapes]:
    """A language model that transformers has itself: configuration, tensors of its folder, linear layers."""
    config = config_of(name)
    settings = dict(config.language.transformers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    modules = model.named_modules()
    linears = {name: tuple(module.weight.shape) for name, module in modules if type(module) is nn.Linear}
    return config, own, linears


PUBLISHED_ROWS = {"omg_llava_phi3": 32064, "omg_llava_qwen2": 152064}
"""Both folders hold more rows than their tokenizers have tokens."""
PREFIX = "llm.base_model.model."


def other_family(name: str, kept: bool) -> tuple[OmgLlavaConfig, Files]:
    """Official training leaves the heads called `lm_head` without adapters (spec 9.1)."""
    config, own, linears = native(name)
    width = config.language.hidden_size
    vocabulary = {f"{PREFIX}{matrix}": own[matrix] for matrix in ("model.embed_tokens.weight", "lm_head.weight")}
    linears = {module: shape for module, shape in linears.items() if module != "lm_head"}
    folder = own | dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (PUBLISHED_ROWS[name], width))
    checkpoint = vocabulary | names.lora(linears, RANK) | names.projectors(width, SEG)
    adapters = LoraConfig(RANK, RANK / 2) if kept else None
    config = dataclasses.replace(config, language=dataclasses.replace(config.language, lora=adapters))
    return config, Files(names.omg_seg(SEG), checkpoint, folder)


@pytest.mark.parametrize("kept", [False, True], ids=["merged", "kept"])
@pytest.mark.parametrize("name", PUBLISHED_ROWS)
def test_other_language_models(built: Builder, name: str, kept: bool) -> None:
    config, files = other_family(name, kept)
    assert_makes_up(files.plan(config.language), config, built(config))


@pytest.mark.parametrize("name", PUBLISHED_ROWS)
def test_other_language_models_without_their_vocabulary(name: str) -> None:
    """The official saver leaves out vocabularies that are not called as InternLM2's: never pass that over."""
    config, files = other_family(name, kept=False)
    checkpoint = {name: shape for name, shape in files.omg_llava.items() if not re.search("embed_tokens|lm_head", name)}
    message = refused(dataclasses.replace(files, omg_llava=checkpoint), config)
    assert "llm.model.embed_tokens.weight" in message
    assert "llm.lm_head.weight" in message


def refused(files: Files, config: OmgLlavaConfig) -> str:
    """What a person reads when these files are converted."""
    with pytest.raises(ModelError) as raised:
        check_plan(files.plan(config.language), config, CLASS_EMBEDDINGS)
    return str(raised.value)


MISSING = {
    "backbone.layer3.blocks.26.gamma": "perception.backbone.stages.2.layers.26.layer_scale_parameter",
    "backbone.head.1.mlp.fc2.weight": "perception.clip_head.fc2.weight",
    "panoptic_head.query_feat.weight": "perception.query_feat.weight",
    "panoptic_head.transformer_decoder.layers.4.cross_attn.attn.in_proj_bias": (
        "perception.decoder.layers.4.cross_attention.key.bias"
    ),
    "visual_encoder.panoptic_head.mask_embed_llm.4.bias": "own_seg_decoder.mask_embed.4.bias",
    "projector.model.seperate_embed.weight": "projector.separator.weight",
    "projector_text2vision.model.2.bias": "text_projector.mlp.2.bias",
    "llm.base_model.model.model.tok_embeddings.weight": "llm.model.embed_tokens.weight",
    "llm.base_model.model.output.base_layer.weight": "llm.lm_head.weight",
    "model.layers.17.attention.wqkv.weight": "llm.model.layers.17.self_attn.v_proj.weight",
    "model.norm.weight": "llm.model.norm.weight",
}


@pytest.mark.parametrize("official", MISSING)
def test_a_missing_tensor_is_named(official: str) -> None:
    files = released(own_decoder=True)
    del files.holder(official)[official]
    assert MISSING[official] in refused(files, config_of(own_decoder=True))


SURPLUS = {
    "panoptic_head.something.weight": "panoptic_head.something.weight",
    "panoptic_head.transformer_decoder.layers.9.norms.0.bias": "perception.decoder.layers.9.cross_norm.bias",
    "visual_encoder.panoptic_head.pixel_decoder_llm.mask_feature.bias": "pixel_decoder_llm.mask_feature.bias",
    "visual_encoder.downsample_layer.0.weight": "visual_encoder.downsample_layer.0.weight",
    "projector.model.model_more.0.bias": "projector.model.model_more.0.bias",
    "llm.base_model.model.model.layers.0.attention.wk.lora_A.default.weight": "model.layers.0.attention.wk.lora_A",
    "model.layers.32.ffn_norm.weight": "llm.model.layers.32.post_attention_layernorm.weight",
}


@pytest.mark.parametrize("official", SURPLUS)
def test_a_surplus_tensor_is_named(official: str) -> None:
    files = released(own_decoder=True)
    part = files.omg_seg if official.startswith("panoptic_head.") else files.omg_llava
    (files.language if official.startswith("model.") else part)[official] = (256,)
    assert SURPLUS[official] in refused(files, config_of(own_decoder=True))


TRANSPOSED = {
    "backbone.head.1.mlp.fc2.weight": "perception.clip_head.fc2.weight",
    "panoptic_head.transformer_decoder.layers.4.self_attn.attn.in_proj_weight": (
        "perception.decoder.layers.4.self_attention.query.weight"
    ),
    "projector.model.query_proj.weight": "projector.query.widen.weight",
    "llm.base_model.model.output.base_layer.weight": "llm.lm_head.weight",
    "model.layers.3.feed_forward.w2.weight": "llm.model.layers.3.mlp.down_proj.weight",
    "model.layers.3.attention.wqkv.weight": "layers.3.",
}
TRANSPOSED_FACTORS = {
    f"{PREFIX}model.layers.3.feed_forward.w1.lora_A.default.weight": "llm.model.layers.3.mlp.gate_proj",
    f"{PREFIX}model.layers.3.attention.wo.lora_B.default.weight": "llm.model.layers.3.self_attn.o_proj",
    f"{PREFIX}model.layers.3.attention.wqkv.lora_B.default.weight": "layers.3.",
}


@pytest.mark.parametrize("official", TRANSPOSED)
def test_a_transposed_tensor_is_named(official: str) -> None:
    files = released()
    part = files.holder(official)
    part[official] = part[official][::-1]
    assert TRANSPOSED[official] in refused(files, config_of())


@pytest.mark.parametrize("kept", [False, True], ids=["merged", "kept"])
@pytest.mark.parametrize("official", TRANSPOSED_FACTORS)
def test_a_transposed_adapter_is_named(official: str, kept: bool) -> None:
    """Whether it is merged or kept: nothing is written before everything is checked."""
    files = released()
    files.omg_llava[official] = files.omg_llava[official][::-1]
    assert TRANSPOSED_FACTORS[official] in refused(files, config_of(kept=kept))


@pytest.mark.parametrize("kept", [False, True], ids=["merged", "kept"])
@pytest.mark.parametrize("lost", ["A", "B"])
def test_half_an_adapter_is_named(lost: str, kept: bool) -> None:
    files = released()
    del files.omg_llava[f"{PREFIX}model.layers.5.feed_forward.w2.lora_{lost}.default.weight"]
    assert "llm.model.layers.5.mlp.down_proj" in refused(files, config_of(kept=kept))


@pytest.mark.parametrize("kept", [False, True], ids=["merged", "kept"])
def test_an_adapter_of_no_layer_is_named(kept: bool) -> None:
    files = released()
    files.omg_llava |= names.lora({"model.layers.32.feed_forward.w2": (LLM.width, LLM.ffn)}, RANK)
    assert "llm.model.layers.32.mlp.down_proj" in refused(files, config_of(kept=kept))


@pytest.mark.parametrize("kept", [False, True], ids=["merged", "kept"])
def test_an_adapter_of_another_rank_is_named(kept: bool) -> None:
    """One scaling factor alpha / rank stands for all: another rank among them means another checkpoint."""
    files = released()
    files.omg_llava |= names.lora({"model.layers.7.attention.wo": (LLM.width, LLM.width)}, RANK // 2)
    assert "llm.model.layers.7.self_attn.o_proj" in refused(files, config_of(kept=kept))


def test_swapped_files_are_refused(tmp_path: Path) -> None:
    files = released(own_decoder=True)
    omg_seg = saved(files.omg_seg, tmp_path / "seg.pth", wrapped=True)
    omg_llava = saved(files.omg_llava, tmp_path / "llava.pth")
    with pytest.raises(ModelError, match="an OMG-LLaVA checkpoint stands where OMG-Seg's should") as raised:
        open_omg_seg(omg_llava, None)
    assert raised.value.where == str(omg_llava)
    with pytest.raises(ModelError, match="an OMG-Seg checkpoint stands where OMG-LLaVA's should") as raised:
        open_omg_llava(omg_seg)
    assert raised.value.where == str(omg_seg)


def test_swapped_tensors_are_named() -> None:
    files = released()
    swapped = dataclasses.replace(files, omg_seg=files.omg_llava, omg_llava=files.omg_seg)
    assert "llm.base_model.model.model.tok_embeddings.weight" in refused(swapped, config_of())


SMALLER = InternLM2(rows=92544, width=2048, ffn=8192, layers=24, heads=16, kv_heads=8)
"""InternLM2-chat-1.8B, of the same tokenizer."""


def settings_of(sizes: InternLM2, base: Mapping[str, object]) -> dict[str, object]:
    return dict(base) | {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.ffn,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
    }


def test_another_language_model_is_refused() -> None:
    """Its own configuration comes with it, so the projectors are the first that do not fit."""
    config = config_of()
    settings = settings_of(SMALLER, config.language.transformers)
    config = dataclasses.replace(config, language=dataclasses.replace(config.language, transformers=settings))
    files = dataclasses.replace(released(), language=names.internlm2(SMALLER))
    message = refused(files, config)
    assert "projector.query.mlp.0.weight is (4096, 6144), expected (2048, 6144)" in message


def test_weights_of_another_size_than_their_configuration_are_named() -> None:
    files = dataclasses.replace(released(), language=names.internlm2(SMALLER))
    assert "layers.0." in refused(files, config_of())


def test_a_vocabulary_that_did_not_grow_is_named() -> None:
    files = released()
    for name in ("model.tok_embeddings.weight", "output.base_layer.weight"):
        files.omg_llava[PREFIX + name] = (92544, 4096)
    message = refused(files, config_of())
    for name in ("llm.model.embed_tokens.weight", "llm.lm_head.weight"):
        assert f"{name} is (92544, 4096), expected (92548, 4096)" in message


def test_class_embeddings_that_were_forgotten_are_named() -> None:
    config = config_of()
    with pytest.raises(ModelError, match=re.escape("class_sets.coco_panoptic.prototypes")):
        check_plan(released().plan(config.language), config, {})


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, object]]:
    default = Path(__file__).resolve().parents[2] / "../shared/reference/goldens"
    folder = Path(os.environ.get("OMGBENCH_GOLDENS", default)).resolve()
    if not (folder / "checkpoint_keys.json").exists():
        pytest.skip(f"no checkpoint_keys.json in {folder}: set OMGBENCH_GOLDENS")
    return {
        "keys": json.loads((folder / "checkpoint_keys.json").read_text()),
        "config": json.loads((folder / "config.json").read_text()),
    }


def _small(config: dict[str, dict[str, int]]) -> tuple[Perception, InternLM2, int]:
    backbone, seg, llm = config["backbone"], config["seg"], config["llm"]
    perception = Perception(
        depths=tuple(backbone["depths"]),
        widths=tuple(backbone["dims"]),
        clip=backbone["clip_embed_dim"],
        width=seg["feat_channels"],
        pixel_layers=seg["pixel_decoder_layers"],
        pixel_ffn=seg["pixel_decoder_ffn"],
        layers=seg["decoder_layers"],
        ffn=seg["decoder_ffn"],
        queries=seg["num_queries"],
    )
    language = InternLM2(
        rows=config["tokens"]["base_vocab"],
        width=llm["hidden_size"],
        ffn=llm["intermediate_size"],
        layers=llm["num_hidden_layers"],
        heads=llm["num_attention_heads"],
        kv_heads=llm["num_key_value_heads"],
    )
    return perception, language, config["lora"]["r"]


@pytest.mark.golden
def test_the_rules_give_the_names_of_the_official_model(recorded: dict[str, dict[str, object]]) -> None:
    """The official `state_dict()` at small sizes."""
    keys = {
        what: {name: tuple(shape) for name, shape in found.items()}
        for what, found in recorded["keys"].items()
        if isinstance(found, dict) and what.startswith(("this_set", "stage1", "other"))
    }
    perception, language, rank = _small(recorded["config"])
    own = bool(recorded["config"]["model"]["require_omg_decoder"])
    for what, option in (("this_set", own), ("other_decoder_option", not own)):
        expected = names.stage_2(language, perception, rank=rank, own_decoder=option)
        assert keys[f"{what}_saved_by_official_state_dict"] == expected
    assert keys["stage1_saved_by_official_state_dict"] == names.stage_1(language, perception)
    visual = names.omg_seg(perception) | (names.decoder(perception, own=True) if own else {})
    in_memory = keys["this_set_in_memory"]
    assert {name: shape for name, shape in in_memory.items() if name.startswith("visual_encoder.")} == {
        f"visual_encoder.{name}": shape for name, shape in visual.items()
    }


@pytest.mark.golden
def test_open_clip_names_of_the_official_model(recorded: dict[str, dict[str, object]]) -> None:
    pairs = recorded["keys"]["open_clip_visual_to_memory"]
    assert pairs
    for open_clip, in_memory in pairs.items():
        assert open_clip_name(open_clip) == str(in_memory).removeprefix("visual_encoder.")
