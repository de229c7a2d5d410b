"""`omgbench show` and `omgbench table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omgbench.cli.options import json_option
from omgbench.printable import SENTENCE_LIMIT, printable

if TYPE_CHECKING:
    from omgbench.api import Evaluation
    from omgbench.store import ResultRecord


@click.command(epilog="\b\nExamples:\n  omgbench show runs/mine\n  omgbench show omgbench_runs/* --json")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def show(runs: tuple[Path, ...], as_json: bool) -> int:
    """Show every number of runs, with coverage, marks and what made them."""
    from omgbench.api import load_results

    print_results(load_results(*runs), as_json, details=True)
    return 0


@click.command(
    epilog="""\b
Examples:
  omgbench table omgbench_runs/*
  omgbench table runs/mine --published --format latex --output table.tex
"""
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "markdown", "latex", "csv"]),
    default="markdown",
    show_default=True,
)
@click.option(
    "--published",
    is_flag=False,
    flag_value="main",
    default="none",
    type=click.Choice(["none", "main", "all"]),
    help="Add papers' rows for the same columns, marked as published: the main tables' (no value), or all.",
)
@click.option("--metrics", type=click.Choice(["primary", "all"]), default="primary", show_default=True)
@click.option(
    "--digits", type=click.IntRange(0, 12), default=1, show_default=True, help="Decimals on the display scale."
)
@click.option(
    "--join-seeds", is_flag=True, help="One row of means with intervals for a model trained under several seeds."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
def table(
    runs: tuple[Path, ...],
    format_: Any,
    published: Any,
    metrics: str,
    digits: int,
    join_seeds: bool,
    output: Path | None,
) -> int:
    """Make a table of results, one row per model."""
    from omgbench.api import load_results
    from omgbench.reports.tables import render_table
    from omgbench.store import atomic_write_text

    results = load_results(*runs).results
    text = render_table(
        results,
        format=format_,
        published=published,
        all_metrics=metrics == "all",
        digits=digits,
        join_seeds=join_seeds,
    )
    if output is None:
        click.echo(text, nl=False)
    else:
        atomic_write_text(output, text)
        click.echo(f"wrote {printable(str(output), SENTENCE_LIMIT)}")
    return 0


def print_results(evaluation: Evaluation, as_json: bool, details: bool = False) -> None:
    """Print results as the run and show commands do."""
    if as_json:
        value = {
            "complete": evaluation.complete,
            "out": str(evaluation.out) if evaluation.out else None,
            "left_out": dict(evaluation.left_out),
            "results": [json.loads(result.to_json()) for result in evaluation.results],
        }
        click.echo(json.dumps(value, indent=1))
        return
    if evaluation.results:
        from omgbench.reports.tables import render_table

        click.echo(render_table(evaluation.results, format="text"))
    for result in evaluation.results:
        _print_result(result, details)
    for label, why in evaluation.left_out.items():
        click.echo(f"{printable(label)} is left out: {printable(why, SENTENCE_LIMIT)}")
    if evaluation.out is not None and evaluation.results:
        out = printable(str(evaluation.out), SENTENCE_LIMIT)
        click.echo(f"results: {out}   tables: omgbench table {out} --published")


def _print_result(result: ResultRecord, details: bool) -> None:
    statuses = ", ".join(f"{count} {name}" for name, count in result.coverage.statuses.items())
    coverage = f"{result.coverage.answered}/{result.coverage.n_samples} answered ({statuses})"
    click.echo(f"{printable(result.label)}  {printable(result.model.name)}  {printable(coverage)}")
    if details:
        _print_details(result)
    if result.marks:
        _print_line(f"marked: {'; '.join(result.marks)}")
    for reason in result.reasons:
        _print_line(f"{'incomplete' if not result.complete else 'note'}: {reason}")
    if result.determinism:
        agree, n, size = (result.determinism.get(key, "?") for key in ("agree", "n", "batch_size"))
        _print_line(f"determinism: {agree} of {n} answers equal at batch size {size}")


def _print_details(result: ResultRecord) -> None:
    from omgbench.reports.tables import format_value

    for metric in result.metrics:
        note = f"  {metric.note}" if metric.note else ""
        raw = "" if metric.value is None else f"  ({metric.value!r})"
        _print_line(f"{printable(metric.name):<22} {format_value(metric, 2):>12}  n={metric.n}{raw}{note}")
    model = result.model
    _print_line(f"weights {printable(model.weights)}, code {model.code[:8]}, requests {result.data.requests[:8]}")
    _print_line(f"{result.finished}, {result.duration_s:g} s, omgbench {result.environment.get('omgbench', '?')}")


def _print_line(text: str) -> None:
    click.echo(f"  {printable(text, SENTENCE_LIMIT)}")
