"""Readers of GLaMM's three layouts of grounded captions (mbzuai-oryx/groundingLMM, GranD-f, annotations/train)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from omg_llava.training.data.grounded_caption import GroundedCaption, GroundedPhrase, grounded_caption, span_of
from omgbench.contract import Rle
from omgbench.data.coco import (
    Id,
    ImageRecord,
    Rles,
    Segmentation,
    checked_file_name,
    image_record,
    rle_of,
    rle_size,
    segmentation_of,
)
from omgbench.data.jsonfile import checked, entries, finite, read_json, require, require_number, shown
from omgbench.errors import DataError

FLICKR_MIN_WORDS = 3
FLICKR_MIN_SIDE_PX = 32


def read_grandf(path: Path) -> Iterator[GroundedCaption]:
    """`GranDf_HA_GCG_train.json`, `OpenPsgGCG_train.json`: a list of `{file_name, caption, groundings}`.

    `groundings` holds `{token_positives: [start, end], rle_masks: [run lengths, ...]}` by phrase; null stands for none.
    Spans count in the caption as it stands in the file. Quotation marks and white space round the caption are taken
    off and spans moved along; the official reader does not move them.
    """
    for entry, where in _listed(path):
        file_name = checked_file_name(require(entry, "file_name", str, where), where)
        raw = require(entry, "caption", str, where)
        before = len(raw) - len(raw.lstrip('"').lstrip())
        phrases = [
            GroundedPhrase(start if start < 0 else max(start - before, 0), end - before, masks)
            for start, end, masks in _groundings(require(entry, "groundings", dict, where), where)
        ]
        yield grounded_caption(file_name, _unquoted(raw), phrases, where)


def _groundings(groundings: dict[object, object], where: str) -> Iterator[tuple[int, int, Rles]]:
    """(start, end, masks) of each phrase; all masks of an entry have one size."""
    size: tuple[int, int] | None = None
    for phrase, grounding in groundings.items():
        if grounding is None:
            continue
        here = f"{where} groundings[{shown(phrase)}]"
        start, end = span_of(require(grounding, "token_positives", list, here), f"{here} token_positives")
        parts: list[Rle] = []
        for index, mask in enumerate(require(grounding, "rle_masks", list, here)):
            place = f"{here} rle_masks[{index}]"
            size = size or rle_size(mask, place)
            parts.append(rle_of(mask, size, place))
        yield start, end, Rles(tuple(parts))


def read_flickr(path: Path) -> Iterator[GroundedCaption]:
    """`flickr_mergedGT_GCG_train.json`: `{images, annotations}` as COCO has them, an image entry for each caption.

    Left out, as officially, are captions of fewer than three words, images with a side under 32 pixels, annotations to
    be ignored, without area, or with a box that is under a pixel or beside the image, and annotations of no image. Of
    several spans of an annotation the first counts.
    """
    content = read_json(path)
    captions: dict[Id, tuple[ImageRecord, str, str]] = {}
    for entry, where in entries(content, "images", path):
        image = image_record(entry, where)
        if image.id in captions:
            raise DataError(f"image id {shown(image.id)} is used twice", expected="unique ids", where=where)
        captions[image.id] = (image, require(entry, "caption", str, where), where)
    phrases: dict[Id, list[GroundedPhrase]] = {
        image_id: [] for image_id, (image, caption, _) in captions.items() if _is_wanted(image, caption)
    }
    seen: set[Id] = set()
    for entry, where in entries(content, "annotations", path):
        annotation_id, image_id = require(entry, "id", (int, str), where), require(entry, "image_id", (int, str), where)
        if annotation_id in seen:
            raise DataError(f"annotation id {shown(annotation_id)} is used twice", expected="unique ids", where=where)
        seen.add(annotation_id)
        if image_id in phrases:
            phrases[image_id] += _flickr_phrases(entry, captions[image_id][0], where)
    for image_id, own in phrases.items():
        image, caption, where = captions[image_id]
        yield grounded_caption(image.file_name, caption, own, where)


def _is_wanted(image: ImageRecord, caption: str) -> bool:
    return len(caption.split(" ")) >= FLICKR_MIN_WORDS and min(image.height, image.width) >= FLICKR_MIN_SIDE_PX


def _flickr_phrases(entry: object, image: ImageRecord, where: str) -> list[GroundedPhrase]:
    """The annotation's phrase, or none where the annotation is left out."""
    if isinstance(entry, dict) and entry.get("ignore"):
        return []
    bbox = [finite(number, "bbox", where) for number in require(entry, "bbox", list, where)]
    if len(bbox) != 4:
        raise DataError(f"bbox has {len(bbox)} numbers", expected="[x, y, width, height]", where=where)
    if require_number(entry, "area", where) <= 0 or not _shows(bbox, image):
        return []
    spans = require(entry, "tokens_positive", list, where)
    if not spans:
        raise DataError("tokens_positive is empty", expected="[[start, end], ...]", where=where)
    start, end = span_of(spans[0], f"{where} tokens_positive[0]")
    mask = rle_of(require(entry, "sam_mask", dict, where), (image.height, image.width), f"{where} sam_mask")
    return [GroundedPhrase(start, end, Rles((mask,)))]


