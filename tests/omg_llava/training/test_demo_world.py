"""The demo world's training data: every file is read by its family and says what the scene says."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omg_llava.training.data.mixture import Mixture, read_mixture
from omg_llava.training.data.panoptic import PanopticData
from omg_llava.training.demo_world import panoptic
from omg_llava.training.demo_world.questions import questions
from omg_llava.training.demo_world.write import write_demo_world
from omg_llava.training.recipe import DataRecipe, find_recipe, recipe_names
from omg_llava.training.samples import TrainingSample
from omgbench.data.panoptic import read_panoptic, read_segment_ids
from omgbench.data.scenes.build import make_scene
from omgbench.data.scenes.caption import describe
from omgbench.data.scenes.files import demo_info
from omgbench.data.scenes.painting import render
from omgbench.data.scenes.referring import referring_expressions
from omgbench.data.scenes.seeds import DEMO_VERSION, EVALUATION_SEEDS, TRAINING_SEEDS
from omgbench.data.scenes.vocabulary import COLORS, SHAPES, STUFF, plural
from omgbench.data.scenes.world import Scene
from omgbench.errors import UserError

from ..lively import small_config
from .small_recipe import N_SCENES

IMAGES = "demo_world/images"
SEEDS = TRAINING_SEEDS[:N_SCENES]
STYLES = {"refcoco": ("short", "unc"), "refcoco+": ("no_location", "unc"), "refcocog": ("long", "umd")}
OBJECT = {name: place for place, name in enumerate(SHAPES)}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(seed) for seed in SEEDS]


def read(root: Path, family: str, role: str, name: str, **options: Any) -> Mixture:
    files = {role: f"demo_world/{name}", "images": IMAGES}
    return read_mixture([DataRecipe(family, files, options=options)], root, "grounded")


def scene_of(sample: TrainingSample, scenes: list[Scene]) -> Scene:
    assert sample.picture is not None
    return scenes[int(sample.picture.stem)]


def drawn(mixture: Mixture, n: int = 6) -> list[TrainingSample]:
    return [mixture.sample(index, np.random.RandomState(seed)) for index in range(len(mixture)) for seed in range(n)]


# Pictures and segments


def test_pictures_are_those_of_training_seeds(demo_root: Path, scenes: list[Scene]) -> None:
    assert all(seed in TRAINING_SEEDS and seed not in EVALUATION_SEEDS for seed in SEEDS)
    files = sorted((demo_root / IMAGES).iterdir())
    assert [path.name for path in files] == [f"{number:012d}.jpg" for number in range(N_SCENES)]
    for path, scene in zip(files, scenes, strict=True):
        shown = np.asarray(Image.open(path), dtype=np.int64)
        assert np.abs(shown - render(scene)).mean() < 2


def test_segments_are_those_of_the_scene(demo_root: Path, scenes: list[Scene]) -> None:
    found = read_panoptic(demo_root / "demo_world/annotations/panoptic.json")
    names = {number: category.name for number, category in found.categories.items()}
    assert len(found.images) == N_SCENES
    for annotated, scene in zip(found.images, scenes, strict=True):
        ids = read_segment_ids(demo_root / "demo_world/panoptic" / annotated.png_name, scene.height, scene.width)
        assert np.array_equal(ids, scene.segment_map)
        listed = {segment.id: names[segment.category_id] for segment in annotated.segments}
        assert listed.keys() == set(np.unique(ids).tolist())
        for thing in scene.objects:
            words = listed[thing.id].split()
            assert words == [
                thing.size,
                *([] if thing.pattern == "plain" else [thing.pattern]),
                thing.color,
                thing.shape,
            ]
        for region in scene.stuff:
            assert region.id not in listed or listed[region.id] == region.name


def test_categories_are_all_looks_and_all_grounds() -> None:
    ids = [category["id"] for category in panoptic.CATEGORIES]
    assert ids == list(range(1, len(ids) + 1))
    names = [category["name"] for category in panoptic.CATEGORIES]
    assert len(set(names)) == len(names) == 3 * 3 * len(COLORS) * len(SHAPES) + len(STUFF)
    assert [category["name"] for category in panoptic.CATEGORIES if not category["isthing"]] == list(STUFF)


def test_perception_training_reads_it(demo_root: Path) -> None:
    files = {
        "annotations": demo_root / "demo_world/annotations/panoptic.json",
        "segments": demo_root / "demo_world/panoptic",
        "images": demo_root / IMAGES,
    }
    data = PanopticData.from_files(files, small_config().image)
    assert len(data) == N_SCENES
    for index in range(len(data)):
        sample = data.sample(index, "square", 2, np.random.RandomState(index))
        assert len(sample.masks) == len(sample.classes) >= 4


# Language


@pytest.mark.parametrize("name", STYLES)
def test_referring_expressions(demo_root: Path, scenes: list[Scene], name: str) -> None:
    style, split_by = STYLES[name]
    mixture = read(demo_root, "refer", "refer", name, split_by=split_by, n_sentences=99)
    assert len(mixture) == N_SCENES
    for sample in drawn(mixture, 1):
        scene = scene_of(sample, scenes)
        wanted = {}
        for thing in scene.objects:
            for item in referring_expressions(scene, thing.id, style, limit=3):
                wanted[item.text.lower().capitalize()] = thing.mask
        assert len(wanted) == len(sample.exchanges) > 3
        for exchange, mask in zip(sample.exchanges, sample.masks, strict=True):
            label = re.fullmatch(r"<p> (.*) </p> \[SEG\]\.", exchange.answer)[1]
            assert label.lower() in exchange.question
            assert np.array_equal(mask, wanted.pop(label))


def test_grounded_captions(demo_root: Path, scenes: list[Scene]) -> None:
    mixture = read(demo_root, "grandf_gcg", "annotations", "grandf/GranDf_HA_GCG_train.json")
    assert len(mixture) == N_SCENES
    for sample in drawn(mixture, 1):
        scene = scene_of(sample, scenes)
        caption = describe(scene)
        [exchange] = sample.exchanges
        plain = re.sub(r"<p> (.*?) </p> \[SEG\]", r"\1", exchange.answer)
        assert plain.rstrip(".") == caption.text.rstrip(".")
        first = {phrase.text: phrase for phrase in reversed(caption.phrases)}
        phrases = sorted(first.values(), key=lambda phrase: phrase.start)
        assert re.findall(r"<p> (.*?) </p>", exchange.answer) == [phrase.text for phrase in phrases]
        for phrase, mask in zip(phrases, sample.masks, strict=True):
            assert np.array_equal(mask, scene.mask_of(phrase.segment_ids))


def test_captions(demo_root: Path, scenes: list[Scene]) -> None:
    mixture = read(demo_root, "llava", "conversations", "llava/captions.json")
    assert len(mixture) == N_SCENES
    for sample in drawn(mixture, 1):
        [exchange] = sample.exchanges
        assert "<image>" not in exchange.question
        assert exchange.answer == describe(scene_of(sample, scenes)).text


def test_regions(demo_root: Path, scenes: list[Scene]) -> None:
    mixture = read(demo_root, "osprey_detailed", "annotations", "osprey/osprey_detailed.json")
    assert len(mixture) == N_SCENES
    for sample in drawn(mixture, 2):
        scene = scene_of(sample, scenes)
        told = _long_sentences(scene)
        *described, asked = sample.exchanges
        for exchange, prompt in zip(described, sample.prompts, strict=True):
            assert prompt.kind == "mask"
            [owner] = [thing for thing in scene.objects if np.array_equal(thing.mask, prompt.value)]
            assert exchange.answer == told[owner.id]
        number = int(re.fullmatch(r"Please segment the region(\d)\.", asked.question)[1])
        [mask] = sample.masks
        assert np.array_equal(mask > 0, sample.prompts[number - 1].value)


def test_points(demo_root: Path, scenes: list[Scene]) -> None:
    mixture = read(demo_root, "mdvp", "annotations", "mdvp/points.json")
    assert len(mixture) == N_SCENES
    for sample in drawn(mixture, 1):
        scene = scene_of(sample, scenes)
        [prompt], [exchange] = sample.prompts, sample.exchanges
        x, y = (int(value) for value in prompt.value)
        assert (x, y) == tuple(prompt.value)
        assert exchange.answer == _long_sentences(scene)[int(scene.segment_map[y, x])]
        assert exchange.question.count("<mark>") == 1


def _long_sentences(scene: Scene) -> dict[int, str]:
    found = {}
    for thing in scene.objects:
        for item in referring_expressions(scene, thing.id, "long", limit=3)[:1]:
            found[thing.id] = item.text[0].upper() + item.text[1:] + "."
    return found


# Short answers


def check_answer(scene: Scene, question: str, answer: str) -> str:
    """That an answer is right, by looking at the scene; the kind of question."""
    text, *options = question.split("\n")
    looks = {(thing.color, thing.shape) for thing in scene.objects}
    shapes = Counter(thing.shape for thing in scene.objects)
    single = re.fullmatch(r"(.*\?) Answer the question using a single word or phrase\.", text)
    if single is None:
        assert options.pop() == "Answer with the option's letter from the given choices directly."
        given = dict(line.split(". ") for line in options)
        assert list(given) == list("ABCD")[: len(given)] and len(set(given.values())) == len(given) >= 2
        color = re.fullmatch(r"What color is the (\w+)\?", text)
        if color:
            right = {thing.color for thing in scene.objects if thing.shape == color[1]}
            assert len(right) == 1
        else:
            assert text == "Which shape is in the image?"
            right = set(shapes)
        assert [letter for letter, option in given.items() if option in right] == [answer]
        return "color" if color else "shape"
    asked = single[1]
    count = re.fullmatch(r"How many (\w+) are in the image\?", asked)
    if count:
        [shape] = [name for name in SHAPES if plural(name) == count[1]]
        assert answer == ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")[shapes[shape]]
        return "count"
    thing = re.fullmatch(r"Is there (an?) (\w+) (\w+) in the image\?", asked)
    if thing:
        assert (thing[1] == "an") == (thing[2][0] in "aeiou")
        assert answer == ("Yes" if (thing[2], thing[3]) in looks else "No")
        return "thing"
    ground = re.fullmatch(r"Is there (\w+) in the image\?", asked)[1]
    assert ground in STUFF
    assert answer == ("Yes" if ground in {region.name for region in scene.stuff} else "No")
    return "ground"


def test_short_answers(demo_root: Path, scenes: list[Scene]) -> None:
    mixture = read(demo_root, "llava", "conversations", "llava/short_answers.json")
    assert len(mixture) == N_SCENES
    for sample in drawn(mixture, 1):
        scene = scene_of(sample, scenes)
        kinds = [check_answer(scene, exchange.question, exchange.answer) for exchange in sample.exchanges]
        assert Counter(kinds)["thing"] == 2 and len(set(kinds)) >= 4


def test_yes_and_no_are_balanced_and_every_answer_is_right() -> None:
    answers: dict[str, Counter[str]] = {}
    close = 0
    for seed in TRAINING_SEEDS[1000:1060]:
        scene = make_scene(seed)
        asked = questions(scene)
        assert asked == questions(scene)
        for item in asked:
            answers.setdefault(check_answer(scene, item.question, item.answer), Counter())[item.answer] += 1
            absent = re.match(r"Is there an? (\w+) (\w+) in", item.question)
            if absent and item.answer == "No":
                seen = {thing.color for thing in scene.objects}, {thing.shape for thing in scene.objects}
                close += absent[1] in seen[0] or absent[2] in seen[1]
    assert answers["thing"] == {"Yes": 60, "No": 60}
    assert 18 <= answers["ground"]["Yes"] <= 42
    assert close >= 30
    for kind in ("color", "shape"):
        assert set(answers[kind]) == set("ABCD")
    assert len(answers["count"]) >= 2


# Files


def test_the_recipes_that_come_along_can_be_trained_on_it(demo_root: Path) -> None:
    demo = [find_recipe(name) for name in recipe_names()]
    demo = [recipe for recipe in demo if recipe.demo_scenes]
    assert demo
    for recipe in demo:
        for stage in recipe.stages:
            if stage.data[0].family == "panoptic":
                assert all((demo_root / path).exists() for path in stage.data[0].files.values())
            else:
                mixture = read_mixture(stage.data, demo_root, "grounded")
                assert len(mixture) == N_SCENES * sum(item.times for item in stage.data)
                assert all(Path(str(mixture.picture(index))).exists() for index in range(len(mixture)))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_files_are_marked_as_demo_data(demo_root: Path) -> None:
    for path in ("annotations/panoptic.json", "refcoco/instances.json", "refcocog/instances.json"):
        whole = json.loads((demo_root / "demo_world" / path).read_text())
        assert whole["info"] == demo_info(TRAINING_SEEDS.start)
    refs = pickle.loads((demo_root / "demo_world/refcoco/refs(unc).p").read_bytes())  # noqa: S301
    assert {ref["split"] for ref in refs} == {"train"}


def test_what_is_there_is_not_written_again(demo_root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (demo_root / "demo_world").rglob("*")}
    told: list[tuple[int, int]] = []
    assert write_demo_world(demo_root, N_SCENES, lambda done, of: told.append((done, of))) == demo_root / "demo_world"
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in (demo_root / "demo_world").rglob("*")} == before


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes without a pool of processes."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(
        "omg_llava.training.demo_world.write.ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1)
    )


@pytest.mark.usefixtures("_in_this_process")
def test_fewer_scenes_are_the_first_of_more(demo_root: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_demo_world(tmp_path, 2, lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]
    few, all_of = content(tmp_path / "demo_world"), content(demo_root / "demo_world")
    assert {name.partition("/")[0] for name in few} - {f"complete_{DEMO_VERSION}_2"} == {
        name.partition("/")[0] for name in all_of
    } - {f"complete_{DEMO_VERSION}_{N_SCENES}"}
    for name, data in few.items():
        if name.startswith(("images/", "panoptic/")):
            assert data == all_of[name]
        elif name.startswith("llava/"):
            assert json.loads(data) == json.loads(all_of[name])[:2]


@pytest.mark.usefixtures("_in_this_process")
def test_a_smaller_world_over_a_larger_one_does_not_pass_for_it(tmp_path: Path) -> None:
    for n_scenes in (2, 1, 2):
        write_demo_world(tmp_path, n_scenes)
    entries = json.loads((tmp_path / "demo_world/llava/captions.json").read_text())
    assert len(entries) == 2


@pytest.mark.usefixtures("_in_this_process")
def test_real_annotations_are_not_written_over(tmp_path: Path) -> None:
    real = tmp_path / "demo_world/annotations/panoptic.json"
    real.parent.mkdir(parents=True)
    real.write_text('{"info": {"description": "COCO"}}')
    with pytest.raises(UserError, match="not demo data"):
        write_demo_world(tmp_path, 1)
    assert real.read_text() == '{"info": {"description": "COCO"}}'


def test_no_scenes_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 scenes"):
        write_demo_world(tmp_path, 0)
