"""Length distributions have the moments and the bounds they state.

Seeds are fixed; with fresh ones each statistical test would fail wrongly about once in 1e6.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workloads.errors import TraceError
from workloads.lengths import (
    Constant,
    Empirical,
    IndependentPairs,
    Lengths,
    LogNormal,
    LogNormalMixture,
    TracePairs,
    Uniform,
)

ERROR = 1e-6
Z = float(stats.norm.isf(ERROR / 2))
MIXTURE = LogNormalMixture(weights=(0.723, 0.277), mus=(4.641, 6.006), sigmas=(0.710, 0.049))
ALL: list[Lengths] = [
    Constant(tokens=9),
    Uniform(low=3, high=17),
    LogNormal(mu=6.633, sigma=0.985, max=5000),
    LogNormal(median=2, sigma=2, max=50),
    LogNormalMixture(weights=(1, 2), mus=(0.0, 4.0), sigmas=(2.0, 0.1), max=60),
    MIXTURE,
    Empirical(values=(7, 1, 50), weights=(1, 0, 3)),
]


def draws(lengths: Lengths, n: int = 100_000) -> np.ndarray:
    """Return n seeded draws."""
    return lengths.quantile(np.random.default_rng(5).random(n))


def assert_mean(sample: np.ndarray, expected: float, slack: float = 0.0) -> None:
    """Assert the sample's mean is ``expected`` within its confidence bound plus ``slack``."""
    bound = Z * sample.std(ddof=1) / np.sqrt(sample.size)
    assert abs(sample.mean() - expected) < bound + slack


@pytest.mark.parametrize("lengths", ALL, ids=repr)
@given(u=st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=20))
def test_quantiles_rise_and_stay_in_bounds(lengths: Lengths, u: list[float]) -> None:
    """A quantile function is monotone, whole, at least 1 and at most the maximum."""
    values = lengths.quantile(np.array(sorted(u)))
    assert values.dtype == np.int32
    assert np.all(np.diff(values) >= 0)
    assert values.min() >= 1
    assert values.max() <= getattr(lengths, "max", 50)


def test_uniform_reaches_both_ends_equally() -> None:
    """Every length from low to high is equally frequent (chi-square)."""
    counts = np.bincount(draws(Uniform(low=3, high=17)), minlength=18)
    assert counts[:3].sum() == 0
    assert stats.chisquare(counts[3:]).pvalue > ERROR


@pytest.mark.parametrize(
    "lengths",
    [
        LogNormal(mean=1000, sigma=0.8),
        LogNormal(median=1000 * np.exp(-0.32), sigma=0.8),
        LogNormal(mu=np.log(1000) - 0.32, sigma=0.8),
    ],
    ids=["mean", "median", "mu"],
)
def test_lognormal_parameters_agree(lengths: LogNormal) -> None:
    """Told by mean, median or mu, the moments are those of theory (rounding moves them < ½)."""
    sample = draws(lengths)
    assert_mean(sample, 1000, slack=0.5)
    assert_mean(np.log(sample), np.log(1000) - 0.32, slack=0.001)
    assert_mean((np.log(sample) - np.log(1000) + 0.32) ** 2, 0.64, slack=0.001)


def test_mixture_has_the_moments_of_its_parts() -> None:
    """The mean is the weighted mean of exp(mu + sigma²/2)."""
    expected = 0.723 * np.exp(4.641 + 0.71**2 / 2) + 0.277 * np.exp(6.006 + 0.049**2 / 2)
    assert_mean(draws(MIXTURE), expected, slack=0.5)


@given(u=st.floats(0, 1, exclude_max=True))
def test_mixture_quantile_inverts_its_cdf(u: float) -> None:
    """The quantile is the least whole k whose cdf(k + ½) exceeds u."""
    k = int(MIXTURE.quantile(np.array([u]))[0])
    assert k == MIXTURE.max or MIXTURE.cdf(np.array([k + 0.5]))[0] > u
    assert k == 1 or MIXTURE.cdf(np.array([k - 0.5]))[0] <= u


