"""What a run is called and found by: a name and tags, which change nothing of what it does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError
from simulator.files import write_text

KEY = "labels"
"""Of a summary: where its run's labels are."""
MOST_TAGS, MOST_SIGNS = 100, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """A run's ``name`` (``None``: none of its own) and ``tags``.

    Raises:
        ConfigError: one is empty, too long or no text of one line; a tag has a comma; there are
            too many.
    """

    name: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name is not None:
            _check("name", self.name)
        if len(self.tags) > MOST_TAGS:
            raise ConfigError(f"tags must be at most {MOST_TAGS} but got {len(self.tags)}")
        for tag in self.tags:
            _check("tags", tag)
            if "," in tag:
                raise ConfigError(f"tags must be without commas but got {tag!r}")

    def leave(self, summary: Path) -> None:
        """Write them into the file of a run's ``summary``; what is not given stays as it is.

        Raises:
            OSError: it cannot be written.
        """
        if self == Labels():
            return
        told = json.loads(summary.read_text(encoding="utf-8"))
        given = {"name": self.name, "tags": list(dict.fromkeys(self.tags))}
        wanted = told.get(KEY, {}) | {name: value for name, value in given.items() if value}
        if told.get(KEY) != wanted:
            write_text(summary, json.dumps(told | {KEY: wanted}, indent=2, allow_nan=False) + "\n")

    def fit(self, other: "Labels", called: str) -> bool:
        """Tell whether ``other`` labels have all these tags and a name that this one matches.

        A name may have ``*``, ``?`` and ``[…]``; what has none is ``called`` otherwise.
        """
        named = self.name is None or fnmatchcase(other.name or called, self.name)
        return named and set(self.tags) <= set(other.tags)


def labels_of(summary: Mapping[str, Any], path: Path) -> Labels:
    """Return the labels in a run's ``summary``, read from ``path``; raise ``ConfigError``."""
    told = summary.get(KEY, {})
    if not isinstance(told, dict):
        raise ConfigError(f"{path}: {KEY} must be a name and tags but got {told!r}")
    name, tags = told.get("name"), told.get("tags", [])
    if not (name is None or isinstance(name, str)):
        raise ConfigError(f"{path}: {KEY}.name must be text or null but got {name!r}")
    if not (isinstance(tags, list) and all(isinstance(each, str) for each in tags)):
        raise ConfigError(f"{path}: {KEY}.tags must be a list of texts but got {tags!r}")
    try:
        return Labels(name=name, tags=tuple(tags))
    except ConfigError as error:
        raise ConfigError(f"{path}: {KEY}: {error}") from error


def _check(key: str, text: str) -> None:
    if not text.strip() or len(text) > MOST_SIGNS or not text.isprintable():
        raise ConfigError(
            f"{key} must be text of one line, at most {MOST_SIGNS} signs, but got "
            f"{text[:MOST_SIGNS]!r}"
        )
