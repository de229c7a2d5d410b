"""The small record: how it is read, the model that it is about, and what of the model it holds."""

from __future__ import annotations

import dataclasses
import json
import lzma
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load, save, save_file
from tokenizers import Tokenizer, models

from omg_llava.assistant import Assistant
from omg_llava.checkpoint import load_model
from omg_llava.config import BackboneConfig, ImageConfig, OmgLlavaConfig, SegmenterConfig, load_config
from omg_llava.conversion.convert import ConversionOptions, convert
from omg_llava.conversion.sources import Sources
from omg_llava.model import OmgLlava
from omg_llava.open_vocabulary import ensembled_logits
from omg_llava.video import decode_piece
from omg_llava.visual_prompts import PromptSet

from ..official_names import Perception

Tensors = dict[str, torch.Tensor]
HERE = Path(__file__).parent
SIZES = Perception(
    depths=(1, 1, 2, 1),
    widths=(8, 8, 16, 16),
    clip=16,
    width=32,
    pixel_layers=1,
    pixel_ffn=48,
    layers=2,
    ffn=48,
    queries=6,
    heads=4,
)
"""Of our own record. The backbone's first stage has official weights elsewhere."""
N_THINGS, N_CLASSES, N_PROTOTYPES = 3, 5, 2
_SUFFIX = ".safetensors.xz"
_WEIGHTS = "weights/"
_LLM = "llm.base_model.model."
_GROWN = ("model.tok_embeddings.weight", "output.weight")


@dataclasses.dataclass(frozen=True)
class Record:
    """The two files: cuts of official tensors, and our own outputs at minimal width. Names are `stage/tensor`."""

    official: Tensors
    own: Tensors
    sizes: dict[str, dict[str, Any]]

    def weights(self) -> Tensors:
        """By official names, float32: the official language model, our perception and projectors."""
        both = self.official | self.own
        return {name.removeprefix(_WEIGHTS): both[name].float() for name in both if name.startswith(_WEIGHTS)}


def read_record(folder: Path = HERE) -> Record:
    sizes = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))
    official, own = (load(lzma.decompress((folder / f"{name}{_SUFFIX}").read_bytes())) for name in ("official", "own"))
    return Record(official, own, sizes)


def write_record(record: Record, folder: Path) -> None:
    """The files that `read_record` reads."""
    # Numbers of four bytes, whose bytes at one place are alike: 5 % less than with the default settings.
    packing = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 2, "lp": 2, "pb": 2}]
    for name, tensors in (("official", record.official), ("own", record.own)):
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        (folder / f"{name}{_SUFFIX}").write_bytes(lzma.compress(data, filters=packing))
    (folder / "sizes.json").write_text(json.dumps(record.sizes, indent=1) + "\n", encoding="utf-8")


def build(record: Record, folder: Path) -> Assistant:
    """The official language model behind our minimal perception, through the converter."""
    weights = record.weights()
    seg = {name: tensor for name, tensor in weights.items() if name.startswith("visual_") and "_llm." not in name}
    torch.save(seg, folder / "seg.pth")
    base = [name for name in weights if name.startswith(_LLM) and not re.search(r"lora_|tok_embeddings|output\.", name)]
    torch.save({name: weights[name] for name in weights.keys() - seg.keys() - set(base)}, folder / "llava.pth")
    _write_language_model(record, folder / "internlm2")
    torch.save(record.own["prototypes"].float(), folder / "classes.pth")
    classes = [{"id": index, "name": str(index), "prompt": str(index)} for index in range(N_CLASSES)]
    class_set = {"name": "mini", "n_things": N_THINGS, "n_prototypes": N_PROTOTYPES, "classes": classes}
    (folder / "classes.json").write_text(json.dumps(class_set), encoding="utf-8")
    class_files = {str(folder / "classes.json"): folder / "classes.pth"}
    sources = Sources(folder / "seg.pth", folder / "llava.pth", folder / "internlm2", class_files)
    factor = record.sizes["lora"]["lora_alpha"] / record.sizes["lora"]["r"]
    options = ConversionOptions(keep_lora=True, lora_factor=factor, hash_sources=False)
    convert(sources, folder / "model", _config(), options)
    return Assistant(*load_model(folder / "model"))


