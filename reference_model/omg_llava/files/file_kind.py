"""What a file that should hold weights really is, from its first bytes, and the errors that say so."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omg_llava.errors import ModelError

Kind = Literal["zip", "legacy", "safetensors"]

_HEAD_BYTES = 512
_ZIP = b"PK\x03\x04"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_DEEPSPEED_MARKS = ("zero_to_fp32.py", "latest", "global_step*", "*_optim_states.pt", "*_model_states.pt")


def file_kind(path: Path) -> Kind:
    """The format of a weights file: a torch zip, a torch file of before 1.6 (`legacy`), or safetensors.

    Raises:
        ModelError: no such file, a folder, an empty file, a git-lfs pointer, text, or anything else.
    """
    if path.is_dir():
        raise folder_error(path, expected="one weights file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ModelError(
            f"cannot read the file: {error.strerror}", expected="a weights file", where=str(path)
        ) from None
    if head.startswith(_ZIP):
        return "zip"
    # Protocol 2 is the only one that weights-only loading knows; torch.save never wrote another by default.
    if head.startswith(b"\x80\x02"):
        return "legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return "safetensors"
    raise _foreign_error(path, head)


def folder_error(folder: Path, expected: str) -> ModelError:
    """What to say of a folder that does not hold what is looked for."""
    if any(True for mark in _DEEPSPEED_MARKS for _ in folder.glob(mark)):
        return ModelError(
            "a folder of DeepSpeed training states",
            expected=expected,
            where=str(folder),
            hint="merge it with the script that DeepSpeed put there: python zero_to_fp32.py . weights.pth",
        )
    names = sorted(path.name for path in folder.iterdir())
    held = f"a folder of {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "an empty folder"
    return ModelError(held, expected=expected, where=str(folder))


def _foreign_error(path: Path, head: bytes) -> ModelError:
    where, expected = str(path), "a file written by torch.save, or .safetensors"
    if not head:
        return ModelError("an empty file", expected=expected, where=where, hint="download it again")
    if (pointer := pointer_error(head, where, expected)) is not None:
        return pointer
    start = _text_start(head)
    if start is not None:
        hint = "this is what a failed download or a web page looks like: download it again"
        return ModelError(f"a text file that begins {start!r}", expected=expected, where=where, hint=hint)
    return ModelError(f"not a checkpoint: it begins with bytes {head[:8].hex(' ')}", expected=expected, where=where)


def pointer_error(head: bytes, where: str, expected: str) -> ModelError | None:
    """The error to raise if a file that begins so stands for one that git-lfs did not fetch."""
    if not head.startswith(_LFS_POINTER):
        return None
    hint = "fetch the file behind it: git lfs pull"
    return ModelError("a git-lfs pointer, not the file itself", expected=expected, where=where, hint=hint)


def _text_start(head: bytes) -> str | None:
    """The first characters if the bytes are text; a character may be cut at the end."""
    text = head.decode("utf-8", errors="replace").rstrip("\ufffd")
    if text and all(letter.isprintable() or letter.isspace() for letter in text) and "\ufffd" not in text:
        return text[:40]
    return None
