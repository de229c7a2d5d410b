"""The restricted unpickler: equal to plain pickle on plain data, one DataError on everything else, nothing ever run."""

from __future__ import annotations

import copyreg
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from omgbench.data.unpickle import MAX_TUPLES, load_plain_pickle
from omgbench.errors import DataError

REFS = [
    {
        "ref_id": 7,
        "ann_id": 2**40,
        "split": "testA",
        "sent_ids": [1, 2],
        "sentences": [{"sent_id": 1, "sent": "the café on the left", "raw": "The caf\u00e9\n", "tokens": ["the"]}],
        "score": -0.25,
        "flags": (True, False, None, ("nested", b"bytes")),
    }
]


class TouchOnLoad:
    """Pickles as a call that creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_equals_plain_pickle(tmp_path: Path, protocol: int) -> None:
    content = REFS if protocol >= 3 else [{**REFS[0], "flags": (True, False, None, ("nested",))}]
    data = pickle.dumps(content, protocol=protocol)
    assert load_plain_pickle(write(tmp_path, data)) == pickle.loads(data) == content  # noqa: S301


@pytest.mark.parametrize("protocol", range(6))
def test_many_objects_need_wide_memo_numbers(tmp_path: Path, protocol: int) -> None:
    content = [{"id": index, "name": f"name {index}"} for index in range(40_000)]
    assert load_plain_pickle(write(tmp_path, pickle.dumps(content, protocol=protocol))) == content


def test_python_2_byte_strings_are_read_as_utf_8(tmp_path: Path) -> None:
    protocol_0 = b"(lp0\nS'caf\\xc3\\xa9'\np1\naVna\\u00efve\np2\naI01\naL12L\naF0.5\na."
    protocol_2 = b"\x80\x02]q\x00(U\x05caf\xc3\xa9q\x01T\x02\x00\x00\x00\xff!K\x05\x8a\x02\x00\x01e."
    assert load_plain_pickle(write(tmp_path, protocol_0)) == ["café", "naïve", True, 12, 0.5]
    assert load_plain_pickle(write(tmp_path, protocol_2)) == ["café", "\ufffd!", 5, 256]


def test_sets_come_out_of_protocol_4(tmp_path: Path) -> None:
    assert load_plain_pickle(write(tmp_path, pickle.dumps({1, 2}, protocol=4))) == {1, 2}


def test_bytes_after_the_end_are_ignored_as_by_pickle(tmp_path: Path) -> None:
    assert load_plain_pickle(write(tmp_path, pickle.dumps([1], protocol=2) + b"more")) == [1]


def test_shared_and_recursive_lists_keep_their_shape(tmp_path: Path) -> None:
    content: list[object] = [[1]]
    content += [content[0], content]
    loaded = load_plain_pickle(write(tmp_path, pickle.dumps(content, protocol=2)))
    assert isinstance(loaded, list)
    assert loaded[0] is loaded[1]
    assert loaded[2] is loaded


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "was run"
    data = pickle.dumps([TouchOnLoad(marker)], protocol=protocol)
    with pytest.raises(DataError) as caught:
        load_plain_pickle(write(tmp_path, data))
    assert not marker.exists()
    assert "refs(unc).p" in str(caught.value)
    pickle.loads(data)  # noqa: S301  (the same bytes do run under plain pickle)
    assert marker.exists()


def test_a_cached_extension_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "was run"
    call = b"\x80\x02\x82\xfeX" + struct.pack("<I", len(str(marker))) + str(marker).encode() + b"\x85R."
    copyreg.add_extension("os", "mkdir", 0xFE)
    try:
        pickle.loads(call)  # noqa: S301  (fills the cache that skips the class look-up)
        marker.rmdir()
        with pytest.raises(DataError, match="extension registry code 254"):
            load_plain_pickle(write(tmp_path, call))
    finally:
        copyreg.remove_extension("os", "mkdir", 0xFE)
    assert not marker.exists()


def nested_tuple_key(depth: int) -> bytes:
    return b"\x80\x02}" + b")" + b"\x85" * depth + b"Ns."


BAD_PICKLES = {
    "empty": (b"", "empty"),
    "text": (b"hello, this is no pickle", "no opcode|look-up|no place|not a usable"),
    "json": (b'[{"ref_id": 1}]', "no opcode|not a usable|no place"),
    "cut off in a string": (pickle.dumps(REFS, protocol=3)[:40], "cut off|STOP"),
    "cut off before the end": (pickle.dumps([1, 2], protocol=2)[:-1], "STOP"),
    "only a protocol": (b"\x80\x02", "STOP"),
    "unknown protocol": (b"\x80\x7f].", "unsupported pickle protocol"),
    "unknown opcode": (b"\x80\x02\xff.", "0xff is no opcode"),
    "nothing on the stack": (b"\x80\x02.", "not a usable pickle"),
    "append without a list": (b"\x80\x02K\x01a.", "not a usable pickle"),
    "unset memo number": (b"\x80\x02h\x05.", "not a usable pickle"),
    "unhashable key": (b"\x80\x02}]K\x01s.", "unhashable"),
    "class by name": (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
    "class by stack": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "os.system"),
    "instance": (b"(S'true'\nios\nsystem\n.", "os.system"),
    "builtin": (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
    "reduce of a plain value": (b"\x80\x02K\x01)R.", "not a usable pickle"),
    "build on a plain value": (b"\x80\x02]}X\x01\x00\x00\x00aK\x01sb.", "not a usable pickle"),
    "object of a plain value": (b"\x80\x02(K\x01K\x02o.", "not a usable pickle"),
    "numpy scalar": (pickle.dumps([np.int64(3)], protocol=2), r"numpy.*scalar"),
    "numpy array": (pickle.dumps(np.zeros(3), protocol=2), "numpy"),
    "ordered dict": (pickle.dumps(OrderedDict(a=1), protocol=2), "collections.OrderedDict"),
    "instance of a class": (pickle.dumps(Fraction(1, 3), protocol=4), "fractions.Fraction"),
    "persistent id in text": (b"P12\n.", "outside of the file"),
    "persistent id": (b"\x80\x02K\x01Q.", "outside of the file"),
    "extension code": (b"\x80\x02\x84\x01\x02\x03\x04.", "extension registry code"),
    "out-of-band buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "bytes of 2**40": (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.", "BINBYTES8"),
    "text of 2**63": (b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.", "BINUNICODE8"),
    "text of 2 GiB": (b"\x80\x02X\xff\xff\xff\x7fabc.", "BINUNICODE"),
    "byte string of negative length": (b"\x80\x02T\xff\xff\xff\xffabc.", "BINSTRING"),
    "bytearray of 2**40": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.", "BYTEARRAY8"),
    "frame of 2**40 without end": (b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"]", "STOP"),
    "integer of 2 GiB": (b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", "LONG4"),
    "integer of 200 bytes": (b"\x80\x02\x8a\xc8" + b"\x01" * 200 + b".", "LONG1"),
    "integer of many digits": (b"I" + b"9" * 5000 + b"\n.", "INT"),
    "memo number 2**31": (b"\x80\x02]r\xff\xff\xff\x7f.", "LONG_BINPUT"),
    "memo number 2**24": (b"\x80\x02]r\x00\x00\x00\x01.", "LONG_BINPUT"),
    "memo number in text": (b"(lp999999999\n.", "PUT"),
    "memo number in text beyond the file": (b"(lp100\n.", "PUT"),
    "tuples deep enough to break hashing": (nested_tuple_key(100_000), "tuples"),
    "bad escape": (b"S'\\x'\n.", "not a usable pickle"),
    "unquoted string": (b"Sabc\n.", "not a usable pickle"),
    "text that is not UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "not a usable pickle"),
}


@pytest.mark.parametrize("name", BAD_PICKLES)
def test_bad_pickles_are_one_data_error_and_little_memory(tmp_path: Path, name: str) -> None:
    data, message = BAD_PICKLES[name]
    path = write(tmp_path, data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            load_plain_pickle(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "refs(unc).p" in str(caught.value)
    assert peak < 20 * 2**20


def test_lists_may_nest_deeply(tmp_path: Path) -> None:
    depth = 100_000
    loaded = load_plain_pickle(write(tmp_path, b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."))
    n_levels = 0
    while isinstance(loaded, list):
        loaded = loaded[0] if loaded else None
        n_levels += 1
    assert n_levels == depth


def test_the_number_of_tuples_is_bounded(tmp_path: Path) -> None:
    assert load_plain_pickle(write(tmp_path, nested_tuple_key(MAX_TUPLES))) is not None
    with pytest.raises(DataError, match="tuples"):
        load_plain_pickle(write(tmp_path, nested_tuple_key(MAX_TUPLES + 1)))


@pytest.mark.parametrize("frame_length", [0, 1, 3, 8, 20, 2**40])
def test_a_lying_frame_cannot_hide_opcodes_from_the_walk(tmp_path: Path, frame_length: int) -> None:
    hidden = b"r\xff\xff\xff\x7f"
    data = b"\x80\x04\x95" + struct.pack("<Q", frame_length) + b"]C" + bytes([len(hidden)]) + hidden + b"a."
    tracemalloc.start()
    try:
        assert load_plain_pickle(write(tmp_path, data)) == [hidden]
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_missing_folder_and_oversized_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="omgbench data status"):
        load_plain_pickle(tmp_path / "refs(unc).p")
    with pytest.raises(DataError, match="not a file"):
        load_plain_pickle(tmp_path)
    monkeypatch.setattr("omgbench.data.unpickle.MAX_PICKLE_BYTES", 10)
    with pytest.raises(DataError, match="at most 10 bytes"):
        load_plain_pickle(write(tmp_path, pickle.dumps(REFS)))


PLAIN = (list, dict, tuple, set, str, bytes, int, float, bool, type(None))


def assert_plain(value: object) -> None:
    """Every object reachable from `value` is of a plain type."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        assert type(item) in PLAIN
        if id(item) not in seen and isinstance(item, list | dict | tuple | set):
            seen.add(id(item))
            waiting += [*item, *item.values()] if isinstance(item, dict) else item


