"""The model that looks but does not read finds the largest thing in sight, and answers the same every time."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from omgbench.contract import Frame, Intent, Request, SeesReferences, Status
from omgbench.data.scenes import TRAINING_SEEDS, Scene, SceneObject, make_scene, render
from omgbench.data.scenes.raster import FULL
from omgbench.data.scenes.vocabulary import COLORS, STUFF
from omgbench.metrics.rle import mask_to_rle, rle_to_mask
from omgbench.response_checks import check_response
from omgbench.testing import BlankModel, LargestObjectModel, broken_frame, tiny_clip, tiny_frame
from omgbench.testing.frames import png_bytes
from omgbench.testing.largest_object import _largest_inside, _regions, largest_object_rle
from omgbench.testing.made_requests import plain_request
from omgbench.testing.models import weightless_capabilities

GREY, RED, GREEN = (128, 128, 128), (200, 30, 30), (20, 140, 60)


def request(intent: Intent, frame: Frame, id_: str = "r") -> Request:
    return replace(plain_request(intent, frame, weightless_capabilities()), id=id_)


def clip_request(intent: Intent) -> Request:
    return replace(request(intent, tiny_clip(1)[0]), frames=tiny_clip(3), is_clip=True, prompts=())


def picture(
    width: int, height: int, *boxes: tuple[tuple[int, int, int, int], tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """Filled boxes (x1, y1, x2, y2) on grey, later ones in front."""
    pixels = np.full((height, width, 3), GREY, np.uint8)
    for (x1, y1, x2, y2), color in boxes:
        pixels[y1:y2, x1:x2] = color
    return pixels


def found(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask = rle_to_mask(largest_object_rle(Image.fromarray(pixels)))
    assert mask.shape == pixels.shape[:2]
    return mask


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


# ---- demo scenes ----------------------------------------------------------------------------------------------------


SEEDS = [TRAINING_SEEDS.start + offset for offset in (0, 1, 7, 8, 12, 27, 30, 32)]
"""The first seeds of `scene_of_one_shape` whose grounds all reach the border: a pond would be the larger object."""


def scene_of_one_shape(seed: int) -> tuple[Scene, NDArray[np.bool_]]:
    """A scene left with one large plain shape, of a colour unlike its grounds and without a hole, and its mask."""
    scene = make_scene(seed)
    thing = next(thing for thing in scene.objects if stands_out(thing, scene))
    mask = np.zeros((scene.height, scene.width), bool)
    x, y = thing.cover_origin_xy
    height, width = thing.cover.shape
    mask[y : y + height, x : x + width] = thing.cover >= FULL // 2
    return replace(scene, objects=(thing,)), mask


def stands_out(thing: SceneObject, scene: Scene) -> bool:
    grounds = np.array([STUFF[region.name].rgb for region in scene.stuff])
    contrast = int(np.abs(grounds - COLORS[thing.color]).max(axis=1).min())
    return thing.size == "large" and thing.pattern == "plain" and thing.shape != "ring" and contrast > 90


@pytest.mark.parametrize("seed", SEEDS)
def test_the_one_large_shape_of_a_scene_is_found(seed: int) -> None:
    scene, mask = scene_of_one_shape(seed)
    pixels = render(scene)
    assert iou(found(pixels), mask) > 0.9
    larger = iou(found(pixels.repeat(3, axis=0).repeat(3, axis=1)), mask.repeat(3, axis=0).repeat(3, axis=1))
    assert larger > 0.9


# ---- which region ---------------------------------------------------------------------------------------------------


def test_the_largest_region_inside_is_taken() -> None:
    mask = found(picture(100, 80, ((10, 10, 40, 30), RED), ((50, 20, 90, 70), GREEN)))
    assert box_of(mask) == (50, 20, 90, 70)
    # The median filter rounds the corners.
    assert 40 * 50 - 4 <= mask.sum() <= 40 * 50


def test_what_touches_the_border_is_ground() -> None:
    for edge in ((0, 20, 50, 70), (50, 0, 90, 60), (60, 20, 100, 70), (50, 30, 90, 80)):
        assert box_of(found(picture(100, 80, (edge, GREEN), ((10, 5, 30, 15), RED)))) == (10, 5, 30, 15)


def test_what_covers_more_than_half_is_ground() -> None:
    small = ((30, 30, 60, 50), RED)
    assert box_of(found(picture(100, 80, ((10, 8, 90, 72), GREEN), small))) == (30, 30, 60, 50)
    assert box_of(found(picture(100, 80, ((10, 15, 80, 70), GREEN), small))) == (10, 15, 80, 70)


def test_two_things_of_one_colour_are_two() -> None:
    assert box_of(found(picture(100, 80, ((10, 10, 40, 40), RED), ((50, 20, 90, 70), RED)))) == (50, 20, 90, 70)


def test_texture_does_not_tear_a_thing_apart() -> None:
    pixels = picture(200, 150, ((60, 40, 150, 110), RED)).astype(np.int64)
    noise = np.random.RandomState(0).randint(-15, 16, pixels.shape[:2])
    mask = found(np.clip(pixels + noise[:, :, None], 0, 255).astype(np.uint8))
    assert iou(mask, found(picture(200, 150, ((60, 40, 150, 110), RED)))) > 0.95


@pytest.mark.parametrize(("width", "height"), [(1000, 700), (321, 5), (641, 959)])
def test_a_large_picture_is_found_in_blocks(width: int, height: int) -> None:
    block_px = -(-max(width, height) // 320)
    box = (width // 4, height // 3, width // 4 + width // 3, height // 3 + height // 3)
    mask = found(picture(width, height, (box, RED)))
    if min(width, height) > 100:
        assert np.abs(np.subtract(box_of(mask), box)).max() <= block_px
    else:
        assert mask.any()


@pytest.mark.parametrize("seed", range(30))
def test_regions_agree_with_a_flood_fill(seed: int) -> None:
    rng = random.Random(seed)
    height, width, n_colors = rng.randint(1, 12), rng.randint(1, 12), rng.randint(1, 4)
    colors = np.array([[3 * rng.randrange(n_colors) for _ in range(width)] for _ in range(height)], np.intp)
    most_px = rng.randint(0, height * width)
    pieces = flooded(colors)
    regions = _regions(colors)
    assert sorted(sorted(piece) for piece in pieces) == sorted(
        sorted(map(tuple, np.argwhere(regions == label).tolist())) for label in np.unique(regions)
    )
    inside = [piece for piece in pieces if len(piece) <= most_px and is_clear_of_border(piece, height, width)]
    region = _largest_inside(regions, most_px)
    if not inside:
        assert region is None
    else:
        assert region is not None
        assert int(region.sum()) == max(map(len, inside))
        assert set(map(tuple, np.argwhere(region).tolist())) in inside


def flooded(colors: NDArray[np.intp]) -> list[set[tuple[int, int]]]:
    left = set(np.ndindex(*colors.shape))
    pieces = []
    while left:
        open_, piece = [left.pop()], set()
        while open_:
            y, x = open_.pop()
            piece.add((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left and colors[near] == colors[y, x]:
                    left.remove(near)
                    open_.append(near)
        pieces.append(piece)
    return pieces


def is_clear_of_border(piece: set[tuple[int, int]], height: int, width: int) -> bool:
    return all(0 < y < height - 1 and 0 < x < width - 1 for y, x in piece)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1, 1), (0, 0, 1, 1)),
        ((2, 2), (0, 0, 2, 2)),
        ((1, 9), (0, 2, 1, 7)),
        ((100, 80), (25, 20, 75, 60)),
        ((1001, 503), (250, 125, 751, 378)),
    ],
)
def test_where_nothing_stands_out_the_middle_is_taken(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    mask = found(picture(*size))
    assert box_of(mask) == box
    assert mask.sum() == (box[2] - box[0]) * (box[3] - box[1])


# ---- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (640, 480)])
@pytest.mark.parametrize("intent", list(Intent))
def test_every_answer_keeps_the_rules(intent: Intent, size: tuple[int, int]) -> None:
    model = LargestObjectModel()
    for asked in (request(intent, tiny_frame(*size, "rules")), clip_request(intent)):
        assert check_response(asked, model.answer(asked)) is None


def test_mask_box_and_phrase_are_of_one_thing() -> None:
    frame = Frame("boxes", 100, 80, png_bytes(picture(100, 80, ((20, 10, 60, 50), RED))))
    model = LargestObjectModel()
    (mask,) = model.answer(request(Intent.REFER_SEGMENT, frame)).masks
    assert box_of(rle_to_mask(mask.rle)) == (20, 10, 60, 50)
    assert model.answer(request(Intent.INTERACTIVE, frame)).masks == (mask,)
    (box,) = model.answer(request(Intent.REFER_BOX, frame)).boxes
    assert box.xyxy == (20.0, 10.0, 60.0, 50.0)
    described = model.answer(request(Intent.GROUNDED_CAPTION, frame))
    (span,) = described.spans
    assert (described.text, span.phrase, span.masks, described.masks) == ("an object", "an object", (0,), (mask,))


def test_a_clip_is_answered_frame_by_frame() -> None:
    model = LargestObjectModel()
    asked = clip_request(Intent.REFER_SEGMENT)
    masks = model.answer(asked).masks
    assert [(mask.frame, mask.track) for mask in masks] == [(0, 1), (1, 1), (2, 1)]
    assert [mask.rle for mask in masks] == [largest_object_rle(frame.image) for frame in asked.frames]
    assert [box.frame for box in model.answer(clip_request(Intent.REFER_BOX)).boxes] == [0, 1, 2]
    assert model.answer(clip_request(Intent.GROUNDED_CAPTION)).spans[0].masks == (0, 1, 2)


@pytest.mark.parametrize("intent", [Intent.CHAT, Intent.REGION_CAPTION, Intent.PANOPTIC, Intent.SCORE_CHOICES])
def test_it_is_blank_where_no_one_thing_is_asked_for(intent: Intent) -> None:
    asked = request(intent, broken_frame())
    assert LargestObjectModel().answer(asked) == BlankModel().answer(asked)


def test_only_the_picture_decides() -> None:
    boxes = ((10, 10, 40, 30), (20, 5, 30, 40), (5, 5, 25, 25))
    frames = [Frame(str(box), 64, 48, png_bytes(picture(64, 48, (box, RED)))) for box in boxes]
    asked = [request(Intent.REFER_SEGMENT, frame, f"{frame.key}{turn}") for turn in range(2) for frame in frames]
    others = [replace(each, text="something else", id=f"other {each.id}") for each in asked]
    masks = [answer.masks for answer in LargestObjectModel().respond(asked)]
    assert masks[:3] == masks[3:]
    assert [answer.masks for answer in LargestObjectModel().respond(others[::-1])][::-1] == masks
    assert len(set(masks[:3])) == 3
    assert not isinstance(LargestObjectModel(), SeesReferences)
    assert not LargestObjectModel().capabilities().sees_references


def test_the_mask_is_exact_and_the_same_in_another_process() -> None:
    code = (
        "import numpy as np\nfrom PIL import Image\nfrom omgbench.testing.largest_object import largest_object_rle\n"
        "pixels = np.full((12, 14, 3), 128, np.uint8)\npixels[4:9, 3:10] = (200, 30, 30)\n"
        "print(largest_object_rle(Image.fromarray(pixels)).counts)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = np.zeros((12, 14), bool)
    expected[4:9, 3:10] = True
    expected[[4, 4, 8, 8], [3, 9, 3, 9]] = False
    assert done.stdout.strip() == mask_to_rle(expected).counts
    assert np.array_equal(found(picture(14, 12, ((3, 4, 10, 9), RED))), expected)


def test_a_broken_picture_is_an_error_of_its_own_request() -> None:
    good = request(Intent.REFER_SEGMENT, tiny_frame(64, 48, "good"))
    bad = request(Intent.REFER_SEGMENT, broken_frame(), "bad")
    answers = list(LargestObjectModel().respond([good, bad, good]))
    assert [answer.status for answer in answers] == [Status.OK, Status.ERROR, Status.OK]
    assert "not an image" in (answers[1].error or "")


def test_a_picture_is_looked_at_once_and_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omgbench.testing.largest_object.KEPT_MASKS", 4)
    looks: list[str] = []

    def watched(key: str) -> Frame:
        data = png_bytes(picture(8, 8))
        return Frame(key, 8, 8, lambda: looks.append(key) or data)

    model = LargestObjectModel()
    for key in ("a", "a", *"0123", "a"):
        assert model.answer(request(Intent.REFER_BOX, watched(key))).status is Status.OK
    assert looks.count("a") == 2
    assert looks.count("0") == 1
    model.close()
    model.answer(request(Intent.REFER_BOX, watched("a")))
    assert looks.count("a") == 3


def test_it_says_what_it_is() -> None:
    identity = LargestObjectModel().identity()
    assert (identity.name, identity.weights, set(identity.libraries)) == (
        "largest_object",
        "none",
        {"numpy", "pillow", "scipy"},
    )
    capabilities = LargestObjectModel().capabilities()
    assert capabilities.reads_images
    assert capabilities.intents == frozenset(Intent)
    assert not capabilities.language_model
