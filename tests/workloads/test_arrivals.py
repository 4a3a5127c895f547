"""Arrival processes have the rate, the variability and the clustering they state.

Each statistical test has a fixed seed; were it fresh, it would fail wrongly with a probability of
about 1e-6 (a z of 4.9), which is the bound it asserts.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gamma as gamma_function

from workloads.arrivals import (
    MMPP,
    Arrivals,
    Batches,
    Burst,
    Bursts,
    Constant,
    Diurnal,
    Gamma,
    Poisson,
    Weibull,
)
from workloads.errors import TraceError

ERROR = 1e-6
Z = float(stats.norm.isf(ERROR / 2))

PROCESSES: list[Arrivals] = [
    Poisson(rate=3),
    Gamma(rate=3, cv=2.5),
    Gamma(rate=3, cv=0.3),
    Weibull(rate=3, cv=1.7),
    Constant(rate=3),
    MMPP(rates=(1, 20), mean_dwell_s=(8, 2)),
    MMPP(rates=(0, 5), mean_dwell_s=(3, 3)),
    Bursts(rate=3, factor=3, burst_s=5, calm_s=20),
    Batches(rate=3, every_s=3),
    Batches(rate=0.2, every_s=0.5, dispersion=6),
    Diurnal(rate=3, period_s=100, peak_s=30),
    Diurnal(rate=3, a=0.8, b=0, period_s=40, cv=2),
]


def rng(seed: int = 7) -> np.random.Generator:
    """Return a fresh generator."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@given(n=st.integers(1, 300), horizon=st.floats(0.5, 60), seed=st.integers(0, 2**32))
def test_arrivals_obey_their_bounds(process: Arrivals, n: int, horizon: float, seed: int) -> None:
    """N gives n, a horizon is never passed, both give the shorter; times are sorted and ≥ 0."""
    by_n = process.times(rng(seed), n=n)
    by_horizon = process.times(rng(seed), horizon_s=horizon)
    by_both = process.times(rng(seed), n=n, horizon_s=horizon)
    assert by_n.size == n
    assert by_both.size <= n
    for times in (by_n, by_horizon, by_both):
        assert times.dtype == np.float64
        assert np.all(np.diff(times) >= 0)
        assert np.all(times >= 0)
    assert np.all(by_horizon < horizon)
    assert np.all(by_both < horizon)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_a_longer_workload_begins_like_a_shorter_one(process: Arrivals) -> None:
    """The same seed gives the same first arrivals whatever the number asked for."""
    assert np.array_equal(process.times(rng(), n=500)[:50], process.times(rng(), n=50))


@pytest.mark.parametrize(
    ("process", "law"),
    [
        (Poisson(rate=4), stats.expon(scale=1 / 4)),
        (Gamma(rate=4, cv=2.0), stats.gamma(a=1 / 4, scale=4 / 4)),
        (Gamma(rate=4, cv=0.5), stats.gamma(a=4, scale=1 / 16)),
        (
            Weibull(rate=4, cv=2.0),
            stats.weibull_min(c=0.5427, scale=1 / (4 * gamma_function(1 + 1 / 0.5427))),
        ),
    ],
    ids=["poisson", "gamma bursty", "gamma smooth", "weibull"],
)
def test_gaps_follow_their_law(process: Arrivals, law: object) -> None:
    """Gaps pass a Kolmogorov–Smirnov test against the distribution's own definition."""
    gaps = np.diff(process.times(rng(), n=40_001))
    assert stats.kstest(gaps, law.cdf).pvalue > ERROR  # type: ignore[attr-defined]


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", [Gamma, Weibull])
def test_gaps_have_the_stated_mean_and_cv(kind: Callable[..., Arrivals], cv: float) -> None:
    """E[gap] = 1/rate and E[gap²] = (1 + cv²)/rate², each within its confidence bound."""
    gaps = np.diff(kind(rate=5.0, cv=cv).times(rng(3), n=200_001))
    for power, expected in ((1, 1 / 5), (2, (1 + cv**2) / 25)):
        sample = gaps**power
        bound = Z * sample.std(ddof=1) / np.sqrt(sample.size)
        assert abs(sample.mean() - expected) < bound


