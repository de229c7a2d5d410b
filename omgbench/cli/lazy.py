"""A click group that knows its commands by name and one line of help, and imports one when it is called."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("omgbench.cli.run", "Run a model on tasks; goes on where a stopped run left off."),
    "ask": ("omgbench.cli.ask", "Ask a model one question about one picture."),
    "score": ("omgbench.cli.score", "Score saved predictions, or a run's answers again."),
    "merge": ("omgbench.cli.score", "Put the shards of a run together and score them."),
    "show": ("omgbench.cli.show", "Show the results of a run."),
    "table": ("omgbench.cli.show", "Make a table of results: Markdown, LaTeX, CSV."),
    "tasks": ("omgbench.cli.listing", "List the tasks, or show one task's card."),
    "models": ("omgbench.cli.listing", "List the models, or show what one declares."),
    "model": ("omgbench.cli.model", "Convert and inspect the checkpoints of a model."),
    "train": ("omgbench.cli.train", "Train a model by a recipe; goes on where a stopped training left off."),
    "data": ("omgbench.cli.data", "Say what data is there and what is missing; write demo data; verify."),
    "check-adapter": ("omgbench.cli.check", "Run the conformance suite on a model."),
    "check-task": ("omgbench.cli.check", "Run the conformance suite on a task."),
    "doctor": ("omgbench.cli.doctor", "Say what this machine has and what each task lacks."),
}


class LazyGroup(click.Group):
    """See the module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of a user's day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, written without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Name the nearest command for a misspelt one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else " See omgbench --help."
            raise click.UsageError(f"no command is named {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)
