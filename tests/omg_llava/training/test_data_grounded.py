"""Grounded conversations of GranD-f, OpenPSG, Flickr30k and RefCOCOg, from tiny files in their layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from omg_llava.answers import read_grounded_text
from omg_llava.errors import ModelError
from omg_llava.training.data import load_family
from omg_llava.training.data.grounded import FlickrGcg, GranDf, GroundedConversations, OpenPsg, RefCocoGcg
from omg_llava.training.data.grounded_caption import GroundedPhrase, grounded_caption
from omg_llava.training.samples import TrainingSample
from omg_llava.wording import GROUNDED_CAPTION
from omgbench.data.coco import Rles
from omgbench.errors import DataError

HEIGHT, WIDTH = 33, 40
NAME = "sa_1.jpg"


def block(top: int, left: int, bottom: int, right: int) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


MAN, HORSE, TAIL, BARN = block(2, 3, 20, 9), block(10, 8, 30, 25), block(12, 20, 28, 30), block(0, 28, 8, 40)


def rle(mask: NDArray[np.uint8]) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def polygon(top: int, left: int, bottom: int, right: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def family(kind: type[GroundedConversations], folder: Path, content: object) -> GroundedConversations:
    """A family on `content`, with a picture of the right size under the name that all entries use."""
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(content), encoding="utf-8")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / NAME)
    return kind.from_files({"annotations": annotations, "images": folder}, {}, "grounded")


def only_sample(kind: type[GroundedConversations], folder: Path, content: object) -> TrainingSample:
    built = family(kind, folder, content)
    assert len(built) == 1
    return built.sample(0, np.random.RandomState(0))


def check(sample: TrainingSample, answer: str, masks: list[NDArray[np.uint8]]) -> None:
    (exchange,) = sample.exchanges
    assert exchange.question in GROUNDED_CAPTION
    assert exchange.answer == answer
    assert len(sample.masks) == len(masks) == answer.count("[SEG]")
    for found, expected in zip(sample.masks, masks, strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


CAPTION = "A man rides a horse near a barn today."


def grandf_entry(**changes: object) -> dict[str, Any]:
    """Phrases not in reading order; the horse is of two parts that overlap."""
    groundings = {
        "a horse": {"token_positives": [12, 19], "rle_masks": [rle(HORSE), rle(TAIL)]},
        "a barn": {"token_positives": [25, 31], "rle_masks": [rle(BARN)]},
        "A man": {"token_positives": [0, 5], "rle_masks": [rle(MAN)]},
        "nothing": None,
    }
    entry = {"file_name": NAME, "height": HEIGHT, "width": WIDTH, "image_id": "sa_1"}
    return {**entry, "caption": CAPTION, "groundings": groundings, **changes}


ANSWER = "<p> A man </p> [SEG] rides <p> a horse </p> [SEG] near <p> a barn </p> [SEG] today."


@pytest.mark.parametrize("kind", [GranDf, OpenPsg])
def test_grandf_word_for_word(kind: type[GroundedConversations], tmp_path: Path) -> None:
    sample = only_sample(kind, tmp_path, [grandf_entry()])
    check(sample, ANSWER, [MAN, HORSE + TAIL, BARN])
    assert sample.masks[1].max() == 2
    assert sample.picture == tmp_path / NAME
    assert sample.prompts == ()
    read = read_grounded_text(sample.exchanges[0].answer)
    assert read.caption == CAPTION
    assert [phrase.text for phrase in read.phrases] == ["A man", "a horse", "a barn"]
    assert read.n_seg == 3


def test_quotation_marks_go_and_spans_with_them(tmp_path: Path) -> None:
    """As in the file, spans count the opening mark; the closing one belongs to the span and goes too."""
    entry = grandf_entry(
        caption='" A man rides."',
        groundings={
            "A man": {"token_positives": [2, 7], "rle_masks": [rle(MAN)]},
            "rides.": {"token_positives": [8, 15], "rle_masks": [rle(BARN)]},
            "mark": {"token_positives": [0, 1], "rle_masks": [rle(BARN)]},
        },
    )
    sample = only_sample(GranDf, tmp_path, [entry])
    check(sample, "<p> A man </p> [SEG] <p> rides. </p> [SEG]", [MAN, BARN])


@pytest.mark.parametrize("span", [[-1, -1], [-3, 4], [38, 50], [4, 4], [9, 7], [14, 17], [12, 19], [18, 24]])
def test_a_phrase_without_a_place_of_its_own_goes_with_its_mask(span: list[int], tmp_path: Path) -> None:
    entry = grandf_entry()
    entry["groundings"]["odd"] = {"token_positives": span, "rle_masks": [rle(TAIL)]}
    check(only_sample(GranDf, tmp_path, [entry]), ANSWER, [MAN, HORSE + TAIL, BARN])


def test_touching_phrases_and_an_end_behind_the_caption(tmp_path: Path) -> None:
    groundings = {
        "A man": {"token_positives": [0, 5], "rle_masks": [rle(MAN)]},
        "tail": {"token_positives": [5, 99], "rle_masks": []},
    }
    sample = only_sample(GranDf, tmp_path, [grandf_entry(caption="A man rides", groundings=groundings)])
    check(sample, "<p> A man </p> [SEG]<p>  rides </p> [SEG]", [MAN, np.zeros((HEIGHT, WIDTH), np.uint8)])


def test_captions_without_phrases_are_left_out(tmp_path: Path) -> None:
    bare = grandf_entry(groundings={}, file_name="gone.jpg")
    built = family(GranDf, tmp_path, [bare, grandf_entry(), bare])
    assert len(built) == 1
    assert built.picture(0) == tmp_path / NAME
    with pytest.raises(DataError, match="no caption with a grounded phrase"):
        family(GranDf, tmp_path, [bare])


def test_only_the_question_is_drawn_and_only_from_the_given_state(tmp_path: Path) -> None:
    built = family(GranDf, tmp_path, [grandf_entry()])
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    random = np.random.RandomState(5)
    drawn = [built.sample(0, random).exchanges[0] for _ in range(60)]
    assert {exchange.question for exchange in drawn} == set(GROUNDED_CAPTION)
    assert {exchange.answer for exchange in drawn} == {ANSWER}
    again = np.random.RandomState(5)
    assert [built.sample(0, again).exchanges[0] for _ in range(60)] == drawn
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


FLICKR_CAPTION = "Two men ride one brown horse home ."


def flickr(**changes: object) -> dict[str, Any]:
    image = {"file_name": NAME, "height": HEIGHT, "width": WIDTH, "id": 7, "caption": FLICKR_CAPTION, **changes}
    return {
        "info": [],
        "categories": [{"id": 1, "name": "object"}],
        "images": [image],
        "annotations": [flickr_annotation(1, [13, 28], HORSE), flickr_annotation(2, [0, 7], MAN)],
    }


def flickr_annotation(number: int, span: list[int], mask: NDArray[np.uint8], **changes: object) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": 7,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [3, 2, 10.5, 18],
        "area": 189.0,
        "tokens_positive": [span, [29, 33]],
        "sam_mask": rle(mask),
        **changes,
    }


FLICKR_ANSWER = "<p> Two men </p> [SEG] ride <p> one brown horse </p> [SEG] home ."


def test_flickr_word_for_word(tmp_path: Path) -> None:
    sample = only_sample(FlickrGcg, tmp_path, flickr())
    check(sample, FLICKR_ANSWER, [MAN, HORSE])
    read = read_grounded_text(sample.exchanges[0].answer)
    assert read.caption == FLICKR_CAPTION
    assert [phrase.text for phrase in read.phrases] == ["Two men", "one brown horse"]


@pytest.mark.parametrize(
    "changes",
    [
        {"ignore": 1},
        {"area": 0},
        {"area": -3.0},
        {"bbox": [3, 2, 0.5, 18]},
        {"bbox": [3, 2, 10, 0.9]},
        {"bbox": [-12, 2, 12, 5]},
        {"bbox": [WIDTH, 2, 12, 5]},
        {"bbox": [3, HEIGHT + 1, 12, 5]},
        {"image_id": 8},
    ],
)
def test_flickr_leaves_out_what_the_official_reader_leaves_out(changes: dict[str, object], tmp_path: Path) -> None:
    content = flickr()
    content["annotations"].append(flickr_annotation(3, [29, 33], BARN, **changes))
    check(only_sample(FlickrGcg, tmp_path, content), FLICKR_ANSWER, [MAN, HORSE])


def test_flickr_keeps_a_box_that_reaches_over_the_border(tmp_path: Path) -> None:
    content = flickr()
    content["annotations"].append(flickr_annotation(3, [29, 33], BARN, bbox=[-11, -4, 12, 5]))
    assert len(only_sample(FlickrGcg, tmp_path, content).masks) == 3


def test_flickr_short_captions_and_small_images_are_left_out(tmp_path: Path) -> None:
    content = flickr()
    content["images"].append({"id": 8, "file_name": NAME, "height": 33, "width": 40, "caption": "Two men"})
    content["images"].append({"id": 9, "file_name": NAME, "height": 31, "width": 40, "caption": FLICKR_CAPTION})
    content["images"].append({"id": 10, "file_name": NAME, "height": 32, "width": 32, "caption": "Two men ride"})
    small = np.zeros((32, 32), dtype=np.uint8)
    for number, image_id in enumerate((8, 9, 10)):
        content["annotations"].append(flickr_annotation(5 + number, [0, 7], small, image_id=image_id))
    built = family(FlickrGcg, tmp_path, content)
    assert len(built) == 2
    Image.new("L", (32, 32)).save(tmp_path / NAME)
    sample = built.sample(1, np.random.RandomState(0))
    check(sample, "<p> Two men </p> [SEG] ride", [small])


def refcocog(**changes: object) -> list[dict[str, Any]]:
    """Sentences not in reading order, in other case than the caption, and one that is not there."""
    refs = [
        {"sentence": "A brown horse", "segmentation": [polygon(10, 8, 30, 25), polygon(12, 20, 28, 30)]},
        {"sentence": "the man in blue", "segmentation": [polygon(2, 3, 20, 9)]},
        {"sentence": "a zebra", "segmentation": [polygon(0, 0, 9, 9)]},
    ]
    entry = {"img_file_name": NAME, "caption": '"The man in Blue leads a Brown horse home."', "refs": refs, **changes}
    return [{"1234": entry}]


REFCOCOG_ANSWER = "<p> the man in blue </p> [SEG] leads <p> a brown horse </p> [SEG] home."


def drawn(*polygons: list[float]) -> NDArray[np.uint8]:
    masks = [coco_mask.decode(coco_mask.frPyObjects([each], HEIGHT, WIDTH))[..., 0] for each in polygons]
    total: NDArray[np.uint8] = np.sum(masks, axis=0, dtype=np.uint8)
    return total


def test_refcocog_word_for_word(tmp_path: Path) -> None:
    sample = only_sample(RefCocoGcg, tmp_path, refcocog())
    horse = drawn(polygon(10, 8, 30, 25), polygon(12, 20, 28, 30))
    assert horse.max() == 2
    check(sample, REFCOCOG_ANSWER, [drawn(polygon(2, 3, 20, 9)), horse])
    read = read_grounded_text(sample.exchanges[0].answer)
    assert read.caption == "the man in blue leads a brown horse home."
    assert [phrase.text for phrase in read.phrases] == ["the man in blue", "a brown horse"]


def test_refcocog_ends_a_phrase_where_the_next_starts(tmp_path: Path) -> None:
    """The whole of a phrase that the next one starts with goes, and so does an empty one."""
    parts = {name: polygon(2, 3 * number, 20, 3 * number + 8) for number, name in enumerate("abcd")}
    refs = [
        {"sentence": "blue leads a brown", "segmentation": [parts["a"]]},
        {"sentence": "the man in blue", "segmentation": [parts["b"]]},
        {"sentence": "blue", "segmentation": [parts["c"]]},
        {"sentence": "", "segmentation": [parts["d"]]},
    ]
    sample = only_sample(RefCocoGcg, tmp_path, refcocog(refs=refs))
    check(
        sample,
        "<p> the man in </p> [SEG] <p> blue </p> [SEG] leads a brown horse home.",
        [drawn(parts["b"]), drawn(parts["c"])],
    )


def test_refcocog_reads_run_lengths_too_and_draws_nothing_for_torn_polygons(tmp_path: Path) -> None:
    refs = [
        {"sentence": "the man", "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 5, HEIGHT * WIDTH - 5]}},
        {"sentence": "a brown horse", "segmentation": [polygon(2, 3, 20, 9), [1, 2, 3, 4]]},
    ]
    sample = only_sample(RefCocoGcg, tmp_path, refcocog(refs=refs))
    assert [int(mask.sum()) for mask in sample.masks] == [5, int(drawn(polygon(2, 3, 20, 9)).sum())]


@given(
    st.text(alphabet="abc .,é", min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(-5, 45), st.integers(-5, 45)), max_size=8),
)
def test_any_spans_give_back_the_caption(caption: str, spans: list[tuple[int, int]]) -> None:
    """Tags put in from the end, one phrase at a time, give the same text; taking them out gives the caption."""
    grounded = grounded_caption(
        NAME, caption, [GroundedPhrase(start, end, Rles(())) for start, end in spans], "an entry"
    )
    text = caption
    for phrase in reversed(grounded.phrases):
        assert (phrase.start, phrase.end) in spans or phrase.end == len(caption)
        text = f"{text[: phrase.start]}<p> {text[phrase.start : phrase.end]} </p> [SEG]{text[phrase.end :]}"
    assert grounded.answer == text
    assert grounded.answer.replace("<p> ", "").replace(" </p> [SEG]", "") == caption
    assert grounded.answer.count("[SEG]") == len(grounded.phrases) == len(grounded.masks((2, 2)))
    covered = [place for phrase in grounded.phrases for place in range(phrase.start, phrase.end)]
    assert covered == sorted(set(covered))


def set_at(content: Any, path: tuple[str | int, ...], value: object) -> Any:
    """`content` with another value at a place; None takes the key away."""
    holder = content
    for step in path[:-1]:
        holder = holder[step]
    if value is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return content


HORSE_PATH = (0, "groundings", "a horse")
OTHER_SIZE = rle(np.zeros((5, 5), dtype=np.uint8))
BROKEN = {"size": [HEIGHT, WIDTH], "counts": "0"}
FIRST_REF = (0, "1234", "refs", 0)


@pytest.mark.parametrize(
    ("kind", "path", "value", "place"),
    [
        (GranDf, (0,), [], r"\[0\]"),
        (GranDf, (0, "file_name"), "../../secret.jpg", "file_name"),
        (GranDf, (0, "file_name"), "/secret.jpg", "file_name"),
        (GranDf, (0, "caption"), 3, "caption"),
        (GranDf, (0, "caption"), "A man [SEG] rides a horse near a barn.", r"\[SEG\]"),
        (GranDf, (0, "caption"), "A <p> man rides a horse near a barn.", "<p>"),
        (GranDf, (0, "groundings"), [], "groundings"),
        (GranDf, HORSE_PATH, [], "a horse"),
        (GranDf, (*HORSE_PATH, "token_positives"), [[12, 19]], "token_positives"),
        (GranDf, (*HORSE_PATH, "token_positives"), [12.0, 19], "token_positives"),
        (GranDf, (*HORSE_PATH, "token_positives"), [12, True], "token_positives"),
        (GranDf, (*HORSE_PATH, "rle_masks"), None, "rle_masks"),
        (GranDf, (*HORSE_PATH, "rle_masks", 1), OTHER_SIZE, r"rle_masks\[1\]"),
        (GranDf, (*HORSE_PATH, "rle_masks", 0), BROKEN, r"rle_masks\[0\]"),
        (FlickrGcg, ("images",), None, "images"),
        (FlickrGcg, ("images", 0, "file_name"), "a/../b.jpg", r"images\[0\]"),
        (FlickrGcg, ("images", 0, "caption"), None, r"images\[0\]"),
        (FlickrGcg, ("images", 0, "width"), "40", r"images\[0\]"),
        (FlickrGcg, ("annotations", 1, "id"), 1, r"annotations\[1\]"),
        (FlickrGcg, ("annotations", 1, "bbox"), [1, 2, 3], r"annotations\[1\]"),
        (FlickrGcg, ("annotations", 1, "bbox", 0), float("nan"), r"annotations\[1\]"),
        (FlickrGcg, ("annotations", 1, "area"), None, r"annotations\[1\]"),
        (FlickrGcg, ("annotations", 1, "tokens_positive"), [], r"annotations\[1\]"),
        (FlickrGcg, ("annotations", 1, "tokens_positive"), [3, 4], r"annotations\[1\]"),
        (FlickrGcg, ("annotations", 1, "sam_mask"), OTHER_SIZE, r"annotations\[1\]"),
        (RefCocoGcg, (0,), {}, r"\[0\]"),
        (RefCocoGcg, (0, "1234"), 5, "1234"),
        (RefCocoGcg, (0, "1234", "img_file_name"), "..", "img_file_name"),
        (RefCocoGcg, (*FIRST_REF, "sentence"), None, r"refs\[0\]"),
        (RefCocoGcg, (*FIRST_REF, "segmentation"), [["x"] * 6], r"refs\[0\]"),
        (RefCocoGcg, (*FIRST_REF, "segmentation"), [[1e30] * 6], r"refs\[0\]"),
        (RefCocoGcg, (*FIRST_REF, "segmentation"), [BROKEN], r"refs\[0\]"),
    ],
)
def test_hostile_entries_are_refused_on_reading(
    kind: type[GroundedConversations], path: tuple[str | int, ...], value: object, place: str, tmp_path: Path
) -> None:
    contents: dict[type, Callable[[], object]] = {
        GranDf: lambda: [grandf_entry()],
        FlickrGcg: flickr,
        RefCocoGcg: refcocog,
    }
    content = contents[kind]()
    family(kind, tmp_path, content)
    with pytest.raises(DataError, match=place) as caught:
        family(kind, tmp_path, set_at(contents[kind](), path, value))
    assert "annotations.json" in str(caught.value)


def test_image_ids_are_unique(tmp_path: Path) -> None:
    content = flickr()
    content["images"] *= 2
    with pytest.raises(DataError, match="image id 7 is used twice"):
        family(FlickrGcg, tmp_path, content)


@pytest.mark.parametrize("kind", [GranDf, OpenPsg, RefCocoGcg])
def test_a_file_that_is_no_list(kind: type[GroundedConversations], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a list"):
        family(kind, tmp_path, {"images": []})


def test_a_picture_of_another_size_or_none(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    built = family(GranDf, tmp_path, [grandf_entry()])
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(tmp_path / NAME)
    with pytest.raises(DataError, match=rf"the picture's {HEIGHT} x {WIDTH + 1}") as caught:
        built.sample(0, random)
    assert "annotations.json: [0]" in str(caught.value)
    (tmp_path / NAME).write_bytes(b"no picture")
    with pytest.raises(DataError, match=NAME):
        built.sample(0, random)
    (tmp_path / NAME).unlink()
    with pytest.raises(DataError, match="not there"):
        built.sample(0, random)


def test_an_absurd_outline_is_refused_with_its_entry(tmp_path: Path) -> None:
    far = [0.0, 0.0, 1e5, 1e5, 0.0, 1e5] * 20
    built = family(RefCocoGcg, tmp_path, refcocog(refs=[{"sentence": "the man", "segmentation": [far]}]))
    with pytest.raises(DataError, match=r"annotations\.json: \[0\]"):
        built.sample(0, np.random.RandomState(0))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("grandf_gcg", GranDf), ("openpsg_gcg", OpenPsg), ("flickr_gcg", FlickrGcg), ("refcocog_gcg", RefCocoGcg)],
)
def test_names_and_options(name: str, kind: type[GroundedConversations], tmp_path: Path) -> None:
    assert load_family(name) is kind
    with pytest.raises(ModelError, match=f"repeats of the data family {name}"):
        kind.from_files({}, {"repeats": 10}, "grounded")
