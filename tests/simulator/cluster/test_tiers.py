"""Memories beneath prefix caches: leaping equals stepping, laws hold, loads take their time."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from builders import (
    A_MODEL,
    LinearLatency,
    colocated,
    disaggregated,
    poisson_traffic,
    prompt_blocks,
    shared,
    spread,
    traffic,
)
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from test_elastic import BATCHINGS as RULES
from test_elastic import DRAINS, elastic
from test_elastic import plans as drawn_plans
from test_leavers import CLIENTS, audited, compared
from test_oracle import BATCHINGS, both

from simulator.cache_tiers import POLICIES, CacheTiers, Prefetch, Tier
from simulator.clients import Clients
from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.deployment import Batching, Deployment
from simulator.elastic import Change
from simulator.errors import ConfigError, InvariantError
from simulator.layout import Precision
from simulator.policies.local_prefill import PrefixBased
from simulator.policies.routing import RoundRobin
from simulator.record import RunRecord

EXAMPLES = int(os.environ.get("DISAGGSIM_TIERS_EXAMPLES", "40"))
"""Runs to draw; set the variable to thousands for a night's run."""

BLOCK = A_MODEL.kv_bytes_per_token(Precision().kv_bytes) * 10
"""Bytes of a block of ten tokens."""

SMALL = Batching(block_size=10, kv_blocks=60, max_num_batched_tokens=1000)


def memory(blocks: float = 10_000, seconds: float = 0.001, **changes: Any) -> Tier:
    """Return a memory for so many blocks of ten tokens, each of which takes ``seconds`` to load."""
    gib = (blocks + 0.5) * BLOCK / 2**30
    return Tier(gib=gib, gb_per_s=BLOCK / seconds / 1e9, **changes)


def kept(deployment: Deployment, **tiers: Tier) -> Deployment:
    """Return a deployment with memories beneath its caches."""
    return replace(deployment, cache_tiers=CacheTiers(**tiers))


def raised(deployment: Deployment, host: Tier, spec: Prefetch, **tiers: Tier) -> Deployment:
    """Return a deployment whose prompts are brought up to host memory as they queue."""
    return replace(deployment, cache_tiers=CacheTiers(host=host, prefetch=spec, **tiers))


def prompts(
    arrivals: Sequence[float], ids: Sequence[Sequence[int]], answers: Sequence[int] | int = 1
) -> Traffic:
    """Return prompts with these ids of 100 tokens each."""
    load = traffic(arrivals, [100 * len(each) for each in ids], answers)
    return replace(load, blocks=prompt_blocks([(100 * len(each), each) for each in ids], 100))


def hits(record: RunRecord) -> dict[str, int]:
    """Return the tokens that were loaded, by memory."""
    return {tier.name: tier.hit_tokens for tier in record.tiers}


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
@pytest.mark.parametrize("ranks", [1, 3])
def test_batching_equals_oracle(build: Any, batching: Batching, ranks: int) -> None:
    """Under memory pressure, preemption and every admission rule the columns agree."""
    base = spread(build(3, batching=batching, router=RoundRobin()), ranks)
    tier = Tier(gib=0.1, gb_per_s=0.1, worker_gb_per_s=0.05, latency_s=0.01)
    load = shared(poisson_traffic(200, 60, 120, 60))
    record = both(kept(base, store=tier), load)
    assert sum(hits(record).values()) > 0
    plain = run(base, load, RunOptions())
    found, before = (r.requests["cached_tokens"].sum() for r in (record, plain))
    assert found > before


