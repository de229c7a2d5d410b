"""Evaluation pictures stay out of training: compared by content, whatever the files are called."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from omg_llava.errors import ModelError

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))


def refuse_evaluation_pictures(training: Iterable[Path], keep_out: Iterable[Path]) -> int:
    """Raise `ModelError` for the first training picture that also lies in one of the folders `keep_out`.

    Files are the same where their SHA-256 over decoded pixels is; names and containers do not matter. Only files of
    equal width and height are decoded.

    Returns:
        How many evaluation pictures were compared with.
    """
    by_size: dict[tuple[int, int], list[Path]] = {}
    for path in sorted({path for folder in keep_out for path in _pictures(folder)}):
        by_size.setdefault(_size(path), []).append(path)
    known: dict[tuple[int, int], dict[str, Path]] = {}
    for path in dict.fromkeys(training) if by_size else ():
        size = _size(path)
        if size not in by_size:
            continue
        if size not in known:
            known[size] = {pixel_fingerprint(own): own for own in by_size[size]}
        twin = known[size].get(pixel_fingerprint(path))
        if twin is not None:
            raise ModelError(
                f"a training picture is one of the evaluation: {path.name}",
                expected=f"no picture of {twin}",
                where=str(path),
                hint="take it out of the training annotations",
            )
    return sum(len(paths) for paths in by_size.values())


def _pictures(folder: Path) -> list[Path]:
    """Every picture below a folder, links followed. Raises `ModelError` where there is none."""
    found = [
        Path(place) / name
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in PICTURES
    ]
    if not found:
        raise ModelError(
            "no picture lies in the folder", expected=f"files of {', '.join(sorted(PICTURES))}", where=str(folder)
        )
    return found


def pixel_fingerprint(path: Path) -> str:
    """SHA-256 of a picture's RGB pixels and size."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    # Decoders meet damage with exceptions of every kind.
    except Exception as error:
        raise ModelError(f"no picture that can be read: {error}", where=str(path)) from None
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise ModelError(f"no picture that can be read: {error}", where=str(path)) from None
