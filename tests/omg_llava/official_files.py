"""What the authors publish, very small, as files: for tests of the conversion."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from omg_llava.config import BackboneConfig, ImageConfig, OmgLlavaConfig, SegmenterConfig, load_config
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

    def arguments(self, out: Path, **changed: str | None) -> list[str]:
        """Of a conversion; None leaves one out."""
        given = {
            "--omg-seg": str(self.path("omg_seg_convl.pth")),
            "--omg-llava": str(self.path("finetuned.pth")),
            "--language-model": str(self.path("internlm2")),
            "--class-embeddings": f"{self.path('classes.json')}={self.path('classes.pth')}",
            "--config": str(self.path("sizes.json")),
            "--out": str(out),
        } | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
        return ["convert", *(word for name, value in given.items() if value is not None for word in (name, value))]


def random_tensors(shapes: names.Shapes, random: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(shape, generator=random) / math.sqrt(max(shape[-1:] or (1,)) or 1)
        for name, shape in shapes.items()
    }


def _sizes() -> OmgLlavaConfig:
    return OmgLlavaConfig(
        name="small",
        language=load_config("omg_llava_bytes").language,
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


def write_files(folder: Path, stage: int = 2, own_decoder: bool = False, seed: int = 0) -> Files:
    """All of them in a new folder: of stage 1, of stage 2, or of a checkpoint with a decoder of its own."""
    random = torch.Generator().manual_seed(seed)
    language = names.InternLM2(rows=BASE_VOCABULARY, width=24, ffn=20, layers=2, heads=6, kv_heads=2)
    if stage == 1:
        trained = names.stage_1(language, PERCEPTION)
    else:
        trained = names.stage_2(language, PERCEPTION, rank=RANK, own_decoder=own_decoder)
    files = Files(folder, language)
    files.folder.mkdir()
    made = files.tensors
    made["omg_seg"] = random_tensors(names.omg_seg(PERCEPTION), random)
    made["omg_llava"] = random_tensors(trained, random)
    made["internlm2"] = random_tensors(names.internlm2(language), random)
    torch.save({"state_dict": made["omg_seg"], "meta": {"epoch": 1}}, files.path("omg_seg_convl.pth"))
    torch.save(made["omg_llava"], files.path("finetuned.pth"))
    _write_language_model(files)
    _write_classes(files, random)
    files.path("sizes.json").write_text(_sizes().to_json())
    return files


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
