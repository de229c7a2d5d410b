"""What a user points at, in original pixels, and how a question speaks of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from omg_llava.errors import ModelError
from omg_llava.preprocessing import CornerFrame, SquareFrame
from omg_llava.visual_prompts import PromptKind, PromptSet
from omg_llava.vocabulary import MARK, REGION

_OVERHANG_PX = 1.0
"""Annotated boxes reach over the border by fractions of a pixel; what does is drawn in."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A point, box or mask on the original picture.

    Attributes:
        kind: what it is.
        value: (2,) as (x, y); (4,) as xyxy; (height, width) bool.
        as_mark: whether `<mark>` or `<region>` stands for it; None = `<mark>` for points, `<region>` otherwise.
    """

    kind: PromptKind
    value: NDArray[np.generic]
    as_mark: bool | None = None

    @property
    def placeholder(self) -> str:
        """`<mark>` or `<region>`. Both are replaced by the prompt's token, so the choice only tells places apart."""
        return MARK if (self.kind == "point" if self.as_mark is None else self.as_mark) else REGION


def prompt_sets(
    prompts: Sequence[Prompt], frame: SquareFrame | CornerFrame, device: torch.device
) -> list[tuple[list[int], PromptSet]]:
    """Prompts by kind in the network's frame, each set with its members' places in `prompts`.

    Raises:
        ModelError: for a prompt outside the picture, an empty box, a mask of another size.
    """
    for index, prompt in enumerate(prompts):
        _check(prompt, frame.width, frame.height, f"prompt {index + 1}")
    sets = []
    for kind in ("point", "box", "mask"):
        indices = [index for index, prompt in enumerate(prompts) if prompt.kind == kind]
        if indices:
            values = torch.stack([torch.from_numpy(np.array(prompts[index].value)) for index in indices])
            sets.append((indices, _prompt_set(kind, values, frame, device)))
    return sets


def _prompt_set(
    kind: PromptKind, values: torch.Tensor, frame: SquareFrame | CornerFrame, device: torch.device
) -> PromptSet:
    placed = _placed(kind, values, frame).to(device)
    if isinstance(frame, SquareFrame):
        return PromptSet(kind, placed, (frame.side, frame.side))
    # OMG-Seg divides a prompt's place by the resized picture, not by the padded one.
    return PromptSet(kind, placed, frame.padded_hw, frame.resized_hw)


def _placed(kind: PromptKind, values: torch.Tensor, frame: SquareFrame | CornerFrame) -> torch.Tensor:
    if kind == "mask":
        return frame.masks(values.bool())
    border = torch.tensor([frame.width, frame.height], dtype=torch.float32)
    corners = values.float().reshape(-1, 2).clamp(min=torch.zeros(2), max=border)
    return frame.points_xy(corners) if kind == "point" else frame.boxes_xyxy(corners.reshape(-1, 4))


def _check(prompt: Prompt, width: int, height: int, where: str) -> None:
    inside = f"inside the picture of {width} x {height} pixels"
    if prompt.kind == "mask":
        if prompt.value.shape != (height, width):
            shape = " x ".join(map(str, prompt.value.shape[::-1]))
            raise ModelError(
                f"the mask has {shape} pixels", expected=f"{width} x {height}, as the picture", where=where
            )
        return
    numbers = [float(number) for number in prompt.value]
    if not all(math.isfinite(number) for number in numbers):
        raise ModelError(f"the {prompt.kind} is {numbers}", expected=inside, where=where)
    if any(not -_OVERHANG_PX <= x <= width + _OVERHANG_PX for x in numbers[0::2]) or any(
        not -_OVERHANG_PX <= y <= height + _OVERHANG_PX for y in numbers[1::2]
    ):
        raise ModelError(f"the {prompt.kind} {numbers} lies outside", expected=inside, where=where)
    if prompt.kind == "box" and not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise ModelError(f"the box {numbers} is empty", expected="x1 < x2 and y1 < y2", where=where)


def speak_of(prompts: Sequence[Prompt]) -> str:
    """The sentences that training put before a question about prompts: regions first, then marks. "" for none."""
    regions = [f"region{n} {REGION}" for n in range(1, 1 + sum(p.placeholder == REGION for p in prompts))]
    marks = [f"Mark {n} {MARK}" for n in range(1, 1 + sum(p.placeholder == MARK for p in prompts))]
    sentences = []
    if regions:
        sentences.append(f"There are some regions: {', '.join(regions)}.\n")
    if marks:
        sentences.append(f"There are some marks: {', '.join(marks)}.\n")
    return "".join(sentences)
