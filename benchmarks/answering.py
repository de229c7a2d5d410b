"""What OMG-LLaVA saves by looking once at a picture and answering its questions together.

    python benchmarks/answering.py                      # times, memory, arithmetic
    python benchmarks/answering.py --part arithmetic    # operations of the full-size model alone

Timed are the tiny configuration's untrained weights, four ways in turn, so that a busy machine hurts all of them:

    together       the package: looks, cached prefixes, all questions of the pictures in one batch
    one by one     the package with a batch of one: looks and cached prefixes only
    encoded once   a plain loop that encodes each picture once and shares nothing else
    plain loop     everything anew for every question

Texts must be the same, masks but for rounding. Goal: together at least 4 times as fast as the plain loop with 7
questions a picture (refCOCO) and 8 times with 18 (POPE), by median CPU time, which other processes disturb least. The
arithmetic says what to expect of the full size.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from measure import run
from omg_llava_flops import Load, n_prefix_tokens, parts

from omg_llava.config import config_names, load_config

if TYPE_CHECKING:
    from answering_paths import Answer, AnswerForm

LOADS = {"refCOCO": Load(7, 20, 12, 1), "POPE": Load(18, 18, 2, 0)}
"""Questions of one picture, and lengths in tokens of a usual vocabulary; the byte tokenizer's questions are longer."""
GOALS = {"refCOCO": 4.0, "POPE": 8.0}
MAX_NEW_TOKENS = 64
FEWEST_ROUNDS = 3
MOST_DIFFERING = 1e-4
"""Share of mask pixels that rounding may move over the threshold."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What every way took, one number a round, and what it answered."""

    wall_s: dict[str, list[float]]
    cpu_s: dict[str, list[float]]
    answers: dict[str, list[Answer]]


def timed(load: Load, options: argparse.Namespace) -> Timed:
    """All ways in turn, in this process, after one round that is not counted; fewer rounds where time runs out."""
    ways, form = prepare(load, options.pictures, options.threads)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    with form.imposed():
        result = Timed(wall, cpu, {name: way() for name, way in ways.items()})
        end = time.perf_counter() + options.seconds
        for number in range(options.rounds):
            if number >= FEWEST_ROUNDS and time.perf_counter() > end:
                break
            # Every other round backwards, so that no way always follows the same one.
            for name in reversed(ways) if number % 2 else ways:
                started = time.perf_counter(), time.process_time()
                ways[name]()
                wall[name].append(time.perf_counter() - started[0])
                cpu[name].append(time.process_time() - started[1])
    return result


def prepare(load: Load, n_pictures: int, threads: int) -> tuple[dict[str, Callable[[], list[Answer]]], AnswerForm]:
    """The ways with the same weights and questions, and what gives answers their form."""
    # A thread that waits for another sleeps, so that CPU time is work and a busy machine does not stop both.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from answering_paths import AnswerForm, PlainLoop, ask_together, asked, make_assistant

    torch.set_num_threads(threads)
    assistant, pictures = make_assistant(), asked(load, n_pictures)
    form = AnswerForm(assistant, load)
    loop = PlainLoop(assistant, form, MAX_NEW_TOKENS)
    n = n_pictures * load.n_questions
    ways: dict[str, Callable[[], list[Answer]]] = {
        "together": lambda: ask_together(assistant, form, pictures, n, MAX_NEW_TOKENS),
        "one by one": lambda: ask_together(assistant, form, pictures, 1, MAX_NEW_TOKENS),
        "encoded once": lambda: loop.ask_encoded_once(pictures),
        "plain loop": lambda: loop.ask_each(pictures),
    }
    return ways, form


def check_answers(load: Load, answers: dict[str, list[Answer]]) -> str:
    """Stop unless all ways answered the same; returns a description."""
    expected = answers["together"]
    differing = n_pixels = 0
    for name, other in answers.items():
        for (text, masks), (other_text, other_masks) in zip(expected, other, strict=True):
            if text != other_text or len(masks) != load.n_segs or len(other_masks) != load.n_segs:
                raise SystemExit(f"{name} answered {other_text!r} with {len(other_masks)} masks, together {text!r}")
            for mask, other_mask in zip(masks, other_masks, strict=True):
                differing += int((mask != other_mask).sum())
                n_pixels += mask.numel()
    if differing > MOST_DIFFERING * n_pixels:
        raise SystemExit(f"{differing} of {n_pixels} mask pixels differ")
    distinct = len({text for text, _ in expected})
    masks_text = f"masks the same but for {differing} of {n_pixels:,} pixels" if n_pixels else "no masks"
    return f"all texts the same ({distinct} distinct), {masks_text}"


