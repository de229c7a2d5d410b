"""The one error of this package that a person reads: what was found, what was expected, where, what to do next."""

from __future__ import annotations


class ModelError(ValueError):
    """A checkpoint, configuration, image, prompt or question that cannot be used as it is.

    Args:
        found: what is wrong, naming the thing.
        expected: what would have been right.
        where: file, entry or argument.
        hint: the next command to type or the change to make.
    """

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
