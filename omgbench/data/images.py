"""Image files from outside: bytes within a limit, sizes checked before anything is decoded, always 8-bit RGB out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omgbench.contract import Frame
from omgbench.data.locate import STATUS_HINT, read_limited
from omgbench.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MAX_IMAGE_BYTES = 256 * 2**20
MAX_IMAGE_PIXELS = 2**28
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_TIFF_ORIENTATION = 274


def read_frame_bytes(frame: Frame) -> bytes:
    """The encoded picture of a frame, at most 256 MiB. Symbolic links are followed wherever they lead.

    Raises:
        DataError: no such file, not a regular file, too large, or a source that fails or gives something else.
    """
    if isinstance(frame.source, Path):
        return read_limited(frame.source, MAX_IMAGE_BYTES, f"{STATUS_HINT}, or --data DIR for another data root")
    data = frame.source if isinstance(frame.source, bytes) else _called(frame.source, frame)
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"image of {len(data)} bytes", expected=f"at most {MAX_IMAGE_BYTES} bytes", where=_where(frame))
    return data


def _called(source: Callable[[], bytes], frame: Frame) -> bytes:
    try:
        data = source()
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"image source failed: {type(error).__name__}: {error}", expected="image bytes", where=_where(frame)
        ) from error
    if not isinstance(data, bytes):
        raise DataError(f"image source gave {type(data).__name__}", expected="bytes", where=_where(frame))
    return data


def decode_frame(frame: Frame) -> Image:
    """The picture of a frame; see `decode_bytes`. `frame.decoded` is not looked at."""
    return decode_bytes(read_frame_bytes(frame), frame)


def decode_bytes(data: bytes, frame: Frame) -> Image:
    """Decode an encoded picture that must have the frame's size.

    Args:
        data: a JPEG, PNG, WebP, BMP, GIF or TIFF file, told by its first bytes; of several frames the first counts.
        frame: gives the size, and the name for messages.

    Returns:
        PIL image of mode RGB and size (width, height), never rotated by EXIF. Other modes are converted as by PIL's
        `convert("RGB")`: transparency is dropped, not composited. 16-bit grey keeps its high byte, as OpenCV does.

    Size and format come from the header, before any pixel is decoded. PIL's own pixel limit, a global of the process,
    is neither changed nor relied on, though PIL's TIFF and WebP readers consult it all the same. A picture cut off in
    the middle is refused unless the process has set `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`.

    Raises:
        DataError: another format, a damaged file, more than 2**28 pixels, a size other than the frame's, a rotated TIFF
            (PIL would turn it), or pixels that are 32-bit integers or floats and so have no known range.
    """
    try:
        image = _opened(data, frame)
        _check_size(image, frame)
        image.load()
        return _to_rgb(image, frame)
    except (DataError, MemoryError):
        raise
    # Decoders meet damage with exceptions of every kind.
    except Exception as error:
        raise DataError(
            f"image cannot be decoded: {type(error).__name__}: {error}",
            expected="an undamaged image file",
            where=_where(frame),
            hint="copy the file again",
        ) from error


def _opened(data: bytes, frame: Frame) -> ImageFile:
    """The picture with its header read. PIL's `open` would compare with its global pixel limit, so it is not used."""
    from PIL import (  # noqa: F401  (each import registers its format)
        BmpImagePlugin,
        GifImagePlugin,
        Image,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        # A text is PIL's way to say that the format is recognised but not built in.
        if accept is not None and accept(data[:16]) is True:
            return factory(io.BytesIO(data), "")
    raise DataError("not an image" if data else "the image is empty", expected=", ".join(FORMATS), where=_where(frame))


def _check_size(image: ImageFile, frame: Frame) -> None:
    from PIL.TiffImagePlugin import TiffImageFile

    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise DataError(
            f"image of {width} x {height} pixels", expected=f"at most {MAX_IMAGE_PIXELS} pixels", where=_where(frame)
        )
    if (width, height) != (frame.width, frame.height):
        raise DataError(
            f"image is {width} x {height} pixels (width x height)",
            expected=f"{frame.width} x {frame.height}, as the annotations state",
            where=_where(frame),
        )
    orientation = image.tag_v2.get(_TIFF_ORIENTATION, 1) if isinstance(image, TiffImageFile) else 1
    if orientation != 1:
        raise DataError(f"TIFF with orientation {orientation}", expected="stored upright", where=_where(frame))


def _to_rgb(image: Image, frame: Frame) -> Image:
    if image.mode.startswith("I;16"):
        return _high_byte(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError(
            f"image of mode {image.mode}, whose range is unknown", expected="8 or 16 bit", where=_where(frame)
        )
    # PIL warns about palettes with several transparent entries.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _high_byte(image: Image) -> Image:
    import numpy as np
    from PIL import Image as pil

    return pil.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def _where(frame: Frame) -> str:
    return str(frame.source) if isinstance(frame.source, Path) else f"frame {frame.key}"
