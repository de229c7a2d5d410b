"""Pictures of one large and one small square: which colour is the large one, and where is the small one?

One line of `acme/val.json`: {"name": "0", "width": 48, "height": 32, "large": "red", "small": "blue",
"small_rle": {"size": [32, 48], "counts": "..."}}; pictures lie in `acme/images`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

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

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
FILES = (DataFile(("acme/val.json",), "questions"), DataFile(("acme/images",), "pictures", role="images"))
METRICS = (
    MetricSpec("accuracy", "Share of colour questions whose answer holds the right word.", primary=True),
    MetricSpec("cIoU", "Sum of the intersections over sum of the unions of the small squares.", primary=True),
)


class AcmeColours:
    """Records of questions hold `right`; those of squares `intersection_px` and `union_px`."""

    @property
    def info(self) -> TaskInfo:
        split = SplitInfo("val", files=FILES, default=True)
        return TaskInfo(
            "acme_colours", "1", "Acme Colours", frozenset({Intent.CHAT, Intent.REFER_SEGMENT}), (split,), METRICS
        )

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        for row in json.loads((data_root / "acme/val.json").read_text(encoding="utf-8")):
            name = row["name"]
            frame = Frame(f"acme/{name}", row["width"], row["height"], data_root / "acme/images" / f"{name}.png")
            chat = Request(f"{name}/colour", Intent.CHAT, (frame,), text="What colour is the large square?")
            yield Sample(chat, name, row["large"])
            refer = Request(f"{name}/square", Intent.REFER_SEGMENT, (frame,), text=f"the {row['small']} square")
            yield Sample(refer, name, Rle(tuple(row["small_rle"]["size"]), row["small_rle"]["counts"]))

    def score(self, sample: Sample, response: Response) -> Record:
        if sample.request.intent is Intent.CHAT:
            right = not response.status.failed and sample.reference in (response.text or "").lower()
            return Record(sample.id, sample.group, response.status, {"right": right})
        masks = [] if response.status.failed else [coco(mask.rle) for mask in response.masks[:1]]
        pair = [coco(sample.reference), *masks]
        intersection_px = int(coco_mask.area(coco_mask.merge(pair, intersect=True))) if masks else 0
        stats = {"intersection_px": intersection_px, "union_px": int(coco_mask.area(coco_mask.merge(pair)))}
        return Record(sample.id, sample.group, response.status, stats)

    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
        stats = [record.stats for record in records]
        rights = [entry["right"] for entry in stats if "right" in entry]
        overlaps = [entry for entry in stats if "union_px" in entry]
        union_px = sum(entry["union_px"] for entry in overlaps)
        ciou = sum(entry["intersection_px"] for entry in overlaps) / union_px if union_px else None
        accuracy = sum(rights) / len(rights) if rights else None
        return [MetricValue("accuracy", accuracy, len(rights)), MetricValue("cIoU", ciou, len(overlaps))]

    def perfect_answer(self, sample: Sample) -> Response:
        if sample.request.intent is Intent.CHAT:
            return Response(sample.id, text=sample.reference)
        return Response(sample.id, text="", masks=(Mask(sample.reference),))

    def write_demo(self, data_root: Path, seed: int) -> None:
        rng, rows = random.Random(seed), []
        (data_root / "acme/images").mkdir(parents=True)
        for index in range(6):
            large, small = rng.sample(sorted(COLOURS), 2)
            pixels = np.full((32, 48, 3), 128, np.uint8)
            pixels[4:28, 2:26] = COLOURS[large]
            x, y = rng.randrange(28, 38), rng.randrange(22)
            pixels[y : y + 10, x : x + 10] = COLOURS[small]
            is_small = np.all(pixels == COLOURS[small], axis=2)
            rle = coco_mask.encode(np.asfortranarray(is_small, np.uint8))
            Image.fromarray(pixels).save(data_root / "acme/images" / f"{index}.png")
            row = {"name": str(index), "width": 48, "height": 32, "large": large, "small": small}
            rows.append(row | {"small_rle": {"size": [32, 48], "counts": rle["counts"].decode()}})
        (data_root / "acme/val.json").write_text(json.dumps(rows), encoding="utf-8")


def coco(rle: Rle) -> dict[str, object]:
    """The mask as pycocotools takes it."""
    return {"size": list(rle.size), "counts": rle.counts}
