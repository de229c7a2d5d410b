"""What `train` takes on a command line. Imports nothing that takes long."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Trains by a recipe, a name or a JSON file, and leaves a model in OUT/model that --model-args weights=OUT/model takes.

The same command goes on where an earlier one stopped: at the end of --minutes, at Ctrl-C, or at the last checkpoint
where the machine went down. Under `torchrun` or `accelerate launch` it uses every process; give all of them the same
words.
"""


def add_train_arguments(commands: Any) -> None:
    """Add the command to a parser's subparsers."""
    train = commands.add_parser(
        "train",
        help="train by a recipe",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("recipe", metavar="RECIPE", help="name of a recipe, or a JSON file")
    train.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of this training")
    train.add_argument(
        "--data-root", type=Path, metavar="FOLDER", help="what the recipe's paths are relative to (OUT/data)"
    )
    train.add_argument(
        "--keep-out",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="evaluation pictures, none of which may be trained on; may be repeated",
    )
    train.add_argument("--start", type=Path, metavar="FOLDER", help="a model's folder to start from")
    train.add_argument("--minutes", type=float, metavar="N", help="stop with a checkpoint after so long")
    train.add_argument(
        "--checkpoint-minutes", type=float, default=5.0, metavar="N", help="between checkpoints (%(default)s)"
    )
    train.add_argument("--device", choices=("cpu",), help="cpu; left out: what accelerate finds")
    train.add_argument(
        "--part", type=_part, default=(1, 1), metavar="K/N", help="of a study: every N-th training, from the K-th on"
    )
    train.add_argument("--seed", type=int, metavar="N", help="in place of the recipe's")


def _part(text: str) -> tuple[int, int]:
    """ "2/3" as (2, 3)."""
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with 1 <= K <= N")
    return int(first), int(last)
