"""Bad input of every kind: one clear message, the right exit code, nothing lost and nothing written half.

Each case of the table prepares files and returns the arguments of one call. The call must end with the case's exit
code; say one thing, in which all the case's words stand; show no traceback; leave every file that was there as it
was, byte for byte; and leave no temporary file, no result of a cell that has none, and after a user's mistake nothing
at all.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CRASH, USER, INCOMPLETE = 1, 2, 3
WRITTEN_BY_A_RUN = re.compile(r".*/$|.*/(cell\.json|journal/\d{6}-[0-9a-f]{8}\.jsonl)$")
WRITTEN_BY_A_RESULT = re.compile(r".*/(records\.jsonl|metrics\.json|result\.json)$")


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Attributes:
        prepare: makes the files and gives the arguments of the call that is judged.
        code: exit code.
        words: must all stand in the one message.
        result: the cell ends with a result all the same, and the message is on standard output.
        begun: answers may be there afterwards, though no result.
    """

    name: str
    prepare: Callable[[Any], Sequence[object]]
    code: int
    words: tuple[str, ...]
    result: bool = False
    begun: bool = False


CASES: list[Case] = []


def case(name: str, code: int, *words: str, result: bool = False, begun: bool = False) -> Callable[..., Any]:
    """Enter a function into the table."""

    def enter(prepare: Callable[[Any], Sequence[object]]) -> Callable[[Any], Sequence[object]]:
        CASES.append(Case(name, prepare, code, words, result, begun))
        return prepare

    return enter


def run(bench: Any, *more: object, model: str = "random", tasks: str | None = None) -> list[object]:
    """Arguments of a run into `run`."""
    return ["run", "--model", model, "--tasks", tasks or bench.TINY, "--out", "run", *more]


def refer(bench: Any, model: str = "random", **changes: Any) -> list[object]:
    """Arguments of a run on a small refcoco:val."""
    return run(bench, "--data", bench.refer_root(**changes), model=model, tasks="refcoco:val")


def edited(value: Any, *path: Any, to: Any = ...) -> Any:
    """The value with the entry at `path` replaced, or taken out when `to` is not given."""
    *parents, last = path
    place = value
    for key in parents:
        place = place[key]
    if to is ...:
        del place[last]
    else:
        place[last] = to
    return value


# ---- the command line ------------------------------------------------------------------------------------------------


@case("misspelt command", USER, "'rnu'", "Did you mean 'run'?")
def _(bench: Any) -> Any:
    return ["rnu", "--model", "random"]


@case("misspelt option", USER, "No such option", "--modle", "--model")
def _(bench: Any) -> Any:
    return ["run", "--modle", "random"]


@case("no model", USER, "Missing option", "--model")
def _(bench: Any) -> Any:
    return ["run", "--tasks", "refcoco"]


@case("no tasks", USER, "Missing option", "--tasks")
def _(bench: Any) -> Any:
    return ["run", "--model", "random"]


@case("empty list of tasks", USER, "no task was named", "--tasks refcoco,gcg", "omgbench tasks")
def _(bench: Any) -> Any:
    return run(bench, tasks=" , ")


@case("limit is no number", USER, "--limit", "'many'", "integer")
def _(bench: Any) -> Any:
    return run(bench, "--limit", "many")


@case("limit of nothing", USER, "--limit 0", "1 or more")
def _(bench: Any) -> Any:
    return run(bench, "--limit", 0)


@case("batch of nothing", USER, "--batch-size 0", "1 or more")
def _(bench: Any) -> Any:
    return run(bench, "--batch-size", 0)


@case("fewer than no workers", USER, "--workers -1", "0 (in this process) or more")
def _(bench: Any) -> Any:
    return run(bench, "--workers", -1)


@case("timeout of no time", USER, "--timeout 0", "above 0")
def _(bench: Any) -> Any:
    return run(bench, "--timeout", 0)


@case("timeout that is no number", USER, "--timeout nan", "above 0")
def _(bench: Any) -> Any:
    return run(bench, "--timeout", "nan")


@case("shard beyond the count", USER, "--shard 5/3", "1 <= i <= n")
def _(bench: Any) -> Any:
    return run(bench, "--shard", "5/3")


@case("shard in strange digits", USER, "--shard ²/³", "1 <= i <= n")
def _(bench: Any) -> Any:
    return run(bench, "--shard", "²/³")


@case("dry run of a shard beyond the count", USER, "--shard 5/3", "1 <= i <= n")
def _(bench: Any) -> Any:
    return run(bench, "--dry-run", "--shard", "5/3")


@case("unknown dtype", USER, "float8", "float32", "bfloat16")
def _(bench: Any) -> Any:
    return run(bench, "--dtype", "float8")


@case("unknown device", USER, "gpu0", "cuda")
def _(bench: Any) -> Any:
    return run(bench, "--device", "gpu0")


@case("generation option without value", USER, "--gen max_new_tokens", "KEY=VALUE")
def _(bench: Any) -> Any:
    return run(bench, "--gen", "max_new_tokens")


@case("unknown generation option", USER, "'max_tokens'", "max_new_tokens")
def _(bench: Any) -> Any:
    return run(bench, "--gen", "max_tokens=5")


@case("generation option of the wrong type", USER, "max_new_tokens", "many", "whole number")
def _(bench: Any) -> Any:
    return run(bench, "--gen", "max_new_tokens=many")


@case("generation option out of range", USER, "max_new_tokens", "0")
def _(bench: Any) -> Any:
    return run(bench, "--gen", "max_new_tokens=0")


@case("generation option that is not finite", USER, "temperature", "nan", "finite")
def _(bench: Any) -> Any:
    return ["run", "--model", "random", "--tasks", bench.TINY, "--gen", "temperature=NaN"]


@case("model argument without value", USER, "--model-args seed", "KEY=VALUE", "seed=3")
def _(bench: Any) -> Any:
    return run(bench, "--model-args", "seed")


@case("model argument given twice", USER, "--model-args gives seed twice")
def _(bench: Any) -> Any:
    return run(bench, "--model-args", "seed=1", "--model-args", "seed=2")


@case("model argument that the model does not take", USER, "'random'", "sede", "omgbench models")
def _(bench: Any) -> Any:
    return run(bench, "--model-args", "sede=1")


@case("model argument of the wrong type", USER, "'random'", "ValueError", "'abc'")
def _(bench: Any) -> Any:
    return run(bench, "--model-args", "seed=abc")


@case("unknown template", USER, "'refcoco'", "'lissa'", "lisa", "{text}")
def _(bench: Any) -> Any:
    return [*refer(bench), "--template", "lissa"]


@case("template that is no text", USER, "--template", "UTF-8")
def _(bench: Any) -> Any:
    # What the shell's byte 0xff becomes in sys.argv.
    return ["run", "--model", "random", "--tasks", bench.TINY, "--template", "\udcff{text}"]


