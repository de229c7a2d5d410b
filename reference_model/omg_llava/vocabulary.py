"""The tokens that OMG-LLaVA adds to its language model, and what stands for what in a list of ids."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = -200
"""Stands for the visual tokens of a picture. Not a token."""
IGNORED = -100
"""A position that no loss counts."""

SEG, P_OPEN, P_CLOSE, REGION, MARK = "[SEG]", "<p>", "</p>", "<region>", "<mark>"
ADDED_TOKENS = (SEG, P_OPEN, P_CLOSE, REGION, MARK)
"""In this order: ids follow on from the base vocabulary."""


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of the added tokens.

    `mark` has no row in the embedding matrix, which the official code enlarged before it added the token: it must be
    replaced by a prompt's token before look-up, always.
    """

    seg: int
    p_open: int
    p_close: int
    region: int
    mark: int

    @classmethod
    def after(cls, base_vocab: int) -> SpecialIds:
        """Ids behind a tokenizer of `base_vocab` tokens."""
        return cls(*range(base_vocab, base_vocab + len(ADDED_TOKENS)))
