"""When policies are asked: intervals, and ticks that several of them share."""

import math

LEAST_INTERVAL_S = 1e-3
"""Simulated seconds; looking more often is taken for a mistake: such a run takes for ever."""


def check_interval(owner: str, name: str, seconds: float) -> None:
    """Refuse an interval that is too short, or no number.

    Raises:
        ValueError: in which ``owner`` and ``name`` are told.
    """
    if not LEAST_INTERVAL_S <= seconds < math.inf:
        raise ValueError(
            f"{owner}: {name} must be at least {LEAST_INTERVAL_S:g} s but got {seconds!r}"
        )


def common_tick_s(*intervals_s: float) -> float:
    """Return the intervals' greatest common divisor in whole milliseconds, at least one."""
    return max(1, math.gcd(*(round(1000 * each) for each in intervals_s))) / 1000


def crossed(before_s: float, now_s: float, every_s: float) -> bool:
    """Tell whether a multiple of an interval lies after one moment and up to another."""
    return math.floor(now_s / every_s + 1e-9) > math.floor(before_s / every_s + 1e-9)
