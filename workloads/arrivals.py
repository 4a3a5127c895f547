"""When requests arrive: arrival processes, each with its rate and its variability.

``times(rng, n=…)`` gives the first n arrivals, ``times(rng, horizon_s=…)`` those before the
horizon; with both, whichever ends first. Seconds from the start of the workload, sorted.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma as gamma_function

from workloads import checks
from workloads.errors import TraceError

Times = NDArray[np.float64]

MAX_ARRIVALS = 10_000_000
"""More arrivals than this in one workload is taken for a mistake."""

RATES = (1e-9, 1e9)
"""Requests/s from one in thirty years to a billion; what lies beyond is taken for a mistake."""

RATE_FIELDS = ("rate", "mean_rate")
"""What arrivals call their mean requests/s; a ``mean_rate`` of ``None`` is their own ``mean``."""

MAX_STAYS = 10_000_000
"""More changes of an MMPP's state than this is taken for a mistake in its dwell times."""


BATCHES = 1024
"""Batches drawn at once, so that a longer workload begins like a shorter one."""


class Arrivals(Protocol):
    """An arrival process."""

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return sorted arrival times in seconds, shape (arrivals,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Independent users: exponential gaps, ``rate`` requests/s, coefficient of variation 1."""

    rate: float

    def __post_init__(self) -> None:
        check_rate("poisson arrivals", "rate", self.rate)

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times."""
        return renewal(lambda size: rng.exponential(1 / self.rate, size), self.rate, n, horizon_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """Gamma gaps of mean 1/``rate`` and coefficient of variation ``cv``.

    The shape k = 1/cv² is what vLLM calls ``burstiness`` and aiperf ``arrival-smoothness``; the
    scale is cv²/rate. ``cv`` above 1 is burstier than Poisson, below 1 smoother.
    """

    rate: float
    cv: float

    def __post_init__(self) -> None:
        check_rate("gamma arrivals", "rate", self.rate)
        checks.positive("gamma arrivals", "cv", self.cv)

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times."""
        shape, scale = self.cv**-2, self.cv**2 / self.rate
        return renewal(lambda size: rng.gamma(shape, scale, size), self.rate, n, horizon_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weibull:
    """Weibull gaps of mean 1/``rate`` and coefficient of variation ``cv`` (0.05 to 20).

    The shape w solves cv² = Γ(1+2/w)/Γ(1+1/w)² − 1; the scale is 1/(rate·Γ(1+1/w)).
    """

    rate: float
    cv: float

    def __post_init__(self) -> None:
        check_rate("weibull arrivals", "rate", self.rate)
        checks.number("weibull arrivals", "cv", self.cv)
        if not 0.05 <= self.cv <= 20:
            raise TraceError(f"weibull arrivals: cv must lie in 0.05..20 but got {self.cv!r}")

    @property
    def shape(self) -> float:
        """Weibull shape w that gives ``cv``."""
        from scipy.optimize import brentq  # here: slow to import, and nothing else needs it

        return float(brentq(lambda w: _weibull_cv(w) - self.cv, 0.15, 30.0, xtol=1e-12))

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times."""
        shape = self.shape
        scale = 1 / (self.rate * float(gamma_function(1 + 1 / shape)))
        return renewal(lambda size: scale * rng.weibull(shape, size), self.rate, n, horizon_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One request every 1/``rate`` seconds, the first at 1/rate."""

    rate: float

    def __post_init__(self) -> None:
        check_rate("constant arrivals", "rate", self.rate)

    def times(
        self,
        rng: np.random.Generator,  # noqa: ARG002 - nothing here is random
        *,
        n: int | None = None,
        horizon_s: float | None = None,
    ) -> Times:
        """Return the arrival times, k/rate for whole k from 1."""
        count = _count(n, None if horizon_s is None else horizon_s * self.rate)
        times = np.arange(1, count + 1) / self.rate
        return times if horizon_s is None else times[times < horizon_s]


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Everything at once, at ``at_s`` (offline inference). Needs a number of requests."""

    at_s: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least("burst arrivals", "at_s", self.at_s, 0, "s")

    def times(
        self,
        rng: np.random.Generator,  # noqa: ARG002 - nothing here is random
        *,
        n: int | None = None,
        horizon_s: float | None = None,
    ) -> Times:
        """Return ``n`` times ``at_s``, or none if the horizon comes before."""
        if n is None:
            raise TraceError("burst arrivals: need a number of requests, not only a duration")
        count = _count(n, None)
        beyond = horizon_s is not None and self.at_s >= horizon_s
        return np.full(0 if beyond else count, float(self.at_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Arrivals noted every ``every_s`` seconds, as many traces have them: many at one moment.

    A batch is Poisson of mean ``rate`` · ``every_s``, or negative binomial where ``dispersion``,
    its variance over its mean, is above 1. The first is at 0 s, and empty ones are drawn too.

    Raises:
        TraceError: a step that is not above 0 s, or a dispersion below 1.
    """

    rate: float
    every_s: float
    dispersion: float = 1.0

    def __post_init__(self) -> None:
        check_rate("batches", "rate", self.rate)
        checks.positive("batches", "every_s", self.every_s, "s")
        checks.at_least("batches", "dispersion", self.dispersion, 1)

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times, whole multiples of ``every_s``."""
        _count(n, None if horizon_s is None else horizon_s * self.rate)
        drawn: list[NDArray[np.int64]] = []
        requests = 0
        while (n is None or requests < n) and (
            horizon_s is None or len(drawn) * BATCHES * self.every_s < horizon_s
        ):
            drawn.append(self._sizes(rng))
            requests += int(drawn[-1].sum())
            _count(max(len(drawn) * BATCHES, requests), None)
        sizes = np.concatenate(drawn)
        return cut(np.repeat(np.arange(sizes.size) * float(self.every_s), sizes), n, horizon_s)

    def _sizes(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the requests of the next :data:`BATCHES` batches."""
        mean, spread = self.rate * self.every_s, self.dispersion - 1
        means = rng.gamma(mean / spread, spread, BATCHES) if spread else np.full(BATCHES, mean)
        return rng.poisson(means)


@dataclass(frozen=True, slots=True, kw_only=True)
class MMPP:
    """Markov-modulated Poisson process: Poisson at ``rates[i]`` while in state i of two.

    ``mean_dwell_s[i]`` is the mean of state i's exponential stay, so it is left at the rate
    s_i = 1/mean_dwell_s[i]. The start is stationary.
    """

    rates: tuple[float, float]
    mean_dwell_s: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("rates", "mean_dwell_s"):
            pair = getattr(self, name)
            if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2:
                raise TraceError(f"mmpp arrivals: {name} must be two numbers but got {pair!r}")
            object.__setattr__(self, name, tuple(pair))
        for rate in self.rates:
            checks.at_least("mmpp arrivals", "rates", rate, 0, "requests/s")
        for dwell in self.mean_dwell_s:
            checks.positive("mmpp arrivals", "mean_dwell_s", dwell, "s")
        if not any(self.rates):
            raise TraceError("mmpp arrivals: one of rates must be above 0 but both are 0")

    @property
    def rate(self) -> float:
        """Mean requests/s: the rates weighted by the dwell times."""
        (low, high), (dwell_low, dwell_high) = self.rates, self.mean_dwell_s
        return (low * dwell_low + high * dwell_high) / (dwell_low + dwell_high)

    def index_of_dispersion(self, window_s: float) -> float:
        """Return variance over mean of the number of arrivals in a window of ``window_s``.

        IDC(t) = 1 + A·(1 − (1 − e^(−st))/(st)) with s = s1 + s2 and
        A = 2·s1·s2·(l1 − l2)² / (s²·(l1·s2 + l2·s1)).
        """
        checks.positive("mmpp arrivals", "window_s", window_s, "s")
        (l1, l2), (s1, s2) = self.rates, (1 / dwell for dwell in self.mean_dwell_s)
        s = s1 + s2
        most = 2 * s1 * s2 * (l1 - l2) ** 2 / (s**2 * (l1 * s2 + l2 * s1))
        return float(1 + most * (1 + np.expm1(-s * window_s) / (s * window_s)))

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times: unit-rate points, mapped through the integrated rate.

        Points and stays have streams of their own, so a longer workload begins like a shorter one.
        """
        point_rng, stay_rng = rng.spawn(2)
        if n is not None and horizon_s is None:
            points = _unit_poisson(point_rng, n, None)
            ends, area = self._stays(stay_rng, lambda _, area: bool(area >= points[-1]))
            return np.interp(points, area, ends)
        horizon_s = checks.positive("arrivals", "duration", horizon_s, "s")
        ends, area = self._stays(stay_rng, lambda end, _: bool(end >= horizon_s))
        points = _unit_poisson(point_rng, n, max(np.interp(horizon_s, ends, area), 1e-300))
        return np.interp(points, area, ends)

    def _stays(
        self, rng: np.random.Generator, enough: Callable[[float, float], bool]
    ) -> tuple[Times, Times]:
        """Return the ends of the stays (from 0) and the rate integrated up to there."""
        state = int(rng.random() * sum(self.mean_dwell_s) >= self.mean_dwell_s[0])
        means, rates = (np.roll(pair, -state) for pair in (self.mean_dwell_s, self.rates))
        ends, areas = [np.zeros(1)], [np.zeros(1)]
        stays, drawn = 64, 0
        while not enough(ends[-1][-1], areas[-1][-1]):
            dwell = rng.exponential(np.tile(means, stays // 2))
            ends.append(ends[-1][-1] + np.cumsum(dwell))
            areas.append(areas[-1][-1] + np.cumsum(dwell * np.tile(rates, stays // 2)))
            drawn, stays = drawn + stays, min(2 * stays, 1 << 20)
            if drawn > MAX_STAYS:
                raise TraceError(
                    f"mmpp arrivals: mean_dwell_s {self.mean_dwell_s} needs more than "
                    f"{MAX_STAYS} changes of state, expected longer stays"
                )
        return np.concatenate(ends), np.concatenate(areas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """Calm traffic with bursts: an MMPP told by its mean ``rate`` and how high the bursts go.

    In a burst, which lasts ``burst_s`` on average, requests come at ``factor`` × ``rate``; calm
    spells last ``calm_s`` on average at the lower rate that makes ``rate`` the mean overall.
    """

    rate: float
    factor: float
    burst_s: float
    calm_s: float

    def __post_init__(self) -> None:
        check_rate("bursts", "rate", self.rate)
        checks.at_least("bursts", "factor", self.factor, 1)
        checks.positive("bursts", "burst_s", self.burst_s, "s")
        checks.positive("bursts", "calm_s", self.calm_s, "s")
        most = 1 + self.calm_s / self.burst_s
        if self.factor > most:
            raise TraceError(
                f"bursts: factor must be at most 1 + calm_s/burst_s = {most:g}, else calm spells "
                f"would need a negative rate, but got {self.factor!r}"
            )

    @property
    def mmpp(self) -> MMPP:
        """The process itself: state 0 calm, state 1 burst."""
        high = self.rate * self.factor
        low = (self.rate * (self.calm_s + self.burst_s) - high * self.burst_s) / self.calm_s
        return MMPP(rates=(max(low, 0.0), high), mean_dwell_s=(self.calm_s, self.burst_s))

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times."""
        return self.mmpp.times(rng, n=n, horizon_s=horizon_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diurnal:
    """A rate that swings over the day, with gamma gaps of coefficient of variation ``cv``.

    L(t) = rate·(1 + a·cos(2π(t − peak_s)/period_s) + b·cos(4π(t − peak_s)/period_s)). Renewal
    points of unit rate are mapped through the inverse of ∫L, which keeps the mean exact and the
    burstiness local. ``a`` = 0.3, ``b`` = 0.1 resembles chat, ``a`` = 0.8 coding assistants.
    """

    rate: float
    a: float = 0.3
    b: float = 0.1
    peak_s: float = 54_000.0
    period_s: float = 86_400.0
    cv: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rate", "period_s", "cv"):
            checks.positive("diurnal arrivals", name, getattr(self, name))
        for name in ("a", "b", "peak_s"):
            checks.number("diurnal arrivals", name, getattr(self, name))
        lowest = float(self.rate_at(np.linspace(0, self.period_s, 2881)).min())
        if lowest < 0:
            raise TraceError(
                f"diurnal arrivals: a={self.a!r} and b={self.b!r} make the rate negative "
                f"({lowest:g} requests/s at its lowest)"
            )

    def rate_at(self, t: Times) -> Times:
        """Return requests/s at ``t`` seconds."""
        angle = 2 * np.pi * (t - self.peak_s) / self.period_s
        return np.asarray(self.rate * (1 + self.a * np.cos(angle) + self.b * np.cos(2 * angle)))

    def expected(self, t: Times) -> Times:
        """Return the expected number of arrivals in [0, t]."""
        return self._integral(t) - self._integral(np.zeros(1))

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times."""
        most = None if horizon_s is None else float(self.expected(np.array([horizon_s]))[0])
        shape, scale = self.cv**-2, self.cv**2
        points = renewal(lambda size: rng.gamma(shape, scale, size), 1.0, n, most)
        return self.inverse(points)

    def _integral(self, t: Times) -> Times:
        angle = 2 * np.pi * (t - self.peak_s) / self.period_s
        waves = self.a * np.sin(angle) + self.b / 2 * np.sin(2 * angle)
        return np.asarray(self.rate * (t + self.period_s / (2 * np.pi) * waves))

    def inverse(self, points: Times) -> Times:
        """Return t with expected(t) = points, by bisection within a whole period."""
        per_period = self.rate * self.period_s
        low = np.floor(points / per_period) * self.period_s
        high = low + self.period_s
        for _ in range(60):
            middle = (low + high) / 2
            below = self.expected(middle) < points
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.maximum.accumulate((low + high) / 2)


def rate_field(arrivals: object) -> str | None:
    """Return the setting of arrivals that is their mean requests/s, if they have one."""
    if not is_dataclass(arrivals):
        return None
    names = {each.name for each in fields(arrivals)}
    return next((name for name in RATE_FIELDS if name in names), None)


def mean_rate(arrivals: object) -> float | None:
    """Return the mean requests/s that arrivals are set to; ``None`` where nothing says it."""
    name = rate_field(arrivals)
    if name is None:
        return None
    value = getattr(arrivals, name)
    return float(getattr(arrivals, "mean") if value is None else value)  # noqa: B009 - any's


def _weibull_cv(shape: float) -> float:
    mean, square = gamma_function(1 + 1 / shape), gamma_function(1 + 2 / shape)
    return float(np.sqrt(max(square / mean**2 - 1, 0.0)))


def renewal(
    gaps: Callable[[int], Times], rate: float, n: int | None, horizon_s: float | None
) -> Times:
    """Return running sums of independent gaps until there are ``n`` or the horizon is passed."""
    count = _count(n, None if horizon_s is None else horizon_s * rate)
    if horizon_s is None:
        return np.cumsum(gaps(count))
    drawn = gaps(count)
    while n is None and float(drawn.sum()) < horizon_s:
        drawn = np.concatenate((drawn, gaps(drawn.size // 4 + 64)))
        _count(drawn.size, None)
    return cut(np.cumsum(drawn), n, horizon_s)


def _unit_poisson(rng: np.random.Generator, n: int | None, most: float | None) -> Times:
    """Return the points of a Poisson process of rate 1: ``n`` of them, or those below ``most``."""
    return renewal(rng.standard_exponential, 1.0, n, most)


def cut(times: Times, n: int | None, horizon_s: float | None) -> Times:
    """Return the first ``n`` of sorted ``times``, and those before the horizon."""
    before = times if horizon_s is None else times[: np.searchsorted(times, horizon_s)]
    return before[:n]


def check_rate(owner: str, name: str, rate: float) -> None:
    """Raise ``TraceError`` unless ``rate`` is one of :data:`RATES`."""
    checks.positive(owner, name, rate, "requests/s")
    low, high = RATES
    if not low <= rate <= high:
        raise TraceError(
            f"{owner}: {name} must lie in {low:g}..{high:g} requests/s but got {rate!r}"
        )


def _count(n: int | None, expected: float | None) -> int:
    """Return how many arrivals to draw first; raise ``TraceError`` if neither end is given."""
    if n is None and expected is None:
        raise TraceError("arrivals: give a number of requests or a duration")
    if n is not None:
        checks.whole("arrivals", "number of requests", n, 1)
    else:
        checks.positive("arrivals", "duration", expected)
    count = n if n is not None else int((expected or 0) + 4 * (expected or 0) ** 0.5) + 16
    if count > MAX_ARRIVALS:
        raise TraceError(f"arrivals: {count} requests asked for, expected at most {MAX_ARRIVALS}")
    return count
