"""Workers with prefix caches: leaping equals stepping, laws hold, a hit saves what it should."""

from collections.abc import Sequence
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
    prompt_blocks,
    shared,
    spread,
    traffic,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache import check_tree
from test_oracle import BATCHINGS, FIRST, TIGHT, TRANSFERS, both, rules

from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.cluster.workers.cache import PrefixCache
from simulator.deployment import Batching, Deployment, Transfer
from simulator.elastic import Change, Elastic, StartUp
from simulator.errors import ConfigError
from simulator.record import RunRecord


def found(record: RunRecord) -> int:
    """Return the prompt tokens that no worker had to compute."""
    return int(record.requests["cached_tokens"].sum())


def prompts(
    arrivals: Sequence[float], ids: Sequence[Sequence[int]], answers: Sequence[int] | int = 1
) -> Traffic:
    """Return prompts with these ids of 100 tokens each."""
    load = traffic(arrivals, [100 * len(each) for each in ids], answers)
    return replace(load, blocks=prompt_blocks([(100 * len(each), each) for each in ids], 100))


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_batching_equals_oracle(build: Any, batching: Batching) -> None:
    """Under memory pressure, preemption and every admission rule the columns agree."""
    deployment = build(2, batching=batching, latency=LinearLatency(knee=3000.0))
    record = both(deployment, shared(poisson_traffic(200, 60, 120, 60)))
    assert found(record) > 0
    if batching.reserve == "prompt":
        assert record.requests["preemptions"].sum() > 0, "the case must exercise preemption"
        assert sum(info.evicted_blocks for info in record.workers) > 0


@pytest.mark.parametrize("transfer", TRANSFERS, ids=lambda t: f"{t.mode}-{t.sharing}-{t.release}")
def test_transfer_equals_oracle(transfer: Transfer) -> None:
    """However KV is handed over, the columns agree."""
    deployment = disaggregated(2, 3, batching=TIGHT, transfer=transfer)
    record = both(deployment, shared(poisson_traffic(200, 60, 120, 40)))
    assert sum(info.kept_tokens for info in record.workers) > 0


@settings(max_examples=150)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 300), st.integers(1, 60)),
        min_size=1,
        max_size=40,
    ),
    blocks=st.integers(30, 120),
    seqs=st.integers(1, 12),
    build=st.sampled_from([colocated, disaggregated]),
    transfer=st.builds(
        Transfer,
        mode=st.sampled_from(["pull", "push_layerwise"]),
        recomputes=st.booleans(),
        handover_s=st.sampled_from([0.0, 0.03]),
    ),
    ranks=st.sampled_from([1, 1, 2]),
    sharing=st.tuples(st.sampled_from([5, 8, 50]), st.integers(1, 2)),
    rule=rules,
)
def test_any_traffic_equals_oracle(
    rows: list[tuple[int, int, int]],
    blocks: int,
    seqs: int,
    build: Any,
    transfer: Transfer,
    ranks: int,
    sharing: tuple[int, int],
    rule: dict[str, Any],
) -> None:
    """Whatever arrives and shares, ties included, leaping equals stepping and every law holds."""
    rows.sort()
    batching = Batching(kv_blocks=blocks, max_num_seqs=seqs, max_num_batched_tokens=64, **rule)
    deployment = spread(build(2, batching=batching, transfer=transfer), ranks)
    load = traffic(*zip(*[(0.1 * t, i, o) for t, i, o in rows], strict=True))
    both(deployment, shared(load, *sharing))


@settings(max_examples=150)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 8), st.integers(1, 24), st.integers(1, 70)),
        min_size=6,
        max_size=30,
    ),
    blocks=st.integers(94, 130),
    mixed=st.booleans(),
    words=st.integers(1, 2),
    rule=rules,
)
def test_ties_under_pressure_equal_oracle(
    rows: list[tuple[int, int, int]], blocks: int, mixed: bool, words: int, rule: dict[str, Any]
) -> None:
    """With every event on one grid and blocks of one token, each tie is decided alike."""
    rows.sort()
    batching = Batching(
        kv_blocks=blocks, block_size=1, max_num_batched_tokens=40, max_num_seqs=16, **rule
    )
    latency = LinearLatency(base=0.25, per_seq=0.0, per_context=0.0, per_token=0.0, per_pair=0.0)
    change = {"batching": batching, "latency": latency, **INSTANT_LINKS}
    deployment = colocated(1, **change) if mixed else disaggregated(2, 1, **change)
    load = traffic(*zip(*[(0.25 * t, i, o) for t, i, o in rows], strict=True))
    both(deployment, shared(load, 2, words), interval_s=0.25)


