"""JSON from outside: every kind of damage has one message that says where."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omgbench.data.jsonfile import (
    checked,
    entries,
    finite,
    put_once,
    read_json,
    require,
    require_number,
    require_texts,
    shown,
)
from omgbench.errors import DataError


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file.json"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_utf_8_is_read_with_and_without_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    content = {"caption": "naïve 猫", "n": [1, 2.5, None, True]}
    assert read_json(write(tmp_path, mark + json.dumps(content, ensure_ascii=False).encode())) == content


def test_nan_is_read_as_by_the_official_scripts(tmp_path: Path) -> None:
    content = read_json(write(tmp_path, b"[NaN, -Infinity]"))
    assert isinstance(content, list)
    assert math.isnan(content[0])
    assert content[1] == -math.inf


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "only a mark": (b"\xef\xbb\xbf", "the file is empty"),
    "blank": (b" \n\t\n", "the file is empty"),
    "not JSON": (b'{"a": 1,\n "b": oops}', r"line 2, column 7"),
    "two values": (b"{} {}", r"Extra data"),
    "cut off in a list": (b'{"images": [{"id": 1},', r"ends early"),
    "cut off in a string": (b'{"images": [{"file_name": "COCO_tr', r"ends early"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "0xff at offset 0 is not UTF-8"),
    "Latin-1": ('{"a": "café"}'.encode("latin-1"), "0xe9 at offset 10 is not UTF-8"),
    "deep lists": (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 200_000, "nested too deeply"),
    "number of 5,000 digits": (b"[" + b"9" * 5000 + b"]", "not usable JSON"),
    "null characters": (b"\0" * 50, "line 1, column 1"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_data_error(tmp_path: Path, name: str) -> None:
    data, message = BAD_FILES[name]
    with pytest.raises(DataError, match=message) as caught:
        read_json(write(tmp_path, data))
    assert "file.json" in str(caught.value)


def test_missing_folder_and_oversized_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="omgbench data status"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(DataError, match="not a file"):
        read_json(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "null\0.json")
    monkeypatch.setattr("omgbench.data.jsonfile.MAX_JSON_BYTES", 4)
    with pytest.raises(DataError, match="at most 4 bytes"):
        read_json(write(tmp_path, b"[1, 2]"))


BAD_ENTRIES = {
    "no object": ([1], "id", int, "found a list of 1"),
    "missing key": ({"image": 1, "name": "x"}, "id", int, "'id' is missing.*'image', 'name'"),
    "text for a number": ({"id": "7"}, "id", int, "id is '7'"),
    "true for a number": ({"id": True}, "id", int, "id is true"),
    "float for an integer": ({"id": 7.0}, "id", int, "id is 7.0"),
    "null": ({"id": None}, "id", int, "id is null"),
    "huge integer for text": ({"id": 10**5000}, "id", str, "a whole number of 16610 bits"),
    "list for text": ({"id": [[[1]]]}, "id", str, "id is a list of 1"),
    "object for text": ({"id": {"a": 1}}, "id", str, "id is an object of 1 keys"),
    "long text for a number": ({"id": "x" * 10**6}, "id", int, r"'x{60}'\.\.\."),
    "lone surrogate": ({"id": "a\ud800"}, "id", str, "without lone surrogates"),
    "control characters": ({"id": "\x1b[31m"}, "id", int, r"'\\x1b\[31m'"),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_require_says_what_was_found_and_where(name: str) -> None:
    entry, key, kind, message = BAD_ENTRIES[name]
    with pytest.raises(DataError) as caught:
        require(entry, key, kind, "file.json: images[3]")
    line = " ".join(str(caught.value).split("\n"))
    assert caught.value.where == "file.json: images[3]"
    assert re.search(message, line)
    assert len(line) < 300


def test_require_gives_the_value_of_either_kind() -> None:
    assert require({"id": "sa_1"}, "id", (int, str), "x") == "sa_1"
    assert require({"id": 3}, "id", (int, str), "x") == 3
    assert require({"ok": False}, "ok", bool, "x") is False
    with pytest.raises(DataError, match="a whole number or a string"):
        require({"id": 1.5}, "id", (int, str), "x")
    assert checked("猫", str, "text", "x") == "猫"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, "1", True, None])
def test_numbers_must_be_finite(value: object) -> None:
    with pytest.raises(DataError):
        finite(value, "area", "x")
    with pytest.raises(DataError):
        require_number({"area": value}, "area", "x")


def test_numbers_come_as_floats() -> None:
    assert require_number({"area": 3}, "area", "x") == 3.0
    assert type(finite(3, "area", "x")) is float


def test_texts_name_the_bad_one() -> None:
    assert require_texts({"labels": ["a", "b"]}, "labels", "x") == ("a", "b")
    with pytest.raises(DataError, match=r"labels\[1\] is 5"):
        require_texts({"labels": ["a", 5]}, "labels", "x")


def test_entries_give_places_and_hand_back_memory() -> None:
    content = {"images": [{"id": 1}, {"id": 2}]}
    got = list(entries(content, "images", Path("f.json")))
    assert got == [({"id": 1}, "f.json: images[0]"), ({"id": 2}, "f.json: images[1]")]
    assert content == {"images": [None, None]}
    with pytest.raises(DataError, match="images is an object"):
        list(entries({"images": {}}, "images", Path("f.json")))
    with pytest.raises(DataError, match="expected: an object with the key 'images'"):
        list(entries([], "images", Path("f.json")))


def test_an_id_may_be_repeated_only_with_equal_content() -> None:
    table: dict[int, str] = {}
    put_once(table, 1, "a", "image id", "x")
    put_once(table, 1, "a", "image id", "x")
    with pytest.raises(DataError, match="image id 1 is used twice"):
        put_once(table, 1, "b", "image id", "x")
    assert table == {1: "a"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(JSON_VALUES)
def test_whatever_json_writes_is_read_back(tmp_path: Path, value: object) -> None:
    assert read_json(write(tmp_path, json.dumps(value).encode())) == value
    assert len(shown(value)) < 400


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789.eE+-\\unrtaflsNI \n', max_size=40).map(str.encode))
def test_any_bytes_give_a_value_or_a_data_error(tmp_path: Path, data: bytes) -> None:
    try:
        read_json(write(tmp_path, data))
    except DataError as error:
        assert "file.json" in str(error)
        with pytest.raises((ValueError, RecursionError)):
            json.loads(data.decode("utf-8-sig"))
    else:
        json.loads(data.decode("utf-8-sig"))
