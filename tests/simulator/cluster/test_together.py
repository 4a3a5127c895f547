"""Services that share GPUs: each is as if alone, but for the GPUs, which add up to the quota."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from builders import LinearLatency, colocated, disaggregated, poisson_traffic, shared, traffic
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracle import SteppingSimulation

from simulator.cluster.audit import audit
from simulator.cluster.fleet.lives import DRAINING, PENDING, SERVING, STARTING, Life
from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.cluster.together import Service, Together, run_together
from simulator.deployment import Batching, Deployment
from simulator.elastic import Drain, Elastic, StartUp
from simulator.errors import ConfigError
from simulator.policies.autoscaling import Bounds, Control, Observing, Schedule, Step
from simulator.policies.quota import Asking, FirstCome, Guaranteed, QueueShare, Quota
from simulator.record import STATUSES, RunRecord

EXAMPLES = int(os.environ.get("DISAGGSIM_TOGETHER_EXAMPLES", "25"))
"""Runs to draw; set the variable to thousands for a night's run."""

COMPLETED = STATUSES.index("completed")
QUOTAS: st.SearchStrategy[Quota] = st.one_of(
    st.just(FirstCome()),
    st.builds(Guaranteed, floors=st.sampled_from([{}, {"a": 1, "b": 4}, {"a": 3}])),
    st.builds(QueueShare, interval_s=st.sampled_from([0.5, 2.0])),
)
DRAINS = st.sampled_from([Drain(), Drain(mode="abort", grace_s=0.3), Drain(mode="migrate")])


class SteppingTogether(Together):
    """The same with workers that take one iteration at a time."""

    simulation = SteppingSimulation


def growing(
    base: Deployment, quota: int | None, *steps: tuple[float, str, int], **more: Any
) -> Deployment:
    """Return the deployment whose pools are to have so many workers from some moments on."""
    schedule = Schedule(steps=tuple(Step(at_s=at, pool=pool, workers=n) for at, pool, n in steps))
    bounds = Bounds(least=0)
    roles = ("prefill", "decode", "mixed")
    control = Control(
        policy=schedule,
        interval_s=0.5,
        observing=Observing(scrape_s=0.5),
        bounds=dict.fromkeys(roles, bounds),
    )
    elastic = Elastic(quota_gpus=quota, startup=StartUp(seconds=0.4), **more)
    return replace(base, elastic=elastic, control=control if steps else base.control)


def service(deployment: Deployment, load: Traffic, seed: int = 0, **more: Any) -> Service:
    """Return a service whose gauges are read as often as everybody's."""
    options = RunOptions(seed=seed, sample_interval_s=0.25, **more)
    return Service(deployment=deployment, traffic=load, options=options)


def assert_same(one: RunRecord, other: RunRecord) -> None:
    """Check that two records are equal in every number, gauges included."""
    for name, column in one.requests.items():
        np.testing.assert_array_equal(column, other.requests[name], err_msg=name)
    for name, gauge in one.timeline.items():
        np.testing.assert_array_equal(gauge, other.timeline[name], err_msg=name)
    np.testing.assert_array_equal(one.gaps.counts, other.gaps.counts)
    for name in ("events", "workers", "decisions", "end_s"):
        assert getattr(one, name) == getattr(other, name), name


@st.composite
def steps(draw: st.DrawFn, roles: tuple[str, ...]) -> tuple[tuple[float, str, int], ...]:
    """Draw when which pool is to have how many workers; all are to have one in the end."""
    drawn = [
        (draw(st.integers(1, 16)) / 2, draw(st.sampled_from(roles)), draw(st.integers(1, 5)))
        for _ in range(draw(st.integers(1, 5)))
    ]
    return (*sorted(drawn, key=lambda each: each[0]), *((9.0, role, 1) for role in roles))


@st.composite
def pairs(draw: st.DrawFn, quota: int | None) -> dict[str, Service]:
    """Draw a co-located service and one of two pools, which grow and shrink."""
    seed = draw(st.integers(0, 1000))
    batching = Batching(
        max_num_batched_tokens=draw(st.sampled_from([64, 512])),
        max_num_seqs=draw(st.sampled_from([4, 64])),
        kv_blocks=draw(st.sampled_from([60, 400])),
    )
    drain = draw(DRAINS)
    first = growing(colocated(1, batching=batching), quota, *draw(steps(("mixed",))), drain=drain)
    second = growing(
        disaggregated(1, 1, batching=batching),
        quota,
        *draw(steps(("prefill", "decode"))),
        drain=drain,
    )
    loads = [poisson_traffic(50, 6.0, 80, 30, seed + at) for at in range(2)]
    if draw(st.booleans()):
        loads[0] = shared(loads[0], seed=seed)
    return {
        "a": service(first, loads[0], seed),
        "b": service(second, loads[1], seed + 1),
    }


