"""`omgbench tasks` and `omgbench models`. The lists import no plug-in."""

from __future__ import annotations

import json
from typing import Any

import click

from omgbench.cli.options import json_option
from omgbench.errors import PluginError
from omgbench.registry import Kind, Plugin, plugin_folder, plugins


@click.command(epilog="\b\nExamples:\n  omgbench tasks\n  omgbench tasks refcoco\n  omgbench tasks --json")
@click.argument("name", required=False)
@json_option
def tasks(name: str | None, as_json: bool) -> int:
    """List the installed tasks, or show the card, splits, metrics and templates of NAME."""
    if name is None:
        _list("tasks", as_json)
        return 0
    from omgbench import registry

    info = registry.build_task(name).info
    card = _card(registry.find("tasks", name)) if ":" not in name else None
    if as_json:
        click.echo(json.dumps(_task_value(info), indent=1))
        return 0
    click.echo(f"{info.name} {info.version}: {info.title}\nprotocol: {info.protocol}\n")
    for split in info.splits:
        subset = f"/{split.subset}" if split.subset else ""
        counts = f"{split.n_samples or '?'} samples, {split.n_images or '?'} images"
        click.echo(f"  {info.name}{subset}:{split.name:<8} {counts}{'  (default)' if split.default else ''}")
    click.echo()
    for metric in info.metrics:
        marks = " (primary)" if metric.primary else ""
        click.echo(f"  {metric.name}{marks}: {metric.description}")
    for key, wording in info.templates.items():
        click.echo(f"  template {key}: {wording!r}")
    if card:
        click.echo(f"\n{card}")
    return 0


@click.command(
    epilog="\b\nExamples:\n  omgbench models\n  omgbench models random\n  omgbench models my_model.py:MyModel"
)
@click.argument("name", required=False)
@json_option
def models(name: str | None, as_json: bool) -> int:
    """List the installed models, or show what NAME declares (its weights are not loaded)."""
    if name is None:
        _list("models", as_json)
        return 0
    import inspect
    from dataclasses import asdict

    from omgbench import registry

    target: Any = registry.load_target("models", name)
    signature = str(inspect.signature(target)) if callable(target) else ""
    value: dict[str, Any] = {"name": name, "arguments": signature}
    try:
        model = registry.build_model(name)
    except PluginError as error:
        # Some models cannot be built without arguments: their signature is the answer then.
        value["capabilities"] = None
        value["note"] = str(error)
    else:
        declared = asdict(registry.capabilities_of(model, name))
        value["capabilities"] = {
            key: sorted(item) if isinstance(item, frozenset) else item for key, item in declared.items()
        }
    if as_json:
        click.echo(json.dumps(value, indent=1))
        return 0
    click.echo(f"{name}{signature}")
    click.echo(f"  {(inspect.getdoc(target) or '').strip()}")
    for key, item in (value["capabilities"] or {"note": value.get("note", "")}).items():
        click.echo(f"  {key}: {', '.join(item) if isinstance(item, list) else item}")
    return 0


def _list(kind: Kind, as_json: bool) -> None:
    rows = [_row(plugin) for plugin in plugins(kind)]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo(f"no {kind} are installed")
    seen = [row["name"] for row in rows]
    for row in rows:
        clash = "  CLASH: two packages register this name" if seen.count(row["name"]) > 1 else ""
        click.echo(f"{row['name']:<16} {row['title']:<56} {row['package']} {row['version']}{clash}")
    click.echo(f"\nomgbench {kind} NAME shows one of them")


def _row(plugin: Plugin) -> dict[str, str]:
    return {
        "name": plugin.name,
        "title": _title(plugin),
        "package": plugin.distribution,
        "version": plugin.version,
        "target": plugin.target,
    }


def _title(plugin: Plugin) -> str:
    card = _card(plugin) if plugin.kind == "tasks" else None
    if card and card.startswith("# "):
        return card.partition("\n")[0][2:].strip()
    return plugin.target


def _card(plugin: Plugin) -> str | None:
    """The task card, found beside the module without importing it: `NAME.card.md`, else `card.md`."""
    folder = plugin_folder(plugin)
    if folder is None:
        return None
    for file in (folder / f"{plugin.name}.card.md", folder / "card.md"):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None


def _task_value(info: Any) -> dict[str, Any]:
    return {
        "name": info.name,
        "version": info.version,
        "title": info.title,
        "protocol": info.protocol,
        "splits": [
            {"subset": split.subset, "name": split.name, "n_samples": split.n_samples, "default": split.default}
            for split in info.splits
        ],
        "metrics": [
            {"name": metric.name, "description": metric.description, "primary": metric.primary}
            for metric in info.metrics
        ],
        "templates": dict(info.templates),
    }
