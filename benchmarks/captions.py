"""METEOR and CIDEr of many captions: omgbench beside bare pycocoevalcap, same scores, time and memory of each."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_KINDS = ["dog", "cat", "man", "woman", "child", "horse", "bird", "car", "truck", "bicycle", "boat", "umbrella", "kite"]
_LOOKS = ["small", "big", "red", "old", "young", "white", "striped", "large", "wooden", "bright", "dirty", "tall"]
_DEEDS = ["sits", "stands", "is sitting", "is parked", "lies", "is riding", "walks", "runs", "waits", "is standing"]
_PLACES = [
    "beach",
    "street",
    "table",
    "park",
    "kitchen",
    "bench",
    "field",
    "river",
    "room",
    "sidewalk",
    "road",
    "shore",
]
_NEAR = ["on", "in", "near", "next to", "in front of", "behind", "across from"]


@dataclass(frozen=True)
class Cost:
    """What one side spent, its Java included."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def main() -> None:
    """Run both sides one after the other, check that the scores agree, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=5000, metavar="N", help="items, 2 references each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=["omgbench", "pycocoevalcap"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    references, hypotheses = synthetic_captions(arguments.captions, arguments.seed)
    if arguments.side:
        side = score_ours if arguments.side == "omgbench" else score_bare
        with contextlib.redirect_stdout(sys.stderr):
            scores = side(references, hypotheses)
        print(json.dumps(scores), flush=True)
        # The bare METEOR may wait for ever at a normal exit.
        os._exit(0)
    sides = {name: _run_side(name, arguments) for name in ("pycocoevalcap", "omgbench")}
    _check_equal(sides["pycocoevalcap"][0], sides["omgbench"][0])
    print(f"{arguments.captions} captions, 2 references each, METEOR + CIDEr with PTB tokenizer; scores agree")
    _print_table({name: cost for name, (_, cost) in sides.items()})


def synthetic_captions(n_items: int, seed: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Sentences of a small grammar: two references for each item, and a hypothesis like one of them."""
    rng = random.Random(seed)

    def scene() -> list[str]:
        return [rng.choice(words) for words in (_LOOKS, _KINDS, _DEEDS, _NEAR, _LOOKS, _PLACES)]

    def varied(parts: list[str]) -> list[str]:
        return [part if rng.random() < 0.6 else other for part, other in zip(parts, scene(), strict=True)]

    def sentence(parts: list[str]) -> str:
        look, kind, deed, near, other_look, place = parts
        return f"A {look} {kind} {deed} {near} the {other_look} {place}."

    references, hypotheses = {}, {}
    for number in range(n_items):
        first = scene()
        references[str(number)] = [sentence(first), sentence(varied(first))]
        hypotheses[str(number)] = sentence(varied(first))
    return references, hypotheses


def score_ours(references: dict[str, list[str]], hypotheses: dict[str, str]) -> dict[str, list[float]]:
    """The corpus value and then each item's, by omgbench."""
    from omgbench.metrics.captions import score_captions

    scores = score_captions(references, hypotheses, metrics=("METEOR", "CIDEr"))
    if scores.not_computed:
        raise SystemExit(str(scores.not_computed))
    return {
        name: [scores.corpus[name], *(values[name] for values in scores.per_item.values())] for name in scores.corpus
    }


def score_bare(references: dict[str, list[str]], hypotheses: dict[str, str]) -> dict[str, list[float]]:
    """The corpus value and then each item's, by pycocoevalcap's own classes."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({item: [{"caption": text} for text in texts] for item, texts in references.items()})
    res = tokenizer.tokenize({item: [{"caption": hypotheses[item]}] for item in references})
    scorer = Meteor()
    meteor, meteor_items = scorer.compute_score(gts, res)
    scorer.meteor_p.kill()
    scorer.meteor_p.wait()
    cider, cider_items = Cider().compute_score(gts, res)
    return {"METEOR": [meteor, *meteor_items], "CIDEr": [float(cider), *map(float, cider_items)]}


def _run_side(name: str, arguments: argparse.Namespace) -> tuple[dict[str, list[float]], Cost]:
    options = ["--side", name, "--captions", str(arguments.captions), "--seed", str(arguments.seed)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "scores.json")
        began = time.monotonic()
        with output.open("wb") as stream:
            process = subprocess.Popen([sys.executable, __file__, *options], stdout=stream, stderr=subprocess.DEVNULL)
            usage = _wait(process)
        wall_s = time.monotonic() - began
        scores: dict[str, list[float]] = json.loads(output.read_text())
    return scores, Cost(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss / 1024)


def _wait(process: subprocess.Popen[bytes]) -> resource.struct_rusage:
    """Wait for the process; the usage includes the processes it waited for, peak memory being the largest one's."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{process.args!r} ended with exit code {process.returncode}")
    return usage


def _check_equal(bare: dict[str, list[float]], ours: dict[str, list[float]]) -> None:
    assert bare.keys() == ours.keys()
    for name, tolerance in (("METEOR", 0.0), ("CIDEr", 1e-12)):
        assert len(bare[name]) == len(ours[name])
        difference = max(abs(theirs - own) for theirs, own in zip(bare[name], ours[name], strict=True))
        assert difference <= tolerance, f"{name} differs by {difference}"


def _print_table(costs: dict[str, Cost]) -> None:
    print(f"{'':14} {'CPU s':>8} {'wall s':>8} {'peak MB':>8}")
    for name, cost in costs.items():
        print(f"{name:14} {cost.cpu_s:8.1f} {cost.wall_s:8.1f} {cost.peak_mb:8.0f}")
    bare, ours = costs["pycocoevalcap"], costs["omgbench"]
    ratios = ours.cpu_s / bare.cpu_s, ours.wall_s / bare.wall_s, ours.peak_mb / bare.peak_mb
    print(f"{'ratio':14} {ratios[0]:8.2f} {ratios[1]:8.2f} {ratios[2]:8.2f}")


if __name__ == "__main__":
    main()
