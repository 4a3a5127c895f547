"""Clients that give up or take their requests back: all they had is freed, and no more."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import (
    INSTANT_LINKS,
    LinearLatency,
    colocated,
    disaggregated,
    poisson_traffic,
    shared,
    traffic,
)
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from oracle import SteppingSimulation
from test_elastic import BATCHINGS, DRAINS, TRANSFERS, elastic, plans

from simulator.clients import Clients
from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.deployment import Batching, Deployment, Transfer
from simulator.elastic import Change
from simulator.errors import ConfigError
from simulator.record import REASONS, STATUSES, RunRecord

EXAMPLES = int(os.environ.get("DISAGGSIM_LEAVERS_EXAMPLES", "30"))
"""Runs to draw; set the variable to thousands for a night's run."""

COMPLETED, FAILED = STATUSES.index("completed"), STATUSES.index("failed")
TIMEOUT, CANCELLED = REASONS.index("timeout"), REASONS.index("cancelled")

CLIENTS = st.builds(
    Clients,
    first_token_timeout_s=st.sampled_from([None, 0.25, 0.5, 2.0]),
    timeout_s=st.sampled_from([None, 0.5, 1.0, 3.0]),
    cancel_probability=st.sampled_from([0.0, 0.3, 1.0]),
    cancel_mean_s=st.sampled_from([0.1, 1.0]),
)


def leaving(load: Traffic, **patience: Any) -> Traffic:
    """Return the traffic of clients with so much patience."""
    return replace(load, clients=Clients(**patience))


def compared(deployment: Deployment, load: Traffic, options: RunOptions) -> RunRecord:
    """Run leaping and stepping, compare columns, events, totals and gaps; return the record."""
    leaping = run(deployment, load, options)
    stepping = SteppingSimulation(deployment, load, options).run()
    for name, column in leaping.requests.items():
        np.testing.assert_array_equal(column, stepping.requests[name], err_msg=name)
    for name, gauge in leaping.timeline.items():
        np.testing.assert_array_equal(gauge, stepping.timeline[name], err_msg=name)
    assert leaping.events == stepping.events
    assert leaping.end_s == stepping.end_s
    assert leaping.workers == stepping.workers
    if not leaping.requests["retries"].any():
        np.testing.assert_array_equal(leaping.gaps.counts, stepping.gaps.counts)
    return leaping


def audited(deployment: Deployment, load: Traffic, options: RunOptions) -> None:
    """Run step by step, and check the laws after every event."""
    simulation = Simulation(deployment, load, options)
    while not simulation.endings.all_over.triggered:
        simulation.step()
        audit(simulation, simulation.record(sample=False))


