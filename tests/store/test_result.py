"""Result records: old ones load, broken ones say what is wrong, writing is whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omgbench.errors import DataError
from omgbench.store import atomic_write_text, find_results, load_result
from omgbench.store.files import atomic_writer

HISTORIC = sorted((Path(__file__).parent / "historic").glob("schema_*.json"))


@pytest.mark.parametrize("path", HISTORIC, ids=lambda path: path.stem)
def test_historic_records_still_load(path: Path) -> None:
    result = load_result(path)
    assert result.label == "refcoco:val"
    assert result.coverage.n_samples == 10
    assert result.metric("cIoU").n == 10
    assert result.value("cIoU") is not None
    assert "demo data" in result.marks
    assert json.loads(result.to_json()) == json.loads(path.read_text())


def test_there_is_a_historic_record_of_every_schema() -> None:
    from omgbench.store import SCHEMA_VERSION

    assert [path.stem for path in HISTORIC] == [f"schema_{number}" for number in range(1, SCHEMA_VERSION + 1)]


BROKEN: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "cannot be read"),
    "no record": ({"a": 1}, "no result record"),
    "a list": ([1], "no result record"),
    "a newer schema": ({"schema_version": 99}, "schema 99"),
    "a text as schema": ({"schema_version": "1"}, "no result record"),
    "fields missing": ({"schema_version": 1}, "bad field task"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_records(kind: str, tmp_path: Path) -> None:
    content, words = BROKEN[kind]
    path = tmp_path / "result.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=words) as error:
        load_result(path)
    assert str(path) in str(error.value)


def test_a_surplus_field_is_named(tmp_path: Path) -> None:
    value = json.loads(HISTORIC[-1].read_text()) | {"surprise": 1}
    (tmp_path / "result.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="surprise"):
        load_result(tmp_path / "result.json")


def test_results_are_found_below_a_run(tmp_path: Path) -> None:
    for name in ("b", "a"):
        atomic_write_text(tmp_path / name / "result.json", HISTORIC[-1].read_text())
    assert [path.parent.name for path in find_results([tmp_path])] == ["a", "b"]
    assert find_results([tmp_path / "a" / "result.json"]) == [tmp_path / "a" / "result.json"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no result under"):
        find_results([tmp_path / "empty"])


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    atomic_write_text(path, "old")

    class Killed(BaseException):
        pass

    with pytest.raises(Killed), atomic_writer(path) as stream:
        stream.write("half of the n")
        raise Killed
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file.json"]
