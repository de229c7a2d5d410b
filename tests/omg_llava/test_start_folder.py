"""Conversion without an OMG-LLaVA checkpoint: the folder that stage 1 starts from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from omg_llava.checkpoint import load_model
from omg_llava.command import main
from omg_llava.config import LanguageConfig, OmgLlavaConfig, read_config
from omg_llava.conversion.fresh import fresh_shapes, fresh_tensors
from omg_llava.language_model import build_language_model

from . import official_names as names
from .official_files import BASE_VOCABULARY, PERCEPTION, Files, write_files

MATRICES = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")
OF_THE_CHECKPOINT = ("projector.", "text_projector.", "seg_state.", *MATRICES)
Family = Literal["internlm2", "phi3", "qwen2"]
FAMILIES: tuple[Family, ...] = ("internlm2", "phi3", "qwen2")
Weights = dict[str, torch.Tensor]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path / "official", stage=1)


def start(files: Files, out: Path, **changed: str | None) -> Weights:
    """The tensors of a start folder."""
    assert main(files.arguments(out, **{"omg_llava": None, **changed})) == 0
    tensors: Weights = load_file(out / "model.safetensors")
    return tensors


def give_language_model(files: Files, family: Family, rows: int = BASE_VOCABULARY) -> Weights:
    """Puts a language model of another family in the folder, and a stage-1 checkpoint of it beside; its tensors."""
    folder = files.path("internlm2")
    settings = json.loads((folder / "config.json").read_text()) | {"model_type": family, "vocab_size": rows}
    settings |= {"rope_scaling": None, "hidden_act": "silu", "pad_token_id": 2}
    (folder / "config.json").write_text(json.dumps(settings))
    own = {name: value for name, value in settings.items() if name not in ("auto_map", "rope_theta", "rope_scaling")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        llm = build_language_model(LanguageConfig(family, own | {"tie_word_embeddings": False}, BASE_VOCABULARY))
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    tensors = {name: tensor.detach().clone() for name, tensor in llm.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    width = files.language.width
    shapes = dict.fromkeys(MATRICES, (BASE_VOCABULARY + 4, width)) | names.projectors(width, PERCEPTION)
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, files.path("finetuned.pth"))
    return tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rest_is_as_with_a_checkpoint(files: Files, tmp_path: Path, family: Family, capsys: Any) -> None:
    base = files.tensors["internlm2"]
    vocabulary = [base["model.tok_embeddings.weight"], base["output.weight"]] if family == "internlm2" else []
    if family != "internlm2":
        given = give_language_model(files, family)
        vocabulary = [given[name.removeprefix("llm.")] for name in MATRICES]
    assert main(files.arguments(tmp_path / "trained")) == 0
    assert "fresh" not in capsys.readouterr().out
    start(files, tmp_path / "start")
    printed = capsys.readouterr().out
    assert "small/start" in printed and "four vocabulary rows are fresh (seed 0)" in printed
    trained, fresh = (load_model(tmp_path / name)[0] for name in ("trained", "start"))
    assert fresh.own_seg_decoder is None
    expected, found = trained.state_dict(), fresh.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]) != name.startswith(OF_THE_CHECKPOINT), name
    rows = []
    for name, old in zip(MATRICES, vocabulary, strict=True):
        assert torch.equal(found[name][:BASE_VOCABULARY], old)
        rows.append(found[name][BASE_VOCABULARY:])
    drawn = torch.stack(rows)
    assert drawn.shape == (2, 4, files.language.width)
    assert len(drawn.unique()) == drawn.numel()
    assert 0.017 < drawn.std() < 0.023
    assert abs(drawn.mean()) < 0.005


def test_projectors_are_as_their_modules_initialise_themselves(files: Files, tmp_path: Path) -> None:
    found = start(files, tmp_path / "out")
    linears = [name for name in found if name.startswith(("projector.", "text_projector.")) and "separator" not in name]
    assert len(linears) == 14
    for name in linears:
        fan_in = found[f"{name.rpartition('.')[0]}.weight"].shape[1]
        assert 0.8 < found[name].abs().max() * fan_in**0.5 <= 1, f"{name}: uniform within 1 / sqrt(fan-in)"
    assert 0.6 < found["projector.separator.weight"].std() < 1.4


def test_a_seed_is_a_folder(files: Files, tmp_path: Path) -> None:
    """Whatever PyTorch's own generator did before."""
    written = []
    for out, seed, before in (("a", "0", 1), ("b", "0", 2), ("c", "7", 1)):
        torch.manual_seed(before)
        start(files, tmp_path / out, seed=seed)
        written.append((tmp_path / out / "model.safetensors").read_bytes())
    assert written[0] == written[1]
    one, other = (load_file(tmp_path / out / "model.safetensors") for out in ("a", "c"))
    different = {name for name in one if not torch.equal(one[name], other[name])}
    assert different == {name for name in one if name.startswith(OF_THE_CHECKPOINT)}
    record = json.loads((tmp_path / "c" / "conversion.json").read_text())
    assert record["fresh"] == {
        "seed": 7,
        "parts": ["projector", "text_projector", *(f"the last 4 rows of {name}" for name in MATRICES)],
    }
    assert "omg_llava" not in record["sources"]


