"""Decodes images ahead of the model, on threads, each picture once for all the questions of its group."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from omgbench.contract import Frame
from omgbench.data.images import decode_bytes, read_frame_bytes
from omgbench.errors import DataError
from omgbench.runner.plan import PlannedSample

if TYPE_CHECKING:
    from PIL.Image import Image

DECODE_THREADS = 4


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


def with_images(samples: Iterable[PlannedSample], ahead: int) -> Iterator[Ready]:
    """Decode up to `ahead` samples before they are asked for. Memory: the pictures of `ahead` samples."""
    with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as pool:
        loader = _Loader(pool, keep=ahead)
        waiting: deque[tuple[PlannedSample, list[Future[_Loaded]]]] = deque()
        try:
            for planned in samples:
                waiting.append((planned, [loader.load(frame) for frame in planned.sample.request.frames]))
                if len(waiting) > ahead:
                    yield _ready(*waiting.popleft())
            while waiting:
                yield _ready(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Loaded:
    image: Image | None
    digest: str
    problem: str | None = None


class _Loader:
    """Starts each picture's decoding once; remembers the last few by frame key."""

    def __init__(self, pool: ThreadPoolExecutor, keep: int) -> None:
        self._pool = pool
        self._keep = max(keep, 1)
        self._futures: OrderedDict[str, Future[_Loaded]] = OrderedDict()

    def load(self, frame: Frame) -> Future[_Loaded]:
        future = self._futures.get(frame.key)
        if future is None:
            future = self._futures[frame.key] = self._pool.submit(_load, frame)
            while len(self._futures) > self._keep:
                self._futures.popitem(last=False)
        return future


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


def _ready(planned: PlannedSample, futures: list[Future[_Loaded]]) -> Ready:
    loaded = [future.result() for future in futures]
    problems = [item.problem for item in loaded if item.problem]
    if problems:
        return Ready(planned, problem=problems[0])
    request = planned.sample.request
    frames = tuple(replace(frame, decoded=item.image) for frame, item in zip(request.frames, loaded, strict=True))
    sample = replace(planned.sample, request=replace(request, frames=frames))
    return Ready(replace(planned, sample=sample), combined_digest([item.digest for item in loaded]))


def frames_digest(planned: PlannedSample) -> str:
    """The digest that a sample's pictures have now; "" for a picture that cannot be read."""
    try:
        data = [read_frame_bytes(frame) for frame in planned.sample.request.frames]
    except DataError:
        return ""
    return combined_digest([image_digest([part]) for part in data])
