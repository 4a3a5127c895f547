"""Columns in parts: what is worked out of a long one must not take as much memory again."""

from collections.abc import Iterator
from typing import Any

import polars as pl
from numpy.typing import NDArray


def parts_of(series: pl.Series, rows: int = 1 << 20) -> Iterator[NDArray[Any]]:
    """Yield a column without nulls in parts, so that what is made of them takes little memory."""
    for first in range(0, series.len(), rows):
        yield series[first : first + rows].to_numpy()
