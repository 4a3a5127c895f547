"""A controller that splits a budget: laws, both legs or neither, and flips."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from builders import disaggregated, poisson_traffic
from oracle import SteppingSimulation
from test_oracle import assert_same

from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation
from simulator.deployment import Deployment
from simulator.elastic import Elastic, StartUp
from simulator.errors import ConfigError
from simulator.policies.autoscaling import Bounds, Control, Flip, Observation, Observing, Plan
from simulator.policies.matching import (
    Aiconfigurator,
    Common,
    Matcher,
    ModelPredictive,
    Paper,
    QueueBalance,
    RateMatched,
    Ratio,
    SloFeedback,
    TokenVelocity,
)

COMMON = Common(ttft_s=0.2, tpot_s=0.0115, interval_s=0.5)
MATCHERS: tuple[Matcher, ...] = (
    Ratio(common=COMMON, decode=3.0),
    Paper(common=COMMON),
    Aiconfigurator(common=COMMON),
    TokenVelocity(common=COMMON),
    QueueBalance(common=COMMON),
    SloFeedback(common=COMMON, cooldown_s=1.0),
    ModelPredictive(common=COMMON),
)
LOAD = poisson_traffic(400, 80, 120, 40)


def controlled(policy: Any, **bounds: Bounds) -> Deployment:
    """Return three prefill and three decode workers under a policy."""
    return replace(
        disaggregated(3, 3),
        elastic=Elastic(startup=StartUp(seconds=0.3), flip_s=0.2),
        control=Control(
            policy=policy,
            observing=Observing(scrape_s=0.25, window_s=1.0),
            bounds=bounds,
        ),
    )


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda each: type(each).__name__)
def test_leaping_equals_stepping(matcher: Any, flips: bool) -> None:
    """Whatever is split how, and every law holds after every event."""
    matcher = replace(matcher, common=replace(COMMON, flips=flips))
    deployment = controlled(RateMatched(matcher=matcher))
    options = RunOptions(sample_interval_s=0.37)
    simulation = Simulation(deployment, LOAD, options)
    while not simulation.endings.all_over.processed:
        simulation.step()
        audit(simulation, simulation.record(sample=False))
    record = simulation.record()
    assert_same(record, SteppingSimulation(deployment, LOAD, options).run())
    assert (record.requests["status"] == 1).all()
    assert len(record.decisions) > 8


def test_pools_go_where_the_ratio_says() -> None:
    """1:5 of six workers is one and five, by flips or by starts."""
    for flips in (False, True):
        matcher = Ratio(common=replace(COMMON, flips=flips), decode=5.0)
        simulation = Simulation(controlled(RateMatched(matcher=matcher)), LOAD, RunOptions())
        simulation.run()
        assert simulation.fleet.counts("prefill")["desired"] == 1
        assert simulation.fleet.counts("decode")["desired"] == 5
        flipped = sum(life.flipped for life in simulation.fleet.lives)
        assert flipped == (2 if flips else 0)


@dataclass(frozen=True)
class Once:
    """Asks for one plan at its first tick."""

    plan: Plan
    interval_s: float = 0.5

    def initial(self) -> bool:
        """Return that it has not asked."""
        return False

    def decide(self, seen: Observation, state: bool) -> tuple[Plan, bool]:  # noqa: ARG002
        """Return the plan, then none."""
        return (Plan({}) if state else self.plan), True


@pytest.mark.parametrize(
    ("plan", "bounds", "counts"),
    [
        (Plan({"prefill": 2, "decode": 4}, together=True), {}, (2, 4)),
        (Plan({"prefill": 2, "decode": 4}, together=True), {"decode": Bounds(most=3)}, (3, 3)),
        (Plan({"prefill": 2, "decode": 4}), {"decode": Bounds(most=3)}, (2, 3)),
        (Plan({"prefill": 1, "decode": 5}, together=True), {"prefill": Bounds(step=1)}, (3, 3)),
        (Plan({"prefill": 1, "decode": 5}), {"prefill": Bounds(step=1)}, (2, 5)),
        # both grow: neither waits for the other
        (Plan({"prefill": 4, "decode": 6}, together=True), {"decode": Bounds(most=4)}, (4, 4)),
        (
            Plan({"prefill": 2, "decode": 4}, flips=(Flip("prefill", "decode", 1),), together=True),
            {"prefill": Bounds(least=3)},
            (3, 3),
        ),
        (
            Plan({"prefill": 1, "decode": 4}, flips=(Flip("prefill", "decode", 1),), together=True),
            {},
            (1, 4),  # one flips, one stops
        ),
    ],
)
def test_both_legs_or_neither(
    plan: Plan, bounds: dict[str, Bounds], counts: tuple[int, int]
) -> None:
    """Where one pool grows and the other shrinks, bounds that hold one leg hold both."""
    simulation = Simulation(controlled(Once(plan), **bounds), LOAD, RunOptions())
    record = simulation.run()
    found = tuple(simulation.fleet.counts(role)["desired"] for role in ("prefill", "decode"))
    assert found == counts
    granted = {each["pool"]: each["granted"] for each in record.decisions}
    assert (granted["prefill"], granted["decode"]) == counts
    held = any("both legs or neither" in str(each["reason"]) for each in record.decisions)
    assert held == (plan.together and counts == (3, 3))


def test_a_split_needs_two_pools() -> None:
    """One sentence, before anything is simulated."""
    deployment = controlled(RateMatched(matcher=Ratio(common=replace(COMMON, gpus=1000))))
    deployment = replace(deployment, elastic=Elastic(quota_gpus=100))
    with pytest.raises(ConfigError, match=r"1000 is more than elastic\.quota_gpus, 100"):
        Simulation(deployment, LOAD, RunOptions())
