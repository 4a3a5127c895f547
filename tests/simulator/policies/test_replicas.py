"""Autoscalers of replicas: their laws worked by hand."""

from dataclasses import replace
from typing import Any

import pytest
from views import engine, flow

from simulator.policies.autoscaling import Observation, PoolSeen, TrafficSeen
from simulator.policies.kubernetes import Band, Hpa, PerWorker, Saturation, SloKeda, Total, expected
from simulator.policies.saturation import AibrixApa
from simulator.policies.serving import Kpa, RayServe
from simulator.policies.windows import Behavior, Limits, Memory, PerPool, Rate, Told


def pool(*running: int, coming: int = 0, **more: Any) -> PoolSeen:
    """Return a pool of ready workers with so many running requests each."""
    fields: dict[str, Any] = {
        "desired": len(running) + coming,
        "pending": 0,
        "starting": coming,
        "ready": len(running),
        "draining": 0,
        "gpus_per_worker": 1,
        "waiting": (0,) * len(running),
        "running": running,
        "kv_utilization": (0.0,) * len(running),
    }
    return PoolSeen(**(fields | more))


def seen(
    now_s: float, ttft_s: tuple[float, ...] = (), tpot_s: tuple[float, ...] = ()
) -> Observation:
    """Return a look at a moment."""
    traffic = TrafficSeen(
        requests=0, rate=0.0, input_tokens=1.0, output_tokens=1.0, ttft_s=ttft_s, tpot_s=tpot_s
    )
    return Observation(now_s=now_s, seen_s=now_s, pools={}, traffic=traffic, free_gpus=None)


FREE = Limits(
    most=100,
    up=Behavior(window_s=0.0, rates=()),
    down=Behavior(window_s=0.0, rates=()),
)
"""No window and no rate: what a trigger asks for is what is granted."""


# --- Kubernetes: metrics to recommendations --------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "shown", "wanted"),
    [
        # mean 15 of target 10: ratio 1.5 over 4 pods
        (PerWorker(metric="running", target=10), pool(15, 15, 15, 15), 6),
        # ratio 1.05 is within the tolerance of 10 %, 1.125 is not
        (PerWorker(metric="running", target=10), pool(10, 11), 2),
        (PerWorker(metric="running", target=8), pool(9, 9), 3),
        # ratio 0.5 of 4
        (PerWorker(metric="running", target=10), pool(5, 5, 5, 5), 2),
        # up with two unready counted as idle: (30 + 30) / 4 = 15, ratio 1.5 × 4
        (PerWorker(metric="running", target=10), pool(30, 30, coming=2), 6),
        # ... and where that falls below 1, nothing changes: (12 + 12) / 4 = 6 of 10
        (PerWorker(metric="running", target=10), pool(12, 12, coming=2), 4),
        # down: the unready are left out, 0.5 × 2 ready
        (PerWorker(metric="running", target=10), pool(5, 5, coming=2), 1),
        # in flight is waiting and running: 12 + 18 over 2
        (PerWorker(target=10), pool(6, 6, waiting=(9, 9)), 3),
        # AverageValue: 100 / 16 = 6.25
        (Total(metric="running", target=16), pool(50, 50), 7),
        # 33 / (16 × 2) = 1.03 is within the tolerance
        (Total(metric="running", target=16), pool(17, 16), 2),
        (Total(metric="running", target=16), pool(0, 0), 0),
        # mean of max(q/5, kv/0.8): (2 + 0.8) / 2 = 1.4, over 0.7: 2 workers however many run
        (Saturation(), pool(0, 0, waiting=(10, 4), kv_utilization=(0.4, 0.4)), 2),
        (Saturation(), pool(*[0] * 8, waiting=(7,) * 8, kv_utilization=(0.1,) * 8), 2),
        (Saturation(), pool(0, 0, 0, waiting=(0,) * 3, kv_utilization=(0.56,) * 3), 1),
    ],
)
def test_triggers_ask_for_what_their_source_says(
    trigger: Any, shown: PoolSeen, wanted: int
) -> None:
    """Ratios, tolerance, unready workers and pool means, by hand."""
    assert trigger.wanted(shown) == wanted


