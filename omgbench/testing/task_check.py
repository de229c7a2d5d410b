"""`check_task`: does a benchmark keep the contract?"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import random
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import cast

from omgbench.contract import (
    HasDemo,
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
from omgbench.data.locate import find_missing
from omgbench.errors import UserError
from omgbench.response_checks import check_response
from omgbench.testing.models import blank_answer
from omgbench.testing.picture_watch import PictureWatch
from omgbench.testing.random_answers import random_answer
from omgbench.testing.report import Findings, Report
from omgbench.testing.task_rules import (
    card_problem,
    info_problems,
    published_problem,
    record_problem,
    sample_problem,
    values_problem,
)

DEMO_SEED = 0
BOUND_TOLERANCE = 1e-6
ORDER_TOLERANCE = 1e-12
_FAILED = (Status.ERROR, Status.TIMEOUT, Status.MISSING)

Answer = Callable[[Sample], Response]


def check_task(
    task: Task | Callable[[], Task],
    data_root: Path | str | None = None,
    *,
    splits: Collection[str] | None = None,
    limit: int | None = None,
) -> Report:
    """Try a task on data and report which rules of the contract it keeps.

    Its samples are listed twice, perfect, blank, random and failed answers are scored, and the records are summed in
    several ways. Metrics that cannot be computed here (no Java, no text model) are reported as skipped.

    Args:
        task: the task, or the class or function that makes it.
        data_root: folder with the official files; None writes the task's demo data to a temporary folder.
        splits: labels of the splits to try; all whose files are there by default.
        limit: at most this many samples of each split.

    Raises:
        UserError: `splits` names a split that the task does not have.
    """
    is_factory = isinstance(task, type) or not hasattr(task, "info")
    built = cast("Callable[[], Task]", task)() if is_factory else cast(Task, task)
    findings = Findings()
    findings.expect("info", None)
    for problem in info_problems(built.info):
        findings.expect("info", problem)
    if findings.ok:
        _check_files(built, findings)
        _check_splits(built, _chosen_splits(built, splits), data_root, limit, findings)
    return findings.report(f"task {getattr(built.info, 'name', '?')}")


def _chosen_splits(task: Task, labels: Collection[str] | None) -> list[SplitInfo]:
    known = {split.label: split for split in task.info.splits}
    unknown = [label for label in labels or () if label not in known]
    if unknown:
        raise UserError(f"task {task.info.name} has no split {unknown[0]!r}", expected=f"one of: {', '.join(known)}")
    return [split for label, split in known.items() if labels is None or label in labels]


def _check_files(task: Task, findings: Findings) -> None:
    try:
        folder: Path | None = Path(inspect.getfile(type(task))).parent
    except (OSError, TypeError):
        folder = None  # a class typed into a notebook has no file
    for name, rule in (("card.md", card_problem), ("published.json", published_problem)):
        if folder is not None and (folder / name).is_file():
            findings.expect(name, rule(folder))
        else:
            findings.skip(name, "none beside the task's module")


def _check_splits(
    task: Task, splits: Sequence[SplitInfo], data_root: Path | str | None, limit: int | None, findings: Findings
) -> None:
    with ExitStack() as stack:
        root = Path(data_root) if data_root is not None else _demo(task, stack, findings)
        if root is None:
            return
        for split in splits:
            try:
                _check_split(task, split, root, limit, data_root is None, findings)
            except Exception as error:
                findings.expect("raises nothing", f"{split.label}: {type(error).__name__}: {error}")


def _demo(task: Task, stack: ExitStack, findings: Findings) -> Path | None:
    """Write demo data twice and give the folder; None where the task has no demo data."""
    if not isinstance(task, HasDemo):
        findings.skip("samples", "no data root is given and the task has no demo data")
        return None
    roots = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="omgbench-check-"))) for _ in range(2)]
    for root in roots:
        task.write_demo(root, DEMO_SEED)
    first, second = (_contents(root) for root in roots)
    differing = sorted(name for name in first | second if first.get(name) != second.get(name))
    findings.expect("demo repeats", f"{differing[0]} differs when written again" if differing else None)
    return roots[0]


def _contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _check_split(
    task: Task, split: SplitInfo, root: Path, limit: int | None, is_demo: bool, findings: Findings
) -> None:
    missing = [file.names[0] for file in find_missing(root, split.files)]
    if missing and is_demo and split.default:
        findings.expect("demo complete", f"{split.label}: the demo data lacks {', '.join(missing)}")
    elif missing:
        findings.skip("data", f"{split.label}: {', '.join(missing)} is not there")
    else:
        _SplitTrial(task, split, root, limit, findings).run()


class _SplitTrial:
    """All checks that need samples of one split."""

    def __init__(self, task: Task, split: SplitInfo, root: Path, limit: int | None, findings: Findings) -> None:
        self._task = task
        self._split = split
        self._root = root
        self._limit = limit
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
        """Check scores and sums of perfect, blank, random and failed answers."""
        blank = self._scored(lambda sample: blank_answer(sample.request))
        failed = [self._scored(_failing(status)) for status in _FAILED]
        drawn = self._scored(lambda sample: random_answer(sample.request))
        self._scored(lambda sample: Response(sample.id, Status.REFUSED, text="I cannot help with that."))
        perfect = self._perfect()
        good = perfect or drawn
        if blank is None or drawn is None or good is None:
            return
        self._check_empty()
        if perfect is not None:
            self._check_perfect(perfect, blank)
        self._check_failed(blank, failed, good)
        self._check_sums(_alternating(drawn, good))

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

    def _summed(self, records: Iterable[Record]) -> dict[str, MetricValue]:
        """Values by name; the records are handed over as an iterator that can be read once."""
        listed = list(records)
        values = self._task.summarize(iter(listed))
        self._expect("summary", values_problem(values, self._task.info.metrics, len(listed)))
        return {value.name: value for value in values}

    def _check_empty(self) -> None:
        values = self._task.summarize(iter(()))
        self._expect("no records", values_problem(values, self._task.info.metrics, 0))

    def _check_perfect(self, perfect: list[Record], blank: list[Record]) -> None:
        best, least = self._summed(perfect), self._summed(blank)
        for spec in self._task.info.metrics:
            value = best.get(spec.name)
            if value is None or value.value is None:
                note = value.note or "not computed" if value else "absent"
                self._findings.skip(f"perfect {spec.name}", f"{self._split.label}: {note}")
                continue
            bound = spec.scale[1] if spec.higher_is_better else spec.scale[0]
            reached = bound is None or abs(value.value - bound) <= BOUND_TOLERANCE
            self._expect(
                f"perfect {spec.name}",
                None if reached else f"perfect answers give {value.value}, the scale's best is {bound}",
            )
        self._expect("blank", self._better_problem("blank answers", least, "perfect ones", best))

    def _check_failed(self, blank: list[Record], failed: list[list[Record] | None], good: list[Record]) -> None:
        """Failed answers never score better than blank ones: alone, in one group, or among good answers."""
        one_group = sum(sample.group == self._samples[0].group for sample in self._samples)
        for records in _distinct(failed):
            pairs = (
                (records, blank),
                (records[:one_group], blank[:one_group]),
                (_alternating(records, good), _alternating(blank, good)),
            )
            for worst, base in pairs:
                problem = self._better_problem("failed answers", self._summed(worst), "blank ones", self._summed(base))
                self._expect("failed", problem)

    def _better_problem(
        self, name: str, values: dict[str, MetricValue], other: str, others: dict[str, MetricValue]
    ) -> str | None:
        for spec in self._task.info.metrics:
            mine, theirs = values[spec.name].value, others[spec.name].value
            if mine is not None and theirs is not None and _is_better(spec, mine, theirs):
                return f"{spec.name}: {name} give {mine}, {other} {theirs}"
        return None

    def _check_sums(self, records: list[Record]) -> None:
        """Records survive JSON, and neither that nor the order of groups changes a value."""
        values = self._summed(records)
        stored = [_from_json(_to_json(record)) for record in records]
        self._expect("json", None if stored == records else "records come back from JSON changed")
        self._expect("json", _change(values, self._summed(stored), 0.0))
        self._expect("sum repeats", _change(values, self._summed(records), 0.0))
        groups = [list(group) for _, group in groupby(records, key=lambda record: record.group)]
        random.Random(0).shuffle(groups)
        shuffled = [record for group in groups for record in group]
        self._expect("order of records", _change(values, self._summed(shuffled), ORDER_TOLERANCE))


def _alternating(evens: Sequence[Record], odds: Sequence[Record]) -> list[Record]:
    """Every second record of each list, in sample order."""
    return [odd if index % 2 else even for index, (even, odd) in enumerate(zip(evens, odds, strict=True))]


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
    gain = value - other if spec.higher_is_better else other - value
    return gain > ORDER_TOLERANCE * max(1.0, abs(other))


def _change(before: dict[str, MetricValue], after: dict[str, MetricValue], tolerance: float) -> str | None:
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
