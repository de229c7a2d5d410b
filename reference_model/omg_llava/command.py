"""The package's own commands: `python -m omg_llava convert ...`, `info FOLDER`, `train RECIPE ...`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from omg_llava.config import OmgLlavaConfig, config_names, load_config, read_config
from omg_llava.errors import ModelError
from omg_llava.placing import DTYPES
from omg_llava.training.arguments import add_train_arguments

_CONVERT = """\
Makes one folder, which --model-args weights=FOLDER takes, from the files that the authors publish:

  omg_seg_convl.pth                                     --omg-seg
  omg_llava_7b_finetune_8gpus.pth, finetuned_refseg.pth or finetuned_gcg.pth   --omg-llava
  internlm2-chat-7b/  (or Phi-3, Qwen2: a Hugging Face folder)                 --language-model
  convnext_large_d_320_CocoPanopticOVDataset.pth        --class-embeddings coco_panoptic=FILE

Without --omg-llava the folder is the start of stage 1, for omgbench train: projectors and the vocabulary rows of the
four added tokens are fresh, drawn from --seed; OMG-Seg and the language model are the official ones. It has to be
trained before its answers mean anything.

Nothing in these files is run. Every tensor is accounted for: missing and surplus ones are named, and then nothing is
written.
"""


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = argparse.ArgumentParser(prog="omg_llava", description="Checkpoints of OMG-LLaVA.")
    commands = top.add_subparsers(dest="command", required=True)
    convert = commands.add_parser(
        "convert",
        help="make a model's folder from the official files",
        description=_CONVERT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("--omg-seg", type=Path, required=True, metavar="FILE", help="omg_seg_convl.pth")
    convert.add_argument(
        "--omg-llava",
        type=Path,
        metavar="FILE",
        help="the OMG-LLaVA checkpoint; left out: projectors and four vocabulary rows are fresh, the start of training",
    )
    convert.add_argument("--language-model", type=Path, required=True, metavar="FOLDER", help="its language model")
    convert.add_argument(
        "--class-embeddings",
        action="append",
        default=[],
        metavar="LABELS=FILE",
        help="class-name embeddings of coco_panoptic, vipseg or a JSON file of classes; may be repeated; the first, or "
        "coco_panoptic, scores the objects",
    )
    convert.add_argument(
        "--open-clip", type=Path, metavar="FILE", help="OpenCLIP's file, where OMG-Seg's has no backbone"
    )
    convert.add_argument(
        "--config", default="omg_llava_7b", help=f"sizes: {', '.join(config_names())}, or a JSON file (omg_llava_7b)"
    )
    convert.add_argument(
        "--keep-lora", action="store_true", help="leave the adapters beside the base weights, as four_bit wants them"
    )
    convert.add_argument("--lora-factor", type=float, default=0.5, help="alpha / rank (0.5)")
    convert.add_argument("--dtype", choices=DTYPES, help="of the language model; left out: as stored")
    convert.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of what is fresh without --omg-llava, 0 to 2**32 - 1 (0)"
    )
    convert.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="must not exist")
    info = commands.add_parser("info", help="what a model's folder holds, and whether it is whole")
    info.add_argument("folder", type=Path)
    add_train_arguments(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0, or 2 with a message for a mistake of the user."""
    try:
        return run(arguments)
    except Exception as error:
        # What omgbench's readers raise, where training has used them: the package itself does without.
        errors = sys.modules.get("omgbench.errors")
        if not isinstance(error, ModelError) and (errors is None or not isinstance(error, errors.UserError)):
            raise
        print(f"omg_llava: {error}", file=sys.stderr)
        return 2


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Raises `ModelError` for a mistake of the user."""
    given = parser().parse_args(arguments)
    if given.command == "info":
        from omg_llava.describe import describe

        print("\n".join(f"{name}: {value}" for name, value in describe(given.folder).items()))
        return 0
    if given.command == "train":
        from omg_llava.training.command import train

        return train(given)
    return _convert(given)


def _convert(given: argparse.Namespace) -> int:
    from omg_llava.conversion.convert import ConversionOptions, convert
    from omg_llava.conversion.sources import Sources

    _check_places(given)
    sources = Sources(
        given.omg_seg, given.omg_llava, given.language_model, _embeddings(given.class_embeddings), given.open_clip
    )
    options = ConversionOptions(
        keep_lora=given.keep_lora,
        lora_factor=given.lora_factor,
        dtype=DTYPES.get(given.dtype) if given.dtype else None,
        seed=given.seed,
    )
    config = convert(sources, given.out, _base_config(given.config), options)
    decoder = "its own" if config.seg_token.own_decoder else "the frozen"
    fresh = "" if given.omg_llava else f"; projectors and four vocabulary rows are fresh (seed {given.seed}): train it"
    print(f"{given.out}: {config.name}, [SEG] decoded by {decoder} decoder{fresh}")
    return 0


def _check_places(given: argparse.Namespace) -> None:
    """Everything that a second look at the command line tells, in one message."""
    files = [file for file in (given.omg_seg, given.omg_llava, given.open_clip) if file is not None]
    files += _embeddings(given.class_embeddings).values()
    wrong = [f"no file {path}" for path in files if not path.is_file()]
    if not given.language_model.is_dir():
        wrong.append(f"no folder {given.language_model}")
    if given.config not in config_names() and not Path(given.config).is_file():
        wrong.append(f"no configuration {given.config} ({', '.join(config_names())}, or a JSON file)")
    if not math.isfinite(given.lora_factor):
        wrong.append(f"--lora-factor {given.lora_factor} is no finite number")
    if not 0 <= given.seed < 2**32:
        wrong.append(f"--seed {given.seed} is not from 0 to 2**32 - 1")
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        wrong.append(f"--out {given.out} exists")
    if wrong:
        raise ModelError("; ".join(wrong), hint="omgbench model convert omg_llava --help")


def _embeddings(pairs: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for pair in pairs:
        labels, equals, file = pair.partition("=")
        if not (labels and equals and file):
            raise ModelError(f"--class-embeddings {pair!r}", expected="LABELS=FILE, such as coco_panoptic=FILE.pth")
        if labels in found:
            raise ModelError(f"--class-embeddings names {labels} twice", expected="each label space once")
        found[labels] = Path(file)
    return found


def _base_config(name: str) -> OmgLlavaConfig:
    return load_config(name) if name in config_names() else read_config(Path(name))
