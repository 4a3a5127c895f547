"""What every autoscaler that is shipped keeps: the contract, and rest under constant load."""

from functools import cache
from typing import Any

import pytest
from views import flow, pool, seen

from simulator.cli import compose
from simulator.policies.windows import PerPool
from simulator.testing import check_autoscaler

BY_POOL = ("hpa", "keda_epp", "keda_epp_queue", "keda_slo", "keda_waiting", "kpa", "ray_serve")
PLANNERS = ("dynamo_threshold", "dynamo_sla", "dynamo_sla autoscaler.load=true")


@cache
def shipped(name: str) -> Any:
    """Return the policy of a shipped file, composed once."""
    return compose(f"autoscaler={name}".split()).deployment.control.policy


@pytest.mark.parametrize("name", [*PLANNERS, *BY_POOL])
def test_what_is_shipped_keeps_the_contract(name: str) -> None:
    """Pure, quick, whole numbers within bounds, and alive whatever is seen."""
    check_autoscaler(shipped(name))
    check_autoscaler(shipped(name), pools=("mixed",))


@pytest.mark.parametrize("name", BY_POOL)
def test_a_pool_s_own_policy_is_there_for_each(name: str) -> None:
    """Of all three roles."""
    policy = shipped(name)
    assert isinstance(policy, PerPool)
    assert set(policy.pools) == {"prefill", "decode", "mixed"}


@pytest.mark.parametrize("name", BY_POOL)
def test_constant_load_settles(name: str) -> None:
    """Under one and the same load a pool's size stops changing."""
    policy = shipped(name)
    state, workers = policy.initial(), 4
    sizes = []
    for tick in range(200):
        shown = pool(workers, running=(30,) * workers)
        load = flow(1.0, ttft_s=(1.4,), tpot_s=(0.047,))
        plan, state = policy.decide(seen(15.0 * tick, load, decode=shown), state)
        workers = plan.workers["decode"]
        sizes.append(workers)
    assert len(set(sizes[-100:])) == 1
