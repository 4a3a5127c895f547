"""Flips as requests come: Arrow's rules by hand, and what they do to a cluster."""

from dataclasses import replace

import pytest
from builders import colocated, disaggregated, poisson_traffic, traffic
from oracle import SteppingSimulation
from test_oracle import assert_same

from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic
from simulator.deployment import Deployment
from simulator.elastic import Drain, Elastic
from simulator.errors import ConfigError
from simulator.policies.classes import Classes, ServiceClass
from simulator.policies.flipping import ArrowFlips, Crowd, NeverFlip

DUE = ServiceClass(ttft_s=1.0, tpot_s=0.05)


@pytest.mark.parametrize(
    ("seen", "flips"),
    [
        (Crowd(4, 4, 0.1, 0.05), False),  # a decode worker holds the target
        (Crowd(4, 4, 0.1, 0.051), True),  # none does, and 0.1 < 0.75
        (Crowd(4, 4, 0.75, 0.06), False),  # 1 s · 3/4 is not below itself
        (Crowd(4, 4, 0.74, 0.06), True),
        (Crowd(4, 3, 9.0, 0.06), True),  # fewer decode than prefill workers
        (Crowd(2, 2, 0.5, 0.06), False),  # 1 s · 1/2
        (Crowd(2, 2, 0.49, 0.06), True),
        (Crowd(1, 1, 0.0, 9.0), False),  # the last prefill worker stays
    ],
)
def test_arrow_gives_prefill_workers_to_decode(seen: Crowd, flips: bool) -> None:
    """No decode fits, and the backlog is below TTFT · (P − 1) / P or D < P."""
    assert ArrowFlips().to_decode(seen, DUE) is flips
    assert NeverFlip().to_decode(seen, DUE) is False


def test_arrow_takes_idle_decode_workers() -> None:
    """Those without a request, and no others."""
    assert [ArrowFlips().to_prefill(count) for count in (0, 1, 9)] == [True, False, False]
    assert not NeverFlip().to_prefill(0)


@pytest.mark.parametrize(
    ("service", "lacks"),
    [
        (ServiceClass(tpot_s=0.05), "ttft_s"),
        (ServiceClass(ttft_s=1.0), "tpot_s"),
        (ServiceClass(), "ttft_s"),
        (DUE, ""),
    ],
)
def test_arrow_judges_by_both_targets(service: ServiceClass, lacks: str) -> None:
    """And says which one is missing."""
    assert ArrowFlips().needs(service) == lacks


def cluster(prefill: int, decode: int, flip_s: float = 0.2) -> Deployment:
    """Return a deployment that Arrow's rules flip."""
    return replace(
        disaggregated(prefill, decode),
        flipping=ArrowFlips(update_s=0.5),
        elastic=Elastic(flip_s=flip_s, drain=Drain()),
    )


def load(requests: int = 300, tpot_s: float = 0.0112) -> Traffic:
    """Return traffic that needs more than one decode worker for its TPOT target."""
    kinds = (ServiceClass(ttft_s=0.5, tpot_s=tpot_s),)
    return replace(poisson_traffic(requests, 60, 120, 40), classes=Classes(kinds=kinds))


@pytest.mark.parametrize("flip_s", [0.0, 0.2])
@pytest.mark.parametrize("pools", [(4, 1), (1, 4), (3, 3)])
def test_leaping_equals_stepping(pools: tuple[int, int], flip_s: float) -> None:
    """Roles change alike; laws hold after every event, and each pool keeps a worker."""
    deployment, options = cluster(*pools, flip_s), RunOptions(sample_interval_s=0.37)
    simulation = Simulation(deployment, load(), options)
    while not simulation.endings.all_over.processed:
        simulation.step()
        audit(simulation, simulation.record(sample=False))
        assert simulation.entries.workers
        assert simulation.decoders.workers
    record = simulation.record()
    assert_same(record, SteppingSimulation(deployment, load(), options).run())
    assert (record.requests["status"] == 1).all()
    assert any(life.flipped for life in simulation.fleet.lives)


def test_workers_go_where_they_are_needed() -> None:
    """From one decode worker to more where TPOT is missed; from idle ones to prefill."""
    simulation = Simulation(cluster(4, 1), load(), RunOptions())
    simulation.run()
    to_decode = [life for life in simulation.fleet.lives if life.flipped]
    assert {life.crew.pool.role for life in to_decode} >= {"decode"}
    few = replace(traffic([0.0, 1.0], 50, 2), classes=Classes(kinds=(DUE,)))
    simulation = Simulation(cluster(1, 4), few, RunOptions())
    simulation.run()
    assert len(simulation.decoders.workers) == 1


def test_arrow_needs_pools_and_targets() -> None:
    """One sentence names what is missing."""
    with pytest.raises(ConfigError, match="flipping ArrowFlips: needs prefill and decode pools"):
        Simulation(replace(colocated(2), flipping=ArrowFlips()), load(), RunOptions())
    with pytest.raises(ConfigError, match=r"flipping ArrowFlips: needs ttft_s .*slo\.ttft_s"):
        Simulation(cluster(2, 2), traffic([0.0], 5, 5), RunOptions())
    with pytest.raises(ValueError, match="arrow_flips: update_s must be at least 0 s"):
        ArrowFlips(update_s=-1.0)
