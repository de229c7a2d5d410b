"""`check_model`: does an adapter keep the contract?"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, cast

from omgbench.contract import (
    Capabilities,
    Intent,
    Model,
    ModelIdentity,
    Placement,
    Request,
    Response,
    SeesReferences,
    Status,
)
from omgbench.response_checks import check_response
from omgbench.testing.asking import Answers, ask
from omgbench.testing.differences import answer_difference
from omgbench.testing.frames import broken_frame, tiny_frame
from omgbench.testing.made_requests import FrameLog, MadeRequest, made_requests, plain_request
from omgbench.testing.no_network import no_network
from omgbench.testing.report import Findings, Report

BATCH = 3
LONG_TEXT_CHARS = 100_000
_ANSWERED = frozenset({Status.OK, Status.EMPTY, Status.REFUSED, Status.TRUNCATED})
_RULES = ("masks", "boxes", "spans", "panoptic", "choices", "text")
_READ_TEXTS = (Intent.CHAT, Intent.REFER_SEGMENT, Intent.REFER_BOX, Intent.SCORE_CHOICES, Intent.GROUNDED_CAPTION)


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
    requests, each asked about four times, all with at most 32 new tokens. Nothing may use the network.

    Args:
        model_or_factory: a class or function that gives a fresh model each time (preferred: it shows whether memory is
            freed), or a model, which is then closed and loaded again.
        intents: try only these of the declared intents.
        placement: where to load; `Placement()` by default, which forbids fetching.
    """
    is_factory = isinstance(model_or_factory, type) or not hasattr(model_or_factory, "respond")
    if is_factory:
        make = cast("Callable[[], Model]", model_or_factory)
    else:
        make = lambda: cast(Model, model_or_factory)  # noqa: E731
    where = placement or Placement()
    findings = Findings()
    with no_network() as attempts:
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
        if _capabilities_problem(model, capabilities) is None:
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
        self._findings.expect("capabilities", _capabilities_problem(model, before))
        if not self._findings.expect(check, _raised_by(lambda: model.load(self._placement))):
            return None
        changed = None if model.capabilities() == before else "they change with load; planning asks before it"
        self._findings.expect("capabilities", changed)
        return model

    def _identify(self, model: Model) -> None:
        identity = model.identity()
        problem = _identity_problem(identity)
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
        trial = _Trial(model, capabilities, wanted, log, self._findings)
        trial.run()
        self._witness = trial.witness()


