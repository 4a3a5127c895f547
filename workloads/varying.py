"""Arrivals whose rate is told over time: stages one after the other, and days with bursts.

Points of a process of rate 1 are mapped through the inverse of the integrated rate, which keeps
the mean exact and the variability local. ``times`` is that of :mod:`workloads.arrivals`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workloads import checks
from workloads.arrivals import MAX_STAYS, Bursts, Diurnal, Times, check_rate, cut, renewal
from workloads.errors import TraceError

MAX_STAGES = 100_000
"""More stages than this are taken for a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Rates one after the other: ``stages`` of [requests/s, seconds] each.

    Gaps within a stage have the coefficient of variation ``cv``: 1 is Poisson, 0 even spacing (a
    stage then has rate × seconds requests, the first half a gap after its start). A rate of 0 is a
    pause. Traffic ends with the last stage, or begins anew with the first if it is to ``repeat``.
    All rates are scaled until ``mean_rate`` is their mean over time (``None``: as they are).
    """

    stages: tuple[tuple[float, float], ...]
    cv: float = 1.0
    repeat: bool = False
    mean_rate: float | None = None
    _ends: Times = field(init=False, repr=False, compare=False)
    _areas: Times = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        owner = "stages"
        object.__setattr__(self, "stages", _pairs(owner, self.stages))
        for rate, seconds in self.stages:
            checks.at_least(owner, "rate of a stage", rate, 0, "requests/s")
            checks.positive(owner, "seconds of a stage", seconds, "s")
            if rate:
                check_rate(owner, "rate of a stage", rate)
        if not any(rate for rate, _ in self.stages):
            raise TraceError(f"{owner}: one stage must have a rate above 0 but all have 0")
        checks.at_least(owner, "cv", self.cv, 0)
        rates, seconds = np.array(self.stages, dtype=np.float64).T
        mean = float(rates @ seconds / seconds.sum())
        if self.mean_rate is not None:
            check_rate(owner, "mean_rate", self.mean_rate)
            rates = rates * (self.mean_rate / mean)
        object.__setattr__(self, "_ends", np.append(0.0, np.cumsum(seconds)))
        object.__setattr__(self, "_areas", np.append(0.0, np.cumsum(rates * seconds)))

    @property
    def end_s(self) -> float | None:
        """Seconds at which traffic ends of itself; ``None`` if it repeats."""
        return None if self.repeat else float(self._ends[-1])

    @property
    def mean(self) -> float:
        """Mean requests/s over all stages."""
        return float(self._areas[-1] / self._ends[-1])

    def expected(self, t: Times) -> Times:
        """Return the expected number of arrivals in [0, t]."""
        cycles, rest = np.divmod(t, self._ends[-1])
        if not self.repeat:
            return np.interp(t, self._ends, self._areas)
        return np.asarray(cycles * self._areas[-1] + np.interp(rest, self._ends, self._areas))

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times."""
        ends = [each for each in (horizon_s, self.end_s) if each is not None]
        horizon_s = min(ends, default=None)
        most = None if horizon_s is None else float(self.expected(np.array([horizon_s]))[0])
        if most == 0:  # a pause until the horizon
            return np.empty(0)
        cycles, rest = np.divmod(_points(rng, self.cv, n, most), self._areas[-1])
        times = cycles * self._ends[-1] + np.interp(rest, self._areas, self._ends)
        return cut(np.maximum.accumulate(times), n, horizon_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Daily:
    """A rate that swings between ``low`` and ``high`` requests/s like a sine, with bursts.

    One swing takes ``period_s``; it is highest ``peak_s`` after the start (``None``: half a
    period, so that traffic begins at its lowest). In a burst, ``burst_s`` long on average, the
    rate is ``factor`` times what it would be; in the calm between two, ``calm_s`` long on average,
    it is so much lower that the mean stays; a ``factor`` of 1 leaves bursts out. Gaps have the
    coefficient of variation ``cv`` (1 is Poisson). All rates are scaled until ``mean_rate`` is
    their mean over whole periods (``None``: as they are).
    """

    low: float
    high: float
    period_s: float = 86_400.0
    peak_s: float | None = None
    factor: float = 1.0
    burst_s: float = 15.0
    calm_s: float = 60.0
    cv: float = 1.0
    mean_rate: float | None = None

    def __post_init__(self) -> None:
        owner = "daily arrivals"
        checks.at_least(owner, "low", self.low, 0, "requests/s")
        check_rate(owner, "high", self.high)
        if self.high < self.low:
            raise TraceError(
                f"{owner}: high must be at least low ({self.low!r} requests/s) but got "
                f"{self.high!r}"
            )
        for name in ("period_s", "burst_s", "calm_s"):
            checks.positive(owner, name, getattr(self, name), "s")
        checks.at_least(owner, "cv", self.cv, 0)
        if self.peak_s is not None:
            checks.number(owner, "peak_s", self.peak_s)
        if self.mean_rate is not None:
            check_rate(owner, "mean_rate", self.mean_rate)
        self._swing, self._modulation  # noqa: B018 - both check the rest

    @property
    def mean(self) -> float:
        """Mean requests/s over whole periods."""
        return (self.low + self.high) / 2 if self.mean_rate is None else self.mean_rate

    @property
    def _swing(self) -> Diurnal:
        peak = self.period_s / 2 if self.peak_s is None else self.peak_s
        share = (self.high - self.low) / (self.high + self.low)
        return Diurnal(rate=self.mean, a=share, b=0.0, peak_s=peak, period_s=self.period_s)

    @property
    def _modulation(self) -> Bursts:
        return Bursts(rate=1.0, factor=self.factor, burst_s=self.burst_s, calm_s=self.calm_s)

    def times(
        self, rng: np.random.Generator, *, n: int | None = None, horizon_s: float | None = None
    ) -> Times:
        """Return the arrival times: points and bursts have streams of their own."""
        point_rng, burst_rng = rng.spawn(2)
        if horizon_s is None:
            points = _points(point_rng, self.cv, n, None)
            spells = self._spells(burst_rng, lambda _, area: bool(area >= points[-1]))
        else:
            checks.positive("arrivals", "duration", horizon_s, "s")
            spells = self._spells(burst_rng, lambda end, _: bool(end >= horizon_s))
            points = _points(point_rng, self.cv, n, max(self._area(horizon_s, spells), 1e-300))
        return cut(self._located(points, spells), n, horizon_s)

    def _spells(
        self, rng: np.random.Generator, enough: Callable[[float, float], bool]
    ) -> tuple[Times, Times, Times]:
        """Return the ends of calm spells and bursts (from 0), the areas there, and their factors.

        An area is the expected number of arrivals up to there, given the spells.
        """
        process, swing = self._modulation.mmpp, self._swing
        dwells = process.mean_dwell_s
        state = int(rng.random() * sum(dwells) >= dwells[0])
        means, factors = (np.roll(pair, -state) for pair in (dwells, process.rates))
        ends, areas = np.zeros(1), np.zeros(1)
        while not enough(ends[-1], areas[-1]):
            if ends.size > MAX_STAYS:
                raise TraceError(
                    f"daily arrivals: burst_s {self.burst_s!r} and calm_s {self.calm_s!r} need "
                    f"more than {MAX_STAYS} changes, expected longer ones"
                )
            more = max(32, ends.size // 2)  # pairs, so that the whole is drawn in few steps
            ahead = np.cumsum(rng.exponential(np.tile(means, more))) + ends[-1]
            swung = swing.expected(np.append(ends[-1], ahead))
            added = np.cumsum(np.diff(swung) * np.tile(factors, more)) + areas[-1]
            ends, areas = np.append(ends, ahead), np.append(areas, added)
        return ends, areas, np.tile(factors, ends.size // 2)

    def _area(self, t: float, spells: tuple[Times, Times, Times]) -> float:
        ends, areas, factors = spells
        at = int(np.searchsorted(ends, t, side="right")) - 1
        if at == ends.size - 1:
            return float(areas[-1])
        from_end = np.diff(self._swing.expected(np.array([ends[at], t])))[0]
        return float(areas[at] + factors[at] * from_end)

    def _located(self, points: Times, spells: tuple[Times, Times, Times]) -> Times:
        """Return when the area reaches each of the rising ``points``."""
        ends, areas, factors = spells
        at = np.clip(np.searchsorted(areas, points, side="right") - 1, 0, ends.size - 2)
        swing = self._swing
        swung = swing.expected(ends[at]) + (points - areas[at]) / factors[at]
        times = np.clip(swing.inverse(swung), ends[at], ends[at + 1])
        return np.maximum.accumulate(times)


def _points(rng: np.random.Generator, cv: float, n: int | None, most: float | None) -> Times:
    """Return points of rate 1 and variability ``cv``: ``n`` of them, or those below ``most``."""
    if cv == 0:
        return renewal(np.ones, 1.0, n, None if most is None else most + 0.5) - 0.5
    return renewal(lambda size: rng.gamma(cv**-2, cv**2, size), 1.0, n, most)


def _pairs(owner: str, stages: Any) -> tuple[tuple[float, float], ...]:
    """Return ``stages`` as tuples; raise ``TraceError`` unless each is two numbers."""
    if isinstance(stages, str) or not hasattr(stages, "__len__") or not len(stages):
        raise TraceError(f"{owner}: stages must be a list of [rate, seconds] but got {stages!r}")
    if len(stages) > MAX_STAGES:
        raise TraceError(f"{owner}: stages must be at most {MAX_STAGES} but are {len(stages)}")
    for at, stage in enumerate(stages):
        if isinstance(stage, str) or not hasattr(stage, "__len__") or len(stage) != 2:
            raise TraceError(f"{owner}: stages[{at}] must be [rate, seconds] but got {stage!r}")
        for value in stage:
            checks.number(owner, f"stages[{at}]", value)
    return tuple((float(rate), float(seconds)) for rate, seconds in stages)
