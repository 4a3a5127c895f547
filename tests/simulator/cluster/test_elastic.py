"""Pools that change while traffic flows: nothing is lost or done twice, and every life adds up."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic, traffic
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from oracle import SteppingSimulation

from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.deployment import Batching, Deployment, Transfer
from simulator.elastic import Change, Drain, Elastic, StartUp
from simulator.record import STATUSES, RunRecord

EXAMPLES = int(os.environ.get("DISAGGSIM_ELASTIC_EXAMPLES", "80"))
"""Schedules to draw; set the variable to thousands for a night's run."""

COMPLETED, FAILED = STATUSES.index("completed"), STATUSES.index("failed")
FAST = StartUp(seconds=0.5)
KINDS = ("workers", "fail", "restart")


def elastic(deployment: Deployment, *changes: Change, **options: Any) -> Deployment:
    """Return the deployment with planned changes and quick starts."""
    options = {"startup": FAST, **options}
    return replace(deployment, elastic=Elastic(changes=changes, **options))


def audited(deployment: Deployment, load: Traffic) -> RunRecord:
    """Run with the laws checked after every event."""
    simulation = Simulation(deployment, load, RunOptions(seed=1))
    while simulation.done < simulation.ledger.size and not simulation.endings.all_over.triggered:
        simulation.step()
        audit(simulation, simulation.record(sample=False))
    record = simulation.record()
    audit(simulation, record)
    return record


@st.composite
def plans(draw: st.DrawFn, roles: tuple[str, ...]) -> tuple[Change, ...]:
    """Draw a schedule of changes over ten seconds that ends with a worker in every pool."""
    changes = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(KINDS))
        least = 0 if kind == "workers" else 1
        size = {kind: draw(st.integers(least, 3))}
        pool = draw(st.sampled_from(roles))
        changes.append(Change(at_s=draw(st.floats(0, 10)), pool=pool, **size))  # type: ignore[arg-type]
    return (*changes, *(Change(at_s=11.0, pool=role, workers=2) for role in roles))


DRAINS = st.sampled_from(
    [Drain(), Drain(mode="abort", grace_s=0.0), Drain(mode="abort", grace_s=0.3)]
)
TRANSFERS = st.builds(
    Transfer,
    mode=st.sampled_from(["pull", "push", "push_layerwise"]),
    sharing=st.sampled_from(["fifo", "processor_sharing", "max_min"]),
)
BATCHINGS = st.builds(
    Batching,
    max_num_batched_tokens=st.sampled_from([64, 512]),
    max_num_seqs=st.sampled_from([4, 64]),
    kv_blocks=st.sampled_from([60, 400]),
    piggyback=st.booleans(),
    reserve=st.sampled_from(["prompt", "full"]),
)


