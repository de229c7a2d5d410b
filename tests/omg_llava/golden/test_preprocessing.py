"""Stage 0: pictures, masks, points and boxes into the square."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omg_llava.config import ImageConfig
from omg_llava.preprocessing import SquareFrame, square_pixels

pytestmark = pytest.mark.golden


def _frame(stage: Any, name: str) -> SquareFrame:
    height, width, _ = stage[f"{name}_image"].shape
    return SquareFrame(width, height, stage[f"{name}_pixels"].shape[-1])


def test_every_picture(goldens: Any) -> None:
    stage = goldens.stage("0_preprocess")
    names = [match[1] for match, _ in stage.matching(r"(\w+)_image")]
    assert names
    for name in names:
        frame, config = _frame(stage, name), ImageConfig()
        image = Image.fromarray(stage[f"{name}_image"].numpy())
        stage.check(f"{name}_padded", torch.from_numpy(np.array(frame.pad(image, config.mean))))
        pixels, found = square_pixels(image, ImageConfig(side=frame.side))
        assert found == frame
        stage.check(f"{name}_pixels", pixels)
        # The recorded processor rounds to 8 bits once, as PIL does: nearly all pixels agree to rounding error.
        assert (pixels - stage[f"{name}_pixels"]).abs().median() < 1e-5
        stage.check(f"{name}_mask_padded", frame.pad_masks(stage[f"{name}_mask"]))


def test_points_and_boxes_move_with_the_picture(goldens: Any) -> None:
    """The official demo moves a box's first corner only. Ours moves both, as a picture does."""
    stage = goldens.stage("0_preprocess")
    for match, points in stage.matching(r"(\w+)_points"):
        frame = _frame(stage, match[1])
        scale = frame.side / frame.edge
        torch.testing.assert_close(frame.points_xy(points) / scale, stage.recorded(f"{match[1]}_points_padded"))
        boxes = stage.recorded(f"{match[1]}_boxes_padded")
        moved = frame.boxes_xyxy(stage[f"{match[1]}_boxes"]) / scale
        torch.testing.assert_close(moved[:, :2], boxes[:, :2])
        torch.testing.assert_close(moved[:, 2:], boxes[:, 2:] + torch.tensor([frame.left, frame.top]))
