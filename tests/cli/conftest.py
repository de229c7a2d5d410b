"""A command line under glass: calls `omgbench` in this process, and makes small files for it to read."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIZE = (8, 6)
"""(width, height) of every made picture."""
ENTRY_POINT = "from omgbench.cli import main; main()"
PROGRESS = re.compile(r"\S+: \d+ samples(, \d+ already answered)?$|.*no data root is set, so small made-up demo scenes")
"""Lines on standard error that report progress and are no message about a mistake."""


@dataclass(frozen=True)
class Outcome:
    """How one call ended."""

    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[str]:
        """What stands on standard error apart from progress: a line at the margin begins a message."""
        found: list[str] = []
        for line in self.err.splitlines():
            if line[:1].isspace() or not line:
                if found:
                    found[-1] += f"\n{line}"
            elif line.startswith("Usage: "):
                found.append(line)
            elif line.startswith(("Try ", "Error: ")) and found and found[-1].startswith("Usage: "):
                found[-1] += f"\n{line}"
            elif not PROGRESS.match(line.removeprefix("omgbench: ")):
                found.append(line)
        return found


class Running:
    """A command in a process of its own; killed when the block ends before it does."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._err = ""

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def wait_for(self, text: str) -> None:
        """Until a line of standard error holds `text`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._err += line
            if text in line:
                return
        raise AssertionError(f"{text!r} never came:\n{self._err}")

    def finish(self, timeout_s: float = 60) -> Outcome:
        """Wait for the end."""
        out, err = self.process.communicate(timeout=timeout_s)
        return Outcome(self.process.returncode, out, self._err + err)


class Bench:
    """A folder to work in and the means to fill it.

    Attributes:
        TINY: spec of a task of 24 samples that needs no files; its cell is `tiny:val`, its folder `tiny-val`.
        SIZE: (width, height) of every made picture.
    """

    TINY = "omgbench.testing.tiny:TinyTask"
    SIZE = SIZE

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch

    def call(self, *arguments: object) -> Outcome:
        """Run `omgbench ARGUMENTS` in this process, as its entry point does."""
        from omgbench.cli import main

        self.monkeypatch.setattr(sys, "argv", ["omgbench", *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = self._exit_code(main)
        return Outcome(code, out.getvalue(), err.getvalue())

    @staticmethod
    def _exit_code(main: Any) -> int:
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            # What the interpreter does with an exception that nobody catches.
            traceback.print_exc()
            return 1
        raise AssertionError("main() must end in SystemExit")

    def spawn(self, *arguments: object, code: str = ENTRY_POINT) -> Outcome:
        """Run `omgbench ARGUMENTS` in a process of its own and wait for its end."""
        with self.start(*arguments, code=code) as running:
            return running.finish()

    def start(self, *arguments: object, code: str = ENTRY_POINT) -> Running:
        """Start `omgbench ARGUMENTS` in a process of its own."""
        # Without -P the working folder would be on the import path, which it is not for the installed command.
        return Running([sys.executable, "-P", "-c", code, *map(str, arguments)], self.folder)

    def write(self, name: str, content: str | bytes | Any) -> Path:
        """Write a file: text (its margin taken off) or bytes as they are, anything else as JSON."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(textwrap.dedent(content), encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def files(self) -> dict[str, bytes]:
        """Every file here with its bytes, and every folder, marked by a slash; no locks, no compiled code."""
        found: dict[str, bytes] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_dir() and path.name != "__pycache__":
                found[f"{name}/"] = b""
            elif path.is_file() and path.suffix not in (".lock", ".pyc"):
                found[name] = path.read_bytes()
        return found

    def tiny_run(self, out: str = "run", *more: object, model: str = "random") -> Outcome:
        """A complete run of 24 samples that need no files."""
        return self.call("run", "--model", model, "--tasks", self.TINY, "--out", out, *more)

    def model(self, body: str = "", name: str = "model.py") -> str:
        """A model file whose class `M` answers nothing and reads images; `body` adds to the class or replaces parts."""
        self.write(name, _MODEL + textwrap.indent(textwrap.dedent(body), "    "))
        return f"{name}:M"

    def task(self, body: str = "", name: str = "task.py") -> str:
        """A task file whose class `T` is the tiny task under the name `mine`; `body` adds methods or replaces them."""
        self.write(name, _TASK + textwrap.indent(textwrap.dedent(body), "    "))
        return f"{name}:T"

    def refer_root(self, **changes: Any) -> Path:
        """A data root with refcoco:val, two pictures and four sentences. `changes`: see `refer_files`."""
        for name, content in refer_files(**changes).items():
            self.write(f"data/{name}", content)
        return self.folder / "data"

    def gcg_root(self, **changes: Any) -> Path:
        """A data root with gcg:val, two pictures of one phrase each; a change replaces one file's content."""
        for name, content in gcg_files(**changes).items():
            self.write(f"data/{name}", content)
        return self.folder / "data"

    def predictions(self, *lines: Any, name: str = "preds.jsonl", header: Any = None) -> Path:
        """A prediction file: the header (protocol 1 when not given), then a line per entry, text or JSON."""
        head = {"protocol": 1, "model": "mine"} if header is None else header
        rows = [line if isinstance(line, str) else json.dumps(line) for line in (head, *lines)]
        return self.write(name, "".join(f"{row}\n" for row in rows).encode())


