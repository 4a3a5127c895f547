"""Forecasters: their recursions by hand, and what each is right about."""

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
