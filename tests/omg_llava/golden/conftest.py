"""The recorded tensors of the official model, and our model built from the same weights through our converter."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from omg_llava.assistant import Assistant
from omg_llava.checkpoint import load_model
from omg_llava.config import (
    BackboneConfig,
    ImageConfig,
    OmgLlavaConfig,
    ProjectorConfig,
    SegmenterConfig,
    load_config,
)
from omg_llava.conversion.convert import ConversionOptions, convert
from omg_llava.conversion.sources import Sources
from omg_llava.model import OmgLlava

COMPARED: set[tuple[str, str]] = set()
"""File and tensor of every comparison of this process."""
ELSEWHERE = ("h_vpq",)
"""Compared by the tests of the metric."""
REPOSITORY = Path(__file__).resolve().parents[3]
RTOL = 1e-4
FIXED = {"gn_groups": 32, "num_points": 4, "strides": [4, 8, 16, 32]}
"""Sizes that no official file leaves open."""


@dataclass(frozen=True)
class Goldens:
    """A folder of recorded tensors."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    @cached_property
    def tolerances(self) -> dict[str, dict[str, str]]:
        return json.loads((self.folder / "tolerances.json").read_text())

    @cached_property
    def keys(self) -> dict[str, Any]:
        return json.loads((self.folder / "checkpoint_keys.json").read_text())

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """All parameters by their official names, float32, aliases filled in."""
        found = {name: tensor.float() for name, tensor in load_file(self.folder / "weights.safetensors").items()}
        aliases = self.config.get("weight_aliases", {})
        return found | {name: found[source].clone() for name, source in aliases.items()}

    def has(self, stage: str) -> bool:
        return (self.folder / f"{stage}.safetensors").exists()

    def stage(self, name: str) -> Stage:
        if not self.has(name):
            pytest.skip(f"no {name}.safetensors in {self.folder}")
        tensors = load_file(self.folder / f"{name}.safetensors")
        return Stage(name, tensors, self.tolerances[name])

    def to_compare(self) -> set[tuple[str, str]]:
        """File and tensor of everything that is not an input."""
        return {
            (stage, name)
            for stage, rules in self.tolerances.items()
            if stage not in ELSEWHERE and self.has(stage)
            for name in self.stage(stage).tensors
            if rules[name] != "input"
        }


@dataclass(frozen=True)
class Stage:
    """The tensors of one file, and which of them were compared."""

    name: str
    tensors: dict[str, torch.Tensor]
    tolerances: dict[str, str]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def matching(self, pattern: str) -> Iterator[tuple[re.Match[str], torch.Tensor]]:
        """Tensors whose whole name matches."""
        for name, tensor in self.tensors.items():
            match = re.fullmatch(pattern, name)
            if match:
                yield match, tensor

    def recorded(self, name: str) -> torch.Tensor:
        """A tensor that the caller compares."""
        COMPARED.add((self.name, name))
        return self.tensors[name]

    def check(self, name: str, found: torch.Tensor, where: torch.Tensor | None = None) -> None:
        """`found` equals the recorded tensor within its stated tolerance; `where` limits the comparison."""
        expected, rule = self.recorded(name), self.tolerances[name]
        assert rule != "input", f"{name} is no result"
        assert found.shape == expected.shape, f"{name}: {tuple(found.shape)} is not {tuple(expected.shape)}"
        if where is not None:
            found, expected = found[where], expected[where]
        if rule == "exact":
            assert torch.equal(found.to(expected.dtype).cpu(), expected), f"{name}: {_differing(found, expected)}"
        elif rule.startswith("at most 0.1 %"):
            share = (found.to(expected.dtype) != expected).float().mean()
            assert share <= 1e-3, f"{name}: {share:.2%} of the pixels differ"
        else:
            torch.testing.assert_close(
                found.float(), expected, atol=self.atol(name), rtol=RTOL, msg=lambda text: f"{name}: {text}"
            )

    def atol(self, name: str) -> float:
        """The absolute tolerance of a tensor of floats."""
        return float(re.match(r"atol ([\d.e+-]+)", self.tolerances[name])[1])

    def check_class_logits(self, name: str, found: torch.Tensor, mask_logits: torch.Tensor) -> None:
        """Class logits (B, N, K + 1) of masks (B, N, T, h, w). They jump where a mask logit changes sign: the rule of
        some tensors excepts rows with a mask logit within 1e-4 of zero, which are held to atol 0.5.
        """
        rows = mask_logits.flatten(2).abs().amin(dim=-1) < (1e-4 if "except rows" in self.tolerances[name] else 0)
        torch.testing.assert_close(found[rows], self.tensors[name][rows], atol=0.5, rtol=RTOL)
        self.check(name, found, ~rows)


def _differing(found: torch.Tensor, expected: torch.Tensor) -> str:
    return f"{int((found.to(expected.dtype) != expected).sum())} of {expected.numel()} differ"


@pytest.fixture(scope="session")
def goldens() -> Goldens:
    folder = Path(os.environ.get("OMGBENCH_GOLDENS", REPOSITORY / "../shared/reference/goldens")).resolve()
    if not (folder / "weights.safetensors").exists():
        pytest.skip(f"no recorded tensors in {folder}: set OMGBENCH_GOLDENS")
    return Goldens(folder)


