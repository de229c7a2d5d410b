"""One training sample of any data family, before tokens and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omg_llava.config import AnswerFormat
from omg_llava.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer. `<region>` and `<mark>` in a question stand for prompts, `[SEG]` in an answer for a
    mask.
    """

    question: str
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSample:
    """A conversation about a picture.

    Attributes:
        picture: the picture's file; None for text alone.
        exchanges: the turns, at least one.
        prompts: what the `<region>` and `<mark>` of the questions stand for, each kind in reading order; original
            pixels.
        masks: one (height, width) uint8 array per `[SEG]`, in reading order, original pixels. 1 inside; official
            readers add parts up, so a pixel that two parts cover holds 2.
    """

    picture: Path | None
    exchanges: tuple[Exchange, ...]
    prompts: tuple[Prompt, ...] = ()
    masks: tuple[NDArray[np.uint8], ...] = ()


class Family(Protocol):
    """A data set in its official files. Reading checks every entry; a sample opens nothing but what it needs."""

    @classmethod
    def from_files(cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: AnswerFormat) -> Family:
        """Read the annotation files.

        Args:
            files: files and folders by role.
            options: of the family; unknown ones raise `ModelError`.
            answers: how masks are announced in answers that the family words itself.

        Raises:
            DataError: a file that cannot be; `omgbench.errors.UserError`s like it name file and entry.
        """

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Path | None:
        """The picture's file."""

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """A sample; wordings, sentences and classes are drawn from `random` and nothing else."""
