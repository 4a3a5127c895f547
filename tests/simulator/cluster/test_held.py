"""One queue at the router: leaping equals stepping, laws hold, and who takes what when."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import LinearLatency, colocated, disaggregated, poisson_traffic, shared, traffic
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from test_elastic import BATCHINGS as RULES
from test_elastic import DRAINS, elastic
from test_elastic import plans as drawn_plans
from test_leavers import CLIENTS, compared
from test_oracle import BATCHINGS, both

from simulator.clients import Clients
from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, run
from simulator.deployment import Batching
from simulator.elastic import Change
from simulator.errors import ConfigError
from simulator.policies.admission import Admission, EarlyRejection, QueueCap, Tier, TokenTiers
from simulator.policies.classes import Classes, ServiceClass
from simulator.policies.flow_control import Utilization
from simulator.policies.local_prefill import PrefixBased
from simulator.policies.queueing import Sjf
from simulator.policies.routing import RoundRobin
from simulator.record import STATUSES

EXAMPLES = int(os.environ.get("DISAGGSIM_HELD_EXAMPLES", "40"))
"""Runs to draw; set the variable to thousands for a night's run."""

GATES: list[dict[str, Any]] = [
    *({"router_queue_threshold": threshold} for threshold in (0.0, 0.1, 1.0)),
    {"flow_control": Utilization(queue=1.0)},
    {"flow_control": Utilization(queue=2.0, kv=0.3, scrape_s=0.5)},
    {"flow_control": Utilization(queue=1.0, scrape_s=0.5, staleness="ignore")},
]
LATER = RunOptions(sample_interval_s=0.37)
ONE_AT_A_TIME = Batching(max_num_batched_tokens=1000, max_num_seqs=8)


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_batching_equals_oracle(build: Any, batching: Batching, threshold: float) -> None:
    """Under memory pressure, preemption and every admission rule the columns agree."""
    base = build(2, batching=batching, router_queue_threshold=threshold)
    load = shared(poisson_traffic(200, 60, 120, 60))
    record, plain = both(base, load), run(replace(base, router_queue_threshold=None), load, LATER)
    np.testing.assert_array_equal(record.requests["status"], plain.requests["status"])


