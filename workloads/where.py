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
    """Names rows of one batch of a file in messages, and the place ``inside`` a row."""

    path: str
    first_row: int
    inside: str = ""

    def fail(self, index: int, field: str, value: object, expected: str) -> NoReturn:
        """Raise ``TraceError`` for row ``index`` of the batch."""
        raise TraceError(f"{self._at(index)}, {field} is {shown(value)}, expected {expected}")

    def within(self, inside: str) -> "Where":
        """Return a place inside this row."""
        return Where(self.path, self.first_row, shown(inside)[1:-1])

    @property
    def place(self) -> str:
        """The first row, as messages name it."""
        return self._at(0)

    def _at(self, index: int) -> str:
        inside = f" ({self.inside})" if self.inside else ""
        return f"{self.path}: row {self.first_row + index}{inside}"

    def require(self, good: pl.Series, values: pl.Series, expected: str) -> None:
        """Raise ``TraceError`` for the first row where ``good`` is not true."""
        wrong = (~good.fill_null(value=False)).arg_true()
        if wrong.len():
            index = int(wrong[0])
            self.fail(index, values.name, values[index], expected)
