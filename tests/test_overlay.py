"""Overlays: the right pixels in the right colours, at every size, whatever the answer holds."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from omgbench.contract import (
    Box,
    BoxPrompt,
    Category,
    Mask,
    MaskPrompt,
    PanopticResult,
    PanopticSegment,
    PointPrompt,
    Response,
    Rle,
    ScribblePrompt,
    Span,
    Status,
)
from omgbench.errors import DataError
from omgbench.metrics.rle import mask_to_rle
from omgbench.overlay import colour, draw_overlay, regions_of
from omgbench.overlay.painting import FILL_PER_256, Scale, outline, patch_of
from omgbench.overlay.palette import N_COLOURS, ink_on
from omgbench.overlay.panel import MOST_LINES, _wrapped, draw_panel, font_of

GREY = (120, 140, 160)


def picture(width: int = 800, height: int = 600) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def rectangle(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (600, 800)) -> Rle:
    """A filled rectangle on (height, width)."""
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask_to_rle(mask)


def drawn(response: Response, *prompts: object, image: Image.Image | None = None) -> np.ndarray:
    return np.asarray(draw_overlay(image or picture(), response, prompts))  # type: ignore[arg-type]


def filled(rgb: tuple[int, int, int]) -> list[int]:
    return [(a * (256 - FILL_PER_256) + b * FILL_PER_256) >> 8 for a, b in zip(GREY, rgb, strict=True)]


def test_the_colours_of_twenty_regions_differ() -> None:
    colours = [colour(index) for index in range(N_COLOURS)]
    assert N_COLOURS > 20
    assert len({item.name for item in colours}) == len({item.rgb for item in colours}) == N_COLOURS
    rgbs = np.array([item.rgb for item in colours], float)
    apart = np.linalg.norm(rgbs[:, None] - rgbs[None], axis=2) + 1000 * np.eye(N_COLOURS)
    assert apart.min() > 25
    assert apart[:7, :7].min() > 60
    assert colour(N_COLOURS) == colour(0)


def test_ink_stands_out() -> None:
    assert ink_on((240, 228, 66)) == (0, 0, 0)
    assert ink_on((0, 63, 98)) == (255, 255, 255)


def test_a_mask_is_filled_outlined_and_the_rest_left_alone() -> None:
    shown = drawn(Response("r", masks=(Mask(rectangle(100, 200, 400, 500)),)))
    blue = colour(0).rgb
    assert shown[210, 110].tolist() == filled(blue)
    assert shown[200, 100:400].tolist() == [list(blue)] * 300
    assert shown[201, 399].tolist() == list(blue), "2 px at this size"
    assert (shown[:200] == GREY).all() and (shown[200:600, 400:] == GREY).all() and (shown[500:600] == GREY).all()


def test_a_small_mask_lies_on_a_large_one_and_both_outlines_show() -> None:
    masks = (Mask(rectangle(300, 300, 500, 400)), Mask(rectangle(100, 100, 700, 500)))
    shown = drawn(Response("r", masks=masks))
    assert shown[310, 310].tolist() == filled(colour(0).rgb)
    assert shown[110, 110].tolist() == filled(colour(1).rgb)
    assert shown[300, 320].tolist() == list(colour(0).rgb)


@pytest.mark.parametrize("thickness", [1, 2, 3, 5])
def test_outlines_equal_a_plain_search(thickness: int) -> None:
    rng = np.random.default_rng(thickness)
    for density in (0.5, 0.9, 0.99):
        mask = rng.random((23, 31)) < density
        padded = np.pad(mask, thickness)
        expected = mask.copy()
        for y, x in np.argwhere(mask):
            window = padded[y : y + 2 * thickness + 1, x : x + 2 * thickness + 1]
            expected[y, x] = not window.all()
        assert (outline(np.asfortranarray(mask), thickness) == expected).all()
    tiny = np.ones((2, 9), bool)
    assert outline(tiny, thickness).sum() == 18


@pytest.mark.parametrize("scale", [Scale(), Scale(up=4), Scale(down=3)], ids=str)
def test_a_patch_is_the_scaled_mask(scale: Scale) -> None:
    rng = np.random.default_rng(1)
    mask = np.zeros((40, 50), bool)
    mask[7:23, 11:38] = rng.random((16, 27)) < 0.5
    whole = mask[:: scale.down, :: scale.down].repeat(scale.up, 0).repeat(scale.up, 1)
    patch = patch_of(mask_to_rle(mask), scale)
    assert patch is not None
    rebuilt = np.zeros_like(whole)
    patch.of(rebuilt)[:] = patch.mask
    assert (rebuilt == whole).all()


def test_the_same_answer_gives_the_same_pixels() -> None:
    response = Response("r", text="a b", masks=(Mask(rectangle(1, 1, 90, 90)),), boxes=(Box((3, 4, 99, 99)),))
    assert (drawn(response, PointPrompt((50, 50))) == drawn(response, PointPrompt((50, 50)))).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3), (40, 30), (384, 1), (12001, 2)], ids=str)
def test_any_size_is_readable(size: tuple[int, int]) -> None:
    width, height = size
    full = mask_to_rle(np.ones((height, width), bool))
    prompts = (
        PointPrompt((width / 2, height / 2)),
        PointPrompt((0, 0), positive=False),
        BoxPrompt((0, 0, width, height)),
        MaskPrompt(full),
        ScribblePrompt(((0, 0), (width - 0.5, height - 0.5))),
    )
    spans = (Span("a thing", masks=(0,)),)
    response = Response("r", text="words " * 30, masks=(Mask(full),), spans=spans, boxes=(Box((0, 0, width, height)),))
    shown = draw_overlay(picture(width, height), response, prompts)
    assert shown.mode == "RGB"
    assert max(shown.size) <= 6400
    assert shown.width > 360 or shown.height > 360
    # Words stand in dark ink on white, at the bottom or at the right.
    assert (np.asarray(shown).max(axis=2) < 40).any()


def test_small_pictures_grow_by_a_whole_factor() -> None:
    mask = np.zeros((30, 40), bool)
    mask[10:20, 5:35] = True
    shown = drawn(Response("r", masks=(Mask(mask_to_rle(mask)),)), image=picture(40, 30))
    assert shown.shape[1] == max(40 * 9, 26 * 14)
    changed = (shown[:270, :360] != GREY).any(axis=2)
    assert (changed == mask.repeat(9, 0).repeat(9, 1)).all()


def test_prompts_are_told_apart() -> None:
    nothing = drawn(Response("r"))
    assert (nothing == GREY).all()
    positive, negative = (drawn(Response("r"), PointPrompt((400, 300), positive)) for positive in (True, False))
    assert positive[300, 392].tolist() == [255] * 3
    assert negative[300, 392].tolist() == list(GREY)
    assert negative[305, 405].tolist() == [255] * 3
    box = drawn(Response("r"), BoxPrompt((100, 100, 300, 200)))
    assert {tuple(pixel) for pixel in box[100, 100:300]} == {(0, 0, 0), (255, 255, 255)}
    assert (box[99] == GREY).all() and (box[200] == GREY).all(), "right and bottom are exclusive"
    mask = drawn(Response("r"), MaskPrompt(rectangle(100, 100, 300, 200)))
    assert {tuple(pixel) for pixel in mask[100, 100:300]} == {(0, 0, 0), (255, 255, 255)}
    assert mask[150, 200].tolist() == list(GREY)
    line = drawn(Response("r"), ScribblePrompt(((100, 100), (300, 100))))
    assert line[100, 200].tolist() == [255] * 3


@pytest.mark.parametrize(
    "xyxy",
    [(-5.0, -5.0, 1e300, 40.0), (50.0, 50.0, 20.0, 20.0), (-1e300, -9.0, -8.0, -7.0), (5.0, 5.0, 5.0, 5.0)],
    ids=str,
)
def test_boxes_of_any_kind_are_survived(xyxy: tuple[float, float, float, float]) -> None:
    drawn(Response("r", boxes=(Box(xyxy),)), BoxPrompt(xyxy))


def test_a_box_has_its_corners() -> None:
    shown = drawn(Response("r", boxes=(Box((600.0, 400.0, 800.0, 600.0)),)))
    assert shown[599, 700].tolist() == list(colour(0).rgb)
    assert shown[500, 799].tolist() == list(colour(0).rgb)
    assert shown[500, 700].tolist() == list(GREY)


def test_regions_carry_phrases_numbers_and_boxes() -> None:
    rle = rectangle(1, 1, 9, 9)
    response = Response(
        "r",
        masks=(Mask(rle), Mask(rle), Mask(rle), Mask(rle, frame=1)),
        boxes=(Box((0, 0, 1, 1)), Box((0, 0, 2, 2)), Box((0, 0, 3, 3))),
        spans=(Span("two dogs", masks=(1, 0)), Span("a cat", masks=(2,), boxes=(1,)), Span("a cup", boxes=(2,))),
    )
    found = [(region.number, region.phrase, region.box_xyxy) for region in regions_of(response)]
    assert found == [
        (1, "two dogs", None),
        (2, "two dogs", None),
        (3, "a cat", (0, 0, 2, 2)),
        (4, "box 1", (0, 0, 1, 1)),
        (5, "a cup", (0, 0, 3, 3)),
    ]
    assert [region.phrase for region in regions_of(Response("r", masks=(Mask(rle),)))] == ["mask 1"]


def test_panoptic_segments_have_names_and_colours() -> None:
    left, right = rectangle(0, 0, 400, 600), rectangle(400, 0, 800, 600)
    segments = (PanopticSegment(7, 3, (left,)), PanopticSegment(8, 4, (right,)), PanopticSegment(9, 3, (None,)))
    response = Response("r", panoptic=PanopticResult(segments))
    vocabulary = (Category(3, "sky", False),)
    assert [region.phrase for region in regions_of(response, vocabulary)] == ["sky", "category 4"]
    shown = np.asarray(draw_overlay(picture(), response, vocabulary=vocabulary))
    assert shown[50, 50].tolist() == filled(colour(0).rgb)
    assert shown[50, 750].tolist() == filled(colour(1).rgb)


def test_a_mask_of_another_size_is_refused() -> None:
    wrong = rectangle(1, 1, 5, 5, size=(601, 800))
    with pytest.raises(DataError, match="601 x 800"):
        drawn(Response("r", masks=(Mask(wrong),)))
    with pytest.raises(DataError, match="601 x 800"):
        drawn(Response("r"), MaskPrompt(wrong))
    with pytest.raises(DataError, match="drawn"):
        drawn(Response("r", masks=(Mask(Rle((600, 800), "~~~")),)))


@pytest.mark.parametrize(
    "text",
    [
        "狗在左边",
        "😀👩‍👩‍👧",
        "\x1b[31mred\x07",
        "مرحبا \u202eabc",
        "e\u0301" * 50,
        "\ud800",
        "a\r\nb\tc",
        "W" * 9000,
        " \n \n",
    ],
    ids=range(9),
)
def test_any_text_is_drawn(text: str) -> None:
    response = Response("r", text=text, masks=(Mask(rectangle(1, 1, 50, 50)),), spans=(Span(text, masks=(0,)),))
    assert draw_overlay(picture(), response).width == 800


def test_long_answers_wrap_and_end() -> None:
    font = font_of(14)
    text = "The quick brown fox " * 40 + "x" * 700
    lines = list(_wrapped(text, 300, font))
    assert all(font.getlength(line) <= 300 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    endless = list(_wrapped("word " * 1_000_000, 300, font))
    assert endless[-1] == "..." and len(endless) <= MOST_LINES + 1
    panel = draw_panel([], "a\n" * 10_000, 300, 14)
    assert panel is not None and panel.height < 2000


def test_a_legend_of_thousands_ends() -> None:
    rle = rectangle(1, 1, 5, 5)
    regions = regions_of(Response("r", masks=(Mask(rle),) * 3000))
    panel = draw_panel(regions, "", 800, 14)
    assert panel is not None and panel.height < 1000


def test_the_error_of_a_failed_answer_is_shown() -> None:
    failed = drawn(Response("r", Status.ERROR, error="out of order"))
    assert failed.shape[0] > 600


def test_other_modes_are_taken() -> None:
    for mode in ("L", "P", "RGBA", "1"):
        assert draw_overlay(picture(20, 20).convert(mode), Response("r")).mode == "RGB"


def test_the_picture_itself_is_left_alone() -> None:
    image = picture(400, 400)
    draw_overlay(image, Response("r", masks=(Mask(rectangle(0, 0, 400, 400, size=(400, 400))),)))
    assert (np.asarray(image) == GREY).all()