@given(data=st.data(), disaggregate=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_request_ends_once_whatever_happens(
    data: st.DataObject, disaggregate: bool, seed: int
) -> None:
    """Under any schedule the laws hold at the end, and a leap changes nothing."""
    batching, drain = data.draw(BATCHINGS), data.draw(DRAINS)
    roles = ("prefill", "decode") if disaggregate else ("mixed",)
    base = colocated(2, batching=batching)
    if disaggregate:
        base = disaggregated(2, 2, batching=batching, transfer=data.draw(TRANSFERS))
    whole = elastic(base, *data.draw(plans(roles)), drain=drain)
    load = poisson_traffic(60, 6.0, 80, 30, seed)
    note(f"{whole.elastic}")
    options = RunOptions(seed=seed)
    leaping, stepping = run(whole, load, options), SteppingSimulation(whole, load, options).run()
    for name, column in leaping.requests.items():
        np.testing.assert_array_equal(column, stepping.requests[name], err_msg=name)
    status = leaping.requests["status"]
    assert (status != STATUSES.index("incomplete")).all()
    assert leaping.events == stepping.events
    if batching.piggyback:  # else who is lost in a stall is taken to have waited as long as any
        np.testing.assert_array_equal(leaping.gaps.counts, stepping.gaps.counts)


@given(data=st.data(), seed=st.integers(0, 1000))
@settings(max_examples=EXAMPLES // 4, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_laws_hold_at_every_event(data: st.DataObject, seed: int) -> None:
    """Accounts of KV, bytes and loads balance after every single event of a changing cluster."""
    roles = ("prefill", "decode")
    base = disaggregated(2, 2, batching=data.draw(BATCHINGS), transfer=data.draw(TRANSFERS))
    whole = elastic(base, *data.draw(plans(roles)), drain=data.draw(DRAINS))
    audited(whole, poisson_traffic(25, 6.0, 80, 30, seed))


def test_a_drained_worker_serves_what_it_had_and_nothing_new() -> None:
    """After it is told to stop a worker gets no request, and finishes those it has begun."""
    whole = elastic(colocated(2), Change(at_s=2.0, pool="mixed", workers=1))
    record = run(whole, poisson_traffic(80, 20.0, 100, 40), RunOptions())
    stopped = next(worker for worker in record.workers if worker.state == "stopped")
    mine = record.requests["decode_worker"] == stopped.worker
    assert (record.requests["prefill_start_s"][mine] <= stopped.draining_s).all()
    assert (record.requests["status"] == COMPLETED).all()
    assert record.requests["finish_s"][mine].max() == stopped.ended_s
    assert not record.requests["retries"].any()


def test_a_crash_begins_anew_what_was_lost() -> None:
    """Requests of a worker that dies are computed again elsewhere; the dead one is replaced."""
    whole = elastic(disaggregated(1, 2), Change(at_s=1.0, fail=1))
    record = run(whole, traffic([0.0] * 8, 64, 200), RunOptions())
    lost = record.requests["retries"] > 0
    assert 0 < lost.sum() < 8
    assert (record.requests["status"] == COMPLETED).all()
    assert (record.requests["recomputed_tokens"][lost] >= 64).all()
    dead = record.workers[1]
    assert (dead.state, dead.ended_s) == ("failed", 1.0)
    heir = record.workers[-1]
    assert (heir.why, heir.ready_s) == ("replaces worker 1", 1.5)


def test_a_request_lost_too_often_has_failed() -> None:
    """Retries are bounded; what is given up says why."""
    crash = (Change(at_s=at, pool="mixed", fail=1) for at in (0.1, 1.0, 2.0))
    whole = elastic(colocated(1), *crash, max_retries=2)
    record = run(whole, traffic([0.0], 64, 2000), RunOptions())
    assert record.requests["status"].tolist() == [FAILED]
    assert record.requests["retries"].tolist() == [2]


def test_a_rolling_upgrade_never_has_fewer_workers() -> None:
    """Each worker stops when its successor is ready, one after the other."""
    whole = elastic(colocated(3), Change(at_s=1.0, pool="mixed", restart=1))
    record = run(whole, poisson_traffic(200, 20.0, 100, 40), RunOptions())
    old, new = record.workers[:3], record.workers[3:]
    assert [worker.ready_s for worker in new] == [1.5, 2.0, 2.5]
    assert [worker.draining_s for worker in old] == [1.5, 2.0, 2.5]
    assert (record.requests["status"] == COMPLETED).all()


def test_a_start_waits_for_gpus_within_the_quota() -> None:
    """With every GPU taken a new worker is pending until another gives its own back."""
    grow = Change(at_s=1.0, pool="decode", workers=2)
    shrink = Change(at_s=2.0, pool="prefill", workers=1)
    whole = elastic(disaggregated(2, 1), grow, shrink, quota_gpus=3)
    record = run(whole, poisson_traffic(60, 10.0, 100, 40), RunOptions())
    late = record.workers[-1]
    assert (late.asked_s, late.pool) == (1.0, "decode")
    assert late.granted_s == record.workers[1].ended_s >= 2.0
    assert late.ready_s == late.granted_s + 0.5


def test_a_static_plan_changes_nothing() -> None:
    """A change to what is there already gives the very run without it."""
    same = elastic(disaggregated(2, 2), Change(at_s=1.0, pool="decode", workers=2))
    load = poisson_traffic(60, 10.0, 100, 40)
    one, other = run(same, load, RunOptions()), run(disaggregated(2, 2), load, RunOptions())
    for name, column in one.requests.items():
        np.testing.assert_array_equal(column, other.requests[name], err_msg=name)


@pytest.mark.parametrize("change", [{"pool": "mixed", "workers": 1}])
def test_a_change_of_a_pool_that_is_not_there_is_refused(change: dict[str, Any]) -> None:
    """The sentence names the time, the pool and those there are."""
    whole = elastic(disaggregated(), Change(at_s=3.0, **change))
    with pytest.raises(ValueError, match="change at 3 s: pool must be one of prefill, decode"):
        run(whole, traffic([0.0], 8, 8), RunOptions())
