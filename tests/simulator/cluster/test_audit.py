"""Every law notices when it is broken, and none complains about a run that keeps them all."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from builders import disaggregated, poisson_traffic, traffic

from simulator.cluster.audit import ORDER, audit
from simulator.cluster.ledger import COMPLETED, INCOMPLETE
from simulator.cluster.simulation import RunOptions, Simulation
from simulator.cluster.workers.prefill import PrefillWorker
from simulator.deployment import Batching
from simulator.errors import InvariantError
from simulator.record import TIMES, RunRecord

Break = Callable[[Simulation], None]
TIGHT = Batching(kv_blocks=60, max_num_seqs=16, max_num_batched_tokens=128)


def finished(until_s: float | None = None) -> tuple[Simulation, RunRecord]:
    """Return a run under memory pressure, and its record."""
    load = poisson_traffic(40, 40, 120, 40)
    options = RunOptions(until_s=until_s)
    simulation = Simulation(disaggregated(2, 2, batching=TIGHT), load, options)
    return simulation, simulation.run()


def add(owner: Callable[[Simulation], object], name: str, amount: float) -> Break:
    """Return what adds ``amount`` to an attribute, or to the first entry of a list of them."""

    def broken(simulation: Simulation) -> None:
        target, value = owner(simulation), getattr(owner(simulation), name)
        if hasattr(value, "__setitem__"):
            value[0] += amount
        else:
            setattr(target, name, value + amount)

    return broken


def worker(number: int) -> Callable[[Simulation], object]:
    """Return what finds a worker."""
    return lambda simulation: simulation.workers[number]


def account(stage: int) -> Callable[[Simulation], object]:
    """Return what finds what a router sees."""
    return lambda simulation: simulation.loads[stage]


BROKEN: dict[str, tuple[Break, str]] = {
    "more blocks than there are": (add(worker(3), "used", 1000), "holds 1000 of 60 blocks"),
    "fewer blocks than none": (add(worker(3), "used", -1), "holds -1 of 60 blocks"),
    "blocks that remain": (add(worker(2), "used", 1), "worker 2 still holds 1 blocks"),
    "bytes lost": (add(lambda s: s.handoff, "delivered_bytes", -8.0), "8.0 bytes are neither"),
    "bytes made": (add(lambda s: s.handoff, "delivered_bytes", 8.0), "-8.0 bytes are neither"),
    "a token too many": (add(worker(2), "decode_tokens", 1), "output tokens were produced"),
    "a token too few": (add(worker(2), "decode_tokens", -1), "output tokens were produced"),
    "prompt tokens not due": (add(worker(0), "prefill_tokens", 1), "prompt tokens were computed"),
    "prompt tokens left out": (add(worker(0), "prefill_tokens", -1), "prompt tokens were computed"),
    "an entry's negative load": (add(account(0), "tokens", -1), "load is negative"),
    "a decoder's negative load": (add(account(1), "kv_blocks", -1), "load is negative"),
    "a request that stays placed": (add(account(0), "requests", 1), "a load remains"),
    "blocks that stay placed": (add(account(1), "kv_blocks", 1), "a load remains"),
    "tokens that stay placed": (add(account(0), "tokens", 1), "a load remains"),
}


@pytest.mark.parametrize(("broken", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_account_is_told(broken: Break, told: str) -> None:
    """An account that does not close ends the run with the law and its numbers."""
    simulation, record = finished()
    audit(simulation, record)
    broken(simulation)
    with pytest.raises(InvariantError, match=told):
        audit(simulation, record)


@pytest.mark.parametrize(("earlier", "later"), ORDER)
def test_moments_out_of_order_are_told(earlier: str, later: str) -> None:
    """A moment after the one that must follow it is told, with the request; at once is fine."""
    simulation, record = finished()
    both = ~np.isnan(record.requests[earlier]) & ~np.isnan(record.requests[later])
    at = int(np.flatnonzero(both)[-1])
    pair = f"request {at} has {earlier} .* after {later}"
    with pytest.raises(InvariantError, match=pair):
        audit(simulation, swapped(record, at, earlier, later))


def swapped(record: RunRecord, at: int, earlier: str, later: str) -> RunRecord:
    """Return a record in which one moment of request ``at`` lies just after a later one.

    What lies before the earlier one, or after the later one, moves along, so that this pair alone
    is out of order.
    """
    columns = {name: column.copy() for name, column in record.requests.items()}
    for name in TIMES:
        columns[name][at] = 1.0 if not np.isnan(columns[name][at]) else np.nan
    columns[earlier][at], columns[later][at] = 1.0 + 1e-9, 1.0
    for _ in TIMES:
        for before, after in ORDER:
            if (before, after) != (earlier, later) and columns[before][at] > columns[after][at]:
                columns[after][at] = columns[before][at]
    columns[later][at] = 1.0
    return replace(record, requests=columns)


def test_all_at_once_is_in_order() -> None:
    """Moments may coincide: a request that everything happens to at one instant keeps the laws."""
    simulation, record = finished()
    columns = {name: column.copy() for name, column in record.requests.items()}
    for name in TIMES:
        columns[name][~np.isnan(columns[name])] = 7.0
    audit(simulation, replace(record, requests=columns))


@pytest.mark.parametrize(
    ("status", "finish", "told"),
    [
        (COMPLETED, np.nan, "a completed request has no finish"),
        (INCOMPLETE, 1e9, "an unfinished request has a finish"),
    ],
)
def test_status_and_finish_belong_together(status: int, finish: float, told: str) -> None:
    """Who completed has a last token, and nobody else has."""
    simulation, record = finished()
    record.requests["status"][5], record.requests["finish_s"][5] = status, finish
    with pytest.raises(InvariantError, match=told):
        audit(simulation, record)


def test_a_request_that_was_forgotten_is_told() -> None:
    """When all are counted as over, none may be incomplete."""
    simulation, record = finished()
    columns = {name: column.copy() for name, column in record.requests.items()}
    simulation.ledger.status[5] = INCOMPLETE
    with pytest.raises(InvariantError, match="conservation: 1 requests are neither"):
        audit(simulation, replace(record, requests=columns))


def test_a_stopped_run_keeps_its_moving_accounts_only() -> None:
    """While requests are on their way loads, blocks and tokens are open; bytes are not."""
    simulation, record = finished(until_s=0.6)
    assert simulation.done < simulation.ledger.size
    assert any(worker.used for worker in simulation.workers)
    audit(simulation, record)
    simulation.handoff.started_bytes += 8.0
    with pytest.raises(InvariantError, match="neither under way nor delivered"):
        audit(simulation, record)


def test_a_simulation_that_comes_to_a_stand_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that nobody will ever serve ends the run: gauges do not tick for ever."""
    monkeypatch.setattr(PrefillWorker, "enqueue", lambda *_: None)
    simulation = Simulation(disaggregated(1, 1), traffic([0.0, 1.0], 10, 5), RunOptions())
    with pytest.raises(InvariantError, match=r"nothing is left to happen at .* 0 of 2 requests"):
        simulation.run()
