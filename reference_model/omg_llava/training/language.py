"""What OMG-LLaVA's own stages minimise: text, the query's way there and back (stage 1), masks of `[SEG]` (stage 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from omg_llava.model import OmgLlava, Percept
from omg_llava.sequence import Placeholders, SplicedBatch, splice_batch
from omg_llava.training.data.mixture import Mixture
from omg_llava.training.encoding import EncodedSample, Encoder, LanguageBatch
from omg_llava.training.losses import (
    MaskLossConfig,
    aligned_queries,
    alignment_loss,
    mask_losses,
    text_loss,
)
from omg_llava.vocabulary import IGNORED

Task = Literal["text", "alignment", "instruction"]


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """What a stage of these objectives may set.

    Attributes:
        max_text_tokens: conversations are cut off there; officially 2048 - 256 in stage 1, 100 fewer in stage 2.
        n_points: points per mask.
        unmatched: where a cut-off conversation has lost a `[SEG]`: "drop_batch" leaves out the mask losses of the whole
            micro-batch (official), "cut" the masks that have lost theirs.
    """

    max_text_tokens: int = 1692
    n_points: int = 12544
    unmatched: Literal["drop_batch", "cut"] = "drop_batch"


class LanguageSource:
    """Samples of a mixture by their place in the run."""

    def __init__(self, mixture: Mixture, encoder: Encoder, seed: int, *, has_pixels: bool) -> None:
        self.mixture, self.encoder, self.seed, self.has_pixels = mixture, encoder, seed, has_pixels

    def __len__(self) -> int:
        return len(self.mixture)

    def draw(self, index: int, place: int) -> EncodedSample:
        """Sample `index` as the `place`-th of the run."""
        random = np.random.RandomState([self.seed, 3, place])
        return self.encoder.encode(self.mixture.sample(index, random), has_pixels=self.has_pixels)

    def collate(self, samples: Sequence[EncodedSample]) -> LanguageBatch:
        """Samples as a batch."""
        return self.encoder.collate(samples)


def _in_float32(tensor: torch.Tensor) -> AbstractContextManager[None]:
    """Perception and masks compute in float32 under any precision, as in the official code."""
    context: AbstractContextManager[None] = torch.autocast(tensor.device.type, enabled=False)
    return context


class LanguageObjective(nn.Module):
    """Losses of a batch.

    Args:
        task: "text": the language model alone. "alignment": with pictures, and object queries through both projectors
            and back. "instruction": with pictures, and a mask for each `[SEG]`.
    """

    def __init__(self, model: OmgLlava, task: Task, options: LanguageOptions) -> None:
        super().__init__()
        self.model, self.task, self.options = model, task, options
        self.mask_config = MaskLossConfig(n_points=options.n_points)

    def counts(self, batch: LanguageBatch) -> dict[str, float]:
        """What losses are averaged over: learned tokens, pictures, masks."""
        return {
            "tokens": float((batch.labels[:, 1:] != IGNORED).sum()),
            "pictures": float(len(batch.pixels)),
            "masks": float(sum(self._n_paired(batch))),
        }

    def forward(self, batch: LanguageBatch, counts: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Losses by name; their sum is minimised."""
        if self.task == "text":
            return {"text": self._text_alone(batch, counts)}
        with _in_float32(batch.pixels):
            percepts = self.model.perceive(batch.pixels)
        spliced = self._spliced(batch, percepts)
        states = self.model.read(spliced.embeds, spliced.attention_mask, spliced.position_ids)
        losses = {"text": self._text_loss(states.last, spliced.labels, counts)}
        if self.task == "alignment":
            share = len(percepts) / counts["pictures"]
            return losses | {"alignment": share * self._alignment(percepts)}
        return losses | self._masks(batch, percepts, states.seg, spliced.labels, counts["masks"])

    def _text_alone(self, batch: LanguageBatch, counts: Mapping[str, float]) -> torch.Tensor:
        # <mark> has no row of its own: where no prompt replaces it, <region> stands for it.
        special = self.model.special
        embeds = self.model.embed(batch.ids.masked_fill(batch.ids == special.mark, special.region))
        positions = torch.arange(embeds.shape[1], device=embeds.device) * batch.attention_mask
        states = self.model.read(embeds, batch.attention_mask, positions)
        return self._text_loss(states.last, batch.labels, counts)

    def _text_loss(self, hidden: torch.Tensor, labels: torch.Tensor, counts: Mapping[str, float]) -> torch.Tensor:
        return text_loss(hidden, labels, self.model.logits, max(counts["tokens"], 1.0))

    def _spliced(self, batch: LanguageBatch, percepts: Sequence[Percept]) -> SplicedBatch:
        images = [self.model.image_tokens(percept) for percept in percepts]
        prompts = [self._prompt_tokens(batch, row, percept) for row, percept in enumerate(percepts)]
        special = self.model.special
        regions, marks = [], []
        for ids, tokens, is_mark in zip(batch.ids, prompts, batch.is_mark, strict=True):
            # What a limit has cut off takes its prompts along.
            regions.append(tokens[~is_mark][: int((ids == special.region).sum())])
            marks.append(tokens[is_mark][: int((ids == special.mark).sum())])
        placeholders = Placeholders(special, images, torch.cat(regions), torch.cat(marks))
        return splice_batch(batch.ids, batch.attention_mask, batch.labels, self.model.embed, placeholders)

    def _prompt_tokens(self, batch: LanguageBatch, row: int, percept: Percept) -> torch.Tensor:
        """(P, D), the sample's prompts in their own order."""
        width = self.model.config.language.hidden_size
        places = [place for indices, _ in batch.prompts[row] for place in indices]
        if not places:
            return torch.zeros(0, width, device=batch.pixels.device)
        with _in_float32(batch.pixels):
            tokens = torch.cat([self.model.prompt_tokens(percept, prompts) for _, prompts in batch.prompts[row]])
        return tokens[torch.tensor(places, device=tokens.device).argsort()]

    def _alignment(self, percepts: Sequence[Percept]) -> torch.Tensor:
        wanted = torch.cat(
            [percept.objects[aligned_queries(percept.prior.owner, len(percept.objects))] for percept in percepts]
        )
        tokens = self.model.projector.query(wanted)
        return alignment_loss(torch.cat(self.model.text_projector(tokens), dim=-1), wanted)

    def _masks(
        self,
        batch: LanguageBatch,
        percepts: Sequence[Percept],
        states: torch.Tensor,
        labels: torch.Tensor,
        n_masks: float,
    ) -> dict[str, torch.Tensor]:
        predictions, targets = [], []
        for row, (n_paired, percept) in enumerate(zip(self._n_paired(batch), percepts, strict=True)):
            if n_paired:
                own = states[row][labels[row] == self.model.special.seg][:n_paired]
                with _in_float32(own):
                    steps = self.model.decode_seg(percept.features, own, keep_steps=True).steps
                predictions.append(torch.stack([step.mask_logits[0, :, 0] for step in steps]))
                targets.append(batch.masks[row][:n_paired].float())
        if not predictions:
            # Every process has to give every parameter a gradient, be it none.
            zero = states.sum() * 0.0 + sum(parameter.sum() * 0.0 for parameter in self._mask_parameters())
            return {"dice": zero, "bce": zero}
        losses = mask_losses(torch.cat(predictions, dim=1), torch.cat(targets), self.mask_config, n_masks=n_masks)
        dice, bce = losses.shared(self.mask_config)
        return {"dice": dice, "bce": bce}

    def _mask_parameters(self) -> list[nn.Parameter]:
        modules = (self.model.text_projector, self.model.seg_state, self.model.seg_decoder)
        return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    def _n_paired(self, batch: LanguageBatch) -> list[int]:
        """How many masks of each sample have a `[SEG]`."""
        n_seg = (batch.labels == self.model.special.seg).sum(dim=1).tolist()
        n_masks = [len(masks) for masks in batch.masks]
        if self.options.unmatched == "drop_batch" and n_seg != n_masks:
            return [0] * len(n_masks)
        return [min(pair) for pair in zip(n_seg, n_masks, strict=True)]
