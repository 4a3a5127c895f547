"""Shared ports: the rates are max-min fair at every event, and transfers end when they should."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from progressive import NEVER, Job, Live, Plant, fifo_times, shared_ends

from simulator.cluster.links.sharing import Bundle, Production

widths = st.lists(st.sampled_from([1.0, 1.0, 2.0, 0.7, 3.1]), min_size=1, max_size=5)


@st.composite
def cases(draw: Any, *, layerwise: bool = True) -> tuple[Plant, list[Job]]:
    """Return ports and jobs on a coarse grid, so that ties abound, some of them layer-wise."""
    plant = Plant(draw(widths), draw(widths))
    produced = st.sampled_from([0.0, 0.0, 0.5, 2.0] if layerwise else [0.0])
    job = st.builds(
        lambda at, out, into, size, produced, tail, cap: Job(
            at * 0.25, out, into, size, produced, size * tail, cap
        ),
        st.integers(0, 24),
        st.integers(0, len(plant.egress) - 1),
        st.integers(0, len(plant.ingress) - 1),
        st.sampled_from([0.25, 1.0, 1.0, 2.5, 7.3]),
        produced,
        st.sampled_from([0.0, 0.1, 1.0]),
        st.sampled_from([NEVER, NEVER, 0.3, 1.5]),
    )
    return plant, draw(st.lists(job, min_size=1, max_size=24))


@pytest.mark.parametrize("sharing", ["max_min", "processor_sharing"])
@given(case=cases())
@settings(max_examples=150)
def test_transfers_end_as_in_a_loop_over_all_flows(
    sharing: str, case: tuple[Plant, list[Job]]
) -> None:
    """Whatever comes when, every transfer ends when global re-rating at each event says."""
    plant, jobs = case
    live = Live(plant, jobs, sharing)
    live.run()
    assert live.ends == pytest.approx(shared_ends(plant, jobs, sharing), rel=1e-9, abs=1e-9)
    assert live.starts == [job.at for job in jobs]


@given(case=cases())
@settings(max_examples=150)
def test_fifo_starts_and_ends_as_in_a_walk_over_the_queue(case: tuple[Plant, list[Job]]) -> None:
    """First come, first served, but nobody waits for a transfer that itself has to wait."""
    plant, jobs = case
    live = Live(plant, jobs, "fifo")
    live.run()
    assert (live.starts, live.ends) == fifo_times(plant, jobs)


@given(case=cases())
@settings(max_examples=150)
def test_rates_are_max_min_fair_at_every_event(case: tuple[Plant, list[Job]]) -> None:
    """No port is overbooked; no flow could gain without a loss of one that has no more than it.

    That is the definition: each flow runs at its cap, or has a full port where nobody is faster.
    """
    Live(*case, "max_min").run(_check_fairness)


def _check_fairness(live: Live) -> None:
    ports = [*live.sources, *live.sinks]
    rates = {port: [(b.rate, b.flows) for b in port.bundles] for port in ports}
    full = set()
    for port, taken in rates.items():
        used = sum(rate * count for rate, count in taken)
        assert used <= port.bandwidth * (1 + 1e-12)
        assert port.flows == sum(count for _, count in taken)
        if used >= port.bandwidth * (1 - 1e-12):
            full.add(port)
    for bundle in {bundle for port in ports for bundle in port.bundles}:
        if bundle.rate == bundle.cap:
            continue
        assert any(
            port in full and bundle.rate >= max(rate for rate, _ in rates[port]) * (1 - 1e-12)
            for port in (bundle.egress, bundle.ingress)
        )


@given(case=cases())
@settings(max_examples=100)
def test_nothing_is_sent_before_it_is_produced(case: tuple[Plant, list[Job]]) -> None:
    """At every event a layer-wise flow has sent at most what its prefill has computed."""

    def look(live: Live) -> None:
        now = live.clock.now
        for bundle in {bundle for port in live.sources for bundle in port.bundles}:
            if isinstance(bundle, Production) and now <= bundle.flow.produced_at:
                sent = bundle.served + bundle.rate * (now - bundle.since)
                assert sent <= bundle.pace * (now - bundle.begun) + 1e-9

    Live(*case, "max_min").run(look)


def test_a_flow_held_up_elsewhere_leaves_its_share_to_its_neighbour() -> None:
    """Three flows, two hot ports: max-min hands on what an even split leaves unused."""
    plant = Plant([10.0, 2.0], [10.0, 10.0])
    jobs = [Job(0.0, 0, 0, 9.0), Job(0.0, 1, 0, 9.0), Job(0.0, 1, 1, 9.0)]
    ends = {}
    for sharing in ("max_min", "processor_sharing"):
        live = Live(plant, jobs, sharing)
        live.run()
        ends[sharing] = live.ends
    assert ends["max_min"] == pytest.approx([1.0, 9.0, 9.0])
    assert ends["processor_sharing"] == pytest.approx([1.8, 9.0, 9.0])


def test_a_layerwise_flow_catches_up_after_it_was_held_back() -> None:
    """It sends what waits as fast as its ports let it, then at the pace of its prefill again."""
    jobs = [Job(0.0, 0, 0, 4.0), Job(0.0, 1, 0, 5.0, produced_in=10.0, tail=1.0)]
    plant = Plant([1.0, 1.0], [0.6])
    live = Live(plant, jobs, "max_min")
    seen: set[tuple[float, float]] = set()

    def look(live: Live) -> None:
        for bundle in live.sources[1].bundles:
            assert isinstance(bundle, Bundle)
            seen.add((round(live.clock.now, 6), round(bundle.rate, 6)))

    live.run(look)
    # 0.3 of 0.6 each until 4/0.3 s; but the pace 0.4 is above 0.3, so a backlog grows until 10 s.
    assert (0.0, 0.3) in seen
    assert live.ends[0] == pytest.approx(4 / 0.3)
    assert live.ends[1] == pytest.approx(4 / 0.3 + (5.0 - 4.0) / 0.6)
    early = Live(plant, [Job(0.0, 0, 0, 0.6), jobs[1]], "max_min")
    early.run(look)
    # The other one is through at 2 s; 0.2 bytes wait and 0.6 - 0.4 more than the pace go: 3 s.
    assert {(2.0, 0.6), (3.0, 0.4)} <= seen
    assert early.ends[1] == pytest.approx(10.0 + 1.0 / 0.6)


@pytest.mark.parametrize("sharing", ["max_min", "processor_sharing"])
def test_a_hot_port_costs_no_more_when_thousands_wait_at_it(sharing: str) -> None:
    """The flows of two ports are one sum: rates to settle grow with ports, not with flows."""
    plant = Plant([1.0] * 4, [1.0])
    jobs = [Job(1e-4 * at, at % 4, 0, 1.0) for at in range(2000)]
    live = Live(plant, jobs, sharing)

    def look(live: Live) -> None:
        assert len(live.sinks[0].bundles) <= 4
        assert len(live.links._changes) <= 4 * len(jobs)  # type: ignore[union-attr]

    live.run(look)
    assert max(live.ends) == pytest.approx(2000.0)


def sojourn(sharing: str, load: float, requests: int = 20_000) -> float:
    """Return the mean transfer time, in mean service times, of exponential sizes over 8 × 8."""
    rng = np.random.default_rng(21)
    at = np.cumsum(rng.exponential(1 / (8 * load), requests))
    ends = rng.integers(0, 8, (requests, 2))
    sizes = rng.exponential(1.0, requests)
    jobs = [
        Job(float(t), int(e), int(i), float(s))
        for t, (e, i), s in zip(at, ends, sizes, strict=True)
    ]
    live = Live(Plant([1.0] * 8, [1.0] * 8), jobs, sharing)
    live.run()
    assert np.isfinite(live.ends).all()
    return float((np.array(live.ends) - at).mean() / sizes.mean())


def test_ports_that_share_carry_more_than_ports_in_a_convoy() -> None:
    """Every rule carries 0.8 of the links' capacity; sharing is faster than waiting in turn."""
    fair, even, convoy = (sojourn(s, 0.8) for s in ("max_min", "processor_sharing", "fifo"))
    assert fair <= even
    assert fair < convoy < 20
