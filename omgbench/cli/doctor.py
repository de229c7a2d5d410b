"""`omgbench doctor`: what this machine has, and what each task lacks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import click

from omgbench.cli.options import json_option
from omgbench.errors import MetricNotComputed, OmgbenchError


@click.command(epilog="\b\nExamples:\n  omgbench doctor\n  omgbench doctor --json")
@json_option
def doctor(as_json: bool) -> int:
    """Say what is installed, whether Java and a GPU are there, where data is looked for, what each task lacks."""
    report = {
        "versions": _versions(),
        "java": _java(),
        "gpu": _gpu(),
        "data_root": os.environ.get("OMGBENCH_DATA"),
        "plugins": _plugins(),
        "tasks": _tasks(),
    }
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        for title, value in report.items():
            _print(title, value)
    return 0


def _print(title: str, value: Any) -> None:
    if isinstance(value, dict):
        click.echo(f"{title}:")
        for key, item in value.items():
            click.echo(f"  {key}: {item}")
    else:
        click.echo(f"{title}: {value if value is not None else 'not set'}")


def _versions() -> dict[str, str]:
    from omgbench.identity import environment

    return environment()


def _java() -> str:
    from omgbench.metrics.captions.java import find_java

    try:
        java = find_java()
    except MetricNotComputed as error:
        return str(error)
    return f"{java.version} ({java.path})"


def _gpu() -> str:
    """Asked in a process of its own: importing torch here would cost seconds and memory for nothing else."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'none')"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"torch does not work: {error}"
    return done.stdout.strip()


def _plugins() -> dict[str, str]:
    """Every registered plug-in, imported; a broken one shows its own error and spoils no other."""
    from omgbench import registry

    found: dict[str, str] = {}
    kinds: tuple[registry.Kind, ...] = ("tasks", "models")
    for kind in kinds:
        for plugin in registry.plugins(kind):
            try:
                registry.load_target(kind, plugin.name)
                found[f"{kind[:-1]} {plugin.name}"] = f"ok ({plugin.distribution} {plugin.version})"
            except OmgbenchError as error:
                found[f"{kind[:-1]} {plugin.name}"] = str(error)
    return found


def _tasks() -> dict[str, str]:
    from omgbench import registry
    from omgbench.data.roots import resolve_root
    from omgbench.selection import cell_label

    found: dict[str, str] = {}
    for name in dict.fromkeys(plugin.name for plugin in registry.plugins("tasks")):
        try:
            task = registry.build_task(name)
        except OmgbenchError as error:
            found[name] = str(error)
            continue
        for split in task.info.splits:
            try:
                root = resolve_root(task, split, None, write=False)
                found[cell_label(name, split)] = f"{root.kind} data"
            except OmgbenchError as error:
                found[cell_label(name, split)] = str(error).partition("\n")[0]
    return found
