"""Forecasters: their recursions by hand, and what each is right about."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from simulator.policies.forecasting import (
    Arima,
    Constant,
    HoltWinters,
    Kalman,
    MovingAverage,
    SeasonalNaive,
    Series,
)

EVERY = [
    Constant(),
    MovingAverage(),
    Arima(),
    Kalman(),
    Kalman(log=True),
    SeasonalNaive(season=4),
    HoltWinters(),
    HoltWinters(season=4),
]


def after(forecaster: Any, *points: float) -> Series:
    """Return the series of the points."""
    series = Series()
    for point in points:
        series = forecaster.told(series, point)
    return series


def ahead(forecaster: Any, *points: float, steps: int = 1) -> float:
    """Return the forecast after the points."""
    return float(forecaster.ahead(after(forecaster, *points), steps))


@pytest.mark.parametrize("forecaster", EVERY)
def test_a_constant_series_goes_on(forecaster: Any) -> None:
    """Whatever the forecaster, and nothing is expected of nothing."""
    assert ahead(forecaster) == 0.0
    assert ahead(forecaster, *[7.0] * 30) == pytest.approx(7.0)


@pytest.mark.parametrize("forecaster", EVERY)
def test_leading_noughts_are_dropped_and_nan_is_nought(forecaster: Any) -> None:
    """An idle start teaches nothing; later noughts count."""
    nan = float("nan")
    busy = [5.0, 6.0, 5.0, 7.0, 5.0, 6.0]
    assert after(forecaster, 0.0, nan, 0.0, *busy) == after(forecaster, *busy)
    assert after(forecaster, *busy, nan) == after(forecaster, *busy, 0.0)


@pytest.mark.parametrize("forecaster", EVERY)
def test_forecasts_are_never_negative(forecaster: Any) -> None:
    """A steep fall ends at nothing."""
    for steps in (1, 5, 50):
        assert ahead(forecaster, 90.0, 70.0, 50.0, 30.0, 10.0, 1.0, steps=steps) >= 0.0


@pytest.mark.parametrize("forecaster", EVERY)
def test_memory_is_bounded(forecaster: Any) -> None:
    """A long run remembers no more than a short one."""
    points = (10 + np.sin(np.arange(300))).tolist()
    series = after(forecaster, *points)
    assert len(series.points) <= 50
    assert len(series.fitted) <= 6


def test_a_mean_and_a_season_by_hand() -> None:
    """The last five; and what was four points ago."""
    assert ahead(MovingAverage(window=3), 1.0, 2.0, 3.0, 4.0) == 3.0
    assert ahead(MovingAverage(window=3), 4.0) == 4.0
    season = SeasonalNaive(season=4)
    assert [ahead(season, 1, 2, 3, 4, steps=at) for at in (1, 2, 4, 5)] == [1, 2, 4, 1]
    assert ahead(season, 1, 2, 3) == 3


def test_the_filter_by_hand() -> None:
    """Two points: P grows to 2001 and 1000, the gain is 2001 / 2011."""
    kalman = Kalman(least=2)
    gain, slope = 2001 / 2011, 1000 / 2011
    expected = 10 + gain * 4 + slope * 4
    assert ahead(kalman, 10.0, 14.0) == pytest.approx(expected)
    assert ahead(kalman, 10.0, 14.0, steps=3) == pytest.approx(expected + 2 * slope * 4)
    assert ahead(Kalman(), 10.0, 14.0) == 14.0  # fewer than five points: the last


def test_the_filter_is_the_matrices() -> None:
    """Against F, H, Q and R as arrays, over a wandering series."""
    moves, sees = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    drift, noise = np.diag([1.0, 0.1]), np.array([[10.0]])
    points = np.random.default_rng(1).normal(50, 5, 40).tolist()
    state, spread = np.array([[points[0]], [0.0]]), 1000 * np.eye(2)
    for point in points[1:]:
        state, spread = moves @ state, moves @ spread @ moves.T + drift
        gain = spread @ sees.T @ np.linalg.inv(sees @ spread @ sees.T + noise)
        state = state + gain @ (point - sees @ state)
        spread = (np.eye(2) - gain @ sees) @ spread
    assert ahead(Kalman(), *points) == pytest.approx(float((moves @ state)[0, 0]))


def test_smoothing_by_hand() -> None:
    """α = ½, β = ½ over 10, 14: level 12, trend 1."""
    smooth = HoltWinters(alpha=0.5, beta=0.5, gamma=0.0)
    assert ahead(smooth, 10.0, 14.0) == pytest.approx(13.0)
    assert ahead(smooth, 10.0, 14.0, steps=3) == pytest.approx(15.0)
    # 14 again: level (14 + 13)/2 = 13.5, trend (1.5 + 1)/2
    assert ahead(smooth, 10.0, 14.0, 14.0) == pytest.approx(14.75)


def test_smoothing_learns_a_season() -> None:
    """After some days of one shape it expects that shape."""
    day = [2.0, 8.0, 20.0, 8.0]
    smooth = HoltWinters(season=4)
    for steps, expected in enumerate(day, 1):
        assert ahead(smooth, *day * 6, steps=steps) == pytest.approx(expected, abs=0.2)


def test_arima_follows_a_trend_and_a_swing() -> None:
    """A line goes on, if in logarithms, having no lags; a swing beats the last value."""
    line = [10.0 + 3 * at for at in range(20)]
    assert ahead(Arima(), *line) == pytest.approx(70.0, rel=0.06)
    rng, value, points = np.random.default_rng(3), 0.0, []
    for _ in range(300):
        value = -0.8 * value + rng.normal()
        points.append(50 + 5 * value)
    arima, series, off, naive = Arima(), Series(), 0.0, 0.0
    for at, point in enumerate(points):
        if at > 60:
            off += (arima.ahead(series) - point) ** 2
            naive += (points[at - 1] - point) ** 2
        series = arima.told(series, point)
    assert off < naive / 3


def test_arima_without_a_lag_worth_having_fits_logarithms() -> None:
    """Spiky noise: expectations lie between the quiet and the spikes."""
    spikes = [1.0, 1.0, 100.0, 1.0, 1.0, 1.0, 90.0, 1.0, 1.0, 1.0, 1.0, 120.0]
    assert 0.5 < ahead(Arima(), *spikes) < 100.0


# --- ARIMA against its definition, term by term ------------------------------------------------


def least_squares(rows: list[list[float]], values: list[float]) -> list[float]:
    """Solve the normal equations of values over rows."""
    table, aims = np.array(rows), np.array(values)
    return np.linalg.solve(table.T @ table, table.T @ aims).tolist() if rows[0] else []


def at(values: list[float], place: int) -> float:
    """Return a value, nought before the first."""
    return values[place] if place >= 0 else 0.0


def errors_of(values: list[float], past: list[tuple[list[float], int]]) -> tuple[Any, list[float]]:
    """Return the weights of the past's series, each at its lag, and what they leave."""
    rows = [[at(series, t - lag) for series, lag in past] for t in range(len(values))]
    weights = least_squares(rows, values)
    left = [v - sum(map(float.__mul__, weights, r)) for v, r in zip(values, rows, strict=True)]
    return weights, left