def test_several_triggers_take_the_largest_and_missing_ones_never_shrink() -> None:
    """The max counts; a metric that cannot be read lets the others grow, not shrink."""
    both = Hpa(triggers=(Total(target=10), PerWorker(metric="waiting", target=2)), limits=FREE)
    shown = pool(10, 10, 10, waiting=(4, 4, 4))
    assert both.decide(shown, seen(0), Memory())[0] == 6
    blind = pool(3, 3, 3, waiting=None)
    assert both.decide(blind, seen(0), Memory())[0] == 3
    assert both.decide(pool(30, 30, 30, waiting=None), seen(0), Memory())[0] == 9
    assert both.decide(pool(1, 1, waiting=None, running=None), seen(0), Memory())[0] == 2


# --- Kubernetes: windows and rates -----------------------------------------------------------


def test_the_limits_defaults_are_kubernetes() -> None:
    """Up at once by 4 or 100 % in 15 s; down after 300 s, all of them in 15 s; 1 to 10."""
    four, double = Rate(15.0, workers=4), Rate(15.0, percent=100.0)
    assert Limits() == Limits(
        least=1,
        most=10,
        up=Behavior(window_s=0.0, rates=(four, double)),
        down=Behavior(window_s=300.0, rates=(double,)),
    )


def test_down_waits_for_the_largest_of_its_window() -> None:
    """300 s after the last high recommendation, and not before, workers go."""
    limits, memory, now = Limits(most=20), Memory(), 10
    for at_s, wanted, granted in ((0, 10, 10), (15, 3, 10), (299, 3, 10), (301, 4, 4)):
        got, memory = limits.apply(wanted, now, at_s, memory)
        assert got == granted, at_s
        now = got


def test_a_controller_that_begins_remembers_what_there_is() -> None:
    """Its first look is no reason to shrink: what there is counts as recommended."""
    assert Limits().apply(1, 5, 0.0, Memory())[0] == 5


def test_up_takes_the_least_of_its_window() -> None:
    """With an up window of 30 s a spike of one look changes nothing."""
    limits = Limits(most=20, up=Behavior(window_s=30.0, rates=()))
    got, memory = limits.apply(2, 2, 0.0, Memory())
    got, memory = limits.apply(9, got, 15.0, memory)
    assert got == 2
    got, memory = limits.apply(7, got, 29.0, memory)
    assert got == 2
    got, memory = limits.apply(8, got, 31.0, memory)
    assert got == 7


@pytest.mark.parametrize(("now", "granted"), [(1, 5), (3, 7), (4, 8), (6, 12), (40, 80)])
def test_up_at_most_four_or_double_within_15_s(now: int, granted: int) -> None:
    """The larger of 4 pods and 100 %."""
    assert Limits(most=100).apply(99, now, 0.0, Memory())[0] == granted


def test_rates_count_what_was_done_in_their_period() -> None:
    """A second look within the period starts from where the first one did."""
    limits = Limits(most=100)
    got, memory = limits.apply(99, 2, 0.0, Memory())
    assert got == 6
    got, memory = limits.apply(99, got, 10.0, memory)
    assert got == 6  # 2 + 4 within 15 s
    got, memory = limits.apply(99, got, 16.0, memory)
    assert got == 12
    one = Limits(most=20, down=Behavior(window_s=0.0, rates=(Rate(120.0, workers=1),)))
    got, memory = one.apply(1, 8, 0.0, Memory())
    assert got == 7
    assert one.apply(1, got, 60.0, memory)[0] == 7
    assert one.apply(1, got, 121.0, memory)[0] == 6


# --- llm-d's SLO-aware law -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "workers", "wanted"),
    [
        (0.50, pool(1, 1, 1, 1), 4),  # in the band
        (0.55, pool(1, 1, 1, 1), 4),
        (0.66, pool(1, 1, 1, 1), 5),  # 4 + ceil(4 × 0.2)
        (1.10, pool(1, 1, 1, 1), 8),  # 4 + ceil(4 × 1)
        (1.10, pool(1, 1, coming=2), 4),  # half are warm: 1.1 × 0.5 / 0.55 = 1
        (0.20, pool(1, 1, 1, 1), 2),  # 4 − floor(4 × 0.5)
        (0.35, pool(1, 1, 1, 1), 4),  # 4 − floor(0.5)
        (0.0, pool(1, 1, 1, 1), 0),
    ],
)
def test_the_slo_law_by_hand(share: float, workers: PoolSeen, wanted: int) -> None:
    """Up by the excess over 0.55, warm share credited; down by the part below 0.40."""
    assert SloKeda().wanted(workers, share) == wanted


