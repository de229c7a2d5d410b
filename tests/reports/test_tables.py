"""Tables: formats, marks, published rows, and text that tries to break out."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from omgbench.errors import UserError
from omgbench.reports.published import published_numbers
from omgbench.reports.tables import render_table
from omgbench.store import ResultRecord, load_result

BASE = json.loads(load_result(Path(__file__).parents[1] / "store" / "historic" / "schema_1.json").to_json())


def _result(**changes: Any) -> ResultRecord:
    value = json.loads(json.dumps(BASE)) | {"marks": [], "options": {}}
    for path, new in changes.items():
        *parents, last = path.split("__")
        place = value
        for key in parents:
            place = place[key]
        place[last] = new
    return ResultRecord.model_validate(value)


def test_markdown_has_one_row_per_model_with_coverage_and_marks() -> None:
    rows = [_result(), _result(model__name="other", model__fingerprint="2", marks=["demo data"])]
    lines = render_table(rows, format="markdown").splitlines()
    assert lines[0].startswith("| Model | RefCOCO val cIoU | RefCOCO val gIoU | Answered |")
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| random", "| other"]
    assert "[1]" not in lines[2]
    assert lines[3].count("[1]") == 2
    assert lines[2].endswith("| 10/10 |")
    assert "[1] demo data" in lines[-1]


def test_a_second_result_for_the_same_cell_is_another_row() -> None:
    assert len(render_table([_result(), _result()], format="csv").splitlines()) == 1 + 4


OTHER = {"model__name": "other", "model__fingerprint": "2"}
HASHES = dict(BASE["data"]["annotations_sha256"])


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"data__requests": "0" * 32}, "requests (samples, prompts or options)"),
        ({"data__annotations_sha256": dict.fromkeys(HASHES, "0" * 64)}, "annotations"),
        ({"task__version": "2"}, "task version"),
        ({"data__images": "b" * 32}, "images"),
        ({"task__version": "2", "data__images": "b" * 32}, "task version, images"),
    ],
)
def test_numbers_over_different_data_are_marked(changes: dict[str, Any], differing: str) -> None:
    rows = [_result(data__images="a" * 32), _result(**({"data__images": "a" * 32} | changes | OTHER))]
    text = render_table(rows, format="text")
    assert text.count("[1]") == 2 * 2 + 1
    assert text.splitlines()[-1] == f"[1] refcoco:val: rows differ in {differing}"


@pytest.mark.parametrize(
    "changes",
    [
        {"data__images": ""},
        {"data__annotations_sha256": {f"elsewhere/{number}": sha for number, sha in enumerate(HASHES.values())}},
        {"task__split": "testA", "data__requests": "0" * 32},
    ],
    ids=["no images were read", "files under other names", "another split"],
)
def test_numbers_over_the_same_data_are_not_marked(changes: dict[str, Any]) -> None:
    rows = [_result(data__images="a" * 32), _result(**({"data__images": "a" * 32} | changes | OTHER))]
    assert "[1]" not in render_table(rows, format="text")


def test_a_dtype_makes_a_row() -> None:
    cells = (("float16", "val"), ("float32", "testA"), ("auto", "val"), ("float16", "testA"))
    rows = [_result(engine__dtype=dtype, task__split=split) for dtype, split in cells]
    table = list(csv.reader(io.StringIO(render_table(rows, format="csv"))))
    assert [line[0] for line in table[1::2]] == ["random (float16)", "random (float16)", "random (float32)", "random"]
    assert [line[4] for line in table[1::2]] == ["val", "testA", "testA", "val"]


def test_one_dtype_is_not_named() -> None:
    rows = [_result(engine__dtype="float16"), _result(engine__dtype="float16", **OTHER)]
    assert "float16" not in render_table(rows, format="text")


def test_incomplete_and_not_computed_cells_say_so() -> None:
    result = _result(complete=False, reasons=["3 error"])
    text = render_table([result], format="text")
    assert "incomplete (refcoco:val): 3 error" in text
    metrics = json.loads(json.dumps(BASE["metrics"]))
    metrics[0] |= {"value": None, "note": "no Java was found"}
    text = render_table([_result(metrics=metrics)], format="text")
    assert "not computed [1]" in text
    assert "cIoU not computed: no Java was found" in text


def test_published_rows_stand_apart() -> None:
    text = render_table([_result()], format="markdown", published="main")
    rows = [line for line in text.splitlines() if line.startswith("| OMG-LLaVA")]
    assert any("78.0" in row for row in rows)
    assert all(row.endswith("| published |") for row in rows)
    assert "published: arXiv:2406.19389v2 Table 3" in text
    every = render_table([_result()], format="csv", published="all")
    assert len(every.splitlines()) > len(render_table([_result()], format="csv", published="main").splitlines())


@pytest.mark.parametrize("task", ["refcoco", "refcoco_plus", "refcocog", "gcg"])
def test_published_numbers_fit_their_task(task: str) -> None:
    from omgbench import registry

    info = registry.build_task(task).info
    numbers = published_numbers(task)
    assert any(number.main for number in numbers)
    names = {metric.name for metric in info.metrics}
    splits = {(split.subset, split.name) for split in info.splits}
    for number in numbers:
        assert number.metric in names
        assert (number.subset, number.split) in splits
        assert number.source
        assert 0 <= number.value <= 1000


HOSTILE: Sequence[str] = ("a|b", "<script>alert(1)</script>", "[link](x)", "a&b%$#_{}~^\\", "=1+1", "two\nlines")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_escaped(name: str) -> None:
    result = _result(model__name=name)
    markdown = render_table([result], format="markdown")
    assert "<script>" not in markdown
    body = markdown.splitlines()[2].replace("\\|", "")
    assert body.count("|") == 5
    rows = list(csv.reader(io.StringIO(render_table([result], format="csv"))))
    assert rows[1][0].lstrip("'") == name.replace("\n", "\\x0a")
    assert not rows[1][0].startswith("=")
    latex = render_table([result], format="latex")
    (row,) = [line for line in latex.splitlines() if line.startswith("{}") and "Model" not in line]
    assert row.count(" & ") == 3


MARKDOWN_IMAGE = "![x](http://t/x.png)"


def test_a_name_in_markdown_loads_nothing_and_marks_stay_readable() -> None:
    result = _result(model__name=MARKDOWN_IMAGE, task__title=MARKDOWN_IMAGE, marks=[MARKDOWN_IMAGE])
    text = render_table([result], format="markdown")
    escaped = r"\!\[x\]\(http://t/x.png\)"
    assert text.count(escaped) == 1 + 2 + 1
    assert not re.search(r"(?<!\\)[!()#]", text)
    assert set(re.findall(r"(?<!\\)\[.*?(?<!\\)\]", text)) == {"[1]"}
    assert text.splitlines()[-1].rstrip() == f"[1] {escaped}"


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_text_cell_of_a_csv_is_a_formula(start: str) -> None:
    text = f"{start}cmd|' /C calc'!A0"
    metrics = [BASE["metrics"][0] | {"name": text, "value": -1.0, "scale": [-1.0, 1.0]}]
    names = {f"task__{key}": text for key in ("name", "subset", "split")}
    result = _result(model__name=text, marks=[text], metrics=metrics, **names)
    (row,) = list(csv.reader(io.StringIO(render_table([result], format="csv"))))[1:]
    assert [row[0], *row[2:6], row[-1]] == [f"'{text}"] * 6
    assert row[6] == "-1"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_as_it_is(tmp_path: Path) -> None:
    rows = [_result(model__name=name, model__fingerprint=name) for name in HOSTILE]
    table = render_table(rows, format="latex", published="all", all_metrics=True)
    packages = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage[T1]{fontenc}\\usepackage{booktabs}"
    (tmp_path / "t.tex").write_text(f"{packages}\\begin{{document}}\n{table}\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_nothing_to_show_is_a_message() -> None:
    with pytest.raises(UserError, match="no result"):
        render_table([])
    with pytest.raises(UserError, match="unknown format"):
        render_table([_result()], format="xml")  # type: ignore[arg-type]
