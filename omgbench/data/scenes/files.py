"""Files of demo data sets: deterministic bytes, put in place whole or not at all."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

from omgbench.data.scenes.painting import render
from omgbench.data.scenes.seeds import DEMO_VERSION
from omgbench.data.scenes.world import Scene
from omgbench.errors import UserError

DEMO_MARK = "omgbench_demo"
HEAD_BYTES = 4096
JPEG_QUALITY = 95


def demo_info(seed: int) -> dict[str, Any]:
    """The `info` entry that stands first in every annotation file of demo data and marks it as such."""
    return {DEMO_MARK: DEMO_VERSION, "seed": seed, "description": "synthetic demo data of omgbench, not a benchmark"}


def refuse_real_data(path: Path) -> None:
    """Raise `UserError` if an annotation file is there that demo data would overwrite and that is no demo data."""
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if f'"{DEMO_MARK}"'.encode() not in head:
        raise UserError(
            "demo data would overwrite annotations that are not demo data",
            where=str(path),
            expected="an empty folder, or one with earlier demo data",
            hint="choose another data folder for the demo data",
        )


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file beside its place and rename it, so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def write_json(path: Path, value: Any) -> Path:
    """JSON on one line, keys in the order given."""
    return write_bytes(path, json.dumps(value).encode())


def write_pickle(path: Path, value: Any) -> Path:
    """Pickle of plain containers, protocol 2 as in the official files.

    The trip through JSON makes the bytes depend on the values alone: pickle writes an object once and then points back
    at it, and which equal strings are one object is up to the interpreter.
    """
    return write_bytes(path, pickle.dumps(json.loads(json.dumps(value)), protocol=2))


def write_jpeg(path: Path, scene: Scene) -> Path:
    """The rendered scene as JPEG, quality 95, colours at full resolution.

    The pixels are the same on every machine before encoding; the encoded bytes may differ with the JPEG library.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(render(scene)).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return write_bytes(path, buffer.getvalue())
