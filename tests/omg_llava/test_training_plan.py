"""`benchmarks/training_plan.py`: its counts against formulas, torch's counters and the recipes; the page against it."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from omg_llava.config import LoraConfig, OmgLlavaConfig, load_config
from omg_llava.language_model import run_transformer
from omg_llava.model import OmgLlava
from omg_llava.training.losses import text_loss
from omg_llava.training.parts import train_only
from omg_llava.training.recipe import find_recipe

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "training_plan.py"
PAGE = ROOT / "docs" / "training_full_size.md"
OWN_DECODER, ADAPTERS, VOCABULARY = 14_406_656, 1_257_441_280, 379_076_608
VISUAL_PROJECTOR, TEXT_PROJECTOR = 89_155_584, 2_360_320
"""Of the official checkpoints."""
STAGE_2 = ("lora", "vocabulary", "projectors")
N_TOKENS, N_OBJECTS = 70, 5


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[dict[str, ModuleType]]:
    """The script's modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        names = ("plan", "flops", "memory", "stages")
        yield {name: importlib.import_module(f"training_{name}") for name in names}


@pytest.fixture(scope="module")
def small() -> OmgLlavaConfig:
    """With adapters, and no two sizes alike that could be mixed up."""
    config = load_config("omg_llava_bytes")
    language = dataclasses.replace(config.language, lora=LoraConfig(rank=24, alpha=12, dropout=0.05))
    return dataclasses.replace(config, language=language)


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, str(SCRIPT), "--stage", "1", "--micro-batch", "2", "--gpus", "4"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def number(text: str, line: str) -> int:
    [found] = re.findall(rf"^{re.escape(line)} +([\d,]+)", text, re.MULTILINE)
    return int(found.replace(",", ""))


# ---- parameters -----------------------------------------------------------------------------------------------------


