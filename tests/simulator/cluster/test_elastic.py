"""Pools that change while traffic flows: nothing is lost or done twice, and every life adds up."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import LinearLatency, colocated, disaggregated, poisson_traffic, shared, traffic
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from oracle import SteppingSimulation

from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.deployment import Batching, Deployment, Transfer
from simulator.elastic import Change, Drain, Elastic, StartUp
from simulator.errors import ConfigError
from simulator.policies.autoscaling import Control, Observing, Schedule, Step
from simulator.record import STATUSES, RunRecord

EXAMPLES = int(os.environ.get("DISAGGSIM_ELASTIC_EXAMPLES", "80"))
"""Schedules to draw; set the variable to thousands for a night's run."""

COMPLETED, FAILED = STATUSES.index("completed"), STATUSES.index("failed")
FAST = StartUp(seconds=0.5)
STARTS = st.builds(
    StartUp,
    seconds=st.just(0.5),
    slow_steps=st.sampled_from([0, 1, 7, 40]),
    slow_factor=st.sampled_from([1.0, 3.0, 7.3]),
)
KINDS = ("workers", "fail", "restart", "flip", "bandwidth")


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
        kind = draw(st.sampled_from(KINDS if len(roles) > 1 else KINDS[:3]))
        pool = draw(st.sampled_from(roles))
        size: dict[str, Any] = {kind: draw(st.integers(0 if kind == "workers" else 1, 3))}
        if kind == "flip":
            size["to"] = next(role for role in roles if role != pool)
        if kind == "bandwidth":
            size = {kind: draw(st.sampled_from([1e-6, 0.01, 1.0]))}
        changes.append(Change(at_s=draw(st.floats(0, 10)), pool=pool, **size))
    mended = [Change(at_s=11.0, pool=role, bandwidth=1.0) for role in roles if len(roles) > 1]
    return (*changes, *mended, *(Change(at_s=11.0, pool=role, workers=2) for role in roles))


