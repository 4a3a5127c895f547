"""CSV lines as columns of text, and token counts out of them; whatever is wrong is named."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from workloads.errors import TraceError
from workloads.readers.source import Lines
from workloads.trace import MAX_TOKENS
from workloads.where import Where, shown

MAX_COLUMNS = 1000
"""More columns than this are taken for another kind of file."""

WHOLE = r"^\s*(\d+)\.0*\s*$"
"""A whole number as a column with gaps is written by pandas: ``100.0``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive data rows of a CSV file as text; ``first_row`` is the line of the first."""

    first_row: int
    fields: pl.DataFrame


def csv_names(line: str) -> list[str]:
    """Return the names in a header line, quotes and blanks around them taken off."""
    try:
        names = next(csv.reader([line], strict=True, skipinitialspace=True), [])
    except csv.Error:
        names = line.split(",")
    return [name.strip() for name in names]


def csv_batches(batches: Iterator[Lines], needed: Sequence[str], path: str) -> Iterator[Batch]:
    """Yield the data rows below the header, every column by its name, repeated ones by number.

    Raises ``TraceError`` for a ``needed`` column that is missing or there twice, and rows with more
    or fewer fields than the header, or a quoted field that does not end on its line.
    """
    first = next(batches, None)
    if first is None:
        raise TraceError(f"{path}: the file holds only blank lines")
    header = csv_header(first.text[0], needed, path)
    rest = Lines(2, first.text[1:]) if first.text.len() > 1 else next(batches, None)
    if rest is None:
        raise TraceError(f"{path}: the file has a header but no requests")
    yield Batch(first_row=rest.first_row, fields=_split(rest, header, path))
    for lines in batches:
        yield Batch(first_row=lines.first_row, fields=_split(lines, header, path))


def csv_header(line: str, needed: Sequence[str], path: str) -> list[str]:
    """Return the header's names, made unique; raise ``TraceError`` for a needed one not just once.

    A column without a name, as pandas writes its index, is called ``column 1`` by its place.
    """
    names = csv_names(line)
    if len(names) > MAX_COLUMNS:
        raise TraceError(f"{path}: row 1 has {len(names)} columns, expected at most {MAX_COLUMNS}")
    for name in needed:
        if name not in names:
            raise TraceError(
                f"{path}: row 1 has no column {name}, expected {','.join(needed)} "
                f"but got {shown(line)}"
            )
        if names.count(name) > 1:
            raise TraceError(f"{path}: row 1 has the column {name} {names.count(name)} times")
    return [
        name if name and names.index(name) == place else f"column {place + 1}"
        for place, name in enumerate(names)
    ]


def _split(lines: Lines, header: Sequence[str], path: str) -> pl.DataFrame:
    """Return every column of the lines as text."""
    if lines.text.str.contains('"', literal=True).any():
        return _split_quoted(lines, header, path)
    width = len(header)
    found = lines.text.str.count_matches(",", literal=True) + 1
    wrong = (found != width).arg_true()
    if wrong.len():
        index = int(wrong[0])
        _fail_width(lines, index, int(found[index]), width, path)
    fields = lines.text.str.split_exact(",", width - 1).struct.unnest()
    fields.columns = list(header)
    return fields


def _split_quoted(lines: Lines, header: Sequence[str], path: str) -> pl.DataFrame:
    """Return every column as text where fields may stand in quotes and hold commas."""
    rows: list[list[str]] = []
    for index, line in enumerate(lines.text):
        try:
            fields = next(csv.reader([line], strict=True, skipinitialspace=True))
        except csv.Error as error:
            raise TraceError(
                f"{path}: row {lines.first_row + index} cannot be split into fields ({error}); "
                f"a quoted field must end on its line: {shown(line)}"
            ) from error
        if len(fields) != len(header):
            _fail_width(lines, index, len(fields), len(header), path)
        rows.append(fields)
    return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")


def _fail_width(lines: Lines, index: int, found: int, width: int, path: str) -> None:
    raise TraceError(
        f"{path}: row {lines.first_row + index} has {found} fields, expected {width}: "
        f"{shown(lines.text[index])}"
    )


def tokens(text: pl.Series, where: Where) -> pl.Series:
    """Return token counts, 0..:data:`MAX_TOKENS`, as Int32, from text or numbers."""
    expected = "a whole number of tokens"
    values = text.str.strip_chars() if text.dtype == pl.String else text
    counts = values.cast(pl.Int64, strict=False)
    if text.dtype == pl.String and counts.null_count():
        values = values.str.replace(WHOLE, "$1")
        counts = values.cast(pl.Int64, strict=False)
    good = counts.is_not_null()
    if text.dtype.is_numeric() and not text.dtype.is_integer():
        good = good & (counts == text)
    where.require(good, text, expected)
    where.require(counts >= 0, text, f"{expected}, not a negative one")
    where.require(counts <= MAX_TOKENS, text, f"at most {MAX_TOKENS} tokens")
    return counts.cast(pl.Int32)
