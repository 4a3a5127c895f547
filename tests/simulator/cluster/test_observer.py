"""What controllers get to see: gauges equal what a slow recount finds, and leaping changes none."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracle import SteppingSimulation
from test_elastic import BATCHINGS, DRAINS, EXAMPLES, TRANSFERS, elastic, plans
from test_leavers import CLIENTS

from simulator.clients import Clients
from simulator.cluster.pools.team import AnyWorker
from simulator.cluster.simulation import RunOptions, Simulation
from simulator.cluster.workers.batch import BatchWorker
from simulator.policies.autoscaling import METRICS, Control, Observation, Observing, Plan
from simulator.policies.flow_control import Utilization
from simulator.record import STATUSES


@dataclass(frozen=True)
class Tells:
    """Changes nothing, and says all it sees."""

    def initial(self) -> None:
        """Return nothing to remember."""

    def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:
        """Return every gauge in words."""
        names = (*METRICS, "held", "role")
        told = {r: [getattr(pool, name) for name in names] for r, pool in seen.pools.items()}
        return Plan({}, f"{told} {seen.traffic}"), state


TOLD = Control(
    policy=Tells(),  # type: ignore[arg-type]
    interval_s=0.31,
    observing=Observing(scrape_s=0.31, window_s=1.0),
)


def queued(simulation: Simulation, worker: AnyWorker) -> int:
    """Return the prompt tokens of placed prompts that wait, counted one by one."""
    ledger = simulation.ledger
    waits = (*worker.prompts, *worker.unread)
    placed = [each for each in waits if worker._placed(each)]
    return sum(ledger.prompt_tokens[each] for each in placed)


def coming(simulation: Simulation, worker: BatchWorker) -> int:
    """Return the KV tokens that are placed here and not in the batch, counted one by one."""
    ledger, here = simulation.ledger, worker.number
    known = [each for each in range(ledger.size) if ledger.decode_worker[each] == here]
    waits = [
        each
        for each in known
        if ledger.status[each] == 0 and (isnan(ledger.decode_join[each]) or each in ledger.moved_at)
    ]
    paused = sum(ledger.input_tokens[each] + ledger.generated[each] for each in worker._paused)
    return sum(ledger.prompt_tokens[each] for each in waits) + paused


def decoding(simulation: Simulation, worker: BatchWorker, now: float) -> int:
    """Return the KV tokens of the batch at the iteration under way, sequence by sequence."""
    ledger, leap = simulation.ledger, worker.leap
    past = simulation.clock.turn > worker.alarm.turn
    step = leap.step + (leap.until(now, past=past)[0] if leap.left > 1 else 0)
    return sum(
        ledger.input_tokens[each] + ledger.output_tokens[each] - (end - step)
        for each, end in worker._running.items()
    )


@given(data=st.data(), mixed=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES // 2, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_gauges_are_what_a_recount_finds_at_every_event(
    data: st.DataObject, mixed: bool, seed: int
) -> None:
    """Queued prompts, waiting and decoding KV, under any schedule and clients that leave."""
    change: dict[str, Any] = {"batching": data.draw(BATCHINGS)}
    if not mixed:
        change["transfer"] = data.draw(TRANSFERS)
    base = colocated(2, **change) if mixed else disaggregated(2, 2, **change)
    roles = ("mixed",) if mixed else ("prefill", "decode")
    whole = elastic(base, *data.draw(plans(roles)), drain=data.draw(DRAINS))
    clients = data.draw(st.one_of(st.none(), CLIENTS))
    load = poisson_traffic(30, 8.0, 80, 30, seed)
    load = load if clients is None else replace(load, clients=clients)
    simulation = Simulation(whole, load, RunOptions(seed=seed))
    while not simulation.endings.all_over.triggered:
        simulation.step()
        now = simulation.clock.now
        for life in simulation.fleet.lives:
            worker = life.worker
            if worker is None or life.state != "ready":
                continue
            assert worker.queued_tokens == queued(simulation, worker)
            if isinstance(worker, BatchWorker):
                batch, waiting = worker.sequence_tokens()
                assert batch == decoding(simulation, worker, now)
                if worker.role == "decode":
                    assert waiting == coming(simulation, worker)


@given(data=st.data(), mixed=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES // 4, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_a_leap_changes_nothing_a_controller_sees(
    data: st.DataObject, mixed: bool, seed: int
) -> None:
    """Every gauge at every scrape is the same whether iterations are leapt over or stepped."""
    change: dict[str, Any] = {"batching": data.draw(BATCHINGS), "control": TOLD}
    base = colocated(2, **change) if mixed else disaggregated(1, 2, **change)
    load, options = poisson_traffic(40, 8.0, 80, 30, seed), RunOptions(seed=seed)
    leaping, stepping = (
        kind(base, load, options).run() for kind in (Simulation, SteppingSimulation)
    )
    assert len(leaping.decisions) > 3
    assert leaping.decisions == stepping.decisions


@dataclass(frozen=True)
class Peeks(Tells):
    """Says how many requests are to come."""

    knows_trace: bool = True

    def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:
        """Return how many lie ahead, if it is told."""
        told = None if seen.truth is None else seen.truth.between(seen.now_s, 1e9)[0]
        return Plan({}, f"{told} ahead"), state


def test_the_future_is_shown_to_who_says_it_knows_it_and_where_it_is_known() -> None:
    """All arrivals after a tick in an open loop; nothing to others, nor in a closed loop."""
    load = poisson_traffic(40, 8.0, 80, 30, 1)

    def first(peeks: bool, concurrency: int | None) -> str:
        control = replace(TOLD, policy=Peeks(knows_trace=peeks))  # type: ignore[arg-type]
        whole = colocated(1, control=control)
        record = Simulation(whole, replace(load, concurrency=concurrency), RunOptions()).run()
        return str(record.decisions[0]["reason"])

    assert first(True, None) == f"{(load.arrival_s >= 0.31).sum()} ahead"
    assert first(False, None) == "None ahead"
    assert first(True, 3) == "None ahead"


@dataclass(frozen=True)
class Keeps(Tells):
    """Changes nothing, and keeps how many wait at the workers of a role and at the router."""

    role: str = "mixed"
    seen: dict[float, tuple[int, int]] = field(default_factory=dict)

    def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:
        """Note the queues, by the time they were read."""
        pool = seen.pools[self.role]
        self.seen[seen.seen_s] = sum(pool.waiting or ()), pool.held or 0
        return Plan({}), state


def queues(build: Any, role: str, *orphans: str) -> tuple[Mapping[float, tuple[int, int]], Any]:
    """Return the queues at every look at impatient clients' requests, and what became of these."""
    policy = Keeps(role=role)
    control = replace(TOLD, policy=policy, observing=replace(TOLD.observing, orphans=orphans))
    closed_often = Utilization(queue=50.0, scrape_s=2.0, stale_s=0.7)
    load = poisson_traffic(400, 100.0, 5000, 60, 3)
    load = replace(load, clients=Clients(first_token_timeout_s=0.7))
    whole = build(control=control, flow_control=closed_often)
    return policy.seen, Simulation(whole, load, RunOptions()).run().requests


@pytest.mark.parametrize(
    ("build", "role"),
    [
        (lambda **change: colocated(2, **change), "mixed"),
        (lambda **change: disaggregated(2, 2, **change), "prefill"),
    ],
)
def test_a_queue_s_metric_may_count_who_has_left_it(build: Any, role: str) -> None:
    """Those alone who had not been begun when they left, from then on; the run is the same."""
    plain, requests = queues(build, role)
    at_workers, same = queues(build, role, f"{role}.waiting")
    at_router, _ = queues(build, role, "router")
    np.testing.assert_array_equal(requests["finish_s"], same["finish_s"])
    gone = requests["status"] == STATUSES.index("failed")
    gone &= np.isnan(requests["prefill_start_s"])
    left_s = requests["arrival_s"] + 0.7
    held = requests["prefill_worker"] < 0
    assert (gone & held).sum() > 5
    assert (gone & ~held).sum() > 5
    for at_s, (waiting, there) in plain.items():
        left = gone & (left_s <= at_s)
        assert at_workers[at_s] == (waiting + (left & ~held).sum(), there)
        assert at_router[at_s] == (waiting, there + (left & held).sum())
