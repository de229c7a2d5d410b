"""What the harness costs a sample beside the model: a whole run with weightless models, journal and scoring included.

    python benchmarks/harness.py [--sizes 2000 20000 200000] [--batch-size 8]

Goal: at most 0.30 CPU milliseconds a sample, linear, under 150 MB. `blank` answers nothing; `random` answers a mask a
sample, so that mask payloads are checked, journaled, read back and scored.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measure import Cost, run

TASK = (
    "from omgbench.testing.tiny import TinyTask\n\n\ndef tiny():\n    return TinyTask(n_groups={groups}, per_group=7)\n"
)
CALL = """
from omgbench import evaluate
evaluation = evaluate({model!r}, [{task!r}], out={out!r}, batch_size={batch_size})
assert evaluation.complete
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--models", nargs="+", default=["blank", "random"])
    options = parser.parse_args()
    print(f"{'model':<8} {'requests':>9} {'CPU s':>8} {'wall s':>8} {'CPU ms/sample':>14} {'slope':>7} {'peak MB':>8}")
    for model in options.models:
        before: tuple[int, Cost] | None = None
        for size in options.sizes:
            cost = _measure(model, size, options.batch_size)
            slope = f"{(cost.cpu_s - before[1].cpu_s) / (size - before[0]) * 1e3:7.3f}" if before else " " * 7
            each = cost.cpu_s / size * 1e3
            head = f"{model:<8} {size:>9} {cost.cpu_s:>8.2f} {cost.wall_s:>8.2f}"
            print(f"{head} {each:>14.3f} {slope} {cost.peak_mb:>8.1f}", flush=True)
            before = (size, cost)


def _measure(model: str, size: int, batch_size: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.py"
        task.write_text(TASK.format(groups=-(-size // 7)))
        code = CALL.format(model=model, task=f"{task}:tiny", out=str(Path(folder) / "run"), batch_size=batch_size)
        cost = run([sys.executable, "-c", code])
    if cost.code != 0:
        raise SystemExit(f"the run with {model} on {size} requests failed")
    return cost


if __name__ == "__main__":
    main()
