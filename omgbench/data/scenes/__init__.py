"""The demo world: deterministic scenes of coloured shapes, with masks, referring expressions and grounded captions.

Names are looked up on first use, so that asking for `DEMO_VERSION` does not import numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omgbench.data.scenes.build import make_clip, make_scene
    from omgbench.data.scenes.caption import GroundedCaption, GroundedPhrase, describe
    from omgbench.data.scenes.checker import evaluate, refers_only_to
    from omgbench.data.scenes.painting import render
    from omgbench.data.scenes.query import Expression, ExpressionKind, Query
    from omgbench.data.scenes.reading import read_expression
    from omgbench.data.scenes.referring import referring_expressions
    from omgbench.data.scenes.seeds import DEMO_VERSION, EVALUATION_SEEDS, TRAINING_SEEDS, evaluation_seeds
    from omgbench.data.scenes.world import Overlap, Row, Scene, SceneObject, SceneStyle, StuffRegion

_MODULES = {
    "build": ("make_clip", "make_scene"),
    "caption": ("GroundedCaption", "GroundedPhrase", "describe"),
    "checker": ("evaluate", "refers_only_to"),
    "query": ("Expression", "ExpressionKind", "Query"),
    "reading": ("read_expression",),
    "referring": ("referring_expressions",),
    "painting": ("render",),
    "seeds": ("DEMO_VERSION", "EVALUATION_SEEDS", "TRAINING_SEEDS", "evaluation_seeds"),
    "world": ("Overlap", "Row", "Scene", "SceneObject", "SceneStyle", "StuffRegion"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DEMO_VERSION",
    "EVALUATION_SEEDS",
    "TRAINING_SEEDS",
    "Expression",
    "ExpressionKind",
    "GroundedCaption",
    "GroundedPhrase",
    "Overlap",
    "Query",
    "Row",
    "Scene",
    "SceneObject",
    "SceneStyle",
    "StuffRegion",
    "describe",
    "evaluate",
    "evaluation_seeds",
    "make_clip",
    "make_scene",
    "read_expression",
    "referring_expressions",
    "refers_only_to",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