DRAINS = st.sampled_from(
    [
        Drain(),
        Drain(mode="abort", grace_s=0.0),
        Drain(mode="abort", grace_s=0.3),
        Drain(mode="migrate"),
        Drain(mode="migrate", grace_s=0.2),
    ]
)
TRANSFERS = st.builds(
    Transfer,
    mode=st.sampled_from(["pull", "push", "push_layerwise"]),
    sharing=st.sampled_from(["fifo", "processor_sharing", "max_min"]),
    handover_s=st.sampled_from([0.0, 0.3]),
    recomputes=st.booleans(),
) | st.builds(Transfer, mode=st.sampled_from(["pull", "push"]), release=st.just("idle"))
WAITS = st.sampled_from(
    [{}, {}, {"batch_wait_timeout_iters": 5, "batch_wait_max_tokens_ratio": 0.7}]
)
BATCHINGS = st.builds(
    lambda waits, **rule: Batching(**rule, **waits),
    waits=WAITS,
    scheduler_recv_interval=st.sampled_from([1, 1, 4, 30]),
    schedules_ahead=st.booleans(),
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
        shown = data.draw(st.sampled_from(["prefill", "decode"]))
        transfer = data.draw(TRANSFERS)
        base = disaggregated(2, 2, batching=batching, transfer=transfer, first_token=shown)
    startup = data.draw(STARTS)
    whole = elastic(base, *data.draw(plans(roles)), drain=drain, startup=startup)
    load = poisson_traffic(60, 6.0, 80, 30, seed)
    if data.draw(st.booleans()):
        load = shared(load, seed=seed)
    note(f"{whole.elastic}")
    options = RunOptions(seed=seed)
    leaping, stepping = run(whole, load, options), SteppingSimulation(whole, load, options).run()
    for name, column in leaping.requests.items():
        np.testing.assert_array_equal(column, stepping.requests[name], err_msg=name)
    status = leaping.requests["status"]
    if not any(change.flip for change in whole.elastic.changes):  # which may wait for itself
        assert (status != STATUSES.index("incomplete")).all()
    assert leaping.events == stepping.events
    if (status == COMPLETED).all():
        exact = batching.piggyback or not leaping.requests["retries"].any()
        assert_each_token_was_seen_once(leaping, exact=exact)
    if batching.piggyback:  # else who is lost in a stall is taken to have waited as long as any
        np.testing.assert_array_equal(leaping.gaps.counts, stepping.gaps.counts)


def assert_each_token_was_seen_once(record: RunRecord, *, exact: bool) -> None:
    """Check that pooled gaps are as many as tokens after the first, and as long as those took.

    Who is lost in a stall is taken to have waited as long as any, so gaps may then be too long.
    """
    columns, gaps = record.requests, record.gaps
    assert gaps.counts.sum() == (columns["output_tokens"] - 1).sum()
    edges = np.clip(gaps.edges, gaps.min_s, gaps.max_s)
    seconds = ((edges[1:] + edges[:-1]) / 2 * gaps.counts).sum()
    took = (columns["finish_s"] - columns["first_token_s"]).sum()
    assert seconds >= took * (1 - 2e-3)
    if exact:
        assert seconds == pytest.approx(took, rel=2e-3)


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


@pytest.mark.parametrize("mode", ["finish", "abort"])
def test_a_transfer_lost_at_both_ends_is_begun_anew_once(mode: str) -> None:
    """A draining decode worker that only waits for it stops with it, and takes nothing along."""
    changes = (
        Change(at_s=0.0, pool="prefill", bandwidth=1e-6),
        Change(at_s=1.0, pool="decode", restart=1),
        Change(at_s=2.0, pool="prefill", fail=1),
    )
    drain = Drain(mode=mode, grace_s=30.0 if mode == "abort" else None)
    whole = elastic(disaggregated(1, 1), *changes, drain=drain)
    record = audited(whole, traffic([0.0], 100, 20))
    assert record.requests["status"].tolist() == [COMPLETED]
    assert record.requests["retries"].tolist() == [1]


def test_a_request_lost_too_often_has_failed() -> None:
    """Retries are bounded; what is given up says why."""
    crash = (Change(at_s=at, pool="mixed", fail=1) for at in (0.1, 1.0, 2.0))
    whole = elastic(colocated(1), *crash, max_retries=2)
    record = run(whole, traffic([0.0], 64, 2000), RunOptions())
    assert record.requests["status"].tolist() == [FAILED]
    assert record.requests["retries"].tolist() == [2]


def test_a_request_lost_for_good_while_it_is_computed_again_recomputed_nothing() -> None:
    """What a retry has not computed when the last worker dies is not counted as computed."""
    crash = (Change(at_s=at, pool="mixed", fail=1) for at in (3.0, 3.6))
    whole = elastic(colocated(1), *crash, max_retries=1)
    record = run(whole, traffic([0.0], 20_000, 2000), RunOptions())
    assert record.requests["status"].tolist() == [FAILED]
    computed = sum(worker.prefill_tokens for worker in record.workers)
    assert record.requests["recomputed_tokens"].tolist() == [computed - 20_000]


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


def test_what_is_desired_is_told_when_it_changes_and_only_then() -> None:
    """A plan for as many workers as there shall be is no event."""
    plan = (Change(at_s=1.0, pool="mixed", workers=2), Change(at_s=2.0, pool="mixed", workers=3))
    record = run(elastic(colocated(2), *plan), traffic([0.0, 3.0], 64, 50), RunOptions())
    told = [(time, detail) for time, kind, _, detail in record.events if kind == "desired"]
    assert [time for time, _ in told] == [2.0]
    assert told[0][1].startswith("mixed: 2 to 3, ")


def test_a_static_plan_changes_nothing() -> None:
    """A change to what is there already gives the very run without it."""
    same = elastic(disaggregated(2, 2), Change(at_s=1.0, pool="decode", workers=2))
    load = poisson_traffic(60, 10.0, 100, 40)
    one, other = run(same, load, RunOptions()), run(disaggregated(2, 2), load, RunOptions())
    for name, column in one.requests.items():
        np.testing.assert_array_equal(column, other.requests[name], err_msg=name)


@pytest.mark.parametrize("change", [{"pool": "mixed", "workers": 1}])
def test_a_change_of_a_pool_that_is_not_there_is_refused(change: dict[str, Any]) -> None:
    """The sentence names the change, the pool and those there are."""
    fine = Change(at_s=1.0, pool="decode", workers=1)
    whole = elastic(disaggregated(), fine, Change(at_s=3.0, **change))
    with pytest.raises(ConfigError, match=r"^changes\[1\]\.pool must be one of prefill, decode"):
        run(whole, traffic([0.0], 8, 8), RunOptions())


@pytest.mark.parametrize(
    ("change", "key"), [({"fail": 2}, "fail"), ({"worker": 2, "bandwidth": 0.5}, "worker")]
)
def test_a_change_of_a_worker_that_is_not_there_is_refused(
    change: dict[str, Any], key: str
) -> None:
    """When its time has come, with the workers there have been."""
    whole = elastic(disaggregated(1, 1), Change(at_s=0.5, **change))
    told = rf"^changes\[0\]\.{key}: there is no worker 2 at 0\.5 s; so far there are 0 to 1$"
    with pytest.raises(ConfigError, match=told):
        run(whole, traffic([0.0, 1.0], 8, 80), RunOptions())


def test_a_flipped_worker_serves_in_its_other_role_on_its_gpus() -> None:
    """It drains, is ready again after ``flip_s`` in the other pool, and lies where it lay."""
    turn = Change(at_s=1.0, pool="prefill", flip=1, to="decode")
    whole = elastic(disaggregated(2, 1), turn, flip_s=3.0)
    record = run(whole, poisson_traffic(100, 10.0, 100, 40), RunOptions())
    before, after = record.workers[0], record.workers[-1]
    assert (before.pool, before.state, after.pool) == ("prefill", "stopped", "decode")
    assert after.ready_s == before.ended_s + 3.0
    assert after.domain == before.domain
    assert (record.requests["decode_worker"] == after.worker).any()
    assert (record.requests["status"] == COMPLETED).all()


def test_a_cut_link_holds_transfers_until_it_is_mended() -> None:
    """Nothing arrives while the pool's ports carry nothing; afterwards everything does."""
    cut = Change(at_s=1.0, pool="decode", bandwidth=0.0)
    mend = Change(at_s=3.0, pool="decode", bandwidth=1.0)
    whole = elastic(disaggregated(1, 1, transfer=Transfer(sharing="max_min")), cut, mend)
    record = run(whole, poisson_traffic(40, 10.0, 500, 20), RunOptions())
    ends = record.requests["transfer_end_s"]
    assert not ((ends > 1.001) & (ends < 3.0)).any()
    assert (ends > 3.0).any()
    assert (record.requests["status"] == COMPLETED).all()


def test_a_degraded_link_takes_longer() -> None:
    """At a tenth of the bandwidth a transfer takes ten times as long on the wire."""
    slow = Change(at_s=0.0, pool="prefill", bandwidth=0.1)
    load = traffic([0.5], 4000, 2)
    one, tenth = (
        run(each, load, RunOptions()).requests
        for each in (disaggregated(1, 1), elastic(disaggregated(1, 1), slow))
    )
    seconds = [float((r["transfer_end_s"] - r["transfer_start_s"])[0]) for r in (one, tenth)]
    assert seconds[1] == pytest.approx(10 * seconds[0], rel=1e-6)


def test_a_schedule_changes_the_pools_at_its_ticks() -> None:
    """A controller's policy is asked on its interval, and its decisions are on record."""
    steps = (Step(2.0, "decode", 3), Step(6.0, "decode", 1))
    control = Control(
        policy=Schedule(steps=steps), interval_s=1.0, observing=Observing(scrape_s=1.0)
    )
    whole = replace(elastic(disaggregated(1, 1)), control=control)
    record = run(whole, poisson_traffic(120, 12.0, 100, 40), RunOptions())
    granted = [
        (row["at_s"], row["granted"]) for row in record.decisions if row["granted"] != row["before"]
    ]
    assert granted == [(2.0, 3), (6.0, 1)]
    assert [worker.ready_s for worker in record.workers[2:]] == [2.5, 2.5]
    assert (record.requests["status"] == COMPLETED).all()


def test_no_controller_equals_a_static_one() -> None:
    """A policy that plans nothing gives the very run without any."""
    idle = Control(policy=Schedule(steps=()), interval_s=1.0)
    load = poisson_traffic(60, 10.0, 100, 40)
    one, other = (
        run(each, load, RunOptions()).requests
        for each in (disaggregated(2, 2), replace(disaggregated(2, 2), control=idle))
    )
    for name, column in one.items():
        np.testing.assert_array_equal(column, other[name], err_msg=name)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"pool": "decode"}, "needs exactly one of"),
        ({"pool": "decode", "workers": 1, "fail": 1}, "workers and fail"),
        ({"workers": 2}, "workers needs a pool"),
        ({"pool": "decode", "workers": -1}, "must be at least 0 but got -1"),
        ({"pool": "decode", "workers": 10**9}, "workers must be at most 4096 but got 1000000000"),
        ({"pool": "decode", "bandwidth": 1.5}, "share of the port's, but got 1.5"),
        ({"pool": "decode", "flip": 1}, "flip=N goes with to"),
        ({"pool": "decode", "flip": 1, "to": "decode"}, "another pool"),
    ],
)
def test_a_change_that_says_nothing_clear_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    """Each names the moment and what is amiss."""
    with pytest.raises(ConfigError, match=f"change at 5 s.*{sentence}"):
        Change(at_s=5.0, **wrong)


