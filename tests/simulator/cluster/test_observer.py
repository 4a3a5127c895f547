"""What controllers get to see: gauges equal what a slow recount finds, and leaping changes none."""

from dataclasses import dataclass, replace
from math import isnan
from typing import Any

from builders import colocated, disaggregated, poisson_traffic
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracle import SteppingSimulation
from test_elastic import BATCHINGS, DRAINS, EXAMPLES, TRANSFERS, elastic, plans
from test_leavers import CLIENTS

from simulator.cluster.pools.team import AnyWorker
from simulator.cluster.simulation import RunOptions, Simulation
from simulator.cluster.workers.batch import BatchWorker
from simulator.policies.autoscaling import METRICS, Control, Observation, Observing, Plan


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
    placed = [each for each in worker.prompts if worker._placed(each)]
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