@pytest.fixture(scope="session", autouse=True)
def _every_tensor_is_compared(request: pytest.FixtureRequest, goldens: Goldens) -> Iterator[None]:
    """A run of all of these tests in one process has compared every recorded tensor that is not an input."""
    yield
    here = Path(__file__).parent
    ran = {item.path for item in request.session.items if item.path.parent == here}
    config = request.config
    if ran < set(here.glob("test_*.py")) or config.getoption("keyword") or hasattr(config, "workerinput"):
        return
    left_out = goldens.to_compare() - COMPARED
    assert not left_out, f"never compared: {sorted(left_out)}"


@pytest.fixture(scope="session")
def official_files(goldens: Goldens, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The recorded weights in the files that the authors publish."""
    folder = tmp_path_factory.mktemp("official")
    weights = goldens.weights
    saved = goldens.keys["this_set_saved_by_official_state_dict"]
    torch.save({name: weights[name] for name in saved}, folder / "omg_llava.pth")
    omg_seg = {
        name.removeprefix("visual_encoder."): tensor
        for name, tensor in weights.items()
        if name.startswith("visual_encoder.") and "_llm." not in name
    }
    torch.save({"state_dict": omg_seg, "meta": {"epoch": 12}}, folder / "omg_seg_convl.pth")
    _write_language_model(goldens, folder / "internlm2")
    [classes] = load_file(goldens.folder / "class_embeddings.safetensors").values()
    assert classes.shape[1] == goldens.config["seg"]["num_prototypes"]
    torch.save(classes, folder / "classes.pth")
    (folder / "classes.json").write_text(json.dumps(_class_set(goldens)))
    return Sources(
        omg_seg=folder / "omg_seg_convl.pth",
        omg_llava=folder / "omg_llava.pth",
        language_model=folder / "internlm2",
        class_embeddings={str(folder / "classes.json"): folder / "classes.pth"},
    )


def _write_language_model(goldens: Goldens, folder: Path) -> None:
    """InternLM2 as published: no adapters, the vocabulary before it grew."""
    folder.mkdir()
    prefix, tokens = "llm.base_model.model.", goldens.config["tokens"]
    base = {}
    for name, tensor in goldens.weights.items():
        if name.startswith(prefix) and "lora_" not in name:
            own = name.removeprefix(prefix).replace(".base_layer", "")
            grown = own in ("model.tok_embeddings.weight", "output.weight")
            base[own] = (tensor[: tokens["base_vocab"]] if grown else tensor).contiguous()
    save_file(base, folder / "model.safetensors")
    settings = {"model_type": "internlm2", "bos_token_id": tokens["bos"], "eos_token_id": tokens["eos"]}
    (folder / "config.json").write_text(json.dumps(settings | goldens.config["llm"]))
    (folder / "tokenizer.json").write_text((goldens.folder / "tokenizer.json").read_text())


def _class_set(goldens: Goldens) -> dict[str, Any]:
    seg = goldens.config["seg"]
    n_classes = seg["num_things_classes"] + seg["num_stuff_classes"]
    classes = [{"id": index, "name": f"class {index}", "prompt": f"class {index}"} for index in range(n_classes)]
    return {
        "name": "recorded",
        "n_things": seg["num_things_classes"],
        "n_prototypes": seg["num_prototypes"],
        "classes": classes,
    }


def base_config(goldens: Goldens) -> OmgLlavaConfig:
    """The recorded sizes; the language model's are read from its folder."""
    recorded, seg = goldens.config, goldens.config["seg"]
    assert {name: seg[name] for name in FIXED} == FIXED
    return OmgLlavaConfig(
        name="golden",
        language=load_config("omg_llava_bytes").language,
        image=ImageConfig(side=recorded["image_hw"][0]),
        backbone=BackboneConfig(
            tuple(recorded["backbone"]["depths"]),
            tuple(recorded["backbone"]["dims"]),
            recorded["backbone"]["clip_embed_dim"],
        ),
        segmenter=SegmenterConfig(
            width=seg["feat_channels"],
            n_heads=seg["num_heads"],
            pixel_decoder_layers=seg["pixel_decoder_layers"],
            pixel_decoder_ffn=seg["pixel_decoder_ffn"],
            decoder_layers=seg["decoder_layers"],
            decoder_ffn=seg["decoder_ffn"],
            n_queries=seg["num_queries"],
            logit_scale_log=seg["logit_scale_log"],
        ),
        projector=ProjectorConfig(pixel_shuffle=recorded["projector"]["pixel_shuffle_ratio"]),
    )


@pytest.fixture(scope="session")
def folder(goldens: Goldens, official_files: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted model, adapters kept."""
    out = tmp_path_factory.mktemp("converted") / "model"
    lora = goldens.config["lora"]
    options = ConversionOptions(keep_lora=True, lora_factor=lora["lora_alpha"] / lora["r"])
    convert(official_files, out, base_config(goldens), options)
    return out


@pytest.fixture(scope="session")
def assistant(folder: Path) -> Assistant:
    return Assistant(*load_model(folder))


@pytest.fixture(scope="session")
def model(assistant: Assistant) -> OmgLlava:
    return assistant.model


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def features(goldens: Goldens, model: OmgLlava) -> Any:
    """Features of the main batch."""
    with torch.no_grad():
        return model.perception.features(goldens.stage("a_backbone")["images"])
