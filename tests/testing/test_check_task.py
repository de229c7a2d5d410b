"""`check_task` passes for tasks that keep the contract, and names the broken rule for those that do not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from omgbench.contract import (
    BoxPrompt,
    DataFile,
    Frame,
    Intent,
    Mask,
    MaskPrompt,
    MetricSpec,
    MetricValue,
    PointPrompt,
    Record,
    Request,
    Response,
    Sample,
    ScribblePrompt,
    SplitInfo,
    Status,
    TaskInfo,
)
from omgbench.errors import UserError
from omgbench.testing import TinyTask, check_task
from omgbench.testing.shapes import full_rle

SPLIT = SplitInfo("val", default=True)


class Tiny(TinyTask):
    """Four pictures, three samples each; what a subclass leaves alone is right."""

    changes: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(4, 3, 40, 30)

    @property
    def info(self) -> TaskInfo:
        return replace(super().info, **self.changes)


def declaring(**changes: Any) -> Callable[[], Tiny]:
    return type("Declaring", (Tiny,), {"changes": changes})


def asking(change: Callable[[Sample], Sample]) -> Callable[[], Tiny]:
    class Asking(Tiny):
        def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
            return map(change, super().samples(split, data_root))

    return Asking


def pointing(*prompts: Any) -> Callable[[], Tiny]:
    return asking(lambda sample: replace(sample, request=replace(sample.request, prompts=prompts)))


def scoring(change: Callable[[Sample, Response, Record], Record]) -> Callable[[], Tiny]:
    class Scoring(Tiny):
        def score(self, sample: Sample, response: Response) -> Record:
            return change(sample, response, super().score(sample, response))

    return Scoring


def summing(change: Callable[[list[Record], Sequence[MetricValue]], Any]) -> Callable[[], Tiny]:
    class Summing(Tiny):
        def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
            listed = list(records)
            values: Sequence[MetricValue] = change(listed, super().summarize(listed))
            return values

    return Summing


# --- good tasks ----------------------------------------------------------------------------------------------------


class WithoutPerfectAnswer:
    """The least that is a task."""

    def __init__(self) -> None:
        self._tiny = Tiny()

    @property
    def info(self) -> TaskInfo:
        return self._tiny.info

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        return self._tiny.samples(split, data_root)

    def score(self, sample: Sample, response: Response) -> Record:
        return self._tiny.score(sample, response)

    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
        return self._tiny.summarize(records)


def test_a_task_without_extras_passes_on_given_data(tmp_path: Path) -> None:
    report = check_task(WithoutPerfectAnswer(), tmp_path)
    report.raise_for_failures()
    assert report["perfect answer"].skipped
    assert report["order of records"].passed


def test_a_task_without_files_needs_neither_data_nor_demo() -> None:
    report = check_task(WithoutPerfectAnswer)
    report.raise_for_failures()
    assert report["order of records"].passed


def test_without_data_and_demo_nothing_can_be_tried() -> None:
    class WithFiles(WithoutPerfectAnswer):
        @property
        def info(self) -> TaskInfo:
            info = super().info
            files = (DataFile(("annotations.json",), "annotations"),)
            return replace(info, splits=tuple(replace(split, files=files) for split in info.splits))

    report = check_task(WithFiles)
    assert report.ok
    assert report["samples"].skipped


def test_a_metric_that_cannot_be_computed_is_skipped_with_its_note() -> None:
    def without_java(records: list[Record], values: Sequence[MetricValue]) -> Any:
        return [values[0], MetricValue("accuracy", None, len(records), note="no Java" if records else "")]

    report = check_task(summing(without_java))
    report.raise_for_failures()
    assert report["perfect accuracy"].skipped
    assert report["perfect accuracy"].detail == "val: no Java"


def test_a_lower_is_better_metric_has_its_best_below() -> None:
    specs = (MetricSpec("error", "One minus cIoU.", higher_is_better=False, primary=True),)

    class Turned(Tiny):
        changes = {"metrics": specs}  # noqa: RUF012

        def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
            (ciou, _) = super().summarize(records)
            return [MetricValue("error", None if ciou.value is None else 1 - ciou.value, ciou.n)]

    report = check_task(Turned)
    report.raise_for_failures()
    assert report["perfect error"].passed
    assert not report["perfect error"].skipped


def test_limit_and_splits_are_obeyed() -> None:
    scored: list[str] = []

    def note(sample: Sample, response: Response, record: Record) -> Record:
        scored.append(sample.id)
        return record

    check_task(scoring(note), limit=4, splits=["val"]).raise_for_failures()
    assert set(scored) == {f"{index:08d}" for index in range(4)}


def test_an_unknown_split_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="no split 'tset'"):
        check_task(Tiny, splits=["tset"])


def test_a_split_without_files_is_skipped_but_demo_data_must_hold_the_default(tmp_path: Path) -> None:
    lacking = DataFile(("annotations/val.json",), "annotations")
    split = replace(SPLIT, files=(lacking,))
    assert check_task(declaring(splits=(split,)), tmp_path)["data"].skipped
    assert not check_task(declaring(splits=(split,)))["demo complete"].passed
    other = replace(SPLIT, name="test", default=False, files=(lacking,))
    report = check_task(declaring(splits=(SPLIT, other)))
    assert report.ok
    assert report["data"].skipped


# --- tasks that break one rule each --------------------------------------------------------------------------------


def other_frame(**changes: Any) -> Callable[[], Tiny]:
    return asking(
        lambda sample: replace(
            sample, request=replace(sample.request, frames=(replace(sample.request.frames[0], **changes),))
        )
    )


def of_intent(intent: Intent) -> Callable[[], Tiny]:
    factory = asking(lambda sample: replace(sample, request=replace(sample.request, intent=intent)))
    factory.changes = {"intents": frozenset({intent})}
    return factory


class OtherEachTime(Tiny):
    numbers = count()

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        number = next(self.numbers)
        for sample in super().samples(split, data_root):
            yield replace(sample, request=replace(sample.request, text=f"{sample.request.text} {number}"))


class ShorterEachTime(Tiny):
    numbers = count(12, -1)

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        return iter(list(super().samples(split, data_root))[: next(self.numbers)])


class NoSamples(Tiny):
    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        return iter(())


class ScatteredGroups(Tiny):
    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        listed = list(super().samples(split, data_root))
        return iter(listed[::2] + listed[1::2])


class WithPictures(TinyTask):
    """Lists its samples in another way than they should be."""

    def __init__(self) -> None:
        super().__init__(2, 2, 16, 12, images=True)


class OpensPictures(WithPictures):
    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        for sample in super().samples(split, data_root):
            source = sample.request.frames[0].source
            assert isinstance(source, Path)
            source.read_bytes()
            yield sample


class DecodesFrames(WithPictures):
    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        for sample in super().samples(split, data_root):
            assert sample.request.frames[0].image
            yield sample


class RestlessDemo(WithPictures):
    numbers = count()

    def write_demo(self, data_root: Path, seed: int) -> None:
        super().write_demo(data_root, seed)
        (data_root / "log.txt").write_text(str(next(self.numbers)))


class RaisesInSamples(Tiny):
    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        raise KeyError("ann_id")


class WrongPerfectAnswer(Tiny):
    def perfect_answer(self, sample: Sample) -> Response:
        return Response(sample.id, masks=(Mask(full_rle((3, 3))),))


class PoorPerfectAnswer(Tiny):
    def perfect_answer(self, sample: Sample) -> Response:
        return Response(sample.id, masks=(Mask(full_rle(self.size)),))


def kinder_to(status: Status, share: float) -> Callable[[], Tiny]:
    """Counts answers of a status as a share of right."""

    def change(sample: Sample, response: Response, record: Record) -> Record:
        if response.status is not status:
            return record
        union_px = record.stats["union_px"]
        return replace(record, stats={"intersection_px": share * union_px, "union_px": union_px})

    return scoring(change)


def with_stats(stats: Callable[[Record], dict[Any, Any]]) -> Callable[[], Tiny]:
    return scoring(lambda sample, response, record: replace(record, stats={**record.stats, **stats(record)}))


NUMBERS = count()


def plus(extra: Callable[[list[Record]], float]) -> Callable[[], Tiny]:
    """Adds something to cIoU."""

    def change(records: list[Record], values: Sequence[MetricValue]) -> Any:
        if values[0].value is None:
            return values
        return [replace(values[0], value=values[0].value * (1 - 1e-7) + extra(records)), values[1]]

    return summing(change)


class KnowsItsOwnObjects(Tiny):
    """Equal after JSON, but its sum tells an enum member from the text."""

    def score(self, sample: Sample, response: Response) -> Record:
        record = super().score(sample, response)
        return replace(record, stats={**record.stats, "intent": sample.request.intent})

    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
        return super().summarize([record for record in records if isinstance(record.stats["intent"], Intent)])


def without_repeats(records: list[Record]) -> list[Record]:
    return list({record.id: record for record in records}.values())


class RefusesRepeats(Tiny):
    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
        listed = list(records)
        if len(without_repeats(listed)) < len(listed):
            raise ValueError("a record comes twice")
        return super().summarize(listed)


class DropsRepeats(Tiny):
    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
        return super().summarize(without_repeats(list(records)))


def no_value_with_repeats(records: list[Record], values: Sequence[MetricValue]) -> Any:
    if len(without_repeats(records)) == len(records):
        return values
    return [replace(values[0], value=None, note="a record twice"), *values[1:]]


METRICS = Tiny().info.metrics
BROKEN: list[tuple[Callable[[], Any], str, str]] = [
    (declaring(name="Ref COCO"), "info", "lower-case"),
    (declaring(version=""), "info", "version is empty"),
    (declaring(intents=frozenset()), "info", "intents is empty"),
    (declaring(splits=()), "info", "no split is marked default"),
    (declaring(splits=(SPLIT, SPLIT)), "info", "['val'] are listed twice"),
    (declaring(splits=(replace(SPLIT, name="val:1"),)), "info", "'val:1'"),
    (declaring(splits=(replace(SPLIT, default=False, subset="a"), replace(SPLIT, subset="b"))), "info", "comes first"),
    (declaring(splits=(replace(SPLIT, files=(DataFile(("/tmp/x",), "x"),)),)), "info", "relative to the data root"),
    (declaring(metrics=(METRICS[1],)), "info", "no metric is primary"),
    (declaring(metrics=METRICS[::-1]), "info", "primary metrics must come first"),
    (declaring(metrics=(METRICS[0], METRICS[0])), "info", "['cIoU'] are listed twice"),
    (declaring(metrics=(replace(METRICS[0], description=" "),)), "info", "no description"),
    (declaring(metrics=(replace(METRICS[0], scale=(1.0, 0.0)),)), "info", "not ordered"),
    (declaring(metrics=(replace(METRICS[0], display_factor=0.0),)), "info", "display_factor"),
    (declaring(metrics=(replace(METRICS[0], name="c IoU"),)), "info", "no spaces"),
    (declaring(templates={"paper": "Segment {text} as {format}."}), "info", "{format}"),
    (asking(lambda sample: replace(sample, request=replace(sample.request, id=""))), "samples", "id ''"),
    (asking(lambda sample: replace(sample, group="")), "samples", "group ''"),
    (asking(lambda sample: sample.request), "samples", "expected a Sample"),
    (asking(lambda s: replace(s, request=replace(s.request, intent=Intent.CHAT))), "samples", "not among the intents"),
    (asking(lambda s: replace(s, request=replace(s.request, frames=()))), "samples", "has no frame"),
    (other_frame(width=0), "samples", "0 x 30"),
    (other_frame(decoded=object()), "samples", "decoded already"),
    (of_intent(Intent.SCORE_CHOICES), "samples", "fewer than two choices"),
    (of_intent(Intent.PANOPTIC), "samples", "no vocabulary"),
    (of_intent(Intent.INTERACTIVE), "samples", "points at nothing"),
    (pointing(PointPrompt((41.5, 3.0))), "samples", "prompts[0]: (41.5, 3.0) lies outside"),
    (pointing(PointPrompt((1.0, 3.0)), BoxPrompt((5.0, 0.0, 4.0, 1.0))), "samples", "prompts[1]: box"),
    (pointing(BoxPrompt((5.0, 0.0, 44.0, 1.0))), "samples", "(44.0, 1.0) lies outside"),
    (pointing(PointPrompt((1.0, 3.0), frame=1)), "samples", "frame 1"),
    (pointing(MaskPrompt(full_rle((40, 30)))), "samples", "prompts[0]: mask is 40 x 30"),
    (pointing(ScribblePrompt(((1.0, 1.0),))), "samples", "two points"),
    (NoSamples, "samples", "there is none"),
    (asking(lambda s: replace(s, request=replace(s.request, id=s.group))), "ids", "is given twice"),
    (ScatteredGroups, "groups", "comes again"),
    (OtherEachTime, "order", "or another request"),
    (ShorterEachTime, "order", "12 samples, then 11"),
    (
        asking(lambda s: replace(s, request=replace(s.request, frames=(Frame("f", 40, 30 + int(s.id) % 2, b""),)))),
        "frames",
        "frame 'f'",
    ),
    (OpensPictures, "reads no images", "was opened"),
    (DecodesFrames, "reads no images", "was decoded"),
    (RestlessDemo, "demo repeats", "log.txt"),
    (RaisesInSamples, "raises nothing", "KeyError"),
    (WrongPerfectAnswer, "perfect answer", "masks[0]: size"),
    (PoorPerfectAnswer, "perfect cIoU", "the best of the scale is 1.0"),
    (scoring(lambda sample, response, record: replace(record, group="x")), "records", "must be the sample's"),
    (scoring(lambda sample, response, record: replace(record, status=Status.OK)), "records", "must be the sample's"),
    (scoring(lambda sample, response, record: record.stats), "records", "expected a Record"),
    (with_stats(lambda record: {"iou": float("nan")}), "records", "no plain JSON"),
    (with_stats(lambda record: {"answer": {1, 2}}), "records", "no plain JSON"),
    (with_stats(lambda record: {"pair": (1, 2)}), "records", "changed"),
    (with_stats(lambda record: {1: 2}), "records", "changed"),
    (with_stats(lambda record: {"number": next(NUMBERS)}), "score is pure", "another record"),
    (kinder_to(Status.ERROR, 0.5), "failed", "failed answers give"),
    (kinder_to(Status.TIMEOUT, 0.1), "failed", "failed answers give"),
    (kinder_to(Status.EMPTY, 1.5), "blank", "blank answers give"),
    (summing(lambda records, values: values[::-1]), "summary", "in order"),
    (summing(lambda records, values: values[:1]), "summary", "expected one value"),
    (summing(lambda records, values: [values[0], replace(values[1], value=2.0)]), "summary", "outside the scale"),
    (summing(lambda records, values: [values[0], replace(values[1], value=float("nan"))]), "summary", "finite"),
    (summing(lambda records, values: [values[0], replace(values[1], value=None)]), "summary", "without a note"),
    (
        summing(lambda records, values: [replace(value, value=value.value or 0.0) for value in values]),
        "no records",
        "must be None",
    ),
    (KnowsItsOwnObjects, "json", "cIoU"),
    (plus(lambda records: 1e-9 * next(NUMBERS)), "sum repeats", "cIoU"),
    (plus(lambda records: 1e-9 * int(records[0].id)), "order of records", "cIoU"),
    (RefusesRepeats, "records may repeat", "ValueError: a record comes twice"),
    (DropsRepeats, "records may repeat", "n is 12 for 12 records"),
    (summing(no_value_with_repeats), "records may repeat", "no value with a record twice"),
]


@pytest.mark.parametrize(
    ("factory", "check", "detail"),
    BROKEN,
    ids=[f"{index}-{check}".replace(" ", "-") for index, (_, check, _) in enumerate(BROKEN)],
)
def test_the_broken_rule_is_named(factory: Callable[[], Any], check: str, detail: str) -> None:
    report = check_task(factory)
    assert check in {failure.name for failure in report.failures}, str(report)
    assert detail in report[check].detail


def test_a_sum_that_always_fails_is_not_blamed_on_the_repeat() -> None:
    def fail(records: list[Record], values: Sequence[MetricValue]) -> Any:
        if any(record.stats["intersection_px"] for record in records) and {r.status for r in records} != {Status.OK}:
            raise KeyError("caption")
        return values

    failures = {failure.name for failure in check_task(summing(fail)).failures}
    assert failures == {"raises nothing"}


@pytest.mark.parametrize("factory", [RefusesRepeats, DropsRepeats])
def test_a_task_that_takes_no_repeats_fails_that_check_alone(factory: Callable[[], Any]) -> None:
    assert {failure.name for failure in check_task(factory).failures} == {"records may repeat"}


def test_the_repeat_costs_no_sum_of_its_own() -> None:
    sums: list[int] = []

    def note(records: list[Record], values: Sequence[MetricValue]) -> Sequence[MetricValue]:
        sums.append(len(records))
        return values

    assert check_task(summing(note))["records may repeat"].passed
    # None; perfect; blank; failed; mixed, its failed half, and shuffled, each with one record twice.
    assert sums == [0, 12, 12, 12, 13, 13, 13]


# --- card and published numbers ------------------------------------------------------------------------------------

ROW = {"model": "a", "split": "val", "metric": "cIoU", "value": 77.2, "source": "paper, table 3"}


def task_beside(folder: Path) -> Callable[[], Tiny]:
    """A task class whose module lies in a folder."""
    module = ModuleType("task_beside_its_card")
    module.__file__ = str(folder / "task.py")
    sys.modules[module.__name__] = module
    return type("Carded", (Tiny,), {"__module__": module.__name__})


@pytest.mark.parametrize(
    ("card", "published", "failing"),
    [
        ("# Title\n\nText.", json.dumps([ROW]), set()),
        ("Text without a title", "[]", {"card.md"}),
        ("# T", "{", {"published.json"}),
        ("# T", "{}", {"published.json"}),
        ("# T", json.dumps([{**ROW, "value": "77.2"}]), {"published.json"}),
        ("# T", json.dumps([ROW, {"model": "a"}]), {"published.json"}),
    ],
)
def test_card_and_published_numbers(tmp_path: Path, card: str, published: str, failing: set[str]) -> None:
    (tmp_path / "card.md").write_text(card)
    (tmp_path / "published.json").write_text(published)
    report = check_task(task_beside(tmp_path))
    assert {failure.name for failure in report.failures} == failing
    assert not report["card.md"].skipped


def test_an_intent_that_points_needs_a_region() -> None:
    request = Request("r", Intent.REGION_CAPTION, (Frame("f", 4, 4, b""),))
    factory = asking(lambda sample: replace(sample, request=replace(request, id=sample.id)))
    factory.changes = {"intents": frozenset({Intent.REGION_CAPTION})}
    assert "points at nothing" in check_task(factory)["samples"].detail
