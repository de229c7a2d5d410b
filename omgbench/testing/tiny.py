"""A made referring task of any length that needs no file: for tests of the harness and for measuring its own cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from omgbench.contract import (
    DataFile,
    Frame,
    Intent,
    Mask,
    MetricSpec,
    MetricValue,
    Record,
    Request,
    Response,
    Rle,
    Sample,
    SplitInfo,
    TaskInfo,
)
from omgbench.errors import DataError
from omgbench.testing.frames import png_bytes
from omgbench.testing.shapes import rectangle_rle

IMAGE_FOLDER = "tiny/images"
_METRICS = (
    MetricSpec("cIoU", "Sum of the intersections over sum of the unions, both in whole pixels.", primary=True),
    MetricSpec("accuracy", "Share of samples whose IoU is 0.5 or more."),
)


class TinyTask:
    """Referring segmentation of one rectangle per sample; the sample's number alone decides the rectangle.

    Samples are made one by one as they are asked for, so a task of millions takes no memory. Several predicted masks
    count as their union. Records hold `intersection_px` and `union_px`.

    Args:
        n_groups: pictures.
        per_group: samples about each picture.
        width, height: size of every picture in pixels, at least 2.
        seed: other rectangles.
        images: the split needs pictures, which `write_demo` paints; otherwise frames have none, and reading one is a
            `DataError`.
    """

    def __init__(
        self,
        n_groups: int = 8,
        per_group: int = 3,
        width: int = 640,
        height: int = 480,
        seed: int = 0,
        images: bool = False,
    ) -> None:
        self.n_groups = int(n_groups)
        self.per_group = int(per_group)
        self.size = (int(height), int(width))
        self.seed = int(seed)
        self.images = images

    @property
    def info(self) -> TaskInfo:
        """One split, `val`."""
        pictures = DataFile((IMAGE_FOLDER,), "painted rectangles", role="images", source="write_demo")
        split = SplitInfo(
            "val",
            files=(pictures,) if self.images else (),
            n_samples=self.n_groups * self.per_group,
            n_images=self.n_groups,
            default=True,
        )
        return TaskInfo("tiny", "1", "Tiny rectangles", frozenset({Intent.REFER_SEGMENT}), (split,), _METRICS)

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        """All samples, picture by picture."""
        height, width = self.size
        for group in range(self.n_groups):
            name = f"{group:08d}"
            source = data_root / IMAGE_FOLDER / f"{name}.png" if self.images else _no_picture
            frame = Frame(f"tiny/{name}", width, height, source)
            for index in range(group * self.per_group, (group + 1) * self.per_group):
                request = Request(f"{index:08d}", Intent.REFER_SEGMENT, (frame,), text=f"rectangle {index}")
                yield Sample(request, name, index)

    def target(self, index: int) -> Rle:
        """The rectangle of a sample: at least one pixel, at most half of the frame on each side."""
        return rectangle_rle(self._target_box_xyxy(index), self.size)

    def _target_box_xyxy(self, index: int) -> tuple[int, int, int, int]:
        height, width = self.size
        # Knuth's multiplicative hash spreads neighbouring numbers over the whole range.
        number = ((index + 1) * 2654435761 + self.seed * 40503) % 2**32
        x1, y1 = number % (width // 2), (number >> 8) % (height // 2)
        return (x1, y1, x1 + 1 + (number >> 16) % (width // 2), y1 + 1 + (number >> 24) % (height // 2))

    def score(self, sample: Sample, response: Response) -> Record:
        """Pixels that prediction and rectangle share and hold together; a failed answer predicts nothing."""
        from omgbench.metrics.iou import overlap
        from omgbench.metrics.rle import union_of

        predicted = [] if response.status.failed else [mask.rle for mask in response.masks]
        found = overlap(union_of(predicted) if predicted else None, self.target(sample.reference))
        stats = {"intersection_px": found.intersection_px, "union_px": found.union_px}
        return Record(sample.id, sample.group, response.status, stats)

    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
        """cIoU and accuracy, from sums of whole numbers."""
        n = intersection_px = union_px = hits = 0
        for record in records:
            n += 1
            intersection_px += record.stats["intersection_px"]
            union_px += record.stats["union_px"]
            hits += 2 * record.stats["intersection_px"] >= record.stats["union_px"]
        return (
            MetricValue("cIoU", intersection_px / union_px if n else None, n),
            MetricValue("accuracy", hits / n if n else None, n),
        )

    def perfect_answer(self, sample: Sample) -> Response:
        """The rectangle itself."""
        return Response(sample.id, text="", masks=(Mask(self.target(sample.reference)),))

    def write_demo(self, data_root: Path, seed: int) -> None:
        """Paint the pictures where the task has any; its samples do not depend on `seed`."""
        if not self.images:
            return
        folder = data_root / IMAGE_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for group in range(self.n_groups):
            pixels = np.full((*self.size, 3), 128, np.uint8)
            for index in range(group * self.per_group, (group + 1) * self.per_group):
                x1, y1, x2, y2 = self._target_box_xyxy(index)
                pixels[y1:y2, x1:x2] = [index * 37 % 256, index * 91 % 256, index * 151 % 256]
            (folder / f"{group:08d}.png").write_bytes(png_bytes(pixels))


def _no_picture() -> bytes:
    raise DataError("a picture of the tiny task was read", expected="images=True for a task with pictures")
