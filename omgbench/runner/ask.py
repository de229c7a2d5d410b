"""Asks a model one batch and always comes back with one valid answer per request."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace

from omgbench.contract import Capabilities, Model, ModelDied, Request, Response, SeesReferences, Status
from omgbench.errors import PluginError
from omgbench.printable import SENTENCE_LIMIT, printable
from omgbench.response_checks import check_response

_TRACE_LINES = 6
MOST_ERROR_CHARACTERS = 2000


class Asker:
    """Sends batches to a model and keeps one bad request from spoiling its neighbours.

    A batch that runs out of memory is halved, and later batches stay at the smaller size. A batch that raises
    otherwise is halved until the request that raises stands alone; that one becomes `Status.ERROR`. A request that
    comes back without answer becomes `Status.MISSING`; an answer that breaks a rule of the contract `Status.ERROR`.

    Attributes:
        batch_size: the size that fits; at most the size asked for.
    """

    def __init__(self, model: Model, capabilities: Capabilities, batch_size: int) -> None:
        self.model = model
        self.capabilities = capabilities
        self.batch_size = batch_size

    def ask(self, requests: Sequence[Request], references: Sequence[Response] | None = None) -> list[Response]:
        """One response per request, in the requests' order. `references` go to models that see them."""
        answers: dict[str, Response] = {}
        self._ask(list(requests), dict(zip(_ids(requests), references or (), strict=False)), answers)
        return [
            answers.get(request.id) or Response(request.id, Status.MISSING, error="the model gave no answer")
            for request in requests
        ]

    def _ask(self, requests: list[Request], references: dict[str, Response], answers: dict[str, Response]) -> None:
        try:
            self._collect(self._respond(requests, references), requests, answers)
            return
        except (Exception, SystemExit) as error:
            if model_died(error):
                raise ModelDied(describe_error(error)) from error
            left = [request for request in requests if request.id not in answers]
            if not left:
                return
            if len(left) == 1 and len(requests) == 1:
                answers[left[0].id] = Response(left[0].id, Status.ERROR, error=describe_error(error))
                return
            if out_of_memory(error):
                self._shrink(len(requests))
        middle = max(1, len(left) // 2)
        for part in (left[:middle], left[middle:]):
            if part:
                self._ask(part, references, answers)

    def _respond(self, requests: list[Request], references: dict[str, Response]) -> Iterable[Response]:
        if not self.capabilities.sees_references:
            return self.model.respond(requests)
        if not isinstance(self.model, SeesReferences):
            raise PluginError("the model declares sees_references but has no respond_with_references")
        return self.model.respond_with_references(requests, [references[request.id] for request in requests])

    def _collect(self, responses: Iterable[Response], requests: list[Request], answers: dict[str, Response]) -> None:
        expected = {request.id: request for request in requests}
        for response in responses:
            if not isinstance(response, Response):
                raise TypeError(f"respond gave a {type(response).__name__}, expected omgbench.contract.Response")
            request = expected.get(response.id)
            if request is None:
                _warn(f"the model answered {response.id!r}, which was not asked in this batch; left out")
            elif response.id in answers:
                answers[response.id] = Response(response.id, Status.ERROR, error="the model answered twice")
            else:
                answers[response.id] = _checked(request, response)

    def _shrink(self, tried: int) -> None:
        smaller = max(1, tried // 2)
        if smaller < self.batch_size:
            self.batch_size = smaller
            _warn(f"out of memory with {tried} requests; the batch size is {smaller} from here on")
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _ids(requests: Iterable[Request]) -> list[str]:
    return [request.id for request in requests]


def _checked(request: Request, response: Response) -> Response:
    broken = check_response(request, response)
    if broken is None:
        too_long = response.error is not None and len(response.error) > MOST_ERROR_CHARACTERS
        return replace(response, error=f"{response.error[:MOST_ERROR_CHARACTERS]}...") if too_long else response  # type: ignore[index]
    return Response(request.id, Status.ERROR, error=f"the answer breaks the contract: {broken}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out (host, CUDA, MPS; torch need not be imported to tell)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def model_died(error: BaseException) -> bool:
    """Whether an exception means that nothing more can be asked in this process: after an assert on the device every
    later call fails too, whatever is asked."""
    if isinstance(error, ModelDied) or type(error).__name__ == "AcceleratorError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and "CUDA error" in text and "out of memory" not in text


def describe_error(error: BaseException) -> str:
    """Class, message and the innermost lines of the trace, file names without folders: enough to mend an adapter, and
    the same text on every machine."""
    head = f"{type(error).__name__}: {error}"[:MOST_ERROR_CHARACTERS]
    trace = traceback.extract_tb(error.__traceback__)[-_TRACE_LINES:]
    places = [
        f"{frame.filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in trace
    ]
    return f"{head} [{' < '.join(reversed(places))}]" if places else head


def _warn(text: str) -> None:
    print(f"omgbench: {printable(text, SENTENCE_LIMIT)}", file=sys.stderr)
