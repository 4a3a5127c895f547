"""Requests that wait for others: sent when they may be, each ends once or is never sent."""

from dataclasses import replace

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import SteppingSimulation
from test_oracle import assert_same

from simulator.clients import Clients
from simulator.cluster.audit import audit
from simulator.cluster.fleet.observer import Observer
from simulator.cluster.simulation import RunOptions, Simulation, Traffic
from simulator.deployment import Batching, Deployment
from simulator.errors import ConfigError
from simulator.policies.autoscaling import Observing
from simulator.record import STATUSES, RunRecord
from workloads.sessions import Following

TIGHT = Batching(kv_blocks=40, max_num_seqs=12, max_num_batched_tokens=128, block_size=16)


def links(count: int, seed: int, *, near: int = 8, go_on: bool = False) -> Following:
    """Return random chains, trees and joins among ``count`` requests."""
    rng = np.random.default_rng(seed)
    rows = [
        (int(parent), child, float(rng.exponential(0.5)) * (rng.random() < 0.8), rng.random() < 0.1)
        for child in range(1, count)
        if rng.random() < 0.75
        for parent in np.unique(rng.integers(max(0, child - near), child, rng.integers(1, 3)))
    ]
    parent, child, delay, dispatch = (
        np.array(column) for column in zip(*sorted(rows), strict=True)
    )
    return Following(
        requests=count, parent=parent, child=child, delay_s=delay, dispatch=dispatch, go_on=go_on
    )


def load(count: int, seed: int, *, concurrency: int | None = None, go_on: bool = False) -> Traffic:
    """Return traffic with sessions; some of its requests are too long to be served."""
    base = poisson_traffic(count, 20.0, 120, 40, seed)
    return replace(
        base, following=links(count, seed, go_on=go_on), concurrency=concurrency, clients=Clients()
    )


def ends(record: RunRecord) -> NDArray[np.float64]:
    """Return when each request ended; who was turned away did as it arrived."""
    rejected = record.requests["status"] == STATUSES.index("rejected")
    return np.where(rejected, record.requests["arrival_s"], record.requests["finish_s"])


@pytest.mark.parametrize("concurrency", [None, 1, 7])
@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_sessions_equal_oracle(build: object, concurrency: int | None) -> None:
    """With sessions, preemption and rejections, leaping equals stepping in every column."""
    deployment: Deployment = build(2, batching=TIGHT)  # type: ignore[operator]
    traffic = load(300, 3, concurrency=concurrency)
    options = RunOptions(sample_interval_s=0.37)
    leaping = Simulation(deployment, traffic, options).run()
    stepping = SteppingSimulation(deployment, traffic, options).run()
    assert_same(leaping, stepping)
    assert leaping.never_sent == stepping.never_sent > 0
    assert concurrency == 1 or leaping.requests["preemptions"].sum() > 0


@settings(max_examples=25)
@given(
    seed=st.integers(0, 999), go_on=st.booleans(), concurrency=st.sampled_from([None, None, 1, 3])
)
def test_turns_are_sent_when_they_may_be(seed: int, go_on: bool, concurrency: int | None) -> None:
    """Each comes exactly when the last of those it waits for has ended and its time has passed.

    What waits for one that was turned away, or was never sent, is never sent; all else is, once.
    """
    traffic = load(60, seed, go_on=go_on, concurrency=concurrency)
    following = traffic.following
    assert following is not None
    record = Simulation(disaggregated(2, 1, batching=TIGHT), traffic, RunOptions()).run()
    rows = np.arange(60) if record.rows is None else record.rows
    assert len(rows) + record.never_sent == 60
    arrival, ended = np.full(60, np.nan), np.full(60, np.nan)
    arrival[rows], ended[rows] = record.requests["arrival_s"], ends(record)
    failed = np.zeros(60, dtype=bool)
    failed[rows] = record.requests["status"] != STATUSES.index("completed")
    for child in range(60):
        mine = np.flatnonzero(following.child == child)
        if not len(mine):
            assert concurrency or arrival[child] == traffic.arrival_s[child]
            continue
        parents, dispatch = following.parent[mine], following.dispatch[mine]
        lost = np.isnan(arrival[parents]) | (failed[parents] & ~dispatch & (not go_on))
        assert np.isnan(arrival[child]) == lost.any()
        if not lost.any():
            since = np.where(dispatch, arrival[parents], ended[parents])
            assert arrival[child] == (since + following.delay_s[mine]).max()


