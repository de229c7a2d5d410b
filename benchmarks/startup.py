"""What `omgbench --help` and the lists cost, beside a bare interpreter; and that they import nothing heavy.

    python benchmarks/startup.py [--repeats 5]

Goals: help at most 0.10 CPU seconds, listing at most 0.15, and neither imports torch, transformers, datasets or pandas.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from measure import best

HEAVY = ("torch", "transformers", "datasets", "pandas", "scipy", "pycocoevalcap")
CALL = "import sys; sys.argv = ['omgbench', *{arguments!r}]; from omgbench.cli import main; main()"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "omgbench --help": _omgbench("--help"),
        "omgbench run --help": _omgbench("run", "--help"),
        "omgbench tasks": _omgbench("tasks"),
        "omgbench models": _omgbench("models"),
        "python -c 'import omgbench'": [sys.executable, "-c", "import omgbench"],
    }
    print(f"{'command':<30} {'CPU s':>7} {'wall s':>7} {'peak MB':>8}  heavy imports")
    for name, command in rows.items():
        cost = best(command, repeats)
        print(f"{name:<30} {cost.cpu_s:>7.3f} {cost.wall_s:>7.3f} {cost.peak_mb:>8.1f}  {_heavy(command)}")


def _omgbench(*arguments: str) -> list[str]:
    return [sys.executable, "-c", CALL.format(arguments=list(arguments))]


def _heavy(command: list[str]) -> str:
    done = subprocess.run([command[0], "-X", "importtime", *command[1:]], capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    return ", ".join(name for name in HEAVY if name in imported) or "none"


if __name__ == "__main__":
    main()
