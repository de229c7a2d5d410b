"""The JSON form of responses: the same in journals, in offline prediction files and between processes."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from omgbench.contract import Response
from omgbench.errors import DataError

_RESPONSE: TypeAdapter[Response] = TypeAdapter(Response)


def response_to_json(response: Response) -> bytes:
    """Compact JSON of a response; fields at their default are left out. NaN and infinity become null and are
    refused when read back, so check first."""
    return _RESPONSE.dump_json(response, exclude_defaults=True)


def response_from_json(data: bytes | str, where: str) -> Response:
    """Read a response. Unknown keys, wrong types and bad JSON raise `DataError` naming `where` and the field."""
    try:
        return _RESPONSE.validate_json(data)
    except ValidationError as error:
        raise _as_data_error(error, where) from None


def response_from_plain(data: object, where: str) -> Response:
    """Read a response from parsed JSON; see `response_from_json`."""
    try:
        return _RESPONSE.validate_python(data)
    except ValidationError as error:
        raise _as_data_error(error, where) from None


def _as_data_error(error: ValidationError, where: str) -> DataError:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the line"
    shown = repr(first.get("input"))
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return DataError(
        f"a response that cannot be read: {field} is {shown}",
        expected=first["msg"],
        where=where,
        hint="compare with the prediction format in docs/predictions.md",
    )
