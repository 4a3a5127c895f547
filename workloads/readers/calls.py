"""Requests of a JSON format, taken row by row into columns, whatever the format calls them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from workloads import lineage
from workloads.cleaning import Raw
from workloads.errors import TraceError
from workloads.readers.columns import coded, ignored
from workloads.readers.objects import plain_text
from workloads.readers.prompts import Prompts
from workloads.readers.source import sha256
from workloads.readers.times import LAST_NS, Clock
from workloads.trace import JOIN, MAX_TOKENS, TRIGGER, Transform
from workloads.where import Where

DTYPES: dict[str, pl.DataType] = {
    "input_tokens": pl.Int32(),
    "output_tokens": pl.Int32(),
    "source_id": pl.String(),
    "session_id": pl.String(),
    "turn": pl.UInt16(),
    "parent_id": pl.UInt32(),
    "delay_s": pl.Float64(),
    "trigger": TRIGGER,
    "joins": pl.List(JOIN),
    "cached_tokens_hint": pl.Int32(),
    "model": pl.String(),
    "tenant": pl.String(),
    "src_ttft_s": pl.Float32(),
    "src_e2e_s": pl.Float32(),
}
"""What :meth:`Calls.add` takes beside the time."""

MOST_TURN = 65_535


@dataclass(slots=True)
class Calls:
    """Columns of a file's requests while it is read; ``counts`` is what had to be mended."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    further: Counter[str] = field(default_factory=Counter)
    prompts: Prompts = field(default_factory=Prompts)
    times: list[Any] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    def add(self, time: float | None, input_tokens: int, output_tokens: int, **more: Any) -> None:
        """Append one request; columns it does not name are null."""
        row = len(self.times)
        self.times.append(time)
        for name, value in (
            ("input_tokens", input_tokens),
            ("output_tokens", output_tokens),
            *more.items(),
        ):
            column = self.columns.setdefault(name, [])
            column.extend([None] * (row - len(column)))
            column.append(value)

    def column(self, name: str) -> list[Any]:
        """Return one column, as long as there are rows."""
        column = self.columns.setdefault(name, [])
        column.extend([None] * (len(self) - len(column)))
        return column

    def delay(self, seconds: float | None) -> float | None:
        """Return a think time; one below 0 becomes 0 and is counted."""
        if seconds is not None and seconds < 0:
            self.counts["negative_delays"] += 1
            return 0.0
        return seconds

    def frame(self) -> pl.DataFrame:
        """Return all columns but the times."""
        return pl.DataFrame(
            {name: pl.Series(name, self.column(name), dtype=DTYPES[name]) for name in self.columns}
        )

    def mended(self) -> list[Transform]:
        """Return the account of what was counted, and of fields that were not read."""
        return [
            *ignored(self.further),
            *(Transform(name=name, counts={"rows": n}) for name, n in self.counts.items() if n),
        ]

    def raw(self, format_name: str, clock: Clock, **about: Any) -> Raw:
        """Return everything as the cleaning wants it; ``about`` is of the trace's account.

        Times are numbers in the clock's unit, null where only a parent tells.
        """
        known = [each for each in self.times if each is not None]
        where = Where(str(self.path), 1)
        exact = all(isinstance(each, int) for each in known)
        numbers = pl.Series("timestamp", known, dtype=pl.Int64 if exact else pl.Float64)
        times = clock.numbers(numbers, where)
        ns = self._with_gaps(times.ns)
        warnings = (*times.warnings, *about.pop("warnings", ()))
        utc_offset = about.pop("utc_offset", times.utc_offset)
        about = {"time_unit": times.unit, "warnings": warnings} | about
        return self.raw_of(format_name, ns.alias("time_ns"), utc_offset=utc_offset, **about)

    def raw_of(
        self, format_name: str, time: pl.Series, *, utc_offset: str | None = None, **about: Any
    ) -> Raw:
        """Return everything with the column ``time_ns`` or ``arrival_s`` given."""
        parent_field = about.pop("parent_field", "parent")
        frame = coded(self.frame()).with_columns(time)
        prompts = self.prompts.column()
        if prompts.len() == frame.height and prompts.null_count() < frame.height:
            frame = frame.with_columns(prompts)
        else:
            about = {name: value for name, value in about.items() if name not in BLOCKS}
        return Raw(
            path=str(self.path),
            format=format_name,
            frame=frame,
            first_row=1,
            utc_offset=utc_offset,
            parent_field=parent_field,
            transforms=(*self.mended(), *about.pop("transforms", ())),
            about={"sha256": digest(self.path)} | about,
        )

    def _with_gaps(self, ns: pl.Series) -> pl.Series:
        """Return the known times at their rows, null elsewhere."""
        if ns.len() == len(self):
            return ns
        there = np.fromiter((each is not None for each in self.times), bool, len(self))
        index = np.cumsum(there) - 1
        gathered = ns[np.maximum(index, 0)] if ns.len() else pl.Series([None] * len(self))
        masked = pl.when(pl.Series(there)).then(gathered.cast(pl.Int64))
        return pl.select(masked.alias("time_ns")).to_series()


