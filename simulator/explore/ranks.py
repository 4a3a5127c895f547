"""Prompts on the attention-DP ranks of a co-located worker: how many compute some at a time.

Seats fall free one by one, and each is given to a prompt at once, on a rank of its own. So a step
seldom finds prompts on all ranks, and yet takes as long as the rank that has most of them.
"""

import math
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import pdtrc

from simulator.explore.remembered import Remembered
from simulator.explore.space import Floats
from simulator.latency.passes import Load
from simulator.layout import Layout

MANY = 16
"""Groups from which on their number is not summed up one by one."""
FAR = 12.0
"""Standard deviations of a Poisson number above its mean that it does not reach."""


class Sizes(NamedTuple):
    """Tokens of prompts, or of their chunks, by rising size, and the share of each."""

    tokens: Floats
    share: Floats

    @property
    def mean(self) -> float:
        """Mean tokens."""
        return float(self.tokens @ self.share)

    def fullest(self, count: Floats) -> Floats:
        """Return the expected tokens of the largest of ``count`` (at least 1) at random."""
        below = np.cumsum(self.share)
        largest = np.minimum(below, 1.0) ** count[:, None]
        grown: Floats = np.diff(largest, axis=1, prepend=0.0) @ self.tokens
        return grown


def at_once(ranks: int, share: Floats) -> tuple[Floats, Floats]:
    """Return the share of steps in which any rank has a chunk, and how many have one then.

    Each has one in ``share`` of the steps. Prompts that come at random keep ``ranks`` servers busy
    as customers do: all are idle with the probability of an M/M/c queue (Erlang).
    """
    offered = ranks * np.minimum(share, 1.0 - 1e-12)
    term, total = np.ones_like(offered), np.ones_like(offered)
    for count in range(1, ranks):
        term = term * offered / count
        total += term
    total += term * offered / (ranks - offered)
    busy: Floats = 1.0 - 1.0 / total
    return busy, offered / busy


def groups_of(size: int, mean: Floats) -> Floats:
    """Return how many groups of ``size`` a Poisson number of this mean fills, the last in part.

    The expectation of ``ceil(K / size)`` is the sum of the chances that K exceeds each multiple;
    of many groups the last is as likely to hold any number.
    """
    many = mean / size + 0.5 * (1.0 - 1.0 / size)
    if size == 1:
        return many
    few = np.where(mean < MANY * size, mean, 0.0)
    largest = float(np.max(few, initial=0.0))
    reached = largest + FAR * (1.0 + math.sqrt(largest))  # beyond, the chances are none
    chances = [pdtrc(size * group, few) for group in range(min(int(reached / size) + 1, 4 * MANY))]
    return np.where(few > 0.0, np.sum(chances, axis=0), many)


class Dealt(NamedTuple):
    """What comes of the sequences that end in a decode iteration, by batch.

    A Poisson number of mean ``ended``; their seats' prompts are dealt out evenly over ranks and
    microbatches, and computed in ``rate`` goes on average, with ``most`` on the fullest rank.
    """

    ended: Floats
    rate: Floats
    most: Floats

    def where(self, kept: NDArray[np.bool_]) -> "Dealt":
        """Return the same of fewer batches."""
        return Dealt(self.ended[kept], self.rate[kept], self.most[kept])


class Ended:
    """The sequences that end in an iteration, of a batch that decodes for ``steps`` on average.

    Layouts of as many ranks and stages have the same: their groups are counted once.
    """

    def __init__(self, steps: float) -> None:
        self._steps = steps
        self._groups: defaultdict[tuple[int, int], Remembered] = defaultdict(Remembered)

    def dealt(self, layout: Layout, prompts: int, batch: Floats) -> Dealt:
        """Return what comes of batches on each rank and stage, up to ``prompts`` at a time."""
        places = layout.attention_dp * layout.pp
        rate = self._filled(places, places * prompts, batch)
        most = self._filled(places, layout.attention_dp, batch) / rate
        return Dealt(self._mean(places, batch), rate, most)

    def differ(self, layout: Layout, prompts: tuple[int, int], batch: Floats) -> NDArray[np.bool_]:
        """Return where it makes a difference how many ``prompts`` are computed at a time."""
        places = layout.attention_dp * layout.pp
        fewer, more = (self._filled(places, places * each, batch) for each in prompts)
        differ: NDArray[np.bool_] = fewer > 1.001 * more
        return differ

    def _filled(self, places: int, size: int, batch: Floats) -> Floats:
        known = self._groups[places, size]
        return known.at(batch, lambda batch: groups_of(size, self._mean(places, batch)))

    def _mean(self, places: int, batch: Floats) -> Floats:
        return places * batch / self._steps


def side_by_side(chunk: Load, sizes: Sizes, ranks: int, together: Floats) -> Load:
    """Return what the fullest of ``together`` ranks works on, each with a chunk of these sizes.

    ``chunk`` is the mean one. The fullest has the share of all context that it has of the tokens,
    as in the event engine.
    """
    grown = sizes.fullest(together) / sizes.mean
    return chunk._replace(
        tokens=chunk.tokens * grown,
        pairs=chunk.pairs * grown,
        past=chunk.past * grown,
        occupied=together / (ranks * grown),
    )
