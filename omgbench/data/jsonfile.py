"""JSON files from outside: parsing with a place for every error, and typed access to their entries."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

from omgbench.data.locate import read_limited
from omgbench.errors import DataError

MAX_JSON_BYTES = 2 * 2**30
MAX_SHOWN_CHARACTERS = 60
MAX_SHOWN_INT_BITS = 128

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K", int, str, int | str)

_KIND_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    bytes: "bytes",
    list: "a list",
    dict: "an object",
}


def read_json(path: Path) -> object:
    """The content of a JSON file of at most 2 GiB.

    UTF-8 with or without a byte order mark. As in Python's own reader, which the official scripts use, NaN and Infinity
    are read as floats (`require_number` refuses them) and the last of two equal keys counts.

    Raises:
        DataError: no such file, too large, not UTF-8, empty, cut off, not JSON (with line and column), nested too
            deeply, or with a number of thousands of digits.
    """
    data = read_limited(path, MAX_JSON_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8",
            expected="JSON in UTF-8",
            where=str(path),
        ) from None
    del data
    if not text or text.isspace():
        raise DataError("the file is empty", expected="JSON", where=str(path))
    return _parse(text, path)


def _parse(text: str, path: Path) -> object:
    try:
        return json.loads(text)
    # "from None": a JSONDecodeError holds the whole text.
    except json.JSONDecodeError as error:
        is_cut_off = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        raise DataError(
            f"not valid JSON: {error.msg}",
            expected="a whole JSON file; this one ends early" if is_cut_off else "JSON",
            where=f"{path}, line {error.lineno}, column {error.colno}",
        ) from None
    except RecursionError:
        raise DataError("lists or objects nested too deeply", expected="an annotation file", where=str(path)) from None
    except ValueError as error:
        raise DataError(f"not usable JSON: {error}", where=str(path)) from None


@overload
def checked(value: object, kind: type[T], what: str, where: str) -> T: ...
@overload
def checked(value: object, kind: tuple[type[T], type[U]], what: str, where: str) -> T | U: ...
def checked(value: object, kind: Any, what: str, where: str) -> Any:
    """`value`, after a look at its type: exactly `kind`, or one of two kinds; true and false are no numbers.

    Strings must also be encodable, since a lone surrogate fails later, wherever the text is printed or stored.

    Raises:
        DataError: another type; the message says what was found in place of `what`.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(value) not in kinds:
        words = " or ".join(_KIND_WORDS.get(each, each.__name__) for each in kinds)
        raise DataError(f"{what} is {shown(value)}", expected=words, where=where)
    if type(value) is str and not value.isascii() and not _is_encodable(value):
        raise DataError(f"{what} is {shown(value)}", expected="text without lone surrogates", where=where)
    return value


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@overload
def require(entry: object, key: str, kind: type[T], where: str) -> T: ...
@overload
def require(entry: object, key: str, kind: tuple[type[T], type[U]], where: str) -> T | U: ...
def require(entry: object, key: str, kind: Any, where: str) -> Any:
    """The value of `key` in an object, checked as by `checked`.

    Raises:
        DataError: `entry` is no object, lacks the key, or holds another type there.
    """
    if type(entry) is not dict:
        raise DataError(f"found {shown(entry)}", expected=f"an object with the key {key!r}", where=where)
    if key not in entry:
        raise DataError(f"the key {key!r} is missing", expected=_listed_keys(entry, key), where=where)
    return checked(entry[key], kind, key, where)


def _listed_keys(entry: dict[object, object], key: str) -> str:
    present = ", ".join(shown(other) for other in list(entry)[:8]) or "no keys"
    return f"{key!r}; there are {present}"


def require_number(entry: object, key: str, where: str) -> float:
    """The finite number at `key`, as a float."""
    return finite(require(entry, key, (int, float), where), key, where)


def finite(value: object, what: str, where: str) -> float:
    """`value` as a float. Raises `DataError` unless it is a number, finite, and small enough for a float."""
    number = checked(value, (int, float), what, where)
    try:
        as_float = float(number)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise DataError(f"{what} is {shown(number)}", expected="a finite number", where=where)
    return as_float


def require_texts(entry: object, key: str, where: str) -> tuple[str, ...]:
    """The list of strings at `key`."""
    texts = require(entry, key, list, where)
    return tuple(checked(text, str, f"{key}[{index}]", where) for index, text in enumerate(texts))


def entries(content: object, key: str, path: Path) -> Iterator[tuple[object, str]]:
    """Each element of the list at `key` of a file's top object, with its place for messages.

    The list is emptied on the way, so that memory is handed back while values are built from its elements.
    """
    elements = require(content, key, list, str(path))
    for index, element in enumerate(elements):
        elements[index] = None
        yield element, f"{path}: {key}[{index}]"


def put_once(table: dict[K, T], key: K, value: T, what: str, where: str) -> None:
    """Enter `value` under an id that must be unique; a repetition with equal content is let pass.

    Raises:
        DataError: the id is there with other content.
    """
    if table.setdefault(key, value) != value:
        raise DataError(f"{what} {shown(key)} is used twice", expected="unique ids", where=where)


def shown(value: object) -> str:
    """A value for a message: short, on one line, and safe for whatever a hostile file holds."""
    if isinstance(value, list | tuple | set | frozenset):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    # Python refuses to print integers of thousands of digits.
    if isinstance(value, int) and value.bit_length() > MAX_SHOWN_INT_BITS:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, str | bytes) and len(value) > MAX_SHOWN_CHARACTERS:
        return f"{value[:MAX_SHOWN_CHARACTERS]!r}..."
    if value is None or value is True or value is False:
        return json.dumps(value)
    return repr(value)