BLOCKS = ("block_size", "block_scope", "tail_block")


def digest(path: Path) -> str | None:
    """Return the file's SHA-256; of a folder nothing."""
    return None if path.is_dir() else sha256(path)


def whole(value: object, name: str, where: Where, most: int = MAX_TOKENS) -> int:
    """Return a whole number in 0..``most``; raise ``TraceError`` naming the field otherwise."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if not 0 <= number <= most or number != int(number):
        what = " tokens" if most == MAX_TOKENS else ""
        where.fail(0, name, value, f"a whole number in 0..{most}{what}")
    return int(number)


def text(fields: dict[str, Any], name: str, where: Where) -> str | None:
    """Return a field that is a name or a number as text."""
    return plain_text(fields.get(name), name, where)


def seconds(value: object, name: str, where: Where, least: float | None = None) -> float:
    """Return a finite number, of at least ``least``; raise ``TraceError`` otherwise."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is None or not (-LAST_NS if least is None else least) <= number <= LAST_NS:
        expected = "a number" + ("" if least is None else f" of at least {least:g}")
        where.fail(0, name, value, expected)
    return float(number)


def in_session(sessions: list[str | None], times: list[Any]) -> lineage.Rows:
    """Return each row's predecessor in its session, by time and then row of the file.

    A row without a time stands where the one before it in its session does.
    """
    parents = np.full(len(sessions), lineage.NONE)
    last: dict[str, int] = {}
    reached: dict[str | None, float] = {}
    filled: list[float] = []
    for session, time in zip(sessions, times, strict=True):
        reached[session] = reached.get(session, 0.0) if time is None else time
        filled.append(reached[session])
    for row in sorted(range(len(sessions)), key=lambda row: (filled[row], row)):
        session = sessions[row]
        if session is not None:
            parents[row] = last.get(session, lineage.NONE)
            last[session] = row
    return parents


def nullable(parents: lineage.Rows) -> list[int | None]:
    """Return rows as a column: ``None`` for nobody."""
    return [None if each == lineage.NONE else int(each) for each in parents]


def parents_first(parents: lineage.Rows) -> list[int]:
    """Return all rows, each after its parent."""
    return [int(each) for each in np.argsort(lineage.depths(parents), kind="stable")]


def turns(parents: lineage.Rows) -> list[int]:
    """Return how many turns each row's session had before it, at most so many as can be told."""
    return [min(int(each), MOST_TURN) for each in lineage.depths(parents)]


def require_fields(fields: Mapping[str, Any], needed: tuple[str, ...], where: Where) -> None:
    """Raise ``TraceError`` naming the row and the first field it lacks."""
    for name in needed:
        if name not in fields:
            raise TraceError(f"{where.place} has no field {name}, expected {', '.join(needed)}")
