"""A lively small model: in memory, in a folder, and behind the adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from omg_llava.adapter import OmgLlavaAdapter
from omg_llava.assistant import Assistant, Look
from omg_llava.checkpoint import save_model
from omg_llava.fusion import FusionSettings
from omg_llava.universal import InputSize, UniversalSegmenter
from omgbench.contract import Placement

from .lively import lively_model, pictures, small_config

MakeAdapter = Callable[..., OmgLlavaAdapter]


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are many times slower on several threads as soon as something else runs beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lively() -> Assistant:
    """Never changed by a test."""
    return Assistant(*lively_model(small_config()))


@pytest.fixture(scope="session")
def looks(lively: Assistant) -> list[Look]:
    """Of `pictures()`."""
    return [lively.look(image) for image in pictures()]


@pytest.fixture(scope="session")
def lively_folder(lively: Assistant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model on disk. Never changed by a test."""
    folder = tmp_path_factory.mktemp("lively") / "model"
    save_model(lively.model, lively.tokenizer, folder)
    return folder


@pytest.fixture
def make_adapter(lively_folder: Path, small_views: None) -> Iterator[MakeAdapter]:
    """Loaded adapters, closed at the end."""
    made = []

    def make(weights: Path = lively_folder, *, dtype: str = "auto", **options: object) -> OmgLlavaAdapter:
        adapter = OmgLlavaAdapter(str(weights), **options)
        made.append(adapter)
        adapter.load(Placement("cpu", dtype))
        return adapter

    yield make
    for adapter in made:
        adapter.close()


@pytest.fixture
def adapter(make_adapter: MakeAdapter) -> OmgLlavaAdapter:
    return make_adapter()


@pytest.fixture
def small_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Universal segmentation at a tenth of the released configurations' sizes, with every segment that wins a pixel."""
    defaults = UniversalSegmenter.__init__.__kwdefaults__
    fusion = FusionSettings(iou_threshold=0.0)
    small = {"image_size": InputSize(133, 80), "clip_size": InputSize(128, 73), "fusion": fusion}
    monkeypatch.setattr(UniversalSegmenter.__init__, "__kwdefaults__", {**defaults, **small})
