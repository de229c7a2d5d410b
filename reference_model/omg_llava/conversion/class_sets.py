"""Label spaces that come along, and files of class-name embeddings for them (official tools/gen_cls.py)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from omg_llava.config import ClassConfig, ClassSetConfig
from omg_llava.errors import ModelError
from omg_llava.files.pth import read_pth_tensor

_CLASSES = Path(__file__).parent.parent / "classes"


def bundled_class_sets() -> tuple[str, ...]:
    """Names of the label spaces that come along."""
    return tuple(sorted(path.stem for path in _CLASSES.glob("*.json")))


def read_class_set(name_or_file: str) -> ClassSetConfig:
    """A bundled label space by name, or one from a JSON file of the same form: `name`, `n_things`, `n_prototypes` and
    `classes` of `id`, `name`, `prompt`, things first.
    """
    path = _CLASSES / f"{name_or_file}.json" if name_or_file in bundled_class_sets() else Path(name_or_file)
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple(ClassConfig(int(item["id"]), item["name"], item["prompt"]) for item in data["classes"])
        return ClassSetConfig(str(data["name"]), int(data["n_things"]), classes, int(data["n_prototypes"]))
    except OSError:
        raise ModelError(
            f"no label space is called {name_or_file!r}", expected=f"{', '.join(bundled_class_sets())} or a JSON file"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"not a label space: {error!r}", where=str(path)) from None


def read_prototypes(path: Path, class_set: ClassSetConfig) -> tuple[ClassSetConfig, torch.Tensor]:
    """Unit class-name embeddings (K, P, D) float32 from an official file, checked; P is the file's.

    Raises:
        ModelError: another number of classes, or rows that are not of unit length.
    """
    tensor = read_pth_tensor(path).float()
    if tensor.ndim != 3 or len(tensor) != len(class_set.classes):
        raise ModelError(
            f"embeddings of shape {tuple(tensor.shape)}",
            expected=f"({len(class_set.classes)}, synonyms, width) for {class_set.name}",
            where=str(path),
        )
    lengths = tensor.norm(dim=-1)
    if not bool((lengths - 1).abs().max() < 1e-2):
        raise ModelError("embeddings that are not of unit length", expected="length 1 each", where=str(path))
    return dataclasses.replace(class_set, n_prototypes=tensor.shape[1]), tensor
