"""The stages of OMG-LLaVA at full size, and ways to lay weights and states out on GPUs.

Settings are those of the recipes that come along, which are the official ones. What no recipe tells is assumed here.
"""

from __future__ import annotations

from dataclasses import dataclass

from training_memory import Precision

from omg_llava.training.recipe import StageRecipe, find_recipe

N_CHAT_TOKENS = 4
"""In front of the picture in InternLM2's chat template."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Four bits, 8 bits of scale per 64 weights, a float32 scale per 256 scales (QLoRA, section 3; double quantisation)."""


@dataclass(frozen=True, slots=True)
class Source:
    """Data sets of stage 2: samples as the paper states them in section 4 (arXiv 2406.19389), times in the list."""

    name: str
    n_samples: int
    times: int


MIXTURE = (
    Source("LLaVA-1.5 mix665k", 665_000, 1),
    Source("GranD-f: Flickr30k, RefCOCOg, OpenPSG, human-annotated", 200_000, 1),
    Source("ADE20K, COCO-Stuff", 26_000, 3),
    Source("RefCOCO, RefCOCO+, RefCOCOg, RefCLEF; a sample is a picture", 74_000, 3),
    Source("Osprey: descriptions, conversations", 74_000, 1),
    Source("MDVP: points", 200_000, 1),
)
_REFERRING = MIXTURE[3]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        recipe: with the official settings: its name, and the place of the stage in it.
        text_tokens: of a sample, padding to the longest of its micro-batch included; assumed.
        longest_text: where it is shorter than where texts are cut off; assumed.
        n_segs: of a sample, in the mean; assumed.
        paper_hours: on four A800 of 80 GB (section 4), None where the paper says nothing.
        micro_batch: where it is not the recipe's.
    """

    title: str
    recipe: tuple[str, int]
    n_samples: int
    text_tokens: int
    longest_text: int | None = None
    n_segs: int = 1
    paper_hours: float | None = None
    micro_batch: int | None = None

    @property
    def official(self) -> StageRecipe:
        name, place = self.recipe
        return find_recipe(name).stages[place]

    @property
    def trains(self) -> tuple[str, ...]:
        """Parts, as recipes name them."""
        return self.official.trains

    @property
    def batch(self) -> int:
        """Samples of a step."""
        return self.official.batch

    @property
    def in_memory(self) -> int:
        """Samples of a GPU at a time."""
        return self.micro_batch or self.official.micro_batch

    @property
    def longest(self) -> int:
        """Tokens of the longest text, beside the chat's start and the one that stands for the picture."""
        return self.longest_text or int(self.official.options["max_text_tokens"]) - N_CHAT_TOKENS - 1


STAGES = {
    "1": Stage("Stage 1", ("omg_llava_7b", 0), 558_000, 64, longest_text=128, n_segs=0, paper_hours=7),
    "2": Stage("Stage 2", ("omg_llava_7b", 1), sum(s.n_samples * s.times for s in MIXTURE), 400, paper_hours=48),
    "fine-tune": Stage("RefSeg fine-tune", ("omg_llava_7b_refseg", 0), 3 * _REFERRING.n_samples, 150, 400, n_segs=3),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How weights and states lie on the GPUs; bytes of a parameter.

    Attributes:
        base: of the language model's linear layers, the head apart.
        other: of the rest of it that is frozen.
        weights, gradients, optimizer: of what is trained; the last two divided among the GPUs where `is_sharded`.
    """

    name: str
    base: float
    other: float
    weights: float
    gradients: float
    optimizer: float
    is_sharded: bool
    precision: Precision
    checkpointing: bool


def zero2(name: str, *, checkpointing: bool) -> Layout:
    """DeepSpeed in fp16 over NF4: gradients in 16 bits, master weights and two moments in float32, all divided."""
    return Layout(name, NF4_BYTES, 2, 2, 2, 12, True, "half", checkpointing)


def ddp(name: str, base: float, precision: Precision, *, checkpointing: bool) -> Layout:
    """All but the base in float32; each gradient twice, for DDP has buckets of its own unless told otherwise."""
    return Layout(name, base, 4, 4, 8, 8, False, precision, checkpointing)


LAYOUTS = (
    zero2("ZeRO-2 fp16, NF4 base, checkpointing", checkpointing=True),
    zero2("ZeRO-2 fp16, NF4 base", checkpointing=False),
    ddp("DDP, NF4 base, checkpointing", NF4_BYTES, "autocast over NF4", checkpointing=True),
    ddp("DDP, NF4 base", NF4_BYTES, "autocast over NF4", checkpointing=False),
    ddp("DDP, 16-bit base, checkpointing", 2, "autocast", checkpointing=True),
)
