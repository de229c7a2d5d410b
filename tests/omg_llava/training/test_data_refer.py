"""Referring segmentation: conversations drawn from REFER's files, masks as they are drawn part by part."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from omg_llava.errors import ModelError
from omg_llava.training.data.refer import ReferringSegmentation
from omg_llava.training.samples import TrainingSample
from omgbench.errors import DataError

QUESTIONS = {
    "Can you segment the {} in this image?",
    "Please segment {} in this image.",
    "What is {} in this image? Please respond with segmentation mask.",
    "What is {} in this image? Please output segmentation mask.",
    "Could you provide a segmentation mask for the {} in this image?",
    "Please identify and segment the {} in this image.",
    "Where is the {} in this picture? Please respond with a segmentation mask.",
    "Can you highlight the {} in this image with a segmentation mask?",
}
QUESTIONS |= {question[:-1] for question in QUESTIONS}
PLAIN = {"It is [SEG].", "Sure, [SEG].", "Sure, it is [SEG].", "Sure, the segmentation result is [SEG].", "[SEG]."}
WIDTH, HEIGHT = 40, 30


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [float(n) for n in (left, top, right, top, right, bottom, left, bottom)]


def run_lengths(left: int, right: int) -> dict[str, Any]:
    """Whole columns."""
    return {"size": [HEIGHT, WIDTH], "counts": [left * HEIGHT, (right - left) * HEIGHT, (WIDTH - right) * HEIGHT]}


SEGMENTATIONS: dict[int, Any] = {
    11: [box(2, 2, 20, 14), box(10, 8, 30, 20)],
    12: [box(0, 0, 5, 30), [1.0, 1.0, 4.0, 4.0]],
    13: run_lengths(7, 19),
    21: [box(3, 3, 9, 9)],
    22: [box(30, 20, 40, 30)],
    31: [box(1, 1, 2, 2)],
}
SENTENCES = {11: ("Left DOG", "the dog"), 12: ("bar",), 13: ("the dog", "stripe {c}"), 21: ("Cup",), 22: (), 31: ("x",)}
SPLITS = {11: "train", 12: "train", 13: "train", 21: "train", 22: "train", 31: "val"}


def counts(segmentation: Any) -> np.ndarray:
    """How many parts lie over a pixel, by pycocotools alone."""
    if isinstance(segmentation, dict):
        rles = [coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)]
    else:
        rles = coco_mask.frPyObjects([part for part in segmentation if len(part) >= 6], HEIGHT, WIDTH)
    return sum(coco_mask.decode(rle) for rle in rles)


def refs() -> list[dict[str, Any]]:
    return [
        {
            "ref_id": number,
            "ann_id": number,
            "image_id": number // 10,
            "category_id": 1,
            "split": SPLITS[number],
            "file_name": f"none_{number}.jpg",
            "sent_ids": [],
            "sentences": [{"sent_id": 10 * number + k, "sent": text, "raw": text} for k, text in enumerate(texts)],
        }
        for number, texts in SENTENCES.items()
    ]


def instances() -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": f"p{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in (3, 2, 1)],
        "annotations": [
            {
                "id": n,
                "image_id": n // 10,
                "category_id": 1,
                "bbox": [0, 0, 1, 1],
                "area": 1,
                "iscrowd": 0,
                "segmentation": s,
            }
            for n, s in SEGMENTATIONS.items()
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }


def write(
    folder: Path, split_by: str = "unc", change: Callable[[Any, Any], object] = lambda refs, instances: None
) -> None:
    own_refs, own_instances = refs(), instances()
    change(own_refs, own_instances)
    (folder / "refcoco").mkdir(exist_ok=True)
    (folder / "refcoco" / f"refs({split_by}).p").write_bytes(pickle.dumps(own_refs, 2))
    (folder / "refcoco" / "instances.json").write_text(json.dumps(own_instances))


def read(folder: Path, answers: Any = "grounded", **options: Any) -> ReferringSegmentation:
    files = {"refer": folder / "refcoco", "images": folder / "train2014"}
    return ReferringSegmentation.from_files(files, options, answers)


def label_of(sample: TrainingSample, turn: int) -> str:
    """What a question asks for, by the template that it fills."""
    question = sample.exchanges[turn].question
    texts = {text for own in SENTENCES.values() for text in own}
    found = {text for text in texts for asked in QUESTIONS if asked.replace("{}", text.lower()) == question}
    assert len(found) == 1, question
    return found.pop()


def drawn(data: ReferringSegmentation, index: int = 0, n: int = 200) -> list[TrainingSample]:
    return [data.sample(index, np.random.RandomState(seed)) for seed in range(n)]


def test_pictures_of_the_split_in_the_order_of_their_first_ref(tmp_path: Path) -> None:
    write(tmp_path)
    data = read(tmp_path)
    assert [str(data.picture(index)) for index in range(len(data))] == [
        str(tmp_path / "train2014" / name) for name in ("p1.jpg", "p2.jpg")
    ]
    assert len(read(tmp_path, split="val")) == 1
    assert read(tmp_path, split="val").picture(0).name == "p3.jpg"
    assert len(read(tmp_path, split="testA")) == 0


def test_questions_answers_and_masks_belong_together(tmp_path: Path) -> None:
    write(tmp_path)
    questions, labels = set(), set()
    for sample in drawn(read(tmp_path)):
        assert sample.picture == tmp_path / "train2014" / "p1.jpg"
        assert len(sample.exchanges) == len(sample.masks) == 3
        assert sample.prompts == ()
        for turn, (exchange, mask) in enumerate(zip(sample.exchanges, sample.masks, strict=True)):
            label = label_of(sample, turn)
            shown = label.lower()
            assert exchange.answer == f"<p> {shown[0].upper() + shown[1:]} </p> [SEG]."
            owners = [number for number in (11, 12, 13) if label in SENTENCES[number]]
            assert mask.dtype == np.uint8
            assert any(np.array_equal(mask, counts(SEGMENTATIONS[number])) for number in owners)
            questions.add(exchange.question.replace(label.lower(), "{}"))
            labels.add((label, mask.tobytes()))
    assert questions == QUESTIONS
    assert len(labels) == 5


def test_overlapping_parts_count_twice(tmp_path: Path) -> None:
    write(tmp_path)
    masks = [mask for sample in drawn(read(tmp_path, n_sentences=9), n=1) for mask in sample.masks]
    assert len(masks) == 5
    assert sum(mask.max() == 2 for mask in masks) == 2


def test_no_sentence_comes_twice_and_all_are_drawn_alike(tmp_path: Path) -> None:
    write(tmp_path)
    data = read(tmp_path, n_sentences=2)
    pairs = {}
    for sample in drawn(data, n=1000):
        keys = [(label_of(sample, turn), mask.tobytes()) for turn, mask in enumerate(sample.masks)]
        assert len(set(keys)) == len(keys) == 2
        for key in keys:
            pairs[key] = pairs.get(key, 0) + 1
    assert len(pairs) == 5
    assert all(abs(n - 400) < 80 for n in pairs.values())


def test_fewer_sentences_than_asked_for_are_all_taken(tmp_path: Path) -> None:
    write(tmp_path)
    [sample] = drawn(read(tmp_path, n_sentences=9), 1, n=1)
    assert [label_of(sample, turn) for turn in range(len(sample.exchanges))] == ["Cup"]


def test_samples_are_drawn_from_the_given_state_alone(tmp_path: Path) -> None:
    write(tmp_path)
    data = read(tmp_path)
    np.random.seed(0)
    first = drawn(data, n=20)
    np.random.seed(1)
    again = drawn(read(tmp_path), n=20)
    assert [sample.exchanges for sample in first] == [sample.exchanges for sample in again]
    assert len({sample.exchanges for sample in first}) > 15
    for own, other in zip(first, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(own.masks, other.masks, strict=True))


def test_plain_answers(tmp_path: Path) -> None:
    write(tmp_path)
    answers = {exchange.answer for sample in drawn(read(tmp_path, "plain")) for exchange in sample.exchanges}
    assert answers == PLAIN


@pytest.mark.parametrize("split_by", ["umd", "google"])
def test_other_splits_have_files_of_their_own(tmp_path: Path, split_by: str) -> None:
    write(tmp_path, split_by)
    assert len(read(tmp_path, split_by=split_by)) == 2
    with pytest.raises(DataError, match="no expressions found"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_sentences": 0}, "n_sentences is 0"),
        ({"n_sentences": "3"}, "n_sentences is '3'"),
        ({"splits": "train"}, "unknown entry 'splits'"),
    ],
    ids=str,
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write(tmp_path)
    with pytest.raises(ModelError) as caught:
        read(tmp_path, **options)
    assert message in str(caught.value)


def test_an_unknown_split_is_a_data_error(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="no split is called"):
        read(tmp_path, split="training")


HOSTILE: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "no such annotation": (lambda refs, _: refs[0].update(ann_id=99), "ann_id 99"),
    "no such picture": (lambda refs, _: refs[0].update(image_id=9), "image_id 9"),
    "annotation of another picture": (lambda refs, _: refs[0].update(ann_id=21), "annotation 21 lies on image 2"),
    "a ref twice": (lambda refs, _: refs.append(refs[0]), "ref_id 11 is used twice"),
    "no sentences": (lambda refs, _: refs[0].pop("sentences"), "sentences"),
    "a sentence that is none": (lambda refs, _: refs[0]["sentences"][0].update(sent=None), "sent"),
    "a name that leads away": (lambda _, own: own["images"][2].update(file_name="../p.jpg"), "file_name"),
    "no size": (lambda _, own: own["images"][2].pop("width"), "width"),
    "no segmentation": (lambda _, own: own["annotations"][0].pop("segmentation"), "segmentation"),
    "a polygon of words": (lambda _, own: own["annotations"][0].update(segmentation=[["a"] * 6]), "segmentation"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_on_reading(tmp_path: Path, case: str) -> None:
    change, message = HOSTILE[case]
    write(tmp_path, change=change)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert message in str(caught.value)
