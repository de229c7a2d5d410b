"""InternLM2's fused attention, taken apart by the converter, against loops over heads and a forward pass of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from omg_llava.config import LanguageConfig, LoraConfig
from omg_llava.conversion.plan import Plan, make_plan
from omg_llava.conversion.sources import Tensor
from omg_llava.language_model import build_language_model

from .official_names import ADDED_ROWS, InternLM2, Shapes, internlm2, lora

RANK, SCALE, EPSILON, THETA = 3, 0.5, 1e-5, 1e6
SIZES = {
    "7B's ratio": InternLM2(rows=20, width=32, ffn=12, layers=2, heads=8, kv_heads=2),
    "one group": InternLM2(rows=20, width=24, ffn=12, layers=2, heads=6, kv_heads=1),
    "kv == heads": InternLM2(rows=20, width=24, ffn=12, layers=2, heads=4, kv_heads=4),
    "wide heads": InternLM2(rows=20, width=24, ffn=12, layers=1, heads=2, kv_heads=1),
    "three groups": InternLM2(rows=20, width=36, ffn=12, layers=1, heads=9, kv_heads=3),
}
Values = dict[str, torch.Tensor]


def language_config(sizes: InternLM2, adapters: LoraConfig | None = None) -> LanguageConfig:
    settings = {
        "model_type": "llama",
        "vocab_size": sizes.rows + ADDED_ROWS,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.ffn,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "max_position_embeddings": 64,
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": THETA, "factor": 2.0},
        "tie_word_embeddings": False,
    }
    return LanguageConfig("internlm2", settings, base_vocab=sizes.rows, lora=adapters)


def linears_of(sizes: InternLM2) -> Shapes:
    return sizes.linears() | {"output": (sizes.rows + ADDED_ROWS, sizes.width)}


def drawn(shapes: Shapes, draw: Callable[[tuple[int, ...]], torch.Tensor]) -> Values:
    return {name: draw(shape) for name, shape in shapes.items()}


def whole_numbers(seed: int) -> Callable[[tuple[int, ...]], torch.Tensor]:
    """Small ones: their products and sums are exact in float32, whatever the order."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randint(-8, 9, shape, generator=generator).float()


def small_numbers(seed: int) -> Callable[[tuple[int, ...]], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator) / (shape[-1] ** 0.5 if len(shape) > 1 else 1)


def plan_of(base: Values, checkpoint: Values, config: LanguageConfig) -> Plan:
    language, omg_llava = (
        [Tensor(name, "", tuple(value.shape), value.dtype, lambda value=value: value) for name, value in part.items()]
        for part in (base, checkpoint)
    )
    return make_plan([], omg_llava, language, config)