def two_regressions(values: list[float], p: int, q: int) -> tuple[Any, list[float], float]:
    """Return Hannan and Rissanen's weights, errors and AIC of values about their mean.

    Errors of the second regression's lags are those of an autoregression with one lag more than
    either order, half of the points at most.
    """
    n = len(values)
    most = min(max(p, q) + 1, max(1, (n - 1) // 2))
    _, shocks = errors_of(values, [(values, lag) for lag in range(1, most + 1)])
    past = [(values, lag) for lag in range(1, p + 1)] + [(shocks, lag) for lag in range(1, q + 1)]
    weights, left = errors_of(values, past)
    return weights, left, n * math.log(sum(e * e for e in left) / n) + 2 * (p + q + 1)


def defined(points: list[float], most: int, steps: int) -> tuple[tuple[int, int, int], float]:
    """Return differences and orders of the least AIC, and the expectation, of plain points."""
    changes = [later - earlier for earlier, later in pairwise(points)]
    d = int(np.std(changes) < np.std(points))
    worked = changes if d else points
    mean = sum(worked) / len(worked)
    about = [each - mean for each in worked]
    orders = [(p, q) for p in range(most + 1) for q in range(most + 1)]
    fits = {o: two_regressions(about, *o) for o in orders if len(worked) > 2 * sum(o) + 1}
    p, q = min(fits, key=lambda order: (fits[order][2], order))
    weights, errors, _ = fits[p, q]
    for _ in range(steps):
        past = [at(about, len(about) - lag) for lag in range(1, p + 1)]
        past += [at(errors, len(about) - lag) for lag in range(1, q + 1)]
        about = [*about, sum(map(float.__mul__, weights, past))]
        errors = [*errors, 0.0]
    coming = [each + mean for each in about[-steps:]]
    return (d, p, q), points[-1] + sum(coming) if d else coming[-1]


def wandering(seed: int, length: int) -> list[float]:
    """Return a series with one or two lags of its values and shocks; of odd seeds, summed up."""
    rng = np.random.default_rng(seed)
    ar, ma = rng.uniform(-0.6, 0.6, 2), rng.uniform(-0.9, 0.9, 2)
    shocks, values = rng.normal(size=length + 2).tolist(), [0.0, 0.0]
    for t in range(2, length + 2):
        values.append(
            ar[0] * values[t - 1]
            + ar[1] * values[t - 2]
            + shocks[t]
            + ma[0] * shocks[t - 1]
            + ma[1] * shocks[t - 2]
        )
    series = np.cumsum(values[2:]) if seed % 2 else np.array(values[2:])
    return (500 + 10 * series).tolist()


@pytest.mark.parametrize("seed", range(40))
def test_arima_is_its_two_regressions(seed: int) -> None:
    """Order and expectation are those of the definition, over short and long wandering series."""
    points = wandering(seed, (6, 8, 12, 20, 50)[seed % 5])
    arima = Arima(least=len(points), most=1 + seed % 3)
    series = after(arima, *points)
    for steps in (1, 2, 5):
        (d, p, q), expected = defined(points, arima.most, steps)
        if p or q:
            assert series.fitted == (d, p, q, 0.0)
        else:
            order, logs = defined([math.log1p(each) for each in points], arima.most, steps)
            assert series.fitted == (*order, 1.0)
            expected = math.expm1(logs)
        assert arima.ahead(series, steps) == pytest.approx(expected, rel=1e-6)
    assert arima.ahead(series) == arima.ahead(series, 1)


def test_arima_keeps_its_order_and_fits_anew() -> None:
    """At five points the order is chosen; later points move what is expected, not the order."""
    points = wandering(4, 50)
    series = after(Arima(), *points[:5])
    assert after(Arima(), *points[:4]).fitted == ()
    assert len(series.fitted) == 4
    later = after(Arima(), *points)
    assert later.fitted == series.fitted
    assert Arima().ahead(later) != Arima().ahead(series)
    # a constant beginning chooses nothing until something changes
    assert after(Arima(), *[7.0] * 9).fitted == ()
    assert after(Arima(), *[7.0] * 9, 8.0).fitted != ()
    # and points that are all alike again are themselves
    assert Arima(window=5).ahead(after(Arima(window=5), *points[:6], *[9.0] * 5)) == 9.0


def test_arima_of_no_lags_is_the_mean_of_logarithms() -> None:
    """Orders up to 0: expm1 of the mean of log(1 + x), or the last point and the mean change."""
    swings = [1.0, 9.0, 2.0, 8.0, 1.5]
    logs = sum(map(math.log1p, swings)) / 5
    assert ahead(Arima(most=0), *swings) == pytest.approx(math.expm1(logs))
    doubling = [1.0, 3.0, 7.0, 15.0, 31.0]  # 1 + x doubles
    assert ahead(Arima(most=0), *doubling) == pytest.approx(63.0)
    assert ahead(Arima(most=0), *doubling, steps=3) == pytest.approx(255.0)


def test_an_expectation_beyond_all_numbers_is_the_last_point() -> None:
    """1 + x doubles at each point: 1,100 steps on it is past the largest float, 1,000 steps not."""
    doubling = [1.0, 3.0, 7.0, 15.0, 31.0]
    assert ahead(Arima(most=0), *doubling, steps=1100) == 31.0
    assert ahead(Arima(most=0), *doubling, steps=1000) == pytest.approx(2.0**1005)


@pytest.mark.parametrize("forecaster", EVERY)
def test_one_step_ahead_is_what_is_asked_for(forecaster: Any) -> None:
    """Unless more steps are named."""
    series = after(forecaster, 5.0, 9.0, 6.0, 12.0, 7.0, 15.0)
    assert forecaster.ahead(series) == forecaster.ahead(series, 1)


def test_the_filter_on_logarithms_by_hand() -> None:
    """Of e − 1 and e² − 1 it sees 1 and 2: as the plain filter of these, and back."""
    points = [math.e - 1, math.e**2 - 1]
    plain = ahead(Kalman(least=2), 1.0, 2.0)
    assert ahead(Kalman(least=2, log=True), *points) == pytest.approx(math.expm1(plain))
    assert ahead(Kalman(least=2, log=True), *points, -3.0) == pytest.approx(
        math.expm1(ahead(Kalman(least=2), 1.0, 2.0, 0.0))
    )


def test_the_least_points_are_enough() -> None:
    """At the fifth point the filter speaks, at the fourth the last point does."""
    points = [10.0, 12.0, 11.0, 15.0, 13.0]
    assert ahead(Kalman(), *points[:4]) == 15.0
    assert ahead(Kalman(), *points) != 13.0
    assert after(MovingAverage(window=3), *points).points == (11.0, 15.0, 13.0)
    assert after(Constant(), *points).points == (13.0,)


def test_smoothing_with_a_season_by_hand() -> None:
    """A first season of 2 and 6 is a level of 4 and −2, 2; then 8 and all weights a half.

    Level (8 + 2)/2 + 4/2 = 7, trend 3/2, season (8 − 7)/2 − 2/2 = −½; due next is +2.
    """
    smooth = HoltWinters(alpha=0.5, beta=0.5, gamma=0.5, season=2)
    assert ahead(smooth, 2.0) == 2.0
    assert [ahead(smooth, 2.0, 6.0, steps=at) for at in (1, 2, 3)] == [2.0, 6.0, 2.0]
    expected = [7 + 1.5 + 2, 7 + 3 - 0.5, 7 + 4.5 + 2]
    assert [ahead(smooth, 2.0, 6.0, 8.0, steps=at) for at in (1, 2, 3)] == expected
    assert ahead(HoltWinters(season=0), 2.0) == 2.0
    # without a season its weight says nothing
    plain, waving = HoltWinters(gamma=0.0), HoltWinters(gamma=1.0)
    assert ahead(plain, 2.0, 6.0, 8.0) == ahead(waving, 2.0, 6.0, 8.0)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: MovingAverage(window=0),
        lambda: Kalman(noise=0.0),
        lambda: Kalman(least=0),
        lambda: Arima(least=2),
        lambda: Arima(window=4),
        lambda: Arima(most=-1),
        lambda: SeasonalNaive(season=0),
        lambda: HoltWinters(alpha=1.1),
        lambda: HoltWinters(season=-1),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: Any) -> None:
    """Each in one sentence that names what was expected."""
    with pytest.raises(ValueError, match=r" must "):
        bad()
