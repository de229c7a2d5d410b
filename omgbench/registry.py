"""Names to plug-ins: entry points, files and import paths. Nothing is imported in order to list."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from omgbench.contract import Capabilities, Model, Task, TaskInfo
from omgbench.errors import OmgbenchError, PluginError

Kind = Literal["tasks", "models"]
_NAME = re.compile(r"[A-Za-z0-9][\w.+]*", re.ASCII)
"""No `-`: it parts task, subset and split in the names of folders."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One registered name.

    Attributes:
        kind: tasks or models.
        name: the registered name.
        target: `module:attribute`.
        distribution: the package that registers it.
        version: that package's version.
    """

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str


def plugins(kind: Kind) -> list[Plugin]:
    """Every registered plug-in of a kind, by name; a name that two packages register stands twice."""
    found = {
        Plugin(kind, point.name, point.value, point.dist.name, point.dist.version)
        for point in entry_points(group=f"omgbench.{kind}")
        if point.dist is not None
    }
    return sorted(found, key=lambda plugin: (plugin.name, plugin.distribution))


def find(kind: Kind, name: str) -> Plugin:
    """The plug-in of that name. Raises `PluginError` with the nearest names, or naming both packages of a clash."""
    known = plugins(kind)
    matches = [plugin for plugin in known if plugin.name == name]
    if len(matches) > 1:
        owners = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in matches)
        raise PluginError(
            f"the {kind[:-1]} name {name!r} is registered by two packages: {owners}",
            expected="one package per name",
            hint=f"uninstall one of them, or name the class itself: {matches[0].target}",
        )
    if not matches:
        raise _unknown(kind, name, [plugin.name for plugin in known])
    return matches[0]


def match(kind: Kind, pattern: str) -> list[str]:
    """Names that a shell pattern (`refcoco*`) stands for; a plain name stands for itself."""
    if not any(character in pattern for character in "*?["):
        return [find(kind, pattern).name]
    names = sorted({plugin.name for plugin in plugins(kind)})
    found = fnmatch.filter(names, pattern)
    if not found:
        raise _unknown(kind, pattern, names)
    return found


def _unknown(kind: Kind, name: str, known: list[str]) -> PluginError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    other = "" if kind == "tasks" else " (or file.py:Class, or package.module:Class)"
    return PluginError(
        f"no {kind[:-1]} is named {name!r}",
        expected=f"one of: {', '.join(sorted(set(known))) or 'none is installed'}{other}",
        hint=f"{hint}omgbench {kind} lists what is installed",
    )


def load_target(kind: Kind, spec: str) -> object:
    """The object that a spec names: a registered name, `file.py:attribute` or `package.module:attribute`."""
    if ":" not in spec:
        plugin = find(kind, spec)
        return _attribute(plugin.target, f"{kind[:-1]} {plugin.name!r} of {plugin.distribution} {plugin.version}")
    return _attribute(spec, f"{kind[:-1]} {spec!r}")


def _attribute(target: str, owner: str) -> object:
    location, _, attribute = target.rpartition(":")
    module = _load_file(Path(location), owner) if location.endswith(".py") else _import(location, owner)
    try:
        found: object = getattr(module, attribute)
    except AttributeError:
        names = [name for name in vars(module) if not name.startswith("_")]
        near = difflib.get_close_matches(attribute, names, n=3)
        raise PluginError(
            f"{owner}: {location} has no attribute {attribute!r}",
            expected=f"a class or function; near that name: {', '.join(near) or 'nothing'}",
        ) from None
    return found


def _import(name: str, owner: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _broken(owner, name, error) from error


def _load_file(path: Path, owner: str) -> ModuleType:
    if not path.is_file():
        raise PluginError(
            f"{owner}: the file {path} does not exist" if not path.exists() else f"{owner}: {path} is not a file",
            expected="path/to/file.py:Class",
            hint="check the path",
        )
    # The name holds the path, so that two files called model.py do not shadow each other, and the content, so that a
    # file that was edited is loaded anew.
    key = str(path.resolve()).encode() + b"\0" + path.read_bytes()
    name = f"omgbench_file_{hashlib.sha256(key).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{owner}: {path} is not a Python file that can be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(owner, str(path), error) from error
    return module


def _broken(owner: str, where: str, error: BaseException) -> PluginError:
    hint = "its author can mend it; other plug-ins keep working"
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"pip install {error.name}, or check the name"
    return PluginError(f"{owner} could not be imported: {type(error).__name__}: {error}", where=where, hint=hint)


def build(kind: Kind, spec: str, arguments: Mapping[str, Any] | None = None) -> object:
    """Build the task or model a spec names, passing `arguments` to its constructor.

    An attribute that is already an instance is taken as it is. Raises `PluginError` for anything the plug-in raises.
    """
    target = load_target(kind, spec)
    if not callable(target):
        if arguments:
            raise PluginError(f"{kind[:-1]} {spec!r} is an instance and takes no arguments", where=str(arguments))
        return target
    try:
        return cast("Callable[..., object]", target)(**(arguments or {}))
    except TypeError as error:
        raise PluginError(
            f"{kind[:-1]} {spec!r} could not be built with {dict(arguments or {})}: {error}",
            hint="see its arguments with: omgbench models NAME" if kind == "models" else None,
        ) from error
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{kind[:-1]} {spec!r} could not be built: {type(error).__name__}: {error}") from error


def build_model(spec: str, arguments: Mapping[str, Any] | None = None) -> Model:
    """Build a model; see `build`. Raises `PluginError` when a method of the contract is missing."""
    model = build("models", spec, arguments)
    _require_methods(model, spec, ("capabilities", "load", "identity", "respond", "close"))
    return cast(Model, model)


def build_task(spec: str) -> Task:
    """Build a task; see `build`. Raises `PluginError` for a missing method and for an `info` that cannot be used."""
    task = build("tasks", spec)
    _check_info(task, spec)
    _require_methods(task, spec, ("info", "samples", "score", "summarize"))
    return cast(Task, task)


def _check_info(task: object, spec: str) -> None:
    try:
        info = task.info  # type: ignore[attr-defined]
    except AttributeError:
        # Named with all the others that lack.
        return
    except Exception as error:
        raise PluginError(f"task {spec!r}: info raised {type(error).__name__}: {error}") from error
    if not isinstance(info, TaskInfo):
        raise PluginError(f"task {spec!r}: info is a {type(info).__name__}", expected="omgbench.contract.TaskInfo")
    names = [info.name, *(split.name for split in info.splits), *(split.subset or "x" for split in info.splits)]
    for name in names:
        if not _NAME.fullmatch(name):
            raise PluginError(
                f"task {spec!r}: the name {name!r} of task, subset or split",
                expected="letters, digits and _ . +, beginning with a letter or digit",
            )


def capabilities_of(model: Model, spec: str) -> Capabilities:
    """What a model declares. Raises `PluginError` when it raises or gives something else."""
    try:
        found: object = model.capabilities()
    except OmgbenchError:
        raise
    except Exception as error:
        raise PluginError(
            f"model {spec!r}: capabilities() raised {type(error).__name__}: {error}",
            hint="it is asked before load() and must not need weights",
        ) from error
    if not isinstance(found, Capabilities):
        raise PluginError(
            f"model {spec!r}: capabilities() gave a {type(found).__name__}",
            expected="omgbench.contract.Capabilities",
            hint="omgbench check-adapter names every broken rule",
        )
    return found


def tasks_in_file(path: Path) -> dict[str, str]:
    """Names of the tasks that a Python file defines, each with its spec `path:attribute` (`--task-file`).

    `file.py` takes every class or instance in it that is a task; `file.py:attribute` and `package.module:attribute`
    take that one, which may also be a function that gives a task.
    """
    if ":" in path.name and not path.exists():
        return {build_task(str(path)).info.name: str(path)}
    module = _load_file(path, f"task file {path}")
    found: dict[str, str] = {}
    for attribute, value in vars(module).items():
        own = getattr(value, "__module__", module.__name__) == module.__name__
        if attribute.startswith("_") or not own or not _looks_like_task(value):
            continue
        spec = f"{path}:{attribute}"
        found[build_task(spec).info.name] = spec
    if not found:
        raise PluginError(
            f"{path} defines no task",
            expected="a class or instance with info, samples, score and summarize",
            hint="see docs/add_a_task.md",
        )
    return found


def _looks_like_task(value: object) -> bool:
    return all(hasattr(value, name) for name in ("info", "samples", "score", "summarize"))


def _require_methods(thing: object, spec: str, names: tuple[str, ...]) -> None:
    lacking = [name for name in names if not hasattr(thing, name)]
    if lacking:
        raise PluginError(
            f"{spec!r} gives a {type(thing).__name__} without {', '.join(lacking)}",
            expected="the roles of omgbench.contract",
            hint="omgbench check-adapter or omgbench check-task names every broken rule",
        )


def plugin_folder(plugin: Plugin) -> Path | None:
    """The folder that holds the plug-in's module, found on the import path without importing anything."""
    parts = plugin.target.partition(":")[0].split(".")[:-1]
    for root in sys.path:
        folder = Path(root or ".", *parts)
        if parts and (folder / "__init__.py").is_file():
            return folder
    return None
