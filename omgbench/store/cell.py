"""The cell file: whose answers a folder of a run directory holds, enough to score them again without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from omgbench.contract import MaskSource
from omgbench.errors import DataError
from omgbench.store.files import atomic_write_text
from omgbench.store.schema import Stored

CELL_FILE = "cell.json"


class StoredOptions(Stored):
    """What the user changed about the requests; see `omgbench.runner.plan.PlanOptions`."""

    limit: int | None = None
    seed: int | None = None
    template: str | None = None
    gen: dict[str, int | float | str | tuple[str, ...]] = Field(default_factory=dict)


class StoredModel(Stored):
    """Which model answered; see `omgbench.contract.ModelIdentity`."""

    name: str
    version: str
    weights: str
    templates: dict[str, str]
    options: dict[str, str]
    libraries: dict[str, str]
    code: str
    dtype: str


class StoredTask(Stored):
    """The task: its name, and the spec that builds it (None for an object of somebody's program)."""

    name: str
    spec: str | None


class StoredData(Stored):
    """The data root that was used."""

    root: str
    kind: Literal["user", "demo", "none"]


class StoredTraits(Stored):
    """What tables and scoring need to know of the model's capabilities."""

    mask_source: MaskSource
    language_model: bool
    sees_references: bool
    reads_images: bool


class CellFile(Stored):
    """Everything about a cell but its answers. `cell` is the fingerprint that heads each of its journals."""

    cell: str
    label: str
    plan: str
    n_samples: int
    options: StoredOptions
    model: StoredModel
    task: StoredTask
    data: StoredData
    capabilities: StoredTraits
    model_spec: str
    allow_errors: bool

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        atomic_write_text(folder / CELL_FILE, self.model_dump_json(indent=1) + "\n")

    def differences(self, other: CellFile) -> list[str]:
        """What of model, plan and options differs, for people: `model.weights: there "a", here "b"`."""
        fields = {"label", "plan", "n_samples", "options", "model"}
        return _differences(self.model_dump(include=fields), other.model_dump(include=fields))


def read_cell_file(folder: Path) -> CellFile:
    """The cell file of a folder. Raises `DataError` for one that is missing, broken or of another form."""
    path = folder / CELL_FILE
    hint = "repeat the run's own command with another --out"
    try:
        return CellFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"a cell that cannot be read: {error.strerror}", where=str(path), hint=hint) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"a cell that cannot be read: {field}: {first['msg']}", where=str(path), hint=hint) from None


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key in sorted(set(there) | set(here)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines.extend(_differences(old, new, f"{prefix}{key}."))
        elif old != new:
            lines.append(f"{prefix}{key}: there {_short(old)}, here {_short(new)}")
    return lines


def _short(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