@case("--out with too long a name", USER, "too long")
def _(bench: Any) -> Any:
    return ["run", "--model", "random", "--tasks", bench.TINY, "--out", "x" * 300]


@case("--out is a file", USER, "--out", "file")
def _(bench: Any) -> Any:
    bench.write("run", "a file")
    return run(bench)


@case("--out below a file", USER, "file/run")
def _(bench: Any) -> Any:
    bench.write("file", "a file")
    return ["run", "--model", "random", "--tasks", bench.TINY, "--out", "file/run"]


@case("--out that cannot be written", USER, "/proc/omgbench")
def _(bench: Any) -> Any:
    return ["run", "--model", "random", "--tasks", bench.TINY, "--out", "/proc/omgbench"]


@case("cache that cannot be written", USER, "demo data cannot be written", "OMGBENCH_CACHE")
def _(bench: Any) -> Any:
    bench.monkeypatch.setenv("OMGBENCH_CACHE", str(bench.write("file", "a file") / "cache"))
    return run(bench, tasks="refcoco:val")


# ---- models ----------------------------------------------------------------------------------------------------------


@case("misspelt model", USER, "'randon'", "did you mean random?", "omgbench models", "file.py:Class")
def _(bench: Any) -> Any:
    return run(bench, model="randon")


@case("model file without class", USER, "'model.py'", "file.py:Class")
def _(bench: Any) -> Any:
    bench.model()
    return run(bench, model="model.py")


@case("model file is missing", USER, "nowhere.py", "does not exist")
def _(bench: Any) -> Any:
    return run(bench, model="nowhere.py:M")


@case("model package is missing", USER, "no_such_package", "pip install")
def _(bench: Any) -> Any:
    return run(bench, model="no_such_package.models:M")


@case("model class is missing", USER, "model.py", "no attribute 'N'", "a class")
def _(bench: Any) -> Any:
    bench.model()
    return run(bench, model="model.py:N")


@case("model file with a syntax error", USER, "model.py", "SyntaxError", "line 2")
def _(bench: Any) -> Any:
    bench.write("model.py", "import os\ndef broken(:\n")
    return run(bench, model="model.py:M")


@case("model file that raises at import", USER, "model.py", "RuntimeError: no luck")
def _(bench: Any) -> Any:
    bench.write("model.py", "raise RuntimeError('no luck')\n")
    return run(bench, model="model.py:M")


@case("model file that ends the program at import", USER, "model.py", "SystemExit")
def _(bench: Any) -> Any:
    bench.write("model.py", "import sys\nsys.exit(0)\n")
    return run(bench, model="model.py:M")


@case("model class without methods", USER, "model.py:M", "capabilities", "respond", "omgbench check-adapter")
def _(bench: Any) -> Any:
    bench.write("model.py", "class M: pass\n")
    return run(bench, model="model.py:M")


@case("model constructor that wants arguments", USER, "model.py:M", "weights")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def __init__(self, weights): pass"))


@case("model constructor that raises", USER, "model.py:M", "FileNotFoundError: no weights")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def __init__(self): raise FileNotFoundError('no weights')"))


@case("model constructor that ends the program", USER, "model.py:M", "SystemExit")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def __init__(self): raise SystemExit(0)"))


@case("load() raises", USER, "M", "could not be loaded", "OSError: no weights here")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def load(self, placement): raise OSError('no weights here')"))


@case("load() raises in a worker", USER, "M", "could not be loaded", "OSError: no weights here")
def _(bench: Any) -> Any:
    return run(bench, "--workers", 1, model=bench.model("def load(self, placement): raise OSError('no weights here')"))


@case("load() ends a worker", CRASH, "worker 0", "exit code 7")
def _(bench: Any) -> Any:
    body = "def load(self, placement):\n    import os\n    os._exit(7)"
    return run(bench, "--workers", 1, model=bench.model(body))


@case("identity() raises", USER, "M", "KeyError", "revision")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def identity(self): raise KeyError('revision')"))


@case("identity() gives a dict", USER, "M", "identity", "dict", "ModelIdentity")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def identity(self): return {'name': 'mine'}"))


@case("identity() with options that are no text", USER, "M", "identity", "options")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def identity(self): return ModelIdentity('m', '1', 'none', options={1: {2}})"))


@case("capabilities() raises", USER, "model.py:M", "capabilities", "RuntimeError: unknown checkpoint")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def capabilities(self): raise RuntimeError('unknown checkpoint')"))


@case("capabilities() gives a dict", USER, "model.py:M", "capabilities", "dict", "Capabilities")
def _(bench: Any) -> Any:
    return run(bench, model=bench.model("def capabilities(self): return {'intents': ['chat']}"))


@case("close() raises when all is done", 0, "M", "close", "RuntimeError: too late", result=True)
def _(bench: Any) -> Any:
    return refer(bench, bench.model("def close(self): raise RuntimeError('too late')"))


@case("respond() raises", INCOMPLETE, "4 error", "ValueError: I cannot", "model.py", result=True)
def _(bench: Any) -> Any:
    return refer(bench, bench.model("def respond(self, requests): raise ValueError('I cannot')"))


@case("respond() gives nothing", INCOMPLETE, "4 error", "NoneType", result=True)
def _(bench: Any) -> Any:
    return refer(bench, bench.model("def respond(self, requests): return None"))


@case("respond() gives texts", INCOMPLETE, "4 error", "respond gave a str", "Response", result=True)
def _(bench: Any) -> Any:
    return refer(bench, bench.model("def respond(self, requests): return ['yes' for r in requests]"))


@case("a model that does not support the task", INCOMPLETE, "refcoco:val is left out", "refer_segment")
def _(bench: Any) -> Any:
    return refer(bench, bench.model("def capabilities(self): return Capabilities(frozenset({Intent.CHAT}))"))


@case("a model's name that leads out of the folder", INCOMPLETE, "4 error", result=True)
def _(bench: Any) -> Any:
    body = """
    def identity(self): return ModelIdentity('../../../evil', '1', 'none')
    def respond(self, requests): raise ValueError('no')
    """
    arguments = refer(bench, bench.model(body))
    return arguments[: arguments.index("--out")] + arguments[arguments.index("--out") + 2 :]


