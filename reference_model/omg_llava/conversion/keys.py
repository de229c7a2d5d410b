"""Names of the official tensors and where each goes in our modules.

One official tensor may become several of ours: packed attention projections are taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from omg_llava.config import LanguageConfig

Cut = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a tensor, or a cut of it, goes."""

    name: str
    cut: Cut | None = None

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """The cut of an official tensor."""
        return tensor if self.cut is None else self.cut(tensor)


_PERCEPTION = (
    (r"backbone\.stem\.0", "perception.backbone.embeddings.patch_embeddings"),
    (r"backbone\.stem\.1", "perception.backbone.embeddings.layernorm"),
    (r"backbone\.layer{stage}\.downsample\.(\d)", r"perception.backbone.stages.{stage}.downsampling_layer.\1"),
    (r"backbone\.layer{stage}\.blocks\.(\d+)\.conv_dw", r"perception.backbone.stages.{stage}.layers.\1.dwconv"),
    (r"backbone\.layer{stage}\.blocks\.(\d+)\.norm", r"perception.backbone.stages.{stage}.layers.\1.layernorm"),
    (r"backbone\.layer{stage}\.blocks\.(\d+)\.mlp\.fc1", r"perception.backbone.stages.{stage}.layers.\1.pwconv1"),
    (r"backbone\.layer{stage}\.blocks\.(\d+)\.mlp\.fc2", r"perception.backbone.stages.{stage}.layers.\1.pwconv2"),
    (
        r"backbone\.layer{stage}\.blocks\.(\d+)\.gamma",
        r"perception.backbone.stages.{stage}.layers.\1.layer_scale_parameter",
    ),
    (r"backbone\.head\.0\.norm", "perception.clip_head.norm"),
    (r"backbone\.head\.1\.mlp\.(fc[12])", r"perception.clip_head.\1"),
    (r"panoptic_head\.pixel_decoder\.input_convs\.(\d)\.conv", r"perception.pixel_decoder.input_projections.\1.0"),
    (r"panoptic_head\.pixel_decoder\.input_convs\.(\d)\.gn", r"perception.pixel_decoder.input_projections.\1.1"),
    (r"panoptic_head\.pixel_decoder\.level_encoding\.weight", "perception.pixel_decoder.level_embed"),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.self_attn\.(\w+)",
        r"perception.pixel_decoder.encoder.layers.\1.self_attn.\2",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.ffn\.layers\.0\.0",
        r"perception.pixel_decoder.encoder.layers.\1.fc1",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.ffn\.layers\.1",
        r"perception.pixel_decoder.encoder.layers.\1.fc2",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.norms\.0",
        r"perception.pixel_decoder.encoder.layers.\1.self_attn_layer_norm",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.norms\.1",
        r"perception.pixel_decoder.encoder.layers.\1.final_layer_norm",
    ),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.conv", "perception.pixel_decoder.adapter_1.0"),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.gn", "perception.pixel_decoder.adapter_1.1"),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.conv", "perception.pixel_decoder.layer_1.0"),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.gn", "perception.pixel_decoder.layer_1.1"),
    (r"panoptic_head\.pixel_decoder\.mask_feature", "perception.pixel_decoder.mask_projection"),
    (r"panoptic_head\.(query_embed|query_feat|level_embed)", r"perception.\1"),
    (r"panoptic_head\.iou_embed\.(\d)", r"perception.class_head.score_proj.\1"),
    (r"panoptic_head\.cls_proj\.(\d)", r"perception.class_head.cls_proj.\1"),
    (r"panoptic_head\.mask_pooling_proj\.0", "perception.class_head.pool_norm"),
    (r"panoptic_head\.mask_pooling_proj\.1", "perception.class_head.pool_proj"),
    (r"panoptic_head\.mask_tokens", "perception.prompt_encoder.mask_token"),
    (r"panoptic_head\.pb_embedding", "perception.prompt_encoder.type_embed"),
    (r"panoptic_head\.pos_linear", "perception.prompt_encoder.place_proj"),
)
_DECODER = (
    (r"transformer_decoder\.layers\.(\d+)\.(cross|self)_attn\.attn\.out_proj", r"layers.\1.\2_attention.out"),
    (r"transformer_decoder\.layers\.(\d+)\.ffn\.layers\.0\.0", r"layers.\1.fc1"),
    (r"transformer_decoder\.layers\.(\d+)\.ffn\.layers\.1", r"layers.\1.fc2"),
    (r"transformer_decoder\.layers\.(\d+)\.norms\.0", r"layers.\1.cross_norm"),
    (r"transformer_decoder\.layers\.(\d+)\.norms\.1", r"layers.\1.self_norm"),
    (r"transformer_decoder\.layers\.(\d+)\.norms\.2", r"layers.\1.ffn_norm"),
    (r"transformer_decoder\.post_norm", "post_norm"),
    (r"mask_embed\.(\d)", r"mask_embed.\1"),
)
_PROJECTORS = (
    (r"projector\.model\.query_proj", "projector.query.widen"),
    (r"projector\.model\.model\.(\d)", r"projector.query.mlp.\1"),
    (r"projector\.model\.model_feat\.(\d)", r"projector.pixel.\1"),
    (r"projector\.model\.seperate_embed", "projector.separator"),
    (r"projector\.model\.visual_prompt_query_proj", "projector.prompt_query.widen"),
    (r"projector\.model\.visual_prompt_query_model\.(\d)", r"projector.prompt_query.mlp.\1"),
    (r"projector_text2vision\.model\.(\d)", r"text_projector.mlp.\1"),
)
_OPEN_CLIP = (
    (r"visual\.trunk\.stem\.", "backbone.stem."),
    (r"visual\.trunk\.stages\.(\d)\.", "backbone.layer{stage}."),
    (r"visual\.trunk\.head\.norm\.", "backbone.head.0.norm."),
    (r"visual\.head\.mlp\.", "backbone.head.1.mlp."),
)
_INTERNLM2 = (
    (r"model\.tok_embeddings", "model.embed_tokens"),
    (r"model\.layers\.(\d+)\.attention\.wo", r"model.layers.\1.self_attn.o_proj"),
    (r"model\.layers\.(\d+)\.feed_forward\.w1", r"model.layers.\1.mlp.gate_proj"),
    (r"model\.layers\.(\d+)\.feed_forward\.w3", r"model.layers.\1.mlp.up_proj"),
    (r"model\.layers\.(\d+)\.feed_forward\.w2", r"model.layers.\1.mlp.down_proj"),
    (r"model\.layers\.(\d+)\.attention_norm", r"model.layers.\1.input_layernorm"),
    (r"model\.layers\.(\d+)\.ffn_norm", r"model.layers.\1.post_attention_layernorm"),
    (r"model\.norm", "model.norm"),
    (r"output", "lm_head"),
)
_LEAF = r"(\.weight|\.bias)?"
_PACKED = re.compile(
    r"panoptic_head\.transformer_decoder(?P<own>_llm)?\.layers\.(?P<layer>\d+)\.(?P<which>cross|self)_attn\.attn\."
    r"in_proj_(?P<leaf>weight|bias)"
)
_FACTOR = r"(?P<factor>(?:\.base_layer)?\.weight|\.lora_[AB]\.default\.weight)"
_LLM_PREFIX = re.compile(r"llm\.(?:base_model\.model\.)?")


