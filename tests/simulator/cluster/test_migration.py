"""Sequences of a draining worker that go on elsewhere: nothing is computed again, nothing lost."""

import os
from dataclasses import replace

import pytest
from builders import disaggregated, poisson_traffic, shared, traffic
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from test_elastic import BATCHINGS, assert_each_token_was_seen_once, elastic, plans
from test_leavers import CLIENTS, audited, compared

from simulator.clients import Clients
from simulator.cluster.simulation import RunOptions, run
from simulator.deployment import Batching, Deployment, Transfer
from simulator.elastic import Change, Drain
from simulator.record import STATUSES

EXAMPLES = int(os.environ.get("DISAGGSIM_MIGRATION_EXAMPLES", "40"))
"""Runs to draw; set the variable to thousands for a night's run."""

COMPLETED = STATUSES.index("completed")
SHRINK = Change(at_s=1.0, pool="decode", workers=2)
DRAINS = st.sampled_from([Drain(mode="migrate"), Drain(mode="migrate", grace_s=0.3)])
SLOW = st.builds(
    Transfer,
    mode=st.sampled_from(["pull", "push", "push_layerwise"]),
    sharing=st.sampled_from(["fifo", "processor_sharing", "max_min"]),
    nics=st.sampled_from(["own", "box"]),
    setup_s=st.sampled_from([0.0, 0.4]),
    handover_s=st.sampled_from([0.0, 0.3]),
    recomputes=st.booleans(),
)


def migrating(decode: int = 3, *, kv_blocks: int = 2000, setup_s: float = 0.0) -> Deployment:
    """Return a deployment one of whose decode workers is told to stop after a second."""
    batching = Batching(kv_blocks=kv_blocks)
    base = disaggregated(1, decode, batching=batching, transfer=Transfer(setup_s=setup_s))
    return elastic(base, replace(SHRINK, workers=decode - 1), drain=Drain(mode="migrate"))


@given(data=st.data(), patient=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_whatever_happens_on_the_way(data: st.DataObject, patient: bool, seed: int) -> None:
    """With workers that die at either end and clients that leave, every law and ``==`` hold."""
    base = disaggregated(2, 3, batching=data.draw(BATCHINGS), transfer=data.draw(SLOW))
    plan = data.draw(plans(("decode",)))
    retries = data.draw(st.sampled_from([0, 3]))
    whole = elastic(base, *plan, drain=data.draw(DRAINS), max_retries=retries)
    clients = Clients() if patient else data.draw(CLIENTS)
    load = replace(poisson_traffic(40, 8.0, 80, 60, seed), clients=clients)
    if data.draw(st.booleans()):
        load = shared(load, seed=seed)
    note(f"{seed=} {clients} {whole.elastic}")
    record = compared(whole, load, RunOptions(seed=seed))
    if (record.requests["status"] == COMPLETED).all():
        exact = base.pools[1].batching.piggyback or not record.requests["retries"].any()
        assert_each_token_was_seen_once(record, exact=exact)
    audited(whole, load, RunOptions(seed=seed))


def test_a_drained_worker_s_sequences_go_on_elsewhere() -> None:
    """It stops within a step and a transfer; nothing is recomputed and no token is lost."""
    load = poisson_traffic(60, 20.0, 200, 300)
    moved = run(migrating(), load, RunOptions())
    stopped = next(worker for worker in moved.workers if worker.state == "stopped")
    assert stopped.decode_tokens > 0
    assert stopped.ended_s - stopped.draining_s < 0.05
    assert (moved.requests["status"] == COMPLETED).all()
    assert not moved.requests["recomputed_tokens"].any()
    assert not moved.requests["retries"].any()
    assert (moved.requests["decode_worker"] != stopped.worker)[
        moved.requests["finish_s"] > stopped.ended_s
    ].all()
    assert_each_token_was_seen_once(moved, exact=True)
    finishing = replace(migrating(), elastic=replace(migrating().elastic, drain=Drain()))
    slow = next(w for w in run(finishing, load, RunOptions()).workers if w.state == "stopped")
    assert slow.ended_s > stopped.ended_s + 1.0


def test_a_move_takes_its_time_on_the_link() -> None:
    """One gap is a step, the transfer of the KV there is, and its set-up longer than the others."""
    load = traffic([0.0, 0.0], 1000, 400)
    still = replace(migrating(2), elastic=replace(migrating(2).elastic, changes=()))
    one, other = (run(each, load, RunOptions()) for each in (migrating(2, setup_s=0.3), still))
    assert one.gaps.max_s == pytest.approx(0.3 + other.gaps.max_s, rel=0.05)
    source = next(worker for worker in one.workers if worker.state == "stopped")
    assert source.ended_s == pytest.approx(1.0 + 0.3, abs=0.05)


def test_a_sequence_lost_on_its_way_waits_since_its_last_token() -> None:
    """Where its new worker dies before its KV is there, the gap is from the token it had last."""
    changes = (
        Change(at_s=3.0, pool="decode", workers=1),
        Change(at_s=4.0, pool="decode", fail=1),
    )
    base = disaggregated(1, 2, transfer=Transfer(setup_s=2.0))
    whole = elastic(base, *changes, drain=Drain(mode="migrate"))
    record = run(whole, traffic([0.0, 0.0], 1000, 400), RunOptions())
    assert (record.requests["status"] == COMPLETED).all()
    assert record.requests["retries"].all()
    assert_each_token_was_seen_once(record, exact=True)


def test_what_finds_no_room_is_finished_where_it_is() -> None:
    """With every other worker full, a draining worker keeps its sequences to their end."""
    load = traffic([0.0, 0.0], 1000, 300)
    record = run(migrating(2, kv_blocks=85), load, RunOptions())
    stopped = next(worker for worker in record.workers if worker.state == "stopped")
    assert (record.requests["status"] == COMPLETED).all()
    assert stopped.decode_tokens == 299
    assert record.requests["decode_worker"].tolist() in ([1, 2], [2, 1])


def test_the_last_worker_finishes_what_it_has() -> None:
    """Where nobody else is ready nothing moves."""
    whole = elastic(
        disaggregated(1, 1),
        Change(at_s=1.0, pool="decode", workers=0),
        drain=Drain(mode="migrate"),
    )
    record = run(whole, traffic([0.0], 100, 300), RunOptions())
    assert record.requests["status"].tolist() == [COMPLETED]
    assert record.workers[1].decode_tokens == 299
