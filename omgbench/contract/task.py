"""The role of a task: give samples, score answers into records, sum records into metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from omgbench.contract.request import Intent, Request, Templates
from omgbench.contract.response import Response, Status

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One scored item: a question and what the answer is held against.

    Attributes:
        request: the question; `request.id` is the sample's id.
        group: what the samples of one picture or clip have in common; samples of one group stand together in the
            task's order, go to one worker, and are one cluster in statistics.
        reference: the task's own form of the right answer; the harness never looks into it.
    """

    request: Request
    group: str
    reference: Any = field(repr=False, default=None)

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one scored sample: all that the metrics need, without model and without images.

    Attributes:
        id: sample id.
        group: cluster for statistics (image or clip).
        status: how the request ended.
        stats: sufficient statistics and parsed answer, plain JSON, documented by the task.
    """

    id: str
    group: str
    status: Status
    stats: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric is, apart from any value.

    Attributes:
        name: short name, unique in the task (`cIoU`).
        description: definition in a sentence, with the source of formula or quirk.
        scale: the values' range, lower and upper bound; None = unbounded on that side.
        display_factor: tables show value x factor (100 for fractions shown as percentages).
        higher_is_better: direction; None where neither is better (a share of yes answers).
        primary: stands in the default table.
        optional: absent means (a text model that is not installed) leave the result complete.
    """

    name: str
    description: str
    scale: tuple[float | None, float | None] = (0.0, 1.0)
    display_factor: float = 100.0
    higher_is_better: bool | None = True
    primary: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One number of one split.

    Attributes:
        name: a `MetricSpec.name` of the task.
        value: unrounded, on the metric's own scale; None when not computed.
        n: how many items the number rests on (sentences, images, captions).
        note: why it was not computed (required when there were items), or with what help it was.
        interval: 95% interval (low, high), None when none was computed.
    """

    name: str
    value: float | None
    n: int
    note: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file or folder that a split needs, relative to the data root.

    Attributes:
        names: accepted relative paths, the first found is used; `names[0]` is the official one.
        what: what it is, for people.
        role: annotations (fingerprinted whole) or images (a folder).
        source: where the official release is had.
    """

    names: tuple[str, ...]
    what: str
    role: Literal["annotations", "images"] = "annotations"
    source: str = ""


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One split of one subset.

    Attributes:
        name: official name (`val`, `testA`).
        subset: variant of the data (`umd`, `google`); "" where there is only one.
        files: what it needs.
        n_samples, n_images: counts of the official release; None where not known.
        default: run when the task is named without a split.
    """

    name: str
    subset: str = ""
    files: tuple[DataFile, ...] = ()
    n_samples: int | None = None
    n_images: int | None = None
    default: bool = False

    @property
    def label(self) -> str:
        """`subset:split`, or the split alone."""
        return f"{self.subset}:{self.name}" if self.subset else self.name


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a task is: all that listing, planning and tables need.

    Attributes:
        name: entry-point name.
        version: raised whenever a sample list or a number changes for the same answers.
        title: name for people (`RefCOCO`).
        intents: kinds of request it sends.
        splits: every split; the default subset comes first.
        metrics: primary metrics first.
        templates: prompt wordings by name, chosen by `--template`; without a choice the model's own is used.
        protocol: the official script behind the default numbers (repository, file, commit).
    """

    name: str
    version: str
    title: str
    intents: frozenset[Intent]
    splits: tuple[SplitInfo, ...]
    metrics: tuple[MetricSpec, ...]
    templates: Templates = field(default_factory=dict)
    protocol: str = ""


class Task(Protocol):
    """A benchmark. Stateless: everything it knows of a sample is in the sample.

    `samples` yields in a fixed order, samples of one group together, and reads no image. `score` is pure; for an
    answer whose status `failed` it gives the worst case, and its record carries id, group and status of what it scored.
    `summarize` reads the records once, in sample order; a record may come several times (bootstrap) and then counts as
    often. It gives one value for every metric of `info.metrics`, in that order; with no record every value is None.
    """

    @property
    def info(self) -> TaskInfo: ...

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]: ...

    def score(self, sample: Sample, response: Response) -> Record: ...

    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]: ...


@runtime_checkable
class HasPerfectAnswer(Protocol):
    """A task that can say what a perfect answer would be; lets the `perfect` model and `check_task` run."""

    def perfect_answer(self, sample: Sample) -> Response: ...


@runtime_checkable
class HasDemo(Protocol):
    """A task that can write small demo data in the official file layout under a data root."""

    def write_demo(self, data_root: Path, seed: int) -> None: ...


@runtime_checkable
class HasOfficialPredictions(Protocol):
    """A task that reads the official form of saved predictions (a folder or file) as responses."""

    def read_official_predictions(self, path: Path, samples: Iterable[Sample]) -> Iterator[Response]: ...


PublishedRow = Mapping[str, Any]
"""One number of a paper: model, variant, subset, split, metric, value (display scale), source, notes."""
