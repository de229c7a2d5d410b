"""Fingerprint of the code that answers: a class, what it inherits, and every file of its project that it imports.

Own code is what lies beside or below the top-level package (or the single file) that defines a class. What is
installed from elsewhere is not: another distribution is a version in `ModelIdentity.libraries`. The harness is
versioned by its version and commit; of it, only a model of the harness itself counts, with its module's folder and what
that imports of `omgbench.contract` and `omgbench.metrics`.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_HARNESS = "omgbench"
_HARNESS_FOLDERS = ((_HARNESS, "contract"), (_HARNESS, "metrics"))
_INSTALL_FOLDERS = frozenset({"site-packages", "dist-packages"})
_SUFFIXES = (".py", *EXTENSION_SUFFIXES)
_STDLIB = Path(os.__file__).parent
_FRESH_NS = 2_000_000_000
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(...))

_Names = tuple[str, ...]


def code_fingerprint(obj: object) -> str:
    """32 hex digits over the code behind a class, a function, or an instance's class.

    Covered, for the class and each class it inherits from: its module's file and the files of the same project that
    are reached from there by `import` statements, those inside functions included. A module that imports by a computed
    name counts with its whole top-level package. Paths count relative to the project, so that a copy elsewhere has the
    same fingerprint. A class without a file (a notebook cell, `python -c`, standard input) counts with its byte code
    and constants, and with the functions, classes, plain values and project files that it names.

    Not covered: other distributions, the standard library, data files, and modules that a single file imports by a
    computed name. Files are read as they are on disk, whatever was imported before they changed.
    """
    target = obj
    while isinstance(target, functools.partial):
        target = target.func
    if not isinstance(target, type | FunctionType):
        target = type(target)
    classes = target.__mro__ if isinstance(target, type) else (target,)
    cover = _Cover(home=_top(target.__module__))
    for each in classes:
        cover.add_definition(each)
    digest = hashlib.blake2b(target.__qualname__.encode(), digest_size=16)
    for name, content in sorted(cover.pieces):
        digest.update(f"\0{name}\0{content}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _top(module: str) -> str:
    return module.partition(".")[0]


@dataclass
class _Cover:
    """What a fingerprint covers.

    Attributes:
        home: top-level name of the module that defines the fingerprinted object.
        pieces: (path relative to the project, digest of the bytes), or (name of a live object, digest of its code).
        seen: live functions and classes already walked, by id, kept alive so that no id is used twice.
        files: module files already followed.
    """

    home: str
    pieces: set[tuple[str, str]] = field(default_factory=set)
    seen: dict[int, object] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)

    def add_definition(self, definition: Any) -> None:
        """A class or function: by its file, or by its byte code where there is none."""
        name = str(definition.__module__ or "")
        if _is_builtin(definition) or name.startswith(f"{_HARNESS}.contract"):
            return
        module = sys.modules.get(name)
        path = source_file(module)
        if path is None:
            if not _is_of_interpreter(name):
                text = _LiveCode(self).text_of(definition)
                self.pieces.add((definition.__qualname__, _digest(text.encode())))
        else:
            self.add_file(path, name)

    def add_file(self, path: Path, module: str) -> None:
        """A module's file with its imports, unless it is of the standard library or of another distribution."""
        if path in self.files:
            return
        self.files.add(path)
        root = _root_of(path, module)
        if _is_stdlib(path) or (_top(module) not in (self.home, _HARNESS) and _is_install_folder(root)):
            return
        searched = (root,) if "." in module or path.parent == root else (root, path.parent)
        scope = _Scope(root, _folders_of(path, root), searched)
        parents = scope.find(root, path.relative_to(root).with_suffix("").parts)
        for file, facts in scope.closure([path, *parents]).items():
            self.pieces.add((file.relative_to(root).as_posix(), facts.digest))

    def add_module(self, name: str) -> None:
        """A module that live code names, found without importing it."""
        if _top(name) == _HARNESS:
            return
        try:
            spec = importlib.util.find_spec(_top(name))
        except (ImportError, ValueError):
            return
        if spec is None or not (spec.has_location or spec.submodule_search_locations):
            return
        places = [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
        for folder in {place.absolute().parent for place in places}:
            for file in _Scope(folder, (), (folder,)).find(folder, tuple(name.split("."))):
                self.add_file(file, ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"))


def source_file(module: ModuleType | None) -> Path | None:
    """The file a module was loaded from; None for notebooks, `python -c`, standard input, archives and built-ins."""
    name = getattr(module, "__file__", None)
    if not isinstance(name, str) or not Path(name).is_file():
        return None
    return Path(name).absolute()


def _is_builtin(definition: Any) -> bool:
    # A class made by exec in bare globals claims to be of builtins too.
    return definition.__module__ == "builtins" and getattr(builtins, definition.__name__, None) is definition


def _is_of_interpreter(module: str) -> bool:
    return module != "builtins" and _top(module) in sys.stdlib_module_names


def _is_stdlib(path: Path) -> bool:
    return path.is_relative_to(_STDLIB) and not _INSTALL_FOLDERS & set(path.parts)


def _is_install_folder(root: Path) -> bool:
    return bool(_INSTALL_FOLDERS & set(root.parts)) or any(name.endswith(".dist-info") for name in _listed(root))


def _root_of(path: Path, module: str) -> Path:
    """The folder that holds the top-level package of a module's file, or the file itself."""
    own = path.with_suffix("").parts
    own = own[:-1] if own[-1] == "__init__" else own
    names = tuple(module.split("."))
    root = Path(*own[: -len(names)]) if own[-len(names) :] == names else path.parent
    while (root / "__init__.py").is_file() and root.parent != root:
        root = root.parent
    return root


def _folders_of(path: Path, root: Path) -> tuple[_Names, ...]:
    """Where below the root own code may lie, as leading parts of relative paths; empty = anywhere."""
    parts = path.relative_to(root).parts
    if parts[0] == _HARNESS:
        return (parts[:-1], *_HARNESS_FOLDERS)
    return (parts[:1],) if _is_install_folder(root) else ()


@dataclass
class _Scope:
    """The own code around one module.

    Attributes:
        root: the project's folder; every path is relative to it.
        folders: leading parts of the relative paths that are own code; empty = all but the harness.
        searched: folders in which an absolute import is looked up.
    """

    root: Path
    folders: tuple[_Names, ...]
    searched: tuple[Path, ...]
    listings: dict[Path, frozenset[str]] = field(default_factory=dict)
    found: dict[tuple[Path, _Names], tuple[Path, ...]] = field(default_factory=dict)

    def closure(self, start: Iterable[Path]) -> dict[Path, _Facts]:
        """The files and every file of the scope that they import, directly or not."""
        todo = list(start)
        facts: dict[Path, _Facts] = {}
        while todo:
            file = todo.pop()
            if file not in facts:
                facts[file] = _facts(file)
                todo += self._imported_by(file, facts[file])
        return facts

    def _imported_by(self, file: Path, facts: _Facts) -> Iterator[Path]:
        for level, names in facts.imports:
            if not level:
                for folder in self.searched:
                    yield from self.find(folder, names)
            elif level <= len(file.relative_to(self.root).parts):
                yield from self.find(file.parents[level - 1], ("", *names))
        parts = file.relative_to(self.root).parts
        if facts.imports_by_computed_name and len(parts) > 1:
            yield from filter(self._holds, (self.root / parts[0]).rglob("*.py"))

    def find(self, folder: Path, names: _Names) -> tuple[Path, ...]:
        """The files that an import of the dotted name looked up in `folder` runs, packages' `__init__` included; a
        first name "" stands for the folder itself."""
        key = (folder, names)
        if key not in self.found:
            self.found[key] = tuple(file for file in self._files(folder, names) if self._holds(file))
        return self.found[key]

    def _files(self, folder: Path, names: _Names) -> Iterator[Path]:
        for name in names:
            listing = self._listing(folder)
            if name and name not in listing and not any(name + suffix in listing for suffix in _SUFFIXES):
                return
            yield from (folder / (name + suffix) for suffix in _SUFFIXES if name and name + suffix in listing)
            folder /= name
            if "__init__.py" in self._listing(folder):
                yield folder / "__init__.py"

    def _holds(self, file: Path) -> bool:
        if not file.is_relative_to(self.root):
            return False
        parts = file.relative_to(self.root).parts
        if not self.folders:
            return parts[0] != _HARNESS
        return any(parts[: len(folder)] == folder for folder in self.folders)

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self.listings:
            self.listings[folder] = _listed(folder)
        return self.listings[folder]


def _listed(folder: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except OSError:
        return frozenset()


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a file says: the digest of its bytes, its imports as (level, dotted name), and whether it also imports
    by a name that only the running program knows."""

    digest: str
    imports: tuple[tuple[int, _Names], ...] = ()
    imports_by_computed_name: bool = False


def _facts(file: Path) -> _Facts:
    try:
        state = file.stat()
        if time.time_ns() - state.st_mtime_ns < _FRESH_NS:
            # Two writes may fall into one tick of the file system's clock.
            return _read(file)
        return _read_once(file, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    except OSError:
        return _Facts("unreadable")


@functools.lru_cache(maxsize=8192)
def _read_once(file: Path, *_state: int) -> _Facts:
    return _read(file)


def _read(file: Path) -> _Facts:
    content = file.read_bytes()
    if file.suffix != ".py":
        return _Facts(_digest(content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _Facts(_digest(content))
    may_call = b"import_module" in content or b"__import__" in content
    nodes = list(ast.walk(tree)) if may_call else list(_statements(tree))
    names = [_called_name(node) for node in nodes if isinstance(node, ast.Call) and _calls_import(node)]
    imports = {entry for node in nodes for entry in _import_statement(node)}
    imports |= {_dotted(name) for name in names if name is not None}
    return _Facts(_digest(content), tuple(sorted(imports)), None in names)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, None)
            # The body of a lambda or a conditional expression is one expression and holds no import.
            if isinstance(inner, list):
                todo += inner


def _import_statement(node: ast.AST) -> Iterator[tuple[int, _Names]]:
    if isinstance(node, ast.Import):
        yield from ((0, tuple(alias.name.split("."))) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = tuple(node.module.split(".")) if node.module else ()
        yield from ((node.level, (*base, alias.name)) for alias in node.names)


def _calls_import(node: ast.Call) -> bool:
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
    return name in ("import_module", "__import__")


def _called_name(node: ast.Call) -> str | None:
    first = node.args[0] if node.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _dotted(name: str) -> tuple[int, _Names]:
    bare = name.lstrip(".")
    return len(name) - len(bare), tuple(bare.split("."))


@dataclass
class _LiveCode:
    """Text of objects that have no file: equal in every process for equal code, line numbers left out."""

    cover: _Cover
    open: set[int] = field(default_factory=set)

    def text_of(self, value: object) -> str:
        """Plain values by their repr, containers by their members, code by its byte code, other objects by class."""
        if isinstance(value, _SIMPLE):
            return repr(value)
        if isinstance(value, tuple | list | set | frozenset | dict):
            return self._container(value)
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, ModuleType):
            self.cover.add_module(value.__name__)
            return value.__name__
        inner = _wrapped(value)
        if inner:
            return self.text_of(inner)
        return self._definition(value if isinstance(value, type | FunctionType) else type(value))

    def _container(self, value: Collection[object]) -> str:
        if id(value) in self.open:
            return "itself"
        self.open.add(id(value))
        members = value.items() if isinstance(value, dict) else value
        texts = [self.text_of(member) for member in members]
        self.open.remove(id(value))
        # The order of a set, in byte code too, differs from process to process.
        return f"[{','.join(texts if isinstance(value, tuple | list) else sorted(texts))}]"

    def _definition(self, value: type | FunctionType) -> str:
        name = value.__qualname__
        if id(value) in self.cover.seen or _is_builtin(value) or _top(value.__module__ or "") == _HARNESS:
            return name
        self.cover.seen[id(value)] = value
        module = value.__module__ or ""
        path = source_file(sys.modules.get(module))
        if path is not None:
            self.cover.add_file(path, module)
            return name
        if _is_of_interpreter(module):
            return name
        return name + (self._class(value) if isinstance(value, type) else self._function(value))

    def _class(self, cls: type) -> str:
        texts = [self.text_of(cls.__bases__)]
        for name, value in sorted(vars(cls).items()):
            # Other special attributes are the interpreter's notes: line numbers, documentation, weak references.
            special = name.startswith("__") and name.endswith("__")
            if not special or isinstance(value, FunctionType) or _wrapped(value):
                texts.append(f"{name}={self.text_of(value)}")
        return f"({';'.join(texts)})"

    def _function(self, function: FunctionType) -> str:
        cells = [_cell_value(cell) for cell in function.__closure__ or ()]
        codes = list(_nested(function.__code__))
        names = sorted({name for code in codes for name in code.co_names} & set(function.__globals__))
        for dotted in sorted({dotted for code in codes for dotted in _imported_in(code)}):
            self.cover.add_module(dotted)
        parts: list[object] = [function.__code__, function.__defaults__, function.__kwdefaults__, cells]
        parts += [(name, function.__globals__[name]) for name in names]
        return self.text_of(parts)

    def _code(self, code: CodeType) -> str:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        return self.text_of((code.co_code, code.co_exceptiontable, code.co_consts, names, counts))


def _wrapped(value: object) -> list[object]:
    """The functions inside a method, property, partial or decorated function."""
    if isinstance(value, type | FunctionType):
        return []
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, functools.cached_property):
        return [value.func]
    if isinstance(value, staticmethod | classmethod | MethodType):
        return [value.__func__]
    inner = inspect.getattr_static(value, "__wrapped__", None)
    return [inner] if isinstance(inner, FunctionType) else []


def _cell_value(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _nested(value)


def _imported_in(code: CodeType) -> Iterator[str]:
    base = ""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            base = step.argval
            yield base
        elif step.opname == "IMPORT_FROM":
            yield f"{base}.{step.argval}"
