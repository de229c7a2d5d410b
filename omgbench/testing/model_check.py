"""`check_model`: does an adapter keep the contract?"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import TypeVar, cast

from omgbench.contract import Capabilities, Intent, Model, ModelIdentity, Placement, Request, Response
from omgbench.testing.asking import ask
from omgbench.testing.differences import answer_difference
from omgbench.testing.made_requests import FrameLog
from omgbench.testing.model_rules import capabilities_problem, identity_problem
from omgbench.testing.model_trial import ModelTrial
from omgbench.testing.no_network import no_network
from omgbench.testing.report import Findings, Report


def check_model(
    model_or_factory: Model | Callable[[], Model],
    *,
    intents: Collection[Intent] | None = None,
    placement: Placement | None = None,
) -> Report:
    """Try a model on made requests and report which rules of the contract it keeps.

    Every intent, prompt kind and other ability it declares is tried on pictures of odd sizes and pixel modes (1x1,
    3x500, 640x480, grey, transparent, 16-bit, palette), in batches of 3, of 1, and in reversed order; then it meets
    a picture that is none, an endless text and an empty one; then it is closed and loaded again. Some forty
    requests, each asked about four times, all with at most 32 new tokens.

    Args:
        model_or_factory: a class or function that gives a fresh model each time (preferred: it shows whether memory is
            freed), or a model, which is then closed and loaded again.
        intents: try only these of the declared intents.
        placement: where to load; `Placement()` by default, which is offline: any use of the network is then refused and
            fails the check.
    """
    is_factory = isinstance(model_or_factory, type) or not hasattr(model_or_factory, "respond")
    if is_factory:
        make = cast("Callable[[], Model]", model_or_factory)
    else:
        make = lambda: cast(Model, model_or_factory)  # noqa: E731
    where = placement or Placement()
    findings = Findings()
    with ExitStack() as stack:
        attempts = stack.enter_context(no_network()) if where.offline else []
        life = _Life(make, where, intents, findings)
        died = _guarded(life.first, findings)
        gc.collect()
        _note_memory(died if is_factory else None, findings)
        _guarded(life.second, findings)
    if where.offline:
        findings.expect("offline", f"asked for {', '.join(dict.fromkeys(attempts))}" if attempts else None)
    return findings.report(f"model {life.name}")


_T = TypeVar("_T")


def _guarded(life: Callable[[], _T], findings: Findings) -> _T | None:
    """A constructor, `capabilities`, `identity` or anything else that raises ends that life, not the check."""
    try:
        return life()
    except Exception as error:
        findings.expect("raises nothing", f"{type(error).__name__}: {error}")
    return None


def _note_memory(model_ref: Callable[[], object] | None, findings: Findings) -> None:
    if model_ref is None:
        findings.skip("frees memory", "not watched: give check_model a class or factory whose models allow weakref")
    elif model_ref() is not None:
        findings.remark("frees memory", "the model is still referenced after close() and del")
    else:
        findings.expect("frees memory", None)


class _Life:
    """A model's life under the check: the first model is tried all over, the second only shows that reloading works.

    No method keeps a model in `self`: the first one must be able to die.
    """

    def __init__(
        self,
        make: Callable[[], Model],
        placement: Placement,
        intents: Collection[Intent] | None,
        findings: Findings,
    ) -> None:
        self.name = getattr(make, "__name__", "?")
        self._make = make
        self._placement = placement
        self._intents = intents
        self._findings = findings
        self._witness: tuple[Request, Response, bool] | None = None
        self._identity: ModelIdentity | None = None

    def first(self) -> Callable[[], object] | None:
        """Try one model on everything and close it; gives a weak reference to it, None where it allows none."""
        model = self._loaded("load")
        if model is None:
            return None
        self.name = type(model).__name__
        capabilities = model.capabilities()
        if capabilities_problem(model, capabilities) is None:
            self._identify(model)
            self._try_all(model, capabilities)
        self._findings.expect("close", _raised_by(model.close))
        try:
            return weakref.ref(model)
        except TypeError:
            return None

    def second(self) -> None:
        """Load once more and ask one request again."""
        if self._witness is None:
            self._findings.skip("reload", "the first life gave no answer to compare with")
            return
        model = self._loaded("reload")
        if model is None:
            return
        request, before, deterministic = self._witness
        after = ask(model, [request], 1).by_id.get(request.id)
        problem = "no answer" if after is None else answer_difference(before, after) if deterministic else None
        self._findings.expect("reload", problem and f"after close and load, {request.id}: {problem}")
        problem = None if model.identity() == self._identity else "another one after close and load"
        self._findings.expect("identity", problem)
        self._findings.expect("close", _raised_by(model.close))

    def _loaded(self, check: str) -> Model | None:
        model = self._make()
        before = model.capabilities()
        self._findings.expect("capabilities", capabilities_problem(model, before))
        if not self._findings.expect(check, _raised_by(lambda: model.load(self._placement))):
            return None
        changed = None if model.capabilities() == before else "they change with load; planning asks before it"
        self._findings.expect("capabilities", changed)
        return model

    def _identify(self, model: Model) -> None:
        identity = model.identity()
        problem = identity_problem(identity)
        if problem is None and model.identity() != identity:
            problem = "two calls give two identities"
        self._findings.expect("identity", problem)
        self._identity = identity

    def _try_all(self, model: Model, capabilities: Capabilities) -> None:
        wanted = [
            intent
            for intent in Intent
            if intent in capabilities.intents and (self._intents is None or intent in self._intents)
        ]
        if not wanted:
            self._findings.expect("capabilities", f"none of the intents {self._intents} is declared")
            return
        log = FrameLog(watched=not capabilities.reads_images)
        trial = ModelTrial(model, capabilities, wanted, log, self._findings)
        trial.run()
        self._witness = trial.witness()


def _raised_by(action: Callable[[], object]) -> str | None:
    try:
        action()
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return None
