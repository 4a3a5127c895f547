"""How sure a mean is: Student's t over independent values, and over a run's batches."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
BATCHES = 20
"""Consecutive parts of a run whose means are taken for independent (batch means)."""


class Interval(NamedTuple):
    """A mean and half the width of its confidence interval; ``nan`` where one value has none."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of independent ``values`` with its t interval.

    Of one value the half width is ``nan``, of none both are.
    """
    known = np.asarray(values, dtype=np.float64)
    if not known.size:
        return Interval(math.nan, math.nan)
    if known.size < 2:
        return Interval(float(known[0]), math.nan)
    error = float(known.std(ddof=1)) / math.sqrt(known.size)
    quantile = float(stdtrit(known.size - 1, (1.0 + confidence) / 2.0))
    return Interval(float(known.mean()), quantile * error)


def batch_interval(
    values: ArrayLike, confidence: float = CONFIDENCE, batches: int = BATCHES
) -> Interval:
    """Return the mean of ``values``, which come in order and depend on those before, with its t.

    The interval is that of the means of consecutive batches as equal in size as can be; with fewer
    than two values per batch its half width is ``nan``.
    """
    known: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if known.size < 2 * batches:
        return Interval(float(known.mean()) if known.size else math.nan, math.nan)
    means = [part.mean() for part in np.array_split(known, batches)]
    return Interval(float(known.mean()), t_interval(means, confidence).half)
