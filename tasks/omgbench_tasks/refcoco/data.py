"""The refCOCO family's files as samples: one referring expression each, image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from omgbench.contract import BoxXyxy, Frame, GenOptions, Intent, Request, Rle, Sample, SplitInfo
from omgbench.data.coco import Annotation, ImageRecord, read_instances
from omgbench.data.locate import locate, locate_images
from omgbench.data.refer import Ref, class_one_and_two, read_refs, select_split, target_of

GEN = GenOptions(max_new_tokens=100)
"""OMG-LLaVA's script generates at most 100 tokens."""


class Target:
    """The object that a ref's sentences name; its mask is drawn when it is first asked for."""

    def __init__(self, annotation: Annotation, image: ImageRecord) -> None:
        self._annotation = annotation
        self._image = image

    @cached_property
    def mask(self) -> Rle:
        """The official target: pixels under exactly one polygon of the annotation (see omgbench.data.refer)."""
        return class_one_and_two(self._annotation, self._image)[0]

    @property
    def box_xyxy(self) -> BoxXyxy:
        """The annotation's own box."""
        x, y, width, height = self._annotation.bbox_xywh
        return (x, y, x + width, y + height)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One ref with what it points to."""

    ref: Ref
    annotation: Annotation
    image: ImageRecord


def read_samples(split: SplitInfo, data_root: Path, label: str, split_by: str) -> Iterator[Sample]:
    """Every sentence of every ref of a split, in the order of first appearance of its image, then of the refs.

    Sample ids are `<label>#<sent_id>`; the text is `sent`, stripped, its case kept (OMG-LLaVA; LISA lower-cases it).

    Raises:
        DataError: a file that cannot be used, with file, entry and what was expected.
    """
    refs_file, instances_file = (locate(data_root, file) for file in split.files[:2])
    images_folder = locate_images(data_root, split.files[2])
    entries = _read_entries(refs_file.parent, instances_file, split_by, split.name, _stamp(refs_file, instances_file))
    by_image: dict[int, list[_Entry]] = {}
    for entry in entries:
        by_image.setdefault(entry.ref.image_id, []).append(entry)
    for image_id, of_image in by_image.items():
        image = of_image[0].image
        frame = Frame(image.file_name, image.width, image.height, images_folder / image.file_name)
        for entry in of_image:
            target = Target(entry.annotation, entry.image)
            for sentence in entry.ref.sentences:
                request = Request(
                    id=f"{label}#{sentence.sent_id}",
                    intent=Intent.REFER_SEGMENT,
                    frames=(frame,),
                    text=sentence.sent.strip(),
                    gen=GEN,
                )
                yield Sample(request, str(image_id), target)


@lru_cache(maxsize=4)
def _read_entries(
    folder: Path, instances_file: Path, split_by: str, split: str, stamp: tuple[int, ...]
) -> tuple[_Entry, ...]:
    """The refs of one split. Kept between calls, because a run walks its samples several times and the official
    `instances.json` takes seconds to read; `stamp` makes a changed file another entry."""
    refs = select_split(read_refs(folder, split_by), split)
    instances = read_instances(instances_file)
    return tuple(_Entry(ref, *target_of(ref, instances)) for ref in refs)


def _stamp(*paths: Path) -> tuple[int, ...]:
    return tuple(value for path in paths for value in (path.stat().st_mtime_ns, path.stat().st_size))
