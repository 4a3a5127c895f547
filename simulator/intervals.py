"""How sure a mean is: Student's t over independent values, and over a run's batches."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
BATCHES = 20
"""Consecutive parts of a run whose means are taken for independent (batch means), at most."""
LEAST = 5
"""Values of a batch, at least: fewer make no mean."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of ``count`` values, and the ends of its confidence interval (``nan``: none)."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def within(self, most: float) -> "Interval":
        """Return what of the interval can be: no metric is below 0 or above ``most``."""
        return replace(self, low=max(self.low, 0.0), high=min(self.high, most))

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside, so that the sign is known."""
        return self.low > 0 or self.high < 0


def around(mean: float, half: float, count: int) -> Interval:
    """Return the interval of this half width around a mean."""
    return Interval(mean, mean - half, mean + half, count)


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of independent ``values`` (nan: unknown) with its t interval.

    One value has no interval, and neither have several of which one is infinite; of none the mean
    is ``nan`` too.
    """
    known: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    mean = float(known.mean()) if known.size else math.nan
    if known.size < 2 or not math.isfinite(mean):
        return around(mean, math.nan, known.size)
    error = float(known.std(ddof=1)) / math.sqrt(known.size)
    quantile = float(stdtrit(known.size - 1, (1.0 + confidence) / 2.0))
    return around(mean, quantile * error, known.size)


def batch_means(values: ArrayLike, batches: int = BATCHES) -> NDArray[np.float64]:
    """Return the means of ``batches`` consecutive batches of equal size, or of fewer, or none.

    Each has at least :data:`LEAST` values; the first ones that fill no batch are left out.
    """
    known: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    count = min(batches, known.size // LEAST)
    if count < 2:
        return known[:0]
    size = known.size // count
    means: NDArray[np.float64] = (
        known[known.size - count * size :].reshape(count, size).mean(axis=1)
    )
    return means


def batch_interval(
    values: ArrayLike, confidence: float = CONFIDENCE, batches: int = BATCHES
) -> Interval:
    """Return the mean of ``values``, which come in order and depend on those before, with its t.

    The interval is that of their :func:`batch_means`; there is none where they make no two.
    """
    known: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    mean = float(known.mean()) if known.size else math.nan
    return around(mean, t_interval(batch_means(known, batches), confidence).half, known.size)
