"""One question to any model about one picture: what `omgbench ask` and notebooks share."""

from __future__ import annotations

from omgbench.asking.answer import Answer
from omgbench.asking.pictures import open_picture, read_mask
from omgbench.asking.question import make_request, read_vocabulary
from omgbench.asking.session import OpenModel, ask, open_model

__all__ = ["Answer", "OpenModel", "ask", "make_request", "open_model", "open_picture", "read_mask", "read_vocabulary"]