OPCODES = st.sampled_from(
    [bytes([code]) for code in range(256)]
    + [
        b"K\x01",
        b"X\x01\x00\x00\x00a",
        b"U\x01a",
        b"q\x00",
        b"h\x00",
        b"\x94",
        b"p0\n",
        b"g0\n",
        b"I1\n",
        b"cos\nsystem\n",
    ]
    + [b"(", b"]", b"}", b")", b"a", b"e", b"s", b"u", b"l", b"d", b"t", b"\x85", b"\x86", b"\x8f", b"\x90"] * 3
)


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.one_of(st.binary(max_size=60), st.lists(OPCODES, max_size=30).map(b"".join)), st.booleans())
@example(b"(" * 50, True)
def test_any_bytes_give_plain_data_or_a_data_error(tmp_path: Path, data: bytes, closed: bool) -> None:
    path = write(tmp_path, data + b"." if closed else data)
    try:
        loaded = load_plain_pickle(path)
    except DataError as error:
        assert "refs(unc).p" in str(error)
    else:
        assert_plain(loaded)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 5), st.integers(0, 300), st.integers(0, 255))
def test_one_wrong_byte_gives_plain_data_or_a_data_error(tmp_path: Path, protocol: int, at: int, byte: int) -> None:
    data = bytearray(pickle.dumps(REFS, protocol=protocol))
    data[at % len(data)] = byte
    try:
        assert_plain(load_plain_pickle(write(tmp_path, bytes(data))))
    except DataError as error:
        assert "refs(unc).p" in str(error)