def registered(bench: Any, distribution: str, group: str, line: str) -> None:
    """A package of that name that registers one plug-in."""
    folder = f"site/{distribution.replace('-', '_')}-1.0.dist-info"
    bench.write(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    bench.write(f"{folder}/entry_points.txt", f"[omgbench.{group}]\n{line}\n")
    bench.monkeypatch.syspath_prepend(str(bench.folder / "site"))


@case("model name of two packages", USER, "'twin'", "first-one 1.0", "second-one 1.0", "uninstall one")
def _(bench: Any) -> Any:
    registered(bench, "first-one", "models", "twin = first_one:M")
    registered(bench, "second-one", "models", "twin = second_one:M")
    return run(bench, model="twin")


@case("task name of two packages", USER, "'gcg'", "omgbench", "rival 1.0")
def _(bench: Any) -> Any:
    registered(bench, "rival", "tasks", "gcg = rival:T")
    return run(bench, tasks="gcg:val")


@case("broken plug-in", USER, "'shaky'", "shaky-one 1.0", "ImportError: needs a newer torch", "other plug-ins")
def _(bench: Any) -> Any:
    registered(bench, "shaky-one", "models", "shaky = omgbench_shaky_one:M")
    bench.write("site/omgbench_shaky_one.py", "raise ImportError('needs a newer torch')\n")
    return run(bench, model="shaky")


# ---- tasks -----------------------------------------------------------------------------------------------------------


@case("misspelt task", USER, "'refcoc'", "did you mean refcoco", "omgbench tasks")
def _(bench: Any) -> Any:
    return run(bench, tasks="refcoc")


@case("one misspelt task among good ones", USER, "'gcgg'", "gcg")
def _(bench: Any) -> Any:
    return run(bench, tasks=f"{bench.TINY},gcgg")


@case("pattern that no task matches", USER, "'ref*x'", "refcoco")
def _(bench: Any) -> Any:
    return run(bench, tasks="ref*x")


@case("misspelt split", USER, "'refcoco'", "split 'testa'", "did you mean testA?")
def _(bench: Any) -> Any:
    return run(bench, tasks="refcoco:testa")


@case("misspelt --split", USER, "'tiny'", "split 'vall'", "did you mean val?")
def _(bench: Any) -> Any:
    return run(bench, "--split", "vall", tasks=bench.TINY)


@case("misspelt subset", USER, "'refcocog'", "subset 'gogle'", "did you mean google?")
def _(bench: Any) -> Any:
    return run(bench, tasks="refcocog/gogle:val")


@case("task file is missing", USER, "nowhere.py", "does not exist")
def _(bench: Any) -> Any:
    return run(bench, "--task-file", "nowhere.py", tasks="mine")


@case("task file is a folder", USER, "folder", "not a file")
def _(bench: Any) -> Any:
    bench.write("folder/x", "")
    return run(bench, "--task-file", "folder", tasks="mine")


@case("task file without tasks", USER, "task.py", "defines no task", "summarize")
def _(bench: Any) -> Any:
    bench.write("task.py", "VALUE = 3\n")
    return run(bench, "--task-file", "task.py", tasks="mine")


@case("task file that is broken", USER, "task.py", "NameError", "undefined_name")
def _(bench: Any) -> Any:
    bench.write("task.py", "undefined_name\n")
    return run(bench, "--task-file", "task.py", tasks="mine")


@case("task constructor that wants arguments", USER, "task.py:T", "folder")
def _(bench: Any) -> Any:
    bench.task("def __init__(self, folder): pass")
    return run(bench, "--task-file", "task.py", tasks="mine")


@case("info raises", USER, "task.py:T", "info", "KeyError")
def _(bench: Any) -> Any:
    bench.task("@property\ndef info(self): raise KeyError('card')")
    return run(bench, "--task-file", "task.py", tasks="mine")


@case("info is no TaskInfo", USER, "task.py:T", "info", "dict", "TaskInfo")
def _(bench: Any) -> Any:
    bench.task("@property\ndef info(self): return {'name': 'mine'}")
    return run(bench, "--task-file", "task.py", tasks="mine")


@case("task that repeats an id", USER, "mine:val", "sample id", "'00000000'", "twice", "omgbench check-task")
def _(bench: Any) -> Any:
    body = """
    def samples(self, split, data_root):
        first = next(super().samples(split, data_root))
        yield first
        yield first
    """
    return run(bench, tasks=bench.task(body))


@case("task that tears a group", USER, "mine:val", "group", "'00000000'", "stand together", "omgbench check-task")
def _(bench: Any) -> Any:
    body = """
    def samples(self, split, data_root):
        every = list(super().samples(split, data_root))
        yield from every[1:]
        yield every[0]
    """
    return run(bench, tasks=bench.task(body))


@case("task without samples", USER, "mine:val", "no sample", "at least one")
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task("def samples(self, split, data_root): return iter(())"))


@case("samples() raises", USER, "mine:val", "samples", "ZeroDivisionError", "task.py")
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task("def samples(self, split, data_root): yield 1 / 0"))


@case("samples() gives requests", USER, "mine:val", "samples", "Request", "Sample")
def _(bench: Any) -> Any:
    body = """
    def samples(self, split, data_root):
        return (sample.request for sample in super().samples(split, data_root))
    """
    return run(bench, tasks=bench.task(body))


@case("samples() raises half way through", USER, "mine:val", "ZeroDivisionError", "task.py")
def _(bench: Any) -> Any:
    body = """
    def samples(self, split, data_root):
        yield from list(super().samples(split, data_root))[:5]
        1 / 0
    """
    return run(bench, tasks=bench.task(body))


@case("a group that is no text", USER, "mine:val", "group")
def _(bench: Any) -> Any:
    body = """
    def samples(self, split, data_root):
        return (replace(sample, group=7) for sample in super().samples(split, data_root))
    """
    return run(bench, tasks=bench.task(body))


@case("score() raises for one answer", INCOMPLETE, "1 error", "00000003", "scoring failed", "KeyError", result=True)
def _(bench: Any) -> Any:
    body = """
    def score(self, sample, response):
        if sample.id == '00000003' and not response.status.failed:
            raise KeyError('no reference')
        return super().score(sample, response)
    """
    return run(bench, tasks=bench.task(body))


@case("score() raises for every answer", CRASH, "mine:val", "score", "KeyError", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task("def score(self, sample, response): raise KeyError('no reference')"))


@case("score() gives nothing", CRASH, "mine:val", "score", "None", "Record", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task("def score(self, sample, response): return None"))


@case("score() gives NaN", CRASH, "mine:val", "00000000", begun=True)
def _(bench: Any) -> Any:
    body = "def score(self, sample, response): return Record(sample.id, sample.group, Status.OK, {'x': float('nan')})"
    return run(bench, tasks=bench.task(body))


@case("summarize() raises", CRASH, "metrics of mine:val", "ZeroDivisionError", "every answer", "run", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task("def summarize(self, records): return [1 / 0]"))


@case("summarize() gives nothing", CRASH, "metrics of mine:val", "NoneType", "every answer", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task("def summarize(self, records): return None"))


@case("summarize() gives bare numbers", CRASH, "mine:val", "float", "MetricValue", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task("def summarize(self, records): return [0.5, 0.5]"))


def summed(first: str, name: str = "cIoU") -> str:
    """A summarize() that gives this first value."""
    values = f"[MetricValue({name!r}, {first}, 1), MetricValue('accuracy', 0.5, 1)]"
    return f"def summarize(self, records): return {values}"


@case("metric that is NaN", CRASH, "mine:val", "cIoU", "nan", "number", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task(summed("float('nan')")))


@case("metric that is infinite", CRASH, "mine:val", "cIoU", "inf", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task(summed("float('inf')")))