_MODEL = '''
from omgbench.contract import Capabilities, Intent, ModelIdentity, Response, Status

class M:
    """Answers nothing."""
    def capabilities(self): return Capabilities(frozenset(Intent))
    def load(self, placement): pass
    def identity(self): return ModelIdentity("mine", "1", "none")
    def respond(self, requests): return [Response(request.id, Status.EMPTY) for request in requests]
    def close(self): pass
'''

_TASK = '''
from dataclasses import replace
from omgbench.contract import MetricValue, Record, Status
from omgbench.testing.tiny import TinyTask

class T(TinyTask):
    """The tiny task under another name."""
    @property
    def info(self): return replace(super().info, name="mine")
'''


def picture(size: tuple[int, int] = SIZE) -> bytes:
    """A PNG of (width, height)."""
    from omgbench.testing.frames import png_bytes

    return png_bytes(np.full((size[1], size[0], 3), 90, np.uint8))


def refer_refs() -> list[dict[str, Any]]:
    """Two refs on two images, two sentences each."""
    return [
        {
            "ref_id": n,
            "ann_id": 10 + n,
            "image_id": 1 + n,
            "category_id": 1,
            "split": "val",
            "file_name": f"COCO_train2014_00000000000{1 + n}_{10 + n}.jpg",
            "sent_ids": [2 * n, 2 * n + 1],
            "sentences": [
                {"sent_id": 2 * n + k, "sent": text, "raw": text, "tokens": text.split()}
                for k, text in enumerate(("the thing", "left thing"))
            ],
        }
        for n in range(2)
    ]


def refer_instances() -> dict[str, Any]:
    """The objects of `refer_refs`."""
    box = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]
    return {
        "images": [
            {"id": 1 + n, "file_name": f"picture{n}.png", "width": SIZE[0], "height": SIZE[1]} for n in range(2)
        ],
        "annotations": [
            {
                "id": 10 + n,
                "image_id": 1 + n,
                "category_id": 1,
                "segmentation": [box],
                "bbox": [1, 1, 4, 3],
                "area": 12,
                "iscrowd": 0,
            }
            for n in range(2)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }


def refer_files(refs: Any = None, instances: Any = None, pictures: dict[int, Any] | None = None) -> dict[str, Any]:
    """Files of refcoco:val by path; `pictures` replaces pictures by number, None leaves one out."""
    files: dict[str, Any] = {
        "refcoco/refs(unc).p": pickle.dumps(refer_refs(), 2) if refs is None else refs,
        "refcoco/instances.json": refer_instances() if instances is None else instances,
    }
    shown = {0: picture(), 1: picture()} | (pictures or {})
    return files | {f"train2014/picture{n}.png": data for n, data in shown.items() if data is not None}


def gcg_files(captions: Any = None, masks: Any = None) -> dict[str, Any]:
    """Files of gcg:val by path."""
    width, height = SIZE
    images = [{"id": f"sa_{n}", "file_name": f"sa_{n}.jpg", "width": width, "height": height} for n in range(2)]
    folder = "GranDf/annotations/val_test"
    return {
        f"{folder}/val_gcg_coco_caption_gt.json": captions
        if captions is not None
        else {
            "images": images,
            "annotations": [
                {"id": n, "image_id": f"sa_{n}", "caption": "a thing stands there", "labels": ["a thing"]}
                for n in range(2)
            ],
        },
        f"{folder}/val_gcg_coco_mask_gt.json": masks
        if masks is not None
        else {
            "images": images,
            "annotations": [
                {
                    "id": 1 + n,
                    "image_id": f"sa_{n}",
                    "category_id": 1,
                    "segmentation": {"size": [height, width], "counts": [0, 10, width * height - 10]},
                    "area": 10,
                    "iscrowd": 0,
                    "bbox": [0, 0, 2, 6],
                }
                for n in range(2)
            ],
            "categories": [{"id": 1, "name": "object"}],
        },
        **{f"GranDf_HA_images/val_test/sa_{n}.jpg": picture() for n in range(2)},
    }


Bench.picture = staticmethod(picture)
Bench.refer_refs = staticmethod(refer_refs)
Bench.refer_instances = staticmethod(refer_instances)
Bench.gcg_files = staticmethod(gcg_files)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo data is written once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> Bench:
    """An empty working folder, without the user's settings."""
    for name in [name for name in os.environ if name.startswith("OMGBENCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMGBENCH_CACHE", str(cache_folder))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Bench(folder, monkeypatch)
