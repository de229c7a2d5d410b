"""What `--tasks` means: `TASK[/SUBSET][:SPLIT]`, patterns and all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from omgbench import registry
from omgbench.contract import SplitInfo, Task
from omgbench.errors import PluginError, UserError

ALL_SPLITS = "all"


@dataclass(frozen=True, slots=True)
class Cell:
    """One split of one task: the unit that is run, scored and stored.

    Attributes:
        task: the task.
        spec: how another process builds the same task; None for a task given as an object.
        split: which split of it.
    """

    task: Task
    spec: str | None
    split: SplitInfo

    @property
    def label(self) -> str:
        """`task[/subset]:split`, as the user types it."""
        return cell_label(self.task.info.name, self.split)

    @property
    def folder(self) -> str:
        """The cell's folder name in a run directory."""
        return self.label.replace("/", "-").replace(":", "-")


def cell_label(task_name: str, split: SplitInfo) -> str:
    """`task:split`, or `task/subset:split` for any subset but the unnamed one."""
    subset = f"/{split.subset}" if split.subset else ""
    return f"{task_name}{subset}:{split.name}"


def select(
    tasks: str | Task | Sequence[str | Task], split: str | None = None, task_files: Mapping[str, str] | None = None
) -> list[Cell]:
    """Cells for a selection, in the order given, each once.

    Args:
        tasks: comma-separated names, or a sequence of names and task objects. A name is `TASK`, `TASK:SPLIT`,
            `TASK/SUBSET`, `TASK/SUBSET:SPLIT`, or `file.py:attribute[:SPLIT]`; `TASK` may be a pattern; `all` as a
            split takes every split. A bare task takes its default splits.
        split: split for every entry that names none.
        task_files: names of tasks defined in files, with their specs; they win over registered names.
    """
    wanted = tasks.split(",") if isinstance(tasks, str) else list(tasks) if isinstance(tasks, Sequence) else [tasks]
    cells: dict[str, Cell] = {}
    for entry in wanted:
        if isinstance(entry, str) and not entry.strip():
            continue
        for cell in _cells_of(entry, split, task_files or {}):
            known = cells.setdefault(cell.label, cell)
            if known.spec != cell.spec or (cell.spec is None and known.task is not cell.task):
                raise UserError(
                    f"two tasks are called {cell.task.info.name!r}: {known.spec or 'an object'} and "
                    f"{cell.spec or 'an object'}",
                    expected="one task per name",
                    hint="run them one after the other, each with an --out of its own",
                )
    if not cells:
        raise UserError("no task was named", expected="--tasks refcoco,gcg", hint="omgbench tasks lists them")
    return list(cells.values())


def _cells_of(entry: str | Task, split: str | None, files: Mapping[str, str]) -> Iterable[Cell]:
    if not isinstance(entry, str):
        yield from (Cell(entry, None, found) for found in choose_splits(entry, "", split))
        return
    text = entry.strip()
    if _is_path(text):
        location, attribute, *rest = text.rsplit(":", 2) if text.count(":") > 1 else text.split(":")
        spec = f"{location}:{attribute}"
        task = registry.build_task(spec)
        named_split = rest[0] if rest else None
        yield from (Cell(task, spec, found) for found in choose_splits(task, "", named_split or split))
        return
    name, _, named_split = text.partition(":")
    pattern, _, subset = name.partition("/")
    specs = [files[pattern]] if pattern in files else registry.match("tasks", pattern)
    for spec in specs:
        task = registry.build_task(spec)
        if ":" not in spec and task.info.name != spec:
            raise PluginError(f"the task registered as {spec!r} calls itself {task.info.name!r}", expected="one name")
        for found in choose_splits(task, subset, named_split or split):
            yield Cell(task, spec, found)


def _is_path(text: str) -> bool:
    """`file.py:attribute` or `package.module:attribute`, each perhaps with `:split` behind."""
    return ".py:" in text or ("." in text.partition(":")[0] and ":" in text)


def choose_splits(task: Task, subset: str, split: str | None) -> list[SplitInfo]:
    """Splits of a task: of `subset` ("" = the task's first), the named one, all, or the default ones."""
    info = task.info
    subsets = list(dict.fromkeys(found.subset for found in info.splits))
    if subset and subset not in subsets:
        raise _unknown(info.name, "subset", subset, [name for name in subsets if name])
    of_subset = [found for found in info.splits if found.subset == (subset or subsets[0])]
    if split is None:
        return [found for found in of_subset if found.default] or of_subset
    if split == ALL_SPLITS:
        return of_subset
    named = [found for found in of_subset if found.name == split]
    if not named:
        raise _unknown(info.name, "split", split, [found.name for found in of_subset])
    return named


def _unknown(task: str, what: str, name: str, known: list[str]) -> PluginError:
    same = [other for other in known if other.casefold() == name.casefold()]
    near = same or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return PluginError(
        f"task {task!r} has no {what} {name!r}",
        expected=f"one of: {', '.join(known) or 'none'}",
        hint=f"did you mean {near[0]}?" if near else f"omgbench tasks {task} shows them",
    )
