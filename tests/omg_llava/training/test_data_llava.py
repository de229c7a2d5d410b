"""LLaVA's conversations: what becomes of turns, and files that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omg_llava.errors import ModelError
from omg_llava.training.data.llava import LlavaConversations
from omg_llava.training.samples import Exchange
from omgbench.errors import DataError


def turns(*texts: str) -> list[dict[str, str]]:
    """`h:` and `g:` say whose turn it is."""
    speakers = {"h": "human", "g": "gpt"}
    return [{"from": speakers[text[0]], "value": text[2:]} for text in texts]


def entry(*texts: str, **more: Any) -> dict[str, Any]:
    return {"id": "1", "image": "coco/train2017/1.jpg", "conversations": turns(*texts), **more}


def read(folder: Path, *entries: Any, content: Any = None) -> LlavaConversations:
    (folder / "mix.json").write_text(json.dumps(list(entries) if content is None else content), encoding="utf-8")
    return LlavaConversations.from_files(
        {"conversations": folder / "mix.json", "images": folder / "data"}, {}, "grounded"
    )


def exchanges(folder: Path, *texts: str) -> tuple[Exchange, ...]:
    return read(folder, entry(*texts)).sample(0, np.random.RandomState(0)).exchanges


def test_a_conversation_with_its_picture(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        entry("h:<image>\nWhat is it?", "g:A dog. ", "h:Where?", "g:Left."),
        {"id": 7, "conversations": turns("h:Hello <b>you</b>", "g:Hi"), "model": "x"},
        entry("h:x", "g:y", image=None),
    )
    assert len(data) == 3
    random = np.random.RandomState(3)
    state = random.get_state()[1].copy()
    sample = data.sample(0, random)
    assert sample.picture == data.picture(0) == tmp_path / "data" / "coco/train2017/1.jpg"
    assert sample.exchanges == (Exchange("What is it?", "A dog. "), Exchange("Where?", "Left."))
    assert sample.prompts == sample.masks == ()
    assert data.picture(1) is None and data.picture(2) is None
    assert data.sample(1, random).picture is None
    assert data.sample(1, random).exchanges == (Exchange("Hello <b>you</b>", "Hi"),)
    assert np.array_equal(random.get_state()[1], state)


@pytest.mark.parametrize(
    "text",
    ["<image>\nWhat?", "What?\n<image>", "<image>What?", "  <image>\n\nWhat?  ", "What?", "<image><image>\nWhat?"],
)
def test_the_picture_goes_before_the_first_question_wherever_it_was_named(tmp_path: Path, text: str) -> None:
    assert exchanges(tmp_path, f"h:{text}", "g:That.") == (Exchange("What?", "That."),)


def test_only_text_that_names_a_picture_is_trimmed(tmp_path: Path) -> None:
    assert exchanges(tmp_path, "h: What? \n", "g: That. ") == (Exchange(" What? \n", " That. "),)


def test_what_comes_before_the_first_question_is_left_out(tmp_path: Path) -> None:
    assert exchanges(tmp_path, "g:Hello.", "g:Hello?", "h:a", "g:b") == (Exchange("a", "b"),)


def test_questions_in_a_row_are_one_and_the_last_wants_an_answer(tmp_path: Path) -> None:
    found = exchanges(tmp_path, "h:<image>\na", "h:b ", "h:c", "g:d", "h:e")
    assert found == (Exchange("ab c", "d"),)


@pytest.mark.parametrize(
    ("wrong", "message", "where"),
    [
        (entry(), "no question with an answer", "[1]"),
        (entry("h:a"), "no question with an answer", "[1]"),
        (entry("g:a"), "no question with an answer", "[1]"),
        ({"image": "1.jpg"}, "conversations", "[1]"),
        (entry("h:a", "g:b", conversations="x"), "conversations", "[1]"),
        (
            entry("h:a", "g:b", conversations=[{"from": "system", "value": "x"}]),
            "a turn of 'system'",
            "[1] conversations[0]",
        ),
        (entry("h:a", "g:b", conversations=[*turns("h:a"), {"from": "gpt"}]), "value", "[1] conversations[1]"),
        (entry("h:a", "g:b", conversations=[{"from": "human", "value": 3}]), "value", "[1] conversations[0]"),
        (entry("h:a", "g:b", conversations=[["human", "x"]]), "", "[1] conversations[0]"),
        (entry("h:a", "g:b", image="../secret.jpg"), "image", "[1]"),
        (entry("h:a", "g:b", image="/etc/passwd"), "image", "[1]"),
        (entry("h:a", "g:b", image=""), "image", "[1]"),
        (entry("h:a", "g:b", image=["1.jpg"]), "image", "[1]"),
        ("text", "", "[1]"),
        (None, "", "[1]"),
    ],
    ids=str,
)
def test_hostile_entries_name_their_place(tmp_path: Path, wrong: Any, message: str, where: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, entry("h:a", "g:b"), wrong)
    assert message in str(caught.value)
    assert f"mix.json: {where}" in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"a": []}, "text", 3], ids=str)
def test_a_file_that_is_no_list(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content=content)
    assert "mix.json" in str(caught.value)


def test_options_are_refused(tmp_path: Path) -> None:
    read(tmp_path)
    files = {"conversations": tmp_path / "mix.json", "images": tmp_path}
    with pytest.raises(ModelError, match="options n of the data family llava"):
        LlavaConversations.from_files(files, {"n": 1}, "grounded")


def test_an_empty_file_has_no_samples(tmp_path: Path) -> None:
    assert len(read(tmp_path)) == 0
