"""The plan of a cell: its samples in order, numbered, with options applied, cut into blocks of whole image groups.

A plan holds no samples: it streams them from the task each time, so that 200,000 requests cost no more memory than
two hundred. What it keeps is a fingerprint, the counts and where each block starts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omgbench.contract import Frame, GenOptions, Request, Sample
from omgbench.errors import DataError, OmgbenchError, PluginError, UserError
from omgbench.identity import request_fingerprint
from omgbench.runner.ask import describe_error
from omgbench.selection import Cell

BLOCK_REQUESTS = 16
"""A block ends at the first group border after this many requests. Part of every shard's meaning: never an option."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user changes about the requests of a cell.

    Attributes:
        limit: at most this many samples; None = all.
        seed: with a limit, draws whole image groups by this seed instead of taking the first ones; also the seed of
            generation.
        template: name of one of the task's templates, or the wording itself when it holds `{text}`.
        gen: generation options by name, over the task's own.
    """

    limit: int | None = None
    seed: int | None = None
    template: str | None = None
    gen: tuple[tuple[str, int | float | str | tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One sample with its place in the plan."""

    ordinal: int
    sample: Sample


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module.

    Attributes:
        cell, data_root, options: what is planned.
        fingerprint: over every request in order, hence over ids, texts, templates, generation options, frame keys.
        n_samples, n_groups: counts.
        block_starts: ordinal of each block's first sample, then `n_samples`; int64, ascending.
        missing_images: image files that do not exist.
        example: the first request.
        refusal: why the first request that the model cannot answer is refused; None when it can answer all.
    """

    cell: Cell
    data_root: Path
    options: PlanOptions
    fingerprint: str
    n_samples: int
    n_groups: int
    block_starts: NDArray[np.int64]
    missing_images: tuple[str, ...]
    example: Request
    refusal: str | None = None

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.block_starts) - 1

    def samples(self) -> Iterator[PlannedSample]:
        """The samples in order; the same at each call."""
        return planned_samples(self.cell, self.data_root, self.options)

    def block_range(self, block: int) -> range:
        """Ordinals of a block."""
        return range(int(self.block_starts[block]), int(self.block_starts[block + 1]))


def make_plan(
    cell: Cell,
    data_root: Path,
    options: PlanOptions,
    refuses: Callable[[Request], str | None] = lambda request: None,
) -> Plan:
    """Walk the task's samples once. Raises `UserError` for bad options and `PluginError` when the task repeats an id
    or tears a group apart."""
    _check_options(cell, options)
    digest = hashlib.blake2b(digest_size=16)
    walk = _Walk()
    missing: list[str] = []
    refusal: str | None = None
    for planned in planned_samples(cell, data_root, options):
        digest.update(request_fingerprint(planned.sample.request).encode())
        refusal = refusal or refuses(planned.sample.request)
        if walk.step(cell, planned):
            missing.extend(_missing(planned.sample.request.frames))
    if walk.example is None:
        raise DataError(f"{cell.label} has no sample", where=str(data_root), expected="at least one")
    starts = np.array([*walk.block_starts, walk.n_samples], dtype=np.int64)
    return Plan(
        cell=cell,
        data_root=data_root,
        options=options,
        fingerprint=digest.hexdigest(),
        n_samples=walk.n_samples,
        n_groups=walk.n_groups,
        block_starts=starts,
        missing_images=tuple(missing),
        example=walk.example,
        refusal=refusal,
    )


class _Walk:
    """Checks order and uniqueness while a plan is walked, and notes where blocks start."""

    def __init__(self) -> None:
        self.n_samples = 0
        self.n_groups = 0
        self.block_starts: list[int] = []
        self.example: Request | None = None
        self._group: str | None = None
        self._seen_ids: set[int] = set()
        self._seen_groups: set[int] = set()

    def step(self, cell: Cell, planned: PlannedSample) -> bool:
        """Take one sample; True when it opens a group."""
        sample = planned.sample
        # 64-bit hashes in place of the strings keep 200,000 ids in a few megabytes.
        self._once(self._seen_ids, sample.id, cell, "sample id")
        self.n_samples += 1
        self.example = self.example or sample.request
        if sample.group == self._group:
            return False
        self._once(self._seen_groups, sample.group, cell, "group (its samples must stand together)")
        self._group = sample.group
        self.n_groups += 1
        if not self.block_starts or planned.ordinal - self.block_starts[-1] >= BLOCK_REQUESTS:
            self.block_starts.append(planned.ordinal)
        return True

    @staticmethod
    def _once(seen: set[int], text: str, cell: Cell, what: str) -> None:
        key = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        if key in seen:
            raise PluginError(
                f"task {cell.label} gives the {what} {text!r} twice",
                expected="every one once",
                hint=f"omgbench check-task {cell.task.info.name}",
            )
        seen.add(key)


def _missing(frames: Iterable[Frame]) -> Iterator[str]:
    for frame in frames:
        if isinstance(frame.source, Path) and not frame.source.is_file():
            yield str(frame.source)


def _check_options(cell: Cell, options: PlanOptions) -> None:
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}", expected="1 or more")
    check_gen(options.gen)
    _template_text(cell, options)


def check_gen(options: Iterable[tuple[str, Any]]) -> None:
    """Raise `UserError` for a generation option that is none, or a value that it cannot have."""
    for name, value in options:
        if name not in _GEN_RULES:
            raise UserError(f"unknown generation option {name!r}", expected=f"one of: {', '.join(sorted(_GEN_RULES))}")
        is_right, expected = _GEN_RULES[name]
        if not is_right(value):
            raise UserError(f"generation option {name} is {value!r}", expected=expected, hint=f"--gen {name}=VALUE")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_GEN_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda value: _is_whole(value) and value >= 1, "a whole number, 1 or more"),
    "num_beams": (lambda value: _is_whole(value) and value >= 1, "a whole number, 1 or more"),
    "seed": (_is_whole, "a whole number"),
    "temperature": (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf,
        "a finite number, 0 or more",
    ),
    "stop": (
        lambda value: isinstance(value, list | tuple) and all(isinstance(text, str) for text in value),
        'a list of texts, such as ["###"]',
    ),
}


def _template_text(cell: Cell, options: PlanOptions) -> str | None:
    if options.template is None:
        return None
    try:
        options.template.encode()
    except UnicodeEncodeError:
        raise UserError(f"--template {options.template!r}", expected="text in UTF-8") from None
    templates = cell.task.info.templates
    if options.template in templates:
        return templates[options.template]
    if "{text}" in options.template:
        return options.template
    raise UserError(
        f"task {cell.task.info.name!r} has no template {options.template!r}",
        expected=f"one of: {', '.join(sorted(templates)) or 'none'}, or a wording that holds {{text}}",
    )


def _gen(options: PlanOptions, own: GenOptions) -> GenOptions:
    changed: dict[str, object] = dict(options.gen)
    if "temperature" in changed:
        # 0 and 0.0 are one option, and must be one fingerprint.
        changed["temperature"] = float(str(changed["temperature"]))
    if options.seed is not None:
        changed.setdefault("seed", options.seed)
    if "stop" in changed:
        changed["stop"] = tuple(dict(options.gen)["stop"])  # type: ignore[arg-type]
    return replace(own, **changed) if changed else own  # type: ignore[arg-type]


def planned_samples(cell: Cell, data_root: Path, options: PlanOptions) -> Iterator[PlannedSample]:
    """The samples of a cell in order, numbered, with the options applied."""
    groups = _drawn_groups(cell, data_root, options)
    template = _template_text(cell, options)
    plain = template is None and not options.gen and options.seed is None
    ordinal = 0
    for sample in _task_samples(cell, data_root):
        if groups is not None and sample.group not in groups:
            continue
        if options.limit is not None and ordinal >= options.limit:
            return
        if not plain:
            request = sample.request
            request = replace(request, template=template or request.template, gen=_gen(options, request.gen))
            sample = replace(sample, request=request)
        yield PlannedSample(ordinal, sample)
        ordinal += 1


def _task_samples(cell: Cell, data_root: Path) -> Iterator[Sample]:
    """The task's own samples. Raises `PluginError` when the task raises or gives something else."""
    try:
        for sample in cell.task.samples(cell.split, data_root):
            if not isinstance(sample, Sample):
                raise PluginError(
                    f"task {cell.label}: samples() gave a {type(sample).__name__}", expected="omgbench.contract.Sample"
                )
            if not isinstance(sample.group, str) or not isinstance(sample.id, str):
                raise PluginError(
                    f"task {cell.label}: samples() gave the id {sample.id!r} and the group {sample.group!r}",
                    expected="texts",
                )
            yield sample
    except (OmgbenchError, MemoryError):
        raise
    except Exception as error:
        raise PluginError(
            f"task {cell.label}: samples() raised {describe_error(error)}",
            hint=f"omgbench check-task {cell.task.info.name}",
        ) from error


def _drawn_groups(cell: Cell, data_root: Path, options: PlanOptions) -> frozenset[str] | None:
    """Groups that a seeded limit draws, or None for all. Drawn by hash, so that the draw does not depend on how the
    task orders them; the last group drawn may be cut by the limit."""
    if options.limit is None or options.seed is None:
        return None
    sizes: dict[str, int] = {}
    for sample in _task_samples(cell, data_root):
        sizes[sample.group] = sizes.get(sample.group, 0) + 1

    def draw(group: str) -> bytes:
        return hashlib.blake2b(f"{options.seed}:{group}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    chosen: list[str] = []
    total = 0
    for group in sorted(sizes, key=draw):
        if total >= options.limit:
            break
        chosen.append(group)
        total += sizes[group]
    return frozenset(chosen)
