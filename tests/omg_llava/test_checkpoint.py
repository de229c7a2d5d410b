"""A model's folder: what is written is read back, and what is broken is one message."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omg_llava.adapter import OmgLlavaAdapter
from omg_llava.assistant import Assistant, Look
from omg_llava.checkpoint import load_model, save_model
from omg_llava.errors import ModelError
from omg_llava.untrained import byte_tokenizer
from omgbench.cli import main
from omgbench.contract import Placement
from omgbench.errors import UserError

from .lively import lively_model, pictures, questions, small_config


@pytest.fixture
def shards(lively: Assistant, tmp_path: Path) -> Path:
    """The model in several files."""
    folder = tmp_path / "model"
    save_model(lively.model, lively.tokenizer, folder, max_shard_bytes=200_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def single(lively_folder: Path, tmp_path: Path) -> Path:
    """The model in one file."""
    return Path(shutil.copytree(lively_folder, tmp_path / "model"))


def test_what_is_saved_is_loaded(lively: Assistant, looks: list[Look], shards: Path) -> None:
    model, tokenizer = load_model(shards)
    assert model.config == lively.model.config
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    expected, found = lively.model.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    loaded = Assistant(model, tokenizer)
    images = pictures()
    asked = questions()
    before = lively.ask([(looks[number], question) for number, question in asked])
    new_looks = [loaded.look(image) for image in images]
    after = loaded.ask([(new_looks[number], question) for number, question in asked])
    for first, second in zip(before, after, strict=True):
        assert first.text == second.text
        assert len(first.masks) == len(second.masks)
        assert all(map(torch.equal, first.masks, second.masks))


def test_a_dtype_is_of_the_language_model_alone(single: Path) -> None:
    model, _ = load_model(single, dtype=torch.bfloat16)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == (torch.bfloat16 if name.startswith("llm.") else torch.float32), name


def test_nothing_is_written_over(lively: Assistant, single: Path) -> None:
    with pytest.raises(ModelError, match=str(single)):
        save_model(lively.model, lively.tokenizer, single)
    load_model(single)


def _edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _lose_a_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def _cut_a_shard(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-100])


def _mix_shards(folder: Path) -> None:
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def _lose_the_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


SHARD_DAMAGE = {
    "a lost shard": (_lose_a_shard, "shards missing"),
    "a cut shard": (_cut_a_shard, "safetensors"),
    "mixed shards": (_mix_shards, "no tensor"),
    "a lost index": (_lose_the_index, "index"),
}


def _change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


NAME = "perception.decoder.mask_embed.0.weight"


def _nan(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: tensors[NAME][3].fill_(float("nan")))


def _infinite(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: tensors["llm.lm_head.weight"][3].fill_(float("inf")))


def _missing(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: tensors.pop(NAME))


def _surplus(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: tensors.update(stranger=torch.zeros(3)))


def _other_shape(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: tensors.update({NAME: tensors[NAME][:-1].clone()}))


def _not_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _own_decoder(folder: Path) -> None:
    _edit(folder / "config.json", lambda config: config["seg_token"].update(own_decoder=True))


def _more_layers(folder: Path) -> None:
    _edit(folder / "config.json", lambda config: config["language"]["transformers"].update(num_hidden_layers=3))


def _other_family(folder: Path) -> None:
    def change(config: dict[str, object]) -> None:
        config["language"].update(family="phi3")
        config["language"]["transformers"].update(model_type="phi3")

    _edit(folder / "config.json", change)


def _more_queries(folder: Path) -> None:
    _edit(folder / "config.json", lambda config: config["segmenter"].update(n_queries=13))


def _other_vocabulary(folder: Path) -> None:
    def change(config: dict[str, object]) -> None:
        config["language"].update(base_vocab=300)
        config["language"]["transformers"].update(vocab_size=304)

    _edit(folder / "config.json", change)


def _unknown_entry(folder: Path) -> None:
    _edit(folder / "config.json", lambda config: config.update(stranger=1))


def _unknown_type(folder: Path) -> None:
    _edit(folder / "config.json", lambda config: config["language"]["transformers"].update(model_type="gpt9"))


def _odd_heads(folder: Path) -> None:
    _edit(folder / "config.json", lambda config: config["language"]["transformers"].update(num_attention_heads="four"))


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")


def _bare_tokenizer(folder: Path) -> None:
    """Of a language model before it learned of masks."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < 266]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def _longer_tokenizer(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["stranger"])
    _edit(folder / "tokenizer.json", lambda data: data["added_tokens"][-1].update(id=299, content="[SEG]"))


