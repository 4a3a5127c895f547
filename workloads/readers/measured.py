"""What the readers of measured requests share: numbers out of JSON records, and their units."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from workloads.cleaning import Raw
from workloads.errors import TraceError
from workloads.readers.columns import ignored
from workloads.readers.objects import json_row, read_objects
from workloads.readers.source import read_head, sha256
from workloads.readers.times import AUTO, LAST_NS, UNITS
from workloads.where import Where

SECONDS: Mapping[str, float] = {name: ns / 1e9 for name, ns in UNITS.items()} | {"sec": 1.0}
"""Seconds of each unit a measured value may be in."""


def rows(path: Path) -> Iterator[tuple[dict[str, Any], Where]]:
    """Yield each request's object with its place."""
    for lines in read_objects(path, read_head(path)):
        for index, text in enumerate(lines.text):
            row = lines.first_row + index
            yield json_row(text, row, str(path)), Where(str(path), row)


def number(value: object, name: str, where: Where) -> float:
    """Return a number of at least 0, at most :data:`LAST_NS`; raise ``TraceError`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_NS:
        where.fail(0, name, value, "a number of at least 0")
    return float(value)


def own_unit(path: Path, time_unit: str) -> None:
    """Refuse a unit from outside for a file that says its own."""
    if time_unit != AUTO:
        raise TraceError(
            f"{path}: the format says its times' unit, so time_unit must be {AUTO} "
            f"but is {time_unit}"
        )


def raw(
    path: Path,
    name: str,
    frame: pl.DataFrame,
    *,
    utc_offset: str | None = None,
    warnings: tuple[str, ...] = (),
    further: Counter[str] | None = None,
) -> Raw:
    """Return the rows as the cleaning wants them, with the file's digest."""
    return Raw(
        path=str(path),
        format=name,
        frame=frame,
        first_row=1,
        utc_offset=utc_offset,
        transforms=tuple(ignored(further or Counter())),
        about={"sha256": sha256(path), "time_unit": "s", "warnings": warnings},
    )
