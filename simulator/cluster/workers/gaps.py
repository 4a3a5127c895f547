"""All inter-token gaps of a run, pooled into a fine histogram without touching single tokens."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.record import GapHistogram

BINS_PER_DECADE = 1000
DECADES = (-6, 5)
_DECADES = 10.0 ** (
    np.arange(DECADES[0] * BINS_PER_DECADE, DECADES[1] * BINS_PER_DECADE + 1) / BINS_PER_DECADE
)
EDGES: NDArray[np.float64] = np.concatenate(([0.0], _DECADES, [np.inf]))
EDGES.flags.writeable = False
_FLUSH = 1 << 16

SecondsOver = Callable[[int, NDArray[np.float64]], NDArray[np.float64]]


class GapLog:
    """Counts gaps: one of ``seconds`` for each of ``weight`` sequences.

    Runs of decode iterations are kept as ``(batch, weight, first context, iterations)`` and
    expanded later, vectorised, with the same expressions that timed them.
    """

    __slots__ = ("_counts", "_gaps", "_max", "_min", "_runs", "_seconds")

    def __init__(self, seconds: SecondsOver) -> None:
        self._seconds = seconds
        self._counts = np.zeros(len(EDGES) - 1, dtype=np.int64)
        self._runs: list[int] = []  # four numbers a run
        self._gaps: list[tuple[float, int]] = []
        self._min, self._max = np.inf, 0.0

    def iterations(self, batch: int, weight: int, context: int, count: int) -> None:
        """Record ``count`` iterations of ``batch``; the first has ``context`` KV tokens."""
        runs = self._runs
        runs.extend((batch, weight, context, count))
        if len(runs) >= 4 * _FLUSH:
            self._flush_runs()

    def gap(self, seconds: float, weight: int) -> None:
        """Record one gap of ``seconds`` that ``weight`` sequences saw."""
        gaps = self._gaps
        gaps.append((seconds, weight))
        if len(gaps) >= _FLUSH:
            self._flush_gaps()

    def _flush_runs(self) -> None:
        runs = np.array(self._runs, dtype=np.int64).reshape(-1, 4)
        self._runs.clear()
        runs = runs[np.argsort(runs[:, 0], kind="stable")]
        changes = np.flatnonzero(np.diff(runs[:, 0])) + 1
        for same in np.split(runs, changes):
            for block in np.array_split(same, len(same) // 512 + 1):
                self._expand(block)

    def _expand(self, runs: NDArray[np.int64]) -> None:
        """Count the gaps of runs of one batch size, iteration by iteration."""
        if len(runs) == 0:
            return
        batch = int(runs[0, 0])
        _, weight, context, count = runs.T
        first = np.repeat(np.cumsum(count) - count, count)
        step = np.arange(len(first)) - first
        contexts = (np.repeat(context, count) + step * batch).astype(np.float64)
        self._add(self._seconds(batch, contexts), np.repeat(weight, count))

    def _flush_gaps(self) -> None:
        gaps = self._gaps
        self._add(np.array([g for g, _ in gaps]), np.array([w for _, w in gaps], dtype=np.int64))
        gaps.clear()

    def _add(self, seconds: NDArray[np.float64], weight: NDArray[np.int64]) -> None:
        if len(seconds) == 0:
            return
        seen = seconds[weight > 0]
        self._min = min(self._min, float(seen.min(initial=np.inf)))
        self._max = max(self._max, float(seen.max(initial=0.0)))
        np.add.at(self._counts, _bins(seconds), weight)

    def settle(self) -> None:
        """Count everything recorded so far."""
        self._flush_runs()
        self._flush_gaps()

    @property
    def counts(self) -> NDArray[np.int64]:
        """Gaps per bin of :data:`EDGES`, once settled."""
        return self._counts

    @property
    def shortest(self) -> float:
        """The shortest gap in seconds (infinite where there is none), once settled."""
        return self._min

    @property
    def longest(self) -> float:
        """The longest gap in seconds, once settled."""
        return self._max


def _bins(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted(EDGES, seconds, side="right") - 1


def pooled(logs: Sequence[GapLog], firsts: NDArray[np.float64]) -> GapHistogram:
    """Return the histogram of all ``logs``, ``firsts`` (one gap each) included."""
    counts = np.bincount(_bins(firsts), minlength=len(EDGES) - 1).astype(np.int64)
    shortest, longest = float(firsts.min(initial=np.inf)), float(firsts.max(initial=0.0))
    for log in logs:
        log.settle()
        counts += log.counts
        shortest, longest = min(shortest, log.shortest), max(longest, log.longest)
    return GapHistogram(edges=EDGES, counts=counts, min_s=shortest, max_s=longest)