@pytest.mark.parametrize("go_on", [False, True])
def test_what_waits_for_a_client_that_left(go_on: bool) -> None:
    """A client that gives up ends its session, and what would have followed is counted, or not."""
    chain = Following(
        requests=6,
        parent=np.array([0, 1, 3]),
        child=np.array([1, 2, 4]),
        delay_s=np.array([0.5, 0.5, 0.5]),
        dispatch=np.zeros(3, dtype=bool),
        go_on=go_on,
    )
    traffic = Traffic(
        arrival_s=np.array([0.0, np.nan, np.nan, 0.0, np.nan, 9.0]),
        input_tokens=np.full(6, 10, np.int32),
        output_tokens=np.array([500, 5, 5, 5, 5, 5], np.int32),
        clients=Clients(timeout_s=2.0),
        following=chain,
    )
    record = Simulation(colocated(1), traffic, RunOptions()).run()
    failed = record.requests["status"] == STATUSES.index("failed")
    assert failed.sum() == 1
    if go_on:
        assert record.never_sent == 0
        assert record.requests["arrival_s"][1] == 2.5
    else:
        assert record.never_sent == 2
        assert record.rows is not None
        assert record.rows.tolist() == [0, 3, 4, 5]


@settings(max_examples=20)
@given(seed=st.integers(0, 999), concurrency=st.integers(1, 5))
def test_so_many_sessions_at_a_time(seed: int, concurrency: int) -> None:
    """No more sessions than clients are under way, each begins in order as another is over."""
    traffic = load(80, seed, concurrency=concurrency)
    assert traffic.following is not None
    record = Simulation(colocated(2, batching=TIGHT), traffic, RunOptions()).run()
    rows = np.arange(80) if record.rows is None else record.rows
    number = traffic.following.sessions()[rows]
    arrival, ended = record.requests["arrival_s"], ends(record)
    begun = {each: arrival[number == each].min() for each in dict.fromkeys(number.tolist())}
    over = {each: ended[number == each].max() for each in begun}
    starts = np.array(list(begun.values()))
    assert (np.diff(starts) >= 0).all(), "sessions begin in the order of their first requests"
    assert (starts[:concurrency] == 0).all()
    for at, (session, start) in enumerate(begun.items()):
        under_way = sum(begun[other] <= start < over[other] for other in list(begun)[:at])
        assert under_way < concurrency, session
        assert start == 0 or start in over.values()


def test_laws_hold_at_every_event() -> None:
    """Every account holds after each event, whatever waits for whom."""
    simulation = Simulation(disaggregated(2, 1, batching=TIGHT), load(60, 7), RunOptions())
    while not simulation.endings.closed:
        simulation.step()
        audit(simulation, simulation.record(sample=False))
    assert simulation.endings.never > 0
    assert simulation.done == 60


def test_a_run_cut_short_has_who_arrived() -> None:
    """Stopped early, who never got to be sent is left out, and nobody is said to have failed."""
    traffic = load(200, 1, go_on=True)
    assert traffic.following is not None
    record = Simulation(colocated(1), traffic, RunOptions(until_s=3.0)).run()
    assert record.rows is not None
    assert 0 < len(record.rows) == len(record.requests["arrival_s"]) < 200
    assert record.never_sent == 0
    assert not np.isnan(record.requests["arrival_s"]).any()
    np.testing.assert_array_equal(
        record.requests["input_tokens"], traffic.input_tokens[record.rows]
    )


@pytest.mark.parametrize("demand", ["arrival", "completion"])
def test_controllers_see_sessions(demand: str) -> None:
    """Scrape by scrape, a controller sees each request that arrived, or ended, once."""
    simulation = Simulation(colocated(1), load(120, 2), RunOptions())
    observing = Observing(scrape_s=1.0, window_s=1.0, demand=demand)
    observer = Observer(observing, simulation.fleet, simulation.ledger, simulation.source)
    seen, due = [], 1.0
    while not simulation.endings.closed:
        simulation.step()
        if simulation.clock.now >= due or simulation.endings.closed:
            observer.scrape(simulation.clock.now)
            latest = observer.observation(simulation.clock.now)
            assert latest is not None
            seen.append(observer._scrapes[-1].input_tokens)
            due = simulation.clock.now + 1.0
    record = simulation.record()
    told = record.requests["status"] > 0
    if demand == "completion":
        told = record.requests["status"] == STATUSES.index("completed")
    wanted = record.requests["input_tokens"][told]
    assert len(seen) > 3
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.sort(wanted))


@pytest.mark.parametrize(
    ("arrivals", "told"),
    [([1.0, np.nan, 0.5], "never fall"), ([0.0, np.nan], "following differ in length")],
)
def test_traffic_with_sessions_checks_itself(arrivals: list[float], told: str) -> None:
    """First requests need times that rise, and links must be of these requests."""
    chain = Following(
        requests=3,
        parent=np.array([0]),
        child=np.array([1]),
        delay_s=np.zeros(1),
        dispatch=np.zeros(1, dtype=bool),
    )
    lengths = np.ones(len(arrivals), np.int32)
    with pytest.raises(ConfigError, match=told):
        Traffic(
            arrival_s=np.array(arrivals),
            input_tokens=lengths,
            output_tokens=lengths,
            following=chain,
        )
