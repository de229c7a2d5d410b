"""`omgbench model convert` and `omgbench model info`: checkpoints of models that come as files."""

from __future__ import annotations

import json
from typing import Any

import click

from omgbench.cli.options import json_option, model_args_option, read_pairs


@click.group()
def model() -> None:
    """Convert and inspect the checkpoints of a model."""


@model.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    epilog="\b\nExamples:\n  omgbench model convert omg_llava --help",
)
@click.argument("name", metavar="MODEL")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def convert(name: str, arguments: tuple[str, ...]) -> int:
    """Make what MODEL loads from the files that its authors publish. `MODEL --help` says which arguments it takes."""
    if name in ("-h", "--help"):
        click.echo(click.get_current_context().get_help())
        return 0
    from omgbench import registry

    code: int = _with_checkpoints(registry.load_target("models", name), name).convert(arguments)
    return code


@model.command(
    epilog="\b\nExamples:\n  omgbench model info omg_llava --model-args weights=checkpoints/omg_llava_7b",
)
@click.argument("name", metavar="MODEL")
@model_args_option
@json_option
def info(name: str, model_args: tuple[str, ...], as_json: bool) -> int:
    """Say what the weights of MODEL are and whether they are whole, without loading them."""
    from omgbench import registry

    arguments = read_pairs(model_args, "--model-args")
    lines = _with_checkpoints(registry.build_model(name, arguments), name).describe()
    if as_json:
        click.echo(json.dumps(dict(lines), indent=1))
    else:
        width = max(map(len, lines))
        click.echo("\n".join(f"{label:<{width}}  {value}" for label, value in lines.items()))
    return 0


def _with_checkpoints(target: Any, name: str) -> Any:
    from omgbench.errors import PluginError

    if all(callable(getattr(target, method, None)) for method in ("convert", "describe")):
        return target
    raise PluginError(
        f"model {name!r} has no checkpoints to convert or to inspect",
        expected="a model with `convert` and `describe` (omgbench.contract.HasCheckpoints)",
        hint="omgbench models",
    )
