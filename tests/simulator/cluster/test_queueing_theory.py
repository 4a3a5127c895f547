"""Where queueing theory has an exact answer, the simulated mean lies within its confidence bound.

Bounds are batch-means confidence intervals at ±4 standard errors: a right implementation fails
such a test about once in 10,000 seeds, and the seeds are fixed.
"""

from math import factorial

import numpy as np
import pytest
from builders import LinearLatency, colocated, disaggregated, traffic
from numpy.typing import NDArray

from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment, Transfer

REQUESTS = 40_000
WARM_UP = 2_000


def assert_mean(samples: NDArray[np.float64], expected: float) -> None:
    """Check that ``expected`` lies within 4 batch-means standard errors of the mean."""
    batches = np.array_split(samples[WARM_UP:], 40)
    means = np.array([batch.mean() for batch in batches])
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() - expected) <= 4 * error, (means.mean(), expected, error)
    assert error < 0.1 * expected, "the run is too short to tell anything"


def poisson(rate: float, inputs: NDArray[np.int32] | int, outputs: int, seed: int) -> Traffic:
    """Return Poisson arrivals at ``rate`` per second."""
    rng = np.random.default_rng(seed)
    return traffic(np.cumsum(rng.exponential(1 / rate, REQUESTS)).tolist(), inputs, outputs)


def one_at_a_time(workers: int, per_token: float) -> Deployment:
    """Return prefill workers that serve one prompt at a time, in ``per_token`` s per token."""
    latency = LinearLatency(base=0, per_seq=0, per_context=0, per_token=per_token, per_pair=0)
    return disaggregated(workers, 1, batching=Batching(max_num_seqs=1), latency=latency)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_prefill_queue_is_m_d_1(load: float) -> None:
    """One worker, equal prompts, one at a time: waiting is ρ/(2(1−ρ)) service times."""
    service = 0.1
    record = run(one_at_a_time(1, service / 100), poisson(load / service, 100, 1, 11), RunOptions())
    columns = record.requests
    waited = columns["prefill_start_s"] - columns["arrival_s"]
    assert_mean(waited, service * load / (2 * (1 - load)))


def test_prefill_queue_is_m_m_1() -> None:
    """Geometric prompts of many small tokens are as good as exponential: waiting is ρ/(1−ρ)."""
    load, mean = 0.7, 2000
    rng = np.random.default_rng(12)
    prompts = np.ceil(rng.exponential(mean, REQUESTS)).astype(np.int32)
    service = prompts.mean() * 1e-4
    record = run(one_at_a_time(1, 1e-4), poisson(load / service, prompts, 1, 13), RunOptions())
    waited = record.requests["prefill_start_s"] - record.requests["arrival_s"]
    assert_mean(waited, service * load / (1 - load))


@pytest.mark.parametrize("servers", [2, 5])
def test_decode_seats_are_m_m_c(servers: int) -> None:
    """A decode worker with c seats and steps that do not slow down is an M/M/c queue (Erlang C).

    Answers are geometric (long, so as good as exponential); joining at iteration boundaries costs
    up to one 1 ms iteration, against services of about 1 s.
    """
    step, mean, load = 1e-3, 1000, 0.75
    rng = np.random.default_rng(14)
    outputs = np.ceil(rng.exponential(mean, REQUESTS)).astype(np.int32) + 1
    service = (outputs - 1).mean() * step
    latency = LinearLatency(base=step, per_seq=0, per_context=0, per_token=-step, per_pair=0)
    batching = Batching(max_num_seqs=servers, reserve="full")
    deployment = disaggregated(
        1, 1, batching=batching, latency=latency, transfer=Transfer(mode="push")
    )
    arrivals = np.cumsum(rng.exponential(service / (load * servers), REQUESTS))
    record = run(deployment, traffic(arrivals.tolist(), 1, outputs), RunOptions())
    columns = record.requests
    waited = columns["decode_join_s"] - columns["decode_queue_enter_s"]
    assert_mean(waited, erlang_wait(servers, load) * service + step / 2)


def erlang_wait(servers: int, load: float) -> float:
    """Return the mean M/M/c wait in service times: Erlang C / (c (1 − ρ))."""
    offered = servers * load
    last = offered**servers / factorial(servers) / (1 - load)
    empty = sum(offered**k / factorial(k) for k in range(servers))
    return last / (empty + last) / (servers * (1 - load))


