"""`omgbench check-adapter` and `omgbench check-task`: the conformance suite on any plug-in."""

from __future__ import annotations

from pathlib import Path

import click

from omgbench.cli.options import model_args_option, read_pairs
from omgbench.errors import EXIT_INCOMPLETE


@click.command(
    name="check-adapter",
    epilog="""\b
Examples:
  omgbench check-adapter random
  omgbench check-adapter my_model.py:MyModel --model-args size=tiny
""",
)
@click.argument("model")
@model_args_option
@click.option(
    "--online", is_flag=True, help="The model may use the network (an API); otherwise a connection is a failure."
)
def check_adapter(model: str, model_args: tuple[str, ...], online: bool) -> int:
    """Ask MODEL made-up requests of every kind it declares, and name every rule of the contract it breaks."""
    from omgbench import registry
    from omgbench.contract import Placement
    from omgbench.testing import check_model

    arguments = read_pairs(model_args, "--model-args")
    placement = Placement(offline=not online)
    # A name that leads nowhere is the user's mistake, not a rule that the model breaks.
    registry.load_target("models", model)
    report = check_model(lambda: registry.build_model(model, arguments), placement=placement)
    click.echo(str(report))
    return 0 if report.ok else EXIT_INCOMPLETE


@click.command(
    name="check-task",
    epilog="\b\nExamples:\n  omgbench check-task refcoco\n  omgbench check-task my_task.py:MyTask --data /data/mine",
)
@click.argument("task")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Data root; default: the task's demo data.",
)
@click.option("--limit", type=click.IntRange(min=1), default=64, show_default=True, help="Samples looked at per split.")
def check_task(task: str, data: Path | None, limit: int) -> int:
    """Walk TASK's samples, score perfect, blank and failed answers, and name every rule of the contract it breaks."""
    from omgbench import registry
    from omgbench.testing import check_task as check

    report = check(registry.build_task(task), data, limit=limit)
    click.echo(str(report))
    return 0 if report.ok else EXIT_INCOMPLETE
