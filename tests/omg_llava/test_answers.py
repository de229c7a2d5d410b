"""How OMG-LLaVA's answers are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omg_llava.answers import read_grounded_text


def test_an_answer_as_the_model_writes_it() -> None:
    answer = read_grounded_text("<s> <p> A man </p> [SEG] rides <p> a bicycle </p> [SEG] on the road.<|im_end|>")
    assert answer.caption == "A man rides a bicycle on the road."
    assert [phrase.text for phrase in answer.phrases] == ["A man", "a bicycle"]
    assert answer.n_seg == 2
    for phrase in answer.phrases:
        assert answer.caption[phrase.start : phrase.end] == phrase.text


@pytest.mark.parametrize(
    ("raw", "caption", "phrases", "n_seg"),
    [
        ("", "", [], 0),
        ("no grounding", "no grounding", [], 0),
        ("USER: x ASSISTANT: <p>a</p> [SEG]", "a", ["a"], 1),
        ("<p>a</p> <p>a</p> [SEG]", "a a", ["a", "a"], 1),
        ("'quoted'", "quoted", [], 0),
        ("one\ntwo   three", "onetwo three", [], 0),
        ("[SEG][SEG]", "", [], 2),
        ("<p>torn", "torn", [], 0),
        ("<p></p>x", "x", [""], 0),
    ],
)
def test_edges(raw: str, caption: str, phrases: list[str], n_seg: int) -> None:
    answer = read_grounded_text(raw)
    assert answer.caption == caption
    assert [phrase.text for phrase in answer.phrases] == phrases
    assert answer.n_seg == n_seg


@given(st.text(alphabet="<p>/ab [SEG]'\n", max_size=60))
def test_offsets_always_point_at_the_phrase(raw: str) -> None:
    answer = read_grounded_text(raw)
    for phrase in answer.phrases:
        if phrase.start is not None:
            assert answer.caption[phrase.start : phrase.end] == phrase.text
