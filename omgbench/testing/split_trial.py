"""The checks of a task that need samples of one split: list them, score made answers, sum the records."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path

from omgbench.contract import (
    HasPerfectAnswer,
    MetricSpec,
    MetricValue,
    Record,
    Response,
    Sample,
    SplitInfo,
    Status,
    Task,
)
from omgbench.response_checks import check_response
from omgbench.testing.models import blank_answer
from omgbench.testing.picture_watch import PictureWatch
from omgbench.testing.random_answers import random_answer
from omgbench.testing.report import Findings
from omgbench.testing.task_rules import record_problem, sample_problem, values_problem

BOUND_TOLERANCE = 1e-6
"""How far from the best value of a metric's scale perfect answers may stay."""
NOTHING_TO_FIND = -1.0
"""What COCO's script gives where there is no reference object of the kind."""
ORDER_TOLERANCE = 1e-12
"""How much the order of the groups may change a value, relative or absolute."""
_FAILED = (Status.ERROR, Status.TIMEOUT, Status.MISSING)

Answer = Callable[[Sample], Response]
Values = dict[str, MetricValue]


class SplitTrial:
    """All checks that need samples of one split; only a thorough trial sums more than the perfect ones."""

    def __init__(
        self, task: Task, split: SplitInfo, root: Path, limit: int | None, thorough: bool, findings: Findings
    ) -> None:
        self._task = task
        self._split = split
        self._root = root
        self._limit = limit
        self._thorough = thorough
        self._findings = findings
        self._samples: list[Sample] = []

    def run(self) -> None:
        """Try every rule."""
        if self._list():
            self._score_and_sum()

    def _expect(self, name: str, problem: str | None) -> bool:
        return self._findings.expect(name, problem and f"{self._split.label}: {problem}")

    def _listing(self) -> list[Sample]:
        return list(islice(self._task.samples(self._split, self._root), self._limit))

    def _list(self) -> bool:
        """Check the samples; tells whether they are good enough to score."""
        watch = PictureWatch()
        with watch.watching():
            self._samples = samples = self._listing()
        intents = self._task.info.intents
        problems = [problem for sample in samples if (problem := sample_problem(sample, intents))]
        if not self._expect("samples", problems[0] if problems else None if samples else "there is none"):
            return False
        self._expect("reads no images", watch.problem(samples))
        self._expect("order", _order_problem(samples, self._listing()))
        ids = [sample.id for sample in samples]
        unique = self._expect("ids", _repeat_problem(ids, "is given twice"))
        runs = [group for group, _ in groupby(sample.group for sample in samples)]
        self._expect("groups", _repeat_problem(runs, "comes again after another group"))
        self._expect("frames", _frames_problem(samples))
        return unique

    def _score_and_sum(self) -> None:
        """Check scores and sums of perfect, blank, random, refused and failed answers.

        A sum may cost a Java process of several seconds, so each is taken once.
        """
        blank = self._scored(lambda sample: blank_answer(sample.request))
        failed = _distinct(self._scored(_failing(status)) for status in _FAILED)
        drawn = self._scored(lambda sample: random_answer(sample.request))
        self._scored(lambda sample: Response(sample.id, Status.REFUSED, text="I cannot help with that."))
        perfect = self._perfect()
        if blank is None or drawn is None:
            return
        self._expect("no records", values_problem(self._task.summarize(iter(())), self._task.info.metrics, 0))
        best = None if perfect is None else self._summed(perfect)
        if best is not None:
            self._check_perfect(best)
        if self._thorough:
            least = self._summed(blank)
            if best is not None:
                self._expect("blank", self._better_problem("blank answers", least, "perfect ones", best))
            self._check_failed(failed, least)
            n_again, values = self._summed_with_repeat(_alternating(blank, drawn), least)
            self._check_failed([_again(_alternating(records, drawn), n_again) for records in failed], values)
            self._check_sums(_again(_alternating(blank, drawn), n_again), values)

    def _perfect(self) -> list[Record] | None:
        task = self._task
        if not isinstance(task, HasPerfectAnswer):
            self._findings.skip("perfect answer", "the task does not say what a perfect answer is")
            return None
        for sample in self._samples:
            if not self._expect("perfect answer", check_response(sample.request, task.perfect_answer(sample))):
                return None
        return self._scored(task.perfect_answer)

    def _scored(self, answer: Answer) -> list[Record] | None:
        """Records of all samples, each scored twice; None when one breaks a rule."""
        records = []
        for sample in self._samples:
            response = answer(sample)
            record = self._task.score(sample, response)
            if not self._expect("records", record_problem(record, sample, response)):
                return None
            again = self._task.score(sample, response)
            self._expect("score is pure", None if again == record else f"{sample.id}: scored again, another record")
            records.append(record)
        return records

    def _summed(self, records: Sequence[Record]) -> Values:
        """Values by name; the records are handed over as an iterator that can be read once."""
        specs = self._task.info.metrics
        values = self._task.summarize(iter(records))
        self._expect("summary", values_problem(values, specs, len(records)))
        return {spec.name: MetricValue(spec.name, None, 0) for spec in specs} | {value.name: value for value in values}

    def _summed_with_repeat(self, records: Sequence[Record], least: Values) -> tuple[int, Values]:
        """Sum the records with the first of them once more, as a bootstrap would; gives 1 and the values.

        The checks that follow compare sums with the same repeat, so that it costs none of its own. Where the task
        cannot do it, the records are summed as they are: 0 and their values.
        """
        try:
            values = self._summed(_again(records, 1))
            problem = self._repeat_unseen(values, least)
        except Exception as error:
            problem = f"summing a record twice: {type(error).__name__}: {error}"
        if problem is not None:
            values = self._summed(records)  # what fails here too is no fault of the repeat
        self._expect("records may repeat", problem)
        return (1 if problem is None else 0), values

    def _repeat_unseen(self, values: Values, least: Values) -> str | None:
        """Which primary metric loses its value to a repeated record, or counts records but not that one."""
        n_records = len(self._samples)
        for name in (spec.name for spec in self._task.info.metrics if spec.primary):
            if least[name].value is not None and values[name].value is None:
                return f"{name}: no value with a record twice: {values[name].note}"
            if n_records == least[name].n == values[name].n:
                return f"{name}: n is {n_records} for {n_records} records and for these with one of them twice"
        return None

    def _check_perfect(self, best: Values) -> None:
        for spec in self._task.info.metrics:
            value = best[spec.name].value
            if value is None:
                reason = best[spec.name].note or "not computed"
                self._findings.skip(f"perfect {spec.name}", f"{self._split.label}: {reason}")
                continue
            if value == spec.scale[0] == NOTHING_TO_FIND:
                self._findings.skip(f"perfect {spec.name}", f"{self._split.label}: no such object among the samples")
                continue
            bound = None if spec.higher_is_better is None else spec.scale[1 if spec.higher_is_better else 0]
            reached = bound is None or abs(value - bound) <= BOUND_TOLERANCE
            problem = f"perfect answers give {value}, the best of the scale is {bound}"
            self._expect(f"perfect {spec.name}", None if reached else problem)

    def _check_failed(self, failed: Iterable[Sequence[Record]], blank: Values) -> None:
        """Failed answers never score better than blank ones in their place."""
        for records in failed:
            values = self._summed(records)
            self._expect("failed", self._better_problem("failed answers", values, "blank ones", blank))

    def _better_problem(self, name: str, values: Values, other: str, others: Values) -> str | None:
        for spec in self._task.info.metrics:
            mine, theirs = values[spec.name].value, others[spec.name].value
            if mine is not None and theirs is not None and _is_better(spec, mine, theirs):
                return f"{spec.name}: {name} give {mine}, {other} {theirs}"
        return None

    def _check_sums(self, records: Sequence[Record], values: Values) -> None:
        """Neither JSON, nor summing again, nor the order of the groups changes a value.

        One sum tries all three; only when it differs does it take more to say which one is to blame.
        """
        stored = [_from_json(_to_json(record)) for record in records]
        groups = [list(group) for _, group in groupby(stored, key=lambda record: record.group)]
        random.Random(0).shuffle(groups)
        shuffled = [record for group in groups for record in group]
        change = _change(values, self._summed(shuffled), ORDER_TOLERANCE)
        repeated = _change(values, self._summed(records), ORDER_TOLERANCE) if change else None
        in_json = _change(values, self._summed(stored), ORDER_TOLERANCE) if change and not repeated else None
        self._expect("sum repeats", repeated)
        self._expect("json", in_json)
        self._expect("order of records", None if repeated or in_json else change)


