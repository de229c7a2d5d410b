"""Referring segmentation: refCOCO, refCOCO+, refCOCOg, refCLEF in REFER's files (lichengunc/refer)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omg_llava.config import AnswerFormat
from omg_llava.errors import ModelError
from omg_llava.training.data.options import read_options
from omg_llava.training.samples import Exchange, TrainingSample
from omg_llava.training.wording_of_training import segment_answer, segment_question
from omgbench.data.coco import Annotation, ImageRecord, read_instances
from omgbench.data.refer import read_refs, reference_mask_counts, select_split, target_of


@dataclass(frozen=True, slots=True)
class ReferOptions:
    """What a recipe may set.

    Attributes:
        split_by: who made the splits: unc for refCOCO, refCOCO+ and refCLEF, umd for refCOCOg.
        split: of it.
        n_sentences: most sentences of a picture in one conversation.
    """

    split_by: str = "unc"
    split: str = "train"
    n_sentences: int = 3


@dataclass(frozen=True, slots=True)
class _Referred:
    image: ImageRecord
    targets: tuple[tuple[str, Annotation], ...]


class ReferringSegmentation:
    """One conversation per picture: some of its expressions, drawn without repeats, each asked for and answered."""

    def __init__(self, pictures: list[_Referred], images: Path, options: ReferOptions, answers: AnswerFormat) -> None:
        self._pictures, self._images = pictures, images
        self._n_sentences, self._answers = options.n_sentences, answers

    @classmethod
    def from_files(
        cls, files: Mapping[str, Path], options: Mapping[str, Any], answers: AnswerFormat
    ) -> ReferringSegmentation:
        """Files: "refer" (folder with instances.json and refs), "images" (folder). Options: `ReferOptions`."""
        chosen = read_options(ReferOptions, options, "refer")
        if chosen.n_sentences < 1:
            raise ModelError(f"n_sentences is {chosen.n_sentences}", expected="at least 1")
        instances = read_instances(files["refer"] / "instances.json")
        by_image: dict[object, list[tuple[str, Annotation]]] = {}
        for ref in select_split(read_refs(files["refer"], chosen.split_by), chosen.split):
            annotation, image = target_of(ref, instances)
            own = by_image.setdefault(image.id, [])
            own += [(sentence.sent, annotation) for sentence in ref.sentences]
        pictures = [
            _Referred(instances.images[image_id], tuple(targets))  # type: ignore[index]
            for image_id, targets in by_image.items()
            if targets
        ]
        return cls(pictures, files["images"], chosen, answers)

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int) -> Path | None:
        """The picture's file."""
        return self._images / self._pictures[index].image.file_name

    def sample(self, index: int, random: np.random.RandomState) -> TrainingSample:
        """Drawn sentences in drawn order; masks as official readers add them up."""
        referred = self._pictures[index]
        n = min(self._n_sentences, len(referred.targets))
        chosen = [referred.targets[place] for place in random.permutation(len(referred.targets))[:n]]
        exchanges = [
            Exchange(segment_question(text, random), segment_answer(text, self._answers, random)) for text, _ in chosen
        ]
        masks = [reference_mask_counts(annotation, referred.image) for _, annotation in chosen]
        return TrainingSample(self.picture(index), tuple(exchanges), masks=tuple(masks))