@pytest.mark.parametrize(
    ("cv", "shape"),
    [(0.5, 2.101), (1, 1), (1.2, 0.8376), (1.5, 0.6848), (2, 0.5427), (3, 0.4113), (5, 0.3113)],
)
def test_weibull_shapes_match_the_table(cv: float, shape: float) -> None:
    """The shape solved for is the tabulated one."""
    assert Weibull(rate=1, cv=cv).shape == pytest.approx(shape, abs=6e-4)


def test_poisson_counts_lie_within_their_interval() -> None:
    """The number of arrivals before a horizon is a Poisson variable of mean rate × horizon."""
    low, high = stats.poisson.interval(1 - ERROR, 8.0 * 5000)
    assert low <= Poisson(rate=8.0).times(rng(), horizon_s=5000).size <= high


def test_poisson_counts_do_not_cluster() -> None:
    """Variance over mean of counts per second is 1 within a chi-square interval."""
    times = Poisson(rate=8.0).times(rng(), horizon_s=5000)
    counts = np.bincount(times.astype(int), minlength=5000)
    statistic = ((counts - counts.mean()) ** 2).sum() / counts.mean()
    low, high = stats.chi2.interval(1 - ERROR, 4999)
    assert low < statistic < high


MMPPS = [
    MMPP(rates=(2, 20), mean_dwell_s=(10, 3)),
    MMPP(rates=(0, 30), mean_dwell_s=(5, 2)),
    Bursts(rate=8, factor=3, burst_s=15, calm_s=60).mmpp,
]


@pytest.mark.parametrize("process", MMPPS, ids=repr)
@pytest.mark.parametrize("window_s", [0.5, 5.0, 60.0])
def test_mmpp_has_the_rate_and_dispersion_of_the_formula(process: MMPP, window_s: float) -> None:
    """Over independent stationary windows, mean and variance of counts match theory."""
    generators = rng(11).spawn(1500)
    counts = np.array([process.times(g, horizon_s=window_s).size for g in generators], dtype=float)
    expected = process.rate * window_s
    assert abs(counts.mean() - expected) < Z * counts.std(ddof=1) / np.sqrt(counts.size)
    squares = (counts - expected) ** 2
    variance = process.index_of_dispersion(window_s) * expected
    assert abs(squares.mean() - variance) < Z * squares.std(ddof=1) / np.sqrt(squares.size)


def test_mmpp_dispersion_has_its_limits() -> None:
    """1 in short windows, 1 + A in long ones, 1 everywhere if both rates agree."""
    process = MMPP(rates=(2, 20), mean_dwell_s=(10, 3))
    s1, s2 = 1 / 10, 1 / 3
    limit = 1 + 2 * s1 * s2 * 18**2 / ((s1 + s2) ** 2 * (2 * s2 + 20 * s1))
    assert process.index_of_dispersion(1e-9) == pytest.approx(1, abs=1e-6)
    assert process.index_of_dispersion(1e9) == pytest.approx(limit)
    assert MMPP(rates=(4, 4), mean_dwell_s=(1, 9)).index_of_dispersion(5) == pytest.approx(1)


def test_mmpp_by_number_has_the_mean_rate() -> None:
    """The time of the nth arrival matches n/rate within the bound the dispersion gives."""
    process = MMPP(rates=(2, 20), mean_dwell_s=(10, 3))
    n = 100_000
    last = process.times(rng(), n=n)[-1]
    bound = Z * np.sqrt(process.index_of_dispersion(last) * n)
    assert abs(last * process.rate - n) < bound


def test_bursts_say_their_mean_and_peak() -> None:
    """The mean is ``rate``, the burst ``factor`` times it."""
    process = Bursts(rate=8, factor=3, burst_s=15, calm_s=60).mmpp
    assert process.rate == pytest.approx(8)
    assert process.rates == pytest.approx((4, 24))
    assert Bursts(rate=8, factor=5, burst_s=15, calm_s=60).mmpp.rates[0] == 0


def test_diurnal_counts_follow_the_curve() -> None:
    """Counts per tenth of a period are independent Poisson variables around the integrated rate."""
    process = Diurnal(rate=50, a=0.6, b=0.2, period_s=100, peak_s=20)
    edges = np.linspace(0, 1000, 101)
    counts, _ = np.histogram(process.times(rng(), horizon_s=1000), edges)
    expected = np.diff(process.expected(edges))
    statistic = ((counts - expected) ** 2 / expected).sum()
    low, high = stats.chi2.interval(1 - ERROR, 100)
    assert low < statistic < high
    assert expected.sum() == pytest.approx(50 * 1000)