def test_first_steps_after_a_start_are_slow() -> None:
    """A replaced worker's first steps take a factor longer; initial workers' do not."""
    slow = StartUp(seconds=0.5, slow_steps=3, slow_factor=4.0)
    flat = dict.fromkeys(["per_seq", "per_context", "per_token", "per_pair"], 0.0)
    whole = elastic(
        colocated(1, latency=LinearLatency(base=0.25, **flat)),
        Change(at_s=2.0, pool="mixed", fail=1),
        startup=slow,
    )
    record = run(whole, traffic([0.0, 3.0], 10, [2, 6]), RunOptions())
    assert record.requests["finish_s"].tolist() == [0.5, 3.0 + 3 * 1.0 + 3 * 0.25]
    assert record.gaps.counts.sum() == 6
    assert (record.gaps.min_s, record.gaps.max_s) == (0.25, 1.0)


@pytest.mark.parametrize(
    "wrong", [{"slow_steps": -1}, {"slow_factor": 0.5}, {"slow_factor": float("nan")}]
)
def test_slow_steps_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """The sentence names the setting and its bound."""
    with pytest.raises(ConfigError, match=r"startup: slow_(steps|factor) must be a number ≥"):
        StartUp(**wrong)


def test_who_waits_for_any_decode_worker_is_not_the_stopped_one_s() -> None:
    """Declined by a worker that drains, requests keep their order when it has stopped."""
    batching = Batching(kv_blocks=13)  # one sequence at a time
    gone = Change(at_s=0.5, pool="decode", workers=0), Change(at_s=8.0, pool="decode", workers=1)
    whole = elastic(disaggregated(1, 1, batching=batching), *gone)
    record = run(whole, traffic([0.0, 0.1, 0.2, 0.6, 0.7], 100, 100), RunOptions())
    waited = record.requests["decode_worker"] == record.workers[-1].worker
    assert waited.tolist() == [False, True, True, True, True]
    assert (np.diff(record.requests["transfer_start_s"][1:]) > 0).all()
    assert record.requests["retries"].sum() == 0


def test_a_quota_below_the_pools_is_refused() -> None:
    """GPUs that do not suffice for the initial workers are a sentence."""
    with pytest.raises(ConfigError, match="quota_gpus 3 is less than the 4 GPUs"):
        run(elastic(disaggregated(2, 2), quota_gpus=3), traffic([0.0], 8, 8), RunOptions())


def test_the_ports_of_a_worker_that_never_was_are_refused() -> None:
    """A number too high is told, as that of a worker to fail is."""
    deployment = elastic(disaggregated(2, 2), Change(at_s=0.0, worker=4, bandwidth=0.5))
    with pytest.raises(ConfigError, match="no worker 4 at 0 s; so far there are 0 to 3"):
        run(deployment, traffic([0.0, 1.0], 8, 8), RunOptions())
