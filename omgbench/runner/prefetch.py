"""Decodes images ahead of the model, on threads, each picture once for all the questions of its group."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING

from omgbench.contract import Frame
from omgbench.data.images import decode_bytes, read_frame_bytes
from omgbench.errors import DataError
from omgbench.runner.plan import PlannedSample

if TYPE_CHECKING:
    from PIL.Image import Image

DECODE_THREADS = 4
AHEAD_BYTES = 512 * 2**20
"""Decoded pictures that wait ahead of the model, at most, beyond the sample that is next: a clip may be large."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A sample whose pictures are decoded.

    Attributes:
        planned: the sample; its frames hold their pictures when the model reads images.
        images: digest over the bytes of all frames in order; "" when none were read.
        problem: why a picture could not be had; the request is then not sent.
    """

    planned: PlannedSample
    images: str = ""
    problem: str | None = None


def without_images(samples: Iterable[PlannedSample]) -> Iterator[Ready]:
    """For models that read no images: nothing is opened."""
    for planned in samples:
        yield Ready(planned)


def with_images(
    samples: Iterable[PlannedSample],
    ahead: int,
    reader: ImageReader,
    upcoming: Callable[[], Iterable[PlannedSample]] = tuple,
) -> Iterator[Ready]:
    """Decode up to `ahead` samples before they are asked for, within `AHEAD_BYTES`.

    Args:
        upcoming: asked when `samples` have all been taken: samples that will follow in another call, whose pictures
            are begun already.
    """
    waiting: deque[tuple[PlannedSample, list[Future[_Loaded]]]] = deque()
    waiting_bytes = 0
    for planned in samples:
        waiting.append((planned, [reader.begin(frame) for frame in planned.sample.request.frames]))
        waiting_bytes += _decoded_bytes(planned)
        while len(waiting) > ahead or (waiting_bytes > AHEAD_BYTES and len(waiting) > 1):
            planned, futures = waiting.popleft()
            waiting_bytes -= _decoded_bytes(planned)
            yield reader.finish(planned, futures)
    for planned in islice(upcoming(), ahead):
        if waiting_bytes > AHEAD_BYTES:
            break
        waiting_bytes += _decoded_bytes(planned)
        reader.warm(planned.sample.request.frames)
    while waiting:
        yield reader.finish(*waiting.popleft())


def _decoded_bytes(planned: PlannedSample) -> int:
    return sum(3 * frame.width * frame.height for frame in planned.sample.request.frames)


@dataclass(frozen=True, slots=True)
class _Loaded:
    image: Image | None
    digest: str
    problem: str | None = None


FrameId = tuple[str, int, int, object]


def frame_id(frame: Frame) -> FrameId:
    """The key alone would show the wrong picture where a task uses one key twice."""
    return (frame.key, frame.width, frame.height, frame.source)


class ImageReader:
    """Reads and decodes pictures on threads, each once for all the samples that wait for it. A context manager."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")
        self._futures: dict[FrameId, Future[_Loaded]] = {}
        self._waiting_for: dict[FrameId, int] = {}
        self._warm: set[FrameId] = set()

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, frame: Frame) -> Future[_Loaded]:
        """Start on a picture for one sample."""
        key = frame_id(frame)
        self._warm.discard(key)
        self._waiting_for[key] = self._waiting_for.get(key, 0) + 1
        return self._start(key, frame)

    def warm(self, frames: Iterable[Frame]) -> None:
        """Start on pictures whose samples come later."""
        for frame in frames:
            key = frame_id(frame)
            if key not in self._waiting_for:
                self._warm.add(key)
            self._start(key, frame)

    def _start(self, key: FrameId, frame: Frame) -> Future[_Loaded]:
        if key not in self._futures:
            self._futures[key] = self._pool.submit(_load, frame)
        return self._futures[key]

    def finish(self, planned: PlannedSample, futures: list[Future[_Loaded]]) -> Ready:
        """The sample with its pictures, which are forgotten here once no other sample waits for them."""
        loaded = [future.result() for future in futures]
        for frame in planned.sample.request.frames:
            self._release(frame_id(frame))
        return _ready(planned, loaded)

    def _release(self, key: FrameId) -> None:
        self._waiting_for[key] -= 1
        if not self._waiting_for[key]:
            del self._waiting_for[key]
            if key not in self._warm:
                self._futures.pop(key, None)


def _load(frame: Frame) -> _Loaded:
    try:
        data = read_frame_bytes(frame)
        return _Loaded(decode_bytes(data, frame), image_digest([data]))
    except DataError as error:
        return _Loaded(None, "", str(error))
    except Exception as error:
        return _Loaded(None, "", f"frame {frame.key}: {type(error).__name__}: {error}")


def image_digest(parts: Iterable[bytes]) -> str:
    """16 hex digits over the bytes of pictures."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def combined_digest(digests: list[str]) -> str:
    """One digest for the frames of a request, in order."""
    return digests[0] if len(digests) == 1 else image_digest(text.encode() for text in digests)


def _ready(planned: PlannedSample, loaded: list[_Loaded]) -> Ready:
    problems = [item.problem for item in loaded if item.problem]
    if problems:
        return Ready(planned, problem=problems[0])
    request = planned.sample.request
    # With the digest behind it, a key names one picture whatever the task, and models may cache by it.
    frames = tuple(
        replace(frame, decoded=item.image, key=f"{frame.key}@{item.digest}")
        for frame, item in zip(request.frames, loaded, strict=True)
    )
    sample = replace(planned.sample, request=replace(request, frames=frames))
    return Ready(replace(planned, sample=sample), combined_digest([item.digest for item in loaded]))


def frames_digest(planned: PlannedSample) -> str:
    """The digest that a sample's pictures have now; "" for a picture that cannot be read."""
    try:
        data = [read_frame_bytes(frame) for frame in planned.sample.request.frames]
    except DataError:
        return ""
    return combined_digest([image_digest([part]) for part in data])
