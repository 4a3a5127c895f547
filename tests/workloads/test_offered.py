"""A workload at another rate has the same requests, from the same random numbers, only faster."""

from pathlib import Path

import numpy as np
import pytest

from workloads.arrivals import MMPP, Burst, Bursts, Gamma, Poisson
from workloads.errors import TraceError
from workloads.lengths import LogNormal
from workloads.offered import ReadWorkload, at_rate, own_rate, rate_setting, read_once
from workloads.replay import Replay
from workloads.trace import Trace
from workloads.workload import SyntheticWorkload, TraceWorkload, Workload

LENGTHS = {"input_lengths": LogNormal(mu=5, sigma=1), "output_lengths": LogNormal(mu=4, sigma=1)}


def synthetic(arrivals: object) -> SyntheticWorkload:
    """Return 400 requests with these arrivals."""
    return SyntheticWorkload(arrivals=arrivals, requests=400, **LENGTHS)  # type: ignore[arg-type]


def drawn(workload: Workload, seed: int = 3) -> Trace:
    """Return a workload's requests."""
    rngs = (np.random.default_rng([seed, stream]) for stream in range(2))
    return workload.trace(*rngs)


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    """Return a small trace with uneven gaps."""
    rows = "".join(f"{at * at / 100},{100 + at},{10 + at}\n" for at in range(50))
    path = tmp_path / "trace.csv"
    path.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("arrivals", [Poisson(rate=4), Gamma(rate=4, cv=2.0)])
def test_twice_the_rate_is_half_the_time(arrivals: object) -> None:
    """Renewal arrivals at twice the rate are the same gaps, halved, and lengths stay."""
    workload = synthetic(arrivals)
    slow, fast = drawn(workload), drawn(at_rate(workload, 8.0))
    np.testing.assert_allclose(
        fast.column("arrival_s"), slow.column("arrival_s") / 2, rtol=1e-12, atol=0
    )
    for name in ("input_tokens", "output_tokens"):
        np.testing.assert_array_equal(fast.column(name), slow.column(name))


def test_bursts_keep_their_lengths() -> None:
    """Of bursts the rate is what changes: the same requests come, as often as asked for."""
    workload = synthetic(Bursts(rate=4, factor=3, burst_s=5, calm_s=20))
    fast = drawn(at_rate(workload, 40.0))
    assert fast.mean_rate > 5 * drawn(workload).mean_rate
    np.testing.assert_array_equal(
        fast.column("input_tokens"), drawn(workload).column("input_tokens")
    )


@pytest.mark.parametrize("before", [{}, {"rate_scale": 3.0}, {"target_rate": 2.0}])
def test_a_trace_is_replayed_at_the_rate(trace_file: str, before: dict[str, float]) -> None:
    """A trace's clock is turned until its mean rate is the one asked for, however it was before."""
    workload = TraceWorkload(path=trace_file, replay=Replay(**before))  # type: ignore[arg-type]
    read = read_once(workload)
    assert isinstance(read, ReadWorkload)
    assert rate_setting(read) == "workload.replay.target_rate"
    assert drawn(read).frame.equals(drawn(workload).frame)
    fast = drawn(at_rate(read, 7.0))
    assert fast.mean_rate == pytest.approx(7.0, rel=1e-12)
    assert fast.frame.equals(drawn(at_rate(workload, 7.0)).frame)


def test_a_clock_is_turned_where_there_is_no_rate() -> None:
    """Arrivals without a rate of their own keep their shape on another clock."""
    workload = synthetic(MMPP(rates=(2.0, 20.0), mean_dwell_s=(10.0, 3.0)))
    assert rate_setting(workload) is None
    slow, fast = drawn(workload), drawn(at_rate(workload, 30.0))
    assert fast.mean_rate == pytest.approx(30.0, rel=1e-9)
    gaps = [np.diff(each.column("arrival_s")) for each in (slow, fast)]
    np.testing.assert_allclose(gaps[1] * slow.duration_s, gaps[0] * fast.duration_s, rtol=1e-6)


def test_what_has_no_rate(trace_file: str) -> None:
    """A closed loop, a burst and a single request have no rate; each costs one sentence."""
    closed = TraceWorkload(path=trace_file, concurrency=4)
    with pytest.raises(TraceError, match="closed loop"):
        at_rate(closed, 1.0)
    burst = synthetic(Burst())
    with pytest.raises(TraceError, match="arrive at one"):
        own_rate(burst, drawn(burst))
    with pytest.raises(TraceError, match="two instants"):
        drawn(at_rate(burst, 1.0))
    one = TraceWorkload(path=trace_file, replay=Replay(max_requests=1))
    with pytest.raises(TraceError, match=r"its 1 request\(s\)"):
        own_rate(one, drawn(one))
