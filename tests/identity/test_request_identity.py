"""Whatever a request says is part of its fingerprint, fields that are added later included."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from omgbench.contract import Category, Frame, GenOptions, Intent, Request, Rle, Turn
from omgbench.contract.request import VisualPrompt
from omgbench.identity import request_fingerprint

PROMPTS: tuple[type, ...] = get_args(VisualPrompt)
COVERED: tuple[type, ...] = (Request, GenOptions, Frame, Turn, Category, Rle, *PROMPTS)
LEFT_OUT = {
    (Frame, "source"): "where the bytes lie says nothing about them; they are hashed when they are read",
    (Frame, "decoded"): "the same picture, decoded ahead of time",
}
# By the type as `typing.get_type_hints` prints it: two values that a field can have.
EXAMPLES: dict[str, tuple[Any, Any]] = {
    "<class 'str'>": ("one", "two"),
    "str | None": (None, "two"),
    "<class 'int'>": (3, 4),
    "<class 'float'>": (0.25, 0.5),
    "<class 'bool'>": (False, True),
    "tuple[str, ...]": (("one",), ("one", "two")),
    "tuple[int, int]": ((8, 9), (9, 8)),
    "tuple[float, float]": ((1.0, 2.0), (2.0, 1.0)),
    "tuple[float, float, float, float]": ((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 5.0)),
    "tuple[tuple[float, float], ...]": (((1.0, 2.0), (3.0, 4.0)), ((3.0, 4.0), (1.0, 2.0))),
    "typing.Literal['user', 'assistant']": ("user", "assistant"),
    str(Intent): (Intent.CHAT, Intent.REFER_BOX),
}
CASES = [
    (kind, field.name) for kind in COVERED for field in dataclasses.fields(kind) if (kind, field.name) not in LEFT_OUT
]


def _nested(hint: Any) -> Iterator[type]:
    """The covered types that a field's type holds."""
    if hint in COVERED:
        yield hint
    for argument in get_args(hint):
        yield from _nested(argument)


def _values(kind: type, name: str) -> tuple[Any, Any]:
    """Two different values of a field."""
    hints = get_type_hints(kind, localns={"Image": object})
    hint = hints[name]
    if name == "kind" and kind in PROMPTS:
        # A prompt's kind is its type; the other value stands for another type with the same fields.
        return get_args(hint)[0], "other"
    if str(hint) in EXAMPLES:
        return EXAMPLES[str(hint)]
    members = list(_nested(hint))
    if hint in COVERED:
        changed = next(field.name for field in dataclasses.fields(hint) if (hint, field.name) not in LEFT_OUT)
        return _example(hint), dataclasses.replace(_example(hint), **{changed: _values(hint, changed)[1]})
    assert members and str(hint).startswith("tuple["), (
        f"{kind.__name__}.{name} has the type {hint}, which this test does not know: check that request_fingerprint "
        f"covers it, and extend EXAMPLES with two values"
    )
    return (_example(members[0]),), (_example(members[0]), _example(members[-1]))


def _example(kind: type) -> Any:
    values = {name: _values(kind, name)[0] for owner, name in CASES if owner is kind}
    return kind(**values, **({"source": b""} if kind is Frame else {}))


def _request_with(part: Any) -> Request:
    """A request that holds `part`, at the only place where its type can stand."""
    if isinstance(part, Request):
        return part
    if isinstance(part, Rle):
        mask_prompt = next(kind for kind in PROMPTS if Rle in get_type_hints(kind).values())
        return _request_with(dataclasses.replace(_example(mask_prompt), rle=part))
    hints = get_type_hints(Request)
    place = next(name for name, hint in hints.items() if type(part) in _nested(hint))
    value = part if hints[place] is type(part) else (part,)
    return dataclasses.replace(_example(Request), **{place: value})


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.__name__}.{name}" for kind, name in CASES])
def test_every_field_counts(kind: type, name: str) -> None:
    one, two = _values(kind, name)
    assert one != two
    part = _example(kind)
    before = request_fingerprint(_request_with(dataclasses.replace(part, **{name: one})))
    after = request_fingerprint(_request_with(dataclasses.replace(part, **{name: two})))
    assert before != after, f"{kind.__name__}.{name} changes answers and is not in request_fingerprint"
    assert before == request_fingerprint(_request_with(dataclasses.replace(_example(kind), **{name: one})))


def test_what_is_left_out_exists_and_does_not_count() -> None:
    for kind, name in LEFT_OUT:
        assert name in {field.name for field in dataclasses.fields(kind)}
    frame = _example(Frame)
    other = dataclasses.replace(frame, source=lambda: b"elsewhere", decoded=None)
    assert request_fingerprint(_request_with(frame)) == request_fingerprint(_request_with(other))


def test_every_type_that_a_request_holds_is_covered() -> None:
    todo, seen = [Request], set()
    while todo:
        kind = todo.pop()
        seen.add(kind)
        hints = get_type_hints(kind, localns={"Image": object})
        held = {part for hint in hints.values() for part in _dataclasses_in(hint)}
        todo += held - seen
    assert seen == set(COVERED)


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(hint):
        yield hint  # type: ignore[misc]
    for argument in get_args(hint):
        yield from _dataclasses_in(argument)


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_order_of_prompts_counts(kind: type) -> None:
    one, two = _example(kind), dataclasses.replace(_example(kind), frame=7)
    requests = [dataclasses.replace(_example(Request), prompts=pair) for pair in ((one, two), (two, one))]
    assert request_fingerprint(requests[0]) != request_fingerprint(requests[1])
