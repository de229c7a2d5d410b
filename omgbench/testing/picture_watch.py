"""Notes which files are opened and which frames are decoded, to show that listing samples reads no picture."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from omgbench.contract import Frame, Sample


class PictureWatch:
    """What was opened under `watching`."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._keys: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch Python's `open` and the decoding of frames. Files opened by C libraries are not seen."""
        from omgbench.data import images

        real_open, real_decode = io.open, images.decode_frame

        def noting_open(file: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, (str, os.PathLike)):
                self._paths.add(os.path.abspath(file))  # noqa: PTH100  (as given, links not followed)
            return real_open(file, *args, **kwargs)

        def noting_decode(frame: Frame) -> Any:
            self._keys.append(frame.key)
            return real_decode(frame)

        with (
            mock.patch.object(builtins, "open", noting_open),
            mock.patch.object(io, "open", noting_open),
            mock.patch.object(images, "decode_frame", noting_decode),
        ):
            yield

    def problem(self, samples: Iterable[Sample]) -> str | None:
        """The first picture of these samples that was opened, or None."""
        if self._keys:
            return f"frame {self._keys[0]!r} was decoded"
        for sample in samples:
            for frame in sample.request.frames:
                if isinstance(frame.source, Path) and os.path.abspath(frame.source) in self._paths:  # noqa: PTH100
                    return f"{frame.source} was opened"
        return None
