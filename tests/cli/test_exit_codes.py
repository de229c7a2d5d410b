"""Exit codes: 0 only for complete results, 1 a crash, 2 a user's mistake, 3 incomplete, 130 interrupted."""

from __future__ import annotations

import json
import shlex
import signal
from typing import Any

import pytest

COMPLETE, CRASH, USER, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
SLOW = ("--model", "omgbench.testing.models:SlowModel", "--model-args", "seconds_per_batch=0.1")
RAISES_ON_SOME = ("--model", "omgbench.testing.models:CrashingModel", "--model-args", "crash_ids=00000003,00000007")


def run(bench: Any, *more: object, out: str = "run") -> list[object]:
    """Arguments of a run on the tiny task."""
    return ["run", "--tasks", bench.TINY, "--out", out, *more]


def result_of(bench: Any, out: str = "run", cell: str = "tiny-val") -> dict[str, Any]:
    """The result record of a cell."""
    value: dict[str, Any] = json.loads((bench.folder / out / cell / "result.json").read_text())
    return value


def journal_lines(bench: Any, cell: str = "tiny-val") -> list[bytes]:
    """Answers in the journals of a cell of `run`, without the header of each file."""
    files = sorted((bench.folder / "run" / cell / "journal").glob("*.jsonl"))
    return [line for file in files for line in file.read_bytes().splitlines()[1:]]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], COMPLETE),
        (["--version"], COMPLETE),
        (["tasks"], COMPLETE),
        (["models"], COMPLETE),
        (["tasks", "refcoco"], COMPLETE),
        (["models", "random", "--json"], COMPLETE),
        (["run", "--model", "random", "--tasks", "TINY"], COMPLETE),
        (["run", "--model", "blank", "--tasks", "TINY"], COMPLETE),
        (["run", "--model", "random", "--tasks", "TINY", "--limit", "5"], COMPLETE),
        (["run", "--model", "random", "--tasks", "TINY", "--dry-run"], COMPLETE),
        (["run", "--model", "random", "--tasks", "TINY", "--shard", "1/2"], COMPLETE),
        (["run", *RAISES_ON_SOME, "--tasks", "TINY"], INCOMPLETE),
        (["run", *RAISES_ON_SOME, "--tasks", "TINY", "--allow-errors"], COMPLETE),
        (["run", "--model", "random", "--tasks", "refcocoo"], USER),
        (["run", "--model", "random", "--tasks", "TINY,refcocoo"], USER),
        (["run", "--model", "random", "--tasks", "TINY", "--no-such-option"], USER),
        (["no-such-command"], USER),
        (["show", "nowhere"], USER),
        (["check-task", "TINY", "--limit", "8"], COMPLETE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_code(bench: Any, arguments: list[str], code: int) -> None:
    outcome = bench.call(*(text.replace("TINY", bench.TINY) for text in arguments))
    assert outcome.code == code, outcome.out + outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("arguments", [["run", "--model", "random", "--tasks", "refcocoo"], ["no-such-command"]])
def test_a_misspelt_name_is_2_in_a_process_of_its_own(bench: Any, arguments: list[str]) -> None:
    outcome = bench.spawn(*arguments)
    assert outcome.code == USER
    assert outcome.out == ""
    assert len(outcome.messages) == 1


def test_json_stays_readable_whatever_the_code(bench: Any) -> None:
    complete = bench.call(*run(bench, "--model", "random", "--json", out="a"))
    assert complete.code == COMPLETE
    assert json.loads(complete.out)["complete"] is True
    incomplete = bench.call(*run(bench, *RAISES_ON_SOME, "--json", out="b"))
    assert incomplete.code == INCOMPLETE
    shown = json.loads(incomplete.out)
    assert shown["complete"] is False
    assert shown["results"][0]["coverage"]["statuses"] == {"ok": 22, "error": 2}
    mistaken = bench.call(*run(bench, "--model", "randon", "--json"))
    assert mistaken.code == USER
    assert mistaken.out == ""


def test_a_talkative_model_leaves_json_readable(bench: Any) -> None:
    body = """
    def load(self, placement): print("loading weights")
    def respond(self, requests):
        print("thinking")
        return [Response(request.id, Status.EMPTY) for request in requests]
    """
    arguments = ["run", "--model", bench.model(body), "--tasks", "refcoco:val", "--data", bench.refer_root(), "--json"]
    outcome = bench.spawn(*arguments)
    assert outcome.code == COMPLETE
    assert json.loads(outcome.out)["complete"] is True
    assert "loading weights" in outcome.err


def test_errors_are_incomplete_until_they_are_allowed(bench: Any) -> None:
    first = bench.call(*run(bench, *RAISES_ON_SOME))
    assert first.code == INCOMPLETE
    assert "incomplete: 2 error" in first.out
    assert result_of(bench)["complete"] is False
    again = bench.call(*run(bench, *RAISES_ON_SOME))
    assert again.code == INCOMPLETE, "running again does not make it complete"
    allowed = bench.call(*run(bench, *RAISES_ON_SOME, "--allow-errors"))
    assert allowed.code == COMPLETE
    assert result_of(bench)["complete"] is True
    assert "2 errors allowed" in result_of(bench)["marks"]
    assert len(journal_lines(bench)) == 24, "nothing was asked again"


def test_retried_errors_that_succeed_are_complete(bench: Any) -> None:
    model = bench.model(
        """
        def respond(self, requests):
            import pathlib
            if not pathlib.Path("mended").exists():
                raise RuntimeError("not yet")
            return [Response(request.id, Status.EMPTY) for request in requests]
        """
    )
    arguments = ["run", "--model", model, "--tasks", "refcoco:val", "--data", bench.refer_root(), "--out", "run"]
    assert bench.call(*arguments).code == INCOMPLETE
    bench.write("mended", "")
    assert bench.call(*arguments).code == INCOMPLETE, "failed requests are not asked again unasked"
    assert bench.call(*arguments, "--retry-errors").code == COMPLETE
    assert len(journal_lines(bench, "refcoco-val")) == 8


def test_an_unsupported_cell_is_incomplete_beside_a_complete_one(bench: Any) -> None:
    model = bench.model(
        """
        def capabilities(self):
            return Capabilities(frozenset({Intent.REFER_SEGMENT}), reads_images=False)
        """
    )
    data = bench.refer_root()
    bench.gcg_root()
    arguments = ["run", "--model", model, "--tasks", "refcoco:val,gcg:val", "--data", data, "--out", "run"]
    outcome = bench.call(*arguments)
    assert outcome.code == INCOMPLETE
    assert "gcg:val is left out: the model does not answer grounded_caption requests" in outcome.out
    assert result_of(bench, cell="refcoco-val")["complete"] is True
    assert not (bench.folder / "run/gcg-val").exists()
    shown = bench.call(*arguments, "--json")
    assert shown.code == INCOMPLETE
    assert list(json.loads(shown.out)["left_out"]) == ["gcg:val"]


def test_a_metric_that_cannot_be_computed_is_incomplete(bench: Any) -> None:
    values = "[MetricValue('cIoU', None, 0, 'no Java'), MetricValue('accuracy', 0.5, 1)]"
    task = bench.task(f"def summarize(self, records): return {values}")
    outcome = bench.call("run", "--model", "random", "--tasks", task, "--out", "run")
    assert outcome.code == INCOMPLETE
    assert "cIoU not computed: no Java" in outcome.out


@pytest.mark.parametrize("how", ["raise ValueError('bad sum')", "return [MetricValue('cIoU', float('nan'), 1)] * 2"])
def test_a_failing_metric_is_1_and_keeps_the_answers(bench: Any, how: str) -> None:
    """The task fails as long as a file is there; without it the same command scores the answers that were kept."""
    task = bench.task(
        f"""
        def summarize(self, records):
            import pathlib
            if pathlib.Path("broken").exists():
                {how}
            return super().summarize(records)
        """
    )
    bench.write("broken", "")
    arguments = ["run", "--model", "random", "--tasks", task, "--out", "run"]
    failed = bench.call(*arguments)
    assert failed.code == CRASH
    assert "Traceback" not in failed.err
    assert len(failed.messages) == 1
    assert "mine:val" in failed.messages[0]
    assert len(journal_lines(bench, "mine-val")) == 24
    assert not (bench.folder / "run/mine-val/result.json").exists()
    assert bench.call("show", "run").code == USER, "there is no result to show"
    (bench.folder / "broken").unlink()
    assert bench.call("score", "run", "--task-file", task).code == COMPLETE
    scored = result_of(bench, cell="mine-val")["metrics"]
    assert bench.call(*arguments).code == COMPLETE
    assert result_of(bench, cell="mine-val")["metrics"] == scored
    assert len(journal_lines(bench, "mine-val")) == 24, "nothing was asked again"


def test_a_failing_metric_in_the_first_task_never_ends_in_0(bench: Any) -> None:
    task = bench.task("def summarize(self, records): raise ValueError('bad sum')")
    outcome = bench.call("run", "--model", "random", "--tasks", f"{task},{bench.TINY}", "--out", "run")
    assert outcome.code == CRASH
    assert "bad sum" in outcome.err


def test_shards_end_in_a_complete_merge(bench: Any) -> None:
    assert bench.call(*run(bench, "--model", "random", "--shard", "1/2")).code == COMPLETE
    tiny = ["--task-file", bench.TINY]
    assert bench.call("merge", "run", *tiny).code == INCOMPLETE
    assert bench.call(*run(bench, "--model", "random", "--shard", "2/2")).code == COMPLETE
    assert bench.call("merge", "run", *tiny).code == COMPLETE
    assert bench.call("score", "run", *tiny).code == COMPLETE


def test_scoring_predictions(bench: Any) -> None:
    answers = [{"id": f"{n:08d}", "status": "empty"} for n in range(24)]
    arguments = ["score", "--predictions", "preds.jsonl", "--tasks", bench.TINY]
    bench.predictions(*answers)
    assert bench.call(*arguments, "--out", "all").code == COMPLETE
    bench.predictions(*answers[1:])
    assert bench.call(*arguments, "--out", "most").code == INCOMPLETE
    assert bench.call(*arguments, "--out", "most", "--allow-errors").code == COMPLETE
    bench.predictions(*answers[1:], {"id": "00000000", "status": "unsupported"})
    assert bench.call(*arguments, "--out", "not all").code == INCOMPLETE


def test_a_name_for_predictions_is_the_one_in_tables(bench: Any) -> None:
    bench.predictions(*({"id": f"{n:08d}", "status": "empty"} for n in range(24)))
    arguments = ["score", "--predictions", "preds.jsonl", "--tasks", bench.TINY, "--out", "run", "--name", "chosen"]
    assert bench.call(*arguments).code == COMPLETE
    assert result_of(bench)["model"]["name"] == "chosen"


def test_a_broken_adapter_and_a_broken_task_fail_their_checks(bench: Any) -> None:
    assert bench.call("check-adapter", bench.model("def respond(self, requests): return 5")).code == INCOMPLETE
    assert bench.call("check-task", bench.task("def summarize(self, records): return []")).code == INCOMPLETE


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_is_130_and_says_how_to_go_on(bench: Any, workers: int) -> None:
    arguments = run(bench, *SLOW, "--batch-size", "2", "--workers", workers)
    with bench.start(*arguments) as running:
        running.wait_for("tiny:val: 24 samples")
        _wait_for_answers(bench, running)
        running.process.send_signal(signal.SIGINT)
        stopped = running.finish()
    assert stopped.code == INTERRUPTED, stopped.err
    assert "Traceback" not in stopped.err, stopped.err
    (message,) = stopped.messages
    assert "stopped; every finished answer is kept" in message
    assert not [name for name in bench.files() if name.endswith(("result.json", ".tmp"))]
    kept = bench.files()
    assert 0 < len(journal_lines(bench)) < 24

    command = shlex.split(message.splitlines()[-1])
    assert command[0] == "omgbench"
    resumed = bench.spawn(*command[1:])
    assert resumed.code == COMPLETE, resumed.err
    assert "already answered" in resumed.err
    after = bench.files()
    assert all(after[name] == data for name, data in kept.items()), "what was kept stays as it was"
    assert sorted(json.loads(line)["n"] for line in journal_lines(bench)) == list(range(24)), "each was asked once"


def _wait_for_answers(bench: Any, running: Any) -> None:
    """Until the first answers are on disk."""
    import time

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and running.process.poll() is None:
        if (bench.folder / "run/tiny-val/journal").is_dir() and journal_lines(bench):
            return
        time.sleep(0.02)
    raise AssertionError("no answer was journaled")


def test_interrupted_while_the_model_loads(bench: Any) -> None:
    model = bench.model(
        """
        def load(self, placement):
            import sys, time
            print("loading", file=sys.stderr, flush=True)
            time.sleep(60)
        """
    )
    data = bench.refer_root()
    with bench.start("run", "--model", model, "--tasks", "refcoco:val", "--data", data, "--out", "run") as running:
        running.wait_for("loading")
        running.process.send_signal(signal.SIGINT)
        stopped = running.finish()
    assert stopped.code == INTERRUPTED
    assert "Traceback" not in stopped.err
    assert "Go on with:" in stopped.err
    assert not (bench.folder / "run").exists()


def test_interrupted_scoring_is_130(bench: Any) -> None:
    """A command that has nothing to resume is stopped without a traceback, too."""
    task = bench.task("def summarize(self, records):\n    import os, signal\n    os.kill(os.getpid(), signal.SIGINT)")
    stopped = bench.spawn("check-task", task)
    assert stopped.code == INTERRUPTED
    assert "Traceback" not in stopped.err
    assert "stopped" in stopped.err


def test_a_closed_pipe_is_quiet(bench: Any) -> None:
    """`omgbench ... | head` must not end in a traceback."""
    assert bench.tiny_run().code == COMPLETE
    with bench.start("show", "run", "--json") as running:
        running.process.stdout.close()
        running.process.wait(30)
        err = running.process.stderr.read()
        running.process.stdout = running.process.stderr = None
    assert "Traceback" not in err
    assert "Exception ignored" not in err
