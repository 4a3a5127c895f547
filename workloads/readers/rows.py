"""Traces in CSV, whatever their columns are called: one row per request, read by name."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from workloads.cleaning import Policy, Raw, clean
from workloads.errors import TraceError
from workloads.lineage import by_name, column
from workloads.readers.columns import MAX_TURN, coded, identity, ignored, kept
from workloads.readers.fields import Batch, csv_batches, csv_names, tokens
from workloads.readers.source import sha256
from workloads.readers.times import OFFSET, Clock, Times, resolution
from workloads.trace import Trace, Transform
from workloads.where import Where

CLIENTS = "say by how many clients with workload.concurrency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What a format calls the columns that every request has; ``unit`` is that of a numeric time.

    With ``unit`` of ``None`` times are dates, and numbers need ``time_unit``; without a ``time``
    all requests are sent at 0. ``also`` is the canonical column of further ones. Where ``chained``,
    a request waits for the one before it in its session.
    """

    time: str | None
    input_tokens: str
    output_tokens: str
    unit: str | None = None
    also: Mapping[str, str] = field(default_factory=dict)
    chained: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """The names, in the order of the fields."""
        lengths = (self.input_tokens, self.output_tokens)
        return lengths if self.time is None else (self.time, *lengths)


def has_columns(head: bytes, columns: Columns) -> bool:
    """Tell whether the first line of ``head`` is a header with these columns."""
    return has_names(head, columns.needed)


def has_names(head: bytes, names: Sequence[str]) -> bool:
    """Tell whether the first line of ``head`` is a CSV header with these names."""
    first = head.split(b"\n", 1)[0].decode(errors="replace").strip()
    return set(names) <= set(csv_names(first))


def read_rows(
    path: Path, columns: Columns, policy: Policy, time_unit: str, dated: tuple[str, str]
) -> Trace:
    """Return the trace in a CSV file of these ``columns``.

    ``dated`` names the format without and with an offset in its dates. Raises ``TraceError``
    naming the row that cannot be read.
    """
    return read_batches(path, columns, policy, _batches(path, columns), (time_unit, dated, 2))


def read_batches(
    path: Path,
    columns: Columns,
    policy: Policy,
    batches: Iterable[Batch],
    told: tuple[str, tuple[str, str], int],
) -> Trace:
    """Return the trace in batches of text, whatever the file is.

    ``told`` are the unit of times, the format's names and the number of the first row.
    """
    time_unit, dated, first_row = told
    table = _Table(path=str(path), columns=columns, first_row=first_row)
    clock = Clock(native=columns.unit, stated=time_unit)
    rows = table.gathered(batches, clock)
    times = table.times(rows, clock)
    rows, counts = linked(rows.with_columns(times.ns.alias("time")), columns)
    rows = coded(rows).rename({"time": "time_ns"})
    warnings = times.warnings
    if columns.time is None:
        rows = rows.drop("time_ns").with_columns(pl.lit(0.0).alias("arrival_s"))
        warnings = (f"{path}: has no times: all requests are sent at 0; {CLIENTS}",)
    raw = Raw(
        path=str(path),
        format=dated[bool(times.utc_offset)],
        frame=rows,
        first_row=first_row,
        utc_offset=times.utc_offset,
        transforms=(*ignored(table.further), *counts),
        about={"sha256": sha256(path), "time_unit": times.unit, "warnings": warnings},
    )
    return clean(raw, policy)


def linked(rows: pl.DataFrame, columns: Columns) -> tuple[pl.DataFrame, list[Transform]]:
    """Return rows with the parents they name, or that their sessions make; what was mended."""
    if "parent_name" in rows.columns:
        return _named_parents(rows)
    if not columns.chained or "session_id" not in rows.columns:
        return rows, []
    if rows["session_id"].null_count() == rows.height:
        return rows, []
    order = (
        rows.select("session_id", "time").with_row_index("row").sort("session_id", "time", "row")
    )
    parent = pl.when(pl.col("session_id").is_not_null()).then(
        pl.col("row").shift(1).over("session_id")
    )
    turn = pl.col("row").cum_count().over("session_id").clip(upper_bound=MAX_TURN + 1) - 1
    links = order.with_columns(parent.alias("parent_id"), turn.alias("chained_turn")).sort("row")
    rows = rows.with_columns(links["parent_id"])
    if "turn" not in rows.columns:
        named = pl.when(pl.col("session_id").is_not_null()).then(links["chained_turn"])
        rows = rows.with_columns(named.cast(pl.UInt16).alias("turn"))
    return _think_times(rows)


