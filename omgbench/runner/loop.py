"""The answering loop of one process: samples in, journaled answers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from omgbench.contract import HasPerfectAnswer, Response, Sample, Status, Task
from omgbench.errors import PluginError
from omgbench.runner.ask import Asker
from omgbench.runner.journal import Answer, JournalWriter
from omgbench.runner.plan import PlannedSample
from omgbench.runner.prefetch import ImageReader, Ready, with_images, without_images


class LoopListener(Protocol):
    """Is told what the loop is at: progress bars, watchdogs, the parent of a worker."""

    def batch_started(self, ordinals: Sequence[int], ids: Sequence[str]) -> None: ...

    def batch_finished(self, statuses: Sequence[Status]) -> None: ...


def answer_samples(
    samples: Iterable[PlannedSample],
    task: Task,
    asker: Asker,
    journal: JournalWriter,
    listener: LoopListener,
    reader: ImageReader,
    attempt_of: Sequence[int] | None = None,
    upcoming: Callable[[], Iterable[PlannedSample]] = tuple,
) -> None:
    """Answer samples batch by batch; every batch is journaled before the next is asked.

    Args:
        attempt_of: by ordinal, how often the sample was asked before; None = never.
        upcoming: see `omgbench.runner.prefetch.with_images`.
    """
    if asker.capabilities.reads_images:
        stream = with_images(samples, 2 * asker.batch_size + 8, reader, upcoming)
    else:
        stream = without_images(samples)
    batch: list[Ready] = []
    for ready in stream:
        batch.append(ready)
        if len(batch) >= asker.batch_size:
            _answer_batch(batch, task, asker, journal, listener, attempt_of)
            batch = []
    if batch:
        _answer_batch(batch, task, asker, journal, listener, attempt_of)


def _answer_batch(
    batch: list[Ready],
    task: Task,
    asker: Asker,
    journal: JournalWriter,
    listener: LoopListener,
    attempt_of: Sequence[int] | None,
) -> None:
    ordinals = [ready.planned.ordinal for ready in batch]
    listener.batch_started(ordinals, [ready.planned.sample.id for ready in batch])
    responses = {
        ready.planned.ordinal: response for ready in batch if (response := _without_asking(ready, asker)) is not None
    }
    asked = [ready.planned for ready in batch if ready.planned.ordinal not in responses]
    if asked:
        references = references_for([planned.sample for planned in asked], task, asker)
        requests = [planned.sample.request for planned in asked]
        for planned, response in zip(asked, asker.ask(requests, references), strict=True):
            responses[planned.ordinal] = response
    answers = [_answer(ready, responses[ready.planned.ordinal], attempt_of) for ready in batch]
    journal.append(answers)
    listener.batch_finished([answer.response.status for answer in answers])


def _without_asking(ready: Ready, asker: Asker) -> Response | None:
    request = ready.planned.sample.request
    if ready.problem is not None:
        return Response(request.id, Status.ERROR, error=ready.problem)
    refusal = asker.capabilities.refusal(request)
    if refusal is not None:
        return Response(request.id, Status.UNSUPPORTED, error=f"the model {refusal}")
    return None


def _answer(ready: Ready, response: Response, attempt_of: Sequence[int] | None) -> Answer:
    planned = ready.planned
    attempt = int(attempt_of[planned.ordinal]) if attempt_of is not None else 0
    return Answer(planned.ordinal, ready.images, attempt, response)


def references_for(samples: Sequence[Sample], task: Task, asker: Asker) -> list[Response] | None:
    """Perfect answers for a model that sees references; None for every other model."""
    if not asker.capabilities.sees_references:
        return None
    return [require_perfect_answer(task).perfect_answer(sample) for sample in samples]


def require_perfect_answer(task: Task) -> HasPerfectAnswer:
    """The task, if it can say what a perfect answer is. Raises `PluginError`."""
    if not isinstance(task, HasPerfectAnswer):
        raise PluginError(
            f"task {task.info.name} cannot say what a perfect answer is",
            expected="a method perfect_answer(sample)",
            hint="choose another model",
        )
    return task
