"""What is coming: forecasts of a series of which one point is told per interval.

Sources: the first three and their rules for idle starts and few points are those of
``dynamo/planner/core/load/predictors.py``, ai-dynamo 1.6.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Series(NamedTuple):
    """What a forecaster remembers: its points, and what it has fitted to them."""

    points: tuple[float, ...] = ()
    fitted: tuple[float, ...] = ()


class Forecaster(Protocol):
    """A pure forecast: what is known is in the series it is given and returns."""

    def told(self, series: Series, value: float) -> Series:
        """Return the series with its next point, of which a NaN is nought."""
        ...

    def ahead(self, series: Series, steps: int = 1) -> float:
        """Return the value ``steps`` points after the last, at least 0; of no points, 0."""
        ...


def appended(series: Series, value: float, keep: int) -> tuple[float, ...]:
    """Return the last ``keep`` points with one more; noughts before the first other are dropped."""
    value = 0.0 if math.isnan(value) else value
    if not value and not series.points:
        return ()
    return (*series.points, value)[-keep:]


def last(series: Series) -> float:
    """Return the last point, 0 where there is none."""
    return series.points[-1] if series.points else 0.0


class Demand(NamedTuple):
    """Series of requests, per second or per interval, and of their mean lengths in tokens."""

    requests: Series = Series()
    inputs: Series = Series()
    outputs: Series = Series()

    def told(
        self, forecaster: Forecaster, requests: float, lengths: tuple[float, float] | None
    ) -> "Demand":
        """Return the series with their next points; lengths have none where none were seen."""
        inputs, outputs = self.inputs, self.outputs
        if lengths is not None:
            inputs = forecaster.told(inputs, lengths[0])
            outputs = forecaster.told(outputs, lengths[1])
        return Demand(forecaster.told(self.requests, requests), inputs, outputs)

    def ahead(self, forecaster: Forecaster, steps: int = 1) -> tuple[float, float, float]:
        """Return requests, prompt and answer tokens ``steps`` points after the last."""
        requests, inputs, outputs = (forecaster.ahead(each, steps) for each in self)
        return requests, inputs, outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Tomorrow is as today."""

    def told(self, series: Series, value: float) -> Series:
        """Return the point alone."""
        return Series(appended(series, value, 1))

    def ahead(self, series: Series, steps: int = 1) -> float:  # noqa: ARG002 - as every forecaster's
        """Return the last point."""
        return max(0.0, last(series))


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle(Constant):
    """Knows the trace: an upper bound, not a forecast. Who asks it is shown what will come.

    Where there is no trace ahead, as with clients in a closed loop, tomorrow is as today.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingAverage:
    """The mean of the last ``window`` points."""

    window: int = 5

    def __post_init__(self) -> None:
        _at_least("moving_average", "window", self.window, 1)

    def told(self, series: Series, value: float) -> Series:
        """Return the window moved on."""
        return Series(appended(series, value, self.window))

    def ahead(self, series: Series, steps: int = 1) -> float:  # noqa: ARG002 - as every forecaster's
        """Return the mean."""
        return max(0.0, sum(series.points) / len(series.points)) if series.points else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kalman:
    """Dynamo's Kalman filter of a level and its trend; the last point before ``least`` of them.

    F = [[1, 1], [0, 1]], H = [1, 0], P = ``initial``·I, Q = diag(``level``, ``trend``), R =
    ``noise``. The first point is taken as it is. With ``log`` it works on log(1 + x).
    """

    level: float = 1.0
    trend: float = 0.1
    noise: float = 10.0
    initial: float = 1000.0
    least: int = 5
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("level", "trend", "noise", "initial"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"kalman: {name} must be above 0 but got {getattr(self, name)!r}")
        _at_least("kalman", "least", self.least, 1)

    def told(self, series: Series, value: float) -> Series:
        """Return the filter after one step and the point."""
        points = appended(series, value, self.least)
        if not points:
            return Series()
        seen = math.log1p(max(0.0, points[-1])) if self.log else points[-1]
        if not series.fitted:
            return Series(points, (seen, 0.0, self.initial, 0.0, 0.0, self.initial))
        return Series(points, self._updated(self._moved(series.fitted), seen))

    def _moved(self, fitted: tuple[float, ...]) -> tuple[float, ...]:
        """Return level, trend and covariance a step later."""
        x, v, a, b, c, d = fitted
        return x + v, v, a + b + c + d + self.level, b + d, c + d, d + self.trend

    def _updated(self, moved: tuple[float, ...], seen: float) -> tuple[float, ...]:
        x, v, a, b, c, d = moved
        gain, slope, off = a / (a + self.noise), c / (a + self.noise), seen - x
        rest = 1 - gain
        return x + gain * off, v + slope * off, rest * a, rest * b, c - slope * a, d - slope * b

    def ahead(self, series: Series, steps: int = 1) -> float:
        """Return the level, its trend ``steps`` times added."""
        if len(series.points) < self.least:
            return max(0.0, last(series))
        expected = series.fitted[0] + steps * series.fitted[1]
        return max(0.0, math.expm1(expected) if self.log else expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arima:
    """ARIMA, its order chosen once by AIC at ``least`` points, its coefficients fitted anew.

    Differences are taken once where that lowers the spread. Orders up to ``most`` are fitted by
    two regressions (Hannan and Rissanen, Biometrika 69, 1982): this is not the likelihood search
    of pmdarima that Dynamo runs, but has its rules: a constant series is itself, a failed fit gives
    the last point, and where no lag is worth having log(1 + x) is fitted instead. Of ``window``
    points older ones are forgotten.
    """

    window: int = 50
    least: int = 5
    most: int = 2

    def __post_init__(self) -> None:
        _at_least("arima", "least", self.least, 3)
        _at_least("arima", "window", self.window, self.least)
        _at_least("arima", "most", self.most, 0)

    def told(self, series: Series, value: float) -> Series:
        """Return the window moved on, with the order once there are points enough."""
        points = appended(series, value, self.window)
        if series.fitted or len(points) < self.least or len(set(points)) == 1:
            return Series(points, series.fitted)
        order = self._order(np.array(points))
        if order[1] or order[2]:
            return Series(points, (*map(float, order), 0.0))
        return Series(points, (*map(float, self._order(np.log1p(points))), 1.0))

    def _order(self, values: Floats) -> tuple[int, int, int]:
        """Return differences, autoregressive and moving-average lags of the least AIC."""
        change = np.diff(values)
        d = int(change.std() < values.std())
        worked = change if d else values
        tried = [
            (_fit(worked, p, q).aic, p, q)
            for p in range(self.most + 1)
            for q in range(self.most + 1)
            if len(worked) > 2 * (p + q) + 1
        ]
        _, p, q = min(tried, default=(0.0, 0, 0))
        return d, p, q

    def ahead(self, series: Series, steps: int = 1) -> float:
        """Return the fitted model's expectation."""
        if not series.fitted or len(set(series.points)) == 1:
            return max(0.0, last(series))
        d, p, q, log = map(int, series.fitted)
        values = np.array(series.points)
        values = np.log1p(values) if log else values
        expected = _expect(values, (d, p, q), steps)
        if not math.isfinite(expected) or (log and expected > 700):
            return max(0.0, last(series))
        return max(0.0, math.expm1(expected) if log else expected)


