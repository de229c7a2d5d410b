"""ADE20K and COCO-Stuff in their own folders: classes drawn per access, their pixels, and labels that cannot be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from omg_llava.errors import ModelError
from omg_llava.training.data import load_family
from omg_llava.training.data.semantic import Ade20k, CocoStuff, read_label_map
from omg_llava.training.wording_of_training import PLAIN_ANSWERS, SEGMENT
from omgbench.errors import DataError

ADE_NAMES = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.16\t9\t1\t1\twall\n2 \t0.11\t6\t6\t0\tbed \n"
ADE_NAMES += "3\t0.1\t6\t6\t0\tperson, individual, soul\n"
STUFF_NAMES = "0: unlabeled\n1: Person\n2: traffic light\n3: wall-brick\n4: sky\n"
HEIGHT, WIDTH = 6, 8


def label_map(*stripes: int) -> NDArray[np.uint8]:
    """Labels in stripes of two columns."""
    return np.repeat(np.array(stripes, dtype=np.uint8), 2)[None].repeat(HEIGHT, axis=0)


def write(root: Path, labels: Mapping[str, NDArray[np.uint8]], names: str | None) -> dict[str, Path]:
    folders = {"images": root / "images" / "training", "labels": root / "annotations" / "training"}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for stem, label in labels.items():
        Image.new("RGB", (WIDTH, HEIGHT)).save(folders["images"] / f"{stem}.jpg")
        Image.fromarray(label).save(folders["labels"] / f"{stem}.png")
    if names is not None:
        folders["names"] = root / "names.txt"
        folders["names"].write_text(names)
    return folders


def ade(root: Path, labels: Mapping[str, NDArray[np.uint8]], answers: Any = "grounded") -> Ade20k:
    return Ade20k.from_files(write(root, labels, ADE_NAMES), {}, answers)


def questions(name: str) -> set[str]:
    return {wording.replace("{c}", name) for wording in SEGMENT}


def test_ade20k_draws_one_class_per_access(tmp_path: Path) -> None:
    label = label_map(0, 1, 3, 3)
    family = ade(tmp_path, {"ADE_train_2": label, "ADE_train_1": label_map(2, 2, 2, 2)})
    assert len(family) == 2
    assert [family.picture(index).name for index in (0, 1)] == ["ADE_train_1.jpg", "ADE_train_2.jpg"]
    seen = set()
    for seed in range(20):
        sample = family.sample(1, np.random.RandomState(seed))
        (exchange,), (mask,) = sample.exchanges, sample.masks
        number, name = {"<p> Wall </p> [SEG].": (1, "wall"), "<p> Person </p> [SEG].": (3, "person")}[exchange.answer]
        assert exchange.question in questions(name)
        assert mask.dtype == np.uint8
        assert (mask == (label == number)).all()
        assert sample.picture == family.picture(1)
        assert sample.prompts == ()
        seen.add(name)
    assert seen == {"wall", "person"}
    assert family.sample(0, np.random.RandomState(0)).exchanges[0].answer == "<p> Bed </p> [SEG]."


def test_plain_answers(tmp_path: Path) -> None:
    sample = ade(tmp_path, {"a": label_map(1, 1, 1, 1)}, "plain").sample(0, np.random.RandomState(0))
    assert sample.exchanges[0].answer in PLAIN_ANSWERS


def test_the_same_random_state_gives_the_same_sample(tmp_path: Path) -> None:
    family = ade(tmp_path, {"a": label_map(1, 2, 3, 0)})
    one, other = (family.sample(0, np.random.RandomState(7)) for _ in range(2))
    assert one.exchanges == other.exchanges
    assert (one.masks[0] == other.masks[0]).all()


@pytest.mark.parametrize("way", ["json", "option"])
def test_names_of_ade20k_as_a_list(tmp_path: Path, way: str) -> None:
    files = write(tmp_path, {"a": label_map(2, 2, 2, 2)}, None)
    names, options = ["wall", "water bed"], {}
    if way == "json":
        files["names"] = tmp_path / "ade20k_classes.json"
        files["names"].write_text(json.dumps(names))
    else:
        options = {"names": names}
    sample = Ade20k.from_files(files, options, "grounded").sample(0, np.random.RandomState(0))
    assert sample.exchanges[0].answer == "<p> Water bed </p> [SEG]."


def test_coco_stuff_counts_from_its_first_class_and_ignores_hyphens(tmp_path: Path) -> None:
    label = label_map(0, 2, 3, 255)
    family = CocoStuff.from_files(write(tmp_path, {"000000000009": label}, STUFF_NAMES), {}, "grounded")
    answers = set()
    for seed in range(20):
        sample = family.sample(0, np.random.RandomState(seed))
        number, name = {"<p> Person </p> [SEG].": (0, "person"), "<p> Sky </p> [SEG].": (3, "sky")}[
            sample.exchanges[0].answer
        ]
        assert sample.exchanges[0].question in questions(name)
        assert (sample.masks[0] == (label == number)).all()
        answers.add(name)
    assert answers == {"person", "sky"}


def test_a_picture_without_a_class_gives_way_to_the_first(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": label_map(3, 3, 3, 255), "b": label_map(2, 2, 255, 255)}, STUFF_NAMES)
    sample = CocoStuff.from_files(files, {}, "grounded").sample(1, np.random.RandomState(0))
    assert sample.picture == files["images"] / "a.jpg"
    assert (sample.masks[0] == (label_map(3, 3, 3, 255) == 3)).all()


def test_no_class_in_the_first_either(tmp_path: Path) -> None:
    family = ade(tmp_path, {"a": label_map(0, 0, 0, 0), "b": label_map(0, 0, 0, 0)})
    with pytest.raises(DataError, match="neither this picture nor the first"):
        family.sample(1, np.random.RandomState(0))


def test_a_palette_does_not_change_labels(tmp_path: Path) -> None:
    image = Image.fromarray(label_map(0, 1, 2, 255)).convert("L")
    image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(tmp_path / "p.png")
    assert (read_label_map(tmp_path / "p.png") == label_map(0, 1, 2, 255)).all()


def spoil(files: dict[str, Path], how: str) -> None:
    label = files["labels"] / "a.png"
    if how == "size":
        Image.fromarray(label_map(1, 1, 1)).save(label)
    elif how == "class":
        Image.fromarray(label_map(1, 1, 4, 1)).save(label)
    elif how == "colours":
        Image.new("RGB", (WIDTH, HEIGHT)).save(label)
    elif how == "16 bit":
        Image.fromarray(label_map(1, 1, 1, 1).astype(np.uint16)).save(label)
    elif how == "cut off":
        label.write_bytes(label.read_bytes()[:-30])
    elif how == "jpeg":
        Image.new("L", (WIDTH, HEIGHT)).save(label, format="JPEG")
    else:
        (files["images"] / "a.jpg").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("size", "label map of 6 x 6 pixels"),
        ("class", r"class 3 \(from 0\) has no name"),
        ("colours", "PNG of mode RGB"),
        ("16 bit", "PNG of mode I"),
        ("cut off", "the PNG cannot be read"),
        ("jpeg", "the PNG cannot be read"),
        ("picture", "the picture cannot be read"),
    ],
)
def test_label_maps_that_cannot_be(tmp_path: Path, how: str, found: str) -> None:
    files = write(tmp_path, {"a": label_map(1, 1, 1, 1)}, ADE_NAMES)
    spoil(files, how)
    family = Ade20k.from_files(files, {}, "grounded")
    with pytest.raises(DataError, match=found) as caught:
        family.sample(0, np.random.RandomState(0))
    assert (caught.value.where or "").endswith("a.jpg" if how == "picture" else "a.png")


def test_a_label_map_without_its_picture(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": label_map(1, 1, 1, 1)}, ADE_NAMES)
    (files["images"] / "a.jpg").rename(files["images"] / "other.jpg")
    with pytest.raises(DataError, match=r"a\.jpg is not there"):
        Ade20k.from_files(files, {}, "grounded")


def test_folders_that_are_empty_or_none(tmp_path: Path) -> None:
    files = write(tmp_path, {}, ADE_NAMES)
    with pytest.raises(DataError, match="no label maps"):
        Ade20k.from_files(files, {}, "grounded")
    with pytest.raises(DataError, match="the folder cannot be read"):
        Ade20k.from_files(files | {"labels": tmp_path / "nowhere"}, {}, "grounded")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("ade20k", "", "no columns Idx and Name"),
        ("ade20k", "wall\nbed\n", "no columns Idx and Name"),
        ("ade20k", "Idx\tName\n2\twall\n", r"the line is '2 \| wall'"),
        ("ade20k", "Idx\tName\n1\n", "the line is '1'"),
        ("ade20k", "Idx\tName\n1\t, wall\n", "name 0 is ''"),
        ("coco_stuff", "1: person\n", "the line is '1: person'"),
        ("coco_stuff", "0: unlabeled\n1 person\n", "the line is '1 person'"),
        ("coco_stuff", "0: unlabeled\n1: a </p> b\n", "name 0 is 'a </p> b'"),
        ("coco_stuff", "0: unlabeled\n", "0 names"),
        ("coco_stuff", "".join(f"{i}: n\n" for i in range(300)), "299 names"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, text: str, found: str) -> None:
    files = write(tmp_path, {"a": label_map(1, 1, 1, 1)}, text)
    with pytest.raises(DataError, match=found) as caught:
        load_family(name).from_files(files, {}, "grounded")
    assert "names.txt" in (caught.value.where or "")


def test_options_are_checked(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": label_map(1, 1, 1, 1)}, ADE_NAMES)
    with pytest.raises(ModelError, match="unknown entry 'classes'"):
        Ade20k.from_files(files, {"classes": 3}, "grounded")
    with pytest.raises(ModelError, match="as an option and as a file"):
        Ade20k.from_files(files, {"names": ["wall"]}, "grounded")
