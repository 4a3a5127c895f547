"""Reading the measured tables: everything as text, checked columns, one sentence per problem."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from simulator.errors import ConfigError

Row = Mapping[str, str]
"""One row's cells as text; an empty one is ``""``."""


def read_rows(path: Path, required: tuple[str, ...], what: str) -> list[dict[str, str]]:
    """Return the rows of :func:`read_frame`, an absent cell as ``""``."""
    return list(_cells(read_frame(path, required, what)))


def read_frame(path: Path, required: tuple[str, ...], what: str) -> pl.DataFrame:
    """Return a CSV file with at least the ``required`` columns, every cell as text.

    Raises:
        ConfigError: the file is absent, no CSV text, empty, or lacks a column.
    """
    if path.is_dir():
        raise ConfigError(f"{what}: {path} is a folder, not a CSV file")
    if not path.is_file():
        raise ConfigError(f"{what}: there is no file {path}")
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.NoDataError as error:
        raise ConfigError(f"{what}: {path} is empty") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{what}: {path} is not readable as CSV ({first})") from error
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"{what}: {path} has no column {', '.join(missing)}; it has "
            f"{', '.join(frame.columns[:30])}"
        )
    if not frame.height:
        raise ConfigError(f"{what}: {path} has a header but no rows")
    return frame


def numbers_of(
    text: pl.DataFrame, kinds: Mapping[str, type[pl.DataType]], where: str, *, empty: bool = True
) -> pl.DataFrame:
    """Return these columns of text as numbers; an empty cell is null where ``empty`` allows it.

    Raises:
        ConfigError: a cell is no finite number of its kind. It names ``where``, such as the option
            and the file, and the row, column and value.
    """
    text = text.select(pl.col(*kinds).str.strip_chars().replace("", None))
    numbers = text.select(pl.col(each).cast(kind, strict=False) for each, kind in kinds.items())
    for name in kinds:
        wanted = "a whole number" if numbers.schema[name].is_integer() else "a number"
        good = numbers[name].is_finite().fill_null(value=False)
        bad = ~(good | text[name].is_null()) if empty else ~good
        if bad.any():
            row = int(bad.arg_true()[0])
            cell = text[name][row]
            raise ConfigError(
                f"{where}, row {row + 1}: {name} must be {wanted} but is "
                f"{'empty' if cell is None else repr(cell)}"
            )
    return numbers


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return the object a JSON file holds; raise ``ConfigError`` where it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{what}: {path} is not readable as JSON") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{what}: {path} must hold a JSON object")
    return value


def _cells(frame: pl.DataFrame) -> Iterator[dict[str, str]]:
    for row in frame.iter_rows(named=True):
        yield {name: "" if value is None else value.strip() for name, value in row.items()}


def number(text: str) -> float | None:
    """Return the finite positive number that ``text`` is, else ``None``."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def whole(row: Row, name: str, default: int) -> int:
    """Return a column's whole number, ``default`` where it is absent or empty.

    Raises:
        ConfigError: it is something else.
    """
    text = row.get(name, "")
    if not text:
        return default
    value = number(text)
    if value is None or value != int(value):
        raise ConfigError(f"{name} must be a whole number ≥ 1 but is {text!r}")
    return int(value)
