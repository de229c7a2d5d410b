"""Official files in, a folder that loads and answers out; and files that are not what they should be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from omg_llava.assistant import Assistant, Question, Sampling
from omg_llava.checkpoint import load_model
from omg_llava.command import main
from omg_llava.config import read_config

from . import official_names as names
from .official_files import BASE_VOCABULARY, PERCEPTION, Files, random_tensors, write_files


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[..., Files]:
    return partial(write_files, tmp_path / "official")


def _answer(folder: Path) -> tuple[str, torch.Tensor]:
    assistant = Assistant(*load_model(folder))
    look = assistant.look(Image.linear_gradient("L").resize((50, 40)).convert("RGB"))
    [reply] = assistant.ask([(look, Question("Please segment the dog in this image.", sampling=Sampling(8)))])
    return reply.text, look.image_tokens


@pytest.mark.parametrize(
    ("stage", "own_decoder"), [(1, False), (2, False), (2, True)], ids=["stage 1", "general", "own decoder"]
)
def test_what_the_authors_publish_becomes_a_model(
    make_files: Callable[..., Files], tmp_path: Path, stage: int, own_decoder: bool, capsys: Any
) -> None:
    files = make_files(stage, own_decoder)
    assert main(files.arguments(tmp_path / "out")) == 0
    assert ("its own" if own_decoder else "the frozen") in capsys.readouterr().out
    model, tokenizer = load_model(tmp_path / "out")
    assert (model.own_seg_decoder is not None) == own_decoder
    trained = files.tensors["omg_llava"]
    assert torch.equal(model.projector.separator.weight, trained["projector.model.seperate_embed.weight"])
    assert torch.equal(model.perception.query_feat.weight, files.tensors["omg_seg"]["panoptic_head.query_feat.weight"])
    name = "llm.model.tok_embeddings.weight" if stage == 1 else "llm.base_model.model.model.tok_embeddings.weight"
    assert torch.equal(model.llm.get_input_embeddings().weight, trained[name])
    assert tokenizer.convert_tokens_to_ids("[SEG]") == BASE_VOCABULARY
    assert model.config.class_sets[0].n_prototypes == 2, "the file's number, not the label space's"
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert len(record["sources"]["omg_llava"]["sha256"]) == 64
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "266 tokens" not in (shown := capsys.readouterr().out)
    assert "271 tokens" in shown


def test_merged_and_kept_adapters_say_the_same(make_files: Callable[..., Files], tmp_path: Path) -> None:
    files = make_files()
    assert main(files.arguments(tmp_path / "merged")) == 0
    assert main([*files.arguments(tmp_path / "kept"), "--keep-lora"]) == 0
    merged, kept = _answer(tmp_path / "merged"), _answer(tmp_path / "kept")
    assert merged[0] == kept[0]
    torch.testing.assert_close(merged[1], kept[1])
    none = main([*files.arguments(tmp_path / "none"), "--lora-factor", "0"])
    base = load_model(tmp_path / "none")[0].llm.model.layers[0].self_attn.o_proj.weight
    assert none == 0
    assert torch.equal(base, files.tensors["internlm2"]["model.layers.0.attention.wo.weight"])


def test_the_backbone_may_come_from_open_clip(make_files: Callable[..., Files], tmp_path: Path) -> None:
    files = make_files()
    head = {name: value for name, value in files.tensors["omg_seg"].items() if not name.startswith("backbone.")}
    torch.save({"state_dict": head}, files.path("omg_seg_convl.pth"))
    assert main(files.arguments(tmp_path / "out")) == 2
    torch.save(random_tensors(names.open_clip(PERCEPTION), torch.Generator().manual_seed(5)), files.path("clip.pth"))
    assert main(files.arguments(tmp_path / "out", open_clip=str(files.path("clip.pth")))) == 0
    load_model(tmp_path / "out")


def _swap(files: Files) -> None:
    one, other = files.path("omg_seg_convl.pth"), files.path("finetuned.pth")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _without(files: Files) -> None:
    tensors = dict(files.tensors["omg_seg"])
    del tensors["panoptic_head.pos_linear.bias"]
    torch.save(tensors, files.path("omg_seg_convl.pth"))


def _surplus(files: Files) -> None:
    torch.save(files.tensors["omg_llava"] | {"projector.model.extra": torch.zeros(1)}, files.path("finetuned.pth"))


def _half_adapter(files: Files) -> None:
    tensors = {
        name: value for name, value in files.tensors["omg_llava"].items() if "1.feed_forward.w2.lora_B" not in name
    }
    torch.save(tensors, files.path("finetuned.pth"))


def _other_language_model(files: Files) -> None:
    path = files.path("internlm2") / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))


def _hostile_spread(files: Files) -> None:
    path = files.path("internlm2") / "config.json"
    path.write_text(path.read_text().replace('"model_type"', '"initializer_range": NaN, "model_type"'))


def _foreign_language_model(files: Files) -> None:
    path = files.path("internlm2") / "config.json"
    path.write_text(path.read_text().replace('"internlm2"', '"gpt2"'))


def _other_classes(files: Files) -> None:
    torch.save(torch.ones(5, 1, PERCEPTION.clip), files.path("classes.pth"))


BROKEN: list[tuple[str, Callable[[Files], None], str]] = [
    ("swapped", _swap, "stands where"),
    ("missing tensor", _without, "pos_linear|place_proj"),
    ("surplus tensor", _surplus, "projector.model.extra"),
    ("half an adapter", _half_adapter, "lora_B"),
    ("missing shard", lambda files: (files.path("internlm2") / "b.safetensors").unlink(), "b.safetensors"),
    ("no tokenizer", lambda files: (files.path("internlm2") / "tokenizer.json").unlink(), "tokenizer"),
    ("other depth", _other_language_model, "layers.2"),
    ("hostile spread", _hostile_spread, "initializer_range is nan"),
    ("other family", _foreign_language_model, "gpt2"),
    ("other classes", _other_classes, "classes.pth"),
    ("truncated", lambda files: files.path("finetuned.pth").write_bytes(b"PK\x03\x04 and no more"), "finetuned.pth"),
    (
        "pointer",
        lambda files: files.path("finetuned.pth").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "lfs",
    ),
    ("no sizes", lambda files: files.path("sizes.json").write_text("{"), "sizes.json"),
    ("typo in sizes", lambda files: files.path("sizes.json").write_text('{"nmae": 1}'), "nmae"),
]


@pytest.mark.parametrize(("breakage", "told"), [item[1:] for item in BROKEN], ids=[item[0] for item in BROKEN])
def test_a_wrong_file_is_one_message_and_writes_nothing(
    make_files: Callable[..., Files], tmp_path: Path, breakage: Callable[[Files], None], told: str, capsys: Any
) -> None:
    files = make_files()
    breakage(files)
    assert main(files.arguments(tmp_path / "out")) == 2
    message = capsys.readouterr().err
    assert message.startswith("omg_llava: ")
    assert re.search(told, message), message
    assert [path.name for path in tmp_path.iterdir()] == ["official"], "nothing is left behind"


@pytest.mark.parametrize("arguments", [["--class-embeddings", "coco_panoptic"], ["--class-embeddings", "what=x.pth"]])
def test_wrong_arguments(make_files: Callable[..., Files], tmp_path: Path, arguments: list[str], capsys: Any) -> None:
    files = make_files()
    assert main([*files.arguments(tmp_path / "out"), *arguments]) == 2
    assert re.search("LABELS=FILE|no file x.pth", capsys.readouterr().err)


def test_a_folder_that_exists_is_left_alone(make_files: Callable[..., Files], tmp_path: Path, capsys: Any) -> None:
    files = make_files()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(files.arguments(tmp_path / "out")) == 2
    assert "out" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.fixture
def converted(make_files: Callable[..., Files], tmp_path: Path) -> Iterator[Path]:
    assert main(make_files().arguments(tmp_path / "out")) == 0
    yield tmp_path / "out"


def test_a_saved_configuration_reads_back(converted: Path) -> None:
    config = read_config(converted / "config.json")
    assert json.loads(config.to_json()) == json.loads((converted / "config.json").read_text())
    assert config.class_sets[0].classes[1].id == 7
