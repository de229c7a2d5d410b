"""Errors that a person reads: what was found, what was expected, where, and what to type next."""

from __future__ import annotations

EXIT_OK = 0
EXIT_CRASH = 1
EXIT_USER = 2
EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130


class OmgbenchError(Exception):
    """Base of all errors of omgbench. `str()` is the whole message for the reader."""

    exit_code = EXIT_CRASH


class UserError(OmgbenchError):
    """Something the user can mend: printed without a traceback, exit code 2.

    Args:
        found: what is wrong, naming the thing.
        expected: what would have been right.
        where: file, entry, line or sample id.
        hint: the next command to type or the change to make.
    """

    exit_code = EXIT_USER

    def __init__(
        self, found: str, *, expected: str | None = None, where: str | None = None, hint: str | None = None
    ) -> None:
        self.found = found
        self.expected = expected
        self.where = where
        self.hint = hint
        lines = [found]
        for label, text in (("where", where), ("expected", expected), ("next", hint)):
            if text is not None:
                lines.append(f"  {label}: {text}")
        super().__init__("\n".join(lines))


class DataError(UserError):
    """An annotation file, image or prediction file that cannot be used as it is."""


class PluginError(UserError):
    """A task or model that could not be found, imported or built."""


class RunRefused(UserError):
    """A run directory that belongs to another model, sample list or set of options."""


class MetricNotComputed(OmgbenchError):
    """A metric whose means are absent (no Java, no text model). The message is the reason shown to the reader."""
