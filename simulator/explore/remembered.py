"""What depends on the batch alone: worked out once for each, however often it is asked for."""

from collections.abc import Callable

import numpy as np

from simulator.explore.space import Floats

MOST = 16384
"""Batches kept before starting over."""


class Remembered:
    """A column by batch, filled as batches are asked for."""

    __slots__ = ("_batch", "_values")

    def __init__(self) -> None:
        self._batch: Floats = np.empty(0)
        self._values: Floats = np.empty(0)

    def at(self, batch: Floats, work: Callable[[Floats], Floats]) -> Floats:
        """Return the values of rising batches; ``work`` yields those of batches not known yet.

        What it says of a batch must not depend on which others it is asked about. The values are
        not to be written to.
        """
        if np.array_equal(self._batch[: len(batch)], batch):  # most often the same, or fewer
            return self._values[: len(batch)]
        self._learn(np.setdiff1d(batch, self._batch, assume_unique=True), batch, work)
        values: Floats = self._values[np.searchsorted(self._batch, batch)]
        return values

    def _learn(self, new: Floats, asked: Floats, work: Callable[[Floats], Floats]) -> None:
        """Add the values of ``new`` batches, or begin again with those ``asked`` for."""
        if not len(new):
            return
        if len(self._batch) + len(new) > MOST:
            self._batch, self._values, new = np.empty(0), np.empty(0), asked
        every = np.concatenate([self._batch, new])
        order = np.argsort(every)
        self._values = np.concatenate([self._values, work(new)])[order]
        self._batch = every[order]
        self._values.flags.writeable = False
