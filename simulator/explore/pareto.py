"""Fronts: the points that no other beats in both of two aims."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LESS_IS_BETTER = ("usd_per_mtok", "joules_per_token", "gpus", "ttft_s", "tpot_s")
"""Columns whose small values are the good ones."""


def front(x: Floats, y: Floats) -> NDArray[np.int64]:
    """Return the indices of the points on the front, both aims maximised, by rising ``x``.

    No point of the front has another at least as good in both; of equal points one stays.
    """
    order = np.lexsort((y, x))[::-1]
    ranked = y[order]
    best = np.maximum.accumulate(ranked)
    rises = np.concatenate([[True], ranked[1:] > best[:-1]]) if len(order) else np.zeros(0, bool)
    kept: NDArray[np.int64] = order[rises][::-1]
    return kept


def pareto(points: pl.DataFrame, x: str = "interactivity", y: str = "throughput") -> pl.DataFrame:
    """Return the rows of ``points`` on the front of columns ``x`` and ``y``, by rising ``x``.

    Columns of :data:`LESS_IS_BETTER` are minimised, all others maximised.
    """
    if not len(points):
        return points
    signed = (-1.0 if name in LESS_IS_BETTER else 1.0 for name in (x, y))
    aims = [sign * points[name].to_numpy() for sign, name in zip(signed, (x, y), strict=True)]
    return points[front(*aims)]


def best_at(curve: pl.DataFrame, x: Floats, y: str = "throughput") -> Floats:
    """Return the highest ``y`` of a front at an interactivity of at least each of ``x``.

    0 where the front does not reach that far.
    """
    if not len(curve):
        return np.zeros(len(x))
    at = np.searchsorted(curve["interactivity"].to_numpy(), x, side="left")
    values: Floats = np.append(curve[y].to_numpy(), 0.0)[at]
    return values
