"""Which request waits for which: checked, kept true when rows leave, and never a circle.

A row's parent is another row; it starts ``delay_s`` after the parent's completion (or dispatch).
All functions work on whole columns: a session may have thousands of turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads.where import Where

NONE = -1
"""In arrays of parents: a row that waits for nobody."""

Rows = NDArray[np.int64]
Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Who waits for whom, by row: ``parent`` (:data:`NONE`: nobody) and ``delay_s`` (NaN: unknown).

    ``time_s`` is when each row was sent, NaN where only its parent tells.
    """

    parent: Rows
    delay_s: Seconds
    time_s: Seconds

    @classmethod
    def of(cls, frame: pl.DataFrame, parent: str, time: str, unit_s: float = 1.0) -> "Links":
        """Return the links in the columns ``parent``, ``delay_s`` and ``time`` of a frame."""
        delay = (
            frame["delay_s"]
            if "delay_s" in frame.columns
            else pl.repeat(None, frame.height, dtype=pl.Float64, eager=True)
        )
        waits = delay.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        above = frame[parent].cast(pl.Int64).fill_null(NONE).to_numpy()
        return cls(
            parent=above,
            delay_s=np.where(above == NONE, np.nan, waits),
            time_s=frame[time].cast(pl.Float64).fill_null(float("nan")).to_numpy() * unit_s,
        )


def by_name(names: Sequence[str | None], wanted: Sequence[str | None]) -> tuple[Rows, int]:
    """Return the row each ``wanted`` name has, the first of several, and how many are not there."""
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        if name is not None:
            rows.setdefault(name, row)
    parents = np.fromiter(
        (NONE if name is None else rows.get(name, NONE) for name in wanted), np.int64, len(wanted)
    )
    asked = sum(name is not None for name in wanted)
    return parents, asked - int((parents != NONE).sum())


def require_no_circle(parent: Rows, where: Where, field: str) -> None:
    """Raise ``TraceError`` naming the first row that waits, in the end, for itself."""
    _, rooted = _roots(parent)
    wrong = np.flatnonzero(~rooted)
    if wrong.size:
        row = int(wrong[0])
        told = f"row {where.first_row + int(parent[row])}"
        where.fail(row, field, told, "a request that does not wait for this one in turn")


def roots(parent: Rows) -> Rows:
    """Return the row at the start of each row's chain of parents; there is no circle."""
    return _roots(parent)[0]


def _roots(parent: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """Return each row's furthest ancestor, by doubling, and whether that one waits for none."""
    own = np.arange(parent.size)
    above = np.where(parent == NONE, own, parent)
    for _ in range(max(1, parent.size).bit_length()):
        further = above[above]
        if np.array_equal(further, above):
            break
        above = further
    return above, parent[above] == NONE if parent.size else np.zeros(0, dtype=bool)


def depths(parent: Rows) -> Rows:
    """Return how many parents each row has above it; there is no circle."""
    own = np.arange(parent.size)
    above = np.where(parent == NONE, own, parent)
    depth = (parent != NONE).astype(np.int64)
    for _ in range(max(1, parent.size).bit_length()):
        if not depth[above].any():
            break
        depth, above = depth + depth[above], above[above]
    return np.asarray(depth)


def started(links: Links) -> Seconds:
    """Return each row's time to be sorted by: its own, or its nearest ancestor's that has one."""
    missing = np.isnan(links.time_s)
    if not missing.any():
        return links.time_s
    upward = np.where(missing, links.parent, NONE)
    return np.asarray(links.time_s[roots(upward)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Relinked:
    """The links of the rows that stayed, numbered anew, and what had to be changed."""

    links: Links
    moved: int
    """Rows whose parent left and that now wait for its parent."""
    freed: int
    """Rows that now wait for nobody."""


def relink(links: Links, kept: Rows) -> Relinked:
    """Return the links among the rows ``kept``, in this order.

    Who waited for a row that left waits for that row's parent, as much longer as the row waited for
    it; where none is left it starts by its own time, or that of the last one that left and the
    delays since.
    """
    count = links.parent.size
    place = np.full(count + 1, NONE)
    place[kept] = np.arange(kept.size)
    parent, delay, time = links.parent[kept].copy(), links.delay_s[kept].copy(), links.time_s[kept]
    time = time.copy()
    gone = (parent != NONE) & (place[parent] == NONE)
    moved = gone.copy()
    while gone.any():
        rows = np.flatnonzero(gone)
        left = parent[rows]
        parent[rows] = links.parent[left]
        ends = rows[parent[rows] == NONE]
        last = left[parent[rows] == NONE]
        late = np.isnan(time[ends])
        time[ends[late]] = links.time_s[last[late]] + np.nan_to_num(delay[ends[late]])
        delay[rows] = delay[rows] + links.delay_s[left]
        gone = (parent != NONE) & (place[parent] == NONE)
    freed = moved & (parent == NONE)
    delay[freed] = np.nan
    return Relinked(
        links=Links(
            parent=np.where(parent == NONE, NONE, place[parent]), delay_s=delay, time_s=time
        ),
        moved=int((moved & ~freed).sum()),
        freed=int(freed.sum()),
    )


def untangled(links: Links) -> tuple[Links, int]:
    """Return the links without those to a parent that comes later, in order, and their number."""
    late = links.parent > np.arange(links.parent.size)
    if not late.any():
        return links, 0
    parent = np.where(late, NONE, links.parent)
    delay = np.where(late, np.nan, links.delay_s)
    return Links(parent=parent, delay_s=delay, time_s=links.time_s), int(late.sum())


def column(values: NDArray[Any], name: str, dtype: pl.DataType) -> pl.Series:
    """Return parents or delays as a column: null for nobody, and for what is unknown."""
    series = pl.Series(name, values)
    known = series != NONE if dtype.is_integer() else series.is_not_nan()
    return series.to_frame().select(pl.when(known).then(series).cast(dtype).alias(name))[name]
