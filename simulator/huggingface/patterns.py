r"""Which of a model's modules a quantisation's lists of names mean.

Names are written in four ways: exactly or by some of their parts (``lm_head``, ``mlp.gate``,
``model.layers.0``), with ``*`` for anything, and as regular expressions after ``re:``. Expressions
come from an untrusted file: ``.*``, digits, character classes and alternatives of plain text are
taken, and every wildcard keeps the first match of what follows it, so that no expression takes
longer than the name is long.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

PREFIXES = ("model.", "", "model.language_model.", "language_model.model.", "language_model.")
"""What may stand before ``layers.0`` in the name of a module."""
MAX_LENGTH = 1000
"""Characters of one name or expression."""
TOGETHER = 200
"""Expressions asked at once."""

_PLAIN = r"[\w/-]|\\[.\-_/]|\\d|\."
_TOKEN = re.compile(
    r"(?P<any>\.[*+]\??)|(?P<digits>(?:\\d|\[0-9\])[*+])|(?P<sign>\\[.\-_/]|\\d|\[[\w-]+\]|[\w/.-])"
    rf"|(?P<group>\((?:\?:)?(?:{_PLAIN})*(?:\|(?:{_PLAIN})*)*\))"
)


def translated(pattern: str) -> str | None:
    """Return an expression that matches what ``pattern`` means, ``None`` if it cannot be read."""
    if len(pattern) > MAX_LENGTH:
        return None
    if not pattern.startswith("re:"):
        parts = [re.escape(part) for part in pattern.split("*")]
        return _joined([*parts[:-1], f"{parts[-1]}$"] if parts[-1] else parts)
    body = pattern.removeprefix("re:").removeprefix("^")
    end = body.endswith("$") and not body.endswith("\\$")
    segments = _segments(body.removesuffix("$") if end else body)
    if segments is None:
        return None
    return _joined([*segments[:-1], segments[-1] + "$"] if end else segments)


def _joined(segments: list[str]) -> str:
    """Return the segments with anything between them: each where it first fits."""
    first, *others = segments
    return first + "".join(f"(?>.*?{segment})" for segment in others if segment)


def _segments(body: str) -> list[str] | None:
    """Return what stands between the wildcards of an expression, safe to run."""
    segments, at = [""], 0
    while at < len(body):
        token = _TOKEN.match(body, at)
        if token is None:
            return None
        at = token.end()
        if token["any"]:
            segments[-1] += "." if "+" in token["any"] else ""
            segments.append("")
        else:
            segments[-1] += f"{token[0]}+" if token["digits"] else token[0]
    return segments


@dataclass(slots=True)
class Names:
    """Names, parts of names, globs and expressions, ready to be asked."""

    plain: set[str] = field(default_factory=set)
    wild: list[re.Pattern[str]] = field(default_factory=list)

    @classmethod
    def of(cls, patterns: Iterable[str]) -> "Names":
        """Return ``patterns``, all of which can be read, as a set and a few alternations."""
        names, wild = cls(), []
        for pattern in dict.fromkeys(patterns):
            if pattern.startswith("re:") or "*" in pattern:
                wild.append(translated(pattern) or "(?!)")
            else:
                names.plain.add(_bare(pattern))
        for start in range(0, len(wild), TOGETHER):
            chosen = wild[start : start + TOGETHER]
            names.wild.append(re.compile("|".join(f"(?:{each})" for each in chosen)))
        return names

    def __bool__(self) -> bool:
        """Return whether there is any name."""
        return bool(self.plain or self.wild)

    def __contains__(self, name: str) -> bool:
        """Return whether the module ``name`` (from ``layers`` on), or what holds it, is meant."""
        parts = name.split(".")
        if self.plain and not self.plain.isdisjoint(_spans(parts)):
            return True
        if not self.wild:
            return False
        holders = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        return any(
            expression.match(prefix + holder)
            for expression in self.wild
            for prefix in PREFIXES
            for holder in holders
        )

    def __or__(self, other: "Names") -> "Names":
        """Return the names of both."""
        return Names(self.plain | other.plain, [*self.wild, *other.wild])


def _spans(parts: list[str]) -> Iterator[str]:
    """Yield every run of a name's parts."""
    size = len(parts)
    for start in range(size):
        for end in range(start + 1, size + 1):
            yield ".".join(parts[start:end])


def _bare(name: str) -> str:
    for prefix in sorted(PREFIXES, key=len, reverse=True):
        if prefix and name.startswith(prefix) and len(name) > len(prefix):
            return name.removeprefix(prefix)
    return name
