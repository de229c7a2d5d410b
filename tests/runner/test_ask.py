"""One bad request never spoils its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from omgbench.contract import Capabilities, Frame, Intent, Mask, Request, Response, Rle, Status
from omgbench.runner.ask import Asker, out_of_memory
from omgbench.testing.models import RandomModel

FRAME = Frame("picture", 8, 6, Path("never-read.png"))


def _requests(n: int) -> list[Request]:
    return [Request(f"r{number}", Intent.REFER_SEGMENT, (FRAME,), text="thing") for number in range(n)]


class Misbehaving(RandomModel):
    """Answers well, except for what `bad` says of a request."""

    def __init__(self, bad: dict[str, str], fits: int = 10**6) -> None:
        super().__init__()
        self.bad = bad
        self.fits = fits
        self.batches: list[int] = []

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        self.batches.append(len(requests))
        if len(requests) > self.fits:
            raise MemoryError("too many")
        for request in requests:
            yield from self._answer(request, self.bad.get(request.id, "well"))

    def _answer(self, request: Request, how: str) -> Iterator[Response]:
        (good,) = super().respond([request])
        if how == "raise":
            raise ValueError("poisoned")
        if how == "exit":
            raise SystemExit(3)
        if how == "well":
            yield good
        elif how == "twice":
            yield from (good, good)
        elif how == "stranger":
            yield Response("somebody else")
        elif how == "wrong size":
            yield Response(request.id, masks=(Mask(Rle((3, 3), "9")),))


def _ask(model: Misbehaving, n: int, batch_size: int = 100) -> tuple[list[Response], Asker]:
    asker = Asker(model, model.capabilities(), batch_size)
    return asker.ask(_requests(n)), asker


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("raise", Status.ERROR, "ValueError: poisoned"),
        ("exit", Status.ERROR, "SystemExit"),
        ("twice", Status.ERROR, "twice"),
        ("nothing", Status.MISSING, "no answer"),
        ("stranger", Status.MISSING, "no answer"),
        ("wrong size", Status.ERROR, "breaks the contract"),
    ],
)
def test_one_poisoned_request_costs_one_record(how: str, status: Status, words: str) -> None:
    responses, _ = _ask(Misbehaving({"r5": how}), 16)
    clean, _ = _ask(Misbehaving({}), 16)
    assert [response.id for response in responses] == [f"r{number}" for number in range(16)]
    assert responses[5].status is status
    assert words in (responses[5].error or "")
    assert responses[:5] + responses[6:] == clean[:5] + clean[6:]


def test_answers_given_before_an_exception_are_kept() -> None:
    model = Misbehaving({"r15": "raise"})
    _ask(model, 16)
    # The whole batch, then the poisoned request alone: nothing that was answered is asked again.
    assert model.batches == [16, 1]


def test_out_of_memory_halves_the_batch_for_good(capsys: pytest.CaptureFixture[str]) -> None:
    model = Misbehaving({}, fits=3)
    responses, asker = _ask(model, 16, batch_size=16)
    assert all(response.status is Status.OK for response in responses)
    assert asker.batch_size == 2
    assert "out of memory with 16 requests" in capsys.readouterr().err


def test_out_of_memory_alone_is_an_error_of_that_request() -> None:
    responses, asker = _ask(Misbehaving({}, fits=0), 2, batch_size=2)
    assert [response.status for response in responses] == [Status.ERROR, Status.ERROR]
    assert asker.batch_size == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("x"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_a_thing_that_is_no_response_is_named() -> None:
    class Text(RandomModel):
        def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
            yield from ("text" for _ in requests)  # type: ignore[misc]

    responses = Asker(Text(), Capabilities(frozenset(Intent)), 1).ask(_requests(1))
    assert "gave a str" in (responses[0].error or "")
