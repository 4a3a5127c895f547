"""Where something stops to hold, over whole steps: by growing strides, then by halves."""

from collections.abc import Callable
from typing import NamedTuple

from simulator.errors import ConfigError


class Bracket(NamedTuple):
    """The last step that holds and the next, which does not; ``None`` where there was none.

    ``holds`` is ``None`` where even the least step failed, ``fails`` where even the most held.
    """

    holds: int | None
    fails: int | None


def highest(
    holds: Callable[[int], bool], first: int, bounds: tuple[int, int], stride: int = 4
) -> Bracket:
    """Return where ``holds`` turns false, looked for from ``first`` between ``bounds``, inclusive.

    Strides double until one step holds and a higher one fails; halving then brings them together.
    Where it turns more than once, one of the turns is found.
    """
    least, most = bounds
    if least > most:
        raise ConfigError(f"goodput: nothing to look at between the bounds ({least} to {most})")
    at = min(max(first, least), most)
    held, failed = (at, None) if holds(at) else (None, at)
    while held is None or failed is None:
        edge = least if held is None else most
        if (failed if held is None else held) == edge:
            return Bracket(held, failed)
        step = max(edge, failed - stride) if held is None else min(edge, held + stride)  # type: ignore[operator]
        if holds(step):
            held = step
        else:
            failed = step
        stride *= 2
    while failed - held > 1:
        middle = (held + failed) // 2
        held, failed = (middle, failed) if holds(middle) else (held, middle)
    return Bracket(held, failed)


def fewest(
    holds: Callable[[int], bool], first: int, bounds: tuple[int, int], stride: int = 1
) -> Bracket:
    """Return the first step that holds and the one before, which does not, as :func:`highest`."""
    least, most = bounds
    found = highest(lambda step: holds(-step), -first, (-most, -least), stride)
    return Bracket(*(None if step is None else -step for step in found))


def cheapest(
    holds: Callable[[int, int], bool], costs: tuple[int, int], below: int
) -> list[tuple[int, int]]:
    """Return pairs of counts that hold, each cheaper than the ones before and than ``below``.

    A pair costs its counts times ``costs``. More of either never hurts, it is assumed, so the edge
    of what holds is walked along: fewer of the first where a pair holds, else more of the second.
    """
    first_cost, second_cost = costs
    first, second = (below - 1 - second_cost) // first_cost, 1
    found: list[tuple[int, int]] = []
    while first >= 1:
        cost = first * first_cost + second * second_cost
        if cost >= below:
            first -= 1
        elif holds(first, second):
            found.append((first, second))
            below, first = cost, first - 1
        else:
            second += 1
    return found
