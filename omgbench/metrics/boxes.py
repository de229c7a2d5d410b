"""Box IoU under the field's named rules, and the sums behind referring comprehension (Acc@t, mean IoU, centre)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from omgbench.contract import BoxXyxy
from omgbench.errors import UserError
from omgbench.metrics.iou import ExactSum

ACCURACY_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)

_BORDER = 1e-9


def box_iou_xyxy(a: BoxXyxy, b: BoxXyxy) -> float:
    """IoU of two boxes with continuous borders (width = x2 - x1), any common unit, 0 to 1.

    A box turned inside out meets nothing: 0. A union without area gives 0. Where lmms-eval's script
    (refcoco/utils_rec.py) gives a number at all it is this one; it divides by zero for two boxes without area.
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if not (width > 0 and height > 0):
        return 0.0
    common = width * height
    return common / (_area(a) + _area(b) - common)


def box_iou_inclusive_pixels(a: BoxXyxy, b: BoxXyxy) -> float:
    """IoU by the evaluation notebook of lichengunc/refer (pyEvalDemo.ipynb), boxes in pixels, 0 to 1.

    A box of x, width covers the pixels x to x + width - 1, so the common part gains one pixel a side, and the areas
    stay width x height. As there, boxes that share a single column or row of pixels do not meet.
    """
    width = min(a[2], b[2]) - 1 - max(a[0], b[0])
    height = min(a[3], b[3]) - 1 - max(a[1], b[1])
    if not (width > 0 and height > 0):
        return 0.0
    common = (width + 1) * (height + 1)
    return common / (_area(a) + _area(b) - common)


def _area(box: BoxXyxy) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


BOX_IOU_RULES: Mapping[str, Callable[[BoxXyxy, BoxXyxy], float]] = MappingProxyType(
    {"continuous": box_iou_xyxy, "inclusive_pixels": box_iou_inclusive_pixels}
)
"""IoU rules by the name that a report states. `continuous` is the default everywhere."""


def center_inside(prediction: BoxXyxy, reference: BoxXyxy) -> bool:
    """Whether the centre of the prediction lies in the reference, border included (lmms-eval's Center_ACC).

    lmms-eval compares fractions of the image. Answers of two decimals do hit a border exactly, and pixels round
    otherwise than fractions, so a centre within 1e-9 of the border counts as on it in either unit.
    """
    x = (prediction[0] + prediction[2]) / 2
    y = (prediction[1] + prediction[3]) / 2
    in_width = reference[0] - _BORDER <= x <= reference[2] + _BORDER
    return in_width and reference[1] - _BORDER <= y <= reference[3] + _BORDER


@dataclass(frozen=True, slots=True)
class BoxOverlap:
    """A predicted box against the annotated one: IoU, 0 to 1, and whether its centre lies inside."""

    iou: float
    center_inside: bool


def box_overlap(prediction: BoxXyxy | None, reference: BoxXyxy, rule: str = "continuous") -> BoxOverlap:
    """Compare two boxes by a rule of `BOX_IOU_RULES`; no box has IoU 0 and no centre. Unknown rule: `UserError`."""
    if rule not in BOX_IOU_RULES:
        raise UserError(f"unknown box rule {rule!r}", expected=" or ".join(BOX_IOU_RULES))
    if prediction is None:
        return BoxOverlap(0.0, False)
    return BoxOverlap(BOX_IOU_RULES[rule](prediction, reference), center_inside(prediction, reference))


@dataclass(slots=True)
class ReferringBoxSums:
    """Exact sums over the sentences of a split; merging in any order gives the same bytes.

    A sentence without an answer is added as `BoxOverlap(0.0, False)`. Every metric lies in 0 to 1, higher is better,
    and is None for n = 0.
    """

    n: int = 0
    iou_sum: ExactSum = field(default_factory=ExactSum)
    hits: tuple[int, ...] = (0,) * len(ACCURACY_THRESHOLDS)
    centers_inside: int = 0

    def add(self, sentence: BoxOverlap) -> None:
        """Count one sentence."""
        self.n += 1
        self.iou_sum.add(sentence.iou)
        reached = (sentence.iou >= threshold for threshold in ACCURACY_THRESHOLDS)
        self.hits = tuple(hits + hit for hits, hit in zip(self.hits, reached, strict=True))
        self.centers_inside += sentence.center_inside

    def __add__(self, other: ReferringBoxSums) -> ReferringBoxSums:
        return ReferringBoxSums(
            n=self.n + other.n,
            iou_sum=self.iou_sum + other.iou_sum,
            hits=tuple(mine + theirs for mine, theirs in zip(self.hits, other.hits, strict=True)),
            centers_inside=self.centers_inside + other.centers_inside,
        )

    def values(self) -> dict[str, float | None]:
        """Every metric by name: Acc@0.1 to Acc@0.9 (share of sentences with IoU >= t), IoU (mean), Center_Acc."""
        accuracy = {
            f"Acc@{threshold}": hits / self.n if self.n else None
            for threshold, hits in zip(ACCURACY_THRESHOLDS, self.hits, strict=True)
        }
        center = self.centers_inside / self.n if self.n else None
        return {**accuracy, "IoU": self.iou_sum.mean(self.n), "Center_Acc": center}


_NUMBER = r"(-?\d+(?:\.\d+)?)"
_LMMS_EVAL_BOX = re.compile(rf"\[\s*{_NUMBER},\s*{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\s*\]")


def parse_box_lmms_eval(text: str) -> BoxXyxy:
    """The box that lmms-eval reads from an answer (refcoco/utils_rec.py), units as written, meant to be 0 to 1.

    The first `[a, b, c, d]` of the text, else (0, 0, 0, 0), which is a box in the corner and not "no box". Its quirks:
    round brackets, lists of three or five numbers, a sign `+`, `.5`, `1.` and `1e-3` and a blank before a comma are
    not read; the numbers are neither ordered nor limited.
    """
    match = _LMMS_EVAL_BOX.search(text)
    if match is None:
        return (0.0, 0.0, 0.0, 0.0)
    x1, y1, x2, y2 = (float(number) for number in match.groups())
    return (x1, y1, x2, y2)
