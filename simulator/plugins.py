"""Classes that users bring along: where they lie, what they are made of, and whose mistake it was.

A ``_target_`` outside this program's packages names a plug-in. Its source is part of a run's
identity, and what goes wrong inside of it is told as its own mistake, in one sentence.
"""

import ast
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError

TARGET = "_target_"
OWN = ("simulator", "workloads", "hardware")
INSTALLED = ("site-packages", "dist-packages")


def is_own(target: object) -> bool:
    """Tell whether the dotted name ``target`` lies in a package of this program."""
    return isinstance(target, str) and target.partition(".")[0] in OWN


def plug_ins(plain: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key and the dotted name of every plug-in that the settings name, in order."""
    if isinstance(plain, Mapping):
        target = plain.get(TARGET)
        if isinstance(target, str) and not is_own(target):
            yield key, target
        nested = [(f"{key}.{name}" if key else str(name), value) for name, value in plain.items()]
    elif isinstance(plain, list | tuple):
        nested = [(f"{key}[{at}]", value) for at, value in enumerate(plain)]
    else:
        return
    for inner, value in nested:
        yield from plug_ins(value, inner)


def add_folders(config_dir: str | None) -> None:
    """Let modules in and beside the folder of a user's settings be imported, after all others."""
    if config_dir is None:
        return
    folder = Path(config_dir).absolute()
    for each in (str(folder), str(folder.parent)):
        if each not in sys.path:
            sys.path.append(each)


def sources(target: str) -> tuple[Path, ...]:
    """Return the files a plug-in is made of: its module, and what that imports from beside it.

    That is what lies in the same folder or package; of an installed package, only in the package.
    Empty where the module has no file, as in a notebook.
    """
    module = target.rpartition(".")[0]
    origin = _origin(module)
    if origin is None:
        return ()
    depth = module.count(".") + (origin.name == "__init__.py")
    root = origin.parents[depth]
    top = module.partition(".")[0] if root.name in INSTALLED else ""
    found: dict[Path, None] = {}
    waiting = [origin]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = None
            waiting += [
                each for each in _imported(path, root) if not top or _inside(each, root, top)
            ]
    return tuple(sorted(found))


def source_digest(target: str) -> str:
    """Return the SHA-256 of a plug-in's :func:`sources`, or ``unknown``."""
    files = sources(target)
    if not files:
        return "unknown"
    parts = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def fault(error: BaseException, plain: object) -> str | None:
    """Return a sentence on the plug-in in which ``error`` was raised, ``None`` if in none."""
    owners = {path: named for named in plug_ins(plain) for path in sources(named[1])}
    for each in _chain(error):
        for frame in reversed(traceback.extract_tb(each.__traceback__)):
            path = Path(frame.filename).absolute()
            if path in owners:
                key, target = owners[path]
                where = f"{path.name}, line {frame.lineno}, in {frame.name}"
                return f"{key}: {target} raised {words(each)} ({where})"
    return None


def check_methods(built: object, protocol: type, key: str) -> None:
    """Refuse an object whose methods cannot be called as ``protocol`` says.

    Raises:
        ConfigError: naming the method, what it must take and what it takes.
    """
    for name, asked in inspect.getmembers(protocol, inspect.isfunction):
        if not name.startswith("_"):
            _check_method(built, name, asked, key)


def words(error: BaseException) -> str:
    """Return an error's kind and text in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check_method(built: object, name: str, asked: Any, key: str) -> None:
    owner = f"{type(built).__module__}.{type(built).__qualname__}"
    method = getattr(built, name, None)
    wanted = list(inspect.signature(asked).parameters.values())[1:]
    positional = [each.name for each in wanted if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = [each.name for each in wanted if each.kind is inspect.Parameter.KEYWORD_ONLY]
    told = ", ".join([*positional, *(f"{each}=…" for each in keywords)])
    if not callable(method):
        raise ConfigError(f"{key}: {owner}.{name} must be a method that takes ({told})")
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # made in C: it does not say
        return
    try:
        signature.bind(*positional, **dict.fromkeys(keywords))
    except TypeError as error:
        raise ConfigError(
            f"{key}: {owner}.{name} must take ({told}) but takes {signature}"
        ) from error


def _origin(module: str) -> Path | None:
    """Return the file of a module, importing at most the packages it lies in."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # whatever the package raises is told where the plug-in is built
        return None
    known = spec is not None and spec.has_location and spec.origin is not None
    return Path(str(spec.origin)).absolute() if spec is not None and known else None


def _imported(path: Path, root: Path) -> Iterator[Path]:
    """Yield the files below ``root`` that the module in ``path`` imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # not Python, or not yet: its own content counts
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(root, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else root
            parts = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files(base, [*parts, alias.name])


def _files(base: Path, parts: list[str]) -> Iterator[Path]:
    """Yield the module files on the way from ``base`` down the dotted name ``parts``."""
    for size in range(1, len(parts) + 1):
        place = base.joinpath(*parts[:size])
        for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if path.is_file():
                yield path


def _inside(path: Path, root: Path, top: str) -> bool:
    return path.relative_to(root).parts[0] in (top, f"{top}.py")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
