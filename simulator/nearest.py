"""Which setting was meant: the one of that name below, above or elsewhere, or one spelled alike."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

ALIKE, RATHER_ALIKE = 0.6, 0.75
"""How similar two names are (difflib's ratio) beside each other, and anywhere."""

MOST = 3
"""So many settings of one name are told, no more."""


def dotted(node: Mapping[str, object], key: str = "") -> Iterator[str]:
    """Yield the full key of every setting in a nested mapping, groups before what they hold."""
    for name, value in node.items():
        if not str(name).startswith("_"):
            full = f"{key}.{name}" if key else str(name)
            yield full
            if isinstance(value, Mapping):
                yield from dotted(value, full)


def suggest(name: object, known: Sequence[str]) -> str:
    """Return a clause that names what ``name`` may have meant, or else all of ``known``."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=ALIKE)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def nearest(key: str, known: Sequence[str], tree: Iterable[str]) -> str:
    """Return a clause that names the settings the unknown ``key`` may have meant.

    ``known`` are the names beside it, ``tree`` the full keys of all settings. In this order: the
    same name below, the same name above, a name beside it spelled alike, the same name elsewhere,
    and a name below spelled alike; else all that are ``known``.
    """
    parent, _, name = key.rpartition(".")
    others = [each for each in dict.fromkeys(tree) if each != key]
    others.sort(key=lambda each: each.count("."))
    same = [each for each in others if _last(each) == name]
    below = [each for each in same if _within(each, parent)]
    above = [each for each in same if _within(parent, each.rpartition(".")[0])]
    beside = _alike(name, known, RATHER_ALIKE)
    inside = [each for each in others if _within(each, parent)]
    alike = _alike(name, {_last(each) for each in inside}, RATHER_ALIKE)
    spelled = [] if _alike(name, known, ALIKE) else [e for e in inside if _last(e) in alike]
    for found in (below, above[-1:], beside, same, spelled):
        if found:
            more = " or others" if len(found) > MOST else ""
            return f"did you mean {' or '.join(found[:MOST])}{more}?"
    return suggest(name, known)


def _alike(name: str, names: Iterable[str], cutoff: float) -> list[str]:
    return difflib.get_close_matches(name, sorted(names), n=1, cutoff=cutoff)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _within(key: str, parent: str) -> bool:
    return not parent or key.startswith(f"{parent}.")
