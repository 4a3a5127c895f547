"""Parquet files of others: their columns, slice by slice, and sentences instead of panics."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from workloads.errors import TraceError
from workloads.trace import MAX_ROWS

MAGIC = b"PAR1"
ARROW = b"ARROW1"
FREE_ROWS = 10_000_000
MAX_ROWS_PER_BYTE = 10
"""A trace's row takes some bytes even compressed; far more rows than that are a trap."""

SLICE = 1_000_000


def scan_of(path: Path) -> pl.LazyFrame:
    """Return a parquet or Arrow file, not yet read."""
    with path.open("rb") as stream:
        arrow = stream.read(len(ARROW)) == ARROW
    return pl.scan_ipc(path) if arrow else pl.scan_parquet(path, glob=False)


def names_of(path: Path) -> list[str]:
    """Return the names of a file's columns; of a damaged one none."""
    try:
        with told(path):
            return list(scan_of(path).collect_schema())
    except TraceError:
        return []


def scanned(path: Path, names: Sequence[str]) -> pl.Schema:
    """Return the schema; raise ``TraceError`` where a column is not there or is nested."""
    with told(path):
        schema = pl.scan_parquet(path, glob=False).collect_schema()
    for name in names:
        if name not in schema:
            have = ", ".join(list(schema)[:20])
            raise TraceError(f"{path}: has no column {name}, expected one of {have}")
        if schema[name].is_nested():
            raise TraceError(f"{path}: column {name} must be numbers or text but is {schema[name]}")
    return schema


def slices(path: Path, names: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the columns in slices of rows, each with the number of its first."""
    with told(path):
        scan = pl.scan_parquet(path, glob=False).select(names)
        rows = int(scan.select(pl.len()).collect().item())
    require_size(path, rows)
    for first in range(0, rows, SLICE):
        with told(path):
            frame = scan.slice(first, SLICE).collect()
        yield first, frame


def require_size(path: Path, rows: int) -> None:
    """Raise ``TraceError`` for a file that claims more rows than it can hold."""
    most = max(FREE_ROWS, MAX_ROWS_PER_BYTE * path.stat().st_size)
    if rows > min(most, MAX_ROWS):
        raise TraceError(f"{path}: claims {rows} rows, more than a file of its size can hold")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell what goes wrong in reading a parquet file in one sentence, and nothing beside it."""
    try:
        with own_threads_silent():
            yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise TraceError(f"{path}: the parquet file is damaged ({first_line(error)})") from error


@contextmanager
def own_threads_silent() -> Iterator[None]:
    """Keep from the terminal what polars' threads print when they panic over a damaged file.

    They write to the process's stderr itself before the error reaches us, who tell it in a
    sentence.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr to keep clean
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def first_line(error: BaseException) -> str:
    """Return the beginning of what a library says."""
    return (str(error).splitlines() or [type(error).__name__])[0]
