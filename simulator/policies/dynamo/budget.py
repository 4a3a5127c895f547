"""What Dynamo's planner lets become of a proposal within a band of GPUs.

Source: ai-dynamo 1.6.1, ``dynamo/planner/core/budget.py``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

Counts = tuple[int, ...]
"""Workers of each pool: of prefill and decode, or of the mixed one alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """GPUs a deployment may have, the GPUs of each pool's workers, and the pools' least workers.

    ``most`` is not exceeded, but by a single pool that grows to ``least`` in wide workers; below
    ``least`` the widest worker's GPUs are tolerated where there is a ``most`` too. ``None``: no
    such bound.
    """

    least: int | None
    most: int | None
    gpus: Counts
    floors: Counts

    def total(self, counts: Counts) -> int:
        """Return the GPUs of so many workers."""
        return sum(count * gpus for count, gpus in zip(counts, self.gpus, strict=True))

    def holds(self, counts: Counts) -> bool:
        """Tell whether so many workers lie in the band."""
        total = self.total(counts)
        slack = 0 if self.most is None else max(self.gpus)
        above = self.least is None or total >= self.least - slack
        return above and (self.most is None or total <= self.most)

    # --- out of the band: both pools in proportion ---------------------------------------------

    def clamped(self, counts: Counts) -> Counts:
        """Return the counts in proportion within the band; none where the floors do not fit."""
        if self.holds(counts):
            return counts
        if self.most is not None and self.total(counts) > self.most:
            return self._shrunk(counts, self.most)
        return self._grown(counts, self.least or 0)

    def _shrunk(self, counts: Counts, most: int) -> Counts:
        if self.total(self.floors) > most:
            return (0,) * len(counts)
        last = len(counts) - 1
        share, taken = most / self.total(counts), 0
        fitted = []
        for at, (count, gpus, floor) in enumerate(zip(counts, self.gpus, self.floors, strict=True)):
            others = self.total(self.floors) - floor * gpus if at < last else taken
            room = (most - others) // gpus
            wanted = room if at == last else min(room, math.floor(count * share))
            fitted.append(max(floor, wanted))
            taken += fitted[-1] * gpus
        return tuple(fitted)

    def _grown(self, counts: Counts, least: int) -> Counts:
        """Grow towards the least; a last pool that rounding would shrink keeps its workers."""
        gpus, floors, total = self.gpus, self.floors, self.total(counts)
        if len(counts) == 1:
            return (max(floors[0], math.ceil(least / gpus[0])),)
        wanted = counts[0] * least / total if total else least / 2 / gpus[0]
        first = max(floors[0], math.ceil(wanted))
        left = max(0, least - first * gpus[0])
        second = max(floors[1], math.ceil(left / gpus[1]))
        grown = (first, max(counts[1], second))
        if self.most is None or self.total(grown) <= self.most:
            return grown
        if second >= counts[1]:
            return counts
        return self.fitted(counts, (first, counts[1]))

    # --- within it: a proposal is cut, never turned round --------------------------------------

    def fitted(self, now: Counts, asked: Counts) -> Counts:
        """Return what of a proposal fits: each pool between what it has and what is asked.

        Where one pool is to grow and the other to shrink, both move or neither. The nearest to the
        proposal counts, then the one that cuts both alike, then that with the fewer of the first.
        """
        if self.holds(asked) and all(a >= f for a, f in zip(asked, self.floors, strict=True)):
            return asked
        swaps = opposing(now, asked)
        best = min(
            (
                (self._score(now, asked, found), found)
                for found in self._between(now, asked)
                if self.holds(found) and not (swaps and _one_leg(now, found))
            ),
            default=None,
        )
        return now if best is None else best[1]

    def _between(self, now: Counts, asked: Counts) -> Iterator[Counts]:
        legs = (
            range(max(min(n, a), floor), max(n, a) + 1)
            for n, a, floor in zip(now, asked, self.floors, strict=True)
        )
        yield from product(*legs)

    @staticmethod
    def _score(now: Counts, asked: Counts, found: Counts) -> tuple[int, int]:
        away = sum(abs(a - f) for a, f in zip(asked, found, strict=True))
        moved = [abs(f - n) for f, n in zip(found, now, strict=True)]
        wanted = [abs(a - n) for a, n in zip(asked, now, strict=True)]
        return away, abs(moved[0] * wanted[-1] - moved[-1] * wanted[0])

    def guarded(self, now: Counts, asked: Counts) -> tuple[Counts, str]:
        """Return what becomes of an ordinary proposal, and why it is not what was asked.

        Out of the band what there is, not what is asked, is brought back. At the floor plain
        reductions are held, at the ceiling plain growth; only growth of one pool at the other's
        cost goes through.
        """
        if not self.holds(now):
            return self.clamped(now), "back into the budget"
        up, down = _any_up(now, asked), _any_up(asked, now)
        at_floor = self.least is not None and self.total(now) <= self.least
        at_ceiling = self.most is not None and self.total(now) >= self.most
        if (at_floor and down and not up) or (at_ceiling and up and not opposing(now, asked)):
            return now, "held by the budget"
        if (at_floor or at_ceiling) and opposing(now, asked):
            found = self.fitted(now, asked)
            return found, "held by the budget" if found == now else ""
        found = self.clamped(asked)
        turned = any(
            not min(n, a) <= f <= max(n, a) for n, a, f in zip(now, asked, found, strict=True)
        )
        if turned or not self.holds(found):
            return now, "held by the budget"
        return found, ""


def _any_up(now: Counts, asked: Counts) -> bool:
    return any(a > n for n, a in zip(now, asked, strict=True))


def opposing(now: Counts, asked: Counts) -> bool:
    """Tell whether one pool is to grow while another is to shrink."""
    return _any_up(now, asked) and _any_up(asked, now)


def _one_leg(now: Counts, found: Counts) -> bool:
    """Tell whether only one of two pools moves."""
    return sum(n != f for n, f in zip(now, found, strict=True)) == 1