@given(data=st.data(), patient=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_whatever_happens_while_prompts_load(data: st.DataObject, patient: bool, seed: int) -> None:
    """Workers come, die, flip and drain, clients leave: laws hold at every event, ``==`` too."""
    build = data.draw(st.sampled_from([disaggregated, colocated]))
    roles = ("prefill", "decode") if build is disaggregated else ("mixed",)
    base = build(3, batching=data.draw(RULES), router=RoundRobin())
    plan, drain = data.draw(drawn_plans(roles)), data.draw(DRAINS)
    retries = data.draw(st.sampled_from([0, 3]))
    base = elastic(base, *plan, drain=drain, max_retries=retries)
    tier = Tier(
        gib=data.draw(st.sampled_from([1e-4, 1.0])),
        gb_per_s=data.draw(st.sampled_from([1e-3, 1e-2, 1.0])),
        latency_s=data.draw(st.sampled_from([0.0, 0.05])),
        ttl_s=data.draw(st.sampled_from([None, 0.5])),
        write_gb_per_s=data.draw(st.sampled_from([None, 1e-3, 1e-2])),
    )
    load = shared(poisson_traffic(45, 9.0, 80, 50, seed), seed=seed)
    load = replace(load, clients=Clients() if patient else data.draw(CLIENTS))
    note(f"{seed=} {tier} {load.clients} {base.elastic}")
    options = RunOptions(seed=seed)
    compared(kept(base, host=tier), load, options)
    audited(kept(base, host=tier), load, options)


def test_a_load_takes_its_time_on_the_wire_and_others_go_on() -> None:
    """Of a prompt of 500 tokens 400 come from the host: 40 blocks of 1 ms and 50 ms of latency.

    Meanwhile another prompt is computed; what is loaded is not computed, but attended to.
    """
    ids = [[0, 1, 2, 3], [7, 8, 9, 10, 11, 12, 13, 14], [0, 1, 2, 3, 4], [6]]
    load = prompts([0.0, 1.0, 2.0, 2.001], ids)
    batching = replace(SMALL, kv_blocks=80)  # the second prompt takes all of it
    record = both(kept(colocated(1, batching=batching), host=memory(latency_s=0.05)), load)
    columns = record.requests
    assert columns["cached_tokens"].tolist() == [0, 0, 400, 0]
    assert hits(record) == {"host": 400}
    loaded = 2.0 + 40 * 0.001 + 0.05
    pairs = 100 * 400 + 100 * 101 // 2
    step = 0.010 + 1e-5 * 100 + 1e-9 * pairs
    assert columns["prefill_start_s"][2] == 2.0
    assert columns["first_token_s"][2] == pytest.approx(loaded + step, rel=1e-9)
    assert columns["first_token_s"][3] < loaded
    assert record.workers[0].prefill_tokens == 400 + 800 + 100 + 100


def test_loads_share_what_they_cross() -> None:
    """Two workers that load at once from one store take twice as long, each at its own cap not."""
    ids = [[0, 1], [5, 6, 7], [8, 9, 10], [0, 1, 2], [0, 1, 3]]
    load = prompts([0.0, 1.0, 1.0, 3.0, 3.0], ids)
    batching = replace(SMALL, kv_blocks=30)  # one prompt's
    base = colocated(2, batching=batching, router=RoundRobin())
    alone = 0.010 + 1e-5 * 100 + 1e-9 * (100 * 200 + 100 * 101 // 2)
    shares = memory(seconds=0.01)
    capped = memory(seconds=0.001, worker_gb_per_s=BLOCK / 0.02 / 1e9)
    for tier in (shares, capped):
        record = both(kept(base, store=tier), load)
        assert hits(record) == {"store": 400}
        waits = record.requests["first_token_s"][3:] - 3.0
        assert waits.tolist() == pytest.approx([20 * 0.02 + alone] * 2, rel=1e-9)


def test_another_worker_s_prompt_is_loaded_and_outlives_it() -> None:
    """What one worker computed others load, even when it is gone."""
    load = prompts([0.0, 5.0, 6.0], [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 4]])
    base = elastic(colocated(2, router=RoundRobin()), Change(at_s=1.0, pool="mixed", fail=1))
    batching = replace(SMALL, kv_blocks=100)
    base = replace(base, pools=(replace(base.pools[0], batching=batching),))
    bare = run(base, load, RunOptions())
    record = both(kept(base, store=memory()), load)
    assert bare.requests["cached_tokens"].tolist()[:2] == [0, 0]
    assert record.requests["cached_tokens"].tolist() == [0, 300, 300]


def test_eviction_writes_what_makes_room_and_the_next_memory_takes_what_it_drops() -> None:
    """A prefill worker's first prompt goes to the host, from there to the SSD, and comes back."""
    load = prompts([0.0, 1.0, 2.0, 3.0], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2]])
    batching = replace(SMALL, kv_blocks=60)
    base = disaggregated(1, 1)
    pools = tuple(replace(pool, batching=batching) for pool in base.pools)
    base = replace(base, pools=pools)
    tiers = {
        "host": memory(45, write="eviction"),
        "ssd": memory(1000, seconds=0.002, write="eviction"),
    }
    record = both(kept(base, **tiers), load)
    assert hits(record)["ssd"] > 0
    assert sum(hits(record).values()) == record.requests["cached_tokens"][3] == 290
    through = both(kept(base, host=memory(45), ssd=memory(1000)), load)
    both_domains = 2 * 120 * BLOCK  # of the prefill and of the decode worker
    assert through.tiers[1].written_bytes == pytest.approx(both_domains)
    assert through.requests["cached_tokens"][3] == 290


