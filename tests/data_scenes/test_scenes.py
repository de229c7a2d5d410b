"""Scenes: masks, geometry, determinism, clips."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import omgbench
from omgbench.data import scenes
from omgbench.data.scenes import (
    DEMO_VERSION,
    EVALUATION_SEEDS,
    TRAINING_SEEDS,
    Scene,
    SceneStyle,
    describe,
    evaluation_seeds,
    make_clip,
    make_scene,
    referring_expressions,
    render,
)
from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.raster import coverage
from omgbench.data.scenes.shapes import OUTLINES, UNIT, place_outline
from omgbench.data.scenes.vocabulary import COLORS, PATTERNS, SHAPES, SIZES, STUFF
from omgbench.data.scenes.world import MIN_VISIBLE_PERMILLE
from omgbench.errors import UserError

SCENES = [make_scene(seed) for seed in range(150)]


def test_draws_follow_the_raw_stream() -> None:
    words = np.random.PCG64(np.random.SeedSequence([3, 5])).random_raw(400).tolist()
    draws = Draws(3, 5)
    assert [draws.below(1000) for _ in range(400)] == [(word >> 32) * 1000 // 2**32 for word in words]
    assert sorted(Draws(1).shuffled(range(50))) == list(range(50)) != Draws(1).shuffled(range(50))


def test_draws_of_other_keys_differ() -> None:
    streams = {tuple(Draws(*key).noise_bytes(4, 4).ravel().tolist()) for key in ((1,), (2,), (1, 1), (1, 2))}
    assert len(streams) == 4


def test_seeds_of_training_and_evaluation_are_apart() -> None:
    assert not range(max(EVALUATION_SEEDS.start, TRAINING_SEEDS.start), min(EVALUATION_SEEDS.stop, TRAINING_SEEDS.stop))
    blocks = [evaluation_seeds(seed, stream) for seed in (0, 1, 99) for stream in range(100)]
    numbers = {number for block in blocks for number in block}
    assert len(numbers) == sum(map(len, blocks))
    assert min(numbers) in EVALUATION_SEEDS and max(numbers) == EVALUATION_SEEDS[-1]
    for seed, stream in ((-1, 0), (100, 0), (0, 100), (0, -1)):
        with pytest.raises(UserError):
            evaluation_seeds(seed, stream)


def test_outlines_stay_within_their_circle() -> None:
    assert set(OUTLINES) == set(SHAPES)
    for name, polygons in OUTLINES.items():
        farthest = max(float(np.hypot(*polygon.T).max()) for polygon in polygons)
        assert 0.9 * UNIT < farthest < 1.001 * UNIT, name


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_agrees_with_sampled_points(shape: str) -> None:
    polygons = place_outline(shape, 33, 20 * 16, 25 * 16 + 5, 24 * 16 + 3)
    fine = 8
    points = (np.arange(50 * fine) + 0.5) * 16 / fine
    inside = np.zeros((50 * fine, 50 * fine), dtype=bool)
    for polygon in polygons:
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y0 == y1:
                continue
            spans = (points >= min(y0, y1)) & (points < max(y0, y1))
            crossing = x0 + (points - y0) * (x1 - x0) / (y1 - y0)
            inside ^= spans[:, None] & (points[None, :] > crossing[:, None])
    expected = inside.reshape(50, fine, 50, fine).mean(axis=(1, 3))
    found = coverage(polygons, 50, 50)
    assert found.min() == 0 and found.max() == 64
    assert np.abs(found / 64 - expected).max() < 0.2  # 4 lines per pixel against 8
    assert np.abs(found / 64 - expected).mean() < 0.004
    assert abs(found.sum() / 64 - expected.sum()) < 0.01 * expected.sum()


def test_visible_masks_partition_the_picture() -> None:
    for scene in SCENES:
        parts = [thing.mask for thing in scene.objects] + [region.mask for region in scene.stuff]
        assert all(part.shape == (scene.height, scene.width) and part.dtype == np.bool_ for part in parts)
        assert (np.sum(parts, axis=0) == 1).all()
        ids = [thing.id for thing in scene.objects] + [region.id for region in scene.stuff]
        assert len(set(ids)) == len(ids)
        for part, number in zip(parts, ids, strict=True):
            assert np.array_equal(part, scene.segment_map == number)
            assert np.array_equal(scene.mask_of([number]), part)


def test_facts_of_things_agree_with_their_masks() -> None:
    for scene in SCENES:
        for index, thing in enumerate(scene.objects):
            rows, columns = np.nonzero(thing.mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert thing.box_xyxy == box and thing.area_px == len(rows)
            assert thing.id == index + 1 and scene.object(thing.id) is thing
            assert MIN_VISIBLE_PERMILLE / 1000 <= thing.area_px / thing.full_area_px <= 1
            shares = dict(thing.stuff_permille)
            assert 1000 - len(shares) <= sum(shares.values()) <= 1000
            hidden = sum(overlap.area_px for overlap in scene.overlaps if overlap.back_id == thing.id)
            assert thing.full_area_px - thing.area_px <= hidden
            assert not hidden or thing.area_px < thing.full_area_px
        for region in scene.stuff:
            assert region.area_px == np.count_nonzero(region.mask) >= 0.02 * scene.width * scene.height


def test_the_world_is_varied() -> None:
    things = [thing for scene in SCENES for thing in scene.objects]
    assert {thing.shape for thing in things} == set(SHAPES) and len(SHAPES) >= 8
    assert {thing.color for thing in things} == set(COLORS) and len(COLORS) >= 8
    assert {thing.size for thing in things} == set(SIZES)
    assert {thing.pattern for thing in things} == set(PATTERNS)
    assert {region.name for scene in SCENES for region in scene.stuff} == set(STUFF)
    assert {len(scene.objects) for scene in SCENES} == set(range(3, 9))
    assert {(scene.width, scene.height) for scene in SCENES} == set(SceneStyle().sizes_px)
    assert sum(bool(scene.rows) for scene in SCENES) > 20
    assert sum(bool(scene.overlaps) for scene in SCENES) > 40


def test_sizes_of_things_are_apart() -> None:
    radii: dict[str, list[float]] = {size: [] for size in SIZES}
    for scene in SCENES:
        for thing in scene.objects:
            radii[thing.size].append(thing.spec.radius_16 / min(scene.width, scene.height))
    assert max(radii["small"]) * 1.25 < min(radii["medium"]) and max(radii["medium"]) * 1.25 < min(radii["large"])


def test_rows_are_rows() -> None:
    for scene in SCENES:
        for row in scene.rows:
            members = [scene.object(number) for number in row.object_ids]
            assert len(members) in (3, 4)
            assert len({(m.shape, m.size, m.pattern, m.spec.y_16, m.spec.radius_16) for m in members}) == 1
            xs = [m.box_xyxy[0] for m in members]
            assert xs == sorted(xs) and max(np.diff(xs)) - min(np.diff(xs)) <= 1


def test_pictures_show_the_masks() -> None:
    """Inside a thing the picture has the thing's colour, beside it the ground's."""
    for scene in SCENES[:40]:
        picture = render(scene)
        assert picture.shape == (scene.height, scene.width, 3) and picture.dtype == np.uint8
        for thing in scene.objects:
            if thing.pattern == "plain" and thing.area_px > 500:
                median = np.median(picture[thing.mask], axis=0)
                assert np.abs(median - np.array(COLORS[thing.color])).max() < 40
                distances = [np.abs(median - np.array(rgb)).sum() for rgb in COLORS.values()]
                assert list(COLORS)[int(np.argmin(distances))] == thing.color
        for region in scene.stuff:
            median = np.median(picture[region.mask], axis=0)
            assert np.abs(median - np.array(STUFF[region.name].rgb)).max() < 45


def test_one_seed_one_scene() -> None:
    for scene in SCENES[:20]:
        again = make_scene(scene.seed)
        assert again == scene and again is not scene
        assert np.array_equal(again.segment_map, scene.segment_map)
        assert np.array_equal(render(again), render(scene))
    assert len({scene.segment_map.tobytes() for scene in SCENES}) == len(SCENES)


def test_arrays_of_a_scene_are_read_only() -> None:
    scene = SCENES[0]
    for array in (scene.segment_map, scene.ground_map, scene.objects[0].mask, scene.stuff[0].mask):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


@pytest.mark.parametrize(
    ("seed", "style"),
    [
        (-1, SceneStyle()),
        (0, SceneStyle(things=(2, 8))),
        (0, SceneStyle(things=(5, 9))),
        (0, SceneStyle(sizes_px=((96, 20),))),
    ],
)
def test_impossible_wishes_are_refused(seed: int, style: SceneStyle) -> None:
    with pytest.raises(UserError):
        make_scene(seed, style)


def test_style_is_kept() -> None:
    style = SceneStyle(sizes_px=((128, 96),), things=(3, 4), patterned_percent=0)
    for seed in range(10):
        scene = make_scene(seed, style)
        assert (scene.width, scene.height) == (128, 96) and len(scene.objects) in (3, 4)
        assert all(thing.pattern == "plain" for thing in scene.objects)


def test_clips_keep_ids_and_move() -> None:
    moved = 0
    for seed in range(12):
        frames = make_clip(seed, 24)
        assert frames[0] == make_scene(seed) and [scene.frame for scene in frames] == list(range(24))
        assert len({(scene.ground_map.tobytes(), scene.stuff[0].id) for scene in frames}) == 1
        for scene in frames:
            looks = [(t.id, t.shape, t.color, t.size, t.full_area_px > 0) for t in scene.objects]
            assert looks == [(t.id, t.shape, t.color, t.size, True) for t in frames[0].objects]
            parts = [thing.mask for thing in scene.objects] + [region.mask for region in scene.stuff]
            assert (np.sum(parts, axis=0) == 1).all()
            for thing in scene.objects:
                x, y, radius = thing.spec.x_16, thing.spec.y_16, thing.spec.radius_16
                assert radius <= x <= scene.width * 16 - radius and radius <= y <= scene.height * 16 - radius
        for first, last in zip(frames[0].objects, frames[23].objects, strict=True):
            moved += (first.spec.x_16, first.spec.y_16) != (last.spec.x_16, last.spec.y_16)
        assert np.array_equal(make_clip(seed, 24)[23].segment_map, frames[23].segment_map)
    assert moved > 40
    with pytest.raises(UserError):
        make_clip(0, 0)


def test_a_hidden_thing_has_an_empty_mask_and_no_sentence() -> None:
    hidden = [
        (scene, thing)
        for seed in range(40)
        for scene in make_clip(seed, 30)
        for thing in scene.objects
        if not thing.area_px
    ]
    assert hidden
    for scene, thing in hidden:
        assert not thing.mask.any() and thing.box_xyxy == (0, 0, 0, 0)
        assert referring_expressions(scene, thing.id) == ()
        assert all(thing.id not in phrase.object_ids for phrase in describe(scene).phrases)


def _annotation_digest(scene: Scene) -> str:
    facts = {
        "size": (scene.width, scene.height),
        "things": [
            (t.shape, t.color, t.size, t.pattern, t.box_xyxy, t.area_px, t.stuff_permille) for t in scene.objects
        ],
        "rows": [row.object_ids for row in scene.rows],
        "overlaps": [(o.front_id, o.back_id, o.area_px) for o in scene.overlaps],
        "map": hashlib.sha256(scene.segment_map.tobytes()).hexdigest(),
        "sentences": [
            [(e.text, e.kind) for e in referring_expressions(scene, thing.id, style)]
            for style in ("short", "no_location", "long")
            for thing in scene.objects
        ],
        "caption": describe(scene).tagged(),
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


# Another digest means another demo world: raise DEMO_VERSION together with these.
PINNED: dict[int, tuple[str, str]] = {
    0: ("c22398646bee08a1", "ec1c800dcfca2103"),
    1: ("b9cbd59421d9cdd0", "2cda4dcad1219e28"),
    7: ("65cbf34e03a00cad", "8e1f248b569351a3"),
    123_456: ("40e50d91862d3e51", "345e4ef458bc05b8"),
    10_000_000: ("ae2e7d5c9e05f37a", "fa20980ac9b39360"),
    2_000_000_000: ("3845d29343692867", "d70d0384af4a2165"),
}


def test_the_version_is_that_of_the_pins() -> None:
    assert DEMO_VERSION == 1


def test_asking_for_the_version_imports_no_numpy() -> None:
    program = "import sys; from omgbench.data.scenes import DEMO_VERSION; sys.exit('numpy' in sys.modules)"
    folder = Path(omgbench.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=folder, check=False).returncode == 0


def test_the_package_gives_what_it_names() -> None:
    for name in scenes.__all__:
        assert getattr(scenes, name) is not None
    assert callable(scenes.render) and not hasattr(scenes, "no_such_name")


@pytest.mark.parametrize("seed", PINNED)
def test_annotations_and_pixels_are_pinned(seed: int) -> None:
    scene = make_scene(seed)
    assert (_annotation_digest(scene), hashlib.sha256(render(scene).tobytes()).hexdigest()[:16]) == PINNED[seed]
