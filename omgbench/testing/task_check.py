"""`check_task`: does a benchmark keep the contract?"""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from omgbench.contract import HasDemo, SplitInfo, Task
from omgbench.data.locate import find_missing
from omgbench.errors import UserError
from omgbench.testing.report import Findings, Report
from omgbench.testing.split_trial import SplitTrial
from omgbench.testing.task_rules import card_problem, info_problems, published_problem

DEMO_SEED = 0


def check_task(
    task: Task | Callable[[], Task],
    data_root: Path | str | None = None,
    *,
    splits: Collection[str] | None = None,
    limit: int | None = None,
) -> Report:
    """Try a task on data and report which rules of the contract it keeps.

    The samples of each split are listed twice; perfect, blank, random, refused and failed answers are scored, and the
    perfect ones summed. On the first split the others are summed too, mixed, one of them twice, shuffled and sent
    through JSON. Metrics that cannot be computed here (no Java, no text model) are reported as skipped.

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
    # Tasks that share a folder have a card each.
    own_card = f"{task.info.name}.card.md"
    card = own_card if folder is not None and (folder / own_card).is_file() else "card.md"
    for name, file, rule in (("card.md", card, card_problem), ("published.json", "published.json", published_problem)):
        if folder is not None and (folder / file).is_file():
            findings.expect(name, rule(folder / file))
        else:
            findings.skip(name, "none beside the task's module")


def _check_splits(
    task: Task, splits: Sequence[SplitInfo], data_root: Path | str | None, limit: int | None, findings: Findings
) -> None:
    with ExitStack() as stack:
        root = Path(data_root) if data_root is not None else _demo(task, stack, findings)
        if root is None:
            return
        tried = False
        for split in splits:
            try:
                if _has_files(split, root, data_root is None, findings):
                    SplitTrial(task, split, root, limit, not tried, findings).run()
                    tried = True
            except Exception as error:
                findings.expect("raises nothing", f"{split.label}: {type(error).__name__}: {error}")


def _demo(task: Task, stack: ExitStack, findings: Findings) -> Path | None:
    """Write demo data twice and give the folder; an empty one for a task that needs no files, else None."""
    if not isinstance(task, HasDemo):
        if not any(split.files for split in task.info.splits):
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="omgbench-check-")))
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


def _has_files(split: SplitInfo, root: Path, is_demo: bool, findings: Findings) -> bool:
    missing = [file.names[0] for file in find_missing(root, split.files)]
    if missing and is_demo and split.default:
        findings.expect("demo complete", f"{split.label}: the demo data lacks {', '.join(missing)}")
    elif missing:
        findings.skip("data", f"{split.label}: {', '.join(missing)} is not there")
    return not missing
