"""Referring expression segmentation on refCOCO, refCOCO+ and refCOCOg.

One sample: image COCO_train2014_000000581857.jpg, text "the lady with the blue shirt", answer one mask.
Papers: Kazemzadeh et al., EMNLP 2014; Yu et al., arXiv 1608.00272; Mao et al., arXiv 1511.02283. Official scorer of
the default numbers: dvlab-research/LISA, train_ds.py and utils/utils.py (commit 3cb2d43), over every sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omgbench.contract import (
    Box,
    BoxXyxy,
    DataFile,
    Intent,
    Mask,
    MetricSpec,
    MetricValue,
    Record,
    Response,
    Sample,
    SplitInfo,
    Status,
    TaskInfo,
)
from omgbench.metrics.boxes import BoxOverlap, ReferringBoxSums, box_overlap
from omgbench.metrics.iou import MaskOverlap, ReferringSums, overlap
from omgbench.metrics.rle import area_px, tight_box_xyxy
from omgbench_tasks.refcoco.data import Target, read_samples
from omgbench_tasks.refcoco.demo import DatasetName, write_refer_demo

TEMPLATES = {
    "omg_llava": "Please segment {text} in this image.",
    "lisa": "What is {text} in this image? Please output segmentation mask.",
    "glamm": "Please segment {text} in this image.",
}

METRICS = (
    MetricSpec("cIoU", "Sum of intersections over sum of unions, all sentences; no mask = empty mask.", primary=True),
    MetricSpec("gIoU", "Mean over sentences of I / (U + 1e-5), 1 where both are empty (LISA).", primary=True),
    *(
        MetricSpec(f"Pr@{threshold}", f"Share of sentences with IoU of at least {threshold}.")
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9)
    ),
    MetricSpec(
        "cIoU_skip_missing",
        "cIoU by OMG-LLaVA's own script: a sentence answered without a mask leaves intersection and union.",
    ),
    *(
        MetricSpec(
            f"Acc@{threshold}",
            f"Comprehension: share of sentences whose box (the answer's, else the tight box of its mask) has IoU of "
            f"at least {threshold} with the annotated box, continuous borders.",
        )
        for threshold in (0.1, 0.3, 0.5, 0.7, 0.9)
    ),
    MetricSpec("IoU", "Comprehension: mean box IoU."),
    MetricSpec("Center_Acc", "Comprehension: share of boxes whose centre lies in the annotated box (lmms-eval)."),
)

IMAGE_FOLDERS = (
    "train2014",
    "images/train2014",
    "coco/train2014",
    "coco2014/train2014",
    "refer_seg/images/mscoco/images/train2014",
    "refer/data/images/mscoco/images/train2014",
)
SOURCE = "the refer project (lichengunc/refer); images: COCO train2014"


@dataclass(frozen=True, slots=True)
class _Counts:
    """A split of the official release: name, sentences, images, whether a bare task name runs it."""

    name: str
    sentences: int | None
    images: int | None
    default: bool = True


def _split(folder: str, split_by: str, subset: str, counts: _Counts) -> SplitInfo:
    """A split of one partition. Three known layouts of the official files are accepted."""

    def names(path: str) -> tuple[str, ...]:
        return tuple(f"{prefix}{path}" for prefix in ("", "refer_seg/", "refer/data/"))

    refs = tuple(f"{name}.{ending}" for ending in ("p", "json") for name in names(f"{folder}/refs({split_by})"))
    files = (
        DataFile(refs, f"expressions, split by {split_by}", source=SOURCE),
        DataFile(names(f"{folder}/instances.json"), "objects and their masks", source=SOURCE),
        DataFile(IMAGE_FOLDERS, "COCO train2014 photographs", role="images", source="cocodataset.org"),
    )
    return SplitInfo(counts.name, subset, files, counts.sentences, counts.images, counts.default)


class ReferringSegmentation:
    """One data set of the family. Its default partition has the subset "", any other its own name."""

    def __init__(
        self, name: str, title: str, folder: DatasetName, split_by: str, partitions: dict[str, Sequence[_Counts]]
    ) -> None:
        self._folder = folder
        self._split_by = split_by
        splits = [
            _split(folder, by, "" if by == split_by else by, counts)
            for by, of_partition in partitions.items()
            for counts in of_partition
        ]
        self._info = TaskInfo(
            name=name,
            version="1",
            title=title,
            intents=frozenset((Intent.REFER_SEGMENT,)),
            splits=tuple(splits),
            metrics=METRICS,
            templates=TEMPLATES,
            protocol="dvlab-research/LISA train_ds.py + utils/utils.py, commit 3cb2d43 (missing mask = empty mask)",
        )

    @property
    def info(self) -> TaskInfo:
        """What the task is."""
        return self._info

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        """See `omgbench_tasks.refcoco.data.read_samples`."""
        subset = f"/{split.subset}" if split.subset else ""
        label = f"{self._info.name}{subset}:{split.name}"
        return read_samples(split, data_root, label, split.subset or self._split_by)

    def score(self, sample: Sample, response: Response) -> Record:
        """Overlap of the first mask with the target, and of the first box (else the mask's own) with the true box.

        Statistics: `intersection_px`, `prediction_px`, `target_px`, `mask_missing`, `box_iou`, `box_center_inside`.
        """
        target: Target = sample.reference
        if response.status.failed:
            masks, boxes = MaskOverlap(0, 0, area_px(target.mask)), BoxOverlap(0.0, False)
        else:
            masks = overlap(response.masks[0].rle if response.masks else None, target.mask)
            boxes = box_overlap(predicted_box_xyxy(response), target.box_xyxy)
        stats = {
            "intersection_px": masks.intersection_px,
            "prediction_px": masks.prediction_px,
            "target_px": masks.target_px,
            "mask_missing": not response.masks,
            "box_iou": boxes.iou,
            "box_center_inside": boxes.center_inside,
        }
        return Record(sample.id, sample.group, response.status, stats)

    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
        """Exact sums over the records."""
        masks, boxes = ReferringSums(), ReferringBoxSums()
        for record in records:
            stats = record.stats
            found = MaskOverlap(stats["intersection_px"], stats["prediction_px"], stats["target_px"])
            masks.add(found, mask_missing=stats["mask_missing"], failed=record.status.failed)
            boxes.add(BoxOverlap(stats["box_iou"], stats["box_center_inside"]))
        values = masks.values() | boxes.values()
        return [MetricValue(spec.name, values[spec.name], masks.n) for spec in METRICS]

    def perfect_answer(self, sample: Sample) -> Response:
        """The target's own mask and box."""
        target: Target = sample.reference
        return Response(sample.id, Status.OK, text="", masks=(Mask(target.mask),), boxes=(Box(target.box_xyxy),))

    def write_demo(self, data_root: Path, seed: int) -> None:
        """Demo scenes in the official layout."""
        write_refer_demo(data_root, self._folder, seed)


def predicted_box_xyxy(response: Response) -> BoxXyxy | None:
    """The first box of an answer, else the tight box of its first mask, else None."""
    if response.boxes:
        return response.boxes[0].xyxy
    return tight_box_xyxy(response.masks[0].rle) if response.masks else None


def refcoco() -> ReferringSegmentation:
    """RefCOCO, split by unc (default) or google."""
    unc = [
        _Counts("val", 10834, 1500),
        _Counts("testA", 5657, 750),
        _Counts("testB", 5095, 750),
        _Counts("test", 10752, 1500, default=False),
    ]
    google = [_Counts("val", None, 4559), _Counts("test", None, 4527)]
    return ReferringSegmentation("refcoco", "RefCOCO", "refcoco", "unc", {"unc": unc, "google": google})


def refcoco_plus() -> ReferringSegmentation:
    """RefCOCO+, split by unc."""
    unc = [
        _Counts("val", 10758, 1500),
        _Counts("testA", 5726, 750),
        _Counts("testB", 4889, 750),
        _Counts("test", 10615, 1500, default=False),
    ]
    return ReferringSegmentation("refcoco_plus", "RefCOCO+", "refcoco+", "unc", {"unc": unc})


def refcocog() -> ReferringSegmentation:
    """RefCOCOg, split by umd (default) or google."""
    umd = [_Counts("val", 4896, 1300), _Counts("test", 9602, 2600)]
    google = [_Counts("val", 9536, 4650)]
    return ReferringSegmentation("refcocog", "RefCOCOg", "refcocog", "umd", {"umd": umd, "google": google})
