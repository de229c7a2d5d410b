"""Osprey-724K in its own layout: what is asked, what is answered, and the pixels of both."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from omg_llava.errors import ModelError
from omg_llava.training.data import load_family
from omg_llava.training.data.osprey import OspreyConversation, OspreyDetailed
from omg_llava.training.samples import TrainingSample
from omg_llava.training.wording_of_training import REGION_QUESTIONS
from omg_llava.vocabulary import MARK, REGION, SEG
from omgbench.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 12, 16


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


SEGMENTATIONS: list[Any] = [
    [rectangle(0, 0, 4, 4)],
    [rectangle(4, 2, 10, 8), rectangle(6, 4, 12, 10)],
    {"size": [HEIGHT, WIDTH], "counts": [10, 5, HEIGHT * WIDTH - 15]},
    [rectangle(12, 0, 16, 3)],
]


def counted(segmentation: Any) -> np.ndarray:
    """As lxtGH/OMG-Seg adds polygons up; run lengths by pycocotools itself."""
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    total = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for part in parts:
        encoded = coco_mask.frPyObjects([part], HEIGHT, WIDTH)
        total += coco_mask.decode(encoded)[:, :, 0]
    return total


def described(n: int = 4) -> dict[str, Any]:
    return {
        "id": 3,
        "file_name": "COCO_train2014_000000000009.jpg",
        "height": HEIGHT,
        "width": WIDTH,
        "annotation": [{"bbox": [0, 0, 4, 4], "segmentation": part} for part in SEGMENTATIONS[:n]],
        "description": [f"<region{i + 1}>: Thing {i} beside <a region>." for i in range(n)],
    }


def discussed() -> dict[str, Any]:
    return {
        **described(2),
        "conversations": [
            {"from": "human", "value": "What is <region1> to <regin2>?"},
            {"from": "gpt", "value": "<region1> holds <region2>."},
            {"from": "human", "value": "Why?"},
            {"from": "gpt", "value": "It can."},
        ],
    }


def files(tmp_path: Path, content: Any) -> dict[str, Path]:
    path = tmp_path / "osprey.json"
    path.write_text(json.dumps(content))
    return {"annotations": path, "images": tmp_path / "train2014"}


def detailed(tmp_path: Path, *content: Any, answers: Any = "grounded") -> OspreyDetailed:
    return OspreyDetailed.from_files(files(tmp_path, list(content)), {}, answers)


def conversation(tmp_path: Path, *content: Any) -> OspreyConversation:
    return OspreyConversation.from_files(files(tmp_path, list(content)), {}, "grounded")


def assert_counts_agree(sample: TrainingSample) -> None:
    questions = "".join(exchange.question for exchange in sample.exchanges)
    answers = "".join(exchange.answer for exchange in sample.exchanges)
    assert questions.count(REGION) == len(sample.prompts)
    assert answers.count(SEG) == len(sample.masks)
    assert MARK not in questions
    assert SEG not in questions
    assert REGION not in answers


def test_three_drawn_regions_are_described_and_one_is_segmented(tmp_path: Path) -> None:
    family = detailed(tmp_path, described())
    seen: set[tuple[int, ...]] = set()
    asked_numbers = set()
    for seed in range(30):
        sample = family.sample(0, np.random.RandomState(seed))
        assert_counts_agree(sample)
        assert len(sample.exchanges) == 4
        places = []
        for number, (exchange, prompt) in enumerate(zip(sample.exchanges, sample.prompts, strict=False), start=1):
            place = int(exchange.answer.split("Thing ")[1][0])
            places.append(place)
            assert exchange.answer == f"region{number}: Thing {place} beside region{number}."
            assert exchange.question.replace(f"region{number} <region>", "<region>") in REGION_QUESTIONS
            assert prompt.kind == "mask"
            assert prompt.value.dtype == np.bool_
            assert (prompt.value == (counted(SEGMENTATIONS[place]) > 0)).all()
        number = int(sample.exchanges[-1].question.removeprefix("Please segment the region").removesuffix("."))
        assert sample.exchanges[-1].answer == f"<p> Region{number} </p> [SEG]."
        assert (sample.masks[0] == counted(SEGMENTATIONS[places[number - 1]])).all()
        assert len(set(places)) == 3
        seen.add(tuple(places))
        asked_numbers.add(number)
    assert len(seen) > 5
    assert asked_numbers == {1, 2, 3}


def test_overlapping_parts_add_up(tmp_path: Path) -> None:
    entry = described(2) | {"annotation": [{"segmentation": SEGMENTATIONS[1]}], "description": ["<region1>: x"]}
    mask = detailed(tmp_path, entry).sample(0, np.random.RandomState(0)).masks[0]
    assert mask.dtype == np.uint8
    assert mask.max() == 2


def test_fewer_regions_keep_their_order_and_plain_answers_are_plain(tmp_path: Path) -> None:
    sample = detailed(tmp_path, described(2), answers="plain").sample(0, np.random.RandomState(1))
    assert [exchange.answer for exchange in sample.exchanges] == [
        "region1: Thing 0 beside region1.",
        "region2: Thing 1 beside region2.",
        "Sure, it is [SEG].",
    ]


def test_unequal_numbers_are_left_out(tmp_path: Path) -> None:
    short = described()
    short["description"].pop()
    family = detailed(tmp_path, short, described(2))
    assert len(family) == 1
    assert family.picture(0) == tmp_path / "train2014" / "COCO_train2014_000000000009.jpg"


def test_a_conversation_introduces_all_regions(tmp_path: Path) -> None:
    sample = conversation(tmp_path, discussed()).sample(0, np.random.RandomState(0))
    assert_counts_agree(sample)
    assert [(exchange.question, exchange.answer) for exchange in sample.exchanges] == [
        (
            "There are some regions: region1 <region>, region2 <region>.\nWhat is region1 to region2?",
            "region1 holds region2.",
        ),
        ("Why?", "It can."),
    ]
    for prompt, segmentation in zip(sample.prompts, SEGMENTATIONS[:2], strict=True):
        assert (prompt.value == (counted(segmentation) > 0)).all()


def test_conversations_without_region_or_answer_are_left_out(tmp_path: Path) -> None:
    without_key = {key: value for key, value in discussed().items() if key != "annotation"}
    no_answer = discussed() | {"conversations": discussed()["conversations"][:1]}
    family = conversation(tmp_path, without_key, discussed() | {"annotation": []}, no_answer, discussed())
    assert len(family) == 1


def test_the_same_random_state_gives_the_same_sample(tmp_path: Path) -> None:
    family = detailed(tmp_path, described())
    one, other = (family.sample(0, np.random.RandomState(5)) for _ in range(2))
    assert one.exchanges == other.exchanges
    assert (one.masks[0] == other.masks[0]).all()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"file_name": "../secret.jpg"}, "file_name is '../secret.jpg'"),
        ({"file_name": "/etc/passwd"}, "file_name is '/etc/passwd'"),
        ({"height": -1}, "image of -1 x 16 pixels"),
        ({"height": True}, "height is true"),
        ({"annotation": {}}, "annotation is an object of 0 keys"),
        ({"annotation": [{"bbox": [0, 0, 1, 1]}]}, "the key 'segmentation' is missing"),
        ({"annotation": [{"segmentation": [[1, 2, float("nan"), 4, 5, 6]]}]}, "not finite"),
        ({"annotation": [{"segmentation": {"size": [9, 9], "counts": [81]}}]}, "mask of 9 x 9 pixels"),
        ({"description": ["fine", 3]}, r"description\[1\] is 3"),
        ({"description": ["a [SEG]", "b"]}, r"holds \[SEG\]"),
        ({"annotation": [], "description": []}, "no region"),
    ],
)
def test_hostile_descriptions(tmp_path: Path, change: dict[str, Any], found: str) -> None:
    with pytest.raises(DataError, match=found) as caught:
        detailed(tmp_path, described(2), described(2) | change)
    assert "osprey.json: [1]" in (caught.value.where or "")


@pytest.mark.parametrize(
    ("turn", "found"),
    [
        ({"from": "system", "value": "x"}, "a turn of 'system'"),
        ({"from": "gpt"}, "the key 'value' is missing"),
        ({"from": "gpt", "value": ["x"]}, "value is a list"),
        ({"from": "gpt", "value": "[S<EG]"}, r"holds \[SEG\]"),
        ("hello", "found 'hello'"),
    ],
)
def test_hostile_turns(tmp_path: Path, turn: Any, found: str) -> None:
    entry = copy.deepcopy(discussed())
    entry["conversations"][1] = turn
    with pytest.raises(DataError, match=found) as caught:
        conversation(tmp_path, entry)
    assert "osprey.json: [0] conversations[1]" in (caught.value.where or "")


def test_a_file_that_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="content is an object"):
        OspreyDetailed.from_files(files(tmp_path, described()), {}, "grounded")


@pytest.mark.parametrize("name", ["osprey_detailed", "osprey_conversation"])
def test_options_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="n_regions"):
        load_family(name).from_files(files(tmp_path, []), {"n_regions": 2}, "grounded")
