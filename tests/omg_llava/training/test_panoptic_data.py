"""Panoptic samples: masks lie where the picture shows their segment, prompts inside them, all drawn as asked."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from omg_llava.errors import ModelError
from omg_llava.preprocessing import corner_pixels, square_pixels
from omg_llava.training.data.panoptic import Framing, PanopticData, padded
from omg_llava.training.demo_world import panoptic as demo
from omgbench.data.panoptic import read_panoptic, read_segment_ids
from omgbench.data.scenes import make_scene
from omgbench.errors import DataError

from .panoptic_files import (
    CONFIG,
    NOTHING,
    SEGMENTS,
    SIDE,
    SIZES_WH,
    document,
    drawn,
    is_mirrored,
    segment_map,
    shown_segments,
    write,
)

FRAMINGS: tuple[Framing, ...] = ("square", "corner", "clip")
STRAIGHT, MIRRORED = (next(seed for seed in range(9) if is_mirrored(seed) == wanted) for wanted in (False, True))
each_framing = pytest.mark.parametrize("framing", FRAMINGS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Never changed by a test."""
    return write(tmp_path_factory.mktemp("panoptic"))


@pytest.fixture(scope="module")
def data(files: dict[str, Path]) -> PanopticData:
    return PanopticData.from_files(files, CONFIG)


def _expected_shares(pixels: torch.Tensor, framing: Framing) -> torch.Tensor:
    """(4, T * H / 2, W / 2): share of each cell that shows each segment."""
    ids = np.concatenate([shown_segments(frame, framing) for frame in pixels])
    return F.avg_pool2d(torch.from_numpy(np.stack([ids == each for each in SEGMENTS])).float(), 2)


def test_categories_are_numbered_as_the_file_lists_them(data: PanopticData) -> None:
    assert len(data) == len(SIZES_WH)
    assert data.class_names == ["circle", "square", "ground"]
    assert [path.name for path in data.paths] == [f"{number}_picture.png" for number in range(len(SIZES_WH))]
    assert data.path(1) == data.paths[1]
    assert drawn(data, 0, "square", STRAIGHT).classes.tolist() == [0, 1, 2, 1]


