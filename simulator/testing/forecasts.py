"""The contract of a forecaster: a number of at least 0, whatever it was told."""

import copy
import math
import time
from collections.abc import Iterator, Sequence

from simulator.policies.forecasting import Forecaster, Series
from simulator.testing.contract import Subject, asked_twice, same

STEPS = (1, 2, 12)
"""Points ahead that are asked for."""
LONG = 500
"""Points after which a forecast is timed."""


def check_forecaster(policy: Forecaster, *, point_s: float = 0.05) -> None:
    """See to it that a forecaster keeps its contract.

    Told of no points, few or many, noughts, NaN, steps, swings, falls and floods, it expects a
    number of at least 0, however far ahead; the same series has the same forecast, today and in
    another run; it writes to nothing it is shown and keeps nothing in itself; and a point with its
    forecast takes ``point_s`` CPU seconds at most, after 500 others.

    Raises:
        ContractError: it does not; the text names the forecaster and what it broke.
    """
    subject = Subject("forecaster", policy)
    for where, points in _histories():
        series = Series()
        for point in points:
            _expected(subject, series, where)
            series = _told(subject, series, point, where)
        _expected(subject, series, where)
    _quickly(subject, point_s)


def _histories() -> Iterator[tuple[str, Sequence[float]]]:
    """Yield what may come to be told, in words and as points."""
    yield "of noughts", [0.0] * 8
    yield "of nothing known", [math.nan] * 8
    yield "of one point", [5.0]
    yield "of a constant", [7.0] * 60
    yield "of a step", [2.0] * 20 + [50.0] * 20
    yield "of a steep fall", [100.0 - 12 * at for at in range(9)]
    yield "of a swing", [10 + 8 * math.sin(at / 3) for at in range(80)]
    yield "with gaps", [math.nan if at % 3 == 0 else float(at) for at in range(30)]
    yield "of a flood", [1.0] * 10 + [1e9, 0.0] * 10
    yield "that doubles", [2.0**at for at in range(60)]


def _told(subject: Subject, series: Series, point: float, where: str) -> Series:
    """Return the series with its next point."""
    shown = copy.deepcopy(series)
    after = asked_twice(subject, f"told {where}", lambda: subject.policy.told(shown, point))
    if not same(shown, series):
        raise subject.broke(f"wrote into the series it was given when told {where}")
    if not isinstance(after, Series):
        raise subject.broke(f"returned {after!r} when told {where}; a Series is due")
    return copy.deepcopy(after)


def _expected(subject: Subject, series: Series, where: str) -> None:
    """Check what it expects of a series."""
    for steps in STEPS:
        situation = f"{steps} ahead of a series {where}"
        shown = copy.deepcopy(series)
        value = asked_twice(subject, situation, lambda: subject.policy.ahead(shown, steps))  # noqa: B023
        if not same(shown, series):
            raise subject.broke(f"wrote into the series it was given {situation}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value < math.inf):
            raise subject.broke(f"expects {value!r} {situation}; a number of at least 0 is due")


def _quickly(subject: Subject, point_s: float) -> None:
    """Time points of a long series, each with its forecast."""
    policy, points = subject.policy, 20
    series = Series()
    for at in range(LONG):
        series = policy.told(series, 10 + 8 * math.sin(at / 3))

    def ask() -> float:
        started, grown = time.process_time(), series
        for at in range(points):
            grown = policy.told(grown, float(at))
            policy.ahead(grown, 1)
        return (time.process_time() - started) / points

    each = subject.quickest(f"after {LONG} points", ask, point_s)
    if each > point_s:
        raise subject.broke(f"took {each:.3f} CPU s a point after {LONG}; {point_s:g} may be")
