"""Settings by dotted key, and which of them tell runs apart."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simulator.compare.metrics import Value
from simulator.errors import ConfigError

MOST_SETTINGS = 20_000
"""Of one run; a file that says more of them was not written by this program."""

UNTOLD = (
    *("report", "counterpart", "regret", "task", "runs", "compare", "seeds", "band", "explore"),
    *("goodput", "name", "tags", "measured", "objective"),
)
"""Groups that do not change what a simulation does."""

WORDS = ("source", "notes", "first_token_source")
"""Names of settings that tell where the others are from."""

POOLS = ("prefill", "decode", "mixed")
DEGREES = ("tp", "pp", "ep", "attention_dp")


def flat(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Return nested settings by dotted key; a list is one value, told as JSON.

    Raises:
        ConfigError: there are too many of them.
    """
    found: dict[str, Value] = {}
    for key, value in _leaves(settings, ""):
        found[key] = value
        if len(found) > MOST_SETTINGS:
            raise ConfigError(f"more than {MOST_SETTINGS:,} settings")
    return found


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Value]]:
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from _leaves(value, key) if value else [(key, "{}")]
        elif value is None or isinstance(value, bool | int | float | str):
            yield key, value
        else:
            yield key, json.dumps(value, default=str)[:MOST_SETTINGS]


def differing(settings: Sequence[Mapping[str, Value]]) -> list[str]:
    """Return the keys that do not have one value in all of ``settings``, in order.

    A setting that some do not have differs. What changes no simulation, or only says where
    something is from, does not count.
    """
    keys: dict[str, None] = {}
    for each in settings:
        keys.update(dict.fromkeys(each))
    return [key for key in keys if _counts(key) and _varied(key, settings)]


def _counts(key: str) -> bool:
    return key.partition(".")[0] not in UNTOLD and key.rpartition(".")[2] not in WORDS


def _varied(key: str, settings: Sequence[Mapping[str, Value]]) -> bool:
    return len({_value(each, key) for each in settings}) > 1


def _value(settings: Mapping[str, Value], key: str) -> tuple[type | None, Value]:
    """Return what tells values apart: 8 and 8.0 are one, 1 and true are not, nor null and none."""
    if key not in settings:
        return None, None
    value = settings[key]
    return (bool if isinstance(value, bool) else float), value


def telling(keys: Sequence[str], settings: Sequence[Mapping[str, Value]]) -> list[str]:
    """Return those of the differing ``keys`` that tell the others.

    Where a group's name or class differs, what it brings along is not told again, and neither is
    what only some runs have and which has one value there, as a pool's settings.
    """
    heads: dict[str, str] = {}
    for key in keys:
        group, _, last = key.rpartition(".")
        if group and (last == "name" or (last == "_target_" and group not in heads)):
            heads[group] = key
    return [
        key
        for key in keys
        if not _below(key, heads) and (key in heads.values() or not _constant(key, settings))
    ]


def _below(key: str, heads: Mapping[str, str]) -> bool:
    """Tell whether ``key`` lies in a group with a head, and is not that."""
    return any(key.startswith(f"{group}.") and key != head for group, head in heads.items())


def _constant(key: str, settings: Sequence[Mapping[str, Value]]) -> bool:
    """Tell whether ``key`` has one value wherever it is there."""
    return len({_value(each, key) for each in settings if key in each}) <= 1


def in_deployment(key: str) -> bool:
    """Tell whether :func:`deployment` says the setting ``key``."""
    group, _, name = key.rpartition(".")
    pools = {f"pools.{pool}" for pool in POOLS}
    layouts = {f"{pool}.layout" for pool in pools}
    return (group in pools and name == "workers") or (group in layouts and name in DEGREES)


def deployment(settings: Mapping[str, Value]) -> str:
    """Return the pools in words: 3 prefill × tp4 + 2 decode × tp4."""
    told = []
    for pool in POOLS:
        workers = settings.get(f"pools.{pool}.workers")
        if workers is not None:
            degrees = [(name, settings.get(f"pools.{pool}.layout.{name}")) for name in DEGREES]
            words = " ".join(
                f"{name}{degree}"
                for name, degree in degrees
                if isinstance(degree, int) and degree > 1
            )
            told.append(f"{workers} {pool} × {words or 'tp1'}")
    return " + ".join(told)
