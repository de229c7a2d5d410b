"""Text generation for several questions at once, over prefixes that were computed once per picture.

Rows of a batch lie like this, padding masked, positions counted without it:

    [padding][prefix: start of the chat and the picture][padding][the question][answer ...

so that rows of different pictures and lengths end together. A question's answer does not depend on its neighbours but
for the last bit of rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from omg_llava.errors import ModelError
from omg_llava.language_model import SegState, run_transformer
from omg_llava.stopping import StopRule

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of the tokens that several questions begin with: one pair (H, L, d) per layer."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[1]

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(tensor.nbytes for pair in self.layers for tensor in pair)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: at least 1.
        temperature: 0 = greedy. The official chat samples with 0.1 and the other two values here.
        top_p, top_k: what sampling chooses from.
        seed: of sampling; each row has a generator of its own.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 0.75
    top_k: int = 40
    seed: int = 0


@dataclass(slots=True)
class Generated:
    """What one row wrote.

    Attributes:
        ids: new tokens, the one that ended it included.
        seg_states: (D,) each, hidden states at generated `[SEG]` tokens *as input*. A `[SEG]` that the token limit made
            the last one was never put in: it has no state and no mask, as in the official scripts.
        finish: whether it ended by itself.
        states, logits: of every step, where a trace was asked for.
    """

    ids: list[int] = field(default_factory=list)
    seg_states: list[torch.Tensor] = field(default_factory=list)
    finish: Finish = "length"
    states: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """One question for `generate`: its prefix, its own input embeddings (L, D), how to sample, when to stop."""

    prefix: Prefix
    embeds: torch.Tensor
    sampling: Sampling
    stop: StopRule


def prefill(llm: Any, seg_state: SegState, embeds: torch.Tensor) -> Prefix:
    """Run input embeddings (L, D) once and keep their keys and values."""
    cache = DynamicCache()
    run_transformer(llm, seg_state, embeds[None], cache=cache)
    return Prefix(tuple((layer.keys[0], layer.values[0]) for layer in cache.layers))


def check_length(length: int, max_positions: int) -> None:
    """Raise `ModelError` where a prompt and its longest answer do not fit the language model."""
    if length > max_positions:
        raise ModelError(
            f"the picture, the text and the longest answer take {length} tokens",
            expected=f"at most {max_positions}, the language model's context",
            hint="shorten the text or the history, or lower max_new_tokens",
        )


class _Batch:
    """The rows that still write: a cache, a mask, and where each row stands."""

    def __init__(self, llm: Any, seg_state: SegState, rows: Sequence[Row], seg_id: int, trace: bool) -> None:
        self.llm, self.seg_state, self.seg_id, self.trace = llm, seg_state, seg_id, trace
        self.rows = list(rows)
        self.results = [Generated() for _ in rows]
        self.active = list(range(len(rows)))
        self.samplers = [_Sampler(row.sampling) for row in rows]
        self.cache, prefix_mask = _batched_prefixes([row.prefix for row in rows])
        embeds, own_mask = _left_padded([row.embeds for row in rows])
        self.mask = torch.cat((prefix_mask, own_mask), dim=1)
        starts = torch.tensor([row.prefix.length for row in rows], device=embeds.device)
        positions = (starts[:, None] + own_mask.cumsum(dim=1) - 1).clamp(min=0)
        self.next_position = positions[:, -1:] + 1
        self.hidden = run_transformer(llm, seg_state, embeds, self.mask, positions, self.cache)

    def step(self) -> torch.Tensor:
        """Choose a token for each active row, (n, 1), and note it."""
        logits = self.llm.lm_head(self.hidden.last[:, -1]).float()
        # One trip from the device for all greedy rows.
        chosen: list[int] = logits.argmax(dim=-1).tolist()
        for place, index in enumerate(self.active):
            result, row = self.results[index], self.rows[index]
            if row.sampling.temperature > 0:
                chosen[place] = self.samplers[index].choose(logits[place])
            if self.trace:
                result.logits.append(logits[place])
                result.states.append(self.hidden.last[place, -1])
            result.ids.append(chosen[place])
            if row.stop.ends(result.ids):
                result.finish = "stop"
        return torch.tensor(chosen, device=logits.device)[:, None]

    def drop_finished(self, tokens: torch.Tensor) -> torch.Tensor:
        """Leave out rows that ended or are full; returns the tokens of those that go on."""
        going = [
            place
            for place, index in enumerate(self.active)
            if self.results[index].finish != "stop"
            and len(self.results[index].ids) < self.rows[index].sampling.max_new_tokens
        ]
        if len(going) < len(self.active):
            self.active = [self.active[place] for place in going]
            kept = torch.tensor(going, device=tokens.device, dtype=torch.long)
            tokens, self.mask = tokens[kept], self.mask[kept]
            self.next_position = self.next_position[kept]
            if going:
                self.cache.batch_select_indices(kept)
        return tokens

    def feed(self, tokens: torch.Tensor) -> None:
        """Put the chosen tokens in and keep the states of those that are `[SEG]`."""
        embeds = self.llm.get_input_embeddings()(tokens)
        self.mask = F.pad(self.mask, (0, 1), value=True)
        self.hidden = run_transformer(self.llm, self.seg_state, embeds, self.mask, self.next_position, self.cache)
        self.next_position = self.next_position + 1
        for place, token in enumerate(tokens[:, 0].tolist()):
            if token == self.seg_id:
                self.results[self.active[place]].seg_states.append(self.hidden.seg[place, -1])


def generate(
    llm: Any, seg_state: SegState, rows: Sequence[Row], *, seg_id: int, trace: bool = False
) -> list[Generated]:
    """An answer for every row, in order."""
    results: dict[int, Generated] = {}
    for members in _without_gaps(llm, rows):
        written = _generate_together(llm, seg_state, [rows[index] for index in members], seg_id, trace)
        results.update(zip(members, written, strict=True))
    return [results[index] for index in range(len(rows))]


def _without_gaps(llm: Any, rows: Sequence[Row]) -> list[list[int]]:
    """Rows that may lie in one batch. A sliding window counts the padding between picture and question too, so where
    it could bind, only questions of one length stand together.
    """
    window = getattr(llm.config, "sliding_window", None)
    longest = max((row.prefix.length + len(row.embeds) + row.sampling.max_new_tokens for row in rows), default=0)
    widest = max((len(row.embeds) for row in rows), default=0)
    if not window or longest + widest <= window:
        return [list(range(len(rows)))] if rows else []
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_length.setdefault(len(row.embeds), []).append(index)
    return list(by_length.values())


def _generate_together(llm: Any, seg_state: SegState, rows: Sequence[Row], seg_id: int, trace: bool) -> list[Generated]:
    batch = _Batch(llm, seg_state, rows, seg_id, trace)
    while True:
        tokens = batch.drop_finished(batch.step())
        if not batch.active:
            return batch.results
        batch.feed(tokens)


def score_continuations(
    llm: Any, seg_state: SegState, prefix: Prefix, embeds: torch.Tensor, continuations: Sequence[Sequence[int]]
) -> list[float]:
    """Log-likelihood of each list of token ids after a prompt, from a float32 log-softmax, natural logarithm."""
    table = llm.get_input_embeddings()
    device = embeds.device
    ids = [torch.tensor(list(continuation), device=device) for continuation in continuations]
    longest = max(len(row) for row in ids)
    inputs = torch.stack([torch.cat((embeds, table(F.pad(row, (0, longest - len(row)))))) for row in ids])
    cache, mask = _batched_prefixes([prefix] * len(ids))
    mask = F.pad(mask, (0, inputs.shape[1]), value=True)
    positions = torch.arange(inputs.shape[1], device=device) + prefix.length
    hidden = run_transformer(llm, seg_state, inputs, mask, positions.expand(len(ids), -1), cache)
    # Padding stands at the right, behind everything that is read, so it needs no mask.
    logits = llm.lm_head(hidden.last[:, len(embeds) - 1 : -1]).float().log_softmax(dim=-1)
    return [
        float(logits[index, : len(row)].gather(1, row[:, None]).cpu().double().sum()) for index, row in enumerate(ids)
    ]


class _Sampler:
    """Draws the next token of one row."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.random = torch.Generator(device="cpu").manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """From float32 logits (vocabulary,)."""
        top, ids = logits.topk(min(self.sampling.top_k, len(logits)))
        # The greatest is taken off first: divided by a tiny temperature it would be infinite.
        shares = ((top - top[0]) / self.sampling.temperature).softmax(dim=-1).cpu()
        # The smallest set whose probability reaches top_p, at least one token.
        kept = shares.cumsum(dim=-1) - shares < self.sampling.top_p
        drawn = torch.multinomial(shares * kept, 1, generator=self.random)
        return int(ids[int(drawn)])


def _batched_prefixes(prefixes: Sequence[Prefix]) -> tuple[DynamicCache, torch.Tensor]:
    """One cache for all rows, shorter prefixes padded at the left, and which of it is real, (B, L) bool."""
    longest = max(prefix.length for prefix in prefixes)
    cache = DynamicCache()
    for index in range(len(prefixes[0].layers)):
        pairs = [prefix.layers[index] for prefix in prefixes]
        padded = [
            torch.stack([F.pad(pair[which], (0, 0, longest - pair[which].shape[1], 0)) for pair in pairs])
            for which in (0, 1)
        ]
        cache.update(padded[0], padded[1], index)
    device = prefixes[0].layers[0][0].device
    lengths = torch.tensor([prefix.length for prefix in prefixes], device=device)
    return cache, torch.arange(longest, device=device) >= (longest - lengths)[:, None]


def _left_padded(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (L_i, D) to (B, L, D), zeros at the left, and which of it is real, (B, L) bool."""
    longest = max(len(row) for row in rows)
    padded = torch.stack([F.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=padded.device)
    return padded, torch.arange(longest, device=padded.device) >= (longest - lengths)[:, None]
