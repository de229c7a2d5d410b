"""`omgbench data`: what is there, what is missing, where to get it; demo data; verification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omgbench.cli.options import data_option, json_option
from omgbench.errors import EXIT_INCOMPLETE, OmgbenchError, UserError

if TYPE_CHECKING:
    from omgbench.contract import Task


@click.group()
def data() -> None:
    """Say what data is there and what is missing; write demo data; verify."""


@data.command(epilog="\b\nExamples:\n  omgbench data status --data /data/mllm\n  omgbench data status gcg")
@click.argument("names", nargs=-1)
@data_option
@json_option
def status(names: tuple[str, ...], data: str | None, as_json: bool) -> int:
    """For each task: which files are there, which are missing, where they come from."""
    import os

    from omgbench.data.roots import DATA_VARIABLE, DEMO, check_root

    root = data or os.environ.get(DATA_VARIABLE)
    if root and root != DEMO:
        check_root(Path(root).expanduser(), None if data else DATA_VARIABLE)
    rows = [row for task in _tasks(names) for row in _status_rows(task, Path(root) if root and root != DEMO else None)]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return 0
    click.echo(f"data root: {root or f'none (--data DIR or {DATA_VARIABLE}); runs use demo scenes'}")
    last = ""
    for row in rows:
        if row["cell"] != last:
            click.echo(f"\n{row['cell']}")
            last = row["cell"]
        if row["found"]:
            click.echo(f"  found    {row['found']}  ({row['what']})")
        else:
            others = f"; {len(row['names']) - 1} other places are looked at" if len(row["names"]) > 1 else ""
            click.echo(f"  missing  {row['names'][0]}  ({row['what']}, from {row['source']}{others})")
    return 0


@data.command(epilog="\b\nExamples:\n  omgbench data demo\n  omgbench data demo gcg --out demo --seed 3")
@click.argument("names", nargs=-1)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write to, one subfolder per task."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other scenes: 0 to 99.")
def demo(names: tuple[str, ...], out: Path | None, seed: int) -> int:
    """Write the demo scenes in the official file layouts; without --out into the cache, where runs find them."""
    from omgbench.contract import HasDemo
    from omgbench.data.roots import demo_root, write_demo

    for task in _tasks(names):
        if not isinstance(task, HasDemo):
            click.echo(f"{task.info.name}: has no demo data")
            continue
        if out is None:
            path = demo_root(task, seed)
        else:
            path = out / task.info.name
            if path.exists():
                raise UserError(f"{path} exists already", expected="a folder that does not exist yet")
            write_demo(task, path, seed)
        click.echo(f"{task.info.name}: {path}")
    return 0


@data.command(epilog="\b\nExamples:\n  omgbench data verify --data /data/mllm\n  omgbench data verify refcoco gcg")
@click.argument("names", nargs=-1)
@data_option
@json_option
def verify(names: tuple[str, ...], data: str | None, as_json: bool) -> int:
    """Read every annotation of every split that is there, count it against the official release, look for images."""
    rows = [_verify_row(task, split, data) for task in _tasks(names) for split in task.info.splits]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            click.echo(f"{row['cell']:<28} {row['verdict']}")
    return 0 if all(row["ok"] for row in rows) else EXIT_INCOMPLETE


def _tasks(names: tuple[str, ...]) -> list[Task]:
    from omgbench import registry

    chosen = names or tuple(dict.fromkeys(plugin.name for plugin in registry.plugins("tasks")))
    tasks = []
    for name in chosen:
        try:
            tasks.append(registry.build_task(name))
        except OmgbenchError as error:
            if names:
                raise
            click.echo(f"{name}: {error}", err=True)
    return tasks


def _status_rows(task: Task, root: Path | None) -> list[dict[str, Any]]:
    from omgbench.selection import cell_label

    rows = []
    for split in task.info.splits:
        for file in split.files:
            found = next((name for name in file.names if root is not None and (root / name).exists()), None)
            rows.append(
                {
                    "cell": cell_label(task.info.name, split),
                    "what": file.what,
                    "names": list(file.names),
                    "found": found,
                    "source": file.source,
                }
            )
    return rows


def _verify_row(task: Task, split: Any, data: str | None) -> dict[str, Any]:
    from omgbench.data.roots import resolve_root
    from omgbench.runner.plan import PlanOptions, make_plan
    from omgbench.runner.results import file_hashes
    from omgbench.selection import Cell, cell_label

    label = cell_label(task.info.name, split)
    try:
        root = resolve_root(task, split, data)
        plan = make_plan(Cell(task, task.info.name, split), root.path, PlanOptions())
    except OmgbenchError as error:
        return {"cell": label, "ok": False, "verdict": f"unusable: {error}"}
    problems = []
    if root.kind == "user" and split.n_samples is not None and split.n_samples != plan.n_samples:
        problems.append(f"{plan.n_samples} samples, the official release has {split.n_samples}")
    if plan.missing_images:
        problems.append(f"{len(plan.missing_images)} images are missing, the first is {plan.missing_images[0]}")
    counts = f"{plan.n_samples} samples, {plan.n_groups} images, requests {plan.fingerprint[:8]} ({root.kind} data)"
    return {
        "cell": label,
        "ok": not problems,
        "verdict": "; ".join(problems) if problems else f"ok: {counts}",
        "n_samples": plan.n_samples,
        "n_images": plan.n_groups,
        "requests": plan.fingerprint,
        "annotations_sha256": file_hashes(root.path, split),
    }
