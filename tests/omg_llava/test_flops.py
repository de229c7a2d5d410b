"""The arithmetic of `benchmarks/omg_llava_flops.py` against torch's own counter on the tiny model."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from omg_llava.config import OmgLlavaConfig, load_config
from omg_llava.language_model import run_transformer
from omg_llava.model import OmgLlava, Percept
from omg_llava.untrained import untrained_model

N_PREFIX, N_QUESTION = 30, 70
TOLERANCE = 0.01


@pytest.fixture(scope="module")
def flops() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "omg_llava_flops.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def sizes() -> dict[str, OmgLlavaConfig]:
    """The tiny model, and one where no two widths, depths or lengths that could be mixed up are the same."""
    tiny = load_config("omg_llava_bytes")
    settings = {**tiny.language.transformers, "hidden_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4}
    [shapes] = tiny.class_sets
    many = dataclasses.replace(shapes, name="many", n_prototypes=90)
    other = dataclasses.replace(
        tiny,
        image=dataclasses.replace(tiny.image, side=192),
        backbone=dataclasses.replace(tiny.backbone, depths=(1, 3, 2, 1), widths=(32, 40, 72, 136), clip_dim=48),
        segmenter=dataclasses.replace(tiny.segmenter, width=64, pixel_decoder_layers=3, decoder_layers=4, n_queries=45),
        language=dataclasses.replace(tiny.language, transformers={**settings, "num_hidden_layers": 3}),
        class_sets=(shapes, many),
        prior_class_set="many",
    )
    return {"tiny": tiny, "other": other}


@pytest.fixture(scope="module", params=sizes())
def model(request: pytest.FixtureRequest) -> OmgLlava:
    made, _ = untrained_model(sizes()[request.param])
    return made


@pytest.fixture(scope="module")
def percept(model: OmgLlava) -> Percept:
    side = model.config.image.side
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.perceive(pixels)[0]


def counted(action: Callable[[], Any]) -> int:
    """Operations that torch counts; attention taken apart, as its fused kernel for CPUs is unknown to the counter."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        action()
    return int(counter.get_total_flops())


def close(value: int) -> Any:
    return pytest.approx(value, rel=TOLERANCE)


def test_perception(flops: ModuleType, model: OmgLlava, percept: Percept) -> None:
    config, net = model.config, model.perception
    pixels = torch.zeros(1, 3, config.image.side, config.image.side)
    maps = net.backbone(pixels)
    assert close(counted(lambda: net.backbone(pixels))) == flops.backbone(config)
    assert close(counted(lambda: net.pixel_decoder(maps))) == flops.pixel_decoder(config)
    objects = flops.mask_decoder(config, config.segmenter.n_queries, isolated=False)
    assert close(counted(lambda: net.objects(percept.features))) == objects
    decoded = net.objects(percept.features)
    inputs = decoded.queries, decoded.mask_logits, percept.features, model.prototypes()
    assert close(counted(lambda: net.class_logits(*inputs))) == flops.class_head(config)


def test_a_whole_look(flops: ModuleType, model: OmgLlava, percept: Percept) -> None:
    config, n_objects = model.config, int(percept.prior.kept.sum())
    pixels = torch.zeros(1, 3, config.image.side, config.image.side)
    whole = flops.backbone(config) + flops.pixel_decoder(config) + flops.query_decoder(config)
    seen = counted(lambda: model.perceive(pixels))
    tokens = counted(lambda: model.image_tokens(percept))
    assert close(seen + tokens) == whole + flops.image_tokens(config, n_objects)
    assert len(model.image_tokens(percept)) == flops.n_prefix_tokens(config, 0, n_objects)


@pytest.mark.parametrize("n_segs", [1, 5])
def test_seg_decoding(flops: ModuleType, model: OmgLlava, percept: Percept, n_segs: int) -> None:
    states = torch.randn(n_segs, model.config.language.hidden_size, generator=torch.Generator().manual_seed(1))
    measured = counted(lambda: model.decode_seg(percept.features, states))
    assert close(measured) == flops.seg_decoding(model.config, n_segs)


@pytest.mark.parametrize("n_before", [0, N_PREFIX])
@pytest.mark.parametrize("n_tokens", [1, N_QUESTION])
def test_language_model(flops: ModuleType, model: OmgLlava, n_before: int, n_tokens: int) -> None:
    language, cache = model.config.language, DynamicCache()
    embeds = torch.randn(1, n_before + n_tokens, language.hidden_size, generator=torch.Generator().manual_seed(2))
    if n_before:
        with torch.no_grad():
            run_transformer(model.llm, model.seg_state, embeds[:, :n_before], cache=cache)
    own = embeds[:, n_before:]
    measured = counted(lambda: run_transformer(model.llm, model.seg_state, own, cache=cache))
    assert close(measured) == flops.transformer(language, n_tokens, n_before)
    assert counted(lambda: model.logits(embeds[0, :1])) == flops.vocabulary(language)


def test_the_cached_prefix_costs_what_the_whole_does(flops: ModuleType) -> None:
    """But for the attention of the prefix to the question, which a causal mask throws away."""
    config = load_config("omg_llava_7b")
    whole = flops.transformer(config.language, N_PREFIX + N_QUESTION, 0)
    apart = flops.transformer(config.language, N_PREFIX, 0) + flops.transformer(config.language, N_QUESTION, N_PREFIX)
    unseen = config.language.n_layers * flops.attention(N_PREFIX, N_QUESTION, config.language.hidden_size)
    assert whole - apart == unseen
    assert unseen < 0.01 * whole


def test_shares(flops: ModuleType) -> None:
    """Sharing never costs more, and with one question there is nothing to share."""
    config = load_config("omg_llava_7b")
    lengths = {"n_head_tokens": 4, "n_objects": 60}
    for n_questions, n_segs in ((7, 1), (18, 0), (1, 1)):
        load = flops.Load(n_questions, 20, 12, n_segs)
        for part in flops.parts(config, load, **lengths):
            assert 0 <= part.shared <= part.encoded_once <= part.alone
            if n_questions == 1:
                assert part.shared == part.alone
