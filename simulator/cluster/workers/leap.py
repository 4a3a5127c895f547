"""The arithmetic of a batch's iterations: how long they take together, and what they add up to.

Between two changes of its batch the iterations differ only in context, which grows by the batch
each time. Their seconds are summed in the very order a loop over them would, so that a leap over
many ends at the same bits as one at a time. Iteration ``step`` runs with ``context`` KV tokens in
total, the ones it writes included, and takes its KV blocks as it begins.
"""

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.workers.timing import DecodeTimes
from simulator.latency.base import Piece

LONGEST = 256
"""Longest leap in iterations; longer ones are cut, which changes no result."""
SCALAR = 24
"""Leaps up to this long are summed in plain floats, longer ones by numpy, to the same bits."""
_RAMP: NDArray[np.float64] = np.arange(LONGEST, dtype=np.float64)
_RAMP.flags.writeable = False


class Leap:
    """The iteration under way, ``step``, and the ``left`` iterations a batch has set out to do.

    ``since`` is when iteration ``step`` began; ``growth`` counts the sequences by the phase at
    which they take their next block, and the rest of the leap takes at most ``growth_left``.
    Nothing is left of an idle batch's leap. With ``grows`` false no sequence takes blocks later.
    """

    __slots__ = (
        "_batch",
        "_grows",
        "_marks",
        "_piece",
        "_times",
        "context",
        "growth",
        "growth_left",
        "left",
        "limit",
        "since",
        "step",
    )

    def __init__(self, times: DecodeTimes, block_size: int, *, grows: bool) -> None:
        self._times = times
        self._grows = grows
        self._batch = 0
        self._piece: Piece
        self._marks: NDArray[np.float64] | None = None  # where iterations end, if there are many
        self.growth = [0] * block_size
        self.step = self.context = self.left = self.growth_left = 0
        self.since = 0.0
        self.limit = LONGEST

    def clear(self) -> None:
        """Forget every sequence."""
        self.growth = [0] * len(self.growth)
        self.context = self.left = self.growth_left = 0

    # --- who takes part ------------------------------------------------------------------------

    def enter(self, length: int) -> None:
        """Let a sequence with ``length`` KV tokens in this iteration take part from it on."""
        self.context += length
        if self._grows:
            self.growth[(self.step - length + 1) % len(self.growth)] += 1

    def leave(self, length: int) -> None:
        """Take a sequence with ``length`` KV tokens in this iteration out of the sums."""
        self.context -= length
        if self._grows:
            self.growth[(self.step - length + 1) % len(self.growth)] -= 1

    # --- setting out ---------------------------------------------------------------------------

    def seconds(self, batch: int) -> float:
        """Return the seconds of this iteration alone."""
        context = self.context
        _, c0, c1, c2 = self._times.piece(batch, context)
        return c0 + context * (c1 + context * c2)

    def once(self) -> None:
        """Set out to do this iteration alone."""
        self._marks = None
        self.left = 1

    def plan(self, now: float, batch: int, most: int, room: int) -> tuple[float, float]:
        """Set out to do as many iterations as stay alike, ``most`` at most, in ``room`` blocks.

        Returns when the first and when the last of them ends.
        """
        self._batch, self._piece = batch, self._times.piece(batch, self.context)
        self.left = left = self._reach(most, room)
        if left > SCALAR:
            return self._plan_many(now, left)
        context = self.context
        _, c0, c1, c2 = self._piece
        self._marks = None
        end = first = now + (c0 + context * (c1 + context * c2))
        for _ in range(left - 1):
            context += batch
            end += c0 + context * (c1 + context * c2)
        return first, end

    def _plan_many(self, now: float, left: int) -> tuple[float, float]:
        _, c0, c1, c2 = self._piece
        contexts = self.context + self._batch * _RAMP[:left]
        seconds = c0 + contexts * (c1 + contexts * c2)
        seconds[0] += now
        self._marks = marks = np.add.accumulate(seconds)
        return float(marks[0]), float(marks[-1])

    def _reach(self, most: int, room: int) -> int:
        """Return the iterations until ``most``, the piece or the blocks end."""
        batch, upto = self._batch, self._piece[0]
        leap = min(most, self.limit)
        if self.context + batch * (leap - 1) > upto:
            leap = int((upto - self.context) // batch) + 1
        self.growth_left = 0
        if leap > 1 and self._grows:
            leap = self.fitting(batch, leap, room)
        return leap

    def fitting(self, batch: int, leap: int, room: int) -> int:
        """Return how many of ``leap`` iterations fit into ``room`` more blocks."""
        growth, step, size = self.growth, self.step, len(self.growth)
        bound = batch * ((leap + size - 2) // size)
        if bound <= room:
            self.growth_left = bound
            return leap
        taken = 0
        for ahead in range(1, leap):
            more = growth[(step + ahead) % size]
            if taken + more > room:
                self.growth_left = taken
                return ahead
            taken += more
        self.growth_left = taken
        return leap

    def cut(self, left: int) -> float:
        """Set out to do only ``left`` iterations from this one on; return when the last ends."""
        if self._marks is not None:
            end = float(self._marks[left - 1])
            self._marks = self._marks[:left]
        else:
            end, context, batch = self.since, self.context, self._batch
            _, c0, c1, c2 = self._piece
            for _ in range(left):
                end += c0 + context * (c1 + context * c2)
                context += batch
        self.left = left
        self.growth_left = self.blocks_over(left - 1)
        return end

    # --- what is over --------------------------------------------------------------------------

    def until(self, now: float, *, past: bool) -> tuple[int, float]:
        """Return how many iterations are over at ``now`` and when the one then under way began.

        ``past`` tells whether one that ends at that very instant is over.
        """
        if self._marks is not None:
            done = int(np.searchsorted(self._marks, now, side="right" if past else "left"))
            return done, float(self._marks[done - 1]) if done else self.since
        batch, context, began = self._batch, self.context, self.since
        _, c0, c1, c2 = self._piece
        for done in range(self.left - 1):
            end = began + (c0 + context * (c1 + context * c2))
            if end > now or (end == now and not past):
                return done, began
            began = end
            context += batch
        return self.left - 1, began

    def blocks_over(self, count: int) -> int:
        """Return the blocks taken over the ``count`` iterations after this one."""
        growth, step, size = self.growth, self.step, len(self.growth)
        whole, rest = divmod(count, size)
        taken = sum(growth) * whole if whole else 0
        for ahead in range(1, rest + 1):
            taken += growth[(step + ahead) % size]
        return taken

    def count(self, done: int, batch: int) -> None:
        """Go on to the iteration after ``done`` of ``batch``."""
        self.step += done
        self.context += batch * done

    def advance(self, done: int, began: float, taken: int) -> None:
        """Hear that ``done`` are counted, took ``taken`` blocks, and the next ``began``."""
        self.growth_left -= taken
        self.left -= done
        self.since = began
        if self._marks is not None:
            self._marks = self._marks[done:]
