"""From a plain nested mapping, as a YAML file gives it, to checked objects.

A mapping with ``_target_`` becomes what that dotted name builds; without it, what the field it is
meant for is declared as. Keys are compared with the constructor's, values with its annotations,
and every error names the key by its full path (``pools.prefill.workers``).
"""

import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Union

from simulator.errors import USER_ERRORS, ConfigError
from simulator.nearest import dotted, nearest, suggest
from simulator.plugins import TARGET, check_methods, is_own, words

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def build(node: object, expected: object, key: str) -> Any:
    """Return what the value ``node`` at ``key`` stands for, as an ``expected`` annotation asks.

    Raises:
        ConfigError: an unknown or missing key, a value of another type, a ``_target_`` that
            cannot be imported, or a constructor that refuses what it got.
    """
    if isinstance(node, Mapping):
        return _build_mapping(node, expected, key)
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        return _build_union(node, arguments, key)
    if origin is Literal:
        return _choice(node, arguments, key)
    if isinstance(node, Sequence) and not isinstance(node, str):
        return _build_sequence(node, expected, key)
    return _scalar(node, expected, key)


class UnknownSettingError(ConfigError):
    """There is no setting ``name`` here; perhaps there is one above."""

    def __init__(self, key: str, name: str, text: str) -> None:
        super().__init__(text)
        self.key, self.name = key, name


def check_keys(
    node: Mapping[str, object],
    known: Iterable[str],
    required: Iterable[str],
    key: str,
    below: Iterable[str] = (),
) -> None:
    """Refuse the first key of ``node`` that is not ``known`` and the first ``required`` one absent.

    ``below`` are dotted keys that ``node`` may have deeper down beside those that it has.

    Raises:
        ConfigError: naming the key, and the closest known one.
    """
    known = list(known)
    for name in node:
        if name not in known:
            right = {each: value for each, value in node.items() if each in known}
            deeper = [_join(key, each) for each in (*dotted(right), *below)]
            text = unknown(_join(key, str(name)), known, deeper)
            raise UnknownSettingError(_join(key, str(name)), str(name), text)
    for name in required:
        if name not in node:
            raise ConfigError(f"{_join(key, name)} is missing")


@contextmanager
def looking_up(known: Iterable[str], key: str) -> Iterator[None]:
    """Point to the setting of ``known`` at ``key`` when one of that name is unknown further down.

    Raises:
        ConfigError: as what is done within, with the better hint.
    """
    try:
        yield
    except UnknownSettingError as error:
        if error.name not in known:
            raise
        meant = _join(key, error.name)
        text = f"{error.key}: no such setting; did you mean {meant}?"
        raise UnknownSettingError(error.key, "", text) from error


TOLD = 9
"""Names listed of a group of settings; of a longer one the first."""

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "explore.rate_matching.gpus": "explore.total_gpus is the budget of the whole deployment",
        "explore=budget": "explore.total_gpus=N is the budget of the whole deployment, whatever "
        "the rate matching",
    }
)
"""Settings and choices there were once, and what to give in their place."""


def unknown(key: str, known: Sequence[str], tree: Sequence[str] = ()) -> str:
    """Return that there is no setting ``key``, and which of ``known``, or of others, was meant.

    ``tree`` are the full keys of the settings around it.
    """
    meant = RENAMED.get(key) or nearest(key, known, tree)
    if not known and meant == suggest(key.rpartition(".")[2], known):
        meant = f"there is none yet, +{key}=… adds it"
    return f"{key}: no such setting; {meant}"


