"""What it takes to train OMG-LLaVA at full size: memory of each GPU, operations, hours.

    python benchmarks/training_plan.py                                  # stages 1 and 2 on 4 GPUs of 80 GiB
    python benchmarks/training_plan.py --stage fine-tune --gpus 8 --mfu 20 40

Parameters, memory of a step and operations are counted from the model's code at its own configuration, without its
weights and without a GPU. What cannot be counted is assumed, and printed as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import omg_llava_flops as flops
import torch
from training_flops import Sample, Work, step_work
from training_memory import StepKind, perception_peak, step_peaks
from training_stages import LAYOUTS, MIXTURE, N_CHAT_TOKENS, NF4_BYTES, STAGES, Layout, Stage

from omg_llava.config import LoraConfig, OmgLlavaConfig, load_config
from omg_llava.conversion.class_sets import read_class_set
from omg_llava.model import OmgLlava
from omg_llava.training.parts import PARTS

GIB, TERA, EXA = 2**30, 1e12, 1e18
TFLOPS = {"16 bits": 312.0, "TF32": 156.0, "float32": 19.5}
"""Peak rates of an A100 or A800 (NVIDIA's data sheet, without sparsity)."""
FLOAT32_SHARE = 0.8
"""Of the float32 rate, which needs no tensor cores and is nearly reached."""
OVERHEAD_GIB = 3.0
_TITLES = {
    "perception": "perception (OMG-Seg)",
    "base": "language model, linear layers (base)",
    "norms": "language model, norms",
    "vocabulary": "language model, both vocabularies",
    "lora": f"adapters of rank {LoraConfig().rank}, head included",
    "projectors": "projectors",
    "own_seg_decoder": "own decoder and mask head for [SEG]",
}
_COLUMNS = {"weights": 9, "gradients": 11, "AdamW": 8, "activations": 16, "total": 16, "fits": 11}


def main() -> None:
    """Print the plan."""
    options = _options()
    print(f"{options.gpus} GPUs of {options.gpu_gib:g} GiB\n")
    print_parameters()
    for name in options.stage:
        changes = {"text_tokens": options.text_tokens, "micro_batch": options.micro_batch}
        stage = dataclasses.replace(STAGES[name], **{key: value for key, value in changes.items() if value})
        print(f"\n{stage.title}\n{'-' * len(stage.title)}")
        print_memory(stage, options)
        print_time(stage, options)
    print_assumptions(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=["1", "2"])
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--gpu-gib", type=float, default=80)
    parser.add_argument("--micro-batch", type=int, help="samples of a GPU at a time (official: 16, 8, 8)")
    parser.add_argument("--mfu", type=float, nargs=2, default=(25, 45), metavar=("LOW", "HIGH"), help="per cent")
    parser.add_argument("--text-tokens", type=int, help="of a sample, padding included (assumed: 64, 400, 150)")
    parser.add_argument("--objects", type=int, default=59, help="object tokens of a picture, 1 to 256 (59)")
    return parser.parse_args()


def stage_config(stage: Stage) -> OmgLlavaConfig:
    """The paper's model with what the stage trains, and the label space that scores its objects."""
    config = load_config("omg_llava_7b")
    lora = LoraConfig() if "lora" in stage.trains else None
    return dataclasses.replace(
        config,
        class_sets=(read_class_set("coco_panoptic"),),
        language=dataclasses.replace(config.language, lora=lora),
        seg_token=dataclasses.replace(config.seg_token, own_decoder="own_seg_decoder" in stage.trains),
    )


def meta_model(config: OmgLlavaConfig) -> OmgLlava:
    """The model without memory."""
    with torch.device("meta"):
        return OmgLlava(config)


def count_parts(model: OmgLlava) -> Counter[str]:
    """Parameters by part. "base" are the language model's linear layers without the head, "norms" the rest of it."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parts = [part for part in _TITLES if part in PARTS and PARTS[part](name)]
        counts[parts[0] if parts else "base" if parameter.ndim > 1 else "norms"] += parameter.numel()
    return counts


def print_parameters() -> None:
    """By part, with the stages that train it."""
    counts = count_parts(meta_model(stage_config(STAGES["fine-tune"])))
    print(f"{'parameters':<40}{'number':>15}   trained in")
    for part, title in _TITLES.items():
        stages = ", ".join(name for name, stage in STAGES.items() if part in stage.trains)
        print(f"{title:<40}{counts[part]:>15,}   {stages or '-'}")
    for stage in STAGES.values():
        print(f"{f'trained in {stage.title}':<40}{sum(counts[part] for part in stage.trains):>15,}")
    kinds = {"NF4": NF4_BYTES, "16 bits": 2, "float32": 4}
    sizes = (f"{kind} {counts['base'] * n_bytes / GIB:.1f}" for kind, n_bytes in kinds.items())
    print(f"the base in GiB: {', '.join(sizes)}")


def state_bytes(counts: Counter[str], trains: Iterable[str], layout: Layout, n_gpus: int) -> tuple[float, ...]:
    """Of weights, gradients and optimiser on one GPU."""
    trained = sum(counts[part] for part in trains)
    frozen = {part: n for part, n in counts.items() if part not in trains}
    weights = layout.weights * trained + layout.base * frozen.pop("base") + 4 * frozen.pop("perception")
    weights += layout.other * sum(frozen.values())
    share = 1 / n_gpus if layout.is_sharded else 1
    return weights, layout.gradients * trained * share, layout.optimizer * trained * share


def sample_of(stage: Stage, config: OmgLlavaConfig, n_objects: int, n_text: int) -> Sample:
    """A sample with so much text."""
    return Sample(flops.n_prefix_tokens(config, N_CHAT_TOKENS, n_objects) + n_text, n_objects, stage.n_segs)


def print_memory(stage: Stage, options: argparse.Namespace) -> None:
    """Of one GPU, by layout: at the assumed length and at the longest."""
    config, n = stage_config(stage), stage.in_memory
    counts, seen = count_parts(meta_model(config)), perception_peak(config, n)
    samples = [sample_of(stage, config, options.objects, n_text) for n_text in (stage.text_tokens, stage.longest)]
    print(f"GiB of a GPU; micro-batch {n}, {math.ceil(stage.batch / options.gpus / n)} of them a step.")
    print(
        f"Activations: {seen / GIB:.1f} while the perception looks; then, for sequences of {samples[0].n_tokens}",
        end="",
    )
    print(f" tokens (in brackets: {samples[1].n_tokens}, the longest):\n")
    print(" " * 38 + "".join(f"{name:>{width}}" for name, width in _COLUMNS.items()))
    for layout in LAYOUTS:
        kind = StepKind(stage.trains, layout.precision, layout.checkpointing)
        steps = step_peaks(config, kind, samples, n)
        states = state_bytes(counts, stage.trains, layout, options.gpus)
        print(f"{layout.name:<38}" + _memory_cells(states, seen, steps, options.gpu_gib), flush=True)


def _memory_cells(states: Sequence[float], seen: int, steps: Sequence[int], gpu_gib: float) -> str:
    totals = [(sum(states) + max(seen, step)) / GIB + OVERHEAD_GIB for step in steps]
    cells = [f"{value / GIB:.1f}" for value in states]
    cells += ["{:.1f} ({:.1f})".format(*(step / GIB for step in steps)), "{:.1f} ({:.1f})".format(*totals)]
    cells.append("{} ({})".format(*("yes" if total <= gpu_gib else "no" for total in totals)))
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _COLUMNS.values(), strict=True))


def print_time(stage: Stage, options: argparse.Namespace) -> None:
    """Operations and hours, beside the paper's."""
    work, longer = (_work(stage, options.objects, stage.text_tokens + more) for more in (0, 100))
    total = sum(part.flops for part in work)
    print("\nTFLOP of a sample:")
    for part in [*work, Work("together", total)]:
        print(f"{part.name:<40}{part.flops / TERA:>8.2f}")
    print(f"{stage.n_samples:,} samples, {stage.n_samples // stage.batch:,} steps of {stage.batch}", end="")
    print(f": {total * stage.n_samples / EXA:.1f} EFLOP\n")
    low, high = (percent / 100 for percent in options.mfu)
    paper = "" if stage.paper_hours is None else f"   in {stage.paper_hours:g} hours, as the paper"
    print(f"{'hours, the perception computing in':<40}{f'{high:.0%} .. {low:.0%}':>15}{paper}")
    for name in TFLOPS:
        span = [hours(stage, work, options.gpus, name, share) for share in (high, low)]
        print(f"{name:<40}{'{:.1f} .. {:.1f}'.format(*span):>15}{_implied(stage, work, options.gpus, name)}")
    added = [
        hours(stage, longer, options.gpus, "TF32", share) - hours(stage, work, options.gpus, "TF32", share)
        for share in (high, low)
    ]
    print(f"{'100 tokens more in each sample':<40}{'+{:.1f} .. {:.1f}'.format(*added):>15}")


def _work(stage: Stage, n_objects: int, n_text: int) -> list[Work]:
    config = stage_config(stage)
    sample = sample_of(stage, config, n_objects, n_text)
    return step_work(config, meta_model(config).llm, stage.trains, sample, checkpointing=True)


def hours(stage: Stage, work: Iterable[Work], n_gpus: int, perception: str, utilisation: float) -> float:
    """Of the stage at a share of the peak rates; `perception` names the rate of what looks at pictures."""
    own = FLOAT32_SHARE if perception == "float32" else utilisation
    shares = {True: own * TFLOPS[perception], False: utilisation * TFLOPS["16 bits"]}
    seconds = sum(part.flops / TERA / shares[part.frozen_perception] for part in work)
    return stage.n_samples * seconds / n_gpus / 3600


def implied_utilisation(stage: Stage, work: Sequence[Work], n_gpus: int, perception: str) -> float:
    """The share of the peak rates at which the stage takes the paper's hours; above 1 where nothing is fast enough."""
    assert stage.paper_hours is not None
    fixed = [part for part in work if part.frozen_perception and perception == "float32"]
    fixed_hours = hours(stage, fixed, n_gpus, perception, 1)
    if fixed_hours >= stage.paper_hours:
        return math.inf
    return (hours(stage, work, n_gpus, perception, 1) - fixed_hours) / (stage.paper_hours - fixed_hours)


def _implied(stage: Stage, work: Sequence[Work], n_gpus: int, perception: str) -> str:
    if stage.paper_hours is None:
        return ""
    share = implied_utilisation(stage, work, n_gpus, perception)
    return f"   {share:.0%}" if share <= 1 else "   impossible"


def print_assumptions(options: argparse.Namespace) -> None:
    """What was not counted."""
    print("\nAssumed:")
    rates = ", ".join(f"{name} {rate:g}" for name, rate in TFLOPS.items())
    for line in (
        f"an A100 or A800 in TFLOP/s: {rates}; hours are for shares of them,",
        f"  recomputed layers being work, too; of float32 always {FLOAT32_SHARE:.0%}",
        f"{options.objects} object tokens a picture; lengths of texts, padding of the micro-batch included",
        f"{OVERHEAD_GIB:g} GiB of a GPU for CUDA, communication and gaps",
        "a trained parameter under ZeRO-2: 2 bytes, and 2 of gradient and 12 of AdamW divided among the GPUs",
        "a trained parameter under DDP: 4 bytes, 4 + 4 of gradient (its own and in a bucket), 8 of AdamW",
        "samples of stage 2 as the paper states them, times as the official list has them:",
        *(f"{source.n_samples:>9,} x {source.times}  {source.name}" for source in MIXTURE),
    ):
        print(f"  {line}")


if __name__ == "__main__":
    main()
