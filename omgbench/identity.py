"""Fingerprints: what exactly was asked, of which model, in which surroundings."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import subprocess
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any

from omgbench import __version__
from omgbench.code_identity import code_fingerprint
from omgbench.contract import Request

__all__ = ["canonical_json", "code_fingerprint", "environment", "file_sha256", "fingerprint", "request_fingerprint"]

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
