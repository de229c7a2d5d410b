"""What a cell is run with: its plan, its place on disk, the model that answers it, the user's settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omgbench.contract import Capabilities
from omgbench.data.roots import DataRoot
from omgbench.identity import fingerprint
from omgbench.runner.engine import LoadedModel
from omgbench.runner.plan import Plan
from omgbench.store.cell import CellFile, StoredData, StoredModel, StoredOptions, StoredTask, StoredTraits

JOURNAL_FOLDER = "journal"


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` (from 1) of `count`: the blocks whose index leaves the remainder `number - 1`."""

    number: int = 1
    count: int = 1

    @property
    def whole(self) -> bool:
        """Whether this is everything."""
        return self.count == 1


@dataclass(frozen=True, slots=True)
class CellSettings:
    """What the user asks of every cell of a run.

    Attributes:
        shard: the part to answer.
        retry_errors: ask failed requests again.
        allow_errors: failed requests leave the result complete (they still score as the worst case).
        check_determinism: ask 1% of the samples again at another batch size.
        model_spec: what the user typed for the model.
    """

    shard: Shard = Shard()
    retry_errors: bool = False
    allow_errors: bool = False
    check_determinism: bool = False
    model_spec: str = ""


@dataclass(frozen=True, slots=True)
class CellContext:
    """A cell, its place on disk and the model that answers it."""

    plan: Plan
    root: DataRoot
    folder: Path
    capabilities: Capabilities
    model: LoadedModel
    settings: CellSettings

    @property
    def fingerprint(self) -> str:
        """Answers belong together only under one such fingerprint."""
        return fingerprint({"model": self.model.fingerprint, "plan": self.plan.fingerprint})

    @property
    def journal_folder(self) -> Path:
        """Where the cell's journals are."""
        return self.folder / JOURNAL_FOLDER

    def cell_file(self) -> CellFile:
        """The context as it is written down."""
        options, identity, traits = self.plan.options, self.model.identity, self.capabilities
        return CellFile(
            cell=self.fingerprint,
            label=self.plan.cell.label,
            plan=self.plan.fingerprint,
            n_samples=self.plan.n_samples,
            options=StoredOptions(
                limit=options.limit, seed=options.seed, template=options.template, gen=dict(options.gen)
            ),
            model=StoredModel(
                name=identity.name,
                version=identity.version,
                weights=identity.weights,
                templates=dict(identity.templates),
                options=dict(identity.options),
                libraries=dict(identity.libraries),
                code=self.model.code,
                dtype=self.model.placement.dtype,
            ),
            task=StoredTask(name=self.plan.cell.task.info.name, spec=self.plan.cell.spec),
            data=StoredData(root=str(self.root.path.resolve()), kind=self.root.kind),
            capabilities=StoredTraits(
                mask_source=traits.mask_source,
                language_model=traits.language_model,
                sees_references=traits.sees_references,
                reads_images=traits.reads_images,
            ),
            model_spec=self.settings.model_spec,
            allow_errors=self.settings.allow_errors,
        )
