"""Sequences that move while they decode: leaping equals stepping, laws hold, KV is paid for."""

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from builders import A_FABRIC, colocated, disaggregated, poisson_traffic, shared, traffic
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from test_elastic import BATCHINGS as RULES
from test_elastic import DRAINS, TRANSFERS, elastic
from test_elastic import plans as drawn_plans
from test_leavers import CLIENTS, audited, compared
from test_oracle import BATCHINGS, both

from simulator.clients import Clients
from simulator.cluster.simulation import RunOptions, Simulation, run
from simulator.deployment import Batching
from simulator.errors import ConfigError
from simulator.policies.rebalancing import HottestToColdest
from simulator.policies.routing import RoundRobin

EXAMPLES = int(os.environ.get("DISAGGSIM_REBALANCING_EXAMPLES", "40"))
"""Runs to draw; set the variable to thousands for a night's run."""

OFTEN = HottestToColdest(interval_s=0.05)


@dataclass(frozen=True)
class Always:
    """The first worker gives to the second."""

    interval_s: float | None = 0.1
    pair: tuple[int, int] = (0, 1)
    count: int = 0  # workers it believes to be there

    def moves(self, workers: Any) -> Any:
        """Return that, while both are there."""
        return [self.pair] if max(self.pair) < max(len(workers), self.count) else []


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
@pytest.mark.parametrize("metric", ["kv_ratio", "remaining_steps"])
def test_batching_equals_oracle(batching: Batching, metric: str) -> None:
    """Under memory pressure, preemption and every admission rule the columns agree."""
    policy = HottestToColdest(metric=metric, interval_s=0.05)
    base = disaggregated(2, 3, batching=batching, decode_router=RoundRobin(), rebalancing=policy)
    both(base, shared(poisson_traffic(150, 60, 120, 60)))


@given(data=st.data(), patient=st.booleans(), seed=st.integers(0, 10_000))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_whatever_happens_while_sequences_move(
    data: st.DataObject, patient: bool, seed: int
) -> None:
    """Workers come, die, flip and drain, clients leave: laws hold at every event, ``==`` too."""
    change = {
        "batching": data.draw(RULES),
        "transfer": data.draw(TRANSFERS),
        "first_token": data.draw(st.sampled_from(["prefill", "decode"])),
        "rebalancing": data.draw(st.sampled_from([OFTEN, Always(), Always(pair=(1, 0))])),
    }
    base = disaggregated(2, 3, decode_router=RoundRobin(), **change)
    plan, drain = data.draw(drawn_plans(("prefill", "decode"))), data.draw(DRAINS)
    retries = data.draw(st.sampled_from([0, 3]))
    whole = elastic(base, *plan, drain=drain, max_retries=retries)
    load = poisson_traffic(45, 9.0, 80, 50, seed)
    load = replace(load, clients=Clients() if patient else data.draw(CLIENTS))
    if data.draw(st.booleans()):
        load = shared(load, seed=seed)
    note(f"{seed=} {load.clients} {change} {whole.elastic}")
    options = RunOptions(seed=seed)
    compared(whole, load, options)
    audited(whole, load, options)


def test_a_sequence_moves_with_its_kv() -> None:
    """The one sequence of a worker goes to the other, over the wire, and ends there."""
    load = traffic([0.0, 0.01], [100, 500], [200, 200])
    base = disaggregated(1, 2, decode_router=RoundRobin())
    stays = run(replace(base, rebalancing=HottestToColdest(interval_s=100.0)), load, RunOptions())
    record = both(replace(base, rebalancing=Always(interval_s=0.5)), load)
    assert stays.requests["decode_worker"].tolist() == [1, 2]
    assert record.requests["decode_worker"].tolist() == [2, 2]
    tokens = [worker.decode_tokens for worker in record.workers]
    assert 0 < tokens[1] < 199 < tokens[2]
    assert sum(tokens) == 2 * 199
    sent = record.timeline["sent_bytes"][-1]
    assert sent[1] > sent[0] / 6  # more than its prompt, which was a sixth of what came


def test_it_evens_out_what_a_router_did_not() -> None:
    """Round robin gives every second, long, answer to one of two workers."""
    answers = np.tile([400, 20], 40)
    load = traffic(np.arange(80) / 40, 100, answers)
    batching = Batching(kv_blocks=200)
    base = disaggregated(2, 2, batching=batching, decode_router=RoundRobin(), fabric=A_FABRIC)
    plain = run(base, load, RunOptions())
    even = both(replace(base, rebalancing=OFTEN), load)
    waits, waited = (
        np.nanmean(each.requests["finish_s"] - each.requests["arrival_s"]) for each in (even, plain)
    )
    assert waits < waited
    assert even.requests["preemptions"].sum() <= plain.requests["preemptions"].sum()


def test_who_cannot_be_rebalanced_is_told() -> None:
    """Mixed workers alone, and a policy that names who is not there."""
    load = poisson_traffic(20, 20, 99, 60)
    with pytest.raises(ConfigError, match="rebalancing HottestToColdest: needs prefill and decode"):
        Simulation(colocated(2, rebalancing=OFTEN), load, RunOptions())
    wrong = disaggregated(1, 2, rebalancing=Always(pair=(0, 2), count=3))
    with pytest.raises(ConfigError, match=r"rebalancing Always: named workers 0 and 2, but .*0 to"):
        run(wrong, load, RunOptions())
    half: Any = (0, 0.5)
    with pytest.raises(ConfigError, match=r"rebalancing Always: named workers 0 and 0\.5, but"):
        run(replace(wrong, rebalancing=Always(pair=half)), load, RunOptions())
