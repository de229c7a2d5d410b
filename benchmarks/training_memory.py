"""Memory of a training step, counted by running the model's own code on tensors without contents.

PyTorch's fake tensors have shapes and types and hold nothing, so the full-size model takes a step on any machine. The
language model's layers are alike: two depths tell what any depth takes.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_flops import Sample

from omg_llava.config import OmgLlavaConfig
from omg_llava.features import VisualFeatures, clip_features
from omg_llava.model import OmgLlava
from omg_llava.positions import clip_code
from omg_llava.training.losses import alignment_loss, mask_losses
from omg_llava.training.parts import train_only

Precision = Literal["half", "autocast", "autocast over NF4"]
"""Types of language model and projectors. "half": all in 16 bits, as DeepSpeed's fp16 has it. "autocast": the frozen
linear layers in 16 bits, all else in float32. "autocast over NF4": so, too, but those layers give back what they are
given, float32, as bitsandbytes' do."""


class LiveBytes(TorchDispatchMode):
    """Counts what operations allocate and when it is let go.

    Attributes:
        now: bytes of the tensors that live. Those of `model` do not count.
        peaks: most bytes at a time in each phase so far.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peaks: list[int] = [0]
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, None] = weakref.WeakKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self._known[tensor.untyped_storage()] = None
            if tensor.grad is not None:
                self._known[tensor.grad.untyped_storage()] = None

    def begin_phase(self, *_: object) -> None:
        """What follows has a peak of its own; may serve as a gradient's hook."""
        self.peaks.append(self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self._known:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._known[storage] = None
        weakref.finalize(storage, self._drop, storage.nbytes())
        self.now += storage.nbytes()
        self.peaks[-1] = max(self.peaks[-1], self.now)

    def _drop(self, n_bytes: int) -> None:
        self.now -= n_bytes


@dataclass(frozen=True, slots=True)
class StepKind:
    """How a step is taken. `trains`: parts, as recipes name them."""

    trains: tuple[str, ...]
    precision: Precision
    checkpointing: bool

    @property
    def aligns(self) -> bool:
        """Whether this is stage 1: no masks, the queries' way there and back instead."""
        return self.trains == ("projectors",)


def perception_peak(config: OmgLlavaConfig, micro_batch: int) -> int:
    """Most bytes while the frozen perception looks at a micro-batch, in float32."""
    side = config.image.side
    with hollow(shallow(config, 1), ()) as model:
        live = LiveBytes(model)
        with live, torch.no_grad():
            features = model.perception.features(_empty(micro_batch, 3, side, side))
            decoded = model.perception.objects(features)
            model.perception.class_logits(decoded.queries, decoded.mask_logits, features, model.prototypes())
    return max(live.peaks)


def step_peaks(config: OmgLlavaConfig, kind: StepKind, samples: Sequence[Sample], micro_batch: int) -> list[int]:
    """Most bytes in the rest of the step, beside weights and their gradients: of a micro-batch of each sample."""
    peaks = []
    with hollow(shallow(config, 2), kind.trains, kind.precision) as model:
        layers = model.llm.model.layers
        for sample in samples:
            by_depth = []
            for depth in (1, 2):
                model.llm.model.layers = layers[:depth]
                by_depth.append(phase_peaks(model, kind, sample, micro_batch))
            more = config.language.n_layers - 1
            peaks.append(max(one + more * (two - one) for one, two in zip(*by_depth, strict=True)))
    return peaks


def shallow(config: OmgLlavaConfig, depth: int) -> OmgLlavaConfig:
    """With so many layers, and plain rotary frequencies: the dynamic ones read positions, of which there are none."""
    settings = {**config.language.transformers, "num_hidden_layers": depth}
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    return dataclasses.replace(config, language=dataclasses.replace(config.language, transformers=settings))


@contextmanager
def hollow(config: OmgLlavaConfig, trains: Collection[str], precision: Precision = "half") -> Iterator[OmgLlava]:
    """The model on fake tensors, in the mode in which they work. Gradients are there, as from a step before."""
    with torch.device("meta"):
        model = OmgLlava(config)
    train_only(model, trains)
    base = [module for module in model.llm.model.modules() if _is_frozen_linear(module)]
    made: dict[int, nn.Parameter] = {}
    with FakeTensorMode(), _no_codes_kept():
        for name, module in model.named_modules():
            in_float32 = name.startswith(("perception", "own_seg_decoder")) or precision != "half"
            dtype = torch.float32 if in_float32 and module not in base else _SHORT
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                # Layers may share a parameter.
                if id(parameter) not in made:
                    made[id(parameter)] = _hollow_parameter(parameter, dtype)
                module._parameters[key] = made[id(parameter)]
            for key, buffer in module._buffers.items():
                module._buffers[key] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)
        if precision == "autocast over NF4":
            for module in base:
                module.__class__ = _Unpacked
        yield model.eval()


