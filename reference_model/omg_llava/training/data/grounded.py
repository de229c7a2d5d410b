"""Grounded conversation data of GLaMM: GranD-f, OpenPSG, Flickr30k and RefCOCOg.

Rules: lxtGH/OMG-Seg, omg_llava/dataset/GCGDataset.py and process_functions/gcg_process.py, commit 1ae2e7d. Where those
break their own answers, `grounded_caption` and `grounded_files` say what is done instead. A caption without a phrase is
left out; the official reader puts its first sample there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from omg_llava.config import AnswerFormat
from omg_llava.training.data.grounded_caption import GroundedCaption
from omg_llava.training.data.grounded_files import read_flickr, read_grandf, read_refcocog
from omg_llava.training.data.options import no_options
from omg_llava.training.data.picture_size import picture_size
from omg_llava.training.samples import Exchange, TrainingSample
from omg_llava.wording import GROUNDED_CAPTION
from omgbench.errors import DataError


class GroundedConversations(ABC):
    """One conversation per caption: one of the six official questions, and the caption with its phrases tagged."""

    name: ClassVar[str]

    def __init__(self, captions: Sequence[GroundedCaption], images: Path) -> None:
        self._captions, self._images = captions, images

    @classmethod
    def from_files(cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: AnswerFormat) -> Self:
        """Files: "annotations" (JSON), "images" (folder). No options; the answers are grounded in either format."""
        no_options(options, cls.name)
        annotations, images = files["annotations"], files["images"]
        captions = [caption for caption in cls._read(annotations) if caption.phrases]
        if not captions:
            raise DataError("no caption with a grounded phrase", where=str(annotations))
        return cls(captions, images)

    @staticmethod
    @abstractmethod
    def _read(path: Path) -> Iterator[GroundedCaption]:
        """Every caption of an annotation file."""

    def __len__(self) -> int:
        return len(self._captions)

    def picture(self, index: int) -> Path:
        """The picture's file."""
        return self._images / self._captions[index].file_name

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """A drawn question and the whole caption; masks in reading order, a phrase's parts added up.

        Raises:
            DataError: a picture that cannot be read or is not of its masks' size.
        """
        caption, picture = self._captions[index], self.picture(index)
        question = GROUNDED_CAPTION[random.randint(len(GROUNDED_CAPTION))]
        masks = caption.masks(picture_size(picture))
        return TrainingSample(picture, (Exchange(question, caption.answer),), masks=masks)


class GranDf(GroundedConversations):
    """GranD-f's captions by people: `GranDf_HA_GCG_train.json` and the pictures of `GranDf_HA_images/train`."""

    name = "grandf_gcg"
    _read = staticmethod(read_grandf)


class OpenPsg(GroundedConversations):
    """`OpenPsgGCG_train.json`, laid out as GranD-f, and COCO's `train2017`."""

    name = "openpsg_gcg"
    _read = staticmethod(read_grandf)


class FlickrGcg(GroundedConversations):
    """`flickr_mergedGT_GCG_train.json` and the pictures of Flickr30k's training split."""

    name = "flickr_gcg"
    _read = staticmethod(read_flickr)


class RefCocoGcg(GroundedConversations):
    """`RefCOCOg_GCG_train.json` and COCO's `train2014`."""

    name = "refcocog_gcg"
    _read = staticmethod(read_refcocog)