def test_the_slo_law_reads_the_worse_p90_capped_and_averaged() -> None:
    """P90 by the nearest rank over targets, at most 2, averaged over 45 s of looks."""
    law = SloKeda(ttft_s=2.0, tpot_s=0.1, band=Band())
    traffic = seen(0, ttft_s=(0.2,) * 9 + (9.0,), tpot_s=(0.06,)).traffic
    assert law.share(traffic) == pytest.approx(0.6)
    assert law.share(seen(0, ttft_s=(0.2, 1.0)).traffic) == 0.5
    assert law.share(seen(0, ttft_s=(99.0,)).traffic) == 2.0
    assert law.share(seen(0).traffic) == 0.0
    shown = pool(*[1] * 4)
    told, memory = [], Memory()
    for at_s, ttft in ((0, 1.0), (15, 2.0), (30, 3.0), (45, 4.0)):
        _, why, memory = law.decide(shown, seen(at_s, ttft_s=(ttft,)), memory)
        told.append(float(why.split()[0]))
    assert told == [0.5, 0.75, 1.0, 1.5]  # at 45 s the look of 0 s has gone


def test_the_slo_law_may_read_what_the_next_request_would_meet() -> None:
    """A queue of 4,000 tokens at 0.1 ms each and 1,000 of its own: 0.5 s, over 1 s a half."""
    law = SloKeda(ttft_s=1.0, tpot_s=None, signal="predicted", limits=FREE)
    gauges = {"queued_tokens": (4000,), "kv_tokens": (0,), "engine": engine()}
    busy = pool(0, **gauges)
    flowing = replace(seen(0), traffic=flow(1.0))
    _, why, memory = law.decide(busy, flowing, Memory())
    assert why.startswith("0.50 of the SLO")
    # ... and the worst of a minute still counts when it has gone, averaged over 45 s
    idle = pool(0, **(gauges | {"queued_tokens": (0,)}))
    _, why, memory = law.decide(idle, replace(flowing, now_s=30.0), memory)
    assert why.startswith("0.50 of the SLO")
    _, why, memory = law.decide(idle, replace(flowing, now_s=75.0), memory)
    assert why.startswith("0.10 of the SLO")
    # no traffic, or no engine: nothing
    assert law.decide(busy, seen(0), Memory())[1].startswith("0.00")
    unknown = replace(busy, engine=None)
    assert law.decide(unknown, flowing, Memory())[1].startswith("0.00")


def test_a_full_worker_is_predicted_to_be_waited_for() -> None:
    """KV for 100,000 / 1,050 = 95 sequences; 20 beyond wait for 20 / 95 of an answer's time."""
    shown = pool(95, waiting=(19,), queued_tokens=(0,), kv_tokens=(0,), engine=engine())
    ((first, gap),) = expected(shown, flow(1.0))
    seats = 100_000 / 1050
    assert first == pytest.approx((19 + 95 + 1 - seats) * 100 * gap / seats)


# --- Knative ---------------------------------------------------------------------------------


def through(policy: Any, looks: list[tuple[float, int, int]]) -> list[int]:
    """Return what a pool is told at each look: when, workers ready, requests in flight."""
    told, memory = [], Memory()
    for at_s, ready, in_flight in looks:
        running = (in_flight,) + (0,) * (ready - 1)
        got, _, memory = policy.decide(pool(*running), seen(at_s), memory)
        told.append(got)
    return told


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([(0, 1, 100), (2, 1, 100)], [2, 2]),  # ceil(100 / 70), panic: 2 of 1 ready
        ([(0, 1, 10)], [1]),
        ([(0, 1, 0), (60, 1, 0)], [1, 1]),  # never below least
        # panic (mean of 6 s: 700 → 10) rules over stable and only grows for 60 s
        ([(0, 1, 0), (10, 1, 700), (20, 8, 70), (60, 8, 70), (71, 8, 70)], [1, 10, 10, 10, 4]),
        # starts in panic with four ready: holds them
        ([(0, 4, 10), (30, 4, 10), (61, 4, 10)], [4, 4, 2]),
        # at most half of the ready go at once: floor(8 / 2)
        ([(0, 8, 0), (61, 8, 0)], [8, 4]),
    ],
)
def test_knatives_windows_by_hand(looks: list[tuple[float, int, int]], told: list[int]) -> None:
    """Stable and panic means, panic's memory, and the rates."""
    assert through(Kpa(most=10), looks) == told


def test_knative_grows_by_its_rate_at_most() -> None:
    """Whatever the load: ceil(3 ready × 2.5) from 3 workers."""
    assert through(Kpa(most=100, up_rate=2.5), [(0, 3, 70_000)]) == [8]


