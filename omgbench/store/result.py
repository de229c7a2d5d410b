"""The result record: one cell's numbers with everything that decides them. Versioned; old ones still load."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from omgbench.errors import DataError
from omgbench.store.schema import Stored

SCHEMA_VERSION = 1
RESULT_FILE = "result.json"


class TaskRecord(Stored):
    """Which numbers these are: task, its version, official script, subset and split."""

    name: str
    version: str
    title: str
    protocol: str
    subset: str
    split: str


class DataRecord(Stored):
    """What was asked about.

    `kind` is "user", "demo" or "none" (tasks that need no files); `annotations_sha256` by path under the root;
    `requests` fingerprints the list of requests, `images` the bytes of every picture shown ("" when none was).
    `official_count` says whether the number of samples is the official release's (None = not known).
    """

    kind: str
    annotations_sha256: dict[str, str]
    requests: str
    images: str
    n_samples: int
    n_groups: int
    official_count: bool | None


class ModelRecord(Stored):
    """Which model answered; see `omgbench.contract.ModelIdentity`. `spec` is what the user typed."""

    name: str
    version: str
    weights: str
    templates: dict[str, str]
    options: dict[str, str]
    libraries: dict[str, str]
    code: str
    fingerprint: str
    spec: str
    mask_source: str
    language_model: bool
    sees_references: bool


class EngineRecord(Stored):
    """How the answers came about, as the journals tell it. None of it but `dtype`, which is part of the model's
    fingerprint, may change a number of a deterministic model.

    `name` is local or workers; `device` what the adapters said they used; `batch_sizes` those that processes began
    with; `processes` how many wrote answers. Several, where a run was resumed with other settings.
    """

    name: str
    device: str
    dtype: str
    batch_sizes: tuple[int, ...]
    processes: int


class Coverage(Stored):
    """Counts per status; `answered` leaves out error, timeout, missing and unsupported."""

    n_samples: int
    answered: int
    statuses: dict[str, int]


class MetricRecord(Stored):
    """One number with its meaning; see `omgbench.contract.MetricSpec` and `MetricValue`."""

    name: str
    value: float | None
    n: int
    note: str
    interval: tuple[float, float] | None
    description: str
    scale: tuple[float | None, float | None]
    display_factor: float
    higher_is_better: bool | None
    primary: bool
    optional: bool


class ResultRecord(Stored):
    """Everything about one cell of one run. `marks` are what every table must show beside its numbers; `started` is
    when the first answer's process began, `duration_s` the seconds of answering summed over processes."""

    schema_version: int
    task: TaskRecord
    data: DataRecord
    model: ModelRecord
    options: dict[str, Any]
    engine: EngineRecord
    environment: dict[str, str]
    coverage: Coverage
    metrics: tuple[MetricRecord, ...]
    complete: bool
    reasons: tuple[str, ...]
    marks: tuple[str, ...]
    determinism: dict[str, Any] | None
    started: str
    finished: str
    duration_s: float

    @property
    def label(self) -> str:
        """`task[/subset]:split`."""
        subset = f"/{self.task.subset}" if self.task.subset else ""
        return f"{self.task.name}{subset}:{self.task.split}"

    def metric(self, name: str) -> MetricRecord:
        """The metric of that name. Raises `KeyError` with the names there are."""
        for found in self.metrics:
            if found.name == name:
                return found
        raise KeyError(f"{self.label} has no metric {name!r}; it has {', '.join(item.name for item in self.metrics)}")

    def value(self, name: str) -> float | None:
        """The unrounded value of a metric, None when not computed."""
        return self.metric(name).value

    def to_json(self) -> str:
        """Indented JSON, one trailing newline."""
        return self.model_dump_json(indent=1) + "\n"


def load_result(path: Path) -> ResultRecord:
    """Read a result record of this or an older schema. Raises `DataError` for anything else."""
    hint = "omgbench show RUN lists the results of a run directory"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("there is no result", where=str(path), hint=hint) from None
    except (OSError, ValueError) as error:
        raise DataError(f"a result that cannot be read: {error}", where=str(path), expected="JSON") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or version < 1:
        raise DataError("this JSON is no result record", where=str(path), expected="a schema_version", hint=hint)
    if version > SCHEMA_VERSION:
        raise DataError(
            f"a result of schema {version}",
            where=str(path),
            expected=f"schema {SCHEMA_VERSION} or older",
            hint="pip install -U omgbench",
        )
    try:
        return ResultRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"a result with a bad field {field}: {first['msg']}", where=str(path), hint=hint) from None


def find_results(places: Iterable[Path]) -> list[Path]:
    """Result files under run directories (or the files themselves), in name order. A place without any raises
    `DataError`."""
    found: list[Path] = []
    for place in places:
        files = [place] if place.is_file() else sorted(place.rglob(RESULT_FILE))
        if not files:
            raise DataError(
                f"no result under {place}",
                expected=f"a run directory with finished cells ({RESULT_FILE})",
                hint="omgbench run writes one; a stopped run is finished by the same command again",
            )
        found.extend(files)
    return found
