"""A sample as tokens and tensors, and samples as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from omg_llava.config import OmgLlavaConfig
from omg_llava.conversation import TEMPLATES, ChatTemplate
from omg_llava.errors import ModelError
from omg_llava.preprocessing import SquareFrame, square_pixels
from omg_llava.prompts import prompt_sets
from omg_llava.training.moving import Movable
from omg_llava.training.samples import Exchange, TrainingSample
from omg_llava.visual_prompts import PromptSet
from omg_llava.vocabulary import IGNORED, IMAGE, MARK


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A sample in the network's frame.

    Attributes:
        ids, labels: (L,); -200 where the picture goes; answers and what ends them have labels.
        pixels: (3, S, S); zeros for text alone, which official training looks at, too.
        prompts: prompts by kind, with their places among all.
        is_mark: (P,) bool, which prompts a `<mark>` stands for.
        masks: (n, S, S) uint8, one per `[SEG]` of the whole conversation.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    pixels: torch.Tensor
    prompts: tuple[tuple[list[int], PromptSet], ...]
    is_mark: torch.Tensor
    masks: torch.Tensor


@dataclass(frozen=True, slots=True)
class LanguageBatch(Movable):
    """Encoded samples, right-padded.

    Attributes:
        ids, labels, attention_mask: (B, L).
        pixels: (B, 3, S, S).
        prompts, is_mark, masks: of each sample, as in `EncodedSample`.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    pixels: torch.Tensor
    prompts: tuple[tuple[tuple[list[int], PromptSet], ...], ...]
    is_mark: tuple[torch.Tensor, ...]
    masks: tuple[torch.Tensor, ...]


class Encoder:
    """Samples to tensors.

    Args:
        max_text_tokens: conversations are cut off there; pictures count as one token.
    """

    def __init__(self, tokenizer: Any, config: OmgLlavaConfig, max_text_tokens: int) -> None:
        self.tokenizer, self.config, self.max_text_tokens = tokenizer, config, max_text_tokens
        self.template = TEMPLATES[config.language.family]

    def encode(self, sample: TrainingSample, *, has_pixels: bool = True) -> EncodedSample:
        """One sample; `has_pixels` False leaves the picture out altogether."""
        side = self.config.image.side
        shows_picture = sample.picture is not None and has_pixels
        ids, labels = encode_exchanges(
            self.tokenizer, self.template, sample.exchanges, has_image=shows_picture, limit=self.max_text_tokens
        )
        pixels, frame = torch.zeros(3, side, side), None
        if shows_picture:
            assert sample.picture is not None
            pixels, frame = self._looked_at(sample.picture)
        return EncodedSample(
            ids,
            labels,
            pixels,
            tuple(prompt_sets(sample.prompts, frame, torch.device("cpu"))) if frame else (),
            torch.tensor([prompt.placeholder == MARK for prompt in sample.prompts], dtype=torch.bool),
            _placed_masks(sample, frame, side),
        )

    def _looked_at(self, picture: Path) -> tuple[torch.Tensor, SquareFrame]:
        try:
            with Image.open(picture) as opened:
                return square_pixels(opened, self.config.image)
        except ModelError as error:
            raise ModelError(error.found, expected=error.expected, where=str(picture), hint=error.hint) from None
        # Decoders meet damage with exceptions of every kind.
        except Exception as error:
            raise ModelError(f"the picture cannot be read: {error}", where=str(picture)) from None

    def collate(self, samples: Sequence[EncodedSample]) -> LanguageBatch:
        """Samples as a batch."""
        ids = pad_sequence([sample.ids for sample in samples], batch_first=True)
        lengths = torch.tensor([len(sample.ids) for sample in samples])
        return LanguageBatch(
            ids,
            pad_sequence([sample.labels for sample in samples], batch_first=True, padding_value=IGNORED),
            torch.arange(ids.shape[1]) < lengths[:, None],
            torch.stack([sample.pixels for sample in samples]),
            tuple(sample.prompts for sample in samples),
            tuple(sample.is_mark for sample in samples),
            tuple(sample.masks for sample in samples),
        )


def encode_exchanges(
    tokenizer: Any, template: ChatTemplate, exchanges: Sequence[Exchange], *, has_image: bool, limit: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels (L,) of a conversation, as xtuner 0.1.21 builds them.

    Pieces are encoded apart, the start token goes in front of the first alone; an answer and the template's suffix are
    learned, the separator behind them is not. What goes beyond `limit` is cut off.
    """
    ids: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    labels = [IGNORED] * len(ids)
    for number, exchange in enumerate(exchanges):
        before, behind = template.user.split("{input}")
        if has_image and number == 0:
            asked = [*_plain_ids(tokenizer, before), IMAGE, *_plain_ids(tokenizer, f"\n{exchange.question}{behind}")]
        else:
            asked = _plain_ids(tokenizer, before + exchange.question + behind)
        answered = _plain_ids(tokenizer, exchange.answer + template.suffix)
        separator = _plain_ids(tokenizer, template.separator)
        ids += asked + answered + separator
        labels += [IGNORED] * len(asked) + answered + [IGNORED] * len(separator)
    return torch.tensor(ids[:limit]), torch.tensor(labels[:limit])


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _placed_masks(sample: TrainingSample, frame: SquareFrame | None, side: int) -> torch.Tensor:
    """(n, S, S) uint8, nearest, counts kept."""
    if frame is None or not sample.masks:
        return torch.zeros(0, side, side, dtype=torch.uint8)
    for mask in sample.masks:
        if mask.shape != (frame.height, frame.width):
            raise ModelError(
                f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels",
                expected=f"{frame.width} x {frame.height}, as the picture",
                where=str(sample.picture),
            )
    return frame.masks(torch.from_numpy(np.stack(sample.masks))).to(torch.uint8)
