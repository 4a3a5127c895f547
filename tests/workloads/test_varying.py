"""Rates told over time are the rates that come out: per stage, per part of a day, in a burst.

Statistical tests have fixed seeds and bounds that a fresh one would break with probability 1e-6.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workloads.arrivals import Arrivals
from workloads.errors import TraceError
from workloads.lengths import Constant
from workloads.offered import at_rate, own_rate, rate_setting
from workloads.trace import Trace
from workloads.varying import Daily, Stages
from workloads.workload import SyntheticWorkload

ERROR = 1e-6
Z = float(stats.norm.isf(ERROR / 2))
STEPS = ((4.0, 30.0), (0.0, 10.0), (20.0, 5.0), (1.0, 60.0))

PROCESSES: list[Arrivals] = [
    Stages(stages=STEPS, repeat=True),
    Stages(stages=STEPS, repeat=True, cv=0),
    Stages(stages=((3.0, 7.0),), repeat=True, cv=2.5, mean_rate=9.0),
    Daily(low=2, high=14, period_s=50),
    Daily(low=0, high=9, period_s=30, peak_s=4, factor=2, burst_s=2, calm_s=5),
    Daily(low=3, high=3, factor=6, burst_s=1, calm_s=5, cv=0, mean_rate=8),
]


def rng(seed: int = 7) -> np.random.Generator:
    """Return a fresh generator."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@given(n=st.integers(1, 300), horizon=st.floats(0.5, 60), seed=st.integers(0, 2**32))
def test_arrivals_obey_their_bounds(process: Arrivals, n: int, horizon: float, seed: int) -> None:
    """N gives n, a horizon is never passed, both give the shorter, which is the first of either."""
    by_n = process.times(rng(seed), n=n)
    by_horizon = process.times(rng(seed), horizon_s=horizon)
    by_both = process.times(rng(seed), n=n, horizon_s=horizon)
    assert by_n.size == n
    for times in (by_n, by_horizon, by_both):
        assert times.dtype == np.float64
        assert np.all(np.diff(times) >= 0)
        assert np.all(times >= 0)
    assert np.all(by_horizon < horizon)
    assert by_both.size == min(n, by_horizon.size)
    np.testing.assert_array_equal(by_n[: by_both.size], by_both)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_a_longer_workload_begins_like_a_shorter_one(process: Arrivals) -> None:
    """The same seed gives the same first arrivals whatever the number asked for."""
    assert np.array_equal(process.times(rng(), n=5000)[:50], process.times(rng(), n=50))


@pytest.mark.parametrize("repeat", [False, True])
def test_stages_have_their_rates(repeat: bool) -> None:
    """Counts per stage are Poisson around rate × seconds, and none come in a pause."""
    times = Stages(stages=tuple((40 * rate, s) for rate, s in STEPS), repeat=repeat).times(
        rng(), horizon_s=210.0
    )
    edges = np.array([0, 30, 40, 45, 105, 135, 145, 150, 210])
    counts, _ = np.histogram(times, edges)
    expected = 40 * np.array([120, 0, 100, 60] * 2) * ([1] * 4 + [int(repeat)] * 4)
    assert np.all(counts[expected == 0] == 0)
    assert np.all(np.abs(counts - expected) <= Z * np.sqrt(expected))
    assert times.max() > 149 if repeat else times.max() < 105


def test_even_spacing_is_exact() -> None:
    """With cv 0 a stage has rate × seconds requests, half a gap away from its ends."""
    stages = Stages(stages=((2.0, 2.0), (0.0, 1.0), (1.0, 2.0)), cv=0)
    assert stages.times(rng()).tolist() == [0.25, 0.75, 1.25, 1.75, 3.5, 4.5]
    again = Stages(stages=((2.0, 1.0), (0.0, 1.0)), cv=0, repeat=True)
    assert again.times(rng(), n=5).tolist() == [0.25, 0.75, 2.25, 2.75, 4.25]


def test_stages_end_of_themselves() -> None:
    """Without repeat neither a number nor a duration is needed, and none makes them longer."""
    stages = Stages(stages=((5.0, 20.0),))
    whole = stages.times(rng())
    np.testing.assert_array_equal(stages.times(rng(), n=10_000), whole)
    np.testing.assert_array_equal(stages.times(rng(), horizon_s=1e6), whole)
    assert Stages(stages=((0.0, 5.0), (1.0, 5.0))).times(rng(), horizon_s=5.0).size == 0
    trace = workload(stages).trace(rng(), rng(2))
    assert len(trace) == whole.size


def test_a_day_follows_its_sine() -> None:
    """Counts per tenth of a period are independent Poisson around the integral of the sine."""
    low, high, period = 20.0, 80.0, 100.0
    times = Daily(low=low, high=high, period_s=period).times(rng(), horizon_s=1000.0)
    edges = np.linspace(0, 1000, 101)
    counts, _ = np.histogram(times, edges)
    angle = 2 * np.pi * edges / period
    expected = np.diff(50 * edges - 30 * period / (2 * np.pi) * np.sin(angle))
    statistic = ((counts - expected) ** 2 / expected).sum()
    low_bound, high_bound = stats.chi2.interval(1 - ERROR, 100)
    assert low_bound < statistic < high_bound