DAMAGE = {
    "NaN": (_nan, NAME),
    "infinity": (_infinite, "lm_head"),
    "a missing tensor": (_missing, NAME),
    "a surplus tensor": (_surplus, "stranger"),
    "another shape": (_other_shape, NAME),
    "a git-lfs pointer": (_not_weights, "pointer"),
    "an empty file": (_empty, "model.safetensors"),
    "another variant": (_own_decoder, "own_seg_decoder"),
    "more layers": (_more_layers, "layers.2"),
    "another family": (_other_family, "qkv_proj"),
    "more queries": (_more_queries, "query_feat"),
    "another vocabulary": (_other_vocabulary, "special tokens"),
    "an unknown entry": (_unknown_entry, "stranger"),
    "an unknown type of language model": (_unknown_type, "gpt9"),
    "heads that are no number": (_odd_heads, "num_attention_heads"),
    "no JSON": (_no_json, "config.json"),
    "no configuration": (_no_config, "config.json"),
    "no tokenizer": (_no_tokenizer, "tokenizer"),
    "a broken tokenizer": (_broken_tokenizer, "tokenizer.json"),
    "a bare tokenizer": (_bare_tokenizer, "special tokens"),
    "a foreign tokenizer": (_longer_tokenizer, "token"),
}


def _message(folder: Path) -> str:
    """Of the one error that loading gives."""
    with pytest.raises(UserError) as caught:
        OmgLlavaAdapter(str(folder)).load(Placement("cpu"))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", SHARD_DAMAGE)
def test_damaged_shards(shards: Path, name: str) -> None:
    damage, expected = SHARD_DAMAGE[name]
    damage(shards)
    assert expected in _message(shards)
    assert str(shards) in _message(shards)


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_folders(single: Path, name: str) -> None:
    damage, expected = DAMAGE[name]
    damage(single)
    assert expected in _message(single)


def test_no_folder(tmp_path: Path) -> None:
    assert "no such folder" in _message(tmp_path / "nowhere")
    assert "config.json" in _message(tmp_path)


def test_a_number_too_large_for_its_format_is_an_error(lively: Assistant, tmp_path: Path) -> None:
    model, tokenizer = lively_model(small_config())
    model.llm.lm_head.weight[3, 3] = 1e6
    save_model(model, tokenizer, tmp_path / "model")
    load_model(tmp_path / "model")
    with pytest.raises(ModelError, match="lm_head"):
        load_model(tmp_path / "model", dtype=torch.float16)


def _omgbench_run(
    folder: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """Exit code and standard error of one request to the model."""
    options = ["--device", "cpu", "--limit", "1", "--out", str(tmp_path / "run")]
    model = ["--model", "omg_llava.adapter:OmgLlavaAdapter", "--model-args", f"weights={folder}"]
    monkeypatch.setattr(sys, "argv", ["omgbench", "run", *model, "--tasks", task, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def test_a_run_with_a_whole_folder(
    lively_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = _omgbench_run(lively_folder, "refcoco:val", tmp_path, monkeypatch, capsys)
    assert code == 0
    [result] = (tmp_path / "run").glob("*/result.json")
    assert json.loads(result.read_text())


@pytest.mark.parametrize("name", ["NaN", "a bare tokenizer", "more layers"])
def test_a_run_with_a_damaged_folder_ends_with_one_message(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, expected = DAMAGE[name]
    damage(single)
    code, shown = _omgbench_run(single, "omgbench.testing.tiny:TinyTask", tmp_path, monkeypatch, capsys)
    assert code == 2
    [message] = [text for text in re.split(r"^omgbench: ", shown, flags=re.MULTILINE) if expected in text]
    assert str(single) in message
    assert "Traceback" not in shown
