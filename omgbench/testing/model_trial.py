"""The checks of a model that need answers: every ability it declares, in several orders, and with poisoned requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from omgbench.contract import Capabilities, Intent, Model, Request, Response, Status
from omgbench.response_checks import check_response
from omgbench.testing.asking import Answers, ask
from omgbench.testing.differences import answer_difference
from omgbench.testing.frames import broken_frame, tiny_frame
from omgbench.testing.made_requests import FrameLog, MadeRequest, made_requests, plain_request
from omgbench.testing.report import Findings

BATCH = 3
LONG_TEXT_CHARS = 100_000
_ANSWERED = frozenset({Status.OK, Status.EMPTY, Status.REFUSED, Status.TRUNCATED})
_RULES = ("masks", "boxes", "spans", "panoptic", "choices", "text")
_READ_TEXTS = (Intent.CHAT, Intent.REFER_SEGMENT, Intent.REFER_BOX, Intent.SCORE_CHOICES, Intent.GROUNDED_CAPTION)


class ModelTrial:
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
