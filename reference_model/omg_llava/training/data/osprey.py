"""Osprey-724K: descriptions of regions and conversations about them (CircleRadon/Osprey, dataset.md).

Format as lxtGH/OMG-Seg reads it (omg_llava/dataset, RegionCaptionDataset.py and region_caption_process.py): a list of
`{"file_name", "height", "width", "annotation": [{"segmentation", ...}, ...], ...}`, regions on pictures of COCO's
train2014. A segmentation is a list of polygons there; run lengths, which Osprey's own reader takes too, are read as
well. Other keys are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omg_llava.config import AnswerFormat
from omg_llava.prompts import Prompt
from omg_llava.training.data.bracketed import introduced, read_bracketed, refuse_seg, without_brackets
from omg_llava.training.data.options import no_options
from omg_llava.training.samples import Exchange, TrainingSample
from omg_llava.training.wording_of_training import region_question
from omg_llava.vocabulary import P_CLOSE, P_OPEN, SEG
from omgbench.data.coco import Segmentation, checked_file_name, checked_size, segmentation_of
from omgbench.data.jsonfile import checked, read_json, require, require_texts
from omgbench.data.parts import part_counts
from omgbench.errors import DataError

MOST_REGIONS = 3
"""Described regions of a picture in one conversation."""

_NAME = re.compile(r"<[^>]*>")


@dataclass(frozen=True, slots=True)
class _Regions:
    """The annotated regions of a picture of `size` (height, width)."""

    file_name: str
    size: tuple[int, int]
    segmentations: tuple[Segmentation, ...]
    where: str

    def counts(self, place: int) -> NDArray[np.uint8]:
        """How many parts of a region cover each pixel, (height, width)."""
        return part_counts(self.segmentations[place], self.size, f"{self.where} annotation[{place}]")


@dataclass(frozen=True, slots=True)
class _Described:
    regions: _Regions
    descriptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Discussed:
    regions: _Regions
    exchanges: tuple[Exchange, ...]


class OspreyDetailed:
    """`osprey_detail_description.json`: with `"description"`, a list of texts `<region1>: ...`, one per region.

    A conversation asks about up to three drawn regions, numbered anew, and then for the mask of one of them. Pictures
    whose regions and descriptions differ in number are left out, as in the official reader.
    """

    def __init__(self, pictures: Sequence[_Described], images: Path, answers: AnswerFormat) -> None:
        self._pictures, self._images, self._answers = pictures, images, answers

    @classmethod
    def from_files(cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: AnswerFormat) -> OspreyDetailed:
        """Files: "annotations" (JSON), "images" (folder). No options."""
        no_options(options, "osprey_detailed")
        pictures = [_described(entry, where) for entry, where in _listed(files["annotations"])]
        return cls([picture for picture in pictures if picture is not None], files["images"], answers)

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int) -> Path:
        """The picture's file."""
        return self._images / self._pictures[index].regions.file_name

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """Drawn regions as mask prompts, their descriptions, and the mask of the region asked for last."""
        picture = self._pictures[index]
        places = _drawn(len(picture.descriptions), random)
        counts = [picture.regions.counts(place) for place in places]
        exchanges = [
            Exchange(region_question(number, random), _NAME.sub(f"region{number}", picture.descriptions[place]))
            for number, place in enumerate(places, start=1)
        ]
        asked = random.randint(len(places))
        exchanges.append(_segmentation_turn(asked + 1, self._answers))
        return TrainingSample(
            self.picture(index),
            tuple(exchanges),
            prompts=tuple(Prompt("mask", count > 0) for count in counts),
            masks=(counts[asked],),
        )


class OspreyConversation:
    """`osprey_conversation.json`: with `"conversations"`, a list of `{"from": "human" or "gpt", "value": text}`.

    All regions of the picture are introduced before the first question; `<region1>` in the text becomes `region1`.
    Pictures without a region are left out, as in the official reader, and those without an answer.
    """

    def __init__(self, pictures: Sequence[_Discussed], images: Path) -> None:
        self._pictures, self._images = pictures, images

    @classmethod
    def from_files(
        cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: AnswerFormat
    ) -> OspreyConversation:
        """Files: "annotations" (JSON), "images" (folder). No options; nothing here announces a mask."""
        no_options(options, "osprey_conversation")
        pictures = [_discussed(entry, where) for entry, where in _listed(files["annotations"])]
        return cls([picture for picture in pictures if picture is not None], files["images"])

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int) -> Path:
        """The picture's file."""
        return self._images / self._pictures[index].regions.file_name

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """The whole conversation, all regions as mask prompts. Nothing is drawn."""
        picture = self._pictures[index]
        regions = picture.regions
        prompts = tuple(Prompt("mask", regions.counts(place) > 0) for place in range(len(regions.segmentations)))
        return TrainingSample(self.picture(index), introduced(picture.exchanges, prompts), prompts=prompts)


def _listed(path: Path) -> list[tuple[object, str]]:
    content = checked(read_json(path), list, "content", str(path))
    return [(entry, f"{path}: [{index}]") for index, entry in enumerate(content)]


def _regions(entry: object, where: str) -> _Regions:
    size = checked_size(require(entry, "height", int, where), require(entry, "width", int, where), where)
    return _Regions(
        checked_file_name(require(entry, "file_name", str, where), where),
        size,
        tuple(
            segmentation_of(region, size, f"{where} annotation[{place}]")
            for place, region in enumerate(require(entry, "annotation", list, where))
        ),
        where,
    )


def _described(entry: object, where: str) -> _Described | None:
    regions, descriptions = _regions(entry, where), require_texts(entry, "description", where)
    if len(descriptions) != len(regions.segmentations):
        return None
    if not descriptions:
        raise DataError("no region", expected="a region with its description", where=where)
    for index, description in enumerate(descriptions):
        refuse_seg(description, f"{where} description[{index}]")
    return _Described(regions, descriptions)


def _discussed(entry: object, where: str) -> _Discussed | None:
    if isinstance(entry, dict) and "annotation" not in entry:
        return None
    regions, exchanges = _regions(entry, where), read_bracketed(entry, where, _spoken)
    return _Discussed(regions, exchanges) if regions.segmentations and exchanges else None


def _spoken(text: str) -> str:
    """`text` without brackets and without its commonest misspelling."""
    return without_brackets(text).replace("regin", "region")


def _drawn(n: int, random: np.random.RandomState) -> list[int]:
    """Places among `n`: all in order, or as many as one conversation takes in drawn order."""
    return list(range(n)) if n < MOST_REGIONS else random.choice(n, MOST_REGIONS, replace=False).tolist()


def _segmentation_turn(number: int, answers: AnswerFormat) -> Exchange:
    answer = f"Sure, it is {SEG}." if answers == "plain" else f"{P_OPEN} Region{number} {P_CLOSE} {SEG}."
    return Exchange(f"Please segment the region{number}.", answer)
