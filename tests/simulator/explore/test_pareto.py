"""Fronts: against comparing every pair of points."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.explore.pareto import best_at, front, pareto

VALUES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=60)


def undominated(points: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return the points no other is at least as good as in both, and better in one."""
    return {
        (x, y)
        for x, y in points
        if not any((a >= x and b >= y) and (a > x or b > y) for a, b in points)
    }


@settings(max_examples=200)
@given(VALUES)
def test_the_front_is_what_no_point_beats(points: list[tuple[int, int]]) -> None:
    """The front holds each undominated value once, x rising and y falling."""
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    kept = front(x, y)
    found = list(zip(x[kept], y[kept], strict=True))
    assert set(found) == undominated(points)
    assert len(found) == len(set(found))
    assert (np.diff(x[kept]) > 0).all()
    assert (np.diff(y[kept]) < 0).all()


def test_costs_are_minimised() -> None:
    """A cheaper point beats a dearer one of the same interactivity."""
    points = pl.DataFrame({"interactivity": [1.0, 1.0, 2.0], "usd_per_mtok": [3.0, 2.0, 5.0]})
    chosen = pareto(points, y="usd_per_mtok")
    assert chosen.rows() == [(1.0, 2.0), (2.0, 5.0)]


def test_the_best_at_an_interactivity_is_any_point_beyond_it() -> None:
    """A front is read as a staircase, and is 0 past its last point."""
    curve = pl.DataFrame({"interactivity": [1.0, 2.0, 4.0], "throughput": [9.0, 5.0, 1.0]})
    read = best_at(curve, np.array([0.5, 1.0, 1.5, 4.0, 4.1]))
    assert read.tolist() == [9.0, 9.0, 5.0, 1.0, 0.0]
    assert best_at(curve.clear(), np.array([1.0])).tolist() == [0.0]
