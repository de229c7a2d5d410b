"""Engines answer the open samples of a cell: here in this process, in `pool.py` in worker processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from omgbench.contract import Capabilities, Model, ModelDied, ModelIdentity, Placement, Status
from omgbench.errors import OmgbenchError, PluginError, UserError
from omgbench.identity import code_fingerprint, fingerprint
from omgbench.runner.ask import Asker
from omgbench.runner.journal import JournalWriter, Session
from omgbench.runner.loop import answer_samples
from omgbench.runner.plan import Plan, PlannedSample
from omgbench.runner.prefetch import ImageReader
from omgbench.runner.progress import Progress, WarningsOnly
from omgbench.runner.watchdog import Watchdog, WatchdogThread


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Which model answers: what it says of itself, the fingerprint of the code that says it, and where it really is."""

    identity: ModelIdentity
    code: str
    placement: Placement = Placement()

    @property
    def fingerprint(self) -> str:
        """Answers may be shared between runs only when this is equal. Another dtype gives other answers; another device
        or batch size must not."""
        value = {"identity": asdict(self.identity), "code": self.code, "dtype": self.placement.dtype}
        return fingerprint(value)


@dataclass(frozen=True, slots=True)
class CellJob:
    """What an engine is to do for one cell.

    Attributes:
        plan: the cell's plan.
        journal_folder: where answers go.
        cell_fp: fingerprint that heads every journal of the cell.
        blocks: open ordinals, block by block, ascending.
        attempt_of: by ordinal, how often the sample was asked before.
        batch_size: use this batch size for the job in place of the engine's own.
    """

    plan: Plan
    journal_folder: Path
    cell_fp: str
    blocks: Sequence[Sequence[int]]
    attempt_of: Sequence[int]
    batch_size: int | None = None


class Engine(Protocol):
    """Loads a model and answers cells with it."""

    @property
    def batch_size(self) -> int: ...

    def start(self) -> LoadedModel: ...

    def answer(self, job: CellJob, progress: Progress) -> None: ...

    def close(self) -> None: ...


def load_model(model: Model, placement: Placement) -> LoadedModel:
    """Load a model and ask who it is. Raises `PluginError` for whatever the adapter raises."""
    try:
        # Before loading, which may take minutes: somebody may edit the adapter meanwhile.
        code = code_fingerprint(model)
        used = model.load(placement)
        return LoadedModel(_checked_identity(model), code, used if isinstance(used, Placement) else placement)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{type(model).__name__} could not be loaded: {type(error).__name__}: {error}",
            hint="omgbench doctor shows what this machine has",
        ) from error


def _checked_identity(model: Model) -> ModelIdentity:
    identity: object = model.identity()
    owner = f"{type(model).__name__}.identity()"
    if not isinstance(identity, ModelIdentity):
        raise PluginError(f"{owner} gave a {type(identity).__name__}", expected="omgbench.contract.ModelIdentity")
    for name in ("name", "version", "weights"):
        if not isinstance(getattr(identity, name), str):
            raise PluginError(f"{owner}: {name} is {getattr(identity, name)!r}", expected="text")
    for name in ("templates", "options", "libraries"):
        value = getattr(identity, name)
        if not isinstance(value, Mapping) or not all(isinstance(t, str) for pair in value.items() for t in pair):
            raise PluginError(f"{owner}: {name} is {value!r}", expected="texts by name")
    return identity


class LocalEngine:
    """One model in this process."""

    def __init__(self, model: Model, capabilities: Capabilities, placement: Placement, batch_size: int) -> None:
        self._model = model
        self._placement = placement
        self._asker = Asker(model, capabilities, batch_size)
        self._loaded: LoadedModel | None = None

    @property
    def batch_size(self) -> int:
        """The batch size in use, after any halving."""
        return self._asker.batch_size

    def start(self) -> LoadedModel:
        """Load the model."""
        self._loaded = load_model(self._model, self._placement)
        return self._loaded

    def answer(self, job: CellJob, progress: Progress) -> None:
        """Answer every open sample of the job."""
        assert self._loaded is not None
        todo = itertools.chain.from_iterable(job.blocks)
        watchdog = Watchdog("the model", progress.say)
        usual = self._asker.batch_size
        self._asker.batch_size = job.batch_size or usual
        session = Session("local", self._loaded.placement.device, self._asker.batch_size)
        journal = JournalWriter(job.journal_folder, job.cell_fp, session)
        try:
            with WatchdogThread(watchdog), ImageReader() as reader:
                answer_samples(
                    pick(job.plan.samples(), todo),
                    job.plan.cell.task,
                    self._asker,
                    journal,
                    _Listener(watchdog, progress),
                    reader,
                    job.attempt_of,
                )
        except ModelDied as error:
            raise OmgbenchError(
                f"the model died: {error}\n  kept: every finished answer, in {job.journal_folder}\n"
                f"  next: the same command goes on; with --workers 1 the request it dies on becomes an error of its own"
            ) from error
        finally:
            journal.close()
            if job.batch_size is not None:
                self._asker.batch_size = usual

    def close(self) -> None:
        """Free the model."""
        if self._loaded is not None:
            self._loaded = None
            try:
                self._model.close()
            except Exception as error:
                # Every answer is on disk by now; what a failing close() loses is memory.
                owner = type(self._model).__name__
                WarningsOnly().say(f"{owner}.close() raised {type(error).__name__}: {error}")


class _Listener:
    def __init__(self, watchdog: Watchdog, progress: Progress) -> None:
        self._watchdog = watchdog
        self._progress = progress

    def batch_started(self, ordinals: Sequence[int], ids: Sequence[str]) -> None:
        self._watchdog.started(ids)

    def batch_finished(self, statuses: Sequence[Status]) -> None:
        self._watchdog.finished()
        self._progress.advanced(count_statuses(statuses))


def count_statuses(statuses: Iterable[Status]) -> dict[str, int]:
    """How many of each."""
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status.value] = counts.get(status.value, 0) + 1
    return counts


def pick(samples: Iterator[PlannedSample], ordinals: Iterable[int]) -> Iterator[PlannedSample]:
    """The samples with these ascending ordinals out of an ascending stream."""
    wanted = iter(ordinals)
    ordinal = next(wanted, None)
    if ordinal is None:
        return
    for planned in samples:
        if planned.ordinal == ordinal:
            yield planned
            ordinal = next(wanted, None)
            if ordinal is None:
                return