def test_what_is_not_used_for_long_goes() -> None:
    """Of what was written at 0 s and used in part at 1 s a memory has at 2 s what its TTL says."""
    ids = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1], [8, 9, 10, 11], [0, 1, 2, 3]]
    load = prompts([0.0, 0.5, 1.0, 1.5, 2.0], ids)
    batching = replace(SMALL, kv_blocks=40)  # one prompt's
    for ttl, found in ((None, 390), (1.5, 200), (0.9, 0)):
        base = kept(colocated(1, batching=batching), host=memory(ttl_s=ttl))
        assert both(base, load).requests["cached_tokens"][4] == found, ttl


def test_a_law_notices_bytes_that_are_lost() -> None:
    """Loaded bytes are under way, delivered or dropped."""
    deployment = kept(colocated(2, router=RoundRobin()), host=memory())
    simulation = Simulation(deployment, shared(poisson_traffic(50, 9, 200, 9)), RunOptions())
    record = simulation.run()
    assert simulation.tiers.started_bytes > 0
    audit(simulation, record)
    simulation.tiers.delivered_bytes -= BLOCK
    with pytest.raises(InvariantError, match="link accounting"):
        audit(simulation, record)


def test_without_ids_or_caches_there_is_nothing() -> None:
    """Neither the clock nor the record knows of memories that nobody can use."""
    plain = poisson_traffic(30, 9, 99, 9)
    for base, load in (
        (colocated(1), plain),
        (colocated(1, batching=Batching(prefix_cache=False)), shared(plain)),
    ):
        assert run(kept(base, host=memory()), load, RunOptions()).tiers == ()


def test_bad_memories_are_told() -> None:
    """In one sentence with the key."""
    for bad, words in (
        ({"gib": 0.0}, "gib must be above 0 but got 0.0"),
        ({"gb_per_s": float("inf")}, "gb_per_s must be above 0 but got inf"),
        ({"latency_s": -1.0}, "latency_s must be at least 0 s but got -1.0"),
        ({"write_gb_per_s": 0.0}, "write_gb_per_s must be above 0 but got 0.0"),
        ({"ttl_s": float("nan")}, "ttl_s must be above 0 but got nan"),
        ({"write": "never"}, "write must be one of through, eviction but got 'never'"),
    ):
        with pytest.raises(ConfigError, match=f"cache tier: {words}"):
            Tier(**{"gib": 1.0, "gb_per_s": 1.0, **bad})
    load = shared(poisson_traffic(9, 9, 99, 9))
    evicting = memory(write="eviction")
    for base in (colocated(1), disaggregated(1, 1, local_prefill=PrefixBased())):
        with pytest.raises(ConfigError, match=r"cache_tiers: host\.write must be through where"):
            Simulation(kept(base, host=evicting), load, RunOptions())
    pools = disaggregated(1, 1).pools
    sizes = (pools[0], replace(pools[1], batching=Batching(block_size=32)))
    kinds = (pools[0], replace(pools[1], precision=Precision(kv="fp8")))
    for apart, words in ((sizes, "one block_size but got 16, 32"), (kinds, "one precision of KV")):
        with pytest.raises(ConfigError, match=f"cache_tiers: needs pools with {words}"):
            Simulation(
                kept(replace(disaggregated(1, 1), pools=apart), host=memory()), load, RunOptions()
            )


def test_what_is_loaded_was_used_then() -> None:
    """A store that was written at 0.4 s, and read in part at 1.2 s, has that part at 2 s."""
    ids = [[0, 1, 2, 3], [20, 21, 22, 23], [4, 5, 6, 7], [0, 1], [0, 1, 2, 3]]
    load = prompts([0.0, 0.2, 0.4, 1.2, 2.0], ids)
    base = disaggregated(2, 1, router=RoundRobin())
    batching = replace(SMALL, kv_blocks=40)  # one prompt's
    sender, taker = base.pools
    base = replace(base, pools=(replace(sender, batching=batching), taker))
    taker = replace(taker, batching=replace(taker.batching, block_size=10))
    base = replace(base, pools=(base.pools[0], taker))
    for ttl, found in ((None, 390), (1.0, 190)):
        record = both(kept(base, store=memory(write="eviction", ttl_s=ttl)), load)
        assert record.requests["cached_tokens"][3:].tolist() == [190, found], ttl