def _alternating(evens: Sequence[Record], odds: Sequence[Record]) -> list[Record]:
    """Every second record of each list, in sample order."""
    return [odd if index % 2 else even for index, (even, odd) in enumerate(zip(evens, odds, strict=True))]


def _again(records: Sequence[Record], n: int) -> list[Record]:
    """The records, then the first n of them once more."""
    return [*records, *records[:n]]


def _distinct(lists: Iterable[list[Record] | None]) -> list[list[Record]]:
    """The lists that differ in their stats: the three ways to fail are mostly scored alike."""
    found: dict[str, list[Record]] = {}
    for records in lists:
        if records is not None:
            found.setdefault(json.dumps([record.stats for record in records]), records)
    return list(found.values())


def _failing(status: Status) -> Answer:
    return lambda sample: Response(sample.id, status, error="made failure")


def _repeat_problem(items: Iterable[str], what: str) -> str | None:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            return f"{item!r} {what}"
        seen.add(item)
    return None


def _order_problem(first: Sequence[Sample], second: Sequence[Sample]) -> str | None:
    if len(first) != len(second):
        return f"{len(first)} samples, then {len(second)}"
    for one, other in zip(first, second, strict=True):
        if one.request != other.request or one.group != other.group:
            return f"listed again, {one.id!r} is {other.id!r} or another request"
    return None


def _frames_problem(samples: Iterable[Sample]) -> str | None:
    sizes: dict[str, tuple[int, int]] = {}
    for sample in samples:
        for frame in sample.request.frames:
            size = (frame.width, frame.height)
            if sizes.setdefault(frame.key, size) != size:
                return f"{sample.id}: frame {frame.key!r} is {sizes[frame.key]} in one request and {size} in another"
    return None


def _is_better(spec: MetricSpec, value: float, other: float) -> bool:
    if spec.higher_is_better is None:
        return False
    gain = value - other if spec.higher_is_better else other - value
    return gain > ORDER_TOLERANCE * max(1.0, abs(other))


def _change(before: Values, after: Values, tolerance: float) -> str | None:
    for name, value in before.items():
        old, new = value.value, after[name].value
        same = old == new or (
            old is not None and new is not None and math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
        )
        if not same or value.n != after[name].n:
            return f"{name}: {old} (n={value.n}), then {new} (n={after[name].n})"
    return None


def _to_json(record: Record) -> str:
    return json.dumps(asdict(record), allow_nan=False)


def _from_json(text: str) -> Record:
    plain = json.loads(text)
    return Record(plain["id"], plain["group"], Status(plain["status"]), plain["stats"])