def test_laws_hold_at_every_event() -> None:
    """Each block is counted once, by whom it is held or as idle, after each single event."""
    for deployment in (
        disaggregated(2, 2, batching=TIGHT),
        colocated(2, batching=TIGHT),
        spread(colocated(2, batching=TIGHT), 3),
        disaggregated(2, 2, batching=TIGHT, transfer=Transfer(release="idle")),
        colocated(2, batching=FIRST),
    ):
        load = shared(poisson_traffic(60, 40, 120, 40))
        simulation = Simulation(deployment, load, RunOptions())
        while simulation.done < simulation.ledger.size:
            simulation.step()
            audit(simulation, simulation.record(sample=False))
            for worker in simulation.workers:
                assert worker.cache is not None
                check_tree(worker.cache)


def test_idle_blocks_that_leave_no_room_are_told() -> None:
    """What is cached and what is held never need more than there is."""
    simulation = Simulation(
        colocated(batching=TIGHT), shared(poisson_traffic(9, 9, 99, 9)), RunOptions()
    )
    record = simulation.run()
    cache = simulation.workers[0].cache
    assert isinstance(cache, PrefixCache)
    cache.idle += 1000
    with pytest.raises(Exception, match=r"has 1\d* idle blocks cached beside 0 of 90"):
        audit(simulation, record)


@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_without_ids_or_caches_nothing_changes(build: Any) -> None:
    """Caches without ids, and ids without caches, give the same bits as neither."""
    load = poisson_traffic(200, 60, 120, 60)
    deployment = build(2, batching=TIGHT)
    plain = both(deployment, load)
    bare = uncached(deployment)
    for one in (run(bare, load, RunOptions(sample_interval_s=0.37)), both(bare, shared(load))):
        assert found(one) == 0
        for name, column in plain.requests.items():
            np.testing.assert_array_equal(column, one.requests[name], err_msg=name)
        assert one.workers == plain.workers


def uncached(deployment: Deployment) -> Deployment:
    """Return the deployment without prefix caches."""
    pools = [
        replace(pool, batching=replace(pool.batching, prefix_cache=False))
        for pool in deployment.pools
    ]
    return replace(deployment, pools=tuple(pools))


def seconds(chunk: int, before: int) -> float:
    """Return the seconds of a step of the linear latency model that computes one chunk."""
    pairs = chunk * before + chunk * (chunk + 1) // 2
    return 0.010 + 1e-5 * chunk + 1e-9 * pairs


def test_what_is_cached_is_attended_to_but_not_computed() -> None:
    """The second of two prompts with 400 of 500 tokens in common computes 100 after 400."""
    load = prompts([0.0, 1.0, 2.0], [[0, 1, 2, 3, 4], [0, 1, 2, 3, 9], [7, 8]])
    batching = Batching(block_size=10)
    record = both(colocated(batching=batching), load)
    columns = record.requests
    assert columns["cached_tokens"].tolist() == [0, 400, 0]
    taken = columns["prefill_end_s"] - columns["prefill_start_s"]
    expected = [seconds(500, 0), seconds(100, 400), seconds(200, 0)]
    np.testing.assert_allclose(taken, expected, rtol=1e-12)
    assert record.workers[0].prefill_tokens == 500 + 100 + 200
    assert record.workers[0].found_tokens == 400
    spared = seconds(500, 0) - seconds(100, 400)
    assert record.workers[0].spared_s == pytest.approx(spared, rel=1e-9)


def test_what_many_steps_would_have_computed() -> None:
    """A prefix of several steps is spared their seconds, chunk by chunk."""
    batching = Batching(block_size=10, max_num_batched_tokens=300)
    load = prompts([0.0, 1.0], [list(range(12)), [*range(9), 20, 21, 22]])
    record = both(colocated(batching=batching), load)
    spared = seconds(300, 0) + seconds(300, 300) + seconds(300, 600)
    assert record.workers[0].spared_s == pytest.approx(spared, rel=1e-9)
    taken = record.requests["prefill_end_s"] - record.requests["prefill_start_s"]
    assert taken[0] - taken[1] == pytest.approx(spared, rel=1e-9)


