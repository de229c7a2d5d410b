"""GranD-f annotations for grounded conversation generation, and the official folder of predictions.

Format and rules: mbzuai-oryx/groundingLMM, eval/gcg/evaluate.py. That script takes the images of the caption file for
captions, mIoU and recall, but those of the mask file for AP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omgbench.contract import Rle
from omgbench.data.coco import area_px_of, checked_file_name, checked_size, iscrowd_of, rle_of, rle_size
from omgbench.data.jsonfile import checked, entries, put_once, read_json, require, require_texts, shown
from omgbench.errors import DataError


@dataclass(frozen=True, slots=True)
class GcgImage:
    """One image with its reference captions and masks.

    Attributes:
        official_id: the mask file's own id, a number or a text; AP takes the images in its order.
        file_name: relative to the image folder and certain to stay inside it.
        height, width: pixels.
        captions: all references in file order; empty for an image of the mask file alone, which counts only for AP.
        labels: phrases of the first caption, the one that the official recall reads. `labels[i]` belongs to `masks[i]`;
            their numbers may differ, which the official recall defines (it then finds no match).
        masks: in annotation order, of the image's size.
        areas_px: the `area` of each mask as the file states it; AP's size ranges rest on it.
        crowds: the `iscrowd` of each mask.
    """

    official_id: int | str
    file_name: str
    height: int
    width: int
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    masks: tuple[Rle, ...]
    areas_px: tuple[float, ...]
    crowds: tuple[bool, ...]

    @property
    def image_id(self) -> str:
        """The id as text (`sa_10010541`; a number becomes its digits), as in the names of prediction files."""
        return str(self.official_id)


@dataclass(frozen=True, slots=True)
class GcgPrediction:
    """One prediction file. Phrases and masks need not be equal in number, nor masks of the right size for the image."""

    image_id: str
    caption: str
    phrases: tuple[str, ...]
    masks: tuple[Rle, ...]


def read_gcg(caption_path: Path, mask_path: Path) -> list[GcgImage]:
    """Read `<split>_gcg_coco_caption_gt.json` and `<split>_gcg_coco_mask_gt.json`.

    Images come in the order of the caption file, then those of the mask file alone. Annotations of images that neither
    list names are ignored, as officially. Ids are compared as text. An image entry without `file_name` has
    `<image id>.jpg`, one without `height` and `width` the size of its first mask.

    Raises:
        DataError: a file is not of its format; an id is used twice with different content; an image of the caption
            file has no caption or is not in the mask file (the official script stops at either); a mask that is not a
            run-length object of category 1 and of the image's size.
    """
    captions = _read_captions(caption_path)
    images = _read_masks(mask_path)
    for image_id in captions:
        if image_id not in images:
            raise DataError(
                f"image {shown(image_id)} of the caption file is not in the mask file",
                expected="both files of one split",
                where=f"{caption_path}, {mask_path}",
            )
    order = [*captions, *(image_id for image_id in images if image_id not in captions)]
    return [images[image_id].finish(captions.get(image_id, [])) for image_id in order]


_Captions = dict[str, list[tuple[str, tuple[str, ...]]]]
"""Image id to (caption, labels) of each reference."""


def _read_captions(path: Path) -> _Captions:
    content = read_json(path)
    captions = _caption_images(content, path)
    by_id: dict[int | str, tuple[str, str, tuple[str, ...]]] = {}
    for entry, where in entries(content, "annotations", path):
        image_id = _image_id(entry, "image_id", where)
        caption = (image_id, require(entry, "caption", str, where), require_texts(entry, "labels", where))
        put_once(by_id, require(entry, "id", (int, str), where), caption, "annotation id", where)
    for image_id, text, labels in by_id.values():
        if image_id in captions:
            captions[image_id].append((text, labels))
    without = next((image_id for image_id, found in captions.items() if not found), None)
    if without is not None:
        raise DataError(
            f"image {shown(without)} has no caption", expected="at least one caption per image", where=str(path)
        )
    return captions


def _caption_images(content: object, path: Path) -> _Captions:
    captions: _Captions = {}
    for entry, where in entries(content, "images", path):
        image_id = _image_id(entry, "id", where)
        # The official script would score such an image twice.
        if image_id in captions:
            raise DataError(f"image id {shown(image_id)} is used twice", expected="unique ids", where=where)
        captions[image_id] = []
    return captions


def _image_id(entry: object, key: str, where: str) -> str:
    return str(require(entry, key, (int, str), where))


@dataclass(slots=True)
class _ImageMasks:
    """An image of the mask file while its masks are gathered."""

    official_id: int | str
    file_name: str
    size: tuple[int, int] | None
    where: str = field(compare=False)
    masks: dict[int | str, tuple[Rle, float, bool]] = field(default_factory=dict)

    def finish(self, captions: list[tuple[str, tuple[str, ...]]]) -> GcgImage:
        if self.size is None:
            raise DataError("no height and width, and no mask to tell them", expected="both keys", where=self.where)
        return GcgImage(
            official_id=self.official_id,
            file_name=self.file_name,
            height=self.size[0],
            width=self.size[1],
            captions=tuple(text for text, _ in captions),
            labels=captions[0][1] if captions else (),
            masks=tuple(rle for rle, _, _ in self.masks.values()),
            areas_px=tuple(area_px for _, area_px, _ in self.masks.values()),
            crowds=tuple(crowd for _, _, crowd in self.masks.values()),
        )


def _read_masks(path: Path) -> dict[str, _ImageMasks]:
    content = read_json(path)
    images: dict[str, _ImageMasks] = {}
    for entry, where in entries(content, "images", path):
        image = _mask_image(entry, where)
        put_once(images, str(image.official_id), image, "image id", where)
    ids: dict[int | str, str] = {}
    for entry, where in entries(content, "annotations", path):
        image_id, annotation_id = _image_id(entry, "image_id", where), require(entry, "id", (int, str), where)
        put_once(ids, annotation_id, image_id, "annotation id", where)
        if image_id in images:
            _add_mask(images[image_id], annotation_id, entry, where)
    return images


def _mask_image(entry: object, where: str) -> _ImageMasks:
    image_id = require(entry, "id", (int, str), where)
    present = entry if isinstance(entry, dict) else {}
    name = require(entry, "file_name", str, where) if "file_name" in present else f"{image_id}.jpg"
    size = None
    if "height" in present or "width" in present:
        size = checked_size(require(entry, "height", int, where), require(entry, "width", int, where), where)
    return _ImageMasks(image_id, checked_file_name(name, where), size, where)


def _add_mask(image: _ImageMasks, annotation_id: int | str, entry: object, where: str) -> None:
    category_id = require(entry, "category_id", int, where)
    if category_id != 1:
        raise DataError(f"category_id is {shown(category_id)}", expected="1, GranD-f's only category", where=where)
    segmentation = require(entry, "segmentation", dict, where)
    if image.size is None:
        image.size = rle_size(segmentation, where)
    mask = (rle_of(segmentation, image.size, where), area_px_of(entry, where), iscrowd_of(entry, where))
    put_once(image.masks, annotation_id, mask, "annotation id", where)


def read_prediction_folder(folder: Path, image_ids: Iterable[str]) -> Iterator[tuple[str, GcgPrediction | None]]:
    """Each image's id with its prediction from `<folder>/<image id>.json`, None where there is no such file.

    A file is `{caption, phrases, pred_masks}`, or an object whose first value is that. Its own `image_id` is not
    looked at, as officially. Masks are checked against the size that they state themselves.

    Raises:
        DataError: the folder is not there; an image id that is no plain file name; a file that is not of its format or
            holds a mask that is none.
    """
    if not folder.is_dir():
        raise DataError("no such folder of predictions", expected="one IMAGE_ID.json per image", where=str(folder))
    for image_id in image_ids:
        stem = checked_file_name(image_id, str(folder), "image id")
        if "/" in stem:
            raise DataError(f"image id is {shown(image_id)}", expected="a file stem", where=str(folder))
        path = folder / f"{stem}.json"
        yield image_id, _read_prediction(path, image_id) if path.exists() else None


def _read_prediction(path: Path, image_id: str) -> GcgPrediction:
    where = str(path)
    entry = _unwrapped(checked(read_json(path), dict, "content", where))
    masks: list[Rle] = []
    for index, mask in enumerate(require(entry, "pred_masks", list, where)):
        place = f"{where}: pred_masks[{index}]"
        masks.append(rle_of(mask, rle_size(mask, place), place))
    return GcgPrediction(
        image_id=image_id,
        caption=require(entry, "caption", str, where),
        phrases=require_texts(entry, "phrases", where),
        masks=tuple(masks),
    )


def _unwrapped(content: dict[str, object]) -> dict[str, object]:
    """The object that holds caption and phrases: the first value if it has both, else the whole."""
    first = next(iter(content.values()), None)
    return first if isinstance(first, dict) and "caption" in first and "phrases" in first else content