def _shows(bbox_xywh: Sequence[float], image: ImageRecord) -> bool:
    """Whether a box has at least a pixel each way and lies on the image with some of it."""
    x, y, width, height = bbox_xywh
    is_on = min(x + width, image.width) > max(x, 0) and min(y + height, image.height) > max(y, 0)
    return is_on and width >= 1 and height >= 1


def read_refcocog(path: Path) -> Iterator[GroundedCaption]:
    """`RefCOCOg_GCG_train.json`: a list of `{id: {img_file_name, caption, refs: [{sentence, segmentation}, ...]}}`.

    The caption is put in lower case and its quotation marks are taken off. A phrase is where its sentence, in lower
    case too, stands first; it ends where the next one starts, so that of two that start together the later of the file
    stays. A sentence that is not there is left out, as officially.

    The official reader looks for the sentence as written, after a test in lower case: where the cases differ, it tags
    nothing before the last letter. It also cuts overlaps in the order of the file: of two phrases that the file has in
    another order than the caption, one gets an end before its start. Neither is done here.
    """
    for element, here in _listed(path):
        wrapped = checked(element, dict, "entry", here)
        if not wrapped:
            raise DataError("an entry without content", expected="{id: {img_file_name, caption, refs}}", where=here)
        entry_id, entry = next(iter(wrapped.items()))
        where = f"{here}[{shown(entry_id)}]"
        file_name = checked_file_name(require(entry, "img_file_name", str, where), where, "img_file_name")
        caption = _unquoted(require(entry, "caption", str, where)).lower()
        phrases = []
        for index, ref in enumerate(require(entry, "refs", list, where)):
            place = f"{where} refs[{index}]"
            sentence = require(ref, "sentence", str, place).lower()
            segmentation = _segmentation(ref, place)
            start = caption.find(sentence)
            if start >= 0 and sentence.strip():
                phrases.append(GroundedPhrase(start, start + len(sentence), segmentation))
        yield grounded_caption(file_name, caption, _cut(phrases, caption), where)


def _segmentation(ref: object, where: str) -> Segmentation:
    """As COCO's; the size that run lengths state is compared with the picture's later."""
    value = require(ref, "segmentation", (list, dict), where)
    masks = [value] if isinstance(value, dict) else [part for part in value if isinstance(part, dict)]
    size = rle_size(masks[0], f"{where} segmentation") if masks else (1, 1)
    return segmentation_of(ref, size, where)


def _cut(phrases: list[GroundedPhrase], caption: str) -> list[GroundedPhrase]:
    """Phrases in reading order, each ended before the next one, without white space there."""
    ordered = sorted(phrases, key=lambda phrase: phrase.start)
    starts = [phrase.start for phrase in ordered[1:]] + [len(caption)]
    cut = []
    for phrase, limit in zip(ordered, starts, strict=True):
        end = phrase.end
        if end > limit:
            end = phrase.start + len(caption[phrase.start : limit].rstrip())
        cut.append(GroundedPhrase(phrase.start, end, phrase.segmentation))
    return cut


def _listed(path: Path) -> Iterator[tuple[object, str]]:
    """The elements of a file that is one list, with their places. The list is emptied on the way."""
    elements = checked(read_json(path), list, "content", str(path))
    for index, element in enumerate(elements):
        elements[index] = None
        yield element, f"{path}: [{index}]"


def _unquoted(caption: str) -> str:
    return caption.strip('"').strip()