_SHORT = torch.bfloat16


class _Unpacked(nn.Linear):
    """What bitsandbytes' `Linear4bit` does with types."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs.to(_SHORT), self.weight).to(inputs.dtype)


def _is_frozen_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not module.weight.requires_grad


@contextmanager
def _no_codes_kept() -> Iterator[None]:
    """Sine codes are kept from picture to picture: hollow and real ones must not meet."""
    clip_code.cache_clear()
    try:
        yield
    finally:
        clip_code.cache_clear()


def _hollow_parameter(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    made = nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=parameter.requires_grad)
    if parameter.requires_grad:
        made.grad = torch.empty_like(made)
    return made


def phase_peaks(model: OmgLlava, kind: StepKind, sample: Sample, micro_batch: int) -> list[int]:
    """Of a hollow model: forward and back to the language model's output; back through its layers; the rest."""
    clip_code.cache_clear()
    # Dropout is on in training; the perception has none.
    model.llm.train()
    if kind.checkpointing:
        # Its older name warns where there is a newer one.
        newer = getattr(model.llm, "activation_checkpointing_enable", None)
        (newer or model.llm.gradient_checkpointing_enable)({"use_reentrant": False})
    live = LiveBytes(model)
    with live:
        # Which operations are shortened is nearly the same on all devices.
        with torch.autocast("cpu", _SHORT, enabled=kind.precision != "half"):
            loss = _loss(model, kind, sample, micro_batch, live)
        loss.backward()
    return live.peaks


def _loss(model: OmgLlava, kind: StepKind, sample: Sample, n: int, live: LiveBytes) -> torch.Tensor:
    """As `LanguageObjective` computes it, features and queries of n pictures being there already."""
    config = model.config
    features = _features(config, n)
    queries = _empty(n, config.segmenter.n_queries, 2 * config.segmenter.width)
    labels = torch.zeros(n, sample.n_tokens, dtype=torch.long)
    # Which token sees which: what transformers makes of a padding mask.
    seen = torch.ones(n, 1, sample.n_tokens, sample.n_tokens, dtype=torch.bool)
    embeds = _embeds(model, features, queries[:, : sample.n_objects], sample.n_tokens)
    embeds.register_hook(live.begin_phase)
    states = model.read(embeds, seen, labels)
    states.last.register_hook(live.begin_phase)
    # Scores of every token, as if all were learned; the trainer makes those of answers alone and takes less.
    scores = model.logits(states.last)
    loss = F.cross_entropy(scores[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
    if kind.aligns:
        return loss + _alignment(model, queries.flatten(0, 1))
    if sample.n_segs:
        loss = loss + _masks(model, features, states.seg[:, : sample.n_segs])
    return loss


def _features(config: OmgLlavaConfig, n: int) -> VisualFeatures:
    """Of n pictures."""
    side, width = config.image.side, config.segmenter.width
    mask_features, *memories = (_empty(n, width, side // stride, side // stride) for stride in (4, 32, 16, 8))
    stride32 = _empty(n, config.backbone.widths[-1], side // 32, side // 32)
    return clip_features(mask_features, tuple(memories), _empty(3, width), stride32, 1, (side, side))


def _embeds(model: OmgLlava, features: VisualFeatures, objects: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """(n, L, D), visual tokens first."""
    rows = []
    for index, own in enumerate(objects):
        folded = features.stride32[index].reshape(model.config.tokens_side**2, -1)
        prior = _empty(len(folded), own.shape[1])
        visual = model.projector.image_tokens(*(_for_projectors(item, model) for item in (folded, prior, own)))
        text = model.embed(torch.zeros(n_tokens - len(visual), dtype=torch.long))
        rows.append(torch.cat((visual.to(text), text)))
    return torch.stack(rows)


def _alignment(model: OmgLlava, queries: torch.Tensor) -> torch.Tensor:
    tokens = model.projector.query(_for_projectors(queries, model))
    return alignment_loss(torch.cat(model.text_projector(tokens), dim=-1), queries)


def _masks(model: OmgLlava, features: VisualFeatures, states: torch.Tensor) -> torch.Tensor:
    """Of `[SEG]` states (n, N, D)."""
    queries, positions = model.text_projector(_for_projectors(states, model))
    decoded = model.seg_decoder(queries.float(), positions.float(), features, isolated=True, keep_steps=True)
    predictions = torch.stack([step.mask_logits.flatten(0, 2) for step in decoded.steps])
    losses = mask_losses(predictions, _empty(predictions.shape[1], *features.input_hw))
    return losses.dice.sum() + losses.bce.sum()


def _for_projectors(tensor: torch.Tensor, model: OmgLlava) -> torch.Tensor:
    return tensor.to(model.projector.separator.weight.dtype)


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape)
