"""Prompts that their decode worker computes: laws, leaping equals stepping, and where they went."""

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from builders import (
    LinearLatency,
    colocated,
    disaggregated,
    poisson_traffic,
    prompt_blocks,
    shared,
    traffic,
)
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from test_elastic import BATCHINGS, DRAINS, TRANSFERS, assert_each_token_was_seen_once, elastic
from test_elastic import plans as drawn_plans
from test_leavers import CLIENTS, audited, compared
from test_oracle import BATCHINGS as RULES
from test_oracle import both

from simulator.clients import Clients
from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.cluster.workers.batch import BatchWorker
from simulator.deployment import Batching, Deployment, Transfer
from simulator.elastic import Change, Drain
from simulator.errors import ConfigError, InvariantError
from simulator.policies.classes import Classes, ServiceClass
from simulator.policies.local_prefill import (
    ArrowRedirect,
    ConditionalDisagg,
    ConvertibleDecoders,
    LocalPrefill,
    PrefixBased,
    Prompt,
    SplitwiseMixed,
)
from simulator.policies.prefixes import Beliefs, KvAware
from simulator.policies.routing import FirstFitSlo, RoundRobin
from simulator.record import STATUSES, TIMES, RunRecord

EXAMPLES = int(os.environ.get("DISAGGSIM_BYPASS_EXAMPLES", "40"))
"""Runs to draw; set the variable to thousands for a night's run."""

ALL = PrefixBased(non_cached_tokens=0)
SHORT = PrefixBased(non_cached_tokens=80)
BUSY = ConditionalDisagg(below_tokens=40, prefill_busy=0.5, decode_busy=0.7)
CACHED = ConditionalDisagg(below_tokens=60)
COMPLETED = STATUSES.index("completed")


@dataclass(frozen=True)
class Always:
    """One answer to every question."""

    answer: Any

    def local(self, seen: Prompt) -> Any:  # noqa: ARG002 - a policy's
        """Return it."""
        return self.answer


def staying(policy: LocalPrefill, *pools: int, **changes: Any) -> Deployment:
    """Return two pools some of whose prompts stay at decode workers."""
    return disaggregated(*pools, local_prefill=policy, **changes)


def stayed(record: RunRecord) -> np.ndarray:
    """Return which requests a decode worker computed."""
    decoders = [worker.worker for worker in record.workers if worker.pool == "decode"]
    return np.isin(record.requests["prefill_worker"], decoders)


@pytest.mark.parametrize("policy", [SHORT, BUSY, CACHED], ids=["short", "busy", "cached"])
@pytest.mark.parametrize("batching", RULES.values(), ids=RULES.keys())
def test_batching_equals_oracle(batching: Batching, policy: LocalPrefill) -> None:
    """Under memory pressure and every admission rule the columns agree, of both ways to go."""
    deployment = staying(policy, 2, 2, batching=batching)
    record = both(deployment, shared(poisson_traffic(250, 50, 120, 60)))
    assert 0 < stayed(record).sum() < 250
    if batching.reserve == "prompt":
        assert record.requests["preemptions"].sum() > 0, "the case must exercise preemption"


