"""Dynamo's stock planner flaps with hot starts, by its own rule: every decision is taken again."""

from collections import Counter
from typing import Any

import pytest

from simulator.cli import compose
from simulator.experiment import simulate
from simulator.policies.autoscaling import Observation, Plan, PoolSeen
from simulator.policies.dynamo.thresholds import DynamoThreshold

BURSTS = (
    *("autoscaler=dynamo_threshold", "autoscaler.budget.max_gpu_budget=64", "startup=hot"),
    *("workload.arrivals.rate=16", "workload.duration_s=300", "workload.requests=null"),
    "counterpart=false",
)


def by_the_rule(values: list[float], up: float, down: float, *, at_up: bool) -> int:
    """Return what the rule asks for: any over, or all under and one fewer not over."""
    count = len(values)
    if any(each >= up if at_up else each > up for each in values):
        return count + 1
    low = count > 1 and all(each < down for each in values)
    return count - 1 if low and max(values) * count / (count - 1) < up else count


def asked(pools: dict[str, PoolSeen]) -> dict[str, int]:
    """Return what the two pools' queues and KV ask for."""
    prefill, decode = pools["prefill"], pools["decode"]
    assert prefill.engine is not None
    assert decode.engine is not None
    queues = [each / prefill.engine.max_context for each in prefill.queued_tokens or ()]
    pairs = zip(decode.kv_tokens or (), decode.queued_kv_tokens or (), strict=True)
    used = [(here + queued) / decode.engine.kv_tokens for here, queued in pairs]
    return {
        "prefill": by_the_rule(queues, 1.0, 0.1, at_up=True),
        "decode": by_the_rule(used, 1.0, 0.6, at_up=False),
    }


def test_it_flaps_as_its_rule_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up a worker a tick in a burst, down a worker a tick after it, and nothing else."""
    looks: list[tuple[Observation, Plan]] = []
    decide = DynamoThreshold.decide

    def noted(self: DynamoThreshold, seen: Observation, state: Any) -> Any:
        plan, after = decide(self, seen, state)
        looks.append((seen, plan))
        return plan, after

    monkeypatch.setattr(DynamoThreshold, "decide", noted)
    simulate(compose(BURSTS))
    steps: Counter[int] = Counter()
    for seen, plan in looks:
        pools = dict(seen.pools)
        if any(each.draining or each.starting or each.pending for each in pools.values()):
            continue
        for role, wanted in asked(pools).items():
            assert plan.workers.get(role, pools[role].desired) == wanted, (seen.now_s, role)
            steps[wanted - pools[role].ready] += 1
    assert set(steps) == {-1, 0, 1}
    assert min(steps[1], steps[-1]) >= 5