def locate(target: object, key: str) -> Callable[..., Any]:
    """Return the class or function the dotted name ``target`` stands for.

    Raises:
        ConfigError: it is not a dotted name, or cannot be imported.
    """
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if not module:
        raise ConfigError(
            f"{key}.{TARGET} must be a dotted name such as package.module.Class but got {target!r}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}.{TARGET}: cannot import {target!r}: {error}") from error
    except Exception as error:
        if is_own(target):
            raise
        raise ConfigError(f"{key}.{TARGET}: importing {module} raised {words(error)}") from error
    if not callable(found):
        raise ConfigError(f"{key}.{TARGET}: {target!r} is not a class or function")
    return typing.cast(Callable[..., Any], found)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _build_mapping(node: Mapping[str, object], expected: object, key: str) -> Any:
    if TARGET in node:
        constructor = locate(node[TARGET], key)
        built = _call(constructor, {k: v for k, v in node.items() if k != TARGET}, key)
        _check_kind(built, expected, key)
        return built
    choices = _alternatives(expected)
    plain = next((c for c in choices if typing.get_origin(c) in (dict, Mapping) or c is dict), None)
    if plain is not None:
        inner = (typing.get_args(plain) or (object, object))[1]
        return {name: build(value, inner, _join(key, name)) for name, value in node.items()}
    own = next((c for c in choices if _constructible(c)), None)
    if own is not None:
        return _call(own, node, key)
    if expected in (Any, object):
        return {name: build(value, object, _join(key, name)) for name, value in node.items()}
    if any(isinstance(each, type) and each not in (*_WORDS, type(None)) for each in choices):
        raise ConfigError(f"{key}.{TARGET} is missing: name the class this setting builds")
    raise ConfigError(f"{key} must be {_describe(expected)} but got a group of settings")


def _call(constructor: Callable[..., Any], node: Mapping[str, object], key: str) -> Any:
    """Build the arguments of ``constructor`` and call it, naming ``key`` in what it refuses."""
    parameters = _parameters(constructor)
    required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty]
    annotations = _annotations(constructor)
    check_keys(node, parameters, required, key, _below(annotations))
    with looking_up(parameters, key):
        values = {
            name: build(value, annotations.get(name, Any), _join(key, name))
            for name, value in node.items()
        }
    try:
        return constructor(**values)
    except USER_ERRORS as error:
        raise type(error)(_at(key, str(error))) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(_at(key, str(error))) from error


def _below(annotations: Mapping[str, object]) -> Iterator[str]:
    """Yield the dotted keys one level down, of the parameters that can only be one class."""
    for name, annotation in annotations.items():
        for choice in _alternatives(annotation):
            if _constructible(choice):
                yield from (f"{name}.{inner}" for inner in _parameters(choice))


def _at(key: str, problem: str) -> str:
    """Return ``problem`` with ``key`` before it, in place of the end of it that it begins with."""
    owner, _, text = problem.partition(": ")
    return f"{key}: {text}" if owner == key.rpartition(".")[2] else f"{key}: {problem}"