# --- writing -----------------------------------------------------------------------------------


def test_blocks_are_found_when_they_are_written() -> None:
    """A prompt of 40 blocks takes 0.4 s to be written; another worker's finds it then, not before.

    Two that write at once share what the store takes, each at most what a worker has.
    """
    pace = BLOCK / 0.01 / 1e9
    alone = memory(write_gb_per_s=pace)
    shared_ways = memory(write_gb_per_s=2 * pace, worker_gb_per_s=pace)
    late = memory(write_gb_per_s=pace, latency_s=0.05)
    base = colocated(4, batching=replace(SMALL, kv_blocks=50), router=RoundRobin())
    for tier, at_once, seconds in (
        (alone, 1, 0.4),
        (alone, 2, 0.8),
        (shared_ways, 2, 0.4),
        (late, 1, 0.45),
    ):
        ids = [[0, 1, 2, 3], [5, 6, 7, 8]][:at_once]
        for after, found in ((-1e-3, 0), (1e-3, 390)):
            load = prompts([*[0.0] * at_once, seconds + after], [*ids, ids[0]])
            record = both(kept(base, store=tier), load)
            assert record.requests["cached_tokens"][at_once] == found, (tier, at_once, after)


def test_a_memory_writes_what_it_drops_and_a_dead_worker_writes_no_more() -> None:
    """What the host drops is in the SSD 0.4 s later; what a dead worker had begun is lost."""
    ids = [[0, 1, 2, 3], [4, 5, 6, 7], [8], [0, 1, 2, 3]]
    slow = BLOCK / 0.01 / 1e9
    ssd = memory(write="eviction", write_gb_per_s=slow)
    batching = replace(SMALL, kv_blocks=41)
    base = colocated(1, batching=batching)
    for when, found in ((1.2, 0), (1.5, 390)):
        load = prompts([0.0, 1.0, when - 0.1, when], [*ids[:2], [8], ids[3]])
        record = both(kept(base, host=memory(40), ssd=ssd), load)
        assert (record.tiers[1].hit_tokens > 0) == (found > 0), when
    load = prompts([0.0, 2.0], [ids[0], ids[0]])
    dies = elastic(colocated(2, router=RoundRobin()), Change(at_s=0.2, pool="mixed", fail=1))
    record = both(kept(dies, store=memory(write_gb_per_s=slow)), load)
    assert record.requests["cached_tokens"].tolist() == [0, 0]


# --- prefetching -------------------------------------------------------------------------------

EAGER = Prefetch(policy="best_effort", threshold_tokens=0, host_share=1.0)
PATIENT = replace(EAGER, policy="wait_complete")


def waiting(spec: Prefetch, host: float = 45, seconds: float = 0.01) -> RunRecord:
    """Return what becomes of a prompt of 400 tokens in a store, behind one that computes.

    The store gives a block of ten tokens in ``seconds``, the host in 1 ms. The fifth prompt, of
    500 tokens, arrives at 3 s, when the fourth began to be computed.
    """
    ids = [[0, 1, 2, 3], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [0, 1, 2, 3, 4]]
    load = prompts([0.0, 1.0, 2.0, 3.0, 3.0], ids)
    batching = replace(SMALL, kv_blocks=50, max_num_batched_tokens=400)  # one prompt's
    base = colocated(1, batching=batching, latency=LinearLatency(base=0.1))
    return both(raised(base, memory(host), spec, store=memory(seconds=seconds)), load)


def test_best_effort_uses_what_has_come_and_computes_the_rest() -> None:
    """Of 40 blocks of 10 ms those have come that the step of the prompt before took.

    Then they are loaded from the host, and a ninth of the tenth block was in vain.
    """
    record = waiting(EAGER)
    columns = record.requests
    began = columns["prefill_start_s"][4] - 3.0
    came = int(began / 0.01)
    assert 5 < came < 40
    assert columns["cached_tokens"].tolist() == [0, 0, 0, 0, 10 * came]
    host, store = record.tiers
    assert (host.hit_tokens, store.hit_tokens) == (10 * came, 0)
    assert store.prefetched_tokens == 10 * came
    assert store.prefetched_bytes == pytest.approx(began / 0.01 * BLOCK)
    assert store.prefetch_used_bytes == pytest.approx(came * BLOCK)
    assert host.prefetched_bytes == 0.0


