"""Traces in CSV, whatever their columns are called: one row per request, read by name."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from workloads.cleaning import Policy, Raw, clean
from workloads.readers.columns import coded, identity, ignored, kept
from workloads.readers.fields import Batch, csv_batches, csv_names, tokens
from workloads.readers.source import read_lines, sha256
from workloads.readers.times import OFFSET, Clock, Times, resolution
from workloads.trace import Trace
from workloads.where import Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What a format calls the columns that every request has; ``unit`` is that of a numeric time.

    With ``unit`` of ``None`` times are dates, and numbers need ``time_unit``.
    """

    time: str
    input_tokens: str
    output_tokens: str
    unit: str | None = None

    @property
    def needed(self) -> tuple[str, str, str]:
        """The names, in the order of the fields."""
        return (self.time, self.input_tokens, self.output_tokens)


def has_columns(head: bytes, columns: Columns) -> bool:
    """Tell whether the first line of ``head`` is a header with these columns."""
    first = head.split(b"\n", 1)[0].decode(errors="replace").strip()
    return set(columns.needed) <= set(csv_names(first))


def read_rows(
    path: Path, columns: Columns, policy: Policy, time_unit: str, dated: tuple[str, str]
) -> Trace:
    """Return the trace in a CSV file of these ``columns``.

    ``dated`` names the format without and with an offset in its dates. Raises ``TraceError``
    naming the row that cannot be read.
    """
    table = _Table(path=str(path), columns=columns)
    clock = Clock(native=columns.unit, stated=time_unit)
    frames = [table.parsed(batch, clock) for batch in _batches(path, columns)]
    rows = pl.concat(frames, how="vertical_relaxed")
    times = table.times(rows, clock)
    raw = Raw(
        path=str(path),
        format=dated[bool(times.utc_offset)],
        frame=coded(rows.drop("time")).with_columns(times.ns.alias("time_ns")),
        first_row=2,
        utc_offset=times.utc_offset,
        transforms=tuple(ignored(table.further)),
        about={"sha256": sha256(path), "time_unit": times.unit, "warnings": times.warnings},
    )
    return clean(raw, policy)


def _batches(path: Path, columns: Columns) -> Iterator[Batch]:
    return csv_batches(read_lines(path), columns.needed, str(path))


@dataclass(slots=True, kw_only=True)
class _Table:
    """One file while it is read: how its times are written, and which columns are left over."""

    path: str
    columns: Columns
    dates: bool | None = None
    offset: bool = False
    further: Counter[str] = field(default_factory=Counter)

    def parsed(self, batch: Batch, clock: Clock) -> pl.DataFrame:
        """Return the batch's times, dates as ns and numbers as they are, tokens and identity."""
        where = Where(self.path, batch.first_row)
        names = kept(batch.fields.columns)
        self._count_further(batch.fields, names)
        _, inputs, outputs = self.columns.needed
        return pl.DataFrame(
            {
                "time": self._times(batch.fields[self.columns.time], clock, where),
                "input_tokens": tokens(batch.fields[inputs], where),
                "output_tokens": tokens(batch.fields[outputs], where),
                **identity(batch.fields, names, where).to_dict(),
            }
        )

    def times(self, frame: pl.DataFrame, clock: Clock) -> Times:
        """Return the whole file's times in ns."""
        if not self.dates:
            return clock.numbers(frame["time"].alias(self.columns.time), Where(self.path, 2))
        offset = "+00:00" if self.offset else ""
        return Times(ns=frame["time"], unit=resolution(frame["time"]), utc_offset=offset)

    def _times(self, text: pl.Series, clock: Clock, where: Where) -> pl.Series:
        """Return dates as Int64 ns, numbers as they are; the first row tells which the file has."""
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
