"""Loads pickles of plain containers, and nothing else: no class is looked up, nothing is called.

REFER's annotation files are pickles, and a pickle is a program. Two fences stand before it. `_unframed` walks the
opcodes without executing any and refuses what would hurt before a class is asked for: lengths, memo numbers and
integers out of proportion to the file (pickle allocates first and reads later), and opcodes that plain data never
needs. Then the standard unpickler runs with every look-up of a class or foreign object refused.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import NoReturn

from omgbench.data.locate import read_limited
from omgbench.errors import DataError

MAX_PICKLE_BYTES = 2 * 2**30
MAX_INT_BYTES = 9
MAX_TUPLES = 1000
"""A hash of nested tuples recurses in C without a check, so their number bounds its depth."""

_EXPECTED = "a pickle of lists, dicts, tuples, sets, text and numbers"
_HINT = "take the official file; plain pickle could run code from this one"

_BARE = (
    pickle.MARK + pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE + pickle.EMPTY_LIST + pickle.EMPTY_DICT
    + pickle.EMPTY_TUPLE + pickle.EMPTY_SET + pickle.LIST + pickle.DICT + pickle.APPEND + pickle.APPENDS
    + pickle.SETITEM + pickle.SETITEMS + pickle.ADDITEMS + pickle.MEMOIZE
    # Without a class on the stack these fail by themselves, and the look-up of the class names it in its message.
    + pickle.STACK_GLOBAL + pickle.REDUCE + pickle.BUILD + pickle.NEWOBJ + pickle.NEWOBJ_EX + pickle.OBJ
    + pickle.BINPERSID
)  # fmt: skip
_TUPLES = frozenset(pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3)
_LENGTH_BYTES = {
    pickle.SHORT_BINSTRING: 1,
    pickle.SHORT_BINBYTES: 1,
    pickle.SHORT_BINUNICODE: 1,
    pickle.BINSTRING: 4,
    pickle.BINBYTES: 4,
    pickle.BINUNICODE: 4,
    pickle.BINBYTES8: 8,
    pickle.BINUNICODE8: 8,
}
_LENGTH_BYTES_BY_CODE = [_LENGTH_BYTES.get(bytes([code]), 0) for code in range(256)]
_EXTENSIONS = {pickle.EXT1: 1, pickle.EXT2: 2, pickle.EXT4: 4}
_FRAME_BYTES = 9
_STOP, _FRAME = pickle.STOP[0], pickle.FRAME[0]


def load_plain_pickle(path: Path) -> object:
    """The object in a pickle file of at most 2 GiB, any protocol; Python 2's byte strings are read as UTF-8, with
    U+FFFD for what is not.

    Only list, dict, tuple, set, str, bytes, int (64 bit), float, bool and None come out, possibly nested at any depth
    and, as pickles allow, shared or containing themselves. Sets need protocol 4, older ones spell them as a call. At
    most 1,000 tuples; memory is at most about 250 times the file's size.

    Raises:
        DataError: no such file, too large, empty, cut off, not a pickle, or one that asks for a class, a function, a
            numpy value or an outside object (named in the message), or that claims more than the file can hold.
    """
    data = read_limited(path, MAX_PICKLE_BYTES)
    if not data:
        raise DataError("the file is empty", expected=_EXPECTED, where=str(path))
    plain = _unframed(data, path)
    try:
        return _PlainUnpickler(plain, path).load()
    except DataError:
        raise
    # Whatever malformed input makes the unpickler raise: it documents no closed list.
    except Exception as error:
        raise DataError(
            f"not a usable pickle: {type(error).__name__}: {error}", expected=_EXPECTED, where=str(path)
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BufferedReader(io.BytesIO(data)), encoding="utf-8", errors="replace")
        self._where = str(path)

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        self._refuse(f"the pickle asks for {module_name}.{global_name}")

    def persistent_load(self, pid: object, /) -> NoReturn:
        self._refuse("the pickle asks for an object outside of the file")

    def _refuse(self, found: str) -> NoReturn:
        raise DataError(found, expected=_EXPECTED, where=self._where, hint=_HINT)


def _unframed(data: bytes, path: Path) -> bytes:
    """The opcodes up to STOP, walked and found harmless in size, without the frames of protocol 4.

    Frames only say how much to read at once; without them the unpickler reads the very bytes that were walked.
    """
    run = _run_of_small_opcodes(len(data)).match
    length_bytes, n_bytes = _LENGTH_BYTES_BY_CODE, len(data)
    kept: list[bytes] = []
    start, position, n_tuples = 0, 0, 0
    while True:
        match = run(data, position)
        position = match.end() if match else position
        code = data[position] if position < n_bytes else -1
        n_length = length_bytes[code]
        if n_length:
            body = position + 1 + n_length
            end = body + int.from_bytes(data[position + 1 : body], "little")
            if end > n_bytes:
                _refuse_opcode(data, position, path)
            position = end
        elif code == _STOP:
            kept.append(data[start : position + 1])
            return kept[0] if len(kept) == 1 else b"".join(kept)
        elif code == _FRAME and n_bytes - position > _FRAME_BYTES:
            kept.append(data[start:position])
            start = position = position + _FRAME_BYTES
        elif code in _TUPLES and n_tuples < MAX_TUPLES:
            n_tuples += 1
            position += 1
        else:
            _refuse_opcode(data, position, path)


def _run_of_small_opcodes(n_bytes: int) -> re.Pattern[bytes]:
    """Matches as many opcodes as possible whose arguments have a fixed length or end with their line.

    Memo numbers are bounded by the size of the file (a pickler counts them up from 0), since the unpickler allocates
    a table of twice that many entries. Integers in text are bounded because their conversion takes quadratic time.
    """
    memo_digits = len(str(n_bytes))
    is_small = n_bytes < 1 << 24
    top = b"[\0-" + re.escape(bytes([n_bytes >> (16 if is_small else 24)])) + b"]"
    memo_number = b".." + (top + b"\0" if is_small else b"." + top)
    line = rb"[^\n]*+\n"
    alternatives = (
        b"[" + re.escape(_BARE) + b"]",
        re.escape(pickle.BINPUT) + b".",
        re.escape(pickle.LONG_BINPUT) + memo_number,
        b"[" + re.escape(pickle.BINGET + pickle.BININT1 + pickle.PROTO) + b"].",
        b"[" + re.escape(pickle.LONG_BINGET + pickle.BININT) + b"].{4}",
        re.escape(pickle.BININT2) + b"..",
        re.escape(pickle.BINFLOAT) + b".{8}",
        re.escape(pickle.PUT) + b"[0-9]{1,%d}\n" % memo_digits,
        re.escape(pickle.GET) + b"[0-9]{1,%d}\n" % memo_digits,
        b"[" + re.escape(pickle.INT + pickle.LONG) + rb"]-?[0-9]{1,20}L?\n",
        *(re.escape(pickle.LONG1 + bytes([n])) + b".{%d}" % n for n in range(MAX_INT_BYTES + 1)),
        b"[" + re.escape(pickle.STRING + pickle.UNICODE + pickle.PERSID) + b"]" + line,
        re.escape(pickle.FLOAT) + rb"[^\n]{1,40}\n",
        b"[" + re.escape(pickle.GLOBAL + pickle.INST) + b"]" + line + line,
    )
    return re.compile(b"(?:" + b"|".join(alternatives) + b")*+", re.DOTALL)


def _refuse_opcode(data: bytes, position: int, path: Path) -> NoReturn:
    import pickletools

    where = f"{path}, byte {position}"
    opcode = data[position : position + 1]
    if not opcode:
        raise DataError("the pickle ends without its STOP mark", expected="a whole file", where=where)
    name = next((known.name for known in pickletools.opcodes if known.code.encode("latin-1") == opcode), None)
    if name is None:
        raise DataError(f"not a pickle: byte 0x{opcode[0]:02x} is no opcode", expected=_EXPECTED, where=where)
    if opcode in _EXTENSIONS:
        code = int.from_bytes(data[position + 1 : position + 1 + _EXTENSIONS[opcode]], "little")
        raise DataError(f"the pickle asks for extension registry code {code}", expected=_EXPECTED, where=where)
    if opcode[0] in _TUPLES:
        raise DataError(f"more than {MAX_TUPLES} tuples", expected=_EXPECTED, where=where)
    raise DataError(
        f"pickle opcode {name} is cut off, claims more than the file holds, or has no place in plain data",
        expected=_EXPECTED,
        where=where,
    )
