"""Saved predictions as a model: a JSON-lines file with a header, answered by request id. See docs/predictions.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from omgbench.contract import (
    Capabilities,
    Intent,
    ModelIdentity,
    Placement,
    Request,
    Response,
    Status,
)
from omgbench.predictions import PredictionFile


class OfflinePredictions:
    """Answers from a file; a request without a line is answered `missing`. Lines are checked when the file is loaded.

    Args:
        path: a prediction file.
        name: the model's name in place of the header's.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self._file = PredictionFile(path)
        self._name = name

    def capabilities(self) -> Capabilities:
        """Everything: what is not in the file is missing, and says so."""
        return Capabilities(
            intents=frozenset(Intent),
            prompt_kinds=frozenset(("point", "box", "mask", "scribble")),
            max_frames=10**6,
            clips=True,
            history=True,
            vocabulary="open",
            native_batch=True,
            mask_source=self._file.header.get("mask_source", "native"),
            language_model=self._file.header.get("language_model", True),
            reads_images=False,
        )

    def load(self, placement: Placement) -> None:
        """Read the file; see `PredictionFile.load`."""
        self._file.load()

    def identity(self) -> ModelIdentity:
        """What the header says, and the file's hash: other predictions are another model."""
        header = self._file.header
        return ModelIdentity(
            name=self._name or str(header["model"]),
            version=str(header.get("version", "")),
            weights=str(header.get("weights", "not stated")),
            templates={str(key): str(value) for key, value in header.get("templates", {}).items()},
            options={"predictions_sha256": self._file.sha256},
        )

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """The saved answers."""
        found = self._file.responses(request.id for request in requests)
        for request, response in zip(requests, found, strict=True):
            yield response or Response(request.id, Status.MISSING, error="the prediction file has no line for it")

    def close(self) -> None:
        """Nothing to free."""
