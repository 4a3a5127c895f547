"""Reading and naming fronts."""

import numpy as np
import polars as pl

from simulator.explore.pareto import best_at
from simulator.explore.space import Floats


def common_grid(*curves: pl.DataFrame, low: float = 0.05, high: float = 0.9) -> Floats:
    """Return interactivities between two shares of the least one that all fronts still reach."""
    end = min(float(np.max(curve["interactivity"].to_numpy())) for curve in curves)
    return np.geomspace(low * end, high * end, 60)


def spanned_grid(*curves: pl.DataFrame) -> Floats:
    """Return evenly spaced interactivities over the range that all fronts have points in."""
    ends = [np.asarray(curve["interactivity"].to_numpy())[[0, -1]] for curve in curves]
    return np.linspace(max(first for first, _ in ends), min(last for _, last in ends), 90)


def ratio_on(grid: Floats, upper: pl.DataFrame, lower: pl.DataFrame) -> Floats:
    """Return how many times the throughput of ``lower`` the front ``upper`` has."""
    ratio: Floats = best_at(upper, grid) / best_at(lower, grid)
    return ratio


def common_ratio(upper: pl.DataFrame, lower: pl.DataFrame) -> Floats:
    """Return the ratio of two fronts over their common interactivities."""
    return ratio_on(common_grid(upper, lower), upper, lower)


def mean_gain(upper: pl.DataFrame, lower: pl.DataFrame) -> float:
    """Return the geometric mean of the ratio of two fronts over their common interactivities."""
    return float(np.exp(np.log(common_ratio(upper, lower)).mean()))


def series(**curves: pl.DataFrame) -> pl.DataFrame:
    """Return curves one below the other, named; columns that some lack are null there."""
    named = [
        frame.with_columns(pl.lit(name).alias("series"))
        for name, frame in curves.items()
        if len(frame)
    ]
    return pl.concat(named, how="diagonal")
