"""`omgbench train`: models that can be trained, by the recipes that come along with them or by one's own."""

from __future__ import annotations

from typing import Any

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    epilog="\b\nExamples:\n  omgbench train\n  omgbench train omg_llava_tiny --help",
)
@click.option("--model", "name", metavar="MODEL", help="Whose recipe it is; left out: the one that has it.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(name: str | None, arguments: tuple[str, ...]) -> int:
    """Train by a recipe: `omgbench train RECIPE ...`; without one, list the recipes.

    RECIPE is a name or a JSON file. `omgbench train RECIPE --help` says what else may be given.
    """
    if not arguments:
        _list()
        return 0
    if arguments[0] in ("-h", "--help"):
        click.echo(click.get_current_context().get_help())
        return 0
    code: int = _owner(name, arguments[0]).train(list(arguments))
    return code


def _list() -> None:
    trainable = _trainable()
    recipes = [(recipe, what) for target in trainable.values() for recipe, what in target.recipes().items()]
    width = max((len(recipe) for recipe, _ in recipes), default=0)
    click.echo("\n".join(f"{recipe:<{width}}  {what}" for recipe, what in recipes) or "no model here can be trained")


def _trainable() -> dict[str, Any]:
    """Installed models that can be trained, by name."""
    from omgbench import registry
    from omgbench.errors import PluginError

    found = {}
    for plugin in registry.plugins("models"):
        # One package that is broken must not keep the others from being found.
        try:
            target = registry.load_target("models", plugin.name)
        except PluginError:
            continue
        if _can_train(target):
            found[plugin.name] = target
    return found


def _can_train(target: Any) -> bool:
    return all(callable(getattr(target, method, None)) for method in ("recipes", "train"))


def _owner(name: str | None, recipe: str) -> Any:
    """The model that has the recipe; for a file, the only one that can be trained."""
    from omgbench import registry
    from omgbench.errors import PluginError, UserError

    if name is not None:
        target = registry.load_target("models", name)
        if _can_train(target):
            return target
        raise PluginError(
            f"model {name!r} cannot be trained",
            expected="a model with `recipes` and `train` (omgbench.contract.HasTraining)",
            hint="omgbench train",
        )
    trainable = _trainable()
    owners = [target for target in trainable.values() if recipe in target.recipes()]
    owners = owners or (list(trainable.values()) if recipe.endswith(".json") else [])
    if len(owners) == 1:
        return owners[0]
    if owners:
        raise UserError(f"several models can be trained: {', '.join(trainable)}", hint="--model NAME")
    raise UserError(
        f"no training recipe is called {recipe!r}",
        expected="a JSON file, or a name that `omgbench train` lists",
        hint="omgbench train",
    )
