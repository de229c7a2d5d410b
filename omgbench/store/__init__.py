"""Run directories and result records: what a run leaves behind, written whole or not at all."""

from omgbench.store.files import atomic_write_text
from omgbench.store.result import (
    SCHEMA_VERSION,
    Coverage,
    DataRecord,
    EngineRecord,
    MetricRecord,
    ModelRecord,
    ResultRecord,
    TaskRecord,
    find_results,
    load_result,
)

__all__ = [
    "SCHEMA_VERSION",
    "Coverage",
    "DataRecord",
    "EngineRecord",
    "MetricRecord",
    "ModelRecord",
    "ResultRecord",
    "TaskRecord",
    "atomic_write_text",
    "find_results",
    "load_result",
]
