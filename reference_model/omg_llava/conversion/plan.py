"""Which of our tensors is made of which official ones, settled and checked before a byte is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from omg_llava.config import LanguageConfig, LoraConfig, OmgLlavaConfig
from omg_llava.conversion.keys import (
    Target,
    language_targets,
    perception_targets,
    projector_targets,
    without_llm_prefix,
)
from omg_llava.conversion.sources import Tensor
from omg_llava.errors import ModelError
from omg_llava.model import OmgLlava

_N_LISTED = 10
_FACTOR = re.compile(r"\.lora_([AB])\.default\.weight$")


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of ours as a cut of an official one."""

    source: Tensor
    target: Target

    def load(self) -> torch.Tensor:
        return self.target.take(self.source.load())

    def shape(self) -> tuple[int, ...]:
        """Of the cut. Raises `ModelError` where the official tensor cannot be cut."""
        try:
            return tuple(self.target.take(torch.empty(self.source.shape, device="meta")).shape)
        except (RuntimeError, IndexError):
            found = f"{self.source.name} is {self.source.shape}, which does not come apart into {self.target.name}"
            raise ModelError(found, where=self.source.file, hint="check that all files belong to one model") from None


@dataclass(slots=True)
class Plan:
    """What is to be written.

    Attributes:
        plain: our name to its piece.
        low_rank: our module to its LoRA factors "A" and "B".
    """

    plain: dict[str, Piece] = field(default_factory=dict)
    low_rank: dict[str, dict[str, Piece]] = field(default_factory=dict)

    def add(self, source: Tensor, target: Target) -> None:
        """Take a tensor in; one of a later file replaces one of an earlier (trained vocabulary, base vocabulary)."""
        match = _FACTOR.search(target.name)
        if match:
            self.low_rank.setdefault(target.name[: match.start()], {})[match[1]] = Piece(source, target)
        else:
            self.plain[target.name.replace(".base_layer.", ".")] = Piece(source, target)

    @property
    def rank(self) -> int | None:
        """Rank of the adapters, None where there are none."""
        for factors in self.low_rank.values():
            if "A" in factors:
                return factors["A"].source.shape[0]
        return None

    @property
    def has_own_decoder(self) -> bool:
        return any(name.startswith("own_seg_decoder.") for name in self.plain)

    def shapes(self, kept: bool) -> dict[str, tuple[int, ...]]:
        """Our names and shapes, with adapters kept apart or merged."""
        found = {}
        for name, piece in self.plain.items():
            found[self._kept_name(name) if kept else name] = piece.shape()
        if kept:
            for module, factors in self.low_rank.items():
                for letter, piece in factors.items():
                    found[f"{module}.lora_{letter}.default.weight"] = piece.shape()
        return found

    def tensors(self, lora: LoraConfig | None, factor: float) -> Iterator[tuple[str, torch.Tensor]]:
        """Our tensors, one at a time. `lora` None merges the adapters: W + factor * B A in float32."""
        for name, piece in self.plain.items():
            module, _, leaf = name.rpartition(".")
            factors = self.low_rank.get(module) if leaf == "weight" else None
            if lora is not None:
                yield self._kept_name(name), piece.load()
                for letter, factor_piece in (factors or {}).items():
                    yield f"{module}.lora_{letter}.default.weight", factor_piece.load()
            elif factors is None:
                yield name, piece.load()
            else:
                base = piece.load()
                low_rank = factors["B"].load().float() @ factors["A"].load().float()
                yield name, (base.float() + factor * low_rank).to(base.dtype)

    def _kept_name(self, name: str) -> str:
        """peft moves weight and bias of a layer that has adapters into `base_layer`."""
        module, _, leaf = name.rpartition(".")
        return f"{module}.base_layer.{leaf}" if module in self.low_rank else name

    def adapter_problems(self) -> list[str]:
        """Adapters that cannot be merged: half ones, those of no layer, and shapes that do not fit."""
        problems = []
        for module, factors in self.low_rank.items():
            base = self.plain.get(f"{module}.weight")
            if base is None or len(base.shape()) != 2:
                problems.append(f"{module}.weight is no matrix of the language model, but has adapters")
            elif len(factors) < 2:
                problems.append(f"{module}.lora_{'B' if 'A' in factors else 'A'}.default.weight is missing")
            else:
                a, b = factors["A"].shape(), factors["B"].shape()
                expected = ((self.rank, base.shape()[1]), (base.shape()[0], self.rank))
                if (a, b) != expected:
                    problems.append(f"{module}.lora_A, lora_B are {a}, {b}, expected {expected[0]}, {expected[1]}")
        return problems


def make_plan(
    omg_seg: Iterable[Tensor], omg_llava: Iterable[Tensor], language_model: Iterable[Tensor], language: LanguageConfig
) -> Plan:
    """Every official tensor put where it goes. Raises `ModelError` for tensors that no part of the model has."""
    plan = Plan()
    _place(plan, language_model, lambda name: language_targets(name, language))
    _place(plan, omg_seg, perception_targets)
    _place(plan, omg_llava, lambda name: _omg_llava_targets(name, language))
    return plan


def check_plan(plan: Plan, config: OmgLlavaConfig, made: Mapping[str, tuple[int, ...]]) -> None:
    """Compare with the model that the configuration describes, built without memory.

    Args:
        made: shapes of tensors that come from elsewhere: class embeddings, and fresh parts of a start folder.

    Raises:
        ModelError: naming missing and surplus tensors and wrong shapes.
    """
    with torch.device("meta"):
        model = OmgLlava(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = plan.shapes(kept=config.language.lora is not None) | dict(made)
    problems = []
    missing = [f"{name} (from {_origin(name)})" for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    shapes = [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    adapters = plan.adapter_problems() if config.language.lora is None else []
    groups = (("missing", missing), ("surplus", surplus), ("wrong shape", shapes), ("unusable adapters", adapters))
    for what, names in groups:
        if names:
            more = f" and {len(names) - _N_LISTED} more" if len(names) > _N_LISTED else ""
            problems.append(f"{len(names)} {what}: {', '.join(names[:_N_LISTED])}{more}")
    if problems:
        raise ModelError(
            "the files do not make up the model: " + "; ".join(problems),
            expected=f"the tensors of {config.name}",
            hint="check that all files belong to one model, and the base configuration: --config",
        )


def _place(plan: Plan, tensors: Iterable[Tensor], targets_of: Callable[[str], list[Target]]) -> None:
    unknown: list[Tensor] = []
    for tensor in tensors:
        targets = targets_of(tensor.name)
        for target in targets:
            plan.add(tensor, target)
        if not targets:
            unknown.append(tensor)
    if unknown:
        more = f" and {len(unknown) - _N_LISTED} more" if len(unknown) > _N_LISTED else ""
        raise ModelError(
            f"{len(unknown)} tensors that no part of the model has: "
            + ", ".join(tensor.name for tensor in unknown[:_N_LISTED])
            + more,
            where=unknown[0].file,
        )


def _omg_llava_targets(name: str, language: LanguageConfig) -> list[Target]:
    own = without_llm_prefix(name)
    if own is not None:
        return language_targets(own, language)
    return projector_targets(name) or perception_targets(name.removeprefix("visual_encoder."))


def _origin(name: str) -> str:
    if name.startswith("llm."):
        return "the OMG-LLaVA checkpoint" if "lora_" in name else "the language model's folder"
    return "OMG-Seg" if name.startswith("perception.") else "the OMG-LLaVA checkpoint"
