"""Texts about points: MDVP (AFeng-x/Draw-and-Understand) and what OMG-LLaVA's authors made of Flickr30k and OpenPSG.

Format as lxtGH/OMG-Seg reads it (omg_llava/dataset, MDPVPointsDataset.py and mdpv_points_process.py): a list of
`{"image", "points": [[x, y], ...], "conversations": [{"from": "human" or "gpt", "value": text}, ...]}`, points in
pixels of the picture. Other keys are not looked at. No document describes the files: MDVP's own reader
(accessory/data/conversation/dataset.py) takes the same keys, the multi-point captions are known from OMG-Seg's alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from omg_llava.config import AnswerFormat
from omg_llava.prompts import Prompt
from omg_llava.training.data.bracketed import introduced, read_bracketed
from omg_llava.training.data.options import no_options
from omg_llava.training.samples import Exchange, TrainingSample
from omgbench.data.coco import checked_file_name
from omgbench.data.jsonfile import checked, finite, read_json, require, shown
from omgbench.errors import DataError
from omgbench.metrics.rle import MAX_COORDINATE_PX

_OVERHANG_PX = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Pointed:
    """`points_xy` is (n, 2) float32, original pixels."""

    file_name: str
    points_xy: NDArray[np.float32]
    exchanges: tuple[Exchange, ...]


class MdvpPoints:
    """`gpt4v_{ade20k,cocostuff_10k,cocostuff_164k,lvis,vg}_{detailed_caption,brief_caption,QA}_point.json`.

    All points of the picture are introduced before the first question; `<Mark 1>` in the text becomes `Mark 1`. Of an
    image's path the last part alone counts, as in the official reader. Entries without a point or without an answer are
    left out.
    """

    family: ClassVar[str] = "mdvp"

    def __init__(self, pictures: Sequence[_Pointed], folders: Sequence[Path]) -> None:
        self._pictures, self._folders = pictures, folders

    @classmethod
    def from_files(cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: AnswerFormat) -> Self:
        """Files: "annotations" (JSON), "images" (folder), "more_images" (a second one, for what the first lacks, as
        Visual Genome comes in two; may be absent). No options; nothing here announces a mask.
        """
        no_options(options, cls.family)
        path = files["annotations"]
        folders = [files["images"], *([files["more_images"]] if "more_images" in files else [])]
        content = checked(read_json(path), list, "content", str(path))
        pictures = [_pointed(entry, f"{path}: [{index}]") for index, entry in enumerate(content)]
        return cls([picture for picture in pictures if picture is not None], folders)

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int) -> Path:
        """The picture's file."""
        paths = [folder / self._pictures[index].file_name for folder in self._folders]
        return next((path for path in paths if path.exists()), paths[0])

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """The whole conversation with its point prompts. Nothing is drawn."""
        picture = self._pictures[index]
        prompts = tuple(Prompt("point", point_xy) for point_xy in picture.points_xy)
        return TrainingSample(self.picture(index), introduced(picture.exchanges, prompts), prompts=prompts)


class MultiPointCaption(MdvpPoints):
    """`Flicker30K_multi_points_to_caption.json` and `OpenPsgGCG_train_multi_points_to_caption.json`, laid out alike."""

    family: ClassVar[str] = "multi_point"


def _pointed(entry: object, where: str) -> _Pointed | None:
    file_name = require(entry, "image", str, where).rpartition("/")[2]
    points = [
        _point_xy(point, f"{where} points[{index}]")
        for index, point in enumerate(require(entry, "points", list, where))
    ]
    exchanges = read_bracketed(entry, where)
    checked_file_name(file_name, where, "image")
    if not points or not exchanges:
        return None
    return _Pointed(file_name, np.array(points, dtype=np.float32), exchanges)


def _point_xy(value: object, where: str) -> tuple[float, float]:
    numbers = checked(value, list, "point", where)
    if len(numbers) != 2:
        raise DataError(f"point of {len(numbers)} numbers", expected="[x, y]", where=where)
    x, y = (finite(number, "point", where) for number in numbers)
    if not (-_OVERHANG_PX <= x <= MAX_COORDINATE_PX and -_OVERHANG_PX <= y <= MAX_COORDINATE_PX):
        raise DataError(f"point is [{shown(x)}, {shown(y)}]", expected="pixels of a picture", where=where)
    return x, y