@given(services=pairs(None))
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_with_gpus_for_all_each_is_as_if_alone(services: dict[str, Service]) -> None:
    """Without a quota services do not touch each other: every column is that of a run alone."""
    together = run_together(services, FirstCome())
    for name, each in services.items():
        alone = run(each.deployment, each.traffic, each.options)
        for column, values in alone.requests.items():
            np.testing.assert_array_equal(values, together[name].requests[column], err_msg=column)
        there = len(alone.timeline["time_s"]) - 1  # the last sample is that of the end
        for gauge, values in alone.timeline.items():
            known = together[name].timeline[gauge][:there]
            if gauge != "time_s":
                known = known[:, : len(alone.workers)]  # others were made after this one's end
            np.testing.assert_array_equal(values[:there], known, err_msg=gauge)
        ended = [event for event in alone.events if event[3] != "end of run"]
        assert ended == list(together[name].events[: len(ended)])


@given(quota=QUOTAS, data=st.data())
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_a_leap_changes_nothing(quota: Quota, data: st.DataObject) -> None:
    """Under any rule and schedule leaping equals stepping, of every service."""
    services = data.draw(pairs(5))
    leaping = run_together(services, quota)
    stepping = SteppingTogether(services, quota).run()
    for name, record in leaping.items():
        assert_same(record, stepping[name])


