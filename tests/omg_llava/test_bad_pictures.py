"""Pictures of odd sizes, modes and files, and the way of pixels into the networks' frames and back."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from omg_llava.adapter import OmgLlavaAdapter
from omg_llava.assistant import Assistant
from omg_llava.preprocessing import CornerFrame, SquareFrame, corner_pixels, rgb, scaled_size, square_pixels
from omg_llava.resize import resize_like_opencv
from omgbench.contract import BoxPrompt, Frame, GenOptions, Intent, Request, Response, Status
from omgbench.response_checks import check_response

from .lively import LIMIT, VOCABULARY, picture, request, small_config

WIDTH, HEIGHT = 30, 21


def _saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(picture(WIDTH, HEIGHT), "JPEG", exif=exif, quality=95)


def _deep() -> bytes:
    grey = np.asarray(picture(WIDTH, HEIGHT).convert("L"), np.uint16)
    return _saved(Image.fromarray(grey * 257))


def _clear() -> Image.Image:
    """With an alpha channel."""
    image = picture(WIDTH, HEIGHT).convert("RGBA")
    image.putalpha(picture(WIDTH, HEIGHT, 1).convert("L"))
    return image


PICTURES: dict[str, tuple[int, int, bytes]] = {
    "1x1": (1, 1, _saved(picture(1, 1))),
    "1x2": (1, 2, _saved(picture(1, 2))),
    "tall": (3, 5000, _saved(picture(3, 5000))),
    "wide": (5000, 3, _saved(picture(5000, 3))),
    "grey": (WIDTH, HEIGHT, _saved(picture(WIDTH, HEIGHT).convert("L"))),
    "black and white": (WIDTH, HEIGHT, _saved(picture(WIDTH, HEIGHT).convert("1"))),
    "alpha": (WIDTH, HEIGHT, _saved(_clear())),
    "grey and alpha": (WIDTH, HEIGHT, _saved(_clear().convert("LA"))),
    "16 bit": (WIDTH, HEIGHT, _deep()),
    "CMYK": (WIDTH, HEIGHT, _saved(picture(WIDTH, HEIGHT).convert("CMYK"), "JPEG")),
    "palette": (WIDTH, HEIGHT, _saved(picture(WIDTH, HEIGHT).convert("P"))),
    "transparent palette": (WIDTH, HEIGHT, _saved(picture(WIDTH, HEIGHT).convert("P"), transparency=3)),
    "turned by EXIF": (WIDTH, HEIGHT, _rotated_by_exif()),
}


def _everything(image: Frame) -> list[Request]:
    """Every intent; what points at something points at the upper left quarter. Masks on long squares take long."""
    gen = GenOptions(max_new_tokens=LIMIT if max(image.width, image.height) < 1000 else 3)
    quarter = (BoxPrompt((0.0, 0.0, image.width / 2, image.height / 2)),)
    return [
        request("chat", Intent.CHAT, image, "What is it?", gen=gen),
        request("refer", Intent.REFER_SEGMENT, image, "the dog", gen=gen),
        request("box", Intent.REFER_BOX, image, "the dog", gen=gen),
        request("grounded", Intent.GROUNDED_CAPTION, image, gen=gen),
        request("region", Intent.REGION_CAPTION, image, prompts=quarter, gen=gen),
        request("panoptic", Intent.PANOPTIC, image, vocabulary=VOCABULARY),
        request("interactive", Intent.INTERACTIVE, image, prompts=quarter),
        request("choices", Intent.SCORE_CHOICES, image, "Who?", choices=("a dog", "b")),
    ]


def _answers(adapter: OmgLlavaAdapter, image: Frame) -> dict[str, Response]:
    requests = _everything(image)
    found = {response.id: response for response in adapter.respond(requests)}
    for each in requests:
        assert check_response(each, found[each.id]) is None
        assert found[each.id].status in (Status.OK, Status.EMPTY, Status.TRUNCATED), found[each.id].error
    return found


@pytest.mark.parametrize("name", PICTURES)
def test_every_intent_on_every_picture(adapter: OmgLlavaAdapter, name: str) -> None:
    width, height, data = PICTURES[name]
    found = _answers(adapter, Frame(name, width, height, data))
    sizes = {mask.rle.size for response in found.values() for mask in response.masks}
    assert sizes == {(height, width)}
    assert {rle.size for each in found["panoptic"].panoptic.segments for rle in each.masks} == {(height, width)}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("grey", lambda: picture(WIDTH, HEIGHT).convert("L").convert("RGB")),
        ("16 bit", lambda: picture(WIDTH, HEIGHT).convert("L").convert("RGB")),
        ("alpha", lambda: picture(WIDTH, HEIGHT)),
        ("palette", lambda: picture(WIDTH, HEIGHT).convert("P").convert("RGB")),
        ("CMYK", lambda: Image.open(io.BytesIO(PICTURES["CMYK"][2])).convert("RGB")),
        ("turned by EXIF", lambda: _as_stored(_rotated_by_exif())),
    ],
)
def test_a_picture_counts_by_its_colours_as_stored(
    adapter: OmgLlavaAdapter, name: str, same: Callable[[], Image.Image]
) -> None:
    """Alpha is dropped, nothing is turned, 16 bits become 8."""
    width, height, data = PICTURES[name]
    plain = _saved(same())
    assert _answers(adapter, Frame(name, width, height, data)) == _answers(adapter, Frame("x", width, height, plain))


def _as_stored(data: bytes) -> Image.Image:
    """The pixels without the note that they should be turned."""
    return Image.fromarray(np.asarray(Image.open(io.BytesIO(data))))


def test_one_pixel_more_or_less_is_another_answer(adapter: OmgLlavaAdapter) -> None:
    """Otherwise the test above shows nothing."""
    texts = {
        _answers(adapter, Frame(name, *PICTURES[name]))["chat"].raw_text
        for name in ("1x1", "1x2", "grey", "alpha", "turned by EXIF")
    }
    assert len(texts) > 3


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "I", "CMYK", "YCbCr"])
def test_an_assistant_takes_pictures_of_every_mode(lively: Assistant, mode: str) -> None:
    """Those of PIL, beside the harness."""
    image = picture(WIDTH, HEIGHT)
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    look = lively.look(image.convert(mode))
    assert (look.frame.width, look.frame.height) == (WIDTH, HEIGHT)
    assert rgb(image.convert(mode)).mode == "RGB"


def test_sixteen_bits_become_eight() -> None:
    values = np.array([[0, 128, 129, 257, 33000, 65535]], np.uint16)
    assert np.asarray(rgb(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


# The square


SIZES = [(width, height) for width in (1, 2, 3, 6, 7) for height in (1, 2, 5, 6, 8)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_cutting_the_padding_off_is_the_inverse_of_padding(width: int, height: int) -> None:
    frame = SquareFrame(width, height, 64)
    mask = torch.from_numpy(np.random.default_rng(0).random((1, height, width)) < 0.5)
    square = frame.pad_masks(mask)
    edge = max(width, height)
    assert square.shape == (1, edge, edge)
    assert int(square.sum()) == int(mask.sum())
    assert torch.equal(frame.to_original(square[0].float() * 8 - 4), mask[0])
    assert torch.equal(frame.to_original(4 - square[0].float() * 8), ~mask[0])


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_masks_and_points_are_padded_alike(width: int, height: int) -> None:
    """A single white pixel is found where its mask and its point are."""
    frame = SquareFrame(width, height, max(width, height))
    for x, y in {(0, 0), (width - 1, height - 1), (width // 2, height // 2)}:
        image = Image.new("RGB", (width, height), (0, 0, 0))
        image.putpixel((x, y), (255, 255, 255))
        square = np.asarray(frame.pad(image, (0.0, 0.0, 0.0)))[..., 0] > 0
        mask = torch.zeros(1, height, width)
        mask[0, y, x] = 1
        assert np.array_equal(frame.pad_masks(mask)[0].numpy() > 0, square)
        assert np.array_equal(frame.masks(mask.bool())[0].numpy() > 0, square)
        column, row = frame.points_xy(torch.tensor([[x + 0.5, y + 0.5]]))[0].tolist()
        assert square[int(row), int(column)]
        assert square.sum() == 1


def test_padding_has_the_mean_colour() -> None:
    config = small_config().image
    image = Image.new("RGB", (10, 4), (255, 0, 0))
    square = np.asarray(SquareFrame(10, 4, 128).pad(image, config.mean))
    assert square.shape == (10, 10, 3)
    assert (square[3:7] == (255, 0, 0)).all()
    assert (np.delete(square, range(3, 7), axis=0) == [int(255 * mean) for mean in config.mean]).all()
    pixels, _ = square_pixels(Image.new("RGB", (10, 4), tuple(int(255 * mean) for mean in config.mean)), config)
    assert pixels.shape == (3, 128, 128)
    assert pixels.abs().max() < 0.02


# The corner


@pytest.mark.parametrize(
    ("size_wh", "expected_hw"),
    [((640, 480), (800, 1067)), ((1, 1), (800, 800)), ((3, 5000), (1333, 1)), ((500, 375), (800, 1067))],
)
def test_a_picture_in_the_corner(size_wh: tuple[int, int], expected_hw: tuple[int, int]) -> None:
    assert scaled_size(*size_wh, 1333, 800) == expected_hw
    pixels, frame = corner_pixels(Image.new("RGB", size_wh, (255, 255, 255)), 1333, 800)
    assert frame.resized_hw == expected_hw
    assert pixels.shape[1:] == frame.padded_hw
    assert all(0 <= padded - inside < 32 and padded % 32 == 0 for padded, inside in zip(*_sides(frame), strict=True))
    inside = torch.zeros(frame.padded_hw, dtype=torch.bool)
    inside[: expected_hw[0], : expected_hw[1]] = True
    assert (pixels[:, inside] > 1).all()
    assert (pixels[:, ~inside] == 0).all()


def _sides(frame: CornerFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    return frame.padded_hw, frame.resized_hw


@pytest.mark.parametrize(("width", "height"), [(40, 30), (33, 64), (64, 64), (5, 47)])
def test_the_padding_at_the_right_and_below_is_cut_off(width: int, height: int) -> None:
    padded = (-(-height // 32) * 32, -(-width // 32) * 32)
    frame = CornerFrame(width, height, (height, width), padded)
    mask = torch.from_numpy(np.random.default_rng(1).random((2, height, width)) < 0.5)
    full = frame.masks(mask)
    assert full.shape == (2, *padded)
    assert torch.equal(frame.to_size(full * 2 - 1, (height, width)) > 0, mask)


# OpenCV's resize


RECORDED: list[tuple[list[list[int]], list[list[int]]]] = [
    # One channel, and what cv2 4.8, 4.12 and 5.0 make of it, alike.
    ([[105, 196, 21, 116], [205, 89, 111, 55], [211, 118, 139, 235], [83, 223, 132, 253]],
     [[120, 108, 100], [166, 103, 75], [191, 114, 142], [169, 143, 223], [106, 177, 233]]),
    ([[239, 242, 123, 51], [32, 95, 45, 49], [211, 47, 252, 92]],
     [[239, 182, 63], [116, 112, 54], [95, 100, 74], [183, 149, 119]]),
    ([[78, 185, 108, 41, 204, 130], [192, 27, 54, 248, 177, 19], [251, 155, 123, 108, 123, 160],
      [73, 16, 222, 44, 12, 125]],
     [[121, 113, 133], [124, 124, 105]]),
    ([[168, 171, 20, 153, 37, 206, 6], [96, 118, 161, 42, 16, 10, 13], [38, 118, 196, 146, 145, 53, 181],
      [11, 66, 98, 144, 38, 202, 54], [127, 167, 16, 220, 189, 72, 88]],
     [[132, 113], [138, 76], [111, 121]]),
    ([[193, 214], [249, 113]], [[193, 198, 209, 214], [221, 207, 178, 164], [249, 215, 147, 113]]),
    ([[232, 22, 230, 187, 171]], [[162, 230, 176]] * 4),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), RECORDED)
def test_resize_as_recorded(before: list[list[int]], after: list[list[int]]) -> None:
    image = np.repeat(np.array(before, np.uint8)[..., None], 3, axis=2)
    found = resize_like_opencv(image, (len(after), len(after[0])))
    assert found.dtype == np.uint8
    assert (found == np.array(after)[..., None]).all(), found[..., 0].tolist()


def test_resize_as_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width, new_height, new_width = (int(side) for side in random.integers(1, 120, 4))
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize_like_opencv(image, (new_height, new_width)), expected)


@pytest.mark.parametrize("size_hw", [(5, 9), (50, 3), (21, 30)])
def test_resize_keeps_a_plain_picture(size_hw: tuple[int, int]) -> None:
    plain = np.full((21, 30, 3), (3, 128, 255), np.uint8)
    assert (np.abs(resize_like_opencv(plain, size_hw).astype(int) - (3, 128, 255)) <= 1).all()
