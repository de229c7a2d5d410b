"""Official files in, a folder that loads and answers out; and files that are not what they should be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from omg_llava.assistant import Assistant, Question, Sampling
from omg_llava.checkpoint import load_model
from omg_llava.command import main
from omg_llava.config import BackboneConfig, ImageConfig, OmgLlavaConfig, SegmenterConfig, load_config, read_config
from omg_llava.untrained import byte_tokenizer

from . import official_names as names

PERCEPTION = names.Perception(
    depths=(1, 1, 1, 1),
    widths=(8, 16, 24, 32),
    clip=16,
    width=32,
    pixel_layers=1,
    pixel_ffn=16,
    layers=2,
    ffn=16,
    queries=6,
    heads=4,
)
RANK = 3
BASE_VOCABULARY = 266


@dataclass(frozen=True)
class Files:
    """What the authors publish, very small, in a folder."""

    folder: Path
    language: names.InternLM2
    tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.folder / name

    def arguments(self, out: Path, **changed: str) -> list[str]:
        given = {
            "--omg-seg": str(self.path("omg_seg_convl.pth")),
            "--omg-llava": str(self.path("finetuned.pth")),
            "--language-model": str(self.path("internlm2")),
            "--class-embeddings": f"{self.path('classes.json')}={self.path('classes.pth')}",
            "--config": str(self.path("sizes.json")),
            "--out": str(out),
        } | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
        return ["convert", *(word for pair in given.items() for word in pair)]


def _random(shapes: names.Shapes, random: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(shape, generator=random) / math.sqrt(max(shape[-1:] or (1,)) or 1)
        for name, shape in shapes.items()
    }


def _sizes() -> OmgLlavaConfig:
    return OmgLlavaConfig(
        name="small",
        language=load_config("omg_llava_tiny").language,
        image=ImageConfig(side=64),
        backbone=BackboneConfig(PERCEPTION.depths, PERCEPTION.widths, PERCEPTION.clip),
        segmenter=SegmenterConfig(
            width=PERCEPTION.width,
            n_heads=PERCEPTION.heads,
            pixel_decoder_layers=PERCEPTION.pixel_layers,
            pixel_decoder_ffn=PERCEPTION.pixel_ffn,
            decoder_layers=PERCEPTION.layers,
            decoder_ffn=PERCEPTION.ffn,
            n_queries=PERCEPTION.queries,
        ),
    )


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[..., Files]:
    def make(stage: int = 2, own_decoder: bool = False, seed: int = 0) -> Files:
        random = torch.Generator().manual_seed(seed)
        language = names.InternLM2(rows=BASE_VOCABULARY, width=24, ffn=20, layers=2, heads=6, kv_heads=2)
        if stage == 1:
            trained = names.stage_1(language, PERCEPTION)
        else:
            trained = names.stage_2(language, PERCEPTION, rank=RANK, own_decoder=own_decoder)
        files = Files(tmp_path / "official", language)
        files.folder.mkdir()
        made = files.tensors
        made["omg_seg"] = _random(names.omg_seg(PERCEPTION), random)
        made["omg_llava"] = _random(trained, random)
        made["internlm2"] = _random(names.internlm2(language), random)
        torch.save({"state_dict": made["omg_seg"], "meta": {"epoch": 1}}, files.path("omg_seg_convl.pth"))
        torch.save(made["omg_llava"], files.path("finetuned.pth"))
        _write_language_model(files)
        _write_classes(files, random)
        files.path("sizes.json").write_text(_sizes().to_json())
        return files

    return make


def _write_language_model(files: Files) -> None:
    folder = files.path("internlm2")
    folder.mkdir()
    shards: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for index, (name, tensor) in enumerate(files.tensors["internlm2"].items()):
        shards[list(shards)[index % 2]][name] = tensor
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    places = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    sizes = files.language
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "internlm2",
                "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
                "hidden_size": sizes.width,
                "intermediate_size": sizes.ffn,
                "num_hidden_layers": sizes.layers,
                "num_attention_heads": sizes.heads,
                "num_key_value_heads": sizes.kv_heads,
                "max_position_embeddings": 512,
                "rope_theta": 1000000,
                "rope_scaling": {"type": "dynamic", "factor": 2.0},
                "bos_token_id": 1,
                "eos_token_id": 2,
                "rms_norm_eps": 1e-5,
            }
        )
    )
    tokenizer = byte_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < BASE_VOCABULARY]
    (folder / "tokenizer.json").write_text(json.dumps(state))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_classes(files: Files, random: torch.Generator) -> None:
    classes = [{"id": number, "name": f"thing {number}", "prompt": f"thing {number}"} for number in (3, 7)]
    document = {"name": "two", "n_things": 1, "n_prototypes": 9, "classes": classes}
    files.path("classes.json").write_text(json.dumps(document))
    embeddings = F.normalize(torch.randn(2, 2, PERCEPTION.clip, generator=random), dim=-1)
    torch.save(embeddings, files.path("classes.pth"))


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
    torch.save(_random(names.open_clip(PERCEPTION), torch.Generator().manual_seed(5)), files.path("clip.pth"))
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
