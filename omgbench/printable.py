"""Text of others (models, data, result files) made safe to print: it can neither steer a terminal nor forge a line."""

from __future__ import annotations

import re

NAME_LIMIT = 300
SENTENCE_LIMIT = 1000
"""For reasons, notes and messages, which may hold a path or a command to copy."""
LINES_LIMIT = 100

# C0, DEL and C1 controls, line and paragraph separators, bidirectional overrides and isolates, lone surrogates.
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, limit: int = NAME_LIMIT) -> str:
    r"""`text` as one line of at most `limit` characters (`limit` >= 3).

    Control characters show as `\xNN`, line separators, bidirectional overrides and lone surrogates as `\uNNNN`
    (CVE-2021-42574: they show text in another order than it is read). What is longer is cut and ends in `...`.
    """
    # An escape is never shorter than its character, so what is cut here could not have been shown.
    shown = _HARMFUL.sub(_escape, text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def printable_lines(text: str, limit: int = SENTENCE_LIMIT, max_lines: int = LINES_LIMIT) -> str:
    """A message of several lines: each is `printable`, line feeds stay; `...` stands for what follows `max_lines`."""
    lines = text.split("\n", max_lines)
    shown = [printable(line, limit) for line in lines[:max_lines]]
    return "\n".join([*shown, "..."] if len(lines) > max_lines else shown)


def printable_message(text: str) -> str:
    """`printable_lines` of which only the first begins at the margin: text quoted in a message begins no other one."""
    first, *rest = printable_lines(text).split("\n")
    return "\n".join([first, *(line if line[:1] in ("", " ") else f"    {line}" for line in rest)])


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
