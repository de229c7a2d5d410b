"""For those who write models and tasks: conformance checks, weightless models and made data. Public and stable."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omgbench.testing.frames import broken_frame, tiny_clip, tiny_frame
    from omgbench.testing.largest_object import LargestObjectModel
    from omgbench.testing.model_check import check_model
    from omgbench.testing.models import (
        BlankModel,
        CrashingModel,
        PerfectModel,
        RandomModel,
        ScriptedModel,
        SlowModel,
        WholeImageModel,
    )
    from omgbench.testing.report import Check, Report
    from omgbench.testing.task_check import check_task
    from omgbench.testing.tiny import TinyTask

_HOMES = {
    "check_model": "model_check",
    "check_task": "task_check",
    "broken_frame": "frames",
    "tiny_clip": "frames",
    "tiny_frame": "frames",
    "BlankModel": "models",
    "CrashingModel": "models",
    "LargestObjectModel": "largest_object",
    "PerfectModel": "models",
    "RandomModel": "models",
    "ScriptedModel": "models",
    "SlowModel": "models",
    "WholeImageModel": "models",
    "Check": "report",
    "Report": "report",
    "TinyTask": "tiny",
}

__all__ = [
    "BlankModel",
    "Check",
    "CrashingModel",
    "LargestObjectModel",
    "PerfectModel",
    "RandomModel",
    "Report",
    "ScriptedModel",
    "SlowModel",
    "TinyTask",
    "WholeImageModel",
    "broken_frame",
    "check_model",
    "check_task",
    "tiny_clip",
    "tiny_frame",
]


def __getattr__(name: str) -> Any:
    # Naming a model must not pay for pycocotools, nor the checks for what only the models need.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