def open_clip_name(name: str) -> str | None:
    """The name inside OMG-Seg of an OpenCLIP tensor, None for one that it does not use (the text tower)."""
    for pattern, replacement in _OPEN_CLIP:
        match = re.match(pattern, name)
        if match:
            stage = str(int(match.group(1)) + 1) if match.groups() else ""
            return replacement.replace("{stage}", stage) + name[match.end() :]
    return None


def perception_targets(name: str) -> list[Target]:
    """Targets of a tensor of OMG-Seg, `backbone.*` or `panoptic_head.*`; empty for an unknown one."""
    packed = _PACKED.fullmatch(name)
    if packed:
        base = "own_seg_decoder" if packed["own"] else "perception.decoder"
        module = f"{base}.layers.{packed['layer']}.{packed['which']}_attention"
        return [
            Target(f"{module}.{part}.{packed['leaf']}", _third(index))
            for index, part in enumerate(("query", "key", "value"))
        ]
    for own, base in (("", "perception.decoder"), ("_llm", "own_seg_decoder")):
        for pattern, replacement in _DECODER:
            head, _, rest = pattern.partition(r"\.")
            renamed = _renamed(rf"panoptic_head\.{head}{own}\.{rest}", f"{base}.{replacement}", name)
            if renamed:
                return [Target(renamed)]
    for pattern, replacement in _PERCEPTION:
        for stage in range(4) if "{stage}" in pattern else (0,):
            renamed = _renamed(
                pattern.replace("{stage}", str(stage + 1)), replacement.replace("{stage}", str(stage)), name
            )
            if renamed:
                return [Target(renamed)]
    return []


