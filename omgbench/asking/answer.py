"""What came of a question: the response, its masks as arrays, the picture with everything drawn in."""

from __future__ import annotations

import io
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from omgbench.contract import Request, Response, Status
from omgbench.errors import UserError
from omgbench.metrics.rle import area_px, rle_to_mask
from omgbench.overlay import Region, draw_overlay, regions_of
from omgbench.printable import printable, printable_lines

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
NOTEBOOK_SIDE_PX = 1600
TEXT_LINES, LINE_CHARS = 500, 20_000
_PHRASE_CHARS = 60


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """The answer to one question.

    Attributes:
        request: what was asked; `request.intent` is the kind of answer, `request.frames[0].image` the picture.
        response: what the model answered, checked by the rules of the contract.
        model: the model's name.
        seconds: how long the model took, loading excepted.
    """

    request: Request
    response: Response
    model: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the model answered, be it with nothing: not an error, a time-out or "cannot do this"."""
        return not self.response.status.failed and self.response.status is not Status.UNSUPPORTED

    @property
    def text(self) -> str:
        """The answer for people; "" where there is none."""
        return self.response.text or ""

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Masks, boxes and panoptic segments with the numbers and colours that they have on the overlay."""
        return regions_of(self.response, self.request.vocabulary)

    @cached_property
    def masks(self) -> list[NDArray[np.bool_]]:
        """The masks as bool arrays (height, width): those of the response, or of its panoptic segments, in order."""
        return [rle_to_mask(region.rle) for region in self.regions if region.rle is not None]

    @cached_property
    def overlay(self) -> Image:
        """The picture with the answer drawn over it, RGB; see `omgbench.overlay.draw_overlay`."""
        request = self.request
        return draw_overlay(request.frames[0].image, self.response, request.prompts, vocabulary=request.vocabulary)

    def save(self, path: str | Path) -> Path:
        """Write the overlay as PNG or JPEG, whole or not at all; a file that is there is replaced.

        Raises:
            omgbench.errors.UserError: another suffix, or a place that cannot be written.
        """
        path = Path(path)
        write_picture(self.overlay, path)
        return path

    def lines(self) -> list[str]:
        """The answer as printable lines: the text, then a line per region with number, colour, phrase and place."""
        lines = printable_lines(self.text.replace("\t", " "), LINE_CHARS, TEXT_LINES).split("\n") if self.text else []
        return lines + _region_lines(self.regions)

    def __repr__(self) -> str:
        status = f"Answer of {self.model or 'the model'} ({self.request.intent}): {self.response.status}"
        error = f": {self.response.error}" if self.response.error else ""
        return "\n".join([printable(status + error), *self.lines()])

    def _repr_png_(self) -> bytes:
        """What a notebook shows; at most 1,600 pixels a side."""
        shown = self.overlay
        if max(shown.size) > NOTEBOOK_SIDE_PX:
            shown = shown.copy()
            shown.thumbnail((NOTEBOOK_SIDE_PX, NOTEBOOK_SIDE_PX))
        stream = io.BytesIO()
        shown.save(stream, "PNG")
        return stream.getvalue()


def _region_lines(regions: tuple[Region, ...]) -> list[str]:
    rows = [
        (str(region.number), region.colour.name, printable(region.phrase, _PHRASE_CHARS), _place(region))
        for region in regions
    ]
    if not rows:
        return []
    number, colour, phrase = (max(len(row[column]) for row in rows) for column in range(3))
    return [f"{row[0]:>{number}}  {row[1]:<{colour}}  {row[2]:<{phrase}}  {row[3]}" for row in rows]


def _place(region: Region) -> str:
    """A mask's share of the picture, or the corners of a box."""
    if region.rle is not None:
        share = area_px(region.rle) / (region.rle.size[0] * region.rle.size[1])
        return f"{100 * share:5.1f}%" if share == 0 or share >= 0.0005 else " <0.1%"
    assert region.box_xyxy is not None
    return f"box {', '.join(f'{value:.1f}' for value in region.box_xyxy)}"


def picture_format(path: Path) -> str:
    """PNG or JPEG, by the suffix. Raises `UserError` for any other."""
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UserError(f"the picture {path} has the suffix {path.suffix!r}", expected=" or ".join(SUFFIXES))
    return found


def write_picture(image: Image, path: Path) -> None:
    """Write a picture to a temporary sibling that then takes `path`'s place. Raises `UserError` where that fails."""
    file_format = picture_format(path)
    options = {"compress_level": 3} if file_format == "PNG" else {"quality": 92}
    temporary = path.with_name(f".omgbench.{uuid.uuid4().hex[:12]}.tmp")
    try:
        image.save(temporary, file_format, **options)
        temporary.replace(path)
    # A name with a null character is a ValueError.
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written: {error}", expected="a place that can be written") from error
    finally:
        with suppress(OSError, ValueError):
            temporary.unlink()