@case("metric that is text", CRASH, "mine:val", "cIoU", "high", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task(summed("'high'")))


@case("metric under another name", CRASH, "mine:val", "ciou", "cIoU", "accuracy", begun=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task(summed("0.5", "ciou")))


@case("metric that is not computed", INCOMPLETE, "cIoU not computed", result=True)
def _(bench: Any) -> Any:
    return run(bench, tasks=bench.task(summed("None")))


@case("task that cannot say what is perfect", USER, "mine", "perfect_answer", "another model")
def _(bench: Any) -> Any:
    return run(bench, model="perfect", tasks=bench.task("perfect_answer = None"))


@case("task name that leads out of the folder", USER, "'../../evil'")
def _(bench: Any) -> Any:
    body = "@property\ndef info(self): return replace(super().info, name='../../evil')"
    return run(bench, tasks=bench.task(body))


# ---- data ------------------------------------------------------------------------------------------------------------


@case("data root is missing", USER, "nowhere", "not a folder", "--data DIR")
def _(bench: Any) -> Any:
    return run(bench, "--data", "nowhere", tasks="refcoco:val")


@case("data root is a file", USER, "data.zip", "not a folder", "--data DIR")
def _(bench: Any) -> Any:
    return run(bench, "--data", bench.write("data.zip", b"PK"), tasks="refcoco:val")


@case("OMGBENCH_DATA points nowhere", USER, "/no/such/root", "not a folder", "OMGBENCH_DATA")
def _(bench: Any) -> Any:
    bench.monkeypatch.setenv("OMGBENCH_DATA", "/no/such/root")
    return run(bench, tasks="refcoco:val")


@case(
    "data root without the files", USER, "refcoco val", "refcoco/refs(unc).p", "instances.json", "omgbench data status"
)
def _(bench: Any) -> Any:
    bench.write("data/readme.txt", "")
    return run(bench, "--data", "data", tasks="refcoco:val")


class Bomb:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


@case("refs that run code", USER, "refs(unc).p", "system", "plain pickle could run code")
def _(bench: Any) -> Any:
    return refer(bench, refs=pickle.dumps([Bomb()]))


@case("refs cut off", USER, "refs(unc).p, byte", "cut off")
def _(bench: Any) -> Any:
    return refer(bench, refs=pickle.dumps(bench.refer_refs(), 2)[:-40])


@case("refs that are empty", USER, "refs(unc).p", "empty")
def _(bench: Any) -> Any:
    return refer(bench, refs=b"")


@case("refs that are no list", USER, "refs(unc).p", "an object of 1 keys", "a list")
def _(bench: Any) -> Any:
    return refer(bench, refs=pickle.dumps({"refs": bench.refer_refs()}, 2))


@case("refs that are a folder", USER, "refs(unc).p", "not a file", "omgbench data status")
def _(bench: Any) -> Any:
    arguments = refer(bench)
    (bench.folder / "data/refcoco/refs(unc).p").unlink()
    (bench.folder / "data/refcoco/refs(unc).p").mkdir()
    return arguments


@case("ref without sentences", USER, "refs(unc).p: refs[1]", "'sentences' is missing")
def _(bench: Any) -> Any:
    return refer(bench, refs=pickle.dumps(edited(bench.refer_refs(), 1, "sentences"), 2))


@case("ref with an id of the wrong type", USER, "refs[0]", "ann_id", "'10'", "a whole number")
def _(bench: Any) -> Any:
    return refer(bench, refs=pickle.dumps(edited(bench.refer_refs(), 0, "ann_id", to="10"), 2))


@case("ref to an unknown annotation", USER, "ann_id 99", "instances.json", "ref_id 1")
def _(bench: Any) -> Any:
    return refer(bench, refs=pickle.dumps(edited(bench.refer_refs(), 1, "ann_id", to=99), 2))


@case("refs without the split", USER, "refcoco:val", "no sample")
def _(bench: Any) -> Any:
    refs = edited(edited(bench.refer_refs(), 0, "split", to="train"), 1, "split", to="train")
    return refer(bench, refs=pickle.dumps(refs, 2))


@case("sentence id of two refs", USER, "refcoco:val", "refcoco:val#1", "twice")
def _(bench: Any) -> Any:
    return refer(bench, refs=pickle.dumps(edited(bench.refer_refs(), 1, "sentences", 0, "sent_id", to=1), 2))


@case("instances that are no JSON", USER, "instances.json, line 2, column", "not valid JSON")
def _(bench: Any) -> Any:
    return refer(bench, instances='{"images": [],\n oops}')


@case("instances cut off", USER, "instances.json, line 1", "ends early")
def _(bench: Any) -> Any:
    return refer(bench, instances=json.dumps(bench.refer_instances())[:-20])


@case("instances without a key", USER, "instances.json", "'annotations' is missing")
def _(bench: Any) -> Any:
    return refer(bench, instances=edited(bench.refer_instances(), "annotations"))


@case("image with an id of the wrong type", USER, "instances.json: images[0]", "id is 1.5", "a whole number")
def _(bench: Any) -> Any:
    return refer(bench, instances=edited(bench.refer_instances(), "images", 0, "id", to=1.5))


@case("annotation of an unknown image", USER, "instances.json: annotations[1]", "image_id 77", "a known image")
def _(bench: Any) -> Any:
    return refer(bench, instances=edited(bench.refer_instances(), "annotations", 1, "image_id", to=77))


@case("annotation with a hostile mask", USER, "instances.json: annotations[0]", "segmentation")
def _(bench: Any) -> Any:
    mask = {"size": [6, 8], "counts": "zzzzzzzzzzzzzz"}
    return refer(bench, instances=edited(bench.refer_instances(), "annotations", 0, "segmentation", to=mask))


@case("polygon that is not finite", USER, "instances.json: annotations[0]", "polygon", "finite")
def _(bench: Any) -> Any:
    polygon = [[1, 1, float("nan"), 1, 5, 4]]
    return refer(bench, instances=edited(bench.refer_instances(), "annotations", 0, "segmentation", to=polygon))


@case(
    "picture name that leads out of the folder", USER, "instances.json: images[0]", "../../secret.png", "stays inside"
)
def _(bench: Any) -> Any:
    return refer(bench, instances=edited(bench.refer_instances(), "images", 0, "file_name", to="../../secret.png"))


@case("picture of absurd size", USER, "instances.json: images[1]", "10000000 x 10000000")
def _(bench: Any) -> Any:
    instances = bench.refer_instances()
    instances["images"][1] |= {"width": 10**7, "height": 10**7}
    return refer(bench, instances=instances)


def gcg(bench: Any, kind: str, content: Any) -> list[object]:
    """Arguments of a run on a small gcg:val with one file replaced."""
    return run(bench, "--data", bench.gcg_root(**{kind: content}), tasks="gcg:val")


