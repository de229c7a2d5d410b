"""A user's own pictures and mask files, as a person sees them: upright, on white, 8-bit RGB."""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pil
from PIL.ExifTags import Base
from PIL.Image import Image, Transpose

from omgbench.contract import Frame, Rle
from omgbench.data.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from omgbench.data.locate import read_limited
from omgbench.errors import DataError, UserError
from omgbench.metrics.rle import area_px, check_rle, mask_to_rle

PictureLike = str | Path | NDArray[np.uint8] | Image
MaskLike = str | Path | NDArray[np.generic] | Rle | Image

_NOT_READ = frozenset({"EPS"})
"""PIL hands these to another program, Ghostscript."""
_HINT = "check the path; other formats can be converted to PNG"


def open_picture(source: PictureLike) -> Frame:
    """A decoded frame of a picture file, a PIL image or an array.

    Args:
        source: a file in any format that PIL reads, EPS excepted, of at most 256 MiB; or a PIL image; or a uint8 array
            (height, width, 3), RGB. A file is turned as its EXIF orientation says; a PIL image is taken as it stands.

    Returns:
        A frame whose picture is 8-bit RGB and in memory already. Transparent parts are shown on white, 16-bit grey is
        divided by 257, of an animation the first picture counts. The key is a digest of the pixels.

    Raises:
        omgbench.errors.DataError: no such file, no picture, a damaged one, more than 2**28 pixels, or pixels without
            a known range (32-bit integers, floats).
    """
    image = _to_rgb(*_loaded(source, "image"))
    digest = hashlib.blake2b(f"{image.size}".encode(), digest_size=8)
    digest.update(np.asarray(image).data)
    # The file's own bytes are no source: they may stand otherwise than the picture does.
    return Frame(
        f"picture@{digest.hexdigest()}", image.width, image.height, functools.partial(_png, image), decoded=image
    )


def read_mask(source: MaskLike, frame: Frame) -> Rle:
    """A mask on a frame, from a PNG file, a PIL image, an array or run lengths.

    A pixel belongs to the mask where it is not fully transparent; in a picture without any transparency, where it is
    not black. Arrays are (height, width), and everything but 0 is inside.

    Raises:
        omgbench.errors.UserError: not the frame's size, no pixel inside, malformed run lengths, or another array.
        omgbench.errors.DataError: a file that cannot be read, or is no PNG.
    """
    size = (frame.height, frame.width)
    if isinstance(source, Rle):
        problem = check_rle(source, size)
        if problem is not None:
            raise UserError(f"a mask cannot be used: {problem}", expected=_size_words(frame))
        rle = source
    else:
        inside, name = _mask_array(source)
        if inside.shape != size:
            shape = f"{inside.shape[1]} x {inside.shape[0]}" if inside.ndim == 2 else f"of shape {inside.shape}"
            raise UserError(f"{name} is {shape} pixels (width x height)", expected=_size_words(frame))
        rle = mask_to_rle(inside)
    if area_px(rle) == 0:
        raise UserError("a mask has no pixel inside", expected="at least one pixel that is not 0 and not transparent")
    return rle


def _size_words(frame: Frame) -> str:
    return f"{frame.width} x {frame.height}, the size of the picture"


def _mask_array(source: str | Path | NDArray[np.generic] | Image) -> tuple[NDArray[np.bool_], str]:
    if isinstance(source, np.ndarray):
        if source.dtype.kind not in "biuf":
            raise UserError(f"a mask array of {source.dtype}", expected="numbers or bool")
        return source.astype(np.bool_), "a mask array"
    image, where = _loaded(source, "mask")
    if isinstance(source, str | Path) and image.format != "PNG":
        raise DataError(
            f"the mask is a {image.format} file",
            expected="PNG, which keeps every pixel as it was drawn",
            where=where,
        )
    return _inside(image), f"the mask {where}"


def _inside(image: Image) -> NDArray[np.bool_]:
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
        if alpha.min() < 255:
            return alpha > 0
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.bool_)
    brightest: NDArray[np.uint8] = np.asarray(image.convert("RGB")).max(axis=2)
    return brightest > 0


def _loaded(source: PictureLike, what: str) -> tuple[Image, str]:
    """The decoded picture with the name of its place. Raises `DataError` for whatever is wrong with it."""
    if isinstance(source, str | Path):
        path = Path(source)
        data = read_limited(path, MAX_IMAGE_BYTES, _HINT)
        return _decoded(data, str(path)), str(path)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise UserError(
                f"{what} array is {source.dtype} of shape {source.shape}", expected="uint8 (height, width, 3)"
            )
        _check_size(source.shape[1], source.shape[0], f"{what} array")
        return pil.fromarray(np.ascontiguousarray(source)), f"{what} array"
    if isinstance(source, pil.Image):
        _check_size(source.width, source.height, f"PIL {what}")
        return source, f"PIL {what}"
    raise UserError(f"{what} is of type {type(source).__name__}", expected="a path, a PIL image or an array")


def _decoded(data: bytes, where: str) -> Image:
    try:
        # What PIL warns of (a damaged EXIF part, a size below our own limit) is nothing to act upon.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _opened(data, where)
            _check_size(image.width, image.height, where)
            image.load()
            return _upright(image)
    except (DataError, MemoryError):
        raise
    # Decoders meet damage with exceptions of every kind.
    except Exception as error:
        raise DataError(
            f"the picture cannot be decoded: {type(error).__name__}: {error}",
            expected="an undamaged image file",
            where=where,
            hint="copy the file again",
        ) from error


def _opened(data: bytes, where: str) -> Image:
    """The picture with its header read. PIL's `open` compares with a pixel limit of its own, below that of frames."""
    if not data:
        raise DataError("the file is empty", expected="a picture", where=where, hint="copy the file again")
    pil.init()
    for name in pil.ID:
        factory, accept = pil.OPEN[name]
        # A text is PIL's way to say that the format is recognised but not built in.
        if name in _NOT_READ or (accept is not None and accept(data[:16]) is not True):
            continue
        try:
            return factory(io.BytesIO(data), "")
        except MemoryError:
            raise
        except Exception:
            # Some formats are only told by trying.
            continue
    raise DataError(
        "not a picture",
        expected="a picture file: JPEG, PNG, WebP, AVIF, BMP, GIF, TIFF, ...",
        where=where,
        hint=_HINT,
    )


def _check_size(width: int, height: int, where: str) -> None:
    if not 1 <= width * height <= MAX_IMAGE_PIXELS:
        raise DataError(f"{width} x {height} pixels", expected=f"1 to {MAX_IMAGE_PIXELS} pixels", where=where)


def _upright(image: Image) -> Image:
    """Turned and mirrored as the EXIF orientation says (Exif 2.32, tag 274); a damaged EXIF part says nothing."""
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(Base.Orientation, 1))
    except Exception:
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.format = image.format
    return turned


def _to_rgb(image: Image, where: str) -> Image:
    """8-bit RGB, a copy."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # PIL scales PGM files of any depth to 16 bit.
        wide = np.asarray(image).astype(np.uint32)
        return pil.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError(
            f"the picture is of mode {image.mode}, whose range is unknown",
            expected="8 or 16 bit",
            where=where,
            hint="convert it to PNG",
        )
    if image.has_transparency_data:
        ground = pil.new("RGBA", image.size, "white")
        return pil.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _png(image: Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
