"""LLaVA's conversations: the 558k captions of stage 1 and the 665k mixture of stage 2 (haotian-liu/LLaVA, docs)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omg_llava.config import AnswerFormat
from omg_llava.conversation import IMAGE_TEXT
from omg_llava.training.data.options import no_options
from omg_llava.training.samples import Exchange, TrainingSample
from omgbench.data.coco import checked_file_name
from omgbench.data.jsonfile import checked, read_json, require
from omgbench.errors import DataError


class LlavaConversations:
    """A list of `{"image": file, "conversations": [{"from": "human" or "gpt", "value": text}, ...]}`.

    An entry without `image` is text alone. What comes before the first human turn is left out, as in the official
    reader, and so is `<image>` in the text: a picture always goes before the first question.
    """

    def __init__(self, entries: list[tuple[str | None, tuple[Exchange, ...]]], images: Path) -> None:
        self._entries, self._images = entries, images

    @classmethod
    def from_files(
        cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: AnswerFormat
    ) -> LlavaConversations:
        """Files: "conversations" (JSON), "images" (folder). No options."""
        no_options(options, "llava")
        path = files["conversations"]
        content = checked(read_json(path), list, "content", str(path))
        return cls([_entry(entry, f"{path}: [{index}]") for index, entry in enumerate(content)], files["images"])

    def __len__(self) -> int:
        return len(self._entries)

    def picture(self, index: int) -> Path | None:
        """The picture's file; None for text alone."""
        name = self._entries[index][0]
        return None if name is None else self._images / name

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """The whole conversation. Nothing is drawn."""
        return TrainingSample(self.picture(index), self._entries[index][1])


def _entry(entry: object, where: str) -> tuple[str | None, tuple[Exchange, ...]]:
    name = None
    if isinstance(entry, dict) and entry.get("image") is not None:
        name = checked_file_name(require(entry, "image", str, where), where, "image")
    exchanges = read_exchanges(require(entry, "conversations", list, where), where)
    if not exchanges:
        raise DataError("no question with an answer", expected="a human turn and a gpt turn", where=where)
    return name, exchanges


def read_exchanges(turns: list[object], where: str) -> tuple[Exchange, ...]:
    """Questions with their answers.

    Several human turns in a row are one question without a space between them, as in xtuner's reader; an unanswered one
    is dropped.

    Raises:
        DataError: a turn that is neither of human nor of gpt.
    """
    exchanges: list[Exchange] = []
    question: list[str] = []
    for index, turn in enumerate(turns):
        here = f"{where} conversations[{index}]"
        speaker, text = require(turn, "from", str, here), require(turn, "value", str, here)
        if speaker == "human":
            question.append(text.replace(IMAGE_TEXT, "").strip() if IMAGE_TEXT in text else text)
        elif speaker == "gpt":
            if question:
                exchanges.append(Exchange("".join(question), text))
            question = []
        else:
            raise DataError(f"a turn of {speaker!r}", expected="human or gpt", where=here)
    return tuple(exchanges)
