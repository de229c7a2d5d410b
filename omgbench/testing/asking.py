"""Putting requests to a model as the runner does, and writing down every breach of manners on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from omgbench.contract import Model, Request, Response, SeesReferences
from omgbench.testing.random_answers import random_answer


@dataclass(slots=True)
class Answers:
    """What came back.

    Attributes:
        by_id: the first answer to each request.
        id_problems: unknown, repeated and absent ids, and things that are no response.
        raised: what was raised, with the ids of the batch.
    """

    by_id: dict[str, Response] = field(default_factory=dict)
    id_problems: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)


def ask(model: Model, requests: Sequence[Request], batch_size: int) -> Answers:
    """Put requests to a model in batches; the unanswered ones of a batch that raises are asked again alone.

    A model that sees references is given made answers as the right ones.
    """
    answers = Answers()
    for start in range(0, len(requests), batch_size):
        _ask_batch(model, requests[start : start + batch_size], answers)
    return answers


def _ask_batch(model: Model, batch: Sequence[Request], answers: Answers) -> None:
    ids = {request.id for request in batch}
    try:
        for response in _respond(model, batch):
            _take(response, ids, answers)
    except Exception as error:
        answers.raised.append(f"{type(error).__name__}: {error} (asked: {', '.join(sorted(ids))})")
        if len(batch) > 1:
            for request in batch:
                if request.id not in answers.by_id:
                    _ask_batch(model, [request], answers)
        return
    for request in batch:
        if request.id not in answers.by_id:
            answers.id_problems.append(f"no answer to {request.id!r}")


def _respond(model: Model, batch: Sequence[Request]) -> Iterable[Response]:
    if isinstance(model, SeesReferences) and model.capabilities().sees_references:
        return model.respond_with_references(batch, [random_answer(request) for request in batch])
    return model.respond(batch)


def _take(response: object, ids: set[str], answers: Answers) -> None:
    if not isinstance(response, Response):
        answers.id_problems.append(f"yielded {type(response).__name__}, expected a Response")
    elif response.id not in ids:
        answers.id_problems.append(f"answered {response.id!r}, which was not asked (asked: {', '.join(sorted(ids))})")
    elif response.id in answers.by_id:
        answers.id_problems.append(f"answered {response.id!r} twice")
    else:
        answers.by_id[response.id] = response
