"""The parts of a sentencepiece `.model` that a tokenizer needs, read from its protocol buffer without a library.

Field numbers and defaults: sentencepiece_model.proto of github.com/google/sentencepiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from omg_llava.errors import ModelError
from omg_llava.files.file_kind import pointer_error

Value = int | bytes
BPE = 2


class PieceKind(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry of the vocabulary; its id is its place. A higher score merges earlier."""

    text: str
    score: float
    kind: PieceKind


@dataclass(slots=True)
class SentencePieceModel:
    """Pieces and settings, with the defaults of the format."""

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = 1
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Read a `.model` file.

    Raises:
        ModelError: no such file, a git-lfs pointer, or not a sentencepiece model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the file: {error.strerror}", where=str(path)) from None
    if (pointer := pointer_error(data, str(path), expected="a sentencepiece model")) is not None:
        raise pointer
    try:
        model = _model(data)
    except (ValueError, LookupError, TypeError, struct.error) as error:
        raise ModelError(f"no sentencepiece model: {error}", expected="a whole file", where=str(path)) from None
    if not model.pieces:
        raise ModelError("no sentencepiece model: no pieces", expected="a vocabulary", where=str(path))
    return model


def _model(data: bytes) -> SentencePieceModel:
    model = SentencePieceModel()
    for number, value in _fields(data):
        if number == 1:
            model.pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer = dict(_fields(_bytes(value)))
            model.model_type = _int(trainer.get(3, 1))
            model.whitespace_as_suffix = bool(trainer.get(24, False))
            model.byte_fallback = bool(trainer.get(35, False))
        elif number == 3:
            normalizer = dict(_fields(_bytes(value)))
            model.charsmap = _bytes(normalizer.get(2, b""))
            model.add_dummy_prefix = bool(normalizer.get(3, True))
            model.remove_extra_whitespaces = bool(normalizer.get(4, True))
            model.escape_whitespaces = bool(normalizer.get(5, True))
    return model


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", _bytes(fields.get(2, bytes(4))))
    return Piece(_bytes(fields[1]).decode("utf-8"), score, PieceKind(_int(fields.get(3, PieceKind.NORMAL))))


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Field numbers and values of a message: integers, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire_type = key & 7
        if wire_type == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire_type)
        if wire_type == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError(f"a field of wire type {wire_type} that does not fit at byte {at}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"an integer without an end at byte {at}")


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where text belongs")
    return value


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError("text where a number belongs")
    return value