def _parameters(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(constructor)
    return {name: p for name, p in signature.parameters.items() if p.kind in named}


def _annotations(constructor: Callable[..., Any]) -> dict[str, object]:
    is_class = isinstance(constructor, type) and not _is_record(constructor)
    owner = inspect.getattr_static(constructor, "__init__") if is_class else constructor
    try:
        return typing.get_type_hints(owner)
    except (NameError, TypeError) as error:
        raise ConfigError(f"the annotations of {constructor!r} cannot be read: {error}") from error


def _alternatives(expected: object) -> tuple[Any, ...]:
    if typing.get_origin(expected) in (Union, types.UnionType):
        return typing.get_args(expected)
    return (expected,)


def _constructible(expected: object) -> bool:
    """Whether settings without ``_target_`` can only mean this class: a concrete one of ours."""
    return (
        isinstance(expected, type)
        and not getattr(expected, "_is_protocol", False)
        and not inspect.isabstract(expected)
        and expected.__module__ != "builtins"
    )


def _check_kind(built: object, expected: object, key: str) -> None:
    """Refuse an object of another class; a protocol is checked by the methods it asks for."""
    found = next((each for each in _alternatives(expected) if _is_kind(built, each)), None)
    if found is None:
        raise ConfigError(f"{key} must be {_describe(expected)} but got a {type(built).__name__}")
    if getattr(found, "_is_protocol", False):
        check_methods(built, found, key)


def _is_kind(built: object, choice: Any) -> bool:
    if not isinstance(choice, type):
        return True
    if getattr(choice, "_is_protocol", False):
        names = [n for n in vars(choice) if not n.startswith("_")]
        return all(hasattr(built, name) for name in names)
    return isinstance(built, choice)


def _build_union(node: object, choices: Sequence[object], key: str) -> Any:
    if node is None and type(None) in choices:
        return None
    kept = [choice for choice in choices if choice is not type(None)]
    if len(kept) == 1:
        return build(node, kept[0], key)
    for choice in kept:
        try:
            return build(node, choice, key)
        except ConfigError:
            continue
    raise ConfigError(f"{key} must be {_words(choices)} but got {node!r}")


def _build_sequence(node: Sequence[object], expected: object, key: str) -> Any:
    record = next((each for each in _alternatives(expected) if _is_record(each)), None)
    if record is not None:
        return _build_record(node, record, key)
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected in (Any, object):
        return tuple(build(value, Any, f"{key}[{at}]") for at, value in enumerate(node))
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(node) != len(arguments):
            raise ConfigError(f"{key} must be {len(arguments)} values but got {list(node)!r}")
        inner = list(arguments)
    elif origin in (tuple, list, Sequence):
        inner = [arguments[0]] * len(node)
    else:
        raise ConfigError(f"{key} must be {_describe(expected)} but got {list(node)!r}")
    values = (
        build(v, i, f"{key}[{at}]") for at, (v, i) in enumerate(zip(node, inner, strict=True))
    )
    return list(values) if origin is list else tuple(values)


def _is_record(expected: object) -> bool:
    """Whether this is a NamedTuple's class, which a list may stand for."""
    return (
        isinstance(expected, type) and issubclass(expected, tuple) and hasattr(expected, "_fields")
    )


def _build_record(node: Sequence[object], record: Any, key: str) -> Any:
    names = list(_parameters(record))
    if len(node) != len(names):
        raise ConfigError(f"{key} must be [{', '.join(names)}] but got {list(node)!r}")
    return _call(record, dict(zip(names, node, strict=True)), key)


def _choice(node: object, choices: Sequence[object], key: str) -> object:
    if node not in choices:
        raise ConfigError(f"{key} must be one of {', '.join(map(str, choices))} but got {node!r}")
    return node


def _scalar(node: object, expected: Any, key: str) -> Any:
    if expected is int and isinstance(node, float) and node.is_integer():
        return int(node)  # 1e6 is a float to YAML
    if expected is float and isinstance(node, int) and not isinstance(node, bool):
        if abs(node) > sys.float_info.max:
            raise ConfigError(f"{key} must be a number of at most 308 digits")
        return float(node)
    if expected is Path and isinstance(node, str):
        return Path(node)
    if expected in _WORDS and type(node) is not expected:
        raise ConfigError(f"{key} must be {_WORDS[expected]} but got {node!r}")
    own = next((each for each in _alternatives(expected) if is_dataclass(each)), None)
    if own is not None:
        raise ConfigError(f"{key} must be {_group(own)} but got {node!r}")
    if expected not in (Any, object, *_WORDS):
        raise ConfigError(f"{key} must be {_describe(expected)} but got {node!r}")
    return node


def _group(kind: Any) -> str:
    """Return in words the group of settings that a class of ours is built from."""
    names = list(_parameters(kind))
    told = names if len(names) <= TOLD else [*names[:TOLD], "…"]
    return f"a group of settings ({', '.join(told)})"


def _describe(expected: object) -> str:
    return _words(_alternatives(expected))


def _words(choices: Sequence[Any]) -> str:
    names = (_WORDS.get(choice) or getattr(choice, "__name__", str(choice)) for choice in choices)
    plain = {"NoneType": "null", "tuple": "a list", "list": "a list", "Sequence": "a list"}
    return " or ".join(plain.get(name, name) for name in names)
