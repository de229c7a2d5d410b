"""Semantic segmentation: ADE20K (CSAILVision/sceneparsing) and COCO-Stuff 164k (nightrome/cocostuff).

Rules: lxtGH/OMG-Seg, omg_llava/dataset/SemanticSegDataset.py. Labels are PNGs of one byte per pixel, named as their
pictures. Each access draws one of a picture's classes.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omg_llava.config import AnswerFormat
from omg_llava.errors import ModelError
from omg_llava.training.data.options import read_options
from omg_llava.training.data.picture_size import picture_size
from omg_llava.training.samples import Exchange, TrainingSample
from omg_llava.training.wording_of_training import segment_answer, segment_question
from omg_llava.vocabulary import ADDED_TOKENS
from omgbench.data.images import MAX_IMAGE_BYTES
from omgbench.data.jsonfile import checked, read_json, shown
from omgbench.data.locate import read_limited
from omgbench.errors import DataError
from omgbench.metrics.rle import MAX_PIXELS

UNLABELLED = 255
_MAX_NAMES_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class SemanticOptions:
    """What a recipe may set.

    Attributes:
        names: of the classes, in place of the file "names".
    """

    names: tuple[str, ...] = ()


class _SemanticSegmentation(ABC):
    """Pictures with a label map each, sorted by name."""

    family: ClassVar[str]

    def __init__(
        self, stems: Sequence[str], names: Sequence[str], images: Path, labels: Path, answers: AnswerFormat
    ) -> None:
        self._stems, self._names, self._answers = stems, names, answers
        self._images, self._labels = images, labels

    @classmethod
    def from_files(cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: AnswerFormat) -> Self:
        """Files: "images" (folder of .jpg), "labels" (folder of .png), "names" unless the option gives them.

        Options: `SemanticOptions`.
        """
        chosen = read_options(SemanticOptions, options, cls.family)
        images, labels = files["images"], files["labels"]
        if chosen.names and "names" in files:
            raise ModelError("names as an option and as a file", expected="one of them", where=cls.family)
        where = f"options of the data family {cls.family}" if chosen.names else str(files["names"])
        names = _checked_names(chosen.names or cls._read_names(files["names"]), where)
        return cls(_stems(images, labels), names, images, labels, answers)

    @staticmethod
    @abstractmethod
    def _read_names(path: Path) -> Sequence[str]:
        """Names by class."""

    @staticmethod
    @abstractmethod
    def _classes(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Classes of a label map's pixels, 255 for none."""

    def _is_asked(self, name: str) -> bool:
        """Whether a class of this name is drawn."""
        return True

    def __len__(self) -> int:
        return len(self._stems)

    def picture(self, index: int) -> Path:
        """The picture's file; a sample of a picture without a class shows the first one instead."""
        return self._images / f"{self._stems[index]}.jpg"

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """A drawn class of the picture and its pixels; of the first picture where this one has none (official).

        Raises:
            DataError: a label map that cannot be read, is not of its picture's size or holds a class without a name.
        """
        for place in (index, 0):
            classes = self._class_map(place)
            drawable = [each for each in self._present(classes, place) if self._is_asked(self._names[each])]
            if drawable:
                chosen = drawable[random.randint(len(drawable))]
                name = self._names[chosen]
                exchange = Exchange(segment_question(name, random), segment_answer(name, self._answers, random))
                mask = (classes == chosen).astype(np.uint8)
                return TrainingSample(self.picture(place), (exchange,), masks=(mask,))
        raise DataError(
            "neither this picture nor the first has a class", expected="labels", where=str(self._label(index))
        )

    def _label(self, index: int) -> Path:
        return self._labels / f"{self._stems[index]}.png"

    def _class_map(self, index: int) -> NDArray[np.uint8]:
        label, size = read_label_map(self._label(index)), picture_size(self.picture(index))
        if label.shape != size:
            raise DataError(
                f"label map of {label.shape[1]} x {label.shape[0]} pixels",
                expected=f"{size[1]} x {size[0]}, as the picture",
                where=str(self._label(index)),
            )
        return self._classes(label)

    def _present(self, classes: NDArray[np.uint8], index: int) -> list[int]:
        present: list[int] = np.bincount(classes.ravel(), minlength=256)[:UNLABELLED].nonzero()[0].tolist()
        if present and present[-1] >= len(self._names):
            raise DataError(
                f"class {present[-1]} (from 0) has no name",
                expected=f"{len(self._names)} classes",
                where=str(self._label(index)),
            )
        return present


