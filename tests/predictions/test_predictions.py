"""The prediction file: what is written is read back, and what is broken names its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omgbench.contract import (
    Box,
    ChoiceScore,
    Mask,
    PanopticResult,
    PanopticSegment,
    Response,
    Rle,
    Span,
    Status,
)
from omgbench.errors import DataError
from omgbench.predictions import PredictionFile, write_predictions

RLE = Rle((2, 3), "15")
RESPONSES = [
    Response("chat", text="yes", raw_text="yes</s>", usage={"output_tokens": 1}),
    Response("refer", masks=(Mask(RLE, score=0.5),), boxes=(Box((0.5, 0, 2, 1)),)),
    Response("grounded", text="a dog", masks=(Mask(RLE),), spans=(Span("dog", 2, 5, masks=(0,)),)),
    Response("panoptic", panoptic=PanopticResult((PanopticSegment(1, 7, (RLE, None)),))),
    Response("choices", choices=(ChoiceScore(-1.5, 2, 3),)),
    Response("failed", Status.ERROR, error="x"),
    Response("odd \u2028 id é", Status.EMPTY),
]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    assert write_predictions(path, "mine", RESPONSES, {"version": "2"}) == len(RESPONSES)
    saved = PredictionFile(path)
    saved.load()
    assert saved.header["version"] == "2"
    ids = [response.id for response in RESPONSES]
    assert list(saved.ids()) == ids
    assert list(saved.responses([*reversed(ids), "other"])) == [*reversed(RESPONSES), None]


def test_run_lengths_may_be_a_plain_list(tmp_path: Path) -> None:
    lines: list[Any] = [
        {"protocol": 1, "model": "m"},
        {"kind": "result", "id": "a", "masks": [{"rle": {"size": [2, 3], "counts": [1, 5]}}]},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    saved = PredictionFile(path)
    saved.load()
    assert list(saved.responses(["a"])) == [Response("a", masks=(Mask(RLE),))]


HEADER = '{"protocol": 1, "model": "m"}'
BROKEN = {
    "a list of run lengths that does not fill the frame": (
        f'{HEADER}\n{{"id": "a", "masks": [{{"rle": {{"size": [2, 3], "counts": [1, 9]}}}}]}}',
        "line 2",
    ),
    "a size that is none": (f'{HEADER}\n{{"id": "a", "masks": [{{"rle": {{"size": 2, "counts": [1]}}}}]}}', "line 2"),
    "a line that is no object": (f"{HEADER}\n[1]", "line 2"),
    "an unknown key": (f'{HEADER}\n\n{{"id": "a", "mask": 1}}', "line 3"),
    "an unknown status": (f'{HEADER}\n{{"id": "a", "status": "fine"}}', "status"),
    "masks that are no list": (f'{HEADER}\n{{"id": "a", "masks": 5}}', "masks is 5"),
    "no id": (f'{HEADER}\n{{"text": "a"}}', "id"),
    "twice the same id": (f'{HEADER}\n{{"id": "a"}}\n{{"id": "a"}}', "lines 2 and 3"),
    "deep nesting": (f"{HEADER}\n" + "[" * 100_000, "line 2"),
    "nothing": ("", "empty prediction file"),
    "no header": ('{"id": "a"}', "no header"),
    "another protocol": ('{"protocol": 2, "model": "m"}', "protocol 2"),
    "no model": ('{"protocol": 1}', "model is None"),
    "an unknown header key": ('{"protocol": 1, "model": "m", "modle": 1}', "modle"),
    "templates that are none": ('{"protocol": 1, "model": "m", "templates": 3}', "templates"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_name_the_place(kind: str, tmp_path: Path) -> None:
    text, words = BROKEN[kind]
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as error:
        PredictionFile(path).load()
    assert str(path) in str(error.value)
