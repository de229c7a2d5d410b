"""Tables: formats, marks, published rows, and text that tries to break out."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from omgbench.errors import UserError
from omgbench.reports.published import published_numbers
from omgbench.reports.tables import render_table
from omgbench.store import ResultRecord

BASE = json.loads((Path(__file__).parents[1] / "store" / "historic" / "schema_1.json").read_text())


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


def test_different_requests_in_one_column_are_marked() -> None:
    rows = [_result(), _result(model__name="other", model__fingerprint="2", data__requests="0" * 32)]
    text = render_table(rows, format="markdown")
    assert "different requests" in text
    assert text.count("[1]") == 2 * 2 + 1


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
    assert rows[1][0].lstrip("'") == name
    assert not rows[1][0].startswith("=")
    latex = render_table([result], format="latex")
    (row,) = [line for line in latex.splitlines() if line.startswith("{}") and "Model" not in line]
    assert row.count(" & ") == 3


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
