"""CSV lines as columns of text, and token counts out of them; whatever is wrong is named."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from workloads.errors import TraceError
from workloads.readers.source import Blanks, Lines, lines_of, read_blocks
from workloads.trace import MAX_TOKENS
from workloads.where import Where, shown

OTHERS = bytes(set(range(256)) - set(b",\n"))
"""Bytes that separate nothing."""
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


def csv_batches(path: Path, needed: Sequence[str]) -> Iterator[Batch]:
    """Yield the data rows below the header, every column by its name, repeated ones by number.

    Raises ``TraceError`` for a ``needed`` column that is missing or there twice, and rows with more
    or fewer fields than the header, or a quoted field that does not end on its line.
    """
    blanks, row = Blanks(path), 1
    header: list[str] = []
    empty = True
    for block in read_blocks(path):
        piece: bytes | pl.Series = block
        if isinstance(piece, bytes) and not header:
            first, _, piece = piece.partition(b"\n")
            top = blanks.without(Lines(1, lines_of(path, first or b"\n", 1)))
            row = 2
            header = [] if top is None else csv_header(top.text[0], needed, str(path))
        fields = split_at_once(piece, header) if isinstance(piece, bytes) else None
        if fields is not None:
            blanks.filled()
            yield Batch(first_row=row, fields=fields)
            row, empty = row + fields.height, False
            continue
        text = lines_of(path, piece, row) if isinstance(piece, bytes) else piece
        lines = blanks.without(Lines(row, text))
        row += text.len()
        if lines is not None and not header:
            header = csv_header(lines.text[0], needed, str(path))
            lines = Lines(lines.first_row + 1, lines.text[1:])
        if lines is not None and lines.text.len():
            yield Batch(first_row=lines.first_row, fields=split_by_line(lines, header, str(path)))
            empty = False
    if not header:
        raise TraceError(f"{path}: the file holds only blank lines")
    if empty:
        raise TraceError(f"{path}: the file has a header but no requests")


def split_at_once(block: bytes, header: Sequence[str]) -> pl.DataFrame | None:
    """Return all columns of a block of whole lines as text, if nothing in it is out of the way.

    Quotes, blank lines, rows of another width and what is no text are left to those who tell of
    them.
    """
    width = len(header)
    if width < 2 or not block or b'"' in block or b"\0" in block:
        return None
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
        if b"\r" in block:
            return None
    rows = block.count(b"\n") + (not block.endswith(b"\n"))
    if not _rows_are_alike(block, rows, width):
        return None
    try:
        fields = pl.read_csv(
            block,
            has_header=False,
            schema={f"column {at}": pl.String for at in range(width)},
            quote_char=None,
            empty_string_is_null=False,
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        return None
    if fields.height != rows or any(fields[name].null_count() for name in fields.columns):
        return None
    fields.columns = list(header)
    return fields


def _rows_are_alike(block: bytes, rows: int, width: int) -> bool:
    """Tell whether each row has a comma between any two of ``width`` fields, and no more."""
    row = b"," * (width - 1) + b"\n"
    expected = row * rows if block.endswith(b"\n") else (row * rows)[:-1]
    return block.count(b",") == rows * (width - 1) and block.translate(None, OTHERS) == expected


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


def split_by_line(lines: Lines, header: Sequence[str], path: str) -> pl.DataFrame:
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