def test_drawing_leaves_the_global_generator_alone(files: Files) -> None:
    config: OmgLlavaConfig = read_config(files.path("sizes.json"))
    state = torch.get_rng_state()
    drawn = dict(fresh_tensors(config, torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: tuple(tensor.shape) for name, tensor in drawn.items()} == fresh_shapes(config)
    assert not torch.equal(drawn["projector.query.mlp.2.weight"], drawn["projector.pixel.2.weight"])


def test_the_record_of_a_checkpoint_says_that_nothing_is_fresh(files: Files, tmp_path: Path) -> None:
    assert main(files.arguments(tmp_path / "out")) == 0
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["fresh"] is None


def test_rows_that_pad_the_matrix_are_left_out(files: Files, tmp_path: Path) -> None:
    """Phi-3 and Qwen2 are published with more rows than their tokenizers have tokens."""
    padded = give_language_model(files, "phi3", rows=BASE_VOCABULARY + 30)["model.embed_tokens.weight"]
    found = start(files, tmp_path / "out")[MATRICES[0]]
    assert len(found) == BASE_VOCABULARY + 4
    assert torch.equal(found[:-4], padded[:BASE_VOCABULARY])
    assert not torch.isin(found[-4:], padded).any()


def test_rows_take_the_models_own_spread_and_type(files: Files, tmp_path: Path) -> None:
    path = files.path("internlm2") / "config.json"
    path.write_text(path.read_text().replace('"model_type"', '"initializer_range": 0.5, "model_type"'))
    found = start(files, tmp_path / "out", dtype="bfloat16")
    assert found[MATRICES[1]].dtype == torch.bfloat16
    assert found["projector.separator.weight"].dtype == torch.float32
    assert 0.4 < torch.cat([found[name][-4:].float() for name in MATRICES]).std() < 0.6


def test_options_of_the_configuration_start_fresh_too(files: Files, tmp_path: Path) -> None:
    """What no released file holds; a decoder for `[SEG]` is training's to make."""
    path = files.path("sizes.json")
    config: OmgLlavaConfig = read_config(path)
    projector = dataclasses.replace(config.projector, cross_attention=True, own_prompt_projector=True)
    seg_token = dataclasses.replace(config.seg_token, own_decoder=True, embedding="concat")
    path.write_text(dataclasses.replace(config, projector=projector, seg_token=seg_token).to_json())
    found = start(files, tmp_path / "out")
    assert {"projector.cross_attention.fc1.weight", "seg_state.concat.weight"} <= found.keys()
    model, _ = load_model(tmp_path / "out")
    assert model.own_seg_decoder is None
    assert "seg_state" in json.loads((tmp_path / "out" / "conversion.json").read_text())["fresh"]["parts"]


def _without_centre(files: Files) -> None:
    tensors = dict(files.tensors["omg_seg"])
    del tensors["panoptic_head.pos_linear.bias"]
    torch.save(tensors, files.path("omg_seg_convl.pth"))


def _surplus_layer(files: Files) -> None:
    extra = {"model.layers.2.ffn_norm.weight": torch.ones(files.language.width)}
    path = files.path("internlm2") / "b.safetensors"
    save_file(load_file(path) | extra, path)
    index = files.path("internlm2") / "model.safetensors.index.json"
    layout = json.loads(index.read_text())
    layout["weight_map"] |= dict.fromkeys(extra, path.name)
    index.write_text(json.dumps(layout))


def _head_left_out(files: Files) -> None:
    tensors = give_language_model(files, "qwen2")
    del tensors["lm_head.weight"]
    save_file(tensors, files.path("internlm2") / "model.safetensors")


@pytest.mark.parametrize(
    ("breakage", "told"),
    [
        (_without_centre, "1 missing: perception.prompt_encoder.place_proj.bias (from OMG-Seg)"),
        (_surplus_layer, "1 surplus: llm.model.layers.2.post_attention_layernorm.weight"),
        (_head_left_out, "1 missing: llm.lm_head.weight (from the language model's folder)"),
        (
            lambda files: give_language_model(files, "qwen2", rows=BASE_VOCABULARY - 1),
            "llm.lm_head.weight is (265, 24), expected (270, 24)",
        ),
    ],
    ids=["missing", "surplus", "no head", "short vocabulary"],
)
def test_nothing_is_written_before_everything_is_checked(
    files: Files, tmp_path: Path, breakage: Callable[[Files], object], told: str, capsys: Any
) -> None:
    breakage(files)
    assert main(files.arguments(tmp_path / "out", omg_llava=None)) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_out_of_range(files: Files, tmp_path: Path, seed: str, capsys: Any) -> None:
    assert main(files.arguments(tmp_path / "out", omg_llava=None, seed=seed)) == 2
    assert f"--seed {seed} is not" in capsys.readouterr().err