def test_bursts_keep_the_mean_and_cluster() -> None:
    """Over independent days the mean stays, and on a level day counts disperse as an MMPP's do."""
    level = Daily(low=8, high=8, factor=3, burst_s=15, calm_s=60)
    process = level._modulation.mmpp
    generators = rng(11).spawn(1500)
    counts = np.array([level.times(g, horizon_s=60.0).size for g in generators], dtype=float)
    assert abs(counts.mean() - 480) < Z * counts.std(ddof=1) / np.sqrt(counts.size)
    # of a modulated Poisson process what exceeds 1 grows with the rate
    dispersion = 1 + 8 * (process.index_of_dispersion(60.0) - 1)
    squares = (counts - 480) ** 2
    bound = Z * squares.std(ddof=1) / np.sqrt(squares.size)
    assert abs(squares.mean() - dispersion * 480) < bound
    day = Daily(low=2, high=14, period_s=60, factor=2, burst_s=3, calm_s=12)
    counts = np.array([day.times(g, horizon_s=60.0).size for g in rng(5).spawn(1500)], dtype=float)
    assert abs(counts.mean() - 480) < Z * counts.std(ddof=1) / np.sqrt(counts.size)
    assert counts.var() > 3 * counts.mean()


def workload(arrivals: Arrivals, requests: int | None = None) -> SyntheticWorkload:
    """Return a workload of these arrivals."""
    one = Constant(tokens=10)
    return SyntheticWorkload(
        arrivals=arrivals, requests=requests, input_lengths=one, output_lengths=one
    )


def drawn(source: SyntheticWorkload) -> Trace:
    """Return a workload's requests."""
    return source.trace(rng(1), rng(2))


@pytest.mark.parametrize(
    "process", [Stages(stages=STEPS, cv=0, repeat=True), Daily(low=2, high=6, period_s=50)]
)
def test_another_rate_scales_all_of_it(process: Stages | Daily) -> None:
    """Goodput's rates are the mean over time; the shape and the length of the day stay."""
    slow = workload(process, requests=4000)
    assert own_rate(slow, drawn(slow)) == pytest.approx(process.mean)
    assert rate_setting(slow) == "workload.arrivals.mean_rate"
    fast = at_rate(slow, 10 * process.mean)
    assert isinstance(fast, SyntheticWorkload)
    assert own_rate(fast, drawn(fast)) == pytest.approx(10 * process.mean)
    assert isinstance(fast.arrivals, Stages | Daily)
    rate = fast.arrivals.times(rng(3), horizon_s=10 * 5250.0).size / (10 * 5250.0)
    assert rate == pytest.approx(10 * process.mean, rel=Z / np.sqrt(rate * 52500))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Stages(stages=()), r"stages must be a list of \[rate, seconds\]"),
        (lambda: Stages(stages=((1.0,),)), r"stages\[0\] must be \[rate, seconds\]"),  # type: ignore[arg-type]
        (lambda: Stages(stages=((1.0, "x"),)), r"stages\[0\] must be a finite number but got 'x'"),  # type: ignore[arg-type]
        (lambda: Stages(stages=((1.0, 0.0),)), "seconds of a stage must be above 0 s but got 0"),
        (lambda: Stages(stages=((-1.0, 1.0),)), "rate of a stage must be at least 0 requests/s"),
        (lambda: Stages(stages=((0.0, 1.0),)), "one stage must have a rate above 0"),
        (lambda: Stages(stages=((1.0, 1.0),), cv=-1), "cv must be at least 0 but got -1"),
        (lambda: Stages(stages=((1.0, 1.0),), mean_rate=0), "mean_rate must be above 0"),
        (lambda: Stages(stages=((1e9, 1e9),)).times(rng()), "requests asked for, expected at most"),
        (lambda: workload(Stages(stages=STEPS, repeat=True)), "give requests or duration_s"),
        (lambda: Daily(low=3, high=2), r"high must be at least low \(3 requests/s\) but got 2"),
        (lambda: Daily(low=-1, high=2), "low must be at least 0 requests/s but got -1"),
        (lambda: Daily(low=1, high=2, period_s=0), "period_s must be above 0 s but got 0"),
        (lambda: Daily(low=1, high=2, factor=9), r"factor must be at most 1 \+ calm_s/burst_s = 5"),
        (
            lambda: Daily(low=1, high=2, factor=2, burst_s=1e-6, calm_s=1e-6).times(
                rng(), horizon_s=1e3
            ),
            "changes, expected longer ones",
        ),
    ],
)
def test_impossible_rates_are_refused(make: Callable[[], object], expected: str) -> None:
    """Each setting that cannot be has its sentence."""
    with pytest.raises(TraceError, match=expected):
        make()