@given(data=st.data(), mixed=st.booleans(), grid=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_a_leap_changes_nothing_whoever_leaves(
    data: st.DataObject, mixed: bool, grid: bool, seed: int
) -> None:
    """With clients of any patience, on a grid of ties or not, leaping equals stepping."""
    change: dict[str, Any] = {"batching": data.draw(BATCHINGS)}
    if not mixed:
        change["transfer"] = data.draw(TRANSFERS)
        change["first_token"] = data.draw(st.sampled_from(["prefill", "decode"]))
    load = poisson_traffic(60, 12.0, 120, 40, seed)
    if grid:
        flat = dict.fromkeys(["per_seq", "per_context", "per_token", "per_pair"], 0.0)
        change |= {"latency": LinearLatency(base=0.25, **flat), **INSTANT_LINKS}
        load = replace(load, arrival_s=np.round(load.arrival_s * 4) / 4)
    load = replace(load, clients=data.draw(CLIENTS))
    if data.draw(st.booleans()):
        load = shared(load, seed=seed)
    note(f"{seed=} {load.clients}")
    deployment = colocated(2, **change) if mixed else disaggregated(1, 2, **change)
    compared(deployment, load, RunOptions(seed=seed, sample_interval_s=0.37))


@given(data=st.data(), mixed=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_leaving_a_cluster_that_changes(data: st.DataObject, mixed: bool, seed: int) -> None:
    """Under any schedule of changes the laws hold at every event, and leaping equals stepping."""
    roles = ("mixed",) if mixed else ("prefill", "decode")
    change: dict[str, Any] = {"batching": data.draw(BATCHINGS)}
    if not mixed:
        change["transfer"] = data.draw(TRANSFERS)
    base = colocated(2, **change) if mixed else disaggregated(2, 2, **change)
    retries = data.draw(st.sampled_from([0, 1, 3]))
    plan = data.draw(plans(roles))
    whole = elastic(base, *plan, drain=data.draw(DRAINS), max_retries=retries)
    load = replace(poisson_traffic(40, 8.0, 100, 40, seed), clients=data.draw(CLIENTS))
    if data.draw(st.booleans()):
        load = shared(load, seed=seed)
    note(f"{seed=} {load.clients} {whole.elastic}")
    compared(whole, load, RunOptions(seed=seed))
    audited(whole, load, RunOptions(seed=seed))


def test_who_leaves_a_stall_it_joined_is_not_one_of_those_it_held_up() -> None:
    """Its first token came from elsewhere, before it was here: the others' gaps stay as many."""
    batching = Batching(kv_blocks=60, piggyback=False, max_num_seqs=16, max_num_batched_tokens=16)
    slow = LinearLatency(per_token=1e-3)
    base = disaggregated(4, 1, batching=batching, latency=slow)
    deployment = replace(base, first_token="decode")  # noqa: S106 - which pool shows it
    load = leaving(
        poisson_traffic(25, 15.0, 150, 60, 4184), cancel_probability=1.0, cancel_mean_s=1.0
    )
    compared(deployment, load, RunOptions(seed=1))


def test_a_first_token_too_late_is_not_waited_for() -> None:
    """Who is not shown a token in time leaves at that very moment; who was stays to the end."""
    load = leaving(traffic([0.0, 0.0], [20_000, 20_000], 500), first_token_timeout_s=0.5)
    batching = Batching(max_num_batched_tokens=20_000)
    record = run(colocated(1, batching=batching), load, RunOptions())
    assert record.requests["status"].tolist() == [COMPLETED, FAILED]
    assert record.requests["reason"].tolist() == [0, TIMEOUT]
    assert np.isnan(record.requests["first_token_s"][1])


def test_who_waits_too_long_for_the_last_token_leaves() -> None:
    """The whole answer has a limit of its own, and what a sequence held is free afterwards."""
    load = leaving(traffic([0.0, 0.0], [100, 100], [10, 5000]), timeout_s=1.0)
    record = run(disaggregated(1, 1), load, RunOptions(sample_interval_s=0.5))
    assert record.requests["reason"].tolist() == [0, TIMEOUT]
    assert record.requests["first_token_s"][1] < 1.0
    assert record.end_s == pytest.approx(1.0, abs=0.02)
    assert record.timeline["kv_blocks"][-1].tolist() == [0.0, 0.0]


def test_cancelling_is_each_request_s_own_draw() -> None:
    """The same requests are taken back under whatever deployment serves them."""
    load = leaving(poisson_traffic(200, 20.0, 100, 200), cancel_probability=0.25, cancel_mean_s=0.4)
    one, other = (
        run(each, load, RunOptions(seed=7)).requests["reason"] == CANCELLED
        for each in (disaggregated(2, 2), disaggregated(2, 3))
    )
    assert 20 < one.sum() < 60
    assert (one == other).mean() > 0.95  # but for those that one of them served in time


def test_a_client_that_leaves_sends_its_next_request() -> None:
    """In closed loop whoever gave up comes again at once."""
    load = replace(traffic([0.0] * 4, 100, 5000, concurrency=1), clients=Clients(timeout_s=1.0))
    record = run(colocated(1), load, RunOptions())
    assert record.requests["arrival_s"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (record.requests["reason"] == TIMEOUT).all()


def test_patience_without_end_changes_nothing() -> None:
    """Clients that would wait for a day give the very run of clients that wait for ever."""
    load = poisson_traffic(200, 30.0, 100, 40)
    one, other = (
        run(disaggregated(2, 2), each, RunOptions())
        for each in (load, leaving(load, timeout_s=86400.0, first_token_timeout_s=3600.0))
    )
    for name, column in one.requests.items():
        np.testing.assert_array_equal(column, other.requests[name], err_msg=name)
    assert one.workers == other.workers


def test_a_transfer_nobody_waits_for_leaves_the_link() -> None:
    """The bytes that were sent of it are not delivered, and its ports are free for the next."""
    slow = elastic(disaggregated(1, 1), Change(at_s=0.0, pool="decode", bandwidth=1e-6))
    for sharing in ("max_min", "processor_sharing"):
        whole = replace(slow, transfer=Transfer(sharing=sharing))
        load = leaving(traffic([0.0, 0.1], 1000, 5), timeout_s=2.0)
        record = run(whole, load, RunOptions())
        assert (record.requests["reason"] == TIMEOUT).all()
        assert not np.isnan(record.requests["transfer_start_s"]).any()
        assert np.isnan(record.requests["transfer_end_s"]).all()
        assert record.timeline["kv_blocks"][-1].tolist() == [0.0, 0.0]


def test_who_stood_behind_a_client_that_left_goes_on_at_the_next_iteration() -> None:
    """A worker in the middle of a long leap has room for the next in line at once."""
    batching = Batching(kv_blocks=100)
    load = leaving(
        traffic([0.0, 0.1, 0.5], [800, 1200, 300], [500, 10, 10]), first_token_timeout_s=1.0
    )
    deployment = disaggregated(1, 1, batching=batching)
    record = compared(deployment, load, RunOptions(sample_interval_s=100.0))
    assert record.requests["reason"].tolist() == [0, TIMEOUT, 0]
    assert 1.1 <= record.requests["transfer_start_s"][2] <= 1.12


def test_a_draining_worker_does_not_begin_anew_whose_client_has_gone() -> None:
    """The last prompt of a worker that is to stop, waiting for any decode worker, is not redone."""
    gone = Change(at_s=0.1, pool="decode", workers=0), Change(at_s=9.0, pool="decode", workers=1)
    whole = elastic(disaggregated(1, 1), *gone, Change(at_s=0.5, pool="prefill", restart=1))
    record = run(whole, leaving(traffic([0.2], 100, 5), timeout_s=2.0), RunOptions())
    assert record.requests["reason"].tolist() == [TIMEOUT]
    assert record.requests["retries"].tolist() == [0]
    assert record.workers[0].ended_s == 2.2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"timeout_s": 0.0}, "timeout_s must be above 0 s but got 0.0"),
        ({"first_token_timeout_s": -1.0}, "first_token_timeout_s must be above 0 s but got -1.0"),
        ({"cancel_mean_s": float("inf")}, "cancel_mean_s must be above 0 s but got inf"),
        ({"cancel_probability": 1.5}, r"cancel_probability must lie in \[0, 1\] but got 1.5"),
    ],
)
def test_patience_that_makes_no_sense_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    """Each names the setting, the value and what was expected."""
    with pytest.raises(ConfigError, match=f"clients: {sentence}"):
        Clients(**wrong)