def _think_times(rows: pl.DataFrame) -> tuple[pl.DataFrame, list[Transform]]:
    """Return rows with the time from the end of the turn before, where that is known."""
    if "delay_s" in rows.columns or "src_e2e_s" not in rows.columns:
        return rows, []
    before = rows["parent_id"]
    ended = rows["time"].gather(before) + (rows["src_e2e_s"].gather(before) * 1e9).cast(pl.Int64)
    delay = (rows["time"] - ended) / 1e9
    early = int((delay < 0).sum())
    counts = [Transform(name="negative_delays", counts={"rows": early})] if early else []
    return rows.with_columns(delay.clip(lower_bound=0).alias("delay_s")), counts


def _named_parents(rows: pl.DataFrame) -> tuple[pl.DataFrame, list[Transform]]:
    names = rows["source_id"] if "source_id" in rows.columns else [None] * rows.height
    parents, missing = by_name(list(names), rows["parent_name"].to_list())
    counts = [Transform(name="parents_not_in_the_file", counts={"rows": missing})]
    found = column(parents, "parent_id", pl.UInt32())
    rows = rows.drop("parent_name").with_columns(found)
    return rows, counts if missing else []


def _batches(path: Path, columns: Columns) -> Iterator[Batch]:
    return csv_batches(path, columns.needed)


@dataclass(slots=True, kw_only=True)
class _Table:
    """One file while it is read: how its times are written, and which columns are left over."""

    path: str
    columns: Columns
    first_row: int = 2
    dates: bool | None = None
    offset: bool = False
    further: Counter[str] = field(default_factory=Counter)

    def parsed(self, batch: Batch, clock: Clock) -> pl.DataFrame:
        """Return the batch's times, dates as ns and numbers as they are, tokens and identity."""
        where = Where(self.path, batch.first_row)
        names = self._names(batch.fields.columns)
        self._count_further(batch.fields, names)
        inputs, outputs = self.columns.needed[-2:]
        return pl.DataFrame(
            {
                "time": self._times(batch.fields, clock, where),
                "input_tokens": tokens(batch.fields[inputs], where),
                "output_tokens": tokens(batch.fields[outputs], where),
                **identity(batch.fields, names, where).to_dict(),
            }
        )

    def _names(self, present: Sequence[str]) -> dict[str, str]:
        """Return the canonical column of each further one that is kept."""
        told = {name: target for name, target in self.columns.also.items() if name in present}
        used = {*self.columns.needed, *told}
        more = kept([name for name in present if name not in used])
        return told | {name: target for name, target in more.items() if target not in told.values()}

    def gathered(self, batches: Iterable[Batch], clock: Clock) -> pl.DataFrame:
        """Return all batches' rows, which may not all have the same columns."""
        frames = [self.parsed(batch, clock) for batch in batches]
        if not frames:
            raise TraceError(f"{self.path}: holds no request")
        ragged = any(frame.columns != frames[0].columns for frame in frames)
        return pl.concat(frames, how="diagonal_relaxed" if ragged else "vertical_relaxed")

    def times(self, frame: pl.DataFrame, clock: Clock) -> Times:
        """Return the whole file's times in ns."""
        if self.columns.time is None:
            return Times(ns=frame["time"], unit="s", utc_offset=None)
        if not self.dates:
            place = Where(self.path, self.first_row)
            return clock.numbers(frame["time"].alias(self.columns.time), place)
        offset = "+00:00" if self.offset else ""
        return Times(ns=frame["time"], unit=resolution(frame["time"]), utc_offset=offset)

    def _times(self, fields: pl.DataFrame, clock: Clock, where: Where) -> pl.Series:
        """Return dates as Int64 ns, numbers as they are; the first row tells which the file has."""
        if self.columns.time is None:
            return pl.Series("time", [0], dtype=pl.Int64).new_from_index(0, fields.height)
        text = fields[self.columns.time]
        if self.dates is None:
            numeric = text[:1].str.strip_chars().cast(pl.Float64, strict=False).null_count() == 0
            self.dates = not numeric
            self.offset = OFFSET.search(text[0] or "") is not None
        if self.dates:
            return clock.dates(text, where, utc_offset=self.offset)
        plain = text.str.strip_chars()
        whole = plain.cast(pl.Int64, strict=False)  # exact beyond 2^53
        if not whole.null_count():
            return whole
        numbers = plain.cast(pl.Float64, strict=False)
        where.require(numbers.is_finite(), text, "a number, as in the rows above")
        return numbers

    def _count_further(self, fields: pl.DataFrame, names: dict[str, str]) -> None:
        used = {*self.columns.needed, *names}
        for name in fields.columns:
            if name not in used:
                self.further[name] += int((fields[name] != "").sum())