class Ade20k(_SemanticSegmentation):
    """ADE20K's scene parsing benchmark: 0 is unlabelled, class i is label i + 1.

    Names come from `objectInfo150.txt`, of which the first synonym counts, or from a JSON list. The list that
    OMG-LLaVA was trained with (`ade20k_classes.json`, first in LISA) has those same names but for class 89, "television
    receiver".
    """

    family = "ade20k"

    @staticmethod
    def _read_names(path: Path) -> Sequence[str]:
        if path.suffix != ".json":
            return _object_info_names(path)
        content = checked(read_json(path), list, "content", str(path))
        return [checked(name, str, f"name {index}", str(path)) for index, name in enumerate(content)]

    @staticmethod
    def _classes(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Wraps round: 0 becomes 255.
        return label - np.uint8(1)


class CocoStuff(_SemanticSegmentation):
    """COCO-Stuff's `stuffthingmaps`: 255 is unlabelled, class i is label i.

    Names come from `labels.txt` (in LISA and GLaMM `cocostuff_classes.txt`): lines `i: name` from `0: unlabeled`, which
    is no class. Classes with a `-` in their name are never drawn, as in the official reader.
    """

    family = "coco_stuff"

    @staticmethod
    def _read_names(path: Path) -> Sequence[str]:
        names = []
        for number, line in enumerate(_lines(path)):
            index, colon, name = line.partition(": ")
            if not colon or index != str(number):
                raise DataError(
                    f"the line is {shown(line)}", expected=f"{number}: name", where=f"{path}, line {number + 1}"
                )
            names.append(name)
        return names[1:]

    @staticmethod
    def _classes(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return label

    def _is_asked(self, name: str) -> bool:
        return "-" not in name


def read_label_map(path: Path) -> NDArray[np.uint8]:
    """A PNG of labels, (height, width); grey values, or places in a palette.

    Raises:
        DataError: no PNG, a damaged one, one of several channels or more than one byte per pixel.
    """
    data = read_limited(path, MAX_IMAGE_BYTES)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("L", "P") or image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"PNG of mode {image.mode}, {image.width} x {image.height} pixels",
                    expected=f"one byte per pixel, up to {MAX_PIXELS} pixels",
                    where=str(path),
                )
            return np.array(image, dtype=np.uint8)
    except (DataError, MemoryError):
        raise
    # Decoders meet damage with exceptions of every kind.
    except Exception as error:
        raise DataError(f"the PNG cannot be read: {error}", expected="a PNG of labels", where=str(path)) from None


def _stems(images: Path, labels: Path) -> list[str]:
    """Names without ending of all label maps; each has its picture."""
    stems = sorted(path.stem for path in _folder(labels) if path.suffix == ".png")
    if not stems:
        raise DataError("no label maps", expected="PNGs", where=str(labels))
    pictures = {path.name for path in _folder(images)}
    for stem in stems:
        if f"{stem}.jpg" not in pictures:
            raise DataError(f"{stem}.jpg is not there", expected="a picture for each label map", where=str(images))
    return stems


def _folder(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror}", where=str(path)) from None


def _lines(path: Path) -> list[str]:
    try:
        text = read_limited(path, _MAX_NAMES_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("not UTF-8", expected="a list of names", where=str(path)) from None
    return text.splitlines()


def _object_info_names(path: Path) -> list[str]:
    """First synonyms of `objectInfo150.txt`: columns between tabs, among them `Idx` (from 1) and `Name`."""
    rows = [[cell.strip() for cell in line.split("\t")] for line in _lines(path)]
    if not rows or "Idx" not in rows[0] or "Name" not in rows[0]:
        raise DataError("no columns Idx and Name", expected="objectInfo150.txt, between tabs", where=str(path))
    idx, name = rows[0].index("Idx"), rows[0].index("Name")
    names = []
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(rows[0]) or row[idx] != str(number):
            raise DataError(
                f"the line is {shown(' | '.join(row))}", expected=f"class {number}", where=f"{path}, line {number + 1}"
            )
        names.append(row[name].partition(",")[0])
    return names


def _checked_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    stripped = tuple(name.strip() for name in names)
    if not 1 <= len(stripped) <= UNLABELLED:
        raise DataError(f"{len(stripped)} names", expected=f"1 to {UNLABELLED}", where=where)
    for index, name in enumerate(stripped):
        if not name or any(token in name for token in ADDED_TOKENS):
            raise DataError(f"name {index} is {shown(name)}", expected="words", where=where)
    return stripped