class _Fit(NamedTuple):
    mean: float
    ar: Floats
    ma: Floats
    errors: Floats
    aic: float


def _fit(values: Floats, p: int, q: int) -> _Fit:
    """Fit lags of the values and of the errors of a longer autoregression, by least squares."""
    mean = float(values.mean())
    centred = values - mean
    errors = centred
    if q:
        lags = min(max(p, q) + 1, max(1, (len(values) - 1) // 2))
        errors = _regress(centred, [_lagged(centred, lag) for lag in range(1, lags + 1)])[1]
    columns = [_lagged(centred, lag) for lag in range(1, p + 1)]
    columns += [_lagged(errors, lag) for lag in range(1, q + 1)]
    weights, left = _regress(centred, columns)
    spread = max(float((left**2).mean()), 1e-12 * max(1.0, float((values**2).mean())))
    aic = len(values) * math.log(spread) + 2 * (p + q + 1)
    return _Fit(mean, weights[:p], weights[p:], left, aic)


def _lagged(values: Floats, lag: int) -> Floats:
    return np.concatenate([np.zeros(lag), values[:-lag]])


def _regress(values: Floats, columns: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return the weights of the columns, and what they leave of the values."""
    if not columns:
        return np.zeros(0), values
    table = np.column_stack(columns)
    weights: Floats = np.linalg.lstsq(table, values, rcond=None)[0].astype(np.float64)
    return weights, values - table @ weights


def _expect(values: Floats, order: tuple[int, int, int], steps: int) -> float:
    d, p, q = order
    worked = np.diff(values) if d else values
    fit = _fit(worked, p, q)
    known = [*(worked - fit.mean), *np.zeros(steps)]
    errors = [*fit.errors, *np.zeros(steps)]
    at = len(worked)
    for step in range(at, at + steps):
        known[step] = sum(w * known[step - lag] for lag, w in enumerate(fit.ar, 1))
        known[step] += sum(w * errors[step - lag] for lag, w in enumerate(fit.ma, 1))
    coming = np.array(known[at:]) + fit.mean
    return float(values[-1] + coming.sum()) if d else float(coming[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class SeasonalNaive:
    """As one ``season`` of points ago; the last point until one is over."""

    season: int

    def __post_init__(self) -> None:
        _at_least("seasonal_naive", "season", self.season, 1)

    def told(self, series: Series, value: float) -> Series:
        """Return the last season."""
        return Series(appended(series, value, self.season))

    def ahead(self, series: Series, steps: int = 1) -> float:
        """Return what was a season before the point asked for."""
        if len(series.points) < self.season:
            return max(0.0, last(series))
        return max(0.0, series.points[(steps - 1) % self.season])


@dataclass(frozen=True, slots=True, kw_only=True)
class HoltWinters:
    """Additive exponential smoothing: a level, a trend, a season of ``season`` points (0: none).

    The recursions are Holt's and Winters', a step per point: level l ← α(y − s) + (1 − α)(l + b),
    trend b ← β(l − l₀) + (1 − β)b, season s ← γ(y − l) + (1 − γ)s; the weights are given, not
    fitted. The first season is the points less their mean.
    """

    alpha: float = 0.5
    beta: float = 0.1
    gamma: float = 0.3
    season: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"holt_winters: {name} must lie in [0, 1] but got {getattr(self, name)!r}"
                )
        _at_least("holt_winters", "season", self.season, 0)

    def told(self, series: Series, value: float) -> Series:
        """Return level, trend and season after the point; the last ``season`` of it first."""
        points = appended(series, value, max(1, self.season))
        if not points:
            return Series()
        if not series.fitted:
            if len(points) < self.season:
                return Series(points)
            level = sum(points) / len(points)
            return Series(points, (level, 0.0, *(each - level for each in points)))
        level, trend, due, *later = series.fitted
        due = due if self.season else 0.0
        new = self.alpha * (points[-1] - due) + (1 - self.alpha) * (level + trend)
        slope = self.beta * (new - level) + (1 - self.beta) * trend
        wave = self.gamma * (points[-1] - new) + (1 - self.gamma) * due
        return Series(points, (new, slope, *later, wave if self.season else 0.0))

    def ahead(self, series: Series, steps: int = 1) -> float:
        """Return the level, the trend ``steps`` times added, and the season then."""
        if not series.fitted:
            return max(0.0, last(series))
        level, trend, *season = series.fitted
        wave = season[(steps - 1) % self.season] if self.season else 0.0
        return max(0.0, level + steps * trend + wave)


def _at_least(owner: str, name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{owner}: {name} must be at least {least} but got {value!r}")
