"""Flow control at the router: who waits until when, by what was read of workers, and how old."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic, shared, traffic
from test_elastic import elastic
from test_leavers import compared
from test_oracle import BATCHINGS, both

from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.deployment import Batching, Deployment
from simulator.elastic import Change
from simulator.errors import ConfigError
from simulator.policies.autoscaling import Control, Observation, Plan
from simulator.policies.flow_control import NeverHolds, Utilization
from simulator.policies.local_prefill import PrefixBased

SELDOM = Utilization(scrape_s=15.0)
"""Metrics that are stale for 14.8 of 15 seconds."""
ONE_AT_A_TIME = Batching(max_num_batched_tokens=1000, max_num_seqs=1)


LATER = RunOptions(sample_interval_s=0.37)


def left(base: Deployment, load: Traffic) -> dict[int, float]:
    """Return when who waited at the router left it; leaping equals stepping beside."""
    both(base, load)
    simulation, here, gone = Simulation(base, load, RunOptions()), set[int](), {}
    while not simulation.endings.all_over.triggered:
        simulation.step()
        now_here = set(simulation.gateway.held or ())
        gone |= dict.fromkeys(here - now_here, simulation.clock.now)
        here = now_here
    return gone


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
@pytest.mark.parametrize("staleness", ["saturated", "ignore"])
def test_batching_equals_oracle(build: Any, batching: Batching, staleness: str) -> None:
    """Under memory pressure, preemption and every admission rule the columns agree."""
    control = Utilization(queue=2.0, kv=0.4, scrape_s=0.3, staleness=staleness)
    base = build(2, batching=batching, flow_control=control)
    record = both(base, shared(poisson_traffic(200, 60, 120, 60)))
    plain = run(build(2, batching=batching), shared(poisson_traffic(200, 60, 120, 60)), LATER)
    np.testing.assert_array_equal(record.requests["status"], plain.requests["status"])
    assert (record.requests["prefill_start_s"] != plain.requests["prefill_start_s"]).any()


def test_stale_metrics_hold_everybody_beside_an_idle_worker() -> None:
    """Fresh at 0.1 s; at 1 and 2 s stale, until the scrape at 15 s: a millisecond apart."""
    load = traffic([0.1, 1.0, 2.0, 15.0], 100, 2)
    base = colocated(1, flow_control=SELDOM)
    assert left(base, load) == {1: 15.0, 2: 15.001, 3: 15.001 + 0.001}
    assert left(colocated(3, flow_control=SELDOM), load) == left(base, load)
    at_once = replace(SELDOM, dispatch_s=0.0)
    assert left(colocated(1, flow_control=at_once), load) == {1: 15.0, 2: 15.0, 3: 15.0}


def test_metrics_that_live_longer_than_a_scrape_hold_nobody() -> None:
    """The same with a limit of 20 s, or where what is stale does not count."""
    load = traffic([0.1, 1.0, 2.0, 15.0], 100, 2)
    for better in (replace(SELDOM, stale_s=20.0), replace(SELDOM, staleness="ignore")):
        assert left(colocated(1, flow_control=better), load) == {}


def test_a_full_worker_holds_everybody_until_it_is_read_again() -> None:
    """Five wait at the scrape at 1 s, which is full; four do at the one after the next begins."""
    load = traffic([0.5] * 6 + [1.2], 100, 400)
    control = Utilization(scrape_s=1.0, stale_s=2.0)
    base = colocated(1, batching=ONE_AT_A_TIME, flow_control=control)
    began = both(base, load).requests["prefill_start_s"][1]
    assert left(base, load) == {6: np.ceil(began)}


def test_stale_metrics_that_do_not_count_open_the_router() -> None:
    """Ten wait at two workers when read at 1 s, five on average; at 1.2 s that is stale."""
    load = traffic([0.5] * 12 + [1.1], 100, 400)
    control = Utilization(scrape_s=1.0, stale_s=0.2, staleness="ignore")
    base = colocated(2, batching=ONE_AT_A_TIME, flow_control=control)
    assert left(base, load) == {12: 1.2}
    fewer = traffic([0.5] * 11 + [1.1], 100, 400)
    assert left(base, fewer) == {}


def test_a_new_worker_has_no_metrics() -> None:
    """It counts as full until it is read, and who waited for any worker waits for that."""
    load = traffic([0.0, 0.5, 0.6], 100, 3)
    plan = (Change(at_s=0.4, pool="mixed", workers=0), Change(at_s=1.0, pool="mixed", workers=1))
    base = elastic(colocated(1, flow_control=Utilization(scrape_s=0.7)), *plan)
    columns = compared(base, load, RunOptions()).requests
    assert (columns["status"] == 1).all()
    ready = 1.0 + base.elastic.startup.seconds  # type: ignore[operator]
    assert columns["prefill_start_s"][1] == 0.7 * np.ceil(ready / 0.7)


def test_a_full_worker_that_goes_opens_the_router() -> None:
    """Of two the one is full, 3 on average; at 1.5 s it goes, and the other is idle."""

    @dataclass(frozen=True)
    class First:
        def choose(self, request: Any, pool: Any) -> int:  # noqa: ARG002
            return len(pool.requests) - 1

    load = traffic([0.5] * 19 + [1.1], 100, 400)
    plan = (Change(at_s=1.5, pool="mixed", workers=1),)
    control = Utilization(scrape_s=1.0, stale_s=5.0)
    base = colocated(2, batching=ONE_AT_A_TIME, flow_control=control, router=First())
    base = elastic(base, *plan)
    gone = left(base, load)
    assert gone[19] == 1.5
    assert left(replace(base, elastic=colocated(1).elastic), load)[19] > 1.5


def test_autoscalers_see_who_waits_at_the_router() -> None:
    """Two from 2 s on, none once the scrape at 15 s has let them go; nothing where no queue is."""

    @dataclass(frozen=True)
    class Tells:
        def initial(self) -> None:
            return None

        def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:
            return Plan({}, f"{seen.pools['mixed'].held} held"), state

    load = traffic([0.1, 1.0, 2.0, 21.0], 100, 2)
    control = Control(policy=Tells(), interval_s=5.0)  # type: ignore[arg-type]
    base = colocated(1, flow_control=SELDOM, control=control)
    decisions = both(base, load).decisions
    told = {made["at_s"]: made["reason"] for made in decisions}
    assert [told[at] for at in (5.0, 10.0, 15.0, 20.0)] == [
        *("2 held", "2 held", "1 held", "0 held"),  # at 15 s one went, the other a millisecond on
    ]
    plain = run(replace(base, flow_control=NeverHolds()), load, RunOptions()).decisions
    assert {made["reason"] for made in plain} == {"None held"}


def test_what_never_opens_ends() -> None:
    """A policy that lets nobody go leaves requests incomplete, not a run that goes on for ever."""

    @dataclass(frozen=True)
    class Closed:
        scrape_s: float = 15.0
        stale_s: float = 0.2
        dispatch_s: float = 0.0

        def saturation(self, readings: Any) -> float:  # noqa: ARG002
            return 1.0

    record = run(colocated(1, flow_control=Closed()), traffic([0.0, 40.0], 100, 2), RunOptions())
    assert record.requests["status"].tolist() == [0, 0]


def test_what_is_no_number_is_told() -> None:
    """By the policy's name."""

    @dataclass(frozen=True)
    class Odd:
        answer: Any = None
        scrape_s: float = 1.0
        stale_s: float = 1.0
        dispatch_s: float = 0.0

        def saturation(self, readings: Any) -> Any:  # noqa: ARG002
            return self.answer

    load = traffic([0.5], 100, 2)
    for odd, told in (
        (Odd(), "flow_control Odd: answered None about 1 workers, but a number is due"),
        (Odd(answer=0.0, scrape_s=0.0), "flow_control Odd: scrape_s must be above 0"),
        (Odd(answer=0.0, dispatch_s=-1.0), "flow_control Odd: dispatch_s must be from 0"),
    ):
        with pytest.raises(ConfigError, match=told):
            run(colocated(1, flow_control=odd), load, RunOptions())


def test_what_does_not_go_together_is_told() -> None:
    """One queue at the router, and workers that take prompts from it."""
    with pytest.raises(ConfigError, match="router_queue_threshold needs flow_control=none"):
        colocated(1, flow_control=SELDOM, router_queue_threshold=0.0)
    with pytest.raises(ConfigError, match="flow_control needs local_prefill=none"):
        disaggregated(1, 1, flow_control=SELDOM, local_prefill=PrefixBased())
