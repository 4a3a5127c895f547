"""The sum of clients has the rate, the shares, the burstiness and the lengths asked for.

Statistical tests have fixed seeds and bounds that a fresh one would break with probability 1e-6.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from workloads.errors import TraceError
from workloads.mixes import ClientLengths, ClientMix
from workloads.offered import at_rate, own_rate, rate_setting
from workloads.trace import Trace

ERROR = 1e-6
Z = float(stats.norm.isf(ERROR / 2))

MIX = ClientMix(
    request_rate=40.0,
    duration_s=1000.0,
    clients=20,
    zipf=1.2,
    cv_median=1.5,
    cv_sigma=0.4,
    input_lengths=ClientLengths(median=800, between=0.9, within=0.4),
    output_lengths=ClientLengths(median=150, between=0.5, within=0.7),
)


def drawn(workload: ClientMix, seed: int = 3) -> Trace:
    """Return a workload's requests."""
    rngs = (np.random.default_rng([seed, stream]) for stream in range(2))
    return workload.trace(*rngs)


def test_each_client_has_its_rate() -> None:
    """Poisson clients' counts are Poisson around their shares of the rate."""
    trace = drawn(replace(MIX, cv_median=1.0, cv_sigma=0.0))
    tenants = trace.frame["tenant"].cast(pl.String)
    counts = np.array([(tenants == f"client-{k}").sum() for k in range(20)])
    expected = MIX.rates() * 1000.0
    assert expected.sum() == pytest.approx(40_000)
    assert expected[0] / expected[9] == pytest.approx(10**1.2)
    assert np.all(np.abs(counts - expected) < Z * np.sqrt(expected))


def test_clients_are_bursty_each_for_itself() -> None:
    """A client's gaps have one mean and its own variation, and these are spread as stated."""
    trace = drawn(replace(MIX, zipf=0.0, duration_s=4000.0))
    gaps = [np.diff(part["arrival_s"]) for _, part in trace.frame.group_by("tenant")]
    cvs = np.array([each.std() / each.mean() for each in gaps])
    logs = np.log(cvs)
    assert abs(logs.mean() - np.log(1.5)) < Z * 0.4 / np.sqrt(20) + 0.05
    assert 0.2 < logs.std() < 0.8
    calm = drawn(replace(MIX, cv_median=0.3, cv_sigma=0.0, clients=1))
    only = np.diff(calm.column("arrival_s"))
    assert only.std() / only.mean() == pytest.approx(0.3, rel=0.05)


def test_bursts_do_not_begin_together() -> None:
    """The first second has as many requests as any, over many draws of very bursty clients."""
    wild = replace(MIX, cv_median=6.0, cv_sigma=0.0, duration_s=1.0, requests=None)
    draws = (wild._arrivals(np.random.default_rng([9, seed]))[0] for seed in range(400))
    counts = [times.size for times in draws]
    bound = Z * np.std(counts, ddof=1) / np.sqrt(len(counts))
    assert abs(np.mean(counts) - 40.0) < bound
    assert np.var(counts) > 2 * np.mean(counts)


def test_clients_differ_more_than_their_requests() -> None:
    """Within a client lengths have the stated spread, between clients theirs, all clipped."""
    trace = drawn(replace(MIX, zipf=0.0, duration_s=4000.0, clients=200))
    logs = trace.frame.select("tenant", length=pl.col("input_tokens").log())
    told = logs.group_by("tenant").agg(pl.col("length").mean().alias("m"), pl.col("length").std())
    assert told["length"].mean() == pytest.approx(0.4, rel=0.05)
    low, high = np.sqrt(stats.chi2.interval(1 - ERROR, 199) / np.float64(199))
    assert 0.9 * low < float(told["m"].std()) < 0.9 * high  # type: ignore[arg-type]
    tight = drawn(replace(MIX, input_lengths=replace(MIX.input_lengths, max=900)))
    assert tight.column("input_tokens").max() == 900
    assert tight.column("input_tokens").min() >= 1


def test_a_number_of_requests_is_met() -> None:
    """So many requests come, the first ones of a longer workload; and a rate is a rate."""
    few = drawn(replace(MIX, requests=500, duration_s=None))
    assert len(few) == 500
    assert len(drawn(replace(MIX, requests=500))) == 500
    more = drawn(replace(MIX, requests=2000, duration_s=None))
    np.testing.assert_array_equal(few.column("arrival_s"), more.column("arrival_s")[:500])
    bursty = replace(MIX, requests=300, duration_s=None, cv_median=20.0, clients=2)
    assert len(drawn(bursty)) == 300
    fast = at_rate(MIX, 80.0)
    assert isinstance(fast, ClientMix)
    assert rate_setting(fast) == "workload.request_rate"
    assert own_rate(fast, drawn(fast)) == 80.0
    assert drawn(MIX).equals(drawn(MIX))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: replace(MIX, request_rate=0.0), "request_rate must be above 0 requests/s"),
        (lambda: replace(MIX, duration_s=None), "give requests or duration_s"),
        (lambda: replace(MIX, requests=0), "requests must be a whole number of at least 1"),
        (lambda: replace(MIX, request_rate=1e9), "requests, expected at most 10000000"),
        (lambda: replace(MIX, clients=0), "clients must be a whole number of at least 1"),
        (lambda: replace(MIX, clients=10**6), "clients must be at most 100000"),
        (lambda: replace(MIX, cv_median=0), "cv_median must be above 0"),
        (lambda: drawn(replace(MIX, duration_s=1e-9)), "no request arrives within 1e-09 s"),
        (lambda: ClientLengths(median=0, between=0, within=0), "median must be above 0 tokens"),
        (lambda: ClientLengths(median=1, between=-1, within=0), "between must be at least 0"),
        (lambda: ClientLengths(median=1, between=0, within=0, max=10**9), "max must be at most"),
    ],
)
def test_impossible_mixes_are_refused(make: Callable[[], object], expected: str) -> None:
    """Each setting that cannot be has its sentence."""
    with pytest.raises(TraceError, match=expected):
        make()
