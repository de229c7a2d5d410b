"""A picture is looked at once for all its questions, within a bounded memory."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from omg_llava.adapter import OmgLlavaAdapter
from omg_llava.assistant import Assistant, Look
from omg_llava.look_cache import LookCache
from omg_llava.model import OmgLlava
from omg_llava.universal import UniversalSegmenter
from omgbench.contract import (
    GenOptions,
    Intent,
    Placement,
)

from .adapter_requests import FRAMES, POINT, MakeAdapter, answers, everything
from .lively import (
    VOCABULARY,
    frame,
    picture,
    pictures,
    request,
)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of `perceive` saw."""
    calls: list[int] = []
    perceive = OmgLlava.perceive

    def counted(self: OmgLlava, pixels: torch.Tensor) -> Any:
        calls.append(len(pixels))
        return perceive(self, pixels)

    monkeypatch.setattr(OmgLlava, "perceive", counted)
    return calls


@pytest.mark.parametrize("batch_size", [1, 3, 24])
def test_each_picture_is_looked_at_once(adapter: OmgLlavaAdapter, looked: list[int], batch_size: int) -> None:
    requests = [each for n, image in enumerate(FRAMES[:3]) for each in everything(image, prefix=f"{n}")]
    for start in range(0, len(requests), batch_size):
        answers(adapter, *requests[start : start + batch_size])
    assert looked == [1, 1, 1]


def test_a_view_is_made_once(adapter: OmgLlavaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    view = UniversalSegmenter.view
    monkeypatch.setattr(UniversalSegmenter, "view", lambda self, image: made.append(image) or view(self, image))
    for number in range(3):
        answers(adapter, request(str(number), Intent.INTERACTIVE, FRAMES[0], prompts=(POINT,)))
    answers(adapter, request("all", Intent.PANOPTIC, FRAMES[0], vocabulary=VOCABULARY))
    assert len(made) == 1


def test_grounded_captions_look_once_even_where_the_cache_holds_one_picture(
    make_adapter: MakeAdapter, looked: list[int]
) -> None:
    """The six questions of a batch are asked about looks that are held anyway."""
    adapter = make_adapter(cache_mb=0)
    requests = [
        request(str(n), Intent.GROUNDED_CAPTION, image, gen=GenOptions(max_new_tokens=1))
        for n, image in enumerate(FRAMES)
    ]
    answers(adapter, *requests)
    assert looked == [1] * len(FRAMES)


def test_a_batch_that_goes_from_picture_to_picture_looks_once_at_each(
    make_adapter: MakeAdapter, looked: list[int]
) -> None:
    adapter = make_adapter(cache_mb=0)
    answers(adapter, *(request(str(n), Intent.CHAT, FRAMES[n % 2], "Why?") for n in range(6)))
    assert looked == [1, 1]


def test_after_close_nothing_is_remembered(lively_folder: Path, looked: list[int]) -> None:
    adapter = OmgLlavaAdapter(str(lively_folder))
    for _ in range(2):
        adapter.load(Placement("cpu"))
        answers(adapter, request("0", Intent.CHAT, FRAMES[0], "Why?"))
        adapter.close()
    assert looked == [1, 1]


@dataclasses.dataclass(frozen=True)
class _Block:
    size: int

    def nbytes(self) -> int:
        return self.size


def test_the_cache_drops_what_was_not_used_for_longest() -> None:
    cache, made = LookCache(100), Counter[str]()

    def get(key: str, size: int) -> None:
        def make() -> _Block:
            made[key] += 1
            return _Block(size)

        assert cache.get(key, make).size == size

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key, 40)
    assert made == {"a": 1, "b": 2, "c": 1}
    get("huge", 1000)
    get("huge", 1000)
    get("a", 40)
    assert made == {"a": 2, "b": 2, "c": 1, "huge": 1}
    get("d", 60)
    get("a", 40)
    assert made["a"] == 2
    cache.clear()
    get("d", 60)
    assert made["d"] == 2


def test_a_failed_look_is_not_kept() -> None:
    cache = LookCache(100)

    def fail() -> _Block:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.get("a", fail)
    assert cache.get("a", lambda: _Block(7)).size == 7


def _storages(value: object, seen: dict[int, int]) -> dict[int, int]:
    """Bytes of every storage that is in reach of `value`, by address."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    elif dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            _storages(getattr(value, item.name), seen)
    elif isinstance(value, tuple | list):
        for each in value:
            _storages(each, seen)
    return seen


@pytest.mark.parametrize("number", range(4))
def test_looks_and_views_know_what_memory_they_hold(lively: Assistant, number: int) -> None:
    image = pictures()[number]
    for held in (lively.look(image), UniversalSegmenter(lively.model).view(image)):
        real = sum(_storages(held, {}).values())
        assert 0.99 * real <= held.nbytes() <= 1.01 * real


def test_memory_for_pictures_is_bounded(make_adapter: MakeAdapter, looks: list[Look], looked: list[int]) -> None:
    size = looks[0].nbytes()
    n_held = 2**20 // size
    images = [frame(picture(64, 48, seed), f"{seed}") for seed in range(n_held + 2)]
    adapter = make_adapter(cache_mb=1)
    for image in (*images, *images[:1:-1]):
        answers(adapter, request(image.key, Intent.CHAT, image, "Why?"))
    assert len(looked) == len(images), "the latest looks are held"
    answers(adapter, request("second", Intent.CHAT, images[1], "Why?"))
    assert len(looked) == len(images) + 1, "what is held is bounded"