def print_times(name: str, options: argparse.Namespace) -> float:
    """One load; returns how many times as much CPU time the plain loop takes."""
    load = LOADS[name]
    result = timed(load, options)
    n = options.pictures * load.n_questions
    print(
        f"\n{name}: {options.pictures} pictures, {load.n_questions} questions each, {load.n_answer_tokens} new tokens"
    )
    print(f"  {check_answers(load, result.answers)}")
    wall, cpu = result.wall_s, result.cpu_s
    print(f"  wall or CPU ms a question, and times together; {len(wall['together'])} rounds")
    heads = ("median", "times", "by round", "lowest", "times", "CPU median", "times")
    print(f"  {'':14}" + "".join(f"{head:>14}" for head in heads))
    own_wall, own_cpu = wall["together"], cpu["together"]
    for way, seconds in wall.items():
        rounds = [value / own for value, own in zip(seconds, own_wall, strict=True)]
        figures = [
            f"{median(seconds) / n * 1e3:.1f}",
            f"{median(seconds) / median(own_wall):.2f}",
            f"{min(rounds):.1f} to {max(rounds):.1f}",
            f"{min(seconds) / n * 1e3:.1f}",
            f"{min(seconds) / min(own_wall):.2f}",
            f"{median(cpu[way]) / n * 1e3:.1f}",
            f"{median(cpu[way]) / median(own_cpu):.2f}",
        ]
        print(f"  {way:14}" + "".join(f"{figure:>14}" for figure in figures), flush=True)
    return median(cpu["plain loop"]) / median(own_cpu)


def print_memory(options: argparse.Namespace) -> None:
    """Peak of processes of their own: this one holds other ways' memory too."""
    print(f"\n{'peak resident memory, together':40}{'MB':>8}")
    for name in ("nothing", *LOADS):
        command = [sys.executable, str(Path(__file__).resolve()), "--only", name]
        cost = run([*command, "--pictures", str(options.pictures), "--threads", str(options.threads)])
        if cost.code != 0:
            raise SystemExit(f"the process for {name} failed")
        label = "the model, no question asked" if name == "nothing" else name
        print(f"  {label:38}{cost.peak_mb:8.0f}", flush=True)


def answer_only(name: str, options: argparse.Namespace) -> None:
    """What memory is measured of."""
    ways, form = prepare(LOADS.get(name, LOADS["POPE"]), options.pictures, options.threads)
    if name in LOADS:
        with form.imposed():
            ways["together"]()


def print_arithmetic(name: str, options: argparse.Namespace) -> None:
    """Operations a question of one load, part by part."""
    config, load = load_config(options.config), LOADS[name]
    n_objects = min(options.objects, config.tokens_side**2, config.segmenter.n_queries)
    table = parts(config, load, n_head_tokens=options.head_tokens, n_objects=n_objects)
    n_prefix = n_prefix_tokens(config, options.head_tokens, n_objects)
    lengths = f"{n_prefix} tokens of prefix, {load.n_question_tokens} of question, {load.n_answer_tokens} of answer"
    print(f"\n{name}, {config.name}, 10**9 operations: {lengths}")
    print(f"  {'':24}{'one run':>10}{'a question together':>22}{'encoded once':>14}{'plain loop':>12}")
    for part in table:
        shares = part.flops / 1e9, part.shared, part.encoded_once, part.alone
        print(f"  {part.name:24}{shares[0]:10.1f}" + _columns(*(shares[0] * share for share in shares[1:])))
    totals = [sum(part.flops * getattr(part, way) for part in table) for way in ("shared", "encoded_once", "alone")]
    print(f"  {'all':34}" + _columns(*(total / 1e9 for total in totals)))
    print(f"  {'times together':34}" + _columns(*(total / totals[0] for total in totals), digits=2))
    # Prefill gives the first token; every pass after it reads all weights for one token a row.
    together = (1 + load.n_answer_tokens) / load.n_questions
    passes = _columns(together, load.n_answer_tokens, load.n_answer_tokens)
    print(f"  {'passes of the language model':34}{passes}")


def _columns(together: float, encoded_once: float, alone: float, *, digits: int = 1) -> str:
    return f"{together:22.{digits}f}{encoded_once:14.{digits}f}{alone:12.{digits}f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("times", "memory", "arithmetic", "all"), default="all")
    parser.add_argument("--pictures", type=int, default=2, help="whose questions make one batch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=20, help="no round of a load begins after this long")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--config", choices=config_names(), default="omg_llava_7b", help="of the arithmetic")
    parser.add_argument("--head-tokens", type=int, default=4, help="before the picture, of the arithmetic")
    parser.add_argument("--objects", type=int, default=60, help="object tokens of a picture, of the arithmetic")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        answer_only(options.only, options)
        return
    chosen = ("memory", "arithmetic", "times") if options.part == "all" else (options.part,)
    if "arithmetic" in chosen:
        for name in LOADS:
            print_arithmetic(name, options)
    # Before torch is imported here: a child starts with its parent's peak.
    if "memory" in chosen:
        print_memory(options)
    if "times" in chosen:
        ratios = {name: print_times(name, options) for name in LOADS}
        missed = [f"{name} {ratio:.2f} of {GOALS[name]}" for name, ratio in ratios.items() if ratio < GOALS[name]]
        if missed:
            raise SystemExit(f"goal missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