def test_at_least_a_token_is_computed() -> None:
    """A prompt that is all there has the block of its last token computed anew."""
    load = prompts([0.0, 1.0], [[0, 1], [0, 1]])
    for size, left in ((1, 1), (10, 10), (16, 200 - 192), (150, 50), (300, 200)):
        record = both(colocated(batching=Batching(block_size=size)), load)
        assert record.requests["cached_tokens"].tolist() == [0, 200 - left]


def test_prompts_that_run_side_by_side_hold_their_prefix_once() -> None:
    """Of two prompts computed one after the other while both decode, the second holds its tail."""
    load = prompts([0.0, 0.1], [[0, 1, 2, 3], [0, 1, 2, 9]], 2000)
    record = both(colocated(batching=Batching(block_size=10)), load, interval_s=0.2)
    at = np.searchsorted(record.timeline["time_s"], [0.05, 0.25])
    first, second = record.timeline["kv_blocks"][at, 0]
    assert second - first < 15  # ten blocks of its own, and what both decoded meanwhile


def test_caching_yields_to_running_sequences() -> None:
    """A cache as large as the memory: what it has goes as soon as a request needs the room."""
    batching = Batching(block_size=10, kv_blocks=60)
    load = prompts([0.0, 1.0, 2.0, 3.0], [[0, 1, 2, 3], [5, 6, 7, 8], [0, 1, 2, 9], [5, 6]])
    record = both(colocated(batching=batching), load)
    # Prompt 1 takes the 20 blocks at the end of prompt 0; prompt 2 finds 20 of 30 left of it, and
    # the 20 it lacks are the end of prompt 1. Prompt 3 computes its last block, for which the
    # oldest idle one goes: that very block of prompt 1.
    assert record.requests["cached_tokens"].tolist() == [0, 0, 200, 190]
    assert record.workers[0].evicted_blocks == 20 + 20 + 1


def test_the_decode_worker_is_sent_what_it_lacks() -> None:
    """KV that a decode worker still has of an earlier prompt does not cross the wire again."""
    load = prompts([0.0, 1.0], [[0, 1, 2, 3], [0, 1, 2, 9]], 5)
    whole = run(disaggregated(1, 1, batching=Batching(block_size=10)), load, RunOptions())
    apart = run(uncached(disaggregated(1, 1, batching=Batching(block_size=10))), load, RunOptions())
    sent = [record.timeline["sent_bytes"][-1, 0] for record in (whole, apart)]
    assert sent[0] == pytest.approx(sent[1] * (400 + 100) / 800, rel=1e-12)
    assert [info.kept_tokens for info in whole.workers] == [0, 300]


def test_a_conversation_finds_its_answers() -> None:
    """A second turn finds the first's prompt and answer on the worker that decoded it."""
    load = traffic([0.0, 5.0], [200, 400], [100, 5])
    ids = prompt_blocks([(200, [0, 1]), (400, [0, 1, 2, 3])], 100, [1, -1])
    load = replace(load, blocks=ids)
    batching = Batching(block_size=10)
    record = both(colocated(batching=batching), load)
    assert record.requests["cached_tokens"].tolist() == [0, 290]  # of 299 that have KV
    record = both(disaggregated(1, 1, batching=batching), load)
    assert record.requests["cached_tokens"].tolist() == [0, 200]
    assert [info.kept_tokens for info in record.workers] == [0, 290]


def test_a_worker_that_comes_again_has_nothing() -> None:
    """A worker that died, or stopped and was started again, has lost its cache."""
    load = prompts([0.0, 1.0, 3.0], [[0, 1], [0, 1], [0, 1]])
    base = colocated(batching=Batching(block_size=10))
    for changes in (
        [Change(at_s=2.0, pool="mixed", restart=1)],
        [Change(at_s=2.0, pool="mixed", fail=1)],
        [Change(at_s=2.0, pool="mixed", workers=0), Change(at_s=2.5, pool="mixed", workers=1)],
    ):
        plan = Elastic(changes=tuple(changes), startup=StartUp(seconds=0.1))
        record = run(replace(base, elastic=plan), load, RunOptions())
        assert record.requests["cached_tokens"].tolist() == [0, 190, 0], changes


def test_blocks_are_of_all_requests() -> None:
    """Ids of fewer requests than there are cannot be meant."""
    load = prompts([0.0, 1.0], [[0, 1], [0, 1]])
    with pytest.raises(ConfigError, match="arrival_s and blocks differ in length"):
        replace(traffic([0.0], 10, 5), blocks=load.blocks)