@given(quota=QUOTAS, data=st.data())
@settings(max_examples=EXAMPLES // 2, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_laws_hold_at_every_event(quota: Quota, data: st.DataObject) -> None:
    """Accounts of each service and of the GPUs balance, and nobody is passed over, at any event."""
    services = data.draw(pairs(5))
    together = Together(services, quota)
    simulations = together.simulations.values()
    while not all(each.endings.all_over.triggered for each in simulations):
        together.step()
        together.check()
        for each in simulations:
            audit(each, each.record(sample=False))
        assert not list(passed_over(together, quota))
    for each in simulations:
        assert (np.asarray(each.ledger.columns()["status"]) != 0).all()


def passed_over(together: Together, quota: Quota) -> Iterator[str]:
    """Yield who waits although there are GPUs for it, by a plain look at all lives."""
    lives = {
        name: [life for pool in each.fleet.pools.values() for life in pool.lives]
        for name, each in together.simulations.items()
    }
    held = {name: counted(own, STARTING, SERVING, DRAINING) for name, own in lives.items()}
    waiting = {name: counted(own, PENDING) for name, own in lives.items()}
    free = 5 - sum(held.values())
    if free and any(waiting.values()):
        yield f"{free} GPUs are free but {waiting} wait"
    if not isinstance(quota, Guaranteed) or together.estate._doomed:
        return
    floors = {name: quota.floor(name, 2, 5) for name in lives}
    coming = free + sum(counted(own, DRAINING) for own in lives.values())
    for name, other in ("ab", "ba"):
        due = min(waiting[name], max(0, floors[name] - held[name]))
        lent = counted(lives[other], STARTING, SERVING) > floors[other]
        if due > coming and lent:
            yield f"{name} waits within its floor of {floors[name]} while {other} holds more"


def counted(lives: Sequence[Life], *states: str) -> int:
    """Return how many one-GPU workers are in one of the states."""
    return sum(life.state in states for life in lives)


def test_first_come_first_served() -> None:
    """GPUs that come free go to whoever asked first, whosever they are."""
    quota = 3
    hog = growing(colocated(1), quota, (1.0, "mixed", 3), (5.0, "mixed", 1))
    late = growing(colocated(1), quota, (1.0, "mixed", 2))
    load = poisson_traffic(60, 6.0, 80, 30)
    records = run_together({"a": service(hog, load), "b": service(late, load)}, FirstCome())
    [one, two] = [life for life in records["a"].workers if life.why != "initial"]
    [starved] = [life for life in records["b"].workers if life.why != "initial"]
    assert one.granted_s == 1.0
    assert starved.asked_s == 1.0
    assert np.isnan(two.granted_s)  # it was asked for too late, and is not wanted any more
    assert starved.granted_s >= 5.0


def test_a_floor_is_given_back() -> None:
    """What was lent of a floor is taken back, the newest worker first, and it drains."""
    quota = 4
    hog = growing(colocated(1), quota, (1.0, "mixed", 3))
    late = growing(colocated(1), quota, (3.0, "mixed", 2))
    load = poisson_traffic(80, 8.0, 80, 30)
    rule = Guaranteed(floors={"a": 1, "b": 2})
    records = run_together({"a": service(hog, load), "b": service(late, load)}, rule)
    taken = [life for life in records["a"].workers if life.because == "its GPUs are taken back"]
    assert [life.worker for life in taken] == [2]
    assert taken[0].draining_s == 3.0
    [own] = [life for life in records["b"].workers if life.why != "initial"]
    assert own.granted_s == taken[0].ended_s
    again = records["a"].workers[-1]
    assert again.why == "replaces worker 2"
    assert np.isnan(again.granted_s) or again.granted_s > own.granted_s
    assert (records["a"].requests["status"] == COMPLETED).all()


def test_beyond_a_floor_who_asks_waits() -> None:
    """Nobody is driven out for a service that has its floor already."""
    quota = 3
    hog = growing(colocated(1), quota, (1.0, "mixed", 2))
    late = growing(colocated(1), quota, (3.0, "mixed", 2))
    load = poisson_traffic(60, 6.0, 80, 30)
    rule = Guaranteed(floors={"a": 2, "b": 1})
    records = run_together({"a": service(hog, load), "b": service(late, load)}, rule)
    assert not [life for life in records["a"].workers if life.because.startswith("its GPUs")]
    assert np.isnan(records["b"].workers[-1].granted_s)


class Dealt:
    """Deals as it is told, and keeps what it was asked."""

    interval_s = 1.0
    reserves = False

    def __init__(self, *told: Mapping[tuple[str, str], int]) -> None:
        self.told = list(told)
        self.asked: list[tuple[Asking, ...]] = []

    def refused(self, services: Sequence[str], quota_gpus: int | None) -> str:  # noqa: ARG002
        """Return nothing."""
        return ""

    def floor(self, service: str, services: int, quota_gpus: int) -> int:  # noqa: ARG002
        """Return none."""
        return 0

    def ceilings(
        self,
        asking: Sequence[Asking],
        quota_gpus: int,  # noqa: ARG002
    ) -> Mapping[tuple[str, str], int]:
        """Return the next answer, or the last one again."""
        self.asked.append(tuple(asking))
        return self.told.pop(0) if len(self.told) > 1 else self.told[0]


def test_a_ceiling_holds_and_is_lifted() -> None:
    """A lower ceiling drains workers at once, a higher one lets a pool have what it asked for."""
    first = growing(colocated(3), 4, max_retries=3)
    second = replace(colocated(1), elastic=first.elastic)
    load = poisson_traffic(60, 6.0, 80, 30)
    rule = Dealt({("a", "mixed"): 1}, {("a", "mixed"): 1}, {("a", "mixed"): 3})
    records = run_together({"a": service(first, load), "b": service(second, load)}, rule)
    told = [(time, detail) for time, kind, _, detail in records["a"].events if kind == "desired"]
    assert told == [
        (1.0, "mixed: 3 to 1, at most 1 by the quota"),
        (3.0, "mixed: 1 to 3, at most 3 by the quota"),
    ]
    seen = rule.asked
    assert [(each.service, each.pool, each.gpus, each.desired) for each in seen[0]] == [
        ("a", "mixed", 1, 3),
        ("b", "mixed", 1, 1),
    ]
    assert seen[1][0].desired == 1


def test_an_autoscaler_is_held_under_a_ceiling() -> None:
    """What a policy asks for beyond its ceiling is not granted, and says so in its decisions."""
    first = growing(colocated(1), 4, (2.0, "mixed", 4))
    second = replace(colocated(1), elastic=first.elastic)
    load = poisson_traffic(40, 6.0, 80, 30)
    rule = Dealt({("a", "mixed"): 2})
    records = run_together({"a": service(first, load), "b": service(second, load)}, rule)
    asked = [(made["asked"], made["granted"]) for made in records["a"].decisions]
    assert (4, 2) in asked
    assert max(int(str(made["granted"])) for made in records["a"].decisions) == 2


def test_waiting_requests_are_counted() -> None:
    """A rule that looks is shown what waits at workers, and what waits for any worker at all."""
    idle = replace(colocated(1), elastic=Elastic(quota_gpus=2))
    busy = replace(
        colocated(1, batching=Batching(max_num_seqs=1)),
        latency=LinearLatency(base=10.0),
        elastic=idle.elastic,
    )
    rule = Dealt({})
    services = {
        "a": service(busy, traffic([0.0] * 5, 10, 2)),
        "b": service(idle, traffic([0.0, 40.0], 10, 2)),
    }
    run_together(services, rule)
    seen = rule.asked
    assert [each.waiting for each in seen[0]] == [4, 0]


def test_the_same_again() -> None:
    """Equal services give equal records."""

    def once() -> dict[str, RunRecord]:
        base = growing(colocated(1), 3, (1.0, "mixed", 3), (6.0, "mixed", 1))
        load = poisson_traffic(60, 6.0, 80, 30)
        return run_together({"a": service(base, load), "b": service(base, load)}, Guaranteed())

    for name, record in once().items():
        assert_same(record, once()[name])


def test_it_ends_at_a_time_limit() -> None:
    """With ``until_s`` all end there, whoever is still to be served."""
    base = replace(colocated(1), elastic=Elastic(quota_gpus=2))
    load = poisson_traffic(200, 20.0, 80, 30)
    services = {
        "a": service(base, load, until_s=2.0),
        "b": service(base, traffic([0.0], 10, 2), until_s=2.0),
    }
    records = run_together(services, FirstCome())
    assert {record.end_s for record in records.values()} == {2.0}
    assert (records["a"].requests["status"] == 0).any()
    assert (records["b"].requests["status"] == COMPLETED).all()


def test_who_waits_for_ever_does_not_keep_the_others() -> None:
    """A service whose only worker is gone ends with its requests unserved, and the run with it."""
    base = growing(colocated(1), 2, (1.0, "mixed", 0))
    other = replace(colocated(1), elastic=base.elastic)
    load = poisson_traffic(40, 6.0, 80, 30)
    records = run_together({"a": service(base, load), "b": service(other, load)}, FirstCome())
    assert (records["a"].requests["status"] == 0).any()
    assert (records["b"].requests["status"] == COMPLETED).all()


@pytest.mark.parametrize(
    ("quota", "rule", "says"),
    [
        (1, FirstCome(), "quota_gpus 1 is less than the 2 GPUs that the pools begin with"),
        (None, Guaranteed(), "floors need a quota, elastic.quota_gpus, but there is none"),
        (None, QueueShare(), "queue_share needs a quota, elastic.quota_gpus, but there is none"),
        (4, Guaranteed(floors={"c": 1}), r"floors\.c: there is no such service but a, b"),
        (4, Guaranteed(floors={"a": 3, "b": 2}), "floors add up to 5 GPUs but .* is only 4"),
    ],
)
def test_a_quota_that_does_not_go_is_refused(quota: int | None, rule: Quota, says: str) -> None:
    """One sentence names what speaks against it."""
    base = replace(colocated(1), elastic=Elastic(quota_gpus=quota))
    load = traffic([0.0], 10, 2)
    with pytest.raises(ConfigError, match=says):
        run_together({"a": service(base, load), "b": service(base, load)}, rule)


@dataclass(frozen=True)
class Odd(FirstCome):
    """Answers what no rule may."""

    answer: Any = None
    every: Any = 1.0
    own: Any = 0

    @property
    def interval_s(self) -> Any:
        """Return what is said of intervals."""
        return self.every

    @property
    def reserves(self) -> bool:
        """Return whether its floors are asked for."""
        return self.own != 0

    def floor(self, service: str, services: int, quota_gpus: int) -> Any:  # noqa: ARG002
        """Return what is said of floors."""
        return self.own

    def ceilings(self, asking: Any, quota_gpus: int) -> Any:  # noqa: ARG002
        """Return what is said of ceilings."""
        return self.answer


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (Odd([("a", 1)]), r"quota Odd: answered \[.*, but ceilings by service and pool are due"),
        (Odd({("c", "mixed"): 1}), r"named \('c', 'mixed'\), but there are a\.mixed, b\.mixed"),
        (Odd({("a", "mixed"): -1}), r"lets a\.mixed have -1 workers"),
        (Odd({("a", "mixed"): 1.5}), r"lets a\.mixed have 1\.5 workers"),
        (Odd({}, every=0), "interval_s must be None or at least 0.001 s but got 0"),
        (Odd({}, every="often"), "interval_s must be None or at least 0.001 s but got 'often'"),
        (Odd({}, own=1.5), "answered 1.5 about a's floor"),
        (Odd({}, own=-1), "answered -1 about a's floor"),
    ],
)
def test_a_rule_that_answers_what_it_may_not_is_told(rule: Quota, told: str) -> None:
    """By its name, with the answer."""
    load = poisson_traffic(60, 6.0, 80, 30)
    hog = growing(colocated(1), 3, (1.0, "mixed", 3))
    with pytest.raises(ConfigError, match=told):
        run_together({"a": service(hog, load), "b": service(hog, load)}, rule)
