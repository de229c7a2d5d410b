"""Which model answers: identity, devices, number formats, four bits."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from omg_llava.adapter import OmgLlavaAdapter
from omg_llava.assistant import Assistant
from omg_llava.checkpoint import load_model, save_model
from omg_llava.config import LoraConfig
from omg_llava.model import OmgLlava
from omgbench.contract import (
    Intent,
    ModelIdentity,
    Placement,
)
from omgbench.errors import UserError

from .adapter_requests import FRAMES, MakeAdapter, answers, everything
from .lively import (
    SIZES_WH,
    lively_model,
    request,
    small_config,
)

# Identity


def _identity(folder: Path, dtype: str = "auto", **options: Any) -> ModelIdentity:
    adapter = OmgLlavaAdapter(str(folder), **options)
    adapter.load(Placement("cpu", dtype))
    identity = adapter.identity()
    adapter.close()
    return identity


@pytest.fixture
def copied(lively_folder: Path, tmp_path: Path) -> Path:
    """The model's folder, to be changed."""
    return Path(shutil.copytree(lively_folder, tmp_path / "copied"))


def test_the_identity_is_that_of_the_content(lively_folder: Path, copied: Path) -> None:
    assert _identity(copied) == _identity(lively_folder) == _identity(lively_folder, cache_mb=3)
    assert _identity(copied, "float32") == _identity(lively_folder)


def test_the_identity_changes_with_what_changes_answers(lively: Assistant, lively_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = lively_model(small_config())
    model.perception.decoder.mask_embed[4].bias[0] += 1e-3
    save_model(model, tokenizer, tmp_path / "other")
    identities = [
        _identity(lively_folder),
        _identity(tmp_path / "other"),
        _identity(lively_folder, "bfloat16"),
        _identity(lively_folder, "float16"),
        _identity(lively_folder, grounded_questions=2),
        _identity(lively_folder, clip_ids="query"),
    ]
    assert all(identities.count(identity) == 1 for identity in identities)


def _edit_embedding(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["seg_token"]["embedding"] = "mean"
    (folder / "config.json").write_text(json.dumps(config))


def _edit_prior(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["projector"]["use_prior"] = False
    (folder / "config.json").write_text(json.dumps(config))


def _edit_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("edit", [_edit_embedding, _edit_prior, _edit_tokenizer])
def test_the_identity_changes_with_files_beside_the_weights(
    lively_folder: Path, copied: Path, edit: Callable[[Path], None]
) -> None:
    """Each of these edits changes answers and leaves the weights as they are."""
    edit(copied)
    assert _identity(copied) != _identity(lively_folder)


# Devices and number formats


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_number_formats(make_adapter: MakeAdapter, dtype: str) -> None:
    adapter = make_adapter(dtype=dtype)
    assert adapter.identity().options["language_model_dtype"] == dtype
    found = answers(adapter, *(each for n, image in enumerate(FRAMES) for each in everything(image, prefix=f"{n}")))
    assert not any(response.status.failed for response in found)
    sizes = {mask.rle.size for response in found for mask in response.masks}
    assert sizes == {(height, width) for width, height in SIZES_WH}


def test_load_says_what_auto_became(lively_folder: Path) -> None:
    adapter = OmgLlavaAdapter(str(lively_folder))
    assert adapter.load(Placement("cpu", "auto", worker=3)) == Placement("cpu", "float32", worker=3)
    assert adapter.load(Placement("cpu", "bfloat16")) == Placement("cpu", "bfloat16")


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("tpu9", "auto", "tpu9"),
        ("", "auto", "device"),
        ("cuda:99", "auto", "cuda:99"),
        ("cuda:x", "auto", "cuda:x"),
        ("meta", "auto", "meta"),
        ("cpu", "float64", "float64"),
        ("cpu", "half", "half"),
    ],
)
def test_a_wrong_device_or_format_is_a_message(lively_folder: Path, device: str, dtype: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OmgLlavaAdapter(str(lively_folder)).load(Placement(device, dtype))


def test_a_model_may_be_loaded_again_otherwise(lively_folder: Path) -> None:
    """What was seen before has another number format."""
    adapter = OmgLlavaAdapter(str(lively_folder))
    for dtype in ("float32", "bfloat16", "float32"):
        adapter.load(Placement("cpu", dtype))
        [response] = answers(adapter, request("0", Intent.CHAT, FRAMES[0], "Why?"))
        assert response.text


def test_weights_must_be_named() -> None:
    with pytest.raises(UserError, match="weights"):
        OmgLlavaAdapter().load(Placement("cpu"))
    assert OmgLlavaAdapter().capabilities().intents == frozenset(Intent)


@pytest.mark.parametrize(
    "options",
    [
        {"grounded_questions": 0},
        {"grounded_questions": 7},
        {"grounded_questions": "two"},
        {"cache_mb": -1},
        {"cache_mb": 0.5},
        {"four_bit": "yes"},
        {"clip_ids": "mine"},
    ],
    ids=str,
)
def test_a_wrong_option_is_a_message(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(UserError, match=name):
        OmgLlavaAdapter("x", **options)


# Four bits


@pytest.fixture(scope="module")
def lora_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that keeps its adapters, none of them zero."""
    pytest.importorskip("peft")
    config = small_config()
    language = dataclasses.replace(config.language, lora=LoraConfig(rank=4, alpha=8.0, dropout=0.0))
    model, tokenizer = lively_model(dataclasses.replace(config, language=language))
    folder = tmp_path_factory.mktemp("lora") / "model"
    save_model(model, tokenizer, folder)
    return folder


def _linear_layers(model: OmgLlava) -> Iterator[tuple[str, torch.nn.Module]]:
    return ((name, part) for name, part in model.llm.named_modules() if isinstance(part, torch.nn.Linear))


def test_four_bits_hold_the_layers_but_not_the_head_and_adapters(lora_folder: Path) -> None:
    four = pytest.importorskip("bitsandbytes").nn.Linear4bit
    model, _ = load_model(lora_folder, four_bit=True)
    for name, part in _linear_layers(model):
        is_base = "layers." in name and "lora_" not in name
        assert isinstance(part, four) == is_base, name
        if is_base:
            assert part.weight.quant_state.quant_type == "nf4"
            assert part.weight.quant_state.nested
            assert part.weight.dtype == torch.uint8
            assert part.weight.numel() == part.in_features * part.out_features // 2


def test_four_bits_answer(make_adapter: MakeAdapter, lora_folder: Path, lively_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    for folder in (lora_folder, lively_folder):
        adapter = make_adapter(folder, four_bit=True)
        found = answers(adapter, *everything(FRAMES[0]), *everything(FRAMES[2], prefix="2"))
        assert not any(response.status.failed for response in found)
        whole = make_adapter(folder)
        assert [each.identity().options["four_bit"] for each in (whole, adapter)] == ["False", "True"]
        assert whole.identity() != adapter.identity()
        exact = answers(whole, *everything(FRAMES[0]), *everything(FRAMES[2], prefix="2"))
        assert [each.choices for each in found] != [each.choices for each in exact]
        for one, other in zip(found, exact, strict=True):
            assert one.panoptic == other.panoptic
            if one.id.endswith("interactive"):
                assert one.masks == other.masks


def test_four_bits_are_near_the_exact_model(lively: Assistant, lively_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model, _ = load_model(lively_folder, four_bit=True)
    ids = torch.arange(20, 60)[None]
    exact, found = (each.llm(input_ids=ids).logits.flatten() for each in (lively.model, model))
    assert not torch.equal(exact, found)
    assert torch.nn.functional.cosine_similarity(exact, found, dim=0) > 0.7
