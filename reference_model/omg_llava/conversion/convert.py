"""Official checkpoints in, one folder of safetensors, configuration and tokenizer out."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from omg_llava.checkpoint import write_folder
from omg_llava.config import LanguageConfig, LoraConfig, OmgLlavaConfig
from omg_llava.conversion.class_sets import read_class_set, read_prototypes
from omg_llava.conversion.fresh import fresh_parts, fresh_shapes, fresh_tensors, with_fresh_rows
from omg_llava.conversion.language import read_language_config
from omg_llava.conversion.plan import Plan, check_plan, make_plan
from omg_llava.conversion.sources import Sources, open_language_model, open_omg_llava, open_omg_seg
from omg_llava.errors import ModelError
from omg_llava.files.fingerprint import fingerprint
from omg_llava.files.tokenizer import add_special_tokens_in_order, load_tokenizer
from omg_llava.vocabulary import ADDED_TOKENS

OFFICIAL_LORA_FACTOR = 0.5
"""alpha / rank = 256 / 512. The checkpoints hold the matrices but not alpha."""
_OFFICIAL_PRIOR = "coco_panoptic"


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """How to convert.

    Attributes:
        keep_lora: leave the adapters beside the base weights, as 4-bit loading needs them, in place of merging.
        lora_factor: alpha / rank.
        dtype: of the language model; None keeps the stored one.
        max_shard_bytes: of the written files.
        hash_sources: note the SHA-256 of every source file.
        seed: of what is fresh where no OMG-LLaVA checkpoint is given.
    """

    keep_lora: bool = False
    lora_factor: float = OFFICIAL_LORA_FACTOR
    dtype: torch.dtype | None = None
    max_shard_bytes: int = 2 * 2**30
    hash_sources: bool = True
    seed: int = 0


def convert(
    sources: Sources, out: Path, base: OmgLlavaConfig, options: ConversionOptions = ConversionOptions()
) -> OmgLlavaConfig:
    """Write the folder `out`, which must not exist, and return its configuration.

    Everything is checked before anything is written: each official tensor has a place, each of ours a source, all
    shapes agree. Memory stays at one shard and one layer. Without an OMG-LLaVA checkpoint the folder is the start of
    training: what the checkpoint would hold is drawn from the seed, and `[SEG]` has the frozen decoder.

    Args:
        base: sizes of perception and projectors; the language model's are read from its folder.

    Raises:
        ModelError: a file that is not what it should be, tensors missing or left over, an output that exists.
    """
    tokenizer = load_tokenizer(sources.language_model)
    length = len(tokenizer)
    add_special_tokens_in_order(tokenizer, list(ADDED_TOKENS))
    language = read_language_config(sources.language_model, length)
    random = torch.Generator().manual_seed(options.seed)
    plan = _planned(sources, language, random)
    name = sources.omg_llava.stem if sources.omg_llava else "start"
    config = dataclasses.replace(base, language=language, name=f"{base.name}/{name}")
    config = _described(config, plan, options)
    config, class_sets = _with_class_sets(config, sources)
    made = {name: tuple(tensor.shape) for name, tensor in class_sets.items()}
    check_plan(plan, config, made if sources.omg_llava else made | fresh_shapes(config))
    with write_folder(out, config, tokenizer, max_shard_bytes=options.max_shard_bytes) as writer:
        fresh = () if sources.omg_llava else fresh_tensors(config, random)
        official = plan.tensors(config.language.lora, options.lora_factor)
        for name, tensor in chain(official, fresh, class_sets.items()):
            writer.add(name, tensor.to(_dtype(name, tensor.dtype, options.dtype)))
        (writer.partial / "conversion.json").write_text(_record(sources, config, plan, options), encoding="utf-8")
    return config


def _planned(sources: Sources, language: LanguageConfig, random: torch.Generator) -> Plan:
    omg_seg = open_omg_seg(sources.omg_seg, sources.open_clip)
    language_model = open_language_model(sources.language_model)
    if sources.omg_llava:
        return make_plan(omg_seg, open_omg_llava(sources.omg_llava), language_model, language)
    return make_plan(omg_seg, (), with_fresh_rows(language_model, language, random), language)


def _described(config: OmgLlavaConfig, plan: Plan, options: ConversionOptions) -> OmgLlavaConfig:
    """The configuration as the checkpoint's own tensors tell it: own decoder or not, adapters and their rank."""
    rank = plan.rank
    lora = None
    if rank is not None and options.keep_lora:
        lora = LoraConfig(rank=rank, alpha=rank * options.lora_factor)
    return dataclasses.replace(
        config,
        seg_token=dataclasses.replace(config.seg_token, own_decoder=plan.has_own_decoder),
        language=dataclasses.replace(config.language, lora=lora),
    )


def _with_class_sets(config: OmgLlavaConfig, sources: Sources) -> tuple[OmgLlavaConfig, dict[str, torch.Tensor]]:
    if not sources.class_embeddings:
        raise ModelError(
            "no class embeddings are given",
            expected="at least one label space: without it objects have no classes and the prior no scores",
            hint="--class-embeddings coco_panoptic=convnext_large_d_320_CocoPanopticOVDataset.pth",
        )
    read = [read_prototypes(path, read_class_set(name)) for name, path in sources.class_embeddings.items()]
    sets = tuple(class_set for class_set, _ in read)
    if len({item.name for item in sets}) < len(sets):
        raise ModelError("two label spaces of one name", expected="each name once")
    names = [item.name for item in sets]
    # What the released models were trained with, wherever it stands among the label spaces.
    scoring = _OFFICIAL_PRIOR if _OFFICIAL_PRIOR in names else names[0]
    config = dataclasses.replace(config, class_sets=sets, prior_class_set=scoring)
    return config, {f"class_sets.{item.name}.prototypes": tensor for item, tensor in read}


def _dtype(name: str, stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """Perception and projectors are float32 always."""
    if not name.startswith("llm."):
        return torch.float32
    return wanted or stored


def _record(sources: Sources, config: OmgLlavaConfig, plan: Plan, options: ConversionOptions) -> str:
    """What was converted from what, for people."""
    files = {
        "omg_seg": sources.omg_seg,
        **({"omg_llava": sources.omg_llava} if sources.omg_llava else {}),
        "language_model": sources.language_model,
        **{f"class_embeddings {name}": path for name, path in sources.class_embeddings.items()},
    }
    if sources.open_clip:
        files["open_clip"] = sources.open_clip
    record = {
        "variant": "own [SEG] decoder" if plan.has_own_decoder else "frozen [SEG] decoder",
        "lora_rank": plan.rank,
        "lora": "none" if plan.rank is None else "kept" if options.keep_lora else "merged",
        "lora_factor": options.lora_factor,
        "fresh": None if sources.omg_llava else {"seed": options.seed, "parts": fresh_parts(config)},
        "sources": {
            what: {"name": path.name, "sha256": fingerprint(path) if options.hash_sources else None}
            for what, path in files.items()
        },
    }
    return json.dumps(record, indent=1) + "\n"