@each_framing
@pytest.mark.parametrize("seed", [STRAIGHT, MIRRORED], ids=["straight", "mirrored"])
@pytest.mark.parametrize("index", range(len(SIZES_WH)))
def test_masks_lie_where_the_picture_shows_the_segment(
    data: PanopticData, index: int, seed: int, framing: Framing
) -> None:
    sample = padded(drawn(data, index, framing, seed), SIDE, SIDE)
    n_frames = 2 if framing == "clip" else 1
    assert sample.pixels.shape == (n_frames, 3, SIDE, SIDE)
    assert sample.masks.shape == (4, n_frames * SIDE // 2, SIDE // 2)
    assert sample.masks.dtype == torch.float32
    expected = _expected_shares(sample.pixels, framing)
    shared, either = torch.minimum(sample.masks, expected), torch.maximum(sample.masks, expected)
    overlap = shared.sum(dim=(1, 2)) / either.sum(dim=(1, 2))
    assert (overlap > (0.95 if index < 3 else 0.85)).all()
    assert sample.masks.sum(dim=0).max() <= 1
    # Away from edges, where resizing mixes colours, they are one and the same.
    by_frame = expected.unflatten(1, (n_frames, -1)).transpose(0, 1)
    inside = (-F.max_pool2d(-by_frame, 3, stride=1, padding=1) == 1).transpose(0, 1).flatten(1, 2)
    outside = (F.max_pool2d(by_frame, 3, stride=1, padding=1) == 0).transpose(0, 1).flatten(1, 2)
    assert inside.flatten(1).any(dim=1).all()
    assert (sample.masks[inside] == 1).all()
    assert (sample.masks[outside] == 0).all()


@each_framing
def test_the_comparison_tells_a_mirrored_picture(data: PanopticData, framing: Framing) -> None:
    """So that the test above can fail."""
    straight, mirrored = (drawn(data, 0, framing, seed) for seed in (STRAIGHT, MIRRORED))
    expected = _expected_shares(straight.pixels, framing)
    assert torch.minimum(mirrored.masks, expected).sum() / torch.maximum(mirrored.masks, expected).sum() < 0.7
    if framing == "square":
        assert torch.equal(straight.pixels.flip(-1), mirrored.pixels)


def test_pictures_are_framed_as_for_answers(data: PanopticData, files: dict[str, Path]) -> None:
    for index in range(len(data)):
        with Image.open(files["images"] / f"{index}_picture.png") as image:
            square, _ = square_pixels(image, CONFIG)
            corner, _ = corner_pixels(image, *CONFIG.universal_px)
        assert torch.equal(drawn(data, index, "square", STRAIGHT).pixels[0], square)
        sample = drawn(data, index, "corner", STRAIGHT)
        height, width = corner.shape[-2:]
        assert torch.equal(sample.pixels[0, :, :height, :width], corner)
        assert not sample.pixels[0, :, height:].any() and not sample.pixels[0, :, :, width:].any()


def test_a_pseudo_clip_is_the_picture_and_the_picture_shifted(data: PanopticData) -> None:
    shifts = []
    for seed in range(12):
        sample = drawn(data, 0, "clip", seed)
        first, second = sample.pixels
        random_state = np.random.RandomState(seed)
        random_state.rand()
        height, width = first.shape[-2:]
        share_y, share_x = random_state.uniform(-0.15, 0.15, size=2)
        dy, dx = int(share_y * height), int(share_x * width)
        shifts.append((dy, dx))
        ys, xs = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        back_ys, back_xs = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        assert torch.equal(second[:, ys, xs], first[:, back_ys, back_xs])
        is_new = torch.ones(height, width, dtype=torch.bool)
        is_new[ys, xs] = False
        assert not second[:, is_new].any()
        assert not sample.masks[:, height // 2 :][F.max_pool2d(-is_new[None].float(), 2).expand(4, -1, -1) == -1].any()
    assert len({np.sign(shift).tobytes() for shift in shifts}) >= 4


def test_a_clip_is_of_the_size_that_clips_have(files: dict[str, Path]) -> None:
    config = dataclasses.replace(CONFIG, clip_px=(96, 36))
    sample = PanopticData.from_files(files, config).sample(0, "clip", 0, np.random.RandomState(0))
    shown = (sample.pixels[0] != 0).any(dim=0).nonzero().amax(dim=0) + 1
    assert shown.tolist() == [36, 48]


@pytest.mark.parametrize("framing", ["corner", "clip"])
@pytest.mark.parametrize("most_px", [(100, 60), (90, 90), (1333, 800)])
def test_any_size_becomes_one_that_the_network_takes(
    files: dict[str, Path], framing: Framing, most_px: tuple[int, int]
) -> None:
    """The released sizes are no multiples of 32."""
    config = dataclasses.replace(CONFIG, universal_px=most_px, clip_px=most_px)
    data = PanopticData.from_files(files, config)
    for index in (0, 1):
        sample = drawn(data, index, framing, STRAIGHT, n_prompts=0)
        assert all(size % 32 == 0 for size in sample.pixels.shape[-2:])
        with Image.open(files["images"] / f"{index}_picture.png") as image:
            whole, _ = corner_pixels(image, *most_px)
        assert torch.equal(sample.pixels[0, :, : whole.shape[1], : whole.shape[2]], whole)
        assert sample.masks.shape[-1] * 2 == sample.pixels.shape[-1]


# Prompts


@each_framing
def test_prompts_lie_inside_their_segment(data: PanopticData, framing: Framing) -> None:
    kinds = Counter()
    for seed in range(60):
        sample = drawn(data, seed % 3, framing, seed, n_prompts=4)
        assert len(sample.prompts) == len(sample.prompted) == 4
        kinds[sample.prompt_kind] += 1
        for prompt, mask in zip(sample.prompts, sample.masks[sample.prompted], strict=True):
            if sample.prompt_kind == "point":
                x, y = prompt.tolist()
                assert mask[int(y) // 2, int(x) // 2] > 0
            elif sample.prompt_kind == "box":
                rows, columns = mask.nonzero().unbind(1)
                x1, y1, x2, y2 = (prompt / 2).tolist()
                assert [int(x1), int(y1)] == [columns.min(), rows.min()]
                assert [int(np.ceil(x2)), int(np.ceil(y2))] == [columns.max() + 1, rows.max() + 1]
            else:
                assert torch.equal(F.avg_pool2d(prompt[None], 2)[0], mask)
    assert kinds.keys() == {"point", "box", "mask"}
    assert kinds["mask"] < min(kinds["point"], kinds["box"])


def test_every_segment_is_prompted_sometimes(data: PanopticData) -> None:
    assert {int(each) for seed in range(20) for each in drawn(data, 0, "square", seed).prompted} == {0, 1, 2, 3}


def test_no_prompts_may_be_asked_for(data: PanopticData) -> None:
    shapes = {
        sample.prompt_kind: sample.prompts.shape
        for sample in (drawn(data, 0, "square", seed, n_prompts=0) for seed in range(20))
    }
    assert shapes == {"point": (0, 2), "box": (0, 4), "mask": (0, SIDE, SIDE)}


# Draws


@each_framing
def test_everything_is_drawn_from_the_given_generator(data: PanopticData, framing: Framing) -> None:
    first = drawn(data, 0, framing, 11)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    again = drawn(data, 0, framing, 11)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    assert first.prompt_kind == again.prompt_kind
    for name in ("pixels", "masks", "classes", "prompts", "prompted"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    others = [drawn(data, 0, framing, seed) for seed in range(12, 20)]
    assert any(not torch.equal(first.pixels, other.pixels) for other in others)


# Pictures that do not fit


def test_segments_without_a_pixel_are_left_out(tmp_path: Path) -> None:
    files = write(tmp_path, SIZES_WH[:1])
    content = document(SIZES_WH[:1])
    content["annotations"][0]["segments_info"].insert(1, {"id": 12345, "category_id": 80})
    files["annotations"].write_text(json.dumps(content))
    sample = drawn(PanopticData.from_files(files, CONFIG), 0, "square", STRAIGHT)
    assert sample.classes.tolist() == [0, 1, 2, 1]
    assert len(sample.masks) == 4


@each_framing
def test_a_picture_without_segments_is_a_sample(tmp_path: Path, framing: Framing) -> None:
    files = write(tmp_path, SIZES_WH[:1])
    content = document(SIZES_WH[:1])
    content["annotations"][0]["segments_info"] = content["annotations"][0]["segments_info"][-1:]
    files["annotations"].write_text(json.dumps(content))
    data = PanopticData.from_files(files, CONFIG)
    for seed in range(8):
        sample = padded(drawn(data, 0, framing, seed), SIDE, SIDE)
        assert sample.masks.shape == (0, SIDE if framing == "clip" else SIDE // 2, SIDE // 2)
        assert len(sample.classes) == len(sample.prompts) == len(sample.prompted) == 0


def test_a_picture_of_another_size_is_an_error(tmp_path: Path) -> None:
    """Otherwise masks are stretched over another picture."""
    files = write(tmp_path, SIZES_WH[:1])
    Image.new("RGB", (32, 48)).save(files["images"] / "0_picture.png")
    with pytest.raises((DataError, ModelError), match="0_picture"):
        drawn(PanopticData.from_files(files, CONFIG), 0, "square", STRAIGHT)


@pytest.mark.parametrize("content", [None, b"", b"not a picture"], ids=["absent", "empty", "text"])
def test_no_picture_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    files = write(tmp_path, SIZES_WH[:1])
    path = files["images"] / "0_picture.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((DataError, ModelError), match="0_picture"):
        drawn(PanopticData.from_files(files, CONFIG), 0, "square", STRAIGHT)


def test_a_png_of_another_size_is_an_error(tmp_path: Path) -> None:
    files = write(tmp_path, SIZES_WH[:1])
    Image.new("RGB", (32, 48)).save(files["segments"] / "0.png")
    with pytest.raises(DataError, match=r"0\.png"):
        drawn(PanopticData.from_files(files, CONFIG), 0, "square", STRAIGHT)


def test_the_helper_draws_every_segment() -> None:
    for width, height in SIZES_WH:
        ids = segment_map(width, height)
        assert set(np.unique(ids)) == {NOTHING, 400, *SEGMENTS}
        assert not np.array_equal(ids, ids[:, ::-1])


# The demo world


def test_demo_scenes_are_written_as_panoptic_files(tmp_path: Path) -> None:
    scenes = [make_scene(seed) for seed in (3, 4)]
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": scene.width, "height": scene.height}
            for n, scene in enumerate(scenes)
        ],
        "annotations": [demo.annotation(scene, n, f"{n}.png") for n, scene in enumerate(scenes)],
        "categories": demo.CATEGORIES,
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    file = read_panoptic(tmp_path / "panoptic.json")
    assert [category.name for category in file.categories.values()][: len(demo.LOOKS)] == list(demo.LOOKS)
    for scene, annotated in zip(scenes, file.images, strict=True):
        (tmp_path / annotated.png_name).write_bytes(demo.png_bytes(scene))
        ids = read_segment_ids(tmp_path / annotated.png_name, scene.height, scene.width)
        assert np.array_equal(ids, scene.segment_map)
        assert {segment.id for segment in annotated.segments} == set(np.unique(scene.segment_map)) - {0}
        names = {segment.id: file.categories[segment.category_id] for segment in annotated.segments}
        for thing in scene.objects:
            if thing.id in names:
                category = names[thing.id]
                assert category.isthing
                assert {thing.size, thing.color, thing.shape} <= set(category.name.split())
                assert (thing.pattern in category.name.split()) == (thing.pattern != "plain")
        assert all(names[region.id] == file.categories[names[region.id].id] for region in scene.stuff)
        assert {names[region.id].name for region in scene.stuff} == {region.name for region in scene.stuff}
        assert not any(names[region.id].isthing for region in scene.stuff)
