"""Image files from outside: formats, modes, sizes, damage and bombs."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omgbench.contract import Frame
from omgbench.data.images import decode_bytes, decode_frame, read_frame_bytes
from omgbench.errors import DataError

WIDTH, HEIGHT = 24, 16


def pixels(channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def frame_of(source: Path | bytes | Callable[[], bytes], width: int = WIDTH, height: int = HEIGHT) -> Frame:
    return Frame("picture 7", width, height, source)


def decoded(data: bytes) -> np.ndarray:
    image = decode_frame(frame_of(data))
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    return np.asarray(image)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_pixels(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    assert (decoded(encoded(Image.fromarray(pixels()), file_format, **options)) == pixels()).all()


def test_jpeg_equals_pil() -> None:
    data = encoded(Image.fromarray(pixels()), "JPEG", quality=80)
    assert (decoded(data) == np.asarray(Image.open(io.BytesIO(data)))).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_modes_are_converted_as_by_pil(mode: str) -> None:
    image = Image.fromarray(pixels()).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    assert (decoded(data) == np.asarray(image.convert("RGB"))).all()


def test_transparency_is_dropped_not_composited() -> None:
    data = encoded(Image.fromarray(np.dstack([pixels(), np.zeros((HEIGHT, WIDTH), np.uint8)]), "RGBA"))
    assert (decoded(data) == pixels()).all()


def test_a_transparent_palette_gives_no_warning() -> None:
    image = Image.fromarray(pixels()).quantize(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = encoded(image, "PNG", transparency=bytes([0, 128, 255]))
        assert (decoded(data) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(file_format: str) -> None:
    grey = np.random.default_rng(1).integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
    expected = (grey // 256).astype(np.uint8)
    assert (decoded(encoded(Image.fromarray(grey), file_format)) == expected[:, :, None]).all()


def test_big_endian_16_bit_grey() -> None:
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 170
    image = Image.frombytes("I;16B", (WIDTH, HEIGHT), grey.astype(">u2").tobytes())
    assert (decoded(encoded(image, "TIFF")) == (grey // 256).astype(np.uint8)[:, :, None]).all()


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decoded(data) == (255, 0, 0)).all()


def test_exif_turns_nothing() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(Image.fromarray(pixels()), "PNG", exif=exif)
    assert (decoded(data) == pixels()).all()


def rotated_tiff() -> bytes:
    return encoded(Image.fromarray(pixels()), "TIFF", tiffinfo={274: 3})


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a handful of bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


PNG = encoded(Image.fromarray(pixels()))
JPEG = encoded(Image.fromarray(pixels()), "JPEG")

BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the image is empty"),
    "text": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "other format": (encoded(Image.fromarray(pixels()), "PPM"), "not an image"),
    "icon": (encoded(Image.fromarray(pixels()), "ICO"), "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n", "not an image"),
    "PNG cut off": (PNG[:-200], "cannot be decoded"),
    "JPEG cut off": (JPEG[: len(JPEG) // 2], "cannot be decoded"),
    "JPEG header alone": (JPEG[:20], "cannot be decoded"),
    "PNG signature alone": (PNG[:8], "cannot be decoded"),
    "PNG damaged": (PNG[:60] + b"\xff" * 40 + PNG[100:], "cannot be decoded"),
    "GIF signature alone": (b"GIF89a", "cannot be decoded"),
    "TIFF signature alone": (b"II*\0", "cannot be decoded"),
    "WebP damaged": (encoded(Image.fromarray(pixels()), "WEBP")[:40], "cannot be decoded"),
    "other size": (encoded(Image.new("RGB", (HEIGHT, WIDTH))), "image is 16 x 24.*\n.*\n.*24 x 16"),
    "bomb": (png_header(60_000, 60_000), "image of 60000 x 60000 pixels"),
    "bomb of the largest header": (png_header(2**31 - 1, 2**31 - 1), "at most 268435456 pixels"),
    "32-bit grey": (encoded(Image.new("I", (WIDTH, HEIGHT)), "TIFF"), "mode I"),
    "float grey": (encoded(Image.new("F", (WIDTH, HEIGHT)), "TIFF"), "mode F"),
    "turned TIFF": (rotated_tiff(), "orientation 3"),
}


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_one_data_error(tmp_path: Path, name: str, from_file: bool) -> None:
    data, message = BAD_IMAGES[name]
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        decode_frame(frame_of(path if from_file else data))
    assert ("picture.jpg" if from_file else "frame picture 7") in str(caught.value.where)


def test_a_bomb_is_refused_even_where_the_annotations_agree() -> None:
    with pytest.raises(DataError, match="at most 268435456 pixels"):
        decode_frame(frame_of(png_header(60_000, 60_000), 60_000, 60_000))


def test_pils_own_limit_is_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decoded(PNG) == pixels()).all()
    assert Image.MAX_IMAGE_PIXELS == 10


def test_files_bytes_and_functions_are_sources(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    for source in (path, PNG, lambda: PNG):
        frame = frame_of(source)
        assert read_frame_bytes(frame) == PNG
        assert (np.asarray(frame.image) == pixels()).all()
    assert (np.asarray(decode_bytes(PNG, frame_of(b""))) == pixels()).all()


def failing() -> bytes:
    raise KeyError("row 5")


BAD_SOURCES: dict[str, tuple[Callable[[], bytes], str]] = {
    "fails": (failing, "image source failed: KeyError: 'row 5'"),
    "gives nothing": (lambda: None, "image source gave NoneType"),
    "gives text": (lambda: "PNG", "image source gave str"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_bad_sources_are_one_data_error(name: str) -> None:
    source, message = BAD_SOURCES[name]
    with pytest.raises(DataError, match=message) as caught:
        read_frame_bytes(frame_of(source))
    assert caught.value.where == "frame picture 7"


def test_missing_folder_and_oversized_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"absent\.jpg\n.*omgbench data status"):
        read_frame_bytes(frame_of(tmp_path / "absent.jpg"))
    with pytest.raises(DataError, match="not a file"):
        read_frame_bytes(frame_of(tmp_path))
    monkeypatch.setattr("omgbench.data.images.MAX_IMAGE_BYTES", 100)
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    for source in (path, PNG, lambda: PNG):
        with pytest.raises(DataError, match="at most 100 bytes"):
            read_frame_bytes(frame_of(source))


def test_an_unlucky_memory_error_is_passed_on() -> None:
    def source() -> bytes:
        raise MemoryError

    with pytest.raises(MemoryError):
        decode_frame(frame_of(source))
