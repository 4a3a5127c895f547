"""Checks of a column's values that name the file, the row, the field and the value."""

from collections.abc import Sequence

import polars as pl

from workloads.errors import TraceError
from workloads.readers.source import Lines
from workloads.trace import MAX_TOKENS
from workloads.where import Where, shown

LAST_YEAR = "2261"
"""The last whole year 64 bits of nanoseconds since 1970 can count."""


def csv_header(line: str, columns: Sequence[str], path: str) -> list[str]:
    """Return the header's names; raise ``TraceError`` if a needed one is missing or repeated."""
    header = [name.strip() for name in line.split(",")]
    for name in columns:
        if name not in header:
            raise TraceError(
                f"{path}: row 1 has no column {name}, expected {','.join(columns)} "
                f"but got {shown(line)}"
            )
        if header.count(name) > 1:
            raise TraceError(f"{path}: row 1 has the column {name} {header.count(name)} times")
    return header


def csv_fields(
    lines: Lines, header: Sequence[str], columns: Sequence[str], path: str
) -> pl.DataFrame:
    """Return the named ``columns`` of unquoted CSV lines as text."""
    width = len(header)
    found = lines.text.str.count_matches(",", literal=True) + 1
    wrong = (found != width).arg_true()
    if wrong.len():
        index = int(wrong[0])
        raise TraceError(
            f"{path}: row {lines.first_row + index} has {found[index]} fields, expected {width}: "
            f"{shown(lines.text[index])}"
        )
    fields = lines.text.str.split_exact(",", width - 1).struct.unnest()
    fields.columns = list(header)
    return fields.select(columns)


def tokens(text: pl.Series, where: Where) -> pl.Series:
    """Return token counts, 0..:data:`MAX_TOKENS`, as Int32, from text or numbers."""
    expected = "a whole number of tokens"
    values = text.str.strip_chars() if text.dtype == pl.String else text
    counts = values.cast(pl.Int64, strict=False)
    good = counts.is_not_null()
    if text.dtype == pl.Float64:
        good = good & (counts == text)
    where.require(good, text, expected)
    where.require(counts >= 0, text, f"{expected}, not a negative one")
    where.require(counts <= MAX_TOKENS, text, f"at most {MAX_TOKENS} tokens")
    return counts.cast(pl.Int32)


def timestamps_ns(text: pl.Series, where: Where, *, utc_offset: bool) -> pl.Series:
    """Return dates with a time of day, up to 9 digits of seconds, as Int64 ns since 1970.

    Times that bear an offset from UTC are taken to UTC, others are left as they stand.
    """
    pattern = "%Y-%m-%d %H:%M:%S%.f" + ("%z" if utc_offset else "")
    expected = "a time like 2024-05-10 00:00:00.009930" + ("+00:00" if utc_offset else "")
    if utc_offset:
        text = text.str.replace(r"Z\s*$", "+00:00")
    times = text.str.to_datetime(pattern, time_unit="ns", strict=False)
    year = text.str.strip_chars().str.slice(0, 4)
    in_range = (year >= "1970") & (year <= LAST_YEAR)
    where.require(times.is_not_null() & in_range, text, expected)
    return times.to_physical()