# --- Ray Serve -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "looks", "told"),
    [
        # 9 in flight over 2 a worker: 5; after 30 s of wanting more
        (RayServe(), [(0, 1, 9), (15, 1, 9), (30, 1, 9)], [1, 1, 5]),
        # the other direction starts the wait anew
        (RayServe(look_back_s=1), [(0, 2, 9), (15, 2, 1), (30, 2, 9), (60, 2, 9)], [2, 2, 2, 5]),
        # down after 600 s
        (RayServe(), [(0, 5, 2), (599, 5, 2), (600, 5, 2)], [5, 5, 1]),
        # a factor of 0.5 goes half the way: ceil(2 + 0.5 × (5 − 2))
        (RayServe(factor=0.5, up_s=0), [(0, 2, 10)], [4]),
        # damped to nothing it still takes one away: ceil(3 − 0.5 × 0.5) = 3
        (RayServe(factor=0.5, down_s=0), [(0, 3, 5)], [2]),
        # bounds
        (RayServe(most=4, up_s=0), [(0, 2, 100)], [4]),
    ],
)
def test_rays_delays_by_hand(
    policy: RayServe, looks: list[tuple[float, int, int]], told: list[int]
) -> None:
    """Means, delays by direction, the factor and its stuck case."""
    assert through(policy, looks) == told


# --- all of them -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Limits(least=0),
        lambda: Limits(least=5, most=4),
        lambda: Behavior(window_s=-1.0, rates=()),
        lambda: Behavior(window_s=0.0, rates=(Rate(0.0, workers=1),)),
        lambda: Behavior(window_s=0.0, rates=(Rate(15.0),)),
        lambda: Behavior(window_s=0.0, rates=(Rate(15.0, 1, 5.0),)),
        lambda: Behavior(window_s=0.0, rates=(Rate(15.0, workers=-1),)),
        lambda: Behavior(window_s=0.0, rates=(Rate(15.0, percent=-5.0),)),
        lambda: PerWorker(target=0),
        lambda: PerWorker(metric="waits", target=1),
        lambda: Total(metric="", target=1),
        lambda: AibrixApa(metric="queue", target=1),
        lambda: SloKeda(ttft_s=0.0),
        lambda: SloKeda(tpot_s=-1.0),
        lambda: PerPool(pools={}, interval_s=0.0),
        lambda: PerPool(pools={}, scrape_s=0.0),
        lambda: Hpa(triggers=()),
        lambda: SloKeda(ttft_s=None, tpot_s=None),
        lambda: SloKeda(signal="guessed"),
        lambda: SloKeda(rate_s=0.0),
        lambda: SloKeda(band=Band(0.6, 0.5)),
        lambda: Kpa(stable_s=1.0),
        lambda: Kpa(least=3, most=2),
        lambda: RayServe(target=float("nan")),
        lambda: PerPool(pools={"prefil": Kpa()}),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: Any) -> None:
    """Each in one sentence that names what was expected."""
    with pytest.raises(ValueError, match=r" (must|needs|has either) "):
        bad()


def test_memory_is_of_the_windows_alone() -> None:
    """What is older than every window is forgotten, however long a run is."""
    limits, memory, now = Limits(most=50), Memory(), 3
    for tick in range(5_000):
        now, memory = limits.apply(3 + tick % 7, now, 15.0 * tick, memory)
    assert len(memory.recommended) <= 22
    assert len(memory.ups) + len(memory.downs) <= 4
    assert all(isinstance(each, Told) for each in memory.recommended)


def test_a_rate_of_none_moves_nobody() -> None:
    """A limit of no worker in a period forbids the direction, as Kubernetes' Disabled does."""
    still = Behavior(window_s=0.0, rates=(Rate(15.0, workers=0),))
    limits = Limits(most=20, up=still, down=still)
    assert limits.apply(9, 4, 0.0, Memory())[0] == 4
    assert limits.apply(1, 4, 0.0, Memory())[0] == 4


def test_a_share_down_is_of_what_there_was() -> None:
    """Of 1,000 half may go within the period, and what is left over is rounded down."""
    half = Behavior(window_s=0.0, rates=(Rate(15.0, percent=50.0),))
    limits = Limits(most=1000, down=half)
    got, memory = limits.apply(1, 1000, 0.0, Memory())
    assert got == 500
    assert limits.apply(1, got, 10.0, memory)[0] == 500
    assert limits.apply(1, got, 16.0, memory)[0] == 250
