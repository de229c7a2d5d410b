"""The regions of an answer in the order in which overlay, listing and mask files number them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omgbench.contract import BoxXyxy, Category, PanopticResult, Response, Rle
from omgbench.overlay.palette import Colour, colour


@dataclass(frozen=True, slots=True)
class Region:
    """One mask, box or panoptic segment on the first frame; at least one of mask and box is there.

    Attributes:
        number: from 1.
        phrase: the words that it grounds, the category's name, or "mask 3" or "box 3"; as the model wrote it.
        colour: what it is drawn in.
        rle: its mask.
        box_xyxy: its box.
    """

    number: int
    phrase: str
    colour: Colour
    rle: Rle | None = None
    box_xyxy: BoxXyxy | None = None


_Found = tuple[str, Rle | None, BoxXyxy | None]


def regions_of(response: Response, vocabulary: Sequence[Category] = ()) -> tuple[Region, ...]:
    """Masks in the answer's order, then boxes that go with no mask, then panoptic segments.

    A phrase with as many boxes as masks gives each mask its box; such a pair is one region. Other frames than the
    first are left out.
    """
    found = [*_masks_and_boxes(response), *_segments(response.panoptic, vocabulary)]
    return tuple(
        Region(number, phrase, colour(number - 1), rle, box) for number, (phrase, rle, box) in enumerate(found, start=1)
    )


def _masks_and_boxes(response: Response) -> Iterator[_Found]:
    mask_phrases: dict[int, str] = {}
    box_phrases: dict[int, str] = {}
    box_of_mask: dict[int, int] = {}
    for span in response.spans:
        for index in span.masks:
            mask_phrases.setdefault(index, span.phrase)
        for index in span.boxes:
            box_phrases.setdefault(index, span.phrase)
        if len(span.masks) == len(span.boxes):
            box_of_mask |= zip(span.masks, span.boxes, strict=True)
    for index, mask in enumerate(response.masks):
        box = box_of_mask.get(index)
        if mask.frame == 0:
            xyxy = None if box is None else response.boxes[box].xyxy
            yield mask_phrases.get(index) or f"mask {index + 1}", mask.rle, xyxy
    paired = set(box_of_mask.values())
    for index, found in enumerate(response.boxes):
        if index not in paired and found.frame == 0:
            yield box_phrases.get(index) or f"box {index + 1}", None, found.xyxy


def _segments(panoptic: PanopticResult | None, vocabulary: Sequence[Category]) -> Iterator[_Found]:
    names = {category.id: category.name for category in vocabulary}
    for segment in panoptic.segments if panoptic is not None else ():
        rle = segment.masks[0] if segment.masks else None
        if rle is not None:
            yield names.get(segment.category_id, f"category {segment.category_id}"), rle, None
