"""Comparison of panoptic maps and instances with the recorded ones."""

from __future__ import annotations

import re
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment

from omg_llava.fusion import FusionSettings, Instances


def settings_of(goldens: Any, case: str, *, object_threshold: float | None = None) -> FusionSettings:
    """Thresholds as the case's name gives them, and the recorded defaults, but for `object_threshold`."""
    seg = goldens.config["seg"]
    defaults = seg["fusion_defaults"]
    threshold, iou = re.search(r"thr([\d.]+)", case), re.search(r"iou([\d.]+)", case)
    default = defaults["object_mask_thr"] if object_threshold is None else object_threshold
    return FusionSettings(
        object_threshold=float(threshold[1]) if threshold else default,
        iou_threshold=float(iou[1]) if iou else defaults["iou_thr"],
        filter_low_score=defaults["filter_low_score"] and "no_low_score_filter" not in case,
        max_instances=seg["max_per_image"],
    )


def class_counts(goldens: Any) -> tuple[int, int]:
    """Number of things, and of all classes."""
    seg = goldens.config["seg"]
    return seg["num_things_classes"], seg["num_things_classes"] + seg["num_stuff_classes"]


def check_instances(stage: Any, prefix: str, index: int, found: Instances) -> None:
    """Compare the properties of instances that are recorded, as `{prefix}instance_{property}_{index}`."""
    columns = {
        "scores": found.scores,
        "labels": found.labels,
        "boxes": found.boxes_xyxy,
        "areas": found.masks.flatten(1).sum(dim=1),
        "track_ids": found.ranks + 1,
    }
    named = {f"{prefix}instance_{name}_{index}": column for name, column in columns.items()}
    named = {name: column for name, column in named.items() if name in stage}
    if named:
        order = _recorded_order(stage, named)
        for name, column in named.items():
            stage.check(name, column[order])


def _recorded_order(stage: Any, named: dict[str, torch.Tensor]) -> Any:
    """Indices that put rows of equal score, within the tolerance, in the recorded order, which is open."""
    if any(column.shape != stage[name].shape for name, column in named.items()):
        return slice(None)
    same = torch.tensor(True)
    for name, column in named.items():
        expected = stage[name][:, None]
        allowed = stage.atol(name) + 1e-4 * expected.abs() if column.is_floating_point() else torch.zeros(1)
        equal = (column - expected).abs() <= allowed
        same = same & equal.flatten(2).all(dim=-1) if equal.ndim > 2 else same & equal
    _, order = linear_sum_assignment(~same.numpy())
    return torch.from_numpy(order)
