"""`omgbench run`."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from omgbench.cli.options import data_option, json_option, model_args_option, read_pairs, task_file_option
from omgbench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED
from omgbench.printable import printable


@click.command(
    epilog="""\b
Examples:
  omgbench run --model random --tasks refcoco,gcg
  omgbench run --model my_model.py:MyModel --tasks refcoco:testA --limit 50 --batch-size 8
  omgbench run --model my_pkg:MyModel --model-args weights=/ckpt --tasks refcocog/google:val --data /data/mllm
  omgbench run --model omgbench_acme --tasks 'refcoco*' --workers 4 --out runs/acme
  omgbench run --model my_pkg:MyModel --tasks gcg:val --shard 3/16 --out runs/shared   (then: omgbench merge)
"""
)
@click.option("--model", required=True, help="Registered name, file.py:Class, or package.module:Class.")
@click.option("--tasks", required=True, help="Comma-separated TASK[/SUBSET][:SPLIT]; TASK may be a pattern.")
@model_args_option
@task_file_option
@data_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run directory; the same one resumes.")
@click.option("--split", help="Split for tasks named without one; 'all' = every split.")
@click.option("--limit", type=int, metavar="N", help="Only N samples: the first, or drawn by image with --seed.")
@click.option("--seed", type=int, help="Seed of generation, and of the draw of --limit.")
@click.option("--template", help="Prompt template of the task by name, or a wording that holds {text}.")
@click.option("--gen", multiple=True, metavar="KEY=VALUE", help="Generation option, such as max_new_tokens=64.")
@click.option(
    "--batch-size", type=int, default=1, show_default=True, help="Requests per batch; halved when memory runs out."
)
@click.option("--workers", type=int, default=0, show_default=True, help="Worker processes; 0 = in this process.")
@click.option(
    "--timeout", "timeout_s", type=float, metavar="SECONDS", help="Give a batch up after so long (uses a worker)."
)
@click.option("--shard", metavar="I/N", help="Answer part I of N only; omgbench merge puts the parts together.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16.")
@click.option("--online", is_flag=True, help="Let the model fetch what it lacks.")
@click.option("--allow-errors", is_flag=True, help="Failed requests score as wrong but leave the result complete.")
@click.option("--retry-errors", is_flag=True, help="Ask failed requests again.")
@click.option("--check-determinism", is_flag=True, help="Ask 1% again at another batch size; record the agreement.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked and what is missing; load nothing.")
@click.option("--quiet", is_flag=True, help="Plain lines in place of a progress bar.")
@json_option
def run(as_json: bool, dry_run: bool, quiet: bool, **options: Any) -> int:
    """Run a model on tasks and print the scores.

    Without a data root the bundled demo scenes are used, and every result says so. A stopped run goes on with the
    same command: nothing that was answered is asked again.
    """
    options["model_args"] = read_pairs(options["model_args"], "--model-args")
    options["gen"] = read_pairs(options["gen"], "--gen")
    options["offline"] = not options.pop("online")
    if dry_run:
        return _dry_run(options, as_json)
    from omgbench.api import evaluate
    from omgbench.cli.progress import make_progress

    progress = make_progress(quiet)
    try:
        # What a model prints must not stand between the results.
        with contextlib.redirect_stdout(sys.stderr):
            evaluation = evaluate(options.pop("model"), options.pop("tasks"), progress=progress, **options)
    except KeyboardInterrupt:
        progress.close()
        command = shlex.join(["omgbench", *sys.argv[1:]])
        click.echo(f"omgbench: stopped; every finished answer is kept. Go on with:\n  {command}", err=True)
        return EXIT_INTERRUPTED
    finally:
        progress.close()
    return _report(evaluation, as_json, options["shard"])


def _report(evaluation: Any, as_json: bool, shard: str | None) -> int:
    from omgbench.cli.show import print_results

    if shard is not None:
        click.echo(f"shard {shard} is answered in {evaluation.out}; when all are: omgbench merge {evaluation.out}")
        return EXIT_INCOMPLETE if evaluation.left_out else 0
    print_results(evaluation, as_json)
    return 0 if evaluation.complete else EXIT_INCOMPLETE


def _dry_run(options: dict[str, Any], as_json: bool) -> int:
    """Print the plan. Missing images are told, not refused."""
    from omgbench.contract import Placement
    from omgbench.runner.context import CellSettings
    from omgbench.runner.plan import PlanOptions
    from omgbench.runner.run import RunRequest, parse_shard, prepare

    if options["shard"] is not None:
        parse_shard(options["shard"])
    request = RunRequest(
        model=options["model"],
        tasks=options["tasks"],
        model_args=options["model_args"],
        task_files=options["task_files"],
        split=options["split"],
        data=options["data"],
        plan=PlanOptions(options["limit"], options["seed"], options["template"], tuple(sorted(options["gen"].items()))),
        batch_size=options["batch_size"],
        workers=options["workers"],
        timeout_s=options["timeout_s"],
        placement=Placement(options["device"], options["dtype"]),
        settings=CellSettings(allow_errors=True),
    )
    _, cells = prepare(request)
    rows = [_plan_row(cell) for cell in cells]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            _print_plan(row)
    return 0 if all(not row["missing_images"] and row["refusal"] is None for row in rows) else EXIT_INCOMPLETE


def _plan_row(cell: Any) -> dict[str, Any]:
    plan = cell.plan
    first = plan.example
    return {
        "cell": plan.cell.label,
        "data": cell.root.kind,
        "root": str(cell.root.path),
        "requests": plan.n_samples,
        "images": plan.n_groups,
        "missing_images": len(plan.missing_images),
        "first_missing": plan.missing_images[0] if plan.missing_images else None,
        "refusal": cell.refusal,
        "example": {
            "id": first.id,
            "intent": first.intent.value,
            "prompt": first.prompt(),
            "frame": first.frames[0].key,
        },
    }


def _print_plan(row: dict[str, Any]) -> None:
    click.echo(
        f"{row['cell']}: {row['requests']} requests about {row['images']} images ({row['data']} data, {row['root']})"
    )
    example = row["example"]
    first = f"{example['id']}  {example['intent']}  {example['frame']}  {example['prompt']!r}"
    click.echo(f"  first: {printable(first)}")
    if row["missing_images"]:
        click.echo(f"  missing: {row['missing_images']} image file(s), the first is {printable(row['first_missing'])}")
    if row["refusal"]:
        click.echo(f"  left out: {row['refusal']}")
