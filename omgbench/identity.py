"""Fingerprints: what exactly was asked, of which model, in which surroundings."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import subprocess
import sys
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any

from omgbench import __version__
from omgbench.contract import Request

MAX_CODE_FILES = 2000
_RECORDED_LIBRARIES = ("numpy", "pillow", "pycocotools", "pycocoevalcap", "torch", "transformers", "pydantic")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """32 hex digits of the canonical JSON of `value`."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


def request_fingerprint(request: Request) -> str:
    """16 hex digits over everything of a request that can change its answer, image bytes excepted (those are
    hashed when they are read)."""
    gen = request.gen
    parts = (
        request.id,
        request.intent.value,
        [(frame.key, frame.width, frame.height) for frame in request.frames],
        request.text,
        request.template,
        [astuple(prompt) for prompt in request.prompts],
        [(turn.role, turn.text) for turn in request.history],
        request.choices,
        [(category.id, category.name, category.is_thing) for category in request.vocabulary],
        (gen.max_new_tokens, gen.temperature, gen.num_beams, gen.stop, gen.seed),
        request.is_clip,
    )
    text = _ENCODER.encode(parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def code_fingerprint(obj: object) -> str:
    """Fingerprint of the source that defines the class (or function) of `obj`.

    A class in a package counts with every Python file of its module's folder and below, since an adapter's helpers
    decide answers too; a single file counts alone. "interactive" where no source file exists (a notebook cell).
    """
    cls = obj if isinstance(obj, type) else type(obj)
    module = sys.modules.get(cls.__module__)
    source = getattr(module, "__file__", None)
    if source is None:
        return "interactive"
    path = Path(source)
    in_package = bool(getattr(module, "__package__", ""))
    files = sorted(path.parent.rglob("*.py"))[:MAX_CODE_FILES] if in_package else [path]
    digest = hashlib.blake2b(cls.__qualname__.encode(), digest_size=16)
    for file in files:
        digest.update(file.relative_to(path.parent).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Versions of Python, the platform, omgbench (with its commit in a checkout) and the libraries that may decide
    a number. Nothing of the machine's names, paths or accounts."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "platform": f"{platform.system()}-{platform.machine()}"}
    for name in _RECORDED_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["omgbench"] = __version__
    commit = _commit()
    if commit:
        found["omgbench_commit"] = commit
    return found


def _commit() -> str | None:
    spec = importlib.util.find_spec("omgbench")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if dirty else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