def projector_targets(name: str) -> list[Target]:
    """Targets of a tensor of the projectors; empty for an unknown one."""
    for pattern, replacement in _PROJECTORS:
        renamed = _renamed(pattern, replacement, name)
        if renamed:
            return [Target(renamed)]
    return []


def language_targets(name: str, config: LanguageConfig) -> list[Target]:
    """Targets of a tensor of the language model, as its own folder names it, or with peft's `lora_A` / `lora_B` /
    `base_layer` in it; empty for an unknown one.

    Targets carry the same infix: `llm.model.layers.0.self_attn.q_proj.lora_A.default.weight`.
    """
    match = re.fullmatch(rf"(?P<module>.*?){_FACTOR}", name) or re.fullmatch(r"(?P<module>.*)(?P<factor>\.bias)", name)
    if match is None:
        return []
    module, factor = match["module"], match["factor"]
    if config.family != "internlm2":
        return [Target(f"llm.{module}{factor}")]
    fused = re.fullmatch(r"model\.layers\.(\d+)\.attention\.wqkv", module)
    if fused:
        attention = f"llm.model.layers.{fused[1]}.self_attn"
        cuts = [None] * 3 if factor.startswith(".lora_A") else [_heads(config, index) for index in range(3)]
        return [
            Target(f"{attention}.{part}_proj{factor}", cut) for part, cut in zip(("q", "k", "v"), cuts, strict=True)
        ]
    for pattern, replacement in _INTERNLM2:
        if re.fullmatch(pattern, module):
            return [Target(f"llm.{re.sub(pattern, replacement, module)}{factor}")]
    return []


def without_llm_prefix(name: str) -> str | None:
    """A language model's own name for a tensor of an OMG-LLaVA `.pth`, None for tensors of other parts."""
    match = _LLM_PREFIX.match(name)
    return name[match.end() :] if match else None


def _renamed(pattern: str, replacement: str, name: str) -> str | None:
    match = re.fullmatch(pattern + _LEAF, name)
    if match is None:
        return None
    leaf = match.groups()[-1] or ""
    return match.expand(replacement) + leaf


def _third(index: int) -> Cut:
    return lambda tensor: tensor.chunk(3)[index]


def _heads(config: LanguageConfig, part: int) -> Cut:
    """Rows of queries (0), keys (1) or values (2): per key-value head, its query heads, one key, one value."""
    settings = config.transformers
    groups = int(settings["num_key_value_heads"])
    per_group = int(settings["num_attention_heads"]) // groups
    inside = (slice(0, per_group), slice(per_group, per_group + 1), slice(per_group + 1, per_group + 2))[part]

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        grouped = tensor.unflatten(0, (groups, per_group + 2, -1))
        rows: torch.Tensor = grouped[:, inside].flatten(0, 2)
        return rows

    return cut