@given(data=st.data(), patient=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_whatever_happens_while_prompts_stay(data: st.DataObject, patient: bool, seed: int) -> None:
    """Workers come, die, flip and drain, clients leave: laws hold at every event, ``==`` too."""
    policy = data.draw(st.sampled_from([ALL, SHORT, BUSY, CACHED]))
    change = {
        "batching": data.draw(BATCHINGS),
        "transfer": data.draw(TRANSFERS),
        "first_token": data.draw(st.sampled_from(["prefill", "decode"])),
    }
    plan, drain = data.draw(drawn_plans(("prefill", "decode"))), data.draw(DRAINS)
    retries = data.draw(st.sampled_from([0, 3]))
    whole = elastic(staying(policy, 2, 3, **change), *plan, drain=drain, max_retries=retries)
    load = poisson_traffic(45, 9.0, 80, 50, seed)
    load = replace(load, clients=Clients() if patient else data.draw(CLIENTS))
    if data.draw(st.booleans()):
        load = shared(load, seed=seed)
    note(f"{seed=} {policy} {load.clients} {change} {whole.elastic}")
    options = RunOptions(seed=seed)
    record = compared(whole, load, options)
    if (record.requests["status"] == COMPLETED).all():
        batching = whole.pools[1].batching
        exact = batching.piggyback or not record.requests["retries"].any()
        assert_each_token_was_seen_once(record, exact=exact)
    audited(whole, load, options)


@pytest.mark.parametrize("mode", ["pull", "push_layerwise"])
def test_nobody_stays_and_nothing_changes(mode: str) -> None:
    """A policy that is asked and always says no leaves no trace: not a draw, nor a belief."""
    load = shared(poisson_traffic(200, 50, 120, 60))
    base = disaggregated(
        3,
        3,
        router=KvAware(),
        decode_router=KvAware(beliefs=Beliefs()),
        transfer=Transfer(mode=mode),
    )
    one = run(base, load, RunOptions(seed=3))
    other = run(replace(base, local_prefill=Always(answer=False)), load, RunOptions(seed=3))
    for name, column in one.requests.items():
        np.testing.assert_array_equal(column, other.requests[name], err_msg=name)


def test_where_all_stay_decode_workers_are_mixed_ones() -> None:
    """With every prompt kept the decode pool is a mixed one, to the last bit of every moment."""
    batching = Batching(kv_blocks=90, max_num_seqs=24, max_num_batched_tokens=256)
    load = shared(poisson_traffic(250, 40, 120, 60))
    routers = {"router": RoundRobin(), "decode_router": RoundRobin()}
    here = both(staying(ALL, 1, 3, batching=batching, **routers), load)
    mixed = both(colocated(3, batching=batching, **routers), load)
    assert mixed.requests["preemptions"].any()
    for name in (*TIMES, "cached_tokens", "preemptions", "recomputed_tokens"):
        np.testing.assert_array_equal(here.requests[name], mixed.requests[name], err_msg=name)
    np.testing.assert_array_equal(here.gaps.counts, mixed.gaps.counts)
    np.testing.assert_array_equal(
        here.requests["decode_worker"], mixed.requests["decode_worker"] + 1
    )
    assert here.workers[0].steps == 0


def prompts(arrivals: list[float], ids: list[list[int]], answers: int) -> Traffic:
    """Return prompts with these ids of 100 tokens each."""
    load = traffic(arrivals, [100 * len(each) for each in ids], answers)
    return replace(load, blocks=prompt_blocks([(100 * len(each), each) for each in ids], 100))


def test_a_second_turn_stays_and_is_not_sent() -> None:
    """Of a prompt whose first 400 of 500 tokens were sent for another, 100 are computed there."""
    load = prompts([0.0, 1.0, 2.0], [[0, 1, 2, 3], [0, 1, 2, 3, 4], [7, 8, 9]], 3)
    deployment = staying(CACHED, 1, 1, batching=Batching(block_size=10))
    deployment = replace(deployment, local_prefill=ConditionalDisagg(below_tokens=200))
    record = both(deployment, load)
    columns = record.requests
    assert columns["prefill_worker"].tolist() == [0, 1, 0]
    assert columns["decode_worker"].tolist() == [1, 1, 1]
    assert columns["cached_tokens"].tolist() == [0, 400, 0]
    assert np.isnan(columns["transfer_end_s"]).tolist() == [False, True, False]
    assert [info.prefill_tokens for info in record.workers] == [400 + 300, 100]
    whole = both(replace(deployment, local_prefill=Always(answer=False)), load)
    sent, all_sent = (each.timeline["sent_bytes"][-1, 0] for each in (record, whole))
    assert sent == pytest.approx(all_sent * (400 + 300) / (400 + 100 + 300), rel=1e-12)
    # 10 ms, 100 new tokens behind 400: one step, with no wire in the way.
    pairs = 100 * 400 + 100 * 101 // 2
    expected = 0.010 + 1e-5 * 100 + 1e-9 * pairs
    assert columns["first_token_s"][1] - 1.0 == pytest.approx(expected, rel=1e-12)


def test_where_nobody_knows_or_there_is_nothing_to_know() -> None:
    """Without beliefs a cache is unknown, which keeps a prompt; without ids it is known empty."""
    load, plain = shared(poisson_traffic(30, 20, 200, 5)), poisson_traffic(30, 20, 200, 5)
    unknown = PrefixBased(beliefs=None)
    for policy, trace, share in (
        (unknown, load, 1.0),
        (unknown, plain, 1.0),
        (PrefixBased(), plain, (plain.input_tokens < 16).mean()),
    ):
        record = run(staying(policy), trace, RunOptions())
        assert stayed(record).mean() == share


def test_a_decode_router_s_own_beliefs_hold() -> None:
    """What a decode router believes already is what the policy is told."""
    load = prompts([0.0, 1.0], [[0, 1, 2, 3], [0, 1, 2, 3]], 1)
    forgets = KvAware(track_prefill=False, beliefs=Beliefs(by="routed", ttl_s=0.5))
    policy = ConditionalDisagg(below_tokens=200)
    batching = Batching(block_size=10)
    for router, stays in ((forgets, [False, False]), (RoundRobin(), [False, True])):
        deployment = staying(policy, 1, 1, decode_router=router, batching=batching)
        assert stayed(run(deployment, load, RunOptions())).tolist() == stays


def test_the_busy_are_spared() -> None:
    """A second prompt stays while the first has the prefill worker busy, and a third does not."""
    policy = ConditionalDisagg(below_tokens=0, prefill_busy=0.5, beliefs=None)
    batching = Batching(max_num_batched_tokens=1000)
    load = traffic([0.0, 0.001, 5.0], [800, 300, 300], 4)
    record = both(staying(policy, 1, 1, batching=batching), load)
    assert stayed(record).tolist() == [False, True, False]


def test_a_worker_that_dies_or_drains_lets_its_prompts_go() -> None:
    """What it computed begins anew elsewhere; what it had not begun is placed again."""
    load = traffic([0.0] * 12, 100, 40)
    batching = Batching(max_num_batched_tokens=100, max_num_seqs=4)
    base = staying(ALL, 1, 2, batching=batching)
    lost = both_of(elastic(base, Change(at_s=0.05, pool="decode", fail=1)), load)
    assert (lost.requests["status"] == COMPLETED).all()
    assert lost.requests["retries"].any()
    assert lost.requests["recomputed_tokens"].sum() > 0
    for mode in ("finish", "migrate"):
        change = Change(at_s=0.05, pool="decode", workers=1)
        moved = both_of(elastic(base, change, drain=Drain(mode=mode)), load)
        assert (moved.requests["status"] == COMPLETED).all()
        assert not moved.requests["retries"].any()
        apart = moved.requests["prefill_worker"] != moved.requests["decode_worker"]
        assert apart.any() == (mode == "migrate")


def test_a_client_leaves_before_its_token_is_computed_anew() -> None:
    """A prompt that stays holds up who was handed over: tokens and prompts still add up."""
    policy = ConditionalDisagg(below_tokens=50, below_share=1.1, beliefs=None)
    base = staying(policy, 1, 1, batching=Batching(piggyback=False))
    base = replace(base, transfer=replace(base.transfer, recomputes=True))
    load = traffic([0.0, 0.005, 0.010], [100, 40, 40], 5)
    load = replace(load, clients=Clients(first_token_timeout_s=0.02))
    record = both_of(base, load)
    assert record.requests["status"].tolist() == [STATUSES.index("failed"), COMPLETED, COMPLETED]
    assert not np.isnan(record.requests["decode_join_s"][0])


def both_of(deployment: Deployment, load: Traffic) -> RunRecord:
    """Return a run that steps like it leaps."""
    return compared(deployment, load, RunOptions())


def test_a_prompt_that_stays_has_room_for_its_steps() -> None:
    """Memory is planned for steps of the token budget, not for one token of each sequence."""
    small = Batching(max_num_batched_tokens=200_000)
    never, ever = (disaggregated(1, 1, batching=small), staying(ALL, 1, 1, batching=small))
    blocks = [
        [info.kv_blocks for info in run(each, traffic([0.0], 5, 5), RunOptions()).workers]
        for each in (never, ever)
    ]
    assert blocks[0][0] == blocks[1][0] == blocks[1][1] < blocks[0][1]


def test_a_prompt_handed_over_to_whom_it_stayed_with_is_told() -> None:
    """The law of the bypass notices."""
    simulation = Simulation(staying(ALL), poisson_traffic(9, 9, 99, 9), RunOptions())
    record = simulation.run()
    audit(simulation, record)
    record.requests["transfer_queue_enter_s"][4] = record.requests["prefill_start_s"][4]
    with pytest.raises(InvariantError, match=r"request 4 was handed over to worker \d, which"):
        audit(simulation, record)


def test_bad_deployments_and_answers_are_told() -> None:
    """In one sentence with the policy."""
    load = poisson_traffic(9, 9, 99, 9)
    with pytest.raises(
        ConfigError, match="local_prefill PrefixBased: needs prefill and decode pools"
    ):
        Simulation(replace(colocated(2), local_prefill=ALL), load, RunOptions())
    for answer in (None, 1, np.True_):
        wrong = staying(Always(answer=answer))
        with pytest.raises(ConfigError, match=r"local_prefill Always: answered .* for request 0"):
            run(wrong, load, RunOptions())
    late = PrefixBased(beliefs=Beliefs(delay_s=1.0))
    with pytest.raises(ConfigError, match=r"local_prefill PrefixBased: beliefs\.delay_s must be 0"):
        Simulation(staying(late), shared(load), RunOptions())


@dataclass(frozen=True)
class Names:
    """One worker, whatever is asked."""

    worker: Any

    def place(self, request: Any, prefill: Any, decode: Any) -> Any:  # noqa: ARG002 - a policy's
        """Return it."""
        return self.worker


def test_a_policy_may_choose_the_worker() -> None:
    """All go there, laws hold, and who is none is told."""
    load = shared(poisson_traffic(60, 20, 120, 20))
    record = both(staying(Names(1), 1, 2), load)
    assert (record.requests["prefill_worker"] == 2).all()
    assert not np.isfinite(record.requests["transfer_end_s"]).any()
    assert not stayed(both(staying(Names(None), 1, 2), load)).any()
    for wrong in (2, -1, True, "0", 1.0):
        with pytest.raises(ConfigError, match=r"Names: chose worker .*workers 0 to 1"):
            run(staying(Names(wrong), 1, 2), load, RunOptions())


def test_lent_workers_equal_oracle() -> None:
    """While prefill workers are behind, decode workers compute prompts: leaping equals stepping."""
    load = shared(poisson_traffic(200, 80, 300, 60))
    load = replace(load, classes=Classes(kinds=(ServiceClass(ttft_s=0.012, tpot_s=0.05),)))
    steep = {"latency": LinearLatency(per_seq=0.01), "decode_router": FirstFitSlo()}
    for policy, changes in (
        (SplitwiseMixed(queue_tokens=400), {}),
        (ConvertibleDecoders(), {}),
        (ArrowRedirect(), steep),
    ):
        record = both(staying(policy, 1, 3, **changes), load)
        assert 0 < stayed(record).sum() < 200, policy


def test_the_roles_of_workers_are_what_they_were() -> None:
    """A decode worker that computes prompts is still of the decode pool."""
    simulation = Simulation(staying(ALL, 1, 2), poisson_traffic(20, 9, 99, 9), RunOptions())
    simulation.run()
    kinds = [type(worker) for worker in simulation.workers]
    assert kinds[1:] == [BatchWorker, BatchWorker]
    assert [worker.role for worker in simulation.workers] == ["prefill", "decode", "decode"]
