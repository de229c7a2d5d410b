"""The Python API, as a notebook uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

import omgbench
from omgbench.contract import Capabilities, Intent, ModelIdentity, PerRequestModel, Request, Response
from omgbench.errors import RunRefused, UserError
from omgbench.testing import TinyTask


class Notebook(PerRequestModel):
    """A model that only this process knows."""

    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({Intent.REFER_SEGMENT}), reads_images=False)

    def identity(self) -> ModelIdentity:
        return ModelIdentity("notebook", "1", "none")

    def answer(self, request: Request) -> Response:
        return Response(request.id, text="nothing found")


def test_objects_go_in_and_numbers_come_out(tmp_path: Path) -> None:
    evaluation = omgbench.evaluate(Notebook(), [TinyTask(n_groups=3)], out=tmp_path)
    assert evaluation.complete
    assert evaluation.value("tiny:val", "cIoU") == 0.0
    assert "notebook on tiny:val: cIoU 0.0  (9/9 answered)" in repr(evaluation)
    frame = evaluation.frame()
    assert list(frame["metric"]) == ["cIoU", "accuracy"]
    assert set(frame["model"]) == {"notebook"}
    assert omgbench.load_results(tmp_path).value("tiny:val", "accuracy") == 0.0
    assert evaluation.table().startswith("| Model |")


def test_an_unknown_label_or_metric_names_the_known_ones(tmp_path: Path) -> None:
    evaluation = omgbench.evaluate(Notebook(), [TinyTask(n_groups=1)], out=tmp_path)
    with pytest.raises(KeyError, match="tiny:val"):
        evaluation.value("tiny:test", "cIoU")
    with pytest.raises(KeyError, match="accuracy"):
        evaluation.value("tiny:val", "IoU")


def test_what_a_model_does_not_support_is_left_out_and_says_why(tmp_path: Path) -> None:
    evaluation = omgbench.evaluate(Notebook(), ["gcg:val", "refcoco:val"], out=tmp_path, limit=5)
    assert [result.label for result in evaluation.results] == ["refcoco:val"]
    assert "grounded_caption" in evaluation.left_out["gcg:val"]
    assert not evaluation.complete


def test_worker_processes_need_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="build themselves"):
        omgbench.evaluate(Notebook(), [TinyTask()], out=tmp_path, workers=2)
    with pytest.raises(UserError, match="tasks given by name"):
        omgbench.evaluate("random", [TinyTask()], out=tmp_path, workers=2)


def test_a_check_of_determinism_is_recorded(tmp_path: Path) -> None:
    evaluation = omgbench.evaluate("random", ["refcoco:val"], out=tmp_path, check_determinism=True)
    found = evaluation.results[0].determinism
    assert found is not None
    assert found["agree"] == found["n"] == 8
    assert evaluation.results[0].engine.batch_sizes == (1,)
    assert found["batch_size"] == 4


def test_a_model_that_depends_on_its_batch_is_found_out(tmp_path: Path) -> None:
    class Moody(Notebook):
        def respond(self, requests):  # type: ignore[no-untyped-def]
            for request in requests:
                yield Response(request.id, text=f"one of {len(requests)}")

    evaluation = omgbench.evaluate(Moody(), [TinyTask()], out=tmp_path, check_determinism=True)
    found = evaluation.results[0].determinism
    assert found is not None
    assert found["agree"] == 0


def test_errors_are_asked_again_on_demand_only(tmp_path: Path) -> None:
    class Flaky(Notebook):
        broken = True

        def answer(self, request: Request) -> Response:
            if self.broken and request.id.endswith("3"):
                raise OSError("no route")
            return super().answer(request)

    model = Flaky()
    task = [TinyTask(n_groups=3)]
    first = omgbench.evaluate(model, task, out=tmp_path)
    assert first.results[0].coverage.statuses == {"ok": 8, "error": 1}
    assert "OSError: no route" in first.results[0].reasons[1]
    model.broken = False
    assert not omgbench.evaluate(model, task, out=tmp_path).complete
    again = omgbench.evaluate(model, task, out=tmp_path, retry_errors=True)
    assert again.complete
    assert again.results[0].coverage.statuses == {"ok": 9}


def test_allowed_errors_are_marked(tmp_path: Path) -> None:
    class Broken(Notebook):
        def answer(self, request: Request) -> Response:
            raise OSError("no route")

    (result,) = omgbench.evaluate(Broken(), [TinyTask()], out=tmp_path, allow_errors=True).results
    assert result.complete
    assert "24 errors allowed" in result.marks


def test_a_directory_at_work_is_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    omgbench.evaluate(Notebook(), [TinyTask()], out=tmp_path)
    with FileLock(tmp_path / "tiny-val" / ".run.lock"), pytest.raises(RunRefused, match="another process"):
        omgbench.evaluate(Notebook(), [TinyTask()], out=tmp_path)


def test_a_limit_with_a_seed_draws_whole_groups(tmp_path: Path) -> None:
    first = omgbench.evaluate(Notebook(), [TinyTask(n_groups=50)], out=tmp_path / "a", limit=9, seed=1)
    other = omgbench.evaluate(Notebook(), [TinyTask(n_groups=50)], out=tmp_path / "b", limit=9, seed=2)
    assert first.results[0].data.n_samples == other.results[0].data.n_samples == 9
    assert first.results[0].data.n_groups == 3
    assert first.results[0].data.requests != other.results[0].data.requests
    assert "limit 9 drawn with seed 1" in first.results[0].marks