def test_who_waits_for_all_is_begun_when_all_has_come() -> None:
    """After 40 blocks of 10 ms; those of its patience begin when it is over."""
    begun = [
        waiting(spec).requests["prefill_start_s"][4] - 3.0
        for spec in (
            PATIENT,
            replace(EAGER, policy="timeout", timeout_s=0.3, timeout_s_per_1024_tokens=0.0),
            replace(EAGER, policy="timeout", timeout_s=0.05, timeout_s_per_1024_tokens=0.512),
            replace(EAGER, policy="timeout", timeout_s=9.0, timeout_max_s=0.35),
            replace(EAGER, policy="timeout", timeout_s=9.0),
        )
    ]
    assert begun == pytest.approx([0.4, 0.3, 0.25, 0.35, 0.4])
    record = waiting(PATIENT)
    assert record.requests["cached_tokens"][4] == 400
    assert record.tiers[1].prefetch_used_bytes == pytest.approx(40 * BLOCK)


def test_others_pass_a_prompt_that_waits() -> None:
    """Those behind it are begun, and it goes before those that came later when all has come."""
    ids = [[0, 1, 2, 3], [5, 6, 7, 8], [0, 1, 2, 3], [9], [10, 11, 12, 13], [14, 15]]
    load = prompts([0.0, 1.0, 2.0, 2.001, 2.25, 2.26], ids)
    batching = replace(SMALL, kv_blocks=50, max_num_seqs=1)
    base = colocated(1, batching=batching, latency=LinearLatency(base=0.1))
    record = both(raised(base, memory(40), PATIENT, store=memory(seconds=0.01)), load)
    starts = record.requests["prefill_start_s"][2:]
    assert starts[1] == 2.001
    assert starts[2] == 2.25  # 29 blocks are there at 2.29: ten the worker still had
    assert 2.35 < starts[0] < starts[3]


def test_too_little_and_what_has_no_room_is_not_brought_up() -> None:
    """A prompt of fewer tokens than the threshold, or what exceeds the host's share."""
    assert waiting(replace(PATIENT, threshold_tokens=401)).tiers[1].prefetched_tokens == 0
    assert waiting(replace(PATIENT, threshold_tokens=400)).tiers[1].prefetched_tokens == 400
    half = waiting(replace(PATIENT, host_share=0.5))
    assert half.tiers[1].prefetched_tokens == 220  # of a host of 45 blocks
    assert half.requests["cached_tokens"][4] == 220
    assert waiting(replace(PATIENT, host_share=0.5, threshold_tokens=221)).tiers[1].hit_tokens == 0


def test_without_a_queue_best_effort_brings_up_nothing() -> None:
    """And what is not brought up is computed, not loaded from afar."""
    load = prompts([0.0, 1.0, 2.0], [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]])
    batching = replace(SMALL, kv_blocks=40)
    base = colocated(1, batching=batching)
    record = both(raised(base, memory(40), EAGER, store=memory()), load)
    assert record.requests["cached_tokens"].tolist() == [0, 0, 0]
    assert record.tiers[1].prefetched_bytes == 0.0
    assert both(kept(base, host=memory(40), store=memory()), load).requests["cached_tokens"][2]


def test_a_worker_brings_up_one_prompt_after_the_other() -> None:
    """The first in 0.2 s, the second in 0.2 s more; two workers share what the store gives."""
    ids = [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1], [2, 3]]
    load = prompts([0.0, 1.0, 2.0, 3.0, 4.0, 4.0], ids)
    for workers, room, begun in ((1, 40, [0.19, 0.38]), (2, 20, [0.38, 0.38])):
        base = colocated(workers, batching=replace(SMALL, kv_blocks=20), router=RoundRobin())
        record = both(raised(base, memory(room), PATIENT, store=memory(seconds=0.01)), load)
        starts = record.requests["prefill_start_s"][4:] - 4.0
        assert starts.tolist() == pytest.approx(begun, rel=1e-9), workers


