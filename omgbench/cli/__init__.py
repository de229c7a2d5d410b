"""The command line. Commands are imported when they run, so that help and listing stay instant."""

from __future__ import annotations

import io
import sys

import click

from omgbench.cli.lazy import LazyGroup
from omgbench.errors import EXIT_CRASH, EXIT_INTERRUPTED, OmgbenchError
from omgbench.printable import printable_lines, printable_message


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 complete, 1 crash, 2 a mistake of the user, 3 an incomplete result, 130 interrupted.",
)
@click.version_option(package_name="omgbench", prog_name="omgbench")
def cli() -> None:
    """Evaluate multimodal LLMs at image, object and pixel level, with official-to-the-digit scores.

    \b
    omgbench run --model random --tasks refcoco,gcg
    omgbench run --model my_pkg:MyModel --tasks refcoco:val,gcg --data /data/mllm
    omgbench table omgbench_runs/* --published --format latex
    """


def main() -> None:
    """Entry point of the `omgbench` command: a user's mistake is a message, never a traceback."""
    try:
        code = cli.main(prog_name="omgbench", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        _show(error)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        # click turns every Ctrl-C that reaches it into Abort.
        click.echo("omgbench: stopped", err=True)
        code = EXIT_INTERRUPTED
    except OmgbenchError as error:
        click.echo(f"omgbench: {printable_message(str(error))}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone; what is left to flush has nowhere to go.
        sys.stderr.close()
        code = EXIT_CRASH
    except OSError as error:
        click.echo(f"omgbench: {printable_message(str(error))}", err=True)
        code = EXIT_CRASH
    sys.exit(code if isinstance(code, int) else 0)


def _show(error: click.ClickException) -> None:
    """What click shows, usage included; the message may name a file that a shell pattern matched."""
    shown = io.StringIO()
    error.show(shown)
    click.echo(printable_lines(shown.getvalue().removesuffix("\n")), err=True)