@given(data=st.data(), patient=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_whatever_happens_while_prompts_wait(data: st.DataObject, patient: bool, seed: int) -> None:
    """Workers come, die, flip and drain, clients leave: laws hold at every event, ``==`` too."""
    build = data.draw(st.sampled_from([disaggregated, colocated]))
    roles = ("prefill", "decode") if build is disaggregated else ("mixed",)
    base = build(3, batching=data.draw(RULES), router=RoundRobin())
    plan, drain = data.draw(drawn_plans(roles)), data.draw(DRAINS)
    retries = data.draw(st.sampled_from([0, 3]))
    gate = data.draw(st.sampled_from(GATES))
    base = elastic(base, *plan, drain=drain, max_retries=retries)
    base = replace(base, **gate)
    load = poisson_traffic(45, 30.0, 400, 50, seed)
    load = replace(load, clients=Clients() if patient else data.draw(CLIENTS))
    note(f"{seed=} {gate} {load.clients} {base.elastic}")
    options = RunOptions(seed=seed)
    compared(base, load, options)
    simulation = Simulation(base, load, options)
    while not simulation.endings.all_over.triggered:
        simulation.step()
        audit(simulation, simulation.record(sample=False))
        held = simulation.gateway.held
        assert held is not None
        assert held.tokens == sum(simulation.ledger.prompt_tokens[each] for each in held)


def test_a_worker_takes_the_next_when_it_has_none_left() -> None:
    """Round robin would send the third prompt behind the long first; here the idle one takes it."""
    load = traffic([0.0, 0.0, 0.001, 0.002], [900, 100, 100, 100], 1)
    base = colocated(2, batching=ONE_AT_A_TIME, router=RoundRobin())
    pushed = run(base, load, RunOptions()).requests
    pulled = both(replace(base, router_queue_threshold=0.0), load).requests
    assert pushed["prefill_worker"].tolist() == [0, 1, 0, 1]
    assert pulled["prefill_worker"].tolist() == [0, 1, 1, 0]
    one, other = (0.010 + 1e-5 * n + 1e-9 * n * (n + 1) / 2 for n in (100, 900))
    starts = [0.0, 0.0, one, other]
    assert pulled["prefill_start_s"].tolist() == pytest.approx(starts, rel=1e-12)
    assert pushed["prefill_start_s"][2] == pytest.approx(other, rel=1e-12)
    assert pulled["prefill_queue_enter_s"].tolist() == [0.0, 0.0, 0.001, 0.002]


def test_a_worker_is_sent_more_up_to_the_threshold() -> None:
    """Three tenths of a step's thousand tokens may wait: after 300 one more, after 400 none."""
    load = traffic([0.0, 0.001, 0.002, 0.003, 0.004], [900, 300, 100, 50, 50], 1)
    base = colocated(1, batching=replace(ONE_AT_A_TIME, max_num_seqs=1))
    base = replace(base, router_queue_threshold=0.3)
    simulation = Simulation(base, load, RunOptions())
    while simulation.clock.now < 0.004:
        simulation.step()
    simulation.step()
    # 900 wait from the start, which is more than 300: the others are held.
    assert simulation.gateway.held is not None
    assert len(simulation.workers[0].prompts) == 0
    record = both(base, load)
    assert (np.diff(record.requests["prefill_start_s"]) > 0).all()


def test_the_queue_s_order_is_everybody_s() -> None:
    """The shortest of all that wait goes next, whichever worker is free."""
    load = traffic([0.0, 0.0, 0.001, 0.002, 0.003], [900, 900, 500, 300, 100], 1)
    base = colocated(2, batching=ONE_AT_A_TIME, queue=Sjf(), router_queue_threshold=0.0)
    starts = both(base, load).requests["prefill_start_s"]
    assert starts[4] <= starts[3] < starts[2]


def test_who_waits_at_the_router_is_let_in_once_and_may_leave() -> None:
    """Admission is asked as a prompt comes, and a client may go while it waits there."""
    load = traffic([0.0, 0.001, 0.002, 0.003], [900, 100, 100, 100], 1)
    base = colocated(1, batching=ONE_AT_A_TIME, router_queue_threshold=0.0)
    capped = both(replace(base, admission=QueueCap(waiting=1)), load).requests
    assert capped["status"].tolist() == [1, 1, 2, 2]  # the second waits at the router
    spread = replace(colocated(2, batching=ONE_AT_A_TIME), router_queue_threshold=0.0)
    busy = traffic([0.0, 0.0, 0.001, 0.002, 0.003, 0.004], 900, 1)
    for cap, status in ((1, [1, 1, 1, 2, 2, 2]), (2, [1, 1, 1, 1, 1, 2])):  # two workers' shares
        limited = replace(spread, admission=QueueCap(waiting=cap))
        assert both(limited, busy).requests["status"].tolist() == status
    hasty = replace(load, clients=Clients(first_token_timeout_s=0.0195))
    gone = both(base, hasty).requests
    assert gone["status"].tolist() == [1, 3, 3, 3]
    assert gone["prefill_worker"].tolist() == [0, 0, -1, -1]  # the second had just begun


@pytest.mark.parametrize("policy", [EarlyRejection(), TokenTiers(tiers=(Tier(0, 256),))])
def test_admission_counts_who_waits_at_the_router(policy: Admission) -> None:
    """Prompts of a second come every quarter to one worker; 2 s of work may be before each.

    Before the first four are 0, 1, 1 + 1 and 1 + 2 s, at the worker and at the router: the fourth
    is refused. At 1 s the first is through, so 0 + 2 are before the fifth, and 1 + 2 before the
    sixth.
    """
    second = 128  # tokens
    pace = LinearLatency(base=0.0, per_seq=0.0, per_context=0.0, per_token=1 / second, per_pair=0.0)
    base = colocated(1, latency=pace, admission=policy, router_queue_threshold=0.0)
    load = traffic([0.0, 0.25, 0.5, 0.75, 1.0, 1.25], second, 1)
    load = replace(load, classes=Classes(kinds=(ServiceClass(ttft_s=3.0),)))
    columns = both(base, load).requests
    assert columns["status"].tolist() == [1, 1, 1, 2, 1, 2]
    served = columns["prefill_start_s"][[0, 1, 2, 4]]
    assert served.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_worker_s_share_of_who_waits_is_ahead() -> None:
    """Of two seconds of prompts at the router one is before each of two workers' next."""
    pace = LinearLatency(base=0.0, per_seq=0.0, per_context=0.0, per_token=1 / 128, per_pair=0.0)
    base = disaggregated(2, 1, latency=pace, router_queue_threshold=0.0)
    load = traffic([0.0, 0.0, 0.25, 0.25, 0.5], 128, 1)
    for target, status in ((3.0, 1), (2.99, 2)):  # 1 under way, 1 of those at the router, its own
        classes = Classes(kinds=(ServiceClass(ttft_s=target),))
        deployment = replace(base, admission=EarlyRejection())
        columns = both(deployment, replace(load, classes=classes)).requests
        assert columns["status"].tolist() == [1, 1, 1, 1, status]


def test_a_new_worker_takes_who_waits() -> None:
    """Also when there was none at all for a while."""
    load = traffic([0.0, 0.5, 0.6], [100, 100, 100], 3)
    plan = (Change(at_s=0.4, pool="mixed", workers=0), Change(at_s=1.0, pool="mixed", workers=1))
    base = elastic(colocated(1, batching=ONE_AT_A_TIME), *plan)
    record = compared(replace(base, router_queue_threshold=0.0), load, RunOptions())
    assert (record.requests["status"] == 1).all()
    assert (record.requests["prefill_start_s"][1:] >= 1.0).all()


def test_bad_thresholds_are_told() -> None:
    """Below nothing, or beside decode workers that compute prompts."""
    with pytest.raises(ConfigError, match="router_queue_threshold must be at least 0 but got -1"):
        colocated(1, router_queue_threshold=-1)
    with pytest.raises(ConfigError, match="router_queue_threshold needs local_prefill=none"):
        disaggregated(1, 1, router_queue_threshold=0.0, local_prefill=PrefixBased())


def test_who_is_turned_away_comes_again() -> None:
    """After one second, two and four more; then it is over, or let in, and waits from the start."""
    load = traffic([0.0, 0.25, 0.5], [100, 100, 100], 700)  # seven seconds of answers
    base = colocated(1, batching=Batching(max_num_seqs=1), admission=QueueCap(waiting=1))
    for resends, status in ((0, 2), (1, 2), (3, 1)):
        hopeful = replace(load, clients=Clients(resends=resends))
        columns = both(base, hopeful).requests
        assert columns["status"].tolist() == [1, 1, status]
        assert columns["resends"].tolist() == [0, 0, resends]
    began = [0.0, 7.0, 14.0]
    assert columns["admitted_s"][2] == 0.5 + 1.0 + 2.0 + 4.0
    assert columns["prefill_start_s"].tolist() == pytest.approx(began, rel=0.02)
    impatient = Clients(resends=3, timeout_s=2.5)
    gone = both(base, replace(load, clients=impatient)).requests
    assert (gone["status"][2], gone["resends"][2]) == (3, 2)
    for bad in (-1, 61):
        with pytest.raises(ConfigError, match=f"clients: resends must lie in .* but got {bad}"):
            Clients(resends=bad)


@pytest.mark.parametrize("seed", range(12))
def test_who_waits_for_one_role_and_is_sent_to_another(seed: int) -> None:
    """A prompt that a decode pool can never hold is turned away when it is sent to prefill."""
    small = Batching(max_num_batched_tokens=64, max_num_seqs=4, kv_blocks=20)
    base = disaggregated(1, 1, batching=small, router_queue_threshold=0.0)
    large = colocated(1, batching=replace(small, kv_blocks=400)).pools
    whole = replace(base, pools=(*base.pools, *large))
    load = poisson_traffic(60, 20.0, 120, 40, seed)
    record = compared(whole, load, RunOptions(seed=seed, sample_interval_s=0.37))
    status = record.requests["status"]
    assert (status != STATUSES.index("incomplete")).all()
    sent = record.requests["transfer_queue_enter_s"]
    tokens = record.requests["input_tokens"] + record.requests["output_tokens"]
    assert (tokens[~np.isnan(sent)] <= 20 * 16 + 1).all()
