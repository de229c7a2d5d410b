"""omgbench: evaluate multimodal LLMs at image, object and pixel level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from omgbench.api import Evaluation, evaluate, load_results, score_predictions
    from omgbench.asking import Answer, ask, open_model

__all__ = [
    "Answer",
    "Evaluation",
    "__version__",
    "ask",
    "evaluate",
    "load_results",
    "open_model",
    "score_predictions",
]


def __getattr__(name: str) -> Any:
    # The Python API imports numpy and pydantic; the command line's help must not pay for that.
    if name in ("Answer", "ask", "open_model"):
        from omgbench import asking

        return getattr(asking, name)
    if name in __all__:
        from omgbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'omgbench' has no attribute {name!r}")
