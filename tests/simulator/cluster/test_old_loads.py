"""Routers that read loads now and then: leaping equals stepping, and who is taken for idle."""

from dataclasses import replace

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic, shared, traffic
from test_oracle import TIGHT, both

from simulator.cluster.simulation import RunOptions, run
from simulator.errors import ConfigError
from simulator.policies.prefixes import KvAware
from simulator.policies.routing import LeastKV, LeastTokens, RoundRobin


@pytest.mark.parametrize("router", [LeastTokens(), KvAware()], ids=["tokens", "caches"])
def test_old_loads_equal_oracle(router: LeastTokens | KvAware) -> None:
    """Under memory pressure the columns agree, and are not those of live loads."""
    base = disaggregated(3, 3, batching=TIGHT, router=router, router_refresh_s=0.2)
    load = shared(poisson_traffic(200, 60, 120, 60))
    record = both(base, load)
    live = run(replace(base, router_refresh_s=0.0), load, RunOptions(sample_interval_s=0.37))
    assert (record.requests["prefill_worker"] != live.requests["prefill_worker"]).any()


def test_all_go_to_who_was_idle_when_loads_were_read() -> None:
    """Two workers, one busy: until the next reading everybody goes to the other."""
    load = traffic([0.0, 1.0, 1.01, 1.02, 1.049, 1.05, 1.06], 100, [400, 9, 9, 9, 9, 9, 9])
    base = colocated(2, router=LeastKV(), router_refresh_s=0.05)
    first, *others = both(base, load).requests["prefill_worker"].tolist()
    herd = 1 - first
    assert others == [herd] * 4 + [first] * 2  # read at 1.0 and at 1.05
    count = both(replace(base, router_refresh_s=0.0), load).requests["prefill_worker"].tolist()
    assert len(set(count[1:5])) == 2


def test_a_policy_that_looks_at_no_loads_minds_no_age() -> None:
    """Round robin goes round."""
    load = poisson_traffic(50, 30, 99, 9)
    old, live = (
        run(colocated(3, router=RoundRobin(), router_refresh_s=age), load, RunOptions()).requests
        for age in (5.0, 0.0)
    )
    for name, column in old.items():
        np.testing.assert_array_equal(column, live[name], err_msg=name)


def test_bad_ages_are_told() -> None:
    """Below nothing, or beside a queue that needs a count."""
    with pytest.raises(ConfigError, match="router_refresh_s must be at least 0 but got -1"):
        colocated(1, router_refresh_s=-1)
    with pytest.raises(ConfigError, match="router_queue_threshold needs a router that keeps"):
        colocated(1, router_refresh_s=1.0, router_queue_threshold=0.0)
