"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from omgbench.errors import UserError

data_option = click.option(
    "--data",
    metavar="DIR|demo",
    help="Data root with official files, or 'demo' for the bundled made-up scenes. Default: OMGBENCH_DATA, else demo.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
task_file_option = click.option(
    "--task-file",
    "task_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Python file that defines further tasks. May be repeated.",
)


def model_args_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--model-args key=value`, repeatable."""
    return click.option(
        "--model-args",
        "model_args",
        multiple=True,
        metavar="KEY=VALUE",
        help="Constructor argument of the model; VALUE is read as JSON where it is JSON. May be repeated.",
    )(function)


def read_pairs(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """`key=value` texts as a dictionary; a value that is JSON is taken as JSON, any other as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"{option} {pair}", expected="KEY=VALUE with a Python name as KEY, such as seed=3")
        if key in found:
            raise UserError(f"{option} gives {key} twice", expected="each key once")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
