"""Answers of one model are never another's: whatever changes an answer is refused or started anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omgbench import Evaluation, evaluate
from omgbench.errors import RunRefused

MODEL = '''
from omgbench.contract import Capabilities, Intent, Mask, ModelIdentity, PerRequestModel, Response
from omgbench.testing.shapes import rectangle_rle


class Reader(PerRequestModel):
    """Looks at the picture; weights and templates are constructor arguments."""

    def __init__(self, weights="w1", wording="Segment {text}."):
        self.weights, self.wording = weights, wording

    def capabilities(self):
        return Capabilities(frozenset({Intent.REFER_SEGMENT}))

    def identity(self):
        return ModelIdentity("reader", "1", self.weights, templates={"refer_segment": self.wording})

    def answer(self, request):
        frame = request.frames[0]
        assert frame.image.size == (frame.width, frame.height)
        return Response(request.id, text=request.prompt(self.wording), masks=(Mask(_rle(frame)),))


def _rle(frame):
    return rectangle_rle((1, 1, 5, 5), (frame.height, frame.width))
'''
TASK = """
from omgbench.testing.tiny import TinyTask


def painted():
    return TinyTask(n_groups=4, per_group=2, width=32, height=24, images=True)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Evaluation]:
    from omgbench.testing.tiny import TinyTask

    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(TASK)
    TinyTask(n_groups=4, per_group=2, width=32, height=24, images=True).write_demo(tmp_path / "data", 0)
    counter = iter(range(1000))

    def start(model: str = MODEL, **options: Any) -> Evaluation:
        # A file of its own for each start, as two checkouts of an adapter would be: what counts is the code.
        folder = tmp_path / f"code{next(counter)}"
        folder.mkdir()
        (folder / "reader.py").write_text(model)
        options.setdefault("data", tmp_path / "data")
        return evaluate(f"{folder / 'reader.py'}:Reader", [f"{tmp_path / 'task.py'}:painted"], **options)

    return start


CHANGES: dict[str, dict[str, Any]] = {
    "weights": {"model_args": {"weights": "w2"}},
    "the model's template": {"model_args": {"wording": "Where is {text}?"}},
    "the task's template": {"template": "Please mask {text}."},
    "generation options": {"gen": {"max_new_tokens": 7}},
    "the seed": {"seed": 5},
    "the limit": {"limit": 3},
    "adapter code": {"model": MODEL + "\n# another line\n"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_explicit_directory_refuses_what_changed(
    change: str, run: Callable[..., Evaluation], tmp_path: Path
) -> None:
    run(out=tmp_path / "out")
    journals = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl")}
    with pytest.raises(RunRefused, match="another fingerprint"):
        run(out=tmp_path / "out", **CHANGES[change])
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl")} == journals


@pytest.mark.parametrize("change", CHANGES)
def test_the_default_directory_starts_anew(change: str, run: Callable[..., Evaluation]) -> None:
    first, second = run(), run(**CHANGES[change])
    assert first.out != second.out
    assert second.complete


def test_the_same_again_goes_on_in_the_same_directory(run: Callable[..., Evaluation]) -> None:
    assert run().out == run().out


def test_changed_image_bytes_are_refused(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    run(out=tmp_path / "out")
    picture = sorted((tmp_path / "data").rglob("*.png"))[2]
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(RunRefused, match="has changed since it was answered"):
        run(out=tmp_path / "out")


def test_changed_samples_are_refused(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    run(out=tmp_path / "out")
    (tmp_path / "task.py").write_text(TASK.replace("per_group=2", "per_group=3"))
    import sys

    for name in [name for name in sys.modules if name.startswith("omgbench_file_")]:
        del sys.modules[name]
    with pytest.raises(RunRefused, match=r"plan: there .* here"):
        run(out=tmp_path / "out")


def test_the_refusal_names_what_differs(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    run(out=tmp_path / "out")
    with pytest.raises(RunRefused) as refused:
        run(out=tmp_path / "out", model_args={"weights": "w2"})
    assert 'model.weights: there "w1", here "w2"' in str(refused.value)