def gcg_file(bench: Any, kind: str) -> Any:
    """The content of a GCG file."""
    return bench.gcg_files()[f"GranDf/annotations/val_test/val_gcg_coco_{kind}_gt.json"]


@case("GCG captions cut off", USER, "val_gcg_coco_caption_gt.json, line 1", "ends early")
def _(bench: Any) -> Any:
    return gcg(bench, "captions", json.dumps(gcg_file(bench, "caption"))[:-9])


@case("GCG captions without labels", USER, "val_gcg_coco_caption_gt.json: annotations[1]", "'labels' is missing")
def _(bench: Any) -> Any:
    return gcg(bench, "captions", edited(gcg_file(bench, "caption"), "annotations", 1, "labels"))


@case("GCG captions and masks of different images", USER, "sa_7", "val_gcg_coco")
def _(bench: Any) -> Any:
    content = gcg_file(bench, "caption")
    content["images"][1]["id"] = content["annotations"][1]["image_id"] = "sa_7"
    return gcg(bench, "captions", content)


@case("GCG mask of another size", USER, "val_gcg_coco_mask_gt.json: annotations[0]", "5 x 8", "6 x 8")
def _(bench: Any) -> Any:
    content = edited(gcg_file(bench, "mask"), "annotations", 0, "segmentation", "size", to=[5, 8])
    return gcg(bench, "masks", content)


# ---- pictures, for a model that looks at them ------------------------------------------------------------------------


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def looking(bench: Any, data: bytes | None) -> list[object]:
    """Arguments of a run whose second picture is `data`."""
    return refer(bench, bench.model(), pictures={1: data})


@case("picture is missing", USER, "1 image file(s) are missing", "picture1.png", "omgbench data status refcoco")
def _(bench: Any) -> Any:
    return looking(bench, None)


@case("picture is missing, seen by a dry run", INCOMPLETE, "missing: 1 image", "picture1.png", result=True)
def _(bench: Any) -> Any:
    return [*looking(bench, None), "--dry-run"]


@case("picture cut off", INCOMPLETE, "2 error", "refcoco:val#2", "picture1.png", "cannot be decoded", result=True)
def _(bench: Any) -> Any:
    return looking(bench, bench.picture()[:40])


@case("picture as large as a bomb", INCOMPLETE, "2 error", "60000 x 60000", "at most", "picture1.png", result=True)
def _(bench: Any) -> Any:
    return looking(bench, png_of_size(60000, 60000))


@case("picture of another size", INCOMPLETE, "2 error", "6 x 8", "8 x 6", "picture1.png", result=True)
def _(bench: Any) -> Any:
    return looking(bench, bench.picture((6, 8)))


@case("picture that is none", INCOMPLETE, "2 error", "not an image", "JPEG, PNG", "picture1.png", result=True)
def _(bench: Any) -> Any:
    return looking(bench, b"<html>404</html>")


@case("picture that is empty", INCOMPLETE, "2 error", "image is empty", "picture1.png", result=True)
def _(bench: Any) -> Any:
    return looking(bench, b"")


@case("picture changed after it was answered", USER, "refcoco:val#2", "has changed", "put the original picture back")
def _(bench: Any) -> Any:
    model = bench.model("def respond(self, requests): return [Response(r.id, Status.EMPTY) for r in requests]")
    arguments = refer(bench, model)
    assert bench.call(*arguments).code == 0
    bench.write("data/train2014/picture1.png", bench.picture((8, 6)) + b"x")
    return arguments


# ---- saved predictions -----------------------------------------------------------------------------------------------

ANSWER = {"id": "00000003", "text": "here it is"}
LONG_AGO = "0" * 32


def scored(bench: Any, *lines: Any, header: Any = None) -> list[object]:
    """Arguments that score a prediction file."""
    bench.predictions(*lines, header=header)
    return ["score", "--predictions", "preds.jsonl", "--tasks", bench.TINY, "--out", "run"]


@case("predictions are missing", USER, "nowhere.jsonl", "do not exist")
def _(bench: Any) -> Any:
    return ["score", "--predictions", "nowhere.jsonl", "--tasks", bench.TINY]


@case("neither a run nor predictions", USER, "run directory or --predictions", "omgbench score --help")
def _(bench: Any) -> Any:
    return ["score", "--tasks", bench.TINY]


@case("predictions without --tasks", USER, "--tasks is missing", "--tasks refcoco:val")
def _(bench: Any) -> Any:
    bench.predictions(ANSWER)
    return ["score", "--predictions", "preds.jsonl"]


@case("predictions are empty", USER, "preds.jsonl", "empty", "header", "docs/predictions.md")
def _(bench: Any) -> Any:
    bench.write("preds.jsonl", b"")
    return ["score", "--predictions", "preds.jsonl", "--tasks", bench.TINY]


@case("predictions without header", USER, "preds.jsonl, line 1", "no header", '"protocol": 1')
def _(bench: Any) -> Any:
    return scored(bench, header=ANSWER)


@case("predictions of another protocol", USER, "preds.jsonl, line 1", "protocol 9", "protocol 1")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, header={"protocol": 9, "model": "mine"})


@case("predictions that name no model", USER, "preds.jsonl, line 1", "model is None", "the model's name")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, header={"protocol": 1})


@case("unknown header key", USER, "preds.jsonl, line 1", "'modle_version'", "version")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, header={"protocol": 1, "model": "m", "modle_version": "2"})


@case("header key of the wrong type", USER, "preds.jsonl, line 1", "language_model", "maybe")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, header={"protocol": 1, "model": "m", "language_model": "maybe"})


@case("unknown mask source", USER, "preds.jsonl, line 1", "mask_source", "magic", "native")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, header={"protocol": 1, "model": "m", "mask_source": "magic"})


@case("prediction that is no JSON", USER, "preds.jsonl, line 3", "not JSON")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, '{"id": "00000004", ')


@case("prediction nested a hundred thousand deep", USER, "preds.jsonl, line 2", "not JSON")
def _(bench: Any) -> Any:
    return scored(bench, '{"id": ' + "[" * 100_000)


@case("options of predictions for a run", USER, "--tasks", "run")
def _(bench: Any) -> Any:
    assert bench.tiny_run().code == 0
    return ["score", "run", "--tasks", "refcoco:testA"]


@case("predictions in another encoding", USER, "preds.jsonl, line 2", "not JSON")
def _(bench: Any) -> Any:
    bench.write("preds.jsonl", b'{"protocol": 1, "model": "m"}\n{"id": "\xe9"}\n')
    return ["score", "--predictions", "preds.jsonl", "--tasks", bench.TINY]


@case("prediction that is no object", USER, "preds.jsonl, line 2", "cannot be read")
def _(bench: Any) -> Any:
    return scored(bench, [1, 2])


@case("prediction without id", USER, "preds.jsonl, line 2", "id")
def _(bench: Any) -> Any:
    return scored(bench, {"text": "here"})


@case("prediction with an unknown key", USER, "preds.jsonl, line 2", "mask", "docs/predictions.md")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER | {"mask": 1})