def test_decode_batch_is_processor_sharing() -> None:
    """With steps as long as the batch is large, sojourns are M/G/1-PS: S/(1−ρ), whatever G.

    A step of n sequences takes n × 0.1 ms, so each advances at rate 1/n, as under processor
    sharing; answers have two very different lengths to show that only the mean matters.
    """
    step, load = 1e-4, 0.6
    rng = np.random.default_rng(15)
    outputs = np.where(rng.random(REQUESTS) < 0.8, 101, 1601).astype(np.int32)
    service = (outputs - 1).mean() * step
    latency = LinearLatency(base=0, per_seq=step, per_context=0, per_token=0, per_pair=0)
    deployment = disaggregated(1, 1, batching=Batching(max_num_seqs=4096), latency=latency)
    arrivals = np.cumsum(rng.exponential(service / load, REQUESTS))
    record = run(deployment, traffic(arrivals.tolist(), 1, outputs), RunOptions())
    columns = record.requests
    short = outputs == 101
    sojourn = columns["finish_s"] - columns["transfer_end_s"]
    # A newcomer waits for the iteration under way: half of a residual batch step, n·step/2 long.
    assert_mean(sojourn, service / (1 - load))
    assert np.mean(sojourn[short]) == pytest.approx(100 * step / (1 - load), rel=0.1)


def test_links_are_m_d_1_and_processor_sharing() -> None:
    """Equal transfers queue as M/D/1 under FIFO, and sojourn S/(1−ρ) where they share a port."""
    load, tokens = 0.7, 1008
    latency = LinearLatency(base=1e-9, per_seq=0, per_context=0, per_token=0, per_pair=0)
    size = tokens * disaggregated().model.kv_bytes_per_token(2.0)
    wire = size / 50e9
    for sharing, sojourn in (
        ("fifo", wire * (1 + load / (2 * (1 - load)))),
        ("processor_sharing", wire / (1 - load)),
        ("max_min", wire / (1 - load)),
    ):
        deployment = disaggregated(
            1, 1, latency=latency, transfer=Transfer(mode="push", sharing=sharing)
        )
        record = run(
            deployment, poisson(load / wire, tokens, 2, 16), RunOptions(sample_interval_s=1e-3)
        )
        took = record.requests["transfer_end_s"] - record.requests["prefill_end_s"]
        assert_mean(took, sojourn)


def test_a_shared_port_is_m_g_1_processor_sharing() -> None:
    """With very unequal transfers the mean sojourn is still S/(1−ρ), and each size's its own."""
    load = 0.6
    rng = np.random.default_rng(18)
    tokens = np.where(rng.random(REQUESTS) < 0.9, 96, 3200).astype(np.int32)
    latency = LinearLatency(base=1e-9, per_seq=0, per_context=0, per_token=0, per_pair=0)
    wire = tokens * disaggregated().model.kv_bytes_per_token(2.0) / 50e9
    deployment = disaggregated(1, 1, latency=latency, transfer=Transfer(mode="push"))
    arriving = poisson(load / wire.mean(), tokens, 2, 19)
    columns = run(deployment, arriving, RunOptions(sample_interval_s=1e-3)).requests
    took = columns["transfer_end_s"] - columns["prefill_end_s"]
    assert_mean(took, wire.mean() / (1 - load))
    for size in (96, 3200):
        alike = tokens == size
        assert took[alike].mean() == pytest.approx(wire[alike][0] / (1 - load), rel=0.1)


def test_littles_law_holds_in_a_closed_loop() -> None:
    """N clients and mean residence W give throughput N/W."""
    base = poisson(1.0, 200, 40, 17)
    load = Traffic(
        arrival_s=base.arrival_s,
        input_tokens=base.input_tokens,
        output_tokens=base.output_tokens,
        concurrency=24,
    )
    record = run(colocated(1), load, RunOptions(sample_interval_s=1.0))
    columns = record.requests
    residence = (columns["finish_s"] - columns["arrival_s"]).mean()
    throughput = REQUESTS / record.end_s
    assert throughput * residence == pytest.approx(24, rel=2e-3)
