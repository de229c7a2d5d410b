"""Names and shapes of the tensors in the official files, written as rules (spec 10.2 to 10.5)."""

from __future__ import annotations

from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]

ADDED_ROWS = 4
"""`[SEG]`, `<p>`, `</p>`, `<region>`: rows that both vocabulary matrices gain."""


@dataclass(frozen=True)
class Perception:
    """Sizes of OMG-Seg; the released ones unless told otherwise."""

    depths: tuple[int, ...] = (3, 3, 27, 3)
    widths: tuple[int, ...] = (192, 384, 768, 1536)
    clip: int = 768
    width: int = 256
    pixel_layers: int = 6
    pixel_ffn: int = 1024
    layers: int = 9
    ffn: int = 2048
    queries: int = 300
    heads: int = 8
    levels: int = 3
    points: int = 4


@dataclass(frozen=True)
class InternLM2:
    """Sizes of the language model; those of InternLM2-7B unless told otherwise."""

    rows: int = 92544
    width: int = 4096
    ffn: int = 14336
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def fused_rows(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def linears(self) -> Shapes:
        """Linear layers without the head: module to (out, in)."""
        found: Shapes = {}
        for index in range(self.layers):
            layer = f"model.layers.{index}"
            found[f"{layer}.attention.wqkv"] = (self.fused_rows, self.width)
            found[f"{layer}.attention.wo"] = (self.width, self.width)
            found[f"{layer}.feed_forward.w1"] = (self.ffn, self.width)
            found[f"{layer}.feed_forward.w3"] = (self.ffn, self.width)
            found[f"{layer}.feed_forward.w2"] = (self.width, self.ffn)
        return found


def n_parameters(shapes: Shapes) -> int:
    """Numbers in all tensors together."""
    total = 0
    for shape in shapes.values():
        count = 1
        for edge in shape:
            count *= edge
        total += count
    return total


def _pair(module: str, *weight: int) -> Shapes:
    """Weight and bias of a linear layer, a convolution, or a norm."""
    return {f"{module}.weight": weight, f"{module}.bias": weight[:1]}


def backbone(sizes: Perception) -> Shapes:
    """`backbone.*` of OMG-Seg, the CLIP head left out."""
    first, *_ = sizes.widths
    found = _pair("backbone.stem.0", first, 3, 4, 4) | _pair("backbone.stem.1", first)
    for stage, (depth, c) in enumerate(zip(sizes.depths, sizes.widths, strict=True), start=1):
        layer = f"backbone.layer{stage}"
        if stage > 1:
            previous = sizes.widths[stage - 2]
            found |= _pair(f"{layer}.downsample.0", previous) | _pair(f"{layer}.downsample.1", c, previous, 2, 2)
        for n in range(depth):
            block = f"{layer}.blocks.{n}"
            found |= _pair(f"{block}.conv_dw", c, 1, 7, 7) | _pair(f"{block}.norm", c)
            found |= _pair(f"{block}.mlp.fc1", 4 * c, c) | _pair(f"{block}.mlp.fc2", c, 4 * c)
            found[f"{block}.gamma"] = (c,)
    return found


def clip_head(sizes: Perception) -> Shapes:
    """`backbone.head.*`."""
    last, hidden = sizes.widths[-1], 2 * sizes.clip
    found = _pair("backbone.head.0.norm", last) | _pair("backbone.head.1.mlp.fc1", hidden, last)
    return found | {"backbone.head.1.mlp.fc2.weight": (sizes.clip, hidden)}


def _pixel_decoder(sizes: Perception) -> Shapes:
    c, base = sizes.width, "panoptic_head.pixel_decoder"
    found: Shapes = {f"{base}.level_encoding.weight": (sizes.levels, c)}
    for level, width in enumerate(reversed(sizes.widths[1:])):
        found |= _pair(f"{base}.input_convs.{level}.conv", c, width, 1, 1) | _pair(f"{base}.input_convs.{level}.gn", c)
    samples = sizes.heads * sizes.levels * sizes.points
    for index in range(sizes.pixel_layers):
        layer = f"{base}.encoder.layers.{index}"
        found |= _pair(f"{layer}.self_attn.sampling_offsets", 2 * samples, c)
        found |= _pair(f"{layer}.self_attn.attention_weights", samples, c)
        found |= _pair(f"{layer}.self_attn.value_proj", c, c) | _pair(f"{layer}.self_attn.output_proj", c, c)
        found |= _pair(f"{layer}.ffn.layers.0.0", sizes.pixel_ffn, c) | _pair(
            f"{layer}.ffn.layers.1", c, sizes.pixel_ffn
        )
        found |= _pair(f"{layer}.norms.0", c) | _pair(f"{layer}.norms.1", c)
    found[f"{base}.lateral_convs.0.conv.weight"] = (c, sizes.widths[0], 1, 1)
    found[f"{base}.output_convs.0.conv.weight"] = (c, c, 3, 3)
    found |= _pair(f"{base}.lateral_convs.0.gn", c) | _pair(f"{base}.output_convs.0.gn", c)
    return found | _pair(f"{base}.mask_feature", c, c, 1, 1)


def _mlp(module: str, c: int, out: int) -> Shapes:
    return _pair(f"{module}.0", c, c) | _pair(f"{module}.2", c, c) | _pair(f"{module}.4", out, c)


def decoder(sizes: Perception, own: bool) -> Shapes:
    """The decoder and its mask head: the shared one, or the `_llm` copies of the RefSeg and GCG files."""
    c, copy = sizes.width, "_llm" if own else ""
    base = f"panoptic_head.transformer_decoder{copy}"
    found = _pair(f"{base}.post_norm", c) | _mlp(f"panoptic_head.mask_embed{copy}", c, c)
    for index in range(sizes.layers):
        layer = f"{base}.layers.{index}"
        for attention in (f"{layer}.cross_attn.attn", f"{layer}.self_attn.attn"):
            found |= {f"{attention}.in_proj_weight": (3 * c, c), f"{attention}.in_proj_bias": (3 * c,)}
            found |= _pair(f"{attention}.out_proj", c, c)
        found |= _pair(f"{layer}.ffn.layers.0.0", sizes.ffn, c) | _pair(f"{layer}.ffn.layers.1", c, sizes.ffn)
        found |= _pair(f"{layer}.norms.0", c) | _pair(f"{layer}.norms.1", c) | _pair(f"{layer}.norms.2", c)
    return found


def panoptic_head(sizes: Perception) -> Shapes:
    """`panoptic_head.*` of OMG-Seg."""
    c, base = sizes.width, "panoptic_head"
    found = _pixel_decoder(sizes) | decoder(sizes, own=False)
    found |= {f"{base}.query_embed.weight": (sizes.queries, c), f"{base}.query_feat.weight": (sizes.queries, c)}
    found[f"{base}.level_embed.weight"] = (sizes.levels, c)
    found |= _mlp(f"{base}.iou_embed", c, 1) | _mlp(f"{base}.cls_proj", c, sizes.clip)
    found |= _pair(f"{base}.mask_pooling_proj.0", c) | _pair(f"{base}.mask_pooling_proj.1", c, c)
    found |= {f"{base}.mask_tokens.weight": (1, c), f"{base}.pb_embedding.weight": (2, c)}
    return found | _pair(f"{base}.pos_linear", c, 2 * c)


def omg_seg(sizes: Perception) -> Shapes:
    """All of `omg_seg_convl.pth`."""
    return backbone(sizes) | clip_head(sizes) | panoptic_head(sizes)


def open_clip(sizes: Perception) -> Shapes:
    """OpenCLIP's own file: the image tower by its original names, and a few tensors of the text tower."""
    found: Shapes = {"logit_scale": (), "positional_embedding": (77, sizes.clip), "text_projection": (sizes.clip,) * 2}
    found["transformer.resblocks.0.attn.in_proj_weight"] = (3 * sizes.clip, sizes.clip)
    found |= {"token_embedding.weight": (49408, sizes.clip), "ln_final.bias": (sizes.clip,)}
    for name, shape in (backbone(sizes) | clip_head(sizes)).items():
        part, rest = name.removeprefix("backbone.").split(".", 1)
        if part.startswith("layer"):
            found[f"visual.trunk.stages.{int(part[-1]) - 1}.{rest}"] = shape
        elif part == "stem":
            found[f"visual.trunk.stem.{rest}"] = shape
        elif rest.startswith("0.norm."):
            found[f"visual.trunk.head.{rest[2:]}"] = shape
        else:
            found[f"visual.head.{rest[2:]}"] = shape
    return found


def internlm2(sizes: InternLM2) -> Shapes:
    """The language model's folder as published."""
    found: Shapes = {f"{module}.weight": shape for module, shape in sizes.linears().items()}
    for index in range(sizes.layers):
        found[f"model.layers.{index}.attention_norm.weight"] = (sizes.width,)
        found[f"model.layers.{index}.ffn_norm.weight"] = (sizes.width,)
    found["model.norm.weight"] = (sizes.width,)
    found["model.tok_embeddings.weight"] = (sizes.rows, sizes.width)
    return found | {"output.weight": (sizes.rows, sizes.width)}


def lora(linears: Shapes, rank: int) -> Shapes:
    """peft's two factors for each linear layer, (out, in), of the wrapped language model."""
    found: Shapes = {}
    for module, (out, inside) in linears.items():
        base = f"llm.base_model.model.{module}"
        found[f"{base}.lora_A.default.weight"] = (rank, inside)
        found[f"{base}.lora_B.default.weight"] = (out, rank)
    return found


def projectors(width: int, perception: Perception) -> Shapes:
    """Both projectors, for a language model of `width`."""
    embedding, folded = 2 * perception.width, 4 * perception.widths[-1]
    visual, text = "projector.model", "projector_text2vision.model"
    found = _pair(f"{visual}.query_proj", folded, embedding)
    found |= _pair(f"{visual}.model.0", width, folded) | _pair(f"{visual}.model.2", width, width)
    found |= _pair(f"{visual}.model_feat.0", width, folded + embedding) | _pair(f"{visual}.model_feat.2", width, width)
    found[f"{visual}.seperate_embed.weight"] = (1, width)
    return found | _pair(f"{text}.0", embedding, width) | _pair(f"{text}.2", embedding, embedding)


def stage_1(language: InternLM2, perception: Perception) -> Shapes:
    """`omg_llava_7b_pretrain_8gpus.pth`: no adapters, no infix."""
    vocabulary = (language.rows + ADDED_ROWS, language.width)
    names = ("llm.model.tok_embeddings.weight", "llm.output.weight")
    return dict.fromkeys(names, vocabulary) | projectors(language.width, perception)


def stage_2(
    language: InternLM2, perception: Perception, *, rank: int = 512, own_decoder: bool = False, old_peft: bool = False
) -> Shapes:
    """`omg_llava_7b_finetune_8gpus.pth`; with its own decoder, the RefSeg and GCG files.

    Args:
        old_peft: before 0.7 it left the name of a layer's own weight as it was.
    """
    vocabulary = (language.rows + ADDED_ROWS, language.width)
    head = "llm.base_model.model.output.weight" if old_peft else "llm.base_model.model.output.base_layer.weight"
    found: Shapes = {"llm.base_model.model.model.tok_embeddings.weight": vocabulary, head: vocabulary}
    found |= lora(language.linears() | {"output": vocabulary}, rank) | projectors(language.width, perception)
    if own_decoder:
        found |= {f"visual_encoder.{name}": shape for name, shape in decoder(perception, own=True).items()}
    return found
