"""What is drawn where no OMG-LLaVA checkpoint is given: rows of the four added tokens, projectors, the `[SEG]` state.

All comes from one generator, in a fixed order: rows first, then the parts as `fresh_tensors` yields them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from omg_llava.config import LanguageConfig, OmgLlavaConfig
from omg_llava.conversion.keys import language_targets
from omg_llava.conversion.sources import Tensor
from omg_llava.language_model import SegState
from omg_llava.projectors import TextProjector, VisualProjector

VOCABULARY = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")
_N_ROWS = 4
_PARTS: dict[str, Callable[[OmgLlavaConfig], nn.Module]] = {
    "projector": VisualProjector,
    "text_projector": TextProjector,
    "seg_state": lambda config: SegState(config.seg_token, config.language),
}


def with_fresh_rows(tensors: Iterable[Tensor], language: LanguageConfig, random: torch.Generator) -> list[Tensor]:
    """A language model's tensors, both vocabulary matrices grown by rows for `[SEG]`, `<p>`, `</p>` and `<region>`.

    Rows are normal with the model's own `initializer_range`, as `resize_token_embeddings` of the official transformers
    4.36 draws them. They follow the tokenizer's tokens: rows behind those pad the matrix of some families, belong to no
    token, and are left out. A matrix that is too short or of another width stays as it is: `check_plan` names it.
    """
    std = float(language.transformers.get("initializer_range", 0.02))
    drawn = std * torch.randn(len(VOCABULARY), _N_ROWS, language.hidden_size, generator=random)
    rows = dict(zip(VOCABULARY, drawn, strict=True))
    grown = []
    for tensor in tensors:
        names = [target.name for target in language_targets(tensor.name, language)]
        fits = tensor.shape[1:] == (language.hidden_size,) and tensor.shape[0] >= language.base_vocab
        is_vocabulary = len(names) == 1 and names[0] in rows
        grown.append(_grown(tensor, language.base_vocab, rows[names[0]]) if is_vocabulary and fits else tensor)
    return grown


def fresh_shapes(config: OmgLlavaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what `fresh_tensors` yields, without drawing it."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for part in _PARTS for name, tensor in _tensors_of(part, config)}


def fresh_tensors(config: OmgLlavaConfig, random: torch.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    """The parts between perception and language model as their modules initialise themselves, float32, one part in
    memory at a time. PyTorch's global generator is left as it was.
    """
    for part in _PARTS:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(random.get_state())
            tensors = _tensors_of(part, config)
            random.set_state(torch.get_rng_state())
        yield from tensors


def fresh_parts(config: OmgLlavaConfig) -> list[str]:
    """What a start folder has that was never trained, for people."""
    parts = sorted({name.partition(".")[0] for name in fresh_shapes(config)})
    return parts + [f"the last {_N_ROWS} rows of {name}" for name in VOCABULARY]


def _tensors_of(part: str, config: OmgLlavaConfig) -> list[tuple[str, torch.Tensor]]:
    return [(f"{part}.{name}", tensor) for name, tensor in _PARTS[part](config).state_dict().items()]


def _grown(tensor: Tensor, n_kept: int, rows: torch.Tensor) -> Tensor:
    def load() -> torch.Tensor:
        return torch.cat((tensor.load()[:n_kept], rows.to(tensor.dtype)))

    return dataclasses.replace(tensor, shape=(n_kept + len(rows), *tensor.shape[1:]), load=load)