class _Trial:
    """All questions to one loaded model."""

    def __init__(
        self, model: Model, capabilities: Capabilities, intents: Sequence[Intent], log: FrameLog, findings: Findings
    ) -> None:
        self._model = model
        self._capabilities = capabilities
        self._intents = intents
        self._log = log
        self._findings = findings
        self._made: list[MadeRequest] = made_requests(capabilities, intents, log)
        self._requests = [made.request for made in self._made]
        self._base = Answers()

    def run(self) -> None:
        """Try every rule."""
        self._base = self._ask("raises nothing", self._requests, BATCH)
        self._judge_statuses()
        self._judge_rules()
        self._try_orders()
        self._try_poison()
        self._try_undeclared()
        if self._log.watched:
            opened = ", ".join(dict.fromkeys(self._log.opened))
            self._findings.expect("reads no images", f"says so, but opened {opened}" if opened else None)

    def witness(self) -> tuple[Request, Response, bool] | None:
        """A request with its answer, and whether the answer must come again."""
        for request in self._requests:
            if request.id in self._base.by_id:
                return request, self._base.by_id[request.id], self._capabilities.deterministic
        return None

    def _ask(self, check: str, requests: Sequence[Request], batch_size: int) -> Answers:
        answers = ask(self._model, requests, batch_size)
        self._findings.expect(check, answers.raised[0] if answers.raised else None)
        self._findings.expect("ids", answers.id_problems[0] if answers.id_problems else None)
        return answers

    def _judge_statuses(self) -> None:
        for made in self._made:
            response = self._base.by_id.get(made.request.id)
            allowed = _ANSWERED
            if made.request.intent is Intent.PANOPTIC and self._capabilities.vocabulary == "fixed":
                allowed = _ANSWERED | {Status.UNSUPPORTED}
            if response is None:
                problem: str | None = f"{made.request.id}: no answer"
            elif response.status in allowed:
                problem = None
            else:
                problem = f"{made.request.id}: declared, but answered {response.status} ({response.error})"
            self._findings.expect(made.check, problem)

    def _judge_rules(self) -> None:
        tried: set[str] = set()
        for request in self._requests:
            response = self._base.by_id.get(request.id)
            if response is None:
                continue
            problem = check_response(request, response)
            self._findings.expect("response" if problem is None else _rule_of(problem), _about(request, problem))
            if problem is not None:
                continue
            self._findings.expect("json", _json_problem(response))
            if self._capabilities.mask_source == "none" and _holds_masks(response):
                self._findings.expect("capabilities", f"mask_source is none, but {request.id} was answered with masks")
            tried |= {name for name in _RULES if getattr(response, name)}
        for name in _RULES:
            if name in tried:
                self._findings.expect(name, None)
            else:
                self._findings.skip(name, "no answer held any")

    def _try_orders(self) -> None:
        trials = (
            ("repeat", self._requests[:BATCH], BATCH),
            ("order", self._requests[::-1], BATCH),
            ("batch 1 equals batch 3", self._requests, 1),
        )
        for check, requests, batch_size in trials:
            answers = self._ask("raises nothing", requests, batch_size)
            if self._capabilities.deterministic:
                self._findings.expect(check, self._first_change(requests, answers))
            else:
                self._findings.skip(check, "the model does not claim to be deterministic")

    def _first_change(self, requests: Sequence[Request], answers: Answers) -> str | None:
        for request in requests:
            before, after = self._base.by_id.get(request.id), answers.by_id.get(request.id)
            if before is None:
                continue
            problem = "no answer" if after is None else answer_difference(before, after)
            if problem:
                return f"{request.id}: {problem}"
        return None

    def _try_poison(self) -> None:
        plain = plain_request(self._intents[0], self._log.of(broken_frame()), self._capabilities)
        self._poison("poisoned frame", replace(plain, id="poisoned-frame"))
        readers = [intent for intent in _READ_TEXTS if intent in self._intents]
        for check, text in (("poisoned long text", "word " * (LONG_TEXT_CHARS // 5)), ("poisoned empty text", "")):
            if not readers:
                self._findings.skip(check, "no declared intent reads text")
                continue
            frame = self._log.of(tiny_frame(64, 48, "poisoned-text"))
            plain = plain_request(readers[0], frame, self._capabilities)
            self._poison(check, replace(plain, id=check, text=text))

    def _poison(self, check: str, poison: Request) -> None:
        """Ask the poisoned request between two good ones."""
        left, right = self._requests[0], self._requests[-1]
        neighbours = [left, right] if right.id != left.id else [left]
        answers = self._ask(check, [left, poison, *neighbours[1:]], BATCH)
        response = answers.by_id.get(poison.id)
        if response is not None and (problem := check_response(poison, response)):
            self._findings.expect(check, f"its own answer breaks a rule: {problem}")
        lost = [request.id for request in neighbours if request.id not in answers.by_id]
        self._findings.expect(check, f"no answer to its neighbour {lost[0]}" if lost else None)
        if self._capabilities.deterministic:
            change = self._first_change(neighbours, answers)
            self._findings.expect(check, f"it changes its neighbour's answer: {change}" if change else None)

    def _try_undeclared(self) -> None:
        frame = self._log.of(tiny_frame(64, 48, "undeclared"))
        for intent in Intent:
            if intent in self._capabilities.intents:
                continue
            request = plain_request(intent, frame, self._capabilities)
            if self._capabilities.refusal(request) is not None:
                self._findings.expect("undeclared intents", None)
                continue
            response = ask(self._model, [request], 1).by_id.get(request.id)
            good = response is not None and response.status is Status.UNSUPPORTED
            problem = f"{intent} is neither refused by the capabilities nor answered with unsupported"
            self._findings.expect("undeclared intents", None if good else problem)


def _about(request: Request, problem: str | None) -> str | None:
    return None if problem is None else f"{request.id}: {problem}"


def _holds_masks(response: Response) -> bool:
    return bool(response.masks or (response.panoptic and response.panoptic.segments))


def _rule_of(problem: str) -> str:
    """The check that a message of `check_response` belongs to: its leading field name."""
    name = problem.partition(":")[0].partition("[")[0].partition(".")[0]
    return name if name in _RULES else "text" if name in ("raw_text", "error") else "response"


def _json_problem(response: Response) -> str | None:
    """Journals and prediction files hold responses as JSON: nothing may be lost on the way."""
    from omgbench.wire import response_from_json, response_to_json

    try:
        back = response_from_json(response_to_json(response), response.id)
    except Exception as error:
        return f"{response.id}: {type(error).__name__}: {error}"
    return None if back == response else f"{response.id}: comes back from JSON as another answer"


def _raised_by(action: Callable[[], object]) -> str | None:
    try:
        action()
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return None


def _capabilities_problem(model: Model, capabilities: Capabilities) -> str | None:
    if not isinstance(capabilities, Capabilities):
        return f"expected Capabilities, found {type(capabilities).__name__}"
    intents = capabilities.intents
    if not intents or not all(isinstance(intent, Intent) for intent in intents):
        return f"intents: expected at least one Intent, found {set(intents) or 'none'}"
    pointing = intents & {Intent.INTERACTIVE, Intent.REGION_CAPTION}
    if pointing and not capabilities.prompt_kinds:
        return f"{', '.join(sorted(pointing))} needs a prompt, but prompt_kinds is empty"
    if (Intent.PANOPTIC in intents) != (capabilities.vocabulary is not None):
        return "vocabulary must be set exactly when panoptic is among the intents"
    if capabilities.max_frames < 1:
        return f"max_frames is {capabilities.max_frames}, at least 1 is needed"
    if capabilities.clips and capabilities.max_frames < 2:
        return "clips is True, but max_frames is 1"
    if capabilities.sees_references != isinstance(model, SeesReferences):
        return "sees_references must be True exactly for models with respond_with_references"
    return None


def _identity_problem(identity: ModelIdentity) -> str | None:
    if not isinstance(identity, ModelIdentity):
        return f"expected a ModelIdentity, found {type(identity).__name__}"
    for name in ("name", "version", "weights"):
        value = getattr(identity, name)
        if not isinstance(value, str) or not value.strip():
            return f"{name}: expected some text, found {value!r}"
    for name in ("templates", "options", "libraries"):
        mapping: Mapping[str, str] = getattr(identity, name)
        wrong = [
            (key, value) for key, value in mapping.items() if not isinstance(key, str) or not isinstance(value, str)
        ]
        if wrong:
            return f"{name}: expected str to str, found {wrong[0]!r}"
    return None