def test_a_prompt_that_leaves_takes_along_what_came() -> None:
    """Its bytes are counted as prefetched in vain, and its room is free for the next."""
    ids = [[0, 1, 2, 3], [5, 6, 7, 8], [0, 1, 2, 3], [0, 1, 2, 3]]
    load = prompts([0.0, 1.0, 2.0, 3.0], ids)
    load = replace(load, clients=Clients(first_token_timeout_s=0.2))
    base = colocated(1, batching=replace(SMALL, kv_blocks=50))
    record = both(raised(base, memory(40), PATIENT, store=memory(seconds=0.01)), load)
    (host, store) = record.tiers
    assert record.requests["status"].tolist() == [1, 1, 3, 3]
    assert store.prefetched_bytes == pytest.approx(2 * 20 * BLOCK)
    assert store.prefetch_used_bytes == 0.0
    assert host.hit_tokens == 0


@given(data=st.data(), patient=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_whatever_happens_while_prompts_are_brought_up(
    data: st.DataObject, patient: bool, seed: int
) -> None:
    """Workers come, die, flip and drain, clients leave: laws hold at every event, ``==`` too."""
    build = data.draw(st.sampled_from([disaggregated, colocated]))
    roles = ("prefill", "decode") if build is disaggregated else ("mixed",)
    batching = replace(data.draw(RULES), kv_blocks=60)
    base = build(3, batching=batching, router=RoundRobin())
    plan, drain = data.draw(drawn_plans(roles)), data.draw(DRAINS)
    retries = data.draw(st.sampled_from([0, 3]))
    base = elastic(base, *plan, drain=drain, max_retries=retries)
    spec = Prefetch(
        policy=data.draw(st.sampled_from(POLICIES)),
        threshold_tokens=data.draw(st.sampled_from([0, 20])),
        host_share=data.draw(st.sampled_from([0.5, 1.0])),
        timeout_s=data.draw(st.sampled_from([0.0, 0.1])),
        timeout_s_per_1024_tokens=data.draw(st.sampled_from([0.0, 1.0])),
    )
    slow = data.draw(st.sampled_from([1e-4, 1e-3, 1e-2]))
    store = Tier(
        gib=1.0,
        gb_per_s=slow,
        latency_s=data.draw(st.sampled_from([0.0, 0.05])),
        write_gb_per_s=data.draw(st.sampled_from([None, 1e-3, 1e-2])),
    )
    host = Tier(gib=data.draw(st.sampled_from([1e-4, 1e-3])), gb_per_s=1.0)
    load = shared(poisson_traffic(45, 30.0, 80, 30, seed), words=1, seed=seed)
    load = replace(load, clients=Clients() if patient else data.draw(CLIENTS))
    note(f"{seed=} {host} {store} {spec} {load.clients} {base.elastic}")
    options = RunOptions(seed=seed)
    deployment = raised(base, host, spec, store=store)
    compared(deployment, load, options)
    audited(deployment, load, options)


def test_a_law_notices_room_that_is_set_aside_for_nobody() -> None:
    """At the end no memory keeps room for prompts."""
    base = raised(colocated(2, router=RoundRobin()), memory(45), PATIENT, store=memory())
    simulation = Simulation(base, shared(poisson_traffic(50, 9, 200, 9)), RunOptions())
    record = simulation.run()
    audit(simulation, record)
    simulation.tiers.stores[0].reserved = 1
    with pytest.raises(InvariantError, match="still has 1 blocks set aside"):
        audit(simulation, record)


def test_bad_prefetches_are_told() -> None:
    """In one sentence with the key."""
    for bad, words in (
        ({"policy": "eager"}, "policy must be one of best_effort, wait_complete, timeout but got"),
        ({"threshold_tokens": -1}, "threshold_tokens must be at least 0 but got -1"),
        ({"host_share": 0.0}, "host_share must be above 0 and at most 1 but got 0.0"),
        ({"timeout_s": None}, "policy timeout needs timeout_s, in seconds, but got None"),
        ({"timeout_s": -1.0}, "timeout_s must be at least 0 s but got -1.0"),
        ({"timeout_max_s": float("inf")}, "timeout_max_s must be at least 0 s but got inf"),
    ):
        with pytest.raises(ConfigError, match=f"prefetch: {words}"):
            Prefetch(**bad)
    with pytest.raises(ConfigError, match="prefetch needs host memory to bring blocks up to"):
        CacheTiers(store=memory(), prefetch=EAGER)
    with pytest.raises(ConfigError, match="prefetch needs an ssd or a store to bring blocks from"):
        CacheTiers(host=memory(), prefetch=EAGER)
