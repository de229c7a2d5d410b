"""`omgbench score` and `omgbench merge`: numbers from answers that are there already."""

from __future__ import annotations

from pathlib import Path

import click

from omgbench.cli.options import data_option, json_option, task_file_option
from omgbench.errors import EXIT_INCOMPLETE, UserError


@click.command(
    epilog="""\b
Examples:
  omgbench score --predictions preds.jsonl --tasks refcoco:val --data /data/mllm
  omgbench score --predictions gcg_folder/ --tasks gcg:val --data /data/mllm     (the official script's folder)
  omgbench score runs/acme                                                       (a run's own answers, again)
"""
)
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--predictions", type=click.Path(path_type=Path), help="JSON-lines file, or the official folder of a task."
)
@click.option("--tasks", help="What the predictions answer: TASK[/SUBSET][:SPLIT].")
@click.option("--name", help="The model's name in tables; default: the file's header, or the folder's name.")
@task_file_option
@data_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run directory for the result.")
@click.option("--allow-errors", is_flag=True, help="Missing and failed answers leave the result complete.")
@json_option
def score(
    run: Path | None,
    predictions: Path | None,
    tasks: str | None,
    name: str | None,
    task_files: tuple[Path, ...],
    data: str | None,
    out: Path | None,
    allow_errors: bool,
    as_json: bool,
) -> int:
    """Score saved predictions, or the answers of a run again. Needs no model and no images."""
    from omgbench.api import Evaluation
    from omgbench.cli.show import print_results

    if (run is None) == (predictions is None):
        raise UserError("name either a run directory or --predictions", hint="omgbench score --help")
    if run is not None:
        given = {"--tasks": tasks, "--name": name, "--out": out}
        for option, value in given.items():
            if value:
                raise UserError(
                    f"{option} goes with --predictions, not with the run {run}",
                    expected="the run directory alone: it knows its tasks and its place",
                )
        from omgbench.runner.stored import rescore

        evaluation = Evaluation(tuple(rescore(run, data, allow_errors or None, task_files=task_files)), out=run)
    else:
        from omgbench.runner.imported import score_predictions

        assert predictions is not None
        if tasks is None:
            raise UserError("--tasks is missing", expected="what the predictions answer", hint="--tasks refcoco:val")
        outcome = score_predictions(
            predictions, tasks, data=data, out=out, name=name, task_files=task_files, allow_errors=allow_errors
        )
        evaluation = Evaluation(outcome.results, outcome.left_out, outcome.out)
    print_results(evaluation, as_json)
    return 0 if evaluation.complete else EXIT_INCOMPLETE


@click.command(
    epilog="""\b
Examples:
  omgbench merge runs/shared                        (all shards wrote to one directory)
  omgbench merge runs/all runs/part1 runs/part2     (each shard wrote to its own)
"""
)
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path))
@task_file_option
@data_option
@json_option
def merge(out: Path, sources: tuple[Path, ...], task_files: tuple[Path, ...], data: str | None, as_json: bool) -> int:
    """Put the shards of a run together in OUT and score them. Doing it twice changes nothing."""
    from omgbench.api import Evaluation
    from omgbench.cli.show import print_results
    from omgbench.runner.stored import merge as merge_runs

    evaluation = Evaluation(tuple(merge_runs(out, sources, data, task_files=task_files)), out=out)
    print_results(evaluation, as_json)
    return 0 if evaluation.complete else EXIT_INCOMPLETE
