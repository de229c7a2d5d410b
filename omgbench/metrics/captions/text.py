"""Folding of the line breaks that the line-based Java tools would read as the end of a caption."""

from __future__ import annotations

# Every character that the PTB tokenizer, Java's readLine or Python's splitlines takes for the end of a line.
LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

_TO_SPACES = str.maketrans(dict.fromkeys(LINE_BREAKS, " "))


def one_line(caption: str) -> str:
    """Return `caption` with each line break turned into one space; all else, runs of spaces included, stays.

    The official code does this for `\\n` alone. Other white space is left as it is, because the PTB tokenizer reads a
    single space otherwise than two (telephone numbers, fractions).
    """
    return caption.translate(_TO_SPACES)