def test_empirical_draws_by_weight() -> None:
    """Values come in proportion to their weights, never at weight 0."""
    sample = draws(Empirical(values=(7, 1, 50), weights=(1, 0, 3)))
    counts = [int((sample == value).sum()) for value in (7, 50)]
    assert sum(counts) == sample.size
    assert stats.binomtest(counts[0], sample.size, 0.25).pvalue > ERROR


@pytest.mark.parametrize("rho", [-0.37, 0.0, 0.43, 1.0])
def test_copula_gives_the_rank_correlation(rho: float) -> None:
    """Spearman's rank correlation is (6/π)·asin(rho/2), 0 by default, margins unchanged."""
    law = LogNormal(mu=8, sigma=1, max=10**7)
    pairs = IndependentPairs(input=law, output=law, correlation=rho)
    first, second = pairs.sample(40_000, np.random.default_rng(5))
    measured = stats.spearmanr(first, second).statistic
    assert abs(measured - 6 / np.pi * np.arcsin(rho / 2)) < Z / np.sqrt(40_000) + 1e-4
    assert_mean(np.log(second), 8, slack=0.001)


def test_the_first_requests_do_not_depend_on_the_number() -> None:
    """Asking for more requests extends the same workload."""
    pairs = IndependentPairs(input=MIXTURE, output=Uniform(low=1, high=9))
    few, many = (pairs.sample(n, np.random.default_rng(5)) for n in (10, 1000))
    assert np.array_equal(few[0], many[0][:10])
    assert np.array_equal(few[1], many[1][:10])


def test_trace_pairs_come_together(tmp_path: Path) -> None:
    """Input and output are drawn from the same row of the trace, rows equally likely."""
    path = tmp_path / "t.csv"
    rows = "".join(f"2023-11-16 00:00:0{k},{k + 10},{k + 1}\n" for k in range(5))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    inputs, outputs = TracePairs(path=str(path)).sample(10_000, np.random.default_rng(5))
    assert np.array_equal(inputs - outputs, np.full(10_000, 9))
    assert stats.chisquare(np.bincount(outputs)[1:]).pvalue > ERROR


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Constant(tokens=0), "tokens must be a whole number of at least 1 but got 0"),
        (lambda: Constant(tokens=2.5), "tokens must be a whole number"),  # type: ignore[arg-type]
        (lambda: Constant(tokens=10**9), "tokens must be at most 100000000 tokens"),
        (lambda: Uniform(low=5, high=4), r"high must be at least low \(5\) but got 4"),
        (lambda: LogNormal(sigma=1), "give exactly one of mu, median, mean but got none"),
        (lambda: LogNormal(sigma=1, mu=1, mean=3), "exactly one of .* but got mu, mean"),
        (lambda: LogNormal(sigma=-1, mu=1), "sigma must be at least 0 but got -1"),
        (lambda: LogNormal(sigma=1, median=0), "median must be above 0 tokens but got 0"),
        (lambda: LogNormalMixture(weights=(1,), mus=(1, 2), sigmas=(1, 1)), "equally many but are"),
        (lambda: LogNormalMixture(weights=(1, 0), mus=(1, 2), sigmas=(1, 1)), "weights must be"),
        (lambda: LogNormalMixture(weights="x", mus=(1,), sigmas=(1,)), "must be a list of numbers"),  # type: ignore[arg-type]
        (lambda: Empirical(values=()), "values must be a list of numbers"),
        (lambda: Empirical(values=(1, 2), weights=(1,)), r"as many as values \(2\)"),
        (lambda: Empirical(values=(1,), weights=(0,)), "not all 0"),
        (
            lambda: IndependentPairs(input=MIXTURE, output=MIXTURE, correlation=2),
            r"correlation must lie in -1\.\.1 but got 2",
        ),
    ],
)
def test_impossible_lengths_are_refused(make: Callable[[], object], expected: str) -> None:
    """Each setting that cannot be has its sentence."""
    with pytest.raises(TraceError, match=expected):
        make()