def adapters_by_formula() -> int:
    """Rank times inputs and outputs of InternLM2's matrices: wqkv is one, the head has adapters too."""
    settings = load_config("omg_llava_7b").language.transformers
    width, inner, vocabulary = (settings[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    wqkv = width + 2 * settings["num_key_value_heads"] * width // settings["num_attention_heads"]
    pairs = [(width, wqkv), (width, width), (width, inner), (width, inner), (inner, width)]
    return 512 * (settings["num_hidden_layers"] * sum(map(sum, pairs)) + width + vocabulary)


def test_printed_parameters(printed: str) -> None:
    assert adapters_by_formula() == ADAPTERS
    projectors = VISUAL_PROJECTOR + TEXT_PROJECTOR
    assert number(printed, "own decoder and mask head for [SEG]") == OWN_DECODER
    assert number(printed, "adapters of rank 512, head included") == ADAPTERS
    assert number(printed, "language model, both vocabularies") == 2 * VOCABULARY
    assert number(printed, "projectors") == number(printed, "trained in Stage 1") == projectors
    assert number(printed, "trained in Stage 2") == ADAPTERS + 2 * VOCABULARY + projectors
    assert number(printed, "trained in RefSeg fine-tune") - number(printed, "trained in Stage 2") == OWN_DECODER
    language = number(printed, "language model, linear layers (base)") + number(printed, "language model, norms")
    assert language + 2 * VOCABULARY == pytest.approx(7_738e6, rel=1e-3)
    assert number(printed, "perception (OMG-Seg)") == pytest.approx(220.8e6, rel=1e-3)


def test_printed_tables(printed: str, benchmarks: dict[str, ModuleType]) -> None:
    lines = printed.splitlines()
    for layout in benchmarks["stages"].LAYOUTS:
        [row] = [line for line in lines if line.startswith(f"{layout.name}  ")]
        weights, gradients, states, _, longest, total, total_longest = map(float, re.findall(r"\d+\.\d", row))
        seen = float(re.search(r"Activations: (\d+\.\d)", printed)[1])  # type: ignore[index]
        known = weights + gradients + states + benchmarks["plan"].OVERHEAD_GIB
        assert total_longest == pytest.approx(known + max(longest, seen), abs=0.3)
        assert total <= total_longest and row.endswith("yes (yes)" if total_longest <= 80 else "no)")
    assert "micro-batch 2, 32 of them a step" in printed
    assert "steps of 256" in printed and "in 7 hours, as the paper" in printed


def test_nf4(benchmarks: dict[str, ModuleType]) -> None:
    layer = pytest.importorskip("bitsandbytes").nn.Params4bit
    held = layer(torch.randn(512, 1024), requires_grad=False, compress_statistics=True, quant_type="nf4").to("cpu")
    state = held.quant_state
    n_bytes = held.data.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert n_bytes / (512 * 1024) == benchmarks["stages"].NF4_BYTES


def test_states_are_divided(benchmarks: dict[str, ModuleType]) -> None:
    plan, stages = benchmarks["plan"], benchmarks["stages"]
    counts = {"lora": 1000, "base": 800, "perception": 100, "norms": 10}
    zero2, ddp = stages.LAYOUTS[0], next(layout for layout in stages.LAYOUTS if not layout.is_sharded)
    weights = 2000 + 800 * stages.NF4_BYTES + 400
    assert plan.state_bytes(counts, ("lora",), zero2, 1) == pytest.approx((weights + 20, 2000, 12000))
    assert plan.state_bytes(counts, ("lora",), zero2, 4) == pytest.approx((weights + 20, 500, 3000))
    assert plan.state_bytes(counts, ("lora",), ddp, 4) == pytest.approx((weights + 2040, 8000, 8000))


# ---- operations and hours -------------------------------------------------------------------------------------------


def steps_operations(config: OmgLlavaConfig, trains: tuple[str, ...], *, checkpointing: bool) -> int:
    """Of the language model, as torch counts them."""
    torch.manual_seed(0)
    model = OmgLlava(config)
    train_only(model, trains)
    model.llm.train()
    if checkpointing:
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    embeds = torch.randn(1, N_TOKENS, config.language.hidden_size, requires_grad=True)
    labels = torch.zeros(1, N_TOKENS, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), set_checkpoint_early_stop(False), FlopCounterMode(display=False) as counter:
        states = run_transformer(model.llm, model.seg_state, embeds)
        text_loss(states.last, labels, model.logits).backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trains", [("projectors",), STAGE_2], ids=["stage 1", "stage 2"])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`")
def test_operations_of_the_language_model(
    benchmarks: dict[str, ModuleType], small: OmgLlavaConfig, trains: tuple[str, ...], checkpointing: bool
) -> None:
    config = small
    if "lora" not in trains:
        config = dataclasses.replace(small, language=dataclasses.replace(small.language, lora=None))
    sample = benchmarks["flops"].Sample(N_TOKENS, N_OBJECTS, 0)
    work = benchmarks["flops"].step_work(config, OmgLlava(config).llm, trains, sample, checkpointing=checkpointing)
    told = sum(part.flops for part in work if part.name not in ("perception", "projectors and their gradients"))
    assert told == pytest.approx(steps_operations(config, trains, checkpointing=checkpointing), rel=1e-3)


def test_hours(benchmarks: dict[str, ModuleType]) -> None:
    plan, stage = benchmarks["plan"], benchmarks["stages"].STAGES["1"]
    work = [benchmarks["flops"].Work("a", int(6e12)), benchmarks["flops"].Work("b", int(2e12), frozen_perception=True)]
    assert plan.hours(stage, work, 4, "16 bits", 0.5) == pytest.approx(558e3 * 8 / 156 / 4 / 3600)
    assert plan.hours(stage, work, 4, "float32", 0.5) == pytest.approx(558e3 * (6 / 156 + 2 / 15.6) / 4 / 3600)
    for perception in plan.TFLOPS:
        share = plan.implied_utilisation(stage, work, 4, perception)
        assert plan.hours(stage, work, 4, perception, share) == pytest.approx(stage.paper_hours)
    assert plan.implied_utilisation(stage, work, 1, "float32") == float("inf")


def test_the_mixture_is_the_recipes(benchmarks: dict[str, ModuleType]) -> None:
    """Human-annotated grounded captions stand ten times in the list, and are few: the paper's number is taken once."""
    groups = {
        "LLaVA": {"llava"},
        "GranD-f": {"flickr_gcg", "refcocog_gcg", "openpsg_gcg"},
        "ADE20K": {"ade20k", "coco_stuff"},
        "RefCOCO": {"refer"},
        "Osprey": {"osprey_detailed", "osprey_conversation"},
        "MDVP": {"mdvp"},
    }
    listed = find_recipe("omg_llava_7b").stages[1].data
    for source in benchmarks["stages"].MIXTURE:
        families = next(names for start, names in groups.items() if source.name.startswith(start))
        assert {item.times for item in listed if item.family in families} == {source.times}, source.name
    stages = benchmarks["stages"].STAGES
    assert [stages[name].batch for name in stages] == [256, 128, 128]
    assert stages["2"].n_samples == 1_439_000


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_live_bytes(benchmarks: dict[str, ModuleType]) -> None:
    known = torch.nn.Linear(4, 4)
    live = benchmarks["memory"].LiveBytes(known)
    with live:
        one = torch.zeros(1000)
        two = one + 1
        del one
        view = two[:10]
        assert live.now == 4000
        live.begin_phase()
        three = known.weight.detach()
        del two, view
        four = torch.zeros(500)
    assert (live.now, live.peaks) == (2000, [8000, 4000])
    del three, four
    assert live.now == 0


@pytest.mark.parametrize(
    ("trains", "precision", "checkpointing", "n_segs"),
    [
        (("projectors",), "half", True, 0),
        (STAGE_2, "autocast over NF4", False, 1),
        (STAGE_2, "autocast", True, 0),
    ],
)
def test_two_depths_tell_every_depth(
    benchmarks: dict[str, ModuleType],
    small: OmgLlavaConfig,
    trains: tuple[str, ...],
    precision: str,
    checkpointing: bool,
    n_segs: int,
) -> None:
    memory = benchmarks["memory"]
    kind = memory.StepKind(trains, precision, checkpointing)
    sample = benchmarks["flops"].Sample(N_TOKENS, N_OBJECTS, n_segs)
    with memory.hollow(memory.shallow(small, small.language.n_layers), trains, precision) as model:
        whole = memory.phase_peaks(model, kind, sample, 2)
    assert memory.step_peaks(small, kind, [sample], 2) == [max(whole)]


def saved_bytes(config: OmgLlavaConfig) -> int:
    """What a real forward pass in 16 bits keeps for the way back."""
    model = OmgLlava(config)
    train_only(model, STAGE_2)
    model.llm.train().to(torch.bfloat16)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    embeds = torch.randn(1, N_TOKENS, config.language.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    seen = torch.ones(1, 1, N_TOKENS, N_TOKENS, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = run_transformer(model.llm, model.seg_state, embeds, seen, torch.arange(N_TOKENS)[None])
    assert states.last.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def test_what_a_layer_keeps(benchmarks: dict[str, ModuleType], small: OmgLlavaConfig) -> None:
    """Without checkpointing what autograd saves, with it the layer's input alone."""
    memory = benchmarks["memory"]
    sample = benchmarks["flops"].Sample(N_TOKENS, N_OBJECTS, 0)
    shallow = [memory.shallow(small, depth) for depth in (1, 2)]

    def growth(*, checkpointing: bool) -> int:
        kind, on_the_way_back = memory.StepKind(STAGE_2, "half", checkpointing), []
        for config in shallow:
            with memory.hollow(config, STAGE_2) as model:
                on_the_way_back.append(memory.phase_peaks(model, kind, sample, 1)[1])
        return int(on_the_way_back[1] - on_the_way_back[0])

    one, two = (saved_bytes(config) for config in shallow)
    assert growth(checkpointing=False) == pytest.approx(two - one, rel=0.02)
    assert growth(checkpointing=True) == 2 * N_TOKENS * small.language.hidden_size


def test_nothing_hollow_stays_behind(benchmarks: dict[str, ModuleType], small: OmgLlavaConfig) -> None:
    assert benchmarks["memory"].perception_peak(small, 1) > 0
    model = OmgLlava(small).eval()
    with torch.no_grad():
        features = model.perception.features(torch.zeros(1, 3, 256, 256))
    assert type(features.levels[0].positions) is torch.Tensor


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_shows_what_is_printed() -> None:
    """Word for word; numbers may differ by a hundredth, as other versions of the libraries have it."""
    [shown] = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True, timeout=900)
    (words, numbers), (words_shown, numbers_shown) = taken_apart(done.stdout), taken_apart(shown)
    assert words == words_shown
    assert numbers == pytest.approx(numbers_shown, rel=0.01, abs=0.11)


def taken_apart(text: str) -> tuple[list[str], list[float]]:
    pattern = r"\d[\d,]*(?:\.\d+)?"
    return re.sub(pattern, "#", text).split(), [float(item.replace(",", "")) for item in re.findall(pattern, text)]


@pytest.mark.parametrize("name", ["training/recipes/omg_llava_7b.json", "training/run.py"])
def test_files_of_the_page_exist(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
    assert (ROOT / "reference_model" / "omg_llava" / name).is_file()
