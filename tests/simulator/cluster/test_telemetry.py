"""The gauges: their grid, how they thin out, and the integral of the blocks in use."""

from typing import Any

import numpy as np
import pytest
from builders import LinearLatency, colocated, disaggregated, poisson_traffic, traffic

from simulator.cluster import telemetry
from simulator.cluster.simulation import RunOptions, run
from simulator.deployment import Batching
from simulator.record import GAUGES, RunRecord

FLAT = LinearLatency(base=0.25, per_seq=0.0, per_context=0.0, per_token=0.0, per_pair=0.0)


def sampled(interval_s: float, most: int | None = None, **changes: Any) -> RunRecord:
    """Return a run of about 12 s whose gauges are read every ``interval_s``, ``most`` at most."""
    with pytest.MonkeyPatch.context() as patch:
        if most is not None:
            patch.setattr(telemetry, "MAX_SAMPLES", most)
        options = RunOptions(sample_interval_s=interval_s, **changes)
        return run(disaggregated(2, 2), poisson_traffic(60, 6, 120, 40), options)


@pytest.mark.parametrize("interval_s", [0.25, 0.1, 3.0, 1000.0])
def test_gauges_are_read_on_a_grid_and_at_the_end(interval_s: float) -> None:
    """Samples lie at 0, 1, 2, … intervals, and the last one at the end of the run."""
    record = sampled(interval_s)
    grid = np.arange(len(record.timeline["time_s"]) - 1) * interval_s
    assert record.timeline["time_s"].tolist() == [*grid, record.end_s]


def test_a_last_sample_on_the_grid_is_taken_once() -> None:
    """A run that ends on its grid has one sample there."""
    options = RunOptions(sample_interval_s=0.25, until_s=2.0)
    record = run(disaggregated(1, 1), traffic([0.0, 1.0], 10, 2000), options)
    assert record.timeline["time_s"].tolist() == (np.arange(9) * 0.25).tolist()


@pytest.mark.parametrize(
    ("span", "requests", "interval_s"),
    [(40.0, 1000, 0.04), (3.0, 1000, 0.01), (40.0, 200, 0.2), (40.0, 2, 0.8)],
)
def test_the_interval_follows_from_the_arrivals(
    span: float, requests: int, interval_s: float
) -> None:
    """A thousandth of their span, at least 10 ms, at most two readings a request but 50 samples."""
    arrivals = np.linspace(1.0, 1.0 + span, requests)
    times = run(disaggregated(1, 1), traffic(arrivals.tolist(), 10, 3), RunOptions())
    assert times.timeline["time_s"][:3] == pytest.approx(np.arange(3) * interval_s)


@pytest.mark.parametrize("most", [8, 9, 16, 50])
def test_thinned_gauges_are_every_second_one(most: int) -> None:
    """Too many samples become those of a grid 2, 4, 8 … times as wide, and none is altered."""
    whole, thin = sampled(0.05), sampled(0.05, most)
    times = thin.timeline["time_s"]
    assert len(times) <= most
    assert (times[0], times[-1]) == (0.0, thin.end_s)
    step = round(times[1] / 0.05)
    assert step & (step - 1) == 0
    assert times[:-1].tolist() == (np.arange(len(times) - 1) * (step * 0.05)).tolist()
    assert times[-1] - times[-2] <= step * 0.05
    kept = np.searchsorted(whole.timeline["time_s"], times)
    for name in ("time_s", *GAUGES):
        np.testing.assert_array_equal(thin.timeline[name], whole.timeline[name][kept])


def test_thinning_halves_and_no_more() -> None:
    """Between the thinned number and its half lie all numbers of samples."""
    for most in (8, 16, 32):
        assert len(sampled(0.05, most).timeline["time_s"]) > most / 2 - 1


@pytest.mark.parametrize("interval_s", [0.05, 0.11, 0.4])
def test_block_seconds_are_the_integral_of_the_gauge(interval_s: float) -> None:
    """Per worker they are the trapezoids under the sampled blocks."""
    record = sampled(interval_s)
    area = np.trapezoid(record.timeline["kv_blocks"], record.timeline["time_s"], axis=0)
    assert [worker.kv_block_seconds for worker in record.workers] == pytest.approx(area)
    assert max(area) > 0


@pytest.mark.parametrize("most", [8, 9, 16])
def test_block_seconds_count_the_samples_that_were_thinned_out(most: int) -> None:
    """The integral is over every sample that was taken, each step as wide as it was then."""
    whole, thin = sampled(0.05), sampled(0.05, most)
    taken, kept, step, at = [0], 1, 1, 0
    while (at := (at // step + 1) * step) * 0.05 < thin.end_s:
        taken.append(at)
        kept += 1
        if kept == most:
            kept, step = -(-kept // 2), 2 * step
    rows = [*taken, len(whole.timeline["time_s"]) - 1]
    blocks, times = whole.timeline["kv_blocks"][rows], whole.timeline["time_s"][rows]
    area = np.trapezoid(blocks, times, axis=0)
    assert [worker.kv_block_seconds for worker in thin.workers] == pytest.approx(area)


def test_block_seconds_of_a_request_are_its_blocks_times_its_stay() -> None:
    """One request with all its blocks set aside holds them from admission to its last token."""
    batching = Batching(reserve="full", block_size=16, kv_blocks=100)
    record = run(
        colocated(1, latency=FLAT, batching=batching),
        traffic([0.0], 100, 20),
        RunOptions(sample_interval_s=0.01),
    )
    assert record.end_s == 20 * 0.25
    blocks = -(-(100 + 19) // 16)
    assert record.workers[0].kv_block_seconds == pytest.approx(blocks * record.end_s, rel=5e-3)


def test_progress_is_told_after_each_sample() -> None:
    """The caller hears the simulated seconds and the requests that are over, both rising."""
    heard: list[tuple[float, int]] = []
    record = sampled(0.5, progress=lambda now, done: heard.append((now, done)))
    times = record.timeline["time_s"][:-1]
    assert [now for now, _ in heard] == times.tolist()
    finished = np.sort(record.requests["finish_s"])
    assert [done for _, done in heard] == np.searchsorted(finished, times, side="right").tolist()
