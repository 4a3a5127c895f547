"""Names a place in a file in messages: file, row, field, value and what was expected."""

from dataclasses import dataclass
from typing import NoReturn

import polars as pl

from workloads.errors import TraceError


def shown(value: object, limit: int = 60) -> str:
    """Return ``value`` as it may stand in a message: quoted, on one line, not too long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


@dataclass(frozen=True, slots=True)
class Where:
    """Names rows of one batch of a file in messages."""

    path: str
    first_row: int

    def fail(self, index: int, field: str, value: object, expected: str) -> NoReturn:
        """Raise ``TraceError`` for row ``index`` of the batch."""
        raise TraceError(
            f"{self.path}: row {self.first_row + index}, {field} is {shown(value)}, "
            f"expected {expected}"
        )

    def require(self, good: pl.Series, values: pl.Series, expected: str) -> None:
        """Raise ``TraceError`` for the first row where ``good`` is not true."""
        wrong = (~good.fill_null(value=False)).arg_true()
        if wrong.len():
            index = int(wrong[0])
            self.fail(index, values.name, values[index], expected)
