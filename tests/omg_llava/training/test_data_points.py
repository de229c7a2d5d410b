"""MDVP's texts about points, and multi-point captions, in the layout of their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omg_llava.errors import ModelError
from omg_llava.training.data import load_family
from omg_llava.training.data.points import MdvpPoints, MultiPointCaption
from omg_llava.vocabulary import MARK
from omgbench.errors import DataError


def entry() -> dict[str, Any]:
    return {
        "id": "0",
        "image": "/somewhere/else/ADE_train_00000001.jpg",
        "points": [[3, 4], [10.5, 0.25]],
        "conversations": [
            {"from": "human", "value": "Please describe <Mark 1> and <Mark 2>."},
            {"from": "gpt", "value": "<Mark 1>: A door.\n<Mark 2>: A lamp > the door."},
            {"from": "human", "value": "And <Mark 2> alone?"},
            {"from": "gpt", "value": "Bright."},
        ],
    }


def files(tmp_path: Path, content: Any) -> dict[str, Path]:
    path = tmp_path / "gpt4v_ade20k_QA_point.json"
    path.write_text(json.dumps(content))
    return {"annotations": path, "images": tmp_path / "VG_100K"}


def read(tmp_path: Path, *content: Any) -> MdvpPoints:
    return MdvpPoints.from_files(files(tmp_path, list(content)), {}, "grounded")


@pytest.mark.parametrize(("name", "kind"), [("mdvp", MdvpPoints), ("multi_point", MultiPointCaption)])
def test_points_are_introduced_and_named(tmp_path: Path, name: str, kind: type[MdvpPoints]) -> None:
    family = load_family(name).from_files(files(tmp_path, [entry()]), {}, "plain")
    assert type(family) is kind
    sample = family.sample(0, np.random.RandomState(0))
    assert [(exchange.question, exchange.answer) for exchange in sample.exchanges] == [
        (
            "There are some marks: Mark 1 <mark>, Mark 2 <mark>.\nPlease describe Mark 1 and Mark 2.",
            "Mark 1: A door.\nMark 2: A lamp  the door.",
        ),
        ("And Mark 2 alone?", "Bright."),
    ]
    assert [(prompt.kind, prompt.value.tolist()) for prompt in sample.prompts] == [
        ("point", [3.0, 4.0]),
        ("point", [10.5, 0.25]),
    ]
    assert "".join(exchange.question for exchange in sample.exchanges).count(MARK) == len(sample.prompts)
    assert {prompt.placeholder for prompt in sample.prompts} == {MARK}
    assert sample.masks == ()


def test_of_a_path_the_last_part_counts(tmp_path: Path) -> None:
    family = read(tmp_path, entry(), entry() | {"image": "9.jpg"})
    assert [family.picture(index).name for index in range(len(family))] == ["ADE_train_00000001.jpg", "9.jpg"]
    assert family.sample(1, np.random.RandomState(0)).picture == tmp_path / "VG_100K" / "9.jpg"


def test_a_second_folder_has_what_the_first_lacks(tmp_path: Path) -> None:
    first, second = tmp_path / "VG_100K", tmp_path / "VG_100K_2"
    for folder, name in ((first, "1.jpg"), (second, "1.jpg"), (second, "2.jpg")):
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    content = [entry() | {"image": f"{number}.jpg"} for number in (1, 2, 3)]
    family = MdvpPoints.from_files(files(tmp_path, content) | {"more_images": second}, {}, "grounded")
    assert [family.picture(index) for index in range(3)] == [first / "1.jpg", second / "2.jpg", first / "3.jpg"]


def test_entries_without_point_or_answer_are_left_out(tmp_path: Path) -> None:
    unanswered = entry()["conversations"][:1]
    assert len(read(tmp_path, entry() | {"points": []}, entry() | {"conversations": unanswered}, entry())) == 1


@pytest.mark.parametrize(
    ("change", "found", "where"),
    [
        ({"image": "a/.."}, r"image is '\.\.'", "[1]"),
        ({"image": "folder/"}, "image is ''", "[1]"),
        ({"image": "..\\secret.jpg"}, "image is", "[1]"),
        ({"image": None}, "image is null", "[1]"),
        ({"points": {"1": [2, 3]}}, "points is an object", "[1]"),
        ({"points": [[1, 2], [1, 2, 3, 4]]}, "point of 4 numbers", "[1] points[1]"),
        ({"points": [[1, "2"]]}, "point is '2'", "[1] points[0]"),
        ({"points": [[1, True]]}, "point is true", "[1] points[0]"),
        ({"points": [[1, float("inf")]]}, "point is inf", "[1] points[0]"),
        ({"points": [[-40, 3]]}, r"point is \[-40", "[1] points[0]"),
        ({"points": [[3, 1e9]]}, r"point is \[3", "[1] points[0]"),
        ({"conversations": "x"}, "conversations is 'x'", "[1]"),
        ({"conversations": [{"from": "human", "value": "[SEG]"}]}, r"holds \[SEG\]", "[1] conversations[0]"),
    ],
)
def test_hostile_entries(tmp_path: Path, change: dict[str, Any], found: str, where: str) -> None:
    with pytest.raises(DataError, match=found) as caught:
        read(tmp_path, entry(), entry() | change)
    assert (caught.value.where or "").endswith(f"gpt4v_ade20k_QA_point.json: {where}")


def test_a_missing_key(tmp_path: Path) -> None:
    without = {key: value for key, value in entry().items() if key != "points"}
    with pytest.raises(DataError, match="the key 'points' is missing"):
        read(tmp_path, without)


def test_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="multi_point"):
        MultiPointCaption.from_files(files(tmp_path, []), {"shuffle": True}, "grounded")