def rows_by_head(fused: torch.Tensor, sizes: InternLM2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of a fused matrix, copied head by head."""
    queries, keys, values = [], [], []
    row = 0
    for _ in range(sizes.kv_heads):
        for parts in (*[queries] * (sizes.heads // sizes.kv_heads), keys, values):
            for _ in range(sizes.head_dim):
                parts.append(fused[row])
                row += 1
    assert row == len(fused)
    return torch.stack(queries), torch.stack(keys), torch.stack(values)


def official(sizes: InternLM2, draw: Callable[[tuple[int, ...]], torch.Tensor]) -> tuple[Values, Values]:
    """Random weights as published: the language model's folder, and adapters with the grown vocabulary."""
    grown = (sizes.rows + ADDED_ROWS, sizes.width)
    vocabulary = ("model.tok_embeddings.weight", "output.base_layer.weight")
    prefix = "llm.base_model.model."
    shapes = {prefix + name: grown for name in vocabulary} | lora(linears_of(sizes), RANK)
    return drawn(internlm2(sizes), draw), drawn(shapes, draw)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_rows_of_weights_and_adapters(sizes: InternLM2) -> None:
    base, checkpoint = official(sizes, whole_numbers(1))
    adapters = LoraConfig(RANK, RANK * SCALE)
    plan = plan_of(base, checkpoint, language_config(sizes, adapters))
    kept = dict(plan.tensors(adapters, SCALE))
    for layer in range(sizes.layers):
        fused = f"model.layers.{layer}.attention.wqkv"
        first = checkpoint[f"llm.base_model.model.{fused}.lora_A.default.weight"]
        second = checkpoint[f"llm.base_model.model.{fused}.lora_B.default.weight"]
        rows = zip("qkv", rows_by_head(base[f"{fused}.weight"], sizes), rows_by_head(second, sizes), strict=True)
        for part, weight, factor in rows:
            ours = f"llm.model.layers.{layer}.self_attn.{part}_proj"
            assert torch.equal(kept[f"{ours}.base_layer.weight"], weight)
            assert torch.equal(kept[f"{ours}.lora_A.default.weight"], first)
            assert torch.equal(kept[f"{ours}.lora_B.default.weight"], factor)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_merging_before_or_after_the_cut_is_the_same(sizes: InternLM2) -> None:
    base, checkpoint = official(sizes, whole_numbers(2))
    merged = dict(plan_of(base, checkpoint, language_config(sizes)).tensors(None, SCALE))
    for layer in range(sizes.layers):
        module = f"model.layers.{layer}.attention.wqkv"
        second, first = (checkpoint[f"llm.base_model.model.{module}.lora_{part}.default.weight"] for part in "BA")
        fused = base[f"{module}.weight"] + SCALE * second @ first
        for part, expected in zip("qkv", rows_by_head(fused, sizes), strict=True):
            assert torch.equal(merged[f"llm.model.layers.{layer}.self_attn.{part}_proj.weight"], expected)


def test_merging_adds_in_float32_and_keeps_the_stored_type() -> None:
    """A product that bfloat16 cannot hold decides the last bit of the sum."""
    sizes = SIZES["one group"]
    base, checkpoint = official(sizes, small_numbers(3))
    base = {name: value.bfloat16() for name, value in base.items()}
    checkpoint = {name: value.bfloat16() for name, value in checkpoint.items()}
    merged = dict(plan_of(base, checkpoint, language_config(sizes)).tensors(None, SCALE))
    module = "model.layers.1.feed_forward.w2"
    second, first = (checkpoint[f"llm.base_model.model.{module}.lora_{part}.default.weight"].double() for part in "BA")
    exact = base[f"{module}.weight"].double() + SCALE * second @ first
    found = merged["llm.model.layers.1.mlp.down_proj.weight"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.float().bfloat16())


class FusedInternLM2:
    """InternLM2 with adapters, from its formulas: fused attention, RMSNorm, half-split RoPE, SwiGLU (spec 6.1)."""

    def __init__(self, base: Values, checkpoint: Values, sizes: InternLM2) -> None:
        trained = {name.removeprefix("llm.base_model.model."): value for name, value in checkpoint.items()}
        self.weights = base | {name.replace(".base_layer", ""): value for name, value in trained.items()}
        self.sizes = sizes

    def linear(self, module: str, x: torch.Tensor) -> torch.Tensor:
        """W x + 0.5 B (A x)."""
        down = F.linear(x, self.weights[f"{module}.lora_A.default.weight"])
        up = F.linear(down, self.weights[f"{module}.lora_B.default.weight"])
        return F.linear(x, self.weights[f"{module}.weight"]) + SCALE * up

    def norm(self, module: str, x: torch.Tensor) -> torch.Tensor:
        return self.weights[f"{module}.weight"] * x / torch.sqrt(x.square().mean(-1, keepdim=True) + EPSILON)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, head_dim): channel c turns with channel c + head_dim / 2."""
        half = self.sizes.head_dim // 2
        frequencies = THETA ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        low, high = x[..., :half], x[..., half:]
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

    def attention(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        sizes, per_group = self.sizes, self.sizes.heads // self.sizes.kv_heads
        heads = self.linear(f"{layer}.attention.wqkv", x).split(sizes.head_dim, dim=-1)
        blocked = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        seen = []
        for group in range(sizes.kv_heads):
            *queries, key, value = heads[group * (per_group + 2) : (group + 1) * (per_group + 2)]
            for query in queries:
                scores = self.rotate(query) @ self.rotate(key).transpose(1, 2) / sizes.head_dim**0.5
                seen.append(scores.masked_fill(blocked, float("-inf")).softmax(dim=-1) @ value)
        return self.linear(f"{layer}.attention.wo", torch.cat(seen, dim=-1))

    def feed_forward(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        gate = self.linear(f"{layer}.feed_forward.w1", x)
        up = self.linear(f"{layer}.feed_forward.w3", x)
        return self.linear(f"{layer}.feed_forward.w2", gate * gate.sigmoid() * up)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.weights["model.tok_embeddings.weight"][ids]
        for index in range(self.sizes.layers):
            layer = f"model.layers.{index}"
            x = x + self.attention(layer, self.norm(f"{layer}.attention_norm", x))
            x = x + self.feed_forward(layer, self.norm(f"{layer}.ffn_norm", x))
        return self.linear("output", self.norm("model.norm", x))


def converted(base: Values, checkpoint: Values, config: LanguageConfig) -> Any:
    """transformers' model with what the converter makes of these weights."""
    made = plan_of(base, checkpoint, config).tensors(config.lora, SCALE)
    llm = build_language_model(config)
    llm.load_state_dict({name.removeprefix("llm."): value for name, value in made}, strict=True)
    return llm.eval()


@pytest.mark.parametrize("kept", [False, True], ids=["merged", "kept"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_logits_are_those_of_the_fused_model(sizes: InternLM2, kept: bool) -> None:
    base, checkpoint = official(sizes, small_numbers(4))
    config = language_config(sizes, LoraConfig(RANK, RANK * SCALE) if kept else None)
    ids = torch.randint(0, sizes.rows + ADDED_ROWS, (2, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = FusedInternLM2(base, checkpoint, sizes).logits(ids)
        found = converted(base, checkpoint, config)(input_ids=ids).logits
        unlike = converted(base, {name: -value for name, value in checkpoint.items()}, config)(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (unlike - expected).abs().max() > 1e-2


def test_adapters_trained_with_another_scale_give_other_logits() -> None:
    sizes = SIZES["7B's ratio"]
    base, checkpoint = official(sizes, small_numbers(6))
    config = language_config(sizes, LoraConfig(RANK, RANK * SCALE))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        half = converted(base, checkpoint, config)(input_ids=ids).logits
        whole = dataclasses.replace(config, lora=LoraConfig(RANK, RANK))
        assert (converted(base, checkpoint, whole)(input_ids=ids).logits - half).abs().max() > 1e-2
