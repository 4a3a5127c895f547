"""Admission in the engine: who is refused, what that costs, and that leaping changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic, traffic
from oracle import SteppingSimulation
from test_oracle import assert_same

from simulator.cluster.audit import audit
from simulator.cluster.pools import router
from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.deployment import Batching, Deployment
from simulator.errors import ConfigError
from simulator.policies.admission import (
    Admission,
    Arrival,
    EarlyRejection,
    Entrance,
    QueueCap,
    Shed,
    Tier,
    TokenTiers,
)
from simulator.policies.classes import Classes, ServiceClass
from simulator.record import REASONS, RunRecord

SLO = ServiceClass(ttft_s=0.3, tpot_s=0.0125)
LOW = ServiceClass(priority=-1, ttft_s=0.2, tpot_s=0.0125)
TIGHT = Batching(kv_blocks=90, max_num_seqs=24, max_num_batched_tokens=256, block_size=16)
POLICIES = {
    "queue_cap": QueueCap(waiting=2),
    "token_tiers": TokenTiers(tiers=(Tier(0, 400), Tier(100, 100))),
    "early": EarlyRejection(),
    "predictive": EarlyRejection(predicts=True, decode_s=1.0),
    "shed": Shed(),
}


def overload(requests: int = 300) -> Traffic:
    """Return more than two small workers can serve, every other request of the lower class."""
    load = poisson_traffic(requests, 90, 120, 60)
    return replace(load, classes=Classes(kinds=(SLO, LOW), of=bytes([0, 1] * (requests // 2))))


def refused(record: RunRecord) -> np.ndarray:
    """Return which requests were turned away."""
    return np.asarray(record.requests["status"] == 2)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_leaping_equals_stepping(build: object, policy: Admission) -> None:
    """What a policy sees of a leaping worker is what a stepping one shows; laws hold throughout."""
    deployment: Deployment = build(2, batching=TIGHT)  # type: ignore[operator]
    deployment = replace(deployment, admission=policy)
    options = RunOptions(sample_interval_s=0.37)
    stepping = SteppingSimulation(deployment, overload(), options).run()
    simulation = Simulation(deployment, overload(), options)
    while not simulation.endings.all_over.processed:
        simulation.step()
        audit(simulation, simulation.record(sample=False))
    assert_same(simulation.record(), stepping)
    assert 0 < refused(stepping).sum() < 300


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_large_pools_answer_alike(policy: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums and least loads kept up with changes are those looked through."""
    deployment = replace(disaggregated(3, 2, batching=TIGHT), admission=policy)
    plain = run(deployment, overload(), RunOptions())
    monkeypatch.setattr(router, "LARGE", 0)
    assert_same(run(deployment, overload(), RunOptions()), plain)


def test_a_queue_never_grows_beyond_its_cap() -> None:
    """Of a burst as many stay as one step takes and the queue holds."""
    deployment = replace(
        disaggregated(1, 1, batching=replace(TIGHT, kv_blocks=10_000)),
        admission=QueueCap(waiting=3),
    )
    record = run(deployment, traffic([0.0] * 20, [256] * 20, [2] * 20), RunOptions())
    assert refused(record).sum() == 17  # all arrive before the first step begins
    assert set(record.requests["reason"][refused(record)]) == {REASONS.index("queue_full")}


def test_who_was_refused_left_no_trace() -> None:
    """Those let in fare as if they had been alone, with a policy that sees the class only."""

    class Highest:
        def decide(self, arrival: Arrival, entrance: Entrance) -> str:  # noqa: ARG002
            return "shed" if arrival.service.priority < 0 else ""

    load = overload()
    deployment = disaggregated(2, 2, batching=TIGHT)
    both = run(replace(deployment, admission=Highest()), load, RunOptions())
    kept = ~refused(both)
    assert kept.sum() == 150
    alone = Traffic(
        arrival_s=load.arrival_s[kept],
        input_tokens=load.input_tokens[kept],
        output_tokens=load.output_tokens[kept],
    )
    # the router draws for all of them, so let one choice only be possible
    one = replace(deployment, pools=tuple(replace(pool, workers=1) for pool in deployment.pools))
    both = run(replace(one, admission=Highest()), load, RunOptions())
    only = run(one, alone, RunOptions())
    np.testing.assert_array_equal(both.requests["finish_s"][kept], only.requests["finish_s"])


def test_early_rejection_lets_nobody_in_who_must_be_late() -> None:
    """On an idle worker the estimate of the first token is what the engine then takes."""
    deployment = replace(
        colocated(1, batching=replace(TIGHT, kv_blocks=10_000)), admission=EarlyRejection()
    )
    load = traffic([0.0, 100.0], [1000, 1000], [2, 2])
    free = run(replace(deployment, admission=QueueCap()), load, RunOptions())
    takes = float(free.requests["first_token_s"][1] - free.requests["arrival_s"][1])
    for slack, count in ((1e-9, 0), (-1e-9, 2)):
        classes = Classes(kinds=(ServiceClass(ttft_s=takes * (1 + slack)),))
        record = run(deployment, replace(load, classes=classes), RunOptions())
        assert refused(record).sum() == count


def test_prediction_sees_what_is_still_in_prefill() -> None:
    """A burst: by what decode workers hold now all is let in; foreseen, what they can take."""
    batching = replace(TIGHT, kv_blocks=10_000, max_num_batched_tokens=8192)
    deployment = disaggregated(1, 1, batching=batching)
    load = traffic([0.0] * 40, [100] * 40, [50] * 40)
    classes = Classes(kinds=(ServiceClass(tpot_s=0.0115),))  # 10 ms + 0.1 ms a sequence: about 14
    load = replace(load, classes=classes)
    now = run(replace(deployment, admission=EarlyRejection()), load, RunOptions())
    ahead = run(replace(deployment, admission=EarlyRejection(predicts=True)), load, RunOptions())
    assert refused(now).sum() == 0
    assert 24 <= refused(ahead).sum() <= 27
    gaps = (ahead.requests["finish_s"] - ahead.requests["first_token_s"])[~refused(ahead)] / 49
    assert gaps.max() <= 0.0115 * 1.02


def test_a_target_that_is_needed_is_asked_for() -> None:
    """One sentence names the keys."""
    deployment = replace(disaggregated(1, 1), admission=EarlyRejection())
    with pytest.raises(ConfigError, match=r"needs ttft_s or tpot_s .* slo.ttft_s or slo.tpot_s"):
        run(deployment, traffic([0.0], [5], [5]), RunOptions())


def test_an_answer_nobody_knows_is_refused() -> None:
    """A policy of one's own is told what it may say."""

    class Rude:
        def decide(self, arrival: Arrival, entrance: Entrance) -> str:  # noqa: ARG002
            return "no"

    deployment = replace(disaggregated(1, 1), admission=Rude())
    with pytest.raises(ConfigError, match=r"admission Rude: answered 'no' for request 0"):
        run(deployment, traffic([0.0], [5], [5]), RunOptions())
