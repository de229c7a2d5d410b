"""The prediction file: JSON lines with a header, one response each. See docs/predictions.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from omgbench.contract import Response
from omgbench.contract.model import MaskSource
from omgbench.errors import DataError
from omgbench.identity import file_sha256
from omgbench.metrics.rle import rle_from_uncompressed
from omgbench.store.files import atomic_writer
from omgbench.wire import response_from_plain, response_to_json

PROTOCOL = 1
_HEADER_KEYS = {"protocol", "model", "version", "weights", "templates", "mask_source", "language_model", "requests"}
_HINT = "the format is described in docs/predictions.md"


class PredictionFile:
    """Saved responses by request id.

    Attributes:
        path: the file.
        header: its first line, checked.
        sha256: of the whole file, after `load`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        self.sha256 = ""
        self._offsets: dict[str, int] = {}

    def load(self) -> None:
        """Read every line once. Raises `DataError` with file and line for the first one that is no response, and for
        an id that stands twice."""
        self.sha256 = file_sha256(self.path)
        self._offsets = {}
        line_of: dict[str, int] = {}
        for number, offset, value in _lines(self.path):
            if number == 1:
                continue
            response = _response(value, f"{self.path}, line {number}")
            if response.id in line_of:
                raise DataError(
                    f"the id {response.id!r} stands twice",
                    where=f"{self.path}, lines {line_of[response.id]} and {number}",
                    expected="one line per request",
                )
            line_of[response.id] = number
            self._offsets[response.id] = offset

    def ids(self) -> Iterable[str]:
        """Ids in the file, after `load`."""
        return self._offsets.keys()

    def responses(self, ids: Iterable[str]) -> Iterator[Response | None]:
        """The response of each id, None where the file has none."""
        with self.path.open("rb") as stream:
            for request_id in ids:
                offset = self._offsets.get(request_id)
                if offset is None:
                    yield None
                    continue
                stream.seek(offset)
                yield _response(json.loads(stream.readline()), f"{self.path}, {request_id}")


def read_header(path: Path) -> dict[str, Any]:
    """The header line, checked. Raises `DataError`."""
    where = f"{path}, line 1"
    first = next(_lines(path), None)
    if first is None:
        raise DataError("an empty prediction file", where=str(path), expected="a header line", hint=_HINT)
    header = first[2]
    if not isinstance(header, dict) or "protocol" not in header:
        raise DataError(
            "the first line is no header", where=where, expected='{"protocol": 1, "model": ...}', hint=_HINT
        )
    if header["protocol"] != PROTOCOL:
        raise DataError(f"protocol {header['protocol']!r}", where=where, expected=f"protocol {PROTOCOL}", hint=_HINT)
    if not isinstance(header.get("model"), str) or not header["model"]:
        raise DataError(f"model is {header.get('model')!r}", where=where, expected="the model's name", hint=_HINT)
    unknown = sorted(set(header) - _HEADER_KEYS)
    if unknown:
        raise DataError(
            f"unknown header key {unknown[0]!r}", where=where, expected=", ".join(sorted(_HEADER_KEYS)), hint=_HINT
        )
    source = header.get("mask_source", "native")
    if source not in get_args(MaskSource):
        raise DataError(f"mask_source is {source!r}", where=where, expected=", ".join(get_args(MaskSource)), hint=_HINT)
    if not isinstance(header.get("language_model", True), bool):
        raise DataError(f"language_model is {header['language_model']!r}", where=where, expected="true or false")
    for key in ("templates", "requests"):
        if not isinstance(header.get(key, {}), dict):
            raise DataError(f"{key} is no object", where=where, expected="a JSON object", hint=_HINT)
    return header


def _lines(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Line number, byte offset and parsed value of every line that is not blank."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"the prediction file cannot be opened: {error.strerror}", where=str(path)) from None
    offset = 0
    with stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    yield number, offset, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(
                        f"a line that is not JSON: {error}", where=f"{path}, line {number}", hint=_HINT
                    ) from None
            offset += len(line)


def _response(value: Any, where: str) -> Response:
    if isinstance(value, dict):
        # Workers speak the same lines with a kind in front.
        value = {key: item for key, item in value.items() if key != "kind"}
        if isinstance(value.get("masks"), list):
            value["masks"] = [_with_compressed_counts(mask, where) for mask in value["masks"]]
    return response_from_plain(value, where)


def _with_compressed_counts(mask: Any, where: str) -> Any:
    """A worker without pycocotools writes run lengths as a plain list."""
    rle = mask.get("rle") if isinstance(mask, dict) else None
    if not isinstance(rle, dict) or not isinstance(rle.get("counts"), list):
        return mask
    size = rle.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)):
        raise DataError(f"a mask with the size {size!r}", expected="[height, width]", where=where, hint=_HINT)
    try:
        compressed = rle_from_uncompressed(rle["counts"], (size[0], size[1]))
    except DataError as error:
        raise DataError(error.found, expected=error.expected, where=where, hint=_HINT) from None
    return mask | {"rle": {"size": size, "counts": compressed.counts}}


def write_predictions(
    path: Path, model: str, responses: Iterable[Response], header: Mapping[str, Any] | None = None
) -> int:
    """Write a prediction file, whole or not at all; gives the number of responses."""
    count = 0
    with atomic_writer(path) as stream:
        stream.write(json.dumps({"protocol": PROTOCOL, "model": model, **(header or {})}, ensure_ascii=False) + "\n")
        for response in responses:
            stream.write(response_to_json(response).decode() + "\n")
            count += 1
    return count