def _write_language_model(record: Record, folder: Path) -> None:
    """As published: no adapters, the vocabulary before it grew."""
    rows, base = int(record.sizes["tokens"]["base_vocab"]), {}
    for name, tensor in record.weights().items():
        own = name.removeprefix(_LLM).replace(".base_layer", "")
        if name.startswith(_LLM) and "lora_" not in name:
            base[own] = tensor[:rows].contiguous() if own in _GROWN else tensor
    folder.mkdir()
    save_file(base, folder / "model.safetensors")
    settings = record.sizes["llm"] | {"model_type": "internlm2"}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    words = {f"word{index}": index for index in range(rows)}
    Tokenizer(models.WordLevel(words, unk_token="word0")).save(str(folder / "tokenizer.json"))


def _config() -> OmgLlavaConfig:
    return OmgLlavaConfig(
        name="mini",
        language=load_config("omg_llava_bytes").language,
        image=ImageConfig(side=64),
        backbone=BackboneConfig(SIZES.depths, SIZES.widths, SIZES.clip),
        segmenter=SegmenterConfig(
            width=SIZES.width,
            n_heads=SIZES.heads,
            pixel_decoder_layers=SIZES.pixel_layers,
            pixel_decoder_ffn=SIZES.pixel_ffn,
            decoder_layers=SIZES.layers,
            decoder_ffn=SIZES.ffn,
            n_queries=SIZES.queries,
        ),
    )


def pictures(own: Tensors) -> torch.Tensor:
    """The two pictures of our own record, (2, 3, 64, 128)."""
    coarse = own["pictures"].float() / 32
    return F.interpolate(coarse, scale_factor=2, mode="nearest")


def prompt_sets() -> dict[str, PromptSet]:
    """Two prompts of each kind on a picture of 128 x 64 pixels."""
    hw = (64, 128)
    masks = torch.zeros(2, *hw)
    masks[0, 5:30, 70:120], masks[1, 40:60, 3:90] = 1, 1
    return {
        "point": PromptSet("point", torch.tensor([[20.0, 50.0], [127.0, 0.0]]), hw),
        "box": PromptSet("box", torch.tensor([[60.0, 3.0, 125.0, 33.0], [10.5, 40.0, 30.0, 63.0]]), hw),
        "mask": PromptSet("mask", masks, hw),
    }


def own_outputs(model: OmgLlava, own: Tensors) -> Tensors:
    """What our own record holds: every stage whose official weights are too many to be kept here."""
    pixels, perception, prototypes = pictures(own), model.perception, model.prototypes()
    features = perception.features(pixels[:1])
    found = {"mask_features": features.mask_features[:, :, ::4], "stride32": features.stride32}
    found |= {f"memory{index}": level.tokens for index, level in enumerate(features.levels)}
    decoded = perception.objects(features)
    found |= {"queries": decoded.queries, "positions": decoded.positions, "mask_logits": decoded.mask_logits}
    found["scores"] = perception.scores(decoded.queries)
    found["class_logits"] = perception.class_logits(decoded.queries, decoded.mask_logits, features, prototypes)
    for kind, prompts in prompt_sets().items():
        decoded = perception.prompted(features, prompts)
        found |= {f"{kind}_embedding": decoded.embedding, f"{kind}_mask_logits": decoded.mask_logits}
        found[f"{kind}_token"] = model.projector.prompt_tokens(decoded.embedding[0])
    for index, percept in enumerate(model.perceive(pixels)):
        found[f"tokens{index}"] = model.image_tokens(percept)
    states = own["states"].float()
    found["text_projection"] = torch.cat(model.text_projector(states), dim=-1)
    found["seg_mask_logits"] = model.decode_seg(features, states).mask_logits
    clip = perception.features(pixels, n_frames=len(pixels))
    piece = decode_piece(perception, clip, prototypes)
    found |= {"clip_class_logits": piece.class_logits, "clip_queries": piece.queries}
    found["clip_mask_logits"] = piece.mask_logits[..., ::2, ::2]
    seen = torch.arange(N_CLASSES) < N_THINGS
    found["ensembled_logits"] = ensembled_logits(
        perception, clip, piece.class_logits, piece.mask_logits.transpose(0, 1), prototypes, seen
    )
    return found