@case("prediction with an unknown status", USER, "preds.jsonl, line 2", "status", "'fine'", "'ok'")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER | {"status": "fine"})


@case("prediction given twice", USER, "'00000003'", "twice", "lines 2 and 4", "one line per request")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, {"id": "00000005"}, ANSWER)


@case("prediction for an unknown id", USER, "preds.jsonl", "1 prediction(s)", "99999999", "ids such as 00000000")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, {"id": "99999999"})


@case("predictions for other requests", USER, "tiny:val", LONG_AGO, "same data, prompts and options")
def _(bench: Any) -> Any:
    return scored(bench, ANSWER, header={"protocol": 1, "model": "m", "requests": {"tiny:val": LONG_AGO}})


@case("predictions that answer nothing", USER, "tiny:val", "no prediction answers", "--tasks")
def _(bench: Any) -> Any:
    return scored(bench)


@case("predictions that answer in part", INCOMPLETE, "23 missing", "no line for it", result=True)
def _(bench: Any) -> Any:
    return scored(bench, ANSWER)


def every_answer(change: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each sample of the tiny task, the fourth one with a change."""
    return [{"id": f"{n:08d}", "status": "empty"} | (change if n == 3 else {}) for n in range(24)]


@case(
    "predicted mask of another size", INCOMPLETE, "1 error", "(first: 00000003)", "masks[0]", "(480, 640)", result=True
)
def _(bench: Any) -> Any:
    mask = {"rle": {"size": [8, 8], "counts": "P2"}}
    return scored(bench, *every_answer({"status": "ok", "masks": [mask]}))


@case("predicted mask that is hostile", INCOMPLETE, "1 error", "(first: 00000003)", "masks[0]", result=True)
def _(bench: Any) -> Any:
    mask = {"rle": {"size": [480, 640], "counts": "oooooooooooooooooooo0"}}
    return scored(bench, *every_answer({"status": "ok", "masks": [mask]}))


@case("predicted phrase outside of the text", INCOMPLETE, "1 error", "(first: 00000003)", "spans[0]", result=True)
def _(bench: Any) -> Any:
    span = {"phrase": "a thing", "start": 100, "end": 107}
    return scored(bench, *every_answer({"status": "ok", "text": "short", "spans": [span]}))


@case("predicted number that is not finite", INCOMPLETE, "1 error", "(first: 00000003)", "boxes[0]", result=True)
def _(bench: Any) -> Any:
    return scored(bench, *every_answer({"status": "ok", "boxes": [{"xyxy": [0, 0, float("nan"), 1]}]}))


@case(
    "prediction folder for a task without one", USER, "tiny", "prediction folder", "JSON-lines", "docs/predictions.md"
)
def _(bench: Any) -> Any:
    bench.write("folder/a.json", {})
    return ["score", "--predictions", "folder", "--tasks", bench.TINY]


def gcg_folder(bench: Any, **files: Any) -> list[object]:
    """Arguments that score an official GCG folder."""
    for name, content in files.items():
        bench.write(f"official/{name}.json", content)
    data = bench.gcg_root()
    return ["score", "--predictions", "official", "--tasks", "gcg:val", "--data", data, "--out", "run"]


GCG_ANSWER = {"caption": "a thing", "phrases": ["a thing"], "pred_masks": [{"size": [6, 8], "counts": [0, 8, 40]}]}


@case("GCG folder with a broken file", USER, "sa_1.json, line 1", "not valid JSON")
def _(bench: Any) -> Any:
    return gcg_folder(bench, sa_0=GCG_ANSWER, sa_1='{"caption": ')


@case("GCG folder with a file that lacks a key", USER, "sa_0.json", "'pred_masks' is missing")
def _(bench: Any) -> Any:
    return gcg_folder(bench, sa_0={"caption": "a thing", "phrases": []}, sa_1=GCG_ANSWER)


@case("GCG folder with a hostile mask", USER, "sa_1.json: pred_masks[0]")
def _(bench: Any) -> Any:
    mask = {"size": [6, 8], "counts": "zzzzzzzzzzzz"}
    return gcg_folder(bench, sa_0=GCG_ANSWER, sa_1=GCG_ANSWER | {"pred_masks": [mask]})


@case("GCG folder without any prediction", USER, "official", "gcg:val", "no prediction")
def _(bench: Any) -> Any:
    return gcg_folder(bench, notes={"by": "me"})


@case("GCG image id that leads out of the folder", USER, "../../secret", "stays inside")
def _(bench: Any) -> Any:
    captions, masks = gcg_file(bench, "caption"), gcg_file(bench, "mask")
    for content in (captions, masks):
        content["images"][1]["id"] = content["annotations"][1]["image_id"] = "../../secret"
    bench.write("official/sa_0.json", GCG_ANSWER)
    data = bench.gcg_root(captions=captions, masks=masks)
    return ["score", "--predictions", "official", "--tasks", "gcg:val", "--data", data, "--out", "run"]


@case("GCG folder for two splits", USER, "one split", "gcg:val, gcg:test", "TASK:SPLIT")
def _(bench: Any) -> Any:
    bench.write("official/sa_0.json", GCG_ANSWER)
    return ["score", "--predictions", "official", "--tasks", "gcg"]


# ---- run directories and results -------------------------------------------------------------------------------------


def run_file(bench: Any, name: str) -> Path:
    """A file of a complete run in `run`."""
    assert bench.tiny_run().code == 0
    return next((bench.folder / "run/tiny-val").rglob(name))


@case("run directory of another model", USER, "run/tiny-val", "model.name", "blank", "random", "--out")
def _(bench: Any) -> Any:
    assert bench.tiny_run(model="blank").code == 0
    return run(bench)


@case("run directory of other model arguments", USER, "run/tiny-val", "model.options.seed", "--out")
def _(bench: Any) -> Any:
    assert bench.tiny_run().code == 0
    return run(bench, "--model-args", "seed=5")


@case("run directory of other options", USER, "run/tiny-val", "options.limit", "5", "--out")
def _(bench: Any) -> Any:
    assert bench.tiny_run("run", "--limit", 5).code == 0
    return run(bench)


@case("cell file cut off", USER, "cell.json", "cannot be read", "--out")
def _(bench: Any) -> Any:
    file = run_file(bench, "cell.json")
    file.write_bytes(file.read_bytes()[:50])
    return run(bench)


@case("cell file that is no object", USER, "cell.json", "--out")
def _(bench: Any) -> Any:
    run_file(bench, "cell.json").write_text("[1, 2]")
    return run(bench)


@case("journal of another model", USER, "jsonl", "another model", "--out")
def _(bench: Any) -> Any:
    foreign = run_file(bench, "*-*.jsonl")
    assert bench.tiny_run("other", model="blank").code == 0
    target = bench.folder / "other/tiny-val/journal" / f"000009-{foreign.name[7:]}"
    target.write_bytes(foreign.read_bytes())
    return ["run", "--model", "blank", "--tasks", bench.TINY, "--out", "other"]


@case("run directory that another process holds", USER, "another process", "tiny:val", "run/tiny-val", "--out")
def _(bench: Any) -> Any:
    from filelock import FileLock

    assert bench.tiny_run().code == 0
    lock = FileLock(bench.folder / "run/tiny-val/.run.lock")
    lock.acquire(timeout=0)
    bench.held = lock
    return run(bench)


@case("scoring a folder that is no run", USER, "empty", "no run directory", "--out of an omgbench run")
def _(bench: Any) -> Any:
    (bench.folder / "empty").mkdir()
    return ["score", "empty"]


@case("scoring a run directory that is missing", USER, "nowhere", "run directory")
def _(bench: Any) -> Any:
    return ["score", "nowhere"]


@case("scoring a run whose cell file lacks a key", USER, "cell.json", "options")
def _(bench: Any) -> Any:
    file = run_file(bench, "cell.json")
    file.write_text(json.dumps(edited(json.loads(file.read_text()), "options")))
    return ["score", "run"]


@case("scoring a run whose data has changed", USER, "refcoco:val", "other requests", "--data")
def _(bench: Any) -> Any:
    assert bench.call(*refer(bench)).code == 0
    refs = pickle.dumps(edited(bench.refer_refs(), 1, "sentences", 0, "sent", to="another thing"), 2)
    bench.write("data/refcoco/refs(unc).p", refs)
    return ["score", "run"]


@case("scoring a run whose task is gone", USER, "task.py", "does not exist")
def _(bench: Any) -> Any:
    import sys

    assert bench.call(*run(bench, tasks=bench.task())).code == 0
    (bench.folder / "task.py").unlink()
    for name in [name for name in sys.modules if name.startswith("omgbench_file_")]:
        bench.monkeypatch.delitem(sys.modules, name)
    return ["score", "run", "--task-file", "task.py"]


@case("scoring a run that names code of its own", USER, "not registered", "task.py", "if you trust", "--task-file")
def _(bench: Any) -> Any:
    """A run directory may come from anybody: what it names is not run."""
    assert bench.call(*run(bench, tasks=bench.task())).code == 0
    (bench.folder / "task.py").write_text("raise SystemExit('ran')")
    return ["score", "run"]


@case("scoring a run whose cell file was made up", USER, "cell that cannot be read", "task", "cell.json")
def _(bench: Any) -> Any:
    assert bench.tiny_run("run").code == 0
    cell = bench.folder / "run" / "tiny-val" / "cell.json"
    cell.write_text(json.dumps(json.loads(cell.read_text()) | {"task": "x"}))
    return ["score", "run"]


@case("merging runs of two models", USER, "tiny:val", "different models", "one and the same command")
def _(bench: Any) -> Any:
    assert bench.tiny_run("a").code == 0
    assert bench.tiny_run("b", model="blank").code == 0
    return ["merge", "a", "b"]


@case("merging a run of another model last", USER, "tiny:val", "different models", "one and the same command")
def _(bench: Any) -> Any:
    assert bench.tiny_run("a").code == 0
    assert bench.tiny_run("b", model="blank").code == 0
    return ["merge", "new", "a", "b"]


@case("merging shards of which one is missing", INCOMPLETE, "tiny:val", "6 missing", "never answered", result=True)
def _(bench: Any) -> Any:
    assert bench.tiny_run("run", "--shard", "1/2").code == 0
    return ["merge", "run", "--task-file", "omgbench.testing.tiny:TinyTask"]


@case("merging a folder that is no run", USER, "nowhere", "no run directory")
def _(bench: Any) -> Any:
    assert bench.tiny_run("a").code == 0
    return ["merge", "a", "nowhere"]


@case("showing a folder without results", USER, "no result under empty", "result.json", "omgbench run")
def _(bench: Any) -> Any:
    (bench.folder / "empty").mkdir()
    return ["show", "empty"]


@case("table of nothing", USER, "no result under nowhere", "omgbench run")
def _(bench: Any) -> Any:
    return ["table", "nowhere"]


@case("result that is no JSON", USER, "result.json", "cannot be read")
def _(bench: Any) -> Any:
    file = run_file(bench, "result.json")
    file.write_bytes(file.read_bytes()[:99])
    return ["show", "run"]


@case("result of a newer schema", USER, "result.json", "schema 99", "pip install -U omgbench")
def _(bench: Any) -> Any:
    file = run_file(bench, "result.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 99}))
    return ["table", "run"]


@case("result without a field", USER, "result.json", "coverage", "required")
def _(bench: Any) -> Any:
    file = run_file(bench, "result.json")
    file.write_text(json.dumps(edited(json.loads(file.read_text()), "coverage")))
    return ["show", "run"]


@case("another JSON file in place of a result", USER, "cell.json", "no result record")
def _(bench: Any) -> Any:
    return ["show", run_file(bench, "cell.json")]


@case("unknown table format", USER, "--format", "'html'", "latex")
def _(bench: Any) -> Any:
    return ["table", "run", "--format", "html"]


@case("table to a place below a file", USER, "file/table.md")
def _(bench: Any) -> Any:
    assert bench.tiny_run().code == 0
    bench.write("file", "a file")
    return ["table", "run", "--output", "file/table.md"]


# ---- the other commands ----------------------------------------------------------------------------------------------


@case("card of an unknown task", USER, "'refcok'", "did you mean refcoco")
def _(bench: Any) -> Any:
    return ["tasks", "refcok"]


@case("card of a task whose info raises", USER, "task.py:T", "info", "KeyError")
def _(bench: Any) -> Any:
    return ["tasks", bench.task("@property\ndef info(self): raise KeyError('card')")]


@case("description of a model whose capabilities() raises", USER, "model.py:M", "capabilities", "RuntimeError: no")
def _(bench: Any) -> Any:
    return ["models", bench.model("def capabilities(self): raise RuntimeError('no')")]


@case("demo data of a seed that is not there", USER, "seed 1000", "0 .. 99")
def _(bench: Any) -> Any:
    return ["data", "demo", "gcg", "--seed", 1000, "--out", "demo"]


@case("description of an unknown model", USER, "'perfekt'", "did you mean perfect")
def _(bench: Any) -> Any:
    return ["models", "perfekt"]


@case("data status of an unknown task", USER, "'gcgs'", "gcg")
def _(bench: Any) -> Any:
    return ["data", "status", "gcgs"]


@case("data status of a root that is missing", USER, "nowhere", "not a folder")
def _(bench: Any) -> Any:
    return ["data", "status", "gcg", "--data", "nowhere"]


@case("data verify of a broken file", INCOMPLETE, "refcoco:val", "instances.json", "not valid JSON", result=True)
def _(bench: Any) -> Any:
    root = bench.refer_root(instances="{oops}")
    return ["data", "verify", "refcoco", "--data", root]


@case("demo data where something is", USER, "demo/gcg", "exists already")
def _(bench: Any) -> Any:
    (bench.folder / "demo/gcg").mkdir(parents=True)
    return ["data", "demo", "gcg", "--out", "demo"]


@case("check of an unknown model", USER, "'randm'", "random")
def _(bench: Any) -> Any:
    return ["check-adapter", "randm"]


@case("check of an unknown task", USER, "'refcocoo'", "refcoco")
def _(bench: Any) -> Any:
    return ["check-task", "refcocoo"]


@case("check of a task with a wrong limit", USER, "--limit", "0")
def _(bench: Any) -> Any:
    return ["check-task", bench.TINY, "--limit", 0]


# ---- what each must keep ---------------------------------------------------------------------------------------------


def test_the_table_is_long_enough() -> None:
    names = [each.name for each in CASES]
    assert len(names) >= 55
    assert len(names) == len(set(names))


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_bad_input(bench: Any, each: Case) -> None:
    arguments = each.prepare(bench)
    before = bench.files()
    outcome = bench.call(*arguments)
    shown = f"exit code {outcome.code}\n--- out\n{outcome.out}--- err\n{outcome.err}"
    assert outcome.code == each.code, shown
    assert "Traceback" not in outcome.out + outcome.err, shown
    _check_message(outcome, each, shown)
    _check_files(before, bench.files(), each)


def _check_message(outcome: Any, each: Case, shown: str) -> None:
    if each.result and each.code == INCOMPLETE:
        assert outcome.messages == [], shown
        message = outcome.out
    else:
        assert len(outcome.messages) == 1, shown
        (message,) = outcome.messages
    missing = [word for word in each.words if word not in message]
    assert not missing, f"the message lacks {missing}\n{shown}"
    assert len(message) < 4000, shown


def _check_files(before: dict[str, bytes], after: dict[str, bytes], each: Case) -> None:
    changed = [name for name, data in before.items() if after.get(name) != data]
    assert not changed, "files that were there are changed or gone"
    allowed = [WRITTEN_BY_A_RUN] if each.begun or each.result else []
    allowed += [WRITTEN_BY_A_RESULT] if each.result else []
    if each.begun:
        # The records are a whole file of their own; only what summarizes them is missing.
        allowed.append(re.compile(r".*/records\.jsonl$"))
    added = [name for name in after if name not in before and not any(pattern.match(name) for pattern in allowed)]
    assert not added, "files are left that should not be"


def test_a_broken_plug_in_leaves_the_others_alone(bench: Any) -> None:
    registered(bench, "shaky-one", "models", "shaky = omgbench_shaky_one:M")
    bench.write("site/omgbench_shaky_one.py", "raise ImportError('needs a newer torch')\n")
    listed = bench.call("models")
    assert listed.code == 0
    assert "shaky" in listed.out
    assert "random" in listed.out
    assert bench.tiny_run().code == 0


def test_a_name_clash_shows_in_the_list(bench: Any) -> None:
    registered(bench, "rival", "tasks", "gcg = rival:T")
    listed = bench.call("tasks")
    assert listed.code == 0
    clashing = [line for line in listed.out.splitlines() if line.startswith("gcg ")]
    assert len(clashing) == 2
    assert all("CLASH" in line for line in clashing)


def damage(data: bytes, how: str) -> bytes:
    """A journal with one line destroyed."""
    lines = data.splitlines(keepends=True)
    match how:
        case "torn tail":
            return b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2]
        case "flipped byte":
            middle = bytearray(lines[7])
            middle[len(middle) // 2] ^= 1
            return b"".join([*lines[:7], bytes(middle), *lines[8:]])
        case "strange line":
            return b"".join([*lines[:7], b"what is this\n", *lines[8:]])
        case "zeros at the end":
            return b"".join(lines[:-1]) + b"\0" * 512
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["torn tail", "flipped byte", "strange line", "zeros at the end"])
def test_a_damaged_journal_costs_one_answer(bench: Any, how: str) -> None:
    journal = run_file(bench, "*-*.jsonl")
    metrics = bench.folder / "run/tiny-val/metrics.json"
    expected = metrics.read_bytes()
    damaged = damage(journal.read_bytes(), how)
    journal.write_bytes(damaged)
    outcome = bench.tiny_run()
    assert outcome.code == 0, outcome.err
    (message,) = outcome.messages
    assert "1 torn journal line(s) left out and asked again" in message
    assert journal.name in message
    assert journal.read_bytes() == damaged
    assert metrics.read_bytes() == expected
    repeated = max(journal.parent.glob("*.jsonl")).read_bytes().splitlines()
    assert len(repeated) == 2, "a header and the one answer that was lost"


def test_a_full_disk_loses_nothing(bench: Any) -> None:
    """The limit on the size of a file stands for the disk: writing fails in the middle of the journal."""
    arguments = ["run", "--model", "random", "--tasks", bench.TINY, "--out", "run"]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))"
    code = f"{limit}; from omgbench.cli import main; main()"
    failed = bench.spawn(*arguments, code=code)
    assert failed.code == CRASH, failed.err
    assert "Traceback" not in failed.err, failed.err
    (message,) = failed.messages
    assert "File too large" in message
    assert "run/tiny-val" in message
    assert not [name for name in bench.files() if name.endswith(("result.json", ".tmp"))]
    (journal,) = (bench.folder / "run/tiny-val/journal").glob("*.jsonl")
    kept = journal.read_bytes()
    assert bench.tiny_run().code == 0
    assert journal.read_bytes() == kept
    assert bench.tiny_run("other").code == 0
    name = "tiny-val/metrics.json"
    assert (bench.folder / "run" / name).read_bytes() == (bench.folder / "other" / name).read_bytes()


def test_two_processes_on_one_run_directory(bench: Any) -> None:
    arguments = ["run", "--model", "omgbench.testing.models:SlowModel", "--tasks", bench.TINY, "--out", "run"]
    with bench.start(*arguments) as first:
        first.wait_for("tiny:val: 24 samples")
        second = bench.spawn(*arguments)
        assert second.code == USER
        (message,) = second.messages
        assert "another process is at work on tiny:val" in message
        assert first.finish().code == 0
    answers = b"".join(path.read_bytes() for path in (bench.folder / "run/tiny-val/journal").glob("*.jsonl"))
    assert len(answers.splitlines()) == 1 + 24


@pytest.mark.parametrize(
    "name", ["misspelt task", "model file that raises at import", "refs that run code", "samples() raises"]
)
def test_bad_input_in_a_process_of_its_own(bench: Any, name: str) -> None:
    each = next(found for found in CASES if found.name == name)
    outcome = bench.spawn(*each.prepare(bench))
    assert outcome.code == each.code, outcome.err
    assert "Traceback" not in outcome.err, outcome.err
    assert all(word in outcome.err for word in each.words), outcome.err
    assert not (bench.folder / "exploded").exists()
    assert not (bench.folder / "run").exists()