@pytest.mark.parametrize("dispersion", [1.0, 5.8])
def test_batches_lie_on_their_lattice_as_uneven_as_asked(dispersion: float) -> None:
    """Every time is a multiple of the step; the count's mean and variance are those of the law."""
    times = Batches(rate=6.5, every_s=3.0, dispersion=dispersion).times(rng(), horizon_s=60_000)
    steps = times / 3.0
    assert np.array_equal(steps, np.round(steps))
    counts = np.bincount(steps.astype(int), minlength=20_000)
    error = (dispersion * 19.5 / counts.size) ** 0.5
    assert abs(counts.mean() - 19.5) < Z * error
    # fourth moment of a negative binomial of variance v = d·m: 3v² + v·(1 + 6·(d−1)·d)
    variance = dispersion * 19.5
    fourth = 3 * variance**2 + variance * (1 + 6 * (dispersion - 1) * dispersion)
    assert abs(counts.var() - variance) < Z * ((fourth - variance**2) / counts.size) ** 0.5


def test_constant_and_burst_are_exact() -> None:
    """One request every 1/rate seconds; or all at one instant."""
    assert Constant(rate=4).times(rng(), n=3).tolist() == [0.25, 0.5, 0.75]
    assert Constant(rate=4).times(rng(), horizon_s=1).tolist() == [0.25, 0.5, 0.75]
    assert Burst(at_s=2).times(rng(), n=3).tolist() == [2.0, 2.0, 2.0]
    assert Burst(at_s=2).times(rng(), n=3, horizon_s=1).size == 0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Poisson(rate=0), "poisson arrivals: rate must be above 0 requests/s but got 0"),
        (lambda: Poisson(rate="8"), "rate must be a finite number but got '8'"),  # type: ignore[arg-type]
        (lambda: Poisson(rate=float("nan")), "rate must be a finite number but got nan"),
        (lambda: Gamma(rate=1, cv=0), "gamma arrivals: cv must be above 0"),
        (lambda: Weibull(rate=1, cv=30), r"weibull arrivals: cv must lie in 0\.05\.\.20"),
        (lambda: MMPP(rates=(0, 0), mean_dwell_s=(1, 1)), "one of rates must be above 0"),
        (lambda: MMPP(rates=(1, -2), mean_dwell_s=(1, 1)), "rates must be at least 0 requests/s"),
        (lambda: MMPP(rates=(1,), mean_dwell_s=(1, 1)), "rates must be two numbers"),  # type: ignore[arg-type]
        (lambda: MMPP(rates=(1, 2), mean_dwell_s=(0, 1)), "mean_dwell_s must be above 0 s"),
        (lambda: Bursts(rate=1, factor=6, burst_s=1, calm_s=4), r"at most 1 \+ calm_s/burst_s = 5"),
        (lambda: Batches(rate=1, every_s=0), "batches: every_s must be above 0 s but got 0"),
        (lambda: Batches(rate=1, every_s=1, dispersion=0.5), "dispersion must be at least 1"),
        (lambda: Diurnal(rate=1, a=1.5), "make the rate negative"),
        (lambda: Burst(at_s=-1), "at_s must be at least 0 s but got -1"),
        (lambda: Burst().times(rng(), horizon_s=5), "need a number of requests"),
        (lambda: Poisson(rate=1).times(rng()), "give a number of requests or a duration"),
        (lambda: Poisson(rate=1).times(rng(), n=0), "number of requests must be a whole number"),
        (lambda: Poisson(rate=1e9).times(rng(), horizon_s=1e9), "requests asked for, expected at"),
        (
            lambda: MMPP(rates=(1e-9, 0), mean_dwell_s=(1e-9, 1)).times(rng(), n=10),
            "changes of state, expected longer stays",
        ),
    ],
)
def test_impossible_arrivals_are_refused(make: Callable[[], object], expected: str) -> None:
    """Each setting that cannot be has its sentence."""
    with pytest.raises(TraceError, match=expected):
        make()
