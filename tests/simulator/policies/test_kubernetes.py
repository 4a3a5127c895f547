"""Kubernetes' and KEDA's laws at their edges, and what a next request would meet, by hand."""

from dataclasses import replace
from math import ceil
from typing import Any

import pytest
from views import Steps, engine, flow, pool, seen

from simulator.policies.kubernetes import (
    Band,
    Hpa,
    Mean,
    PerWorker,
    RouterQueue,
    Saturation,
    ScaledObject,
    SloKeda,
    Total,
    expected,
)
from simulator.policies.windows import Behavior, Limits, Memory, Rate, Told

STILL = Limits(most=100, up=Behavior(window_s=0.0, rates=()), down=Behavior(window_s=0.0, rates=()))


@pytest.mark.parametrize(
    ("running", "coming", "wanted"),
    [
        # 42 over 4 counted ones is 10.5 of 10: within a tenth, though 21 of the ready are not
        ((21, 21), 2, 4),
        ((23, 23), 2, 5),  # 1.15 · 4
        # the ready are under their target: the starting ones are not counted
        ((10, 10), 2, 4),  # at the target all four stay
        ((8, 8), 2, 2),
        ((9, 9), 2, 4),  # a tenth below is within
        ((9, 9), 0, 2),
    ],
)
def test_a_mean_held_at_its_target(running: tuple[int, ...], coming: int, wanted: int) -> None:
    """Of 10 requests a worker, within a tenth."""
    trigger = PerWorker(metric="running", target=10.0)
    assert trigger.wanted(pool(len(running), coming=coming, running=running)) == wanted
    shown = pool(len(running), coming=0, running=running, pending=coming)
    shown = replace(shown, desired=len(running) + coming)
    assert trigger.wanted(shown) == wanted


def test_the_tolerance_itself_is_within_it() -> None:
    """9 of 8 are an eighth more: nothing, if an eighth is tolerated; with starting ones too."""
    trigger = PerWorker(metric="running", target=8.0, tolerance=0.125)
    for running, coming, wanted in (
        ((9, 9), 0, 2),
        ((9, 10), 0, 3),
        ((7, 7), 0, 2),
        ((7, 6), 0, 2),
    ):
        assert trigger.wanted(pool(2, coming=coming, running=running)) == wanted
    assert trigger.wanted(pool(2, coming=2, running=(18, 18))) == 4
    assert trigger.wanted(pool(2, coming=2, running=(18, 19))) == 5
    total = Total(metric="running", target=8.0, tolerance=0.125)
    assert total.wanted(pool(2, running=(9, 9))) == 2
    assert total.wanted(pool(2, running=(9, 10))) == 3


def test_an_answer_that_points_the_other_way_changes_nothing() -> None:
    """Two ready of 40 and one starting would be 8 for 9 that are desired: they stay nine."""
    shown = replace(pool(2, coming=1, running=(40, 40)), desired=9)
    assert PerWorker(metric="running", target=10.0).wanted(shown) == 9
    assert PerWorker(metric="running", target=10.0).wanted(replace(shown, desired=8)) == 8
    assert PerWorker(metric="running", target=10.0).wanted(replace(shown, desired=7)) == 8


def test_what_no_worker_tells_is_not_known() -> None:
    """No ready worker has no mean, but a sum of nothing; without the metric there is neither."""
    for blind in (pool(0, coming=2), pool(2, waiting=None), pool(2, running=None)):
        assert PerWorker(target=10.0).wanted(blind) is None
    assert Total(target=10.0).wanted(pool(0, coming=2)) == 0
    assert Total(target=10.0).wanted(pool(2, running=None)) is None
    assert Total(metric="in_flight", target=10.0).wanted(pool(2, waiting=None)) is None
    for blind in (pool(0), pool(2, waiting=None), pool(2, kv_utilization=None)):
        assert Saturation().wanted(blind) is None


@pytest.mark.parametrize(
    ("total", "desired", "wanted"),
    [
        (33, 3, 3),  # 3.3 for 3 is a tenth more: within
        (34, 3, 4),
        (27, 3, 3),
        (26, 3, 3),  # 2.6 → 3
        (20, 3, 2),
        (30, 0, 3),  # from none at once
    ],
)
def test_a_sum_held_at_a_target_for_each(total: int, desired: int, wanted: int) -> None:
    """Of 10 for each worker desired, within a tenth of them."""
    shown = replace(pool(1, running=(total,)), desired=desired)
    assert Total(metric="running", target=10.0).wanted(shown) == wanted


@pytest.mark.parametrize(
    ("held", "desired", "wanted"),
    [
        (0, 1, 0),  # which limits keep from going below their least
        (1, 1, 1),
        (5, 2, 5),  # one request a worker
        (21, 20, 20),  # a twentieth more is near enough
        (23, 20, 23),
        (None, 3, None),  # the router keeps no queue
    ],
)
def test_the_router_s_queue_held_at_a_target_for_each(
    held: int | None, desired: int, wanted: int | None
) -> None:
    """Whatever waits at workers, and however many run."""
    shown = replace(pool(1, running=(40,), waiting=(9,)), desired=desired, held=held)
    assert RouterQueue().wanted(shown) == wanted


@pytest.mark.parametrize(
    ("waiting", "used", "queue", "kv"),
    [
        ((1,), (0.5,), 1, 1),  # half of 2, and 0.71 of 0.7
        ((5,), (0.98,), 3, 2),  # 2.5 times 2; 1.4 times 0.7
        (
            (40, 0),
            (1.0, 1.0),
            10,
            2,
        ),  # 20 on average; full ones ask for two, however many
        ((4, 0, 2), (0.9, 0.9, 0.9), 1, 2),  # a mean of 2 asks for one worker, whoever shares it
    ],
)
def test_a_mean_asks_for_as_many_whoever_is_there(
    waiting: tuple[int, ...], used: tuple[float, ...], queue: int, kv: int
) -> None:
    """Kubernetes divides it by the target alone."""
    shown = pool(len(waiting), waiting=waiting, kv_utilization=used)
    assert Mean(metric="waiting", target=2.0).wanted(shown) == queue
    assert Mean(metric="kv_utilization", target=0.7).wanted(shown) == kv


def test_a_mean_of_nobody_is_not_read() -> None:
    """Neither where the engine does not export it, nor where no worker is ready."""
    assert Mean(metric="waiting", target=2.0).wanted(pool(2, waiting=None)) is None
    assert Mean(metric="waiting", target=2.0).wanted(pool(0, coming=1)) is None
    with pytest.raises(ValueError, match="mean: target must be above 0"):
        Mean(target=0.0)


def test_a_router_without_a_queue_takes_nobody_away() -> None:
    """As any metric that is missing: running requests may ask for more, not for fewer."""
    at_once = Limits(up=Behavior(window_s=0.0, rates=()), down=Behavior(window_s=0.0, rates=()))
    triggers = RouterQueue(), Total(metric="running", target=16.0)
    law = Hpa(triggers=triggers, limits=at_once)
    for running, held, wanted in ((4, None, 3), (4, 0, 1), (80, None, 5), (4, 7, 7)):
        shown = replace(pool(3, running=(running, 0, 0)), held=held)
        assert law.decide(shown, seen(0.0), Memory())[0] == wanted


def test_metrics_are_told_in_thousandths() -> None:
    """0.7009 is 700 of 700: one worker; 0.701 asks for a second, where none is near enough."""
    for used, wanted in ((0.7009, 1), (0.7011, 2)):
        trigger = Saturation(kv=1.0, tolerance=0.0)
        assert trigger.wanted(pool(1, kv_utilization=(used,))) == wanted
    # thousandths of the target are rounded: 0.3336 is 334
    assert Total(target=0.3336, tolerance=0.0).wanted(pool(9, running=(1,) + (0,) * 8)) == 3


def test_saturation_is_the_fuller_of_queue_and_kv() -> None:
    """10 of 5 waiting are 2, 0.4 of 0.8 of KV a half; their mean over two workers."""
    shown = pool(2, waiting=(10, 0), kv_utilization=(0.9, 0.4))
    assert Saturation(target=0.1).wanted(shown) == ceil((2 + 0.5) / 2 / 0.1)
    assert Saturation(target=0.1, queue=10.0, kv=0.4).wanted(shown) == ceil((2.25 + 1) / 2 / 0.1)


# --- several triggers --------------------------------------------------------------------------


def test_a_hold_with_a_metric_missing_is_still_a_recommendation() -> None:
    """Kubernetes gives up only where it would shrink, or where nothing can be read."""
    both = Hpa(triggers=(Total(target=10.0), PerWorker(metric="waiting", target=2.0)), limits=STILL)
    blind: dict[str, Any] = {"waiting": None}
    got, why, memory = both.decide(pool(3, running=(10,) * 3, **blind), seen(7.0), Memory())
    assert (got, why) == (3, "metrics ask for 3")
    assert memory.recommended == (Told(7.0, 3),)
    got, why, memory = both.decide(pool(3, running=(5,) * 3, **blind), seen(7.0), Memory())
    assert (got, why, memory) == (3, "a metric is missing", Memory())
    nothing = pool(3, running=None, **blind)
    assert both.decide(nothing, seen(7.0), Memory()) == (3, "no metric can be read", Memory())
    assert both.decide(pool(0), seen(7.0), Memory()) == (0, "off at 0 workers", Memory())


# --- llm-d's SLO-aware law ---------------------------------------------------------------------


def test_the_slo_law_s_defaults_are_its_guide_s() -> None:
    """SLO 3 s and 100 ms, 45 s means of at most 2, 3 to 8 replicas, its windows and rates."""
    law = SloKeda()
    assert (law.ttft_s, law.tpot_s, law.average_s, law.rate_s, law.cap) == (3.0, 0.1, 45, 60, 2)
    assert law.band == Band(low=0.40, high=0.55)
    assert law.limits == Limits(
        least=3,
        most=8,
        up=Behavior(window_s=30.0, rates=(Rate(60.0, workers=4), Rate(60.0, percent=100.0))),
        down=Behavior(window_s=180.0, rates=(Rate(120.0, workers=1),)),
    )


def test_only_the_warm_share_counts_on_the_way_up() -> None:
    """Of four desired two serve, one starts and one has no GPUs yet: 1.1 · ½ is the bound."""
    law = SloKeda()
    half = replace(pool(2, coming=1), desired=4, pending=1)
    assert law.wanted(half, 1.10) == 4
    assert law.wanted(half, 1.20) == 5  # 4 · (0.6 / 0.55 − 1) = 0.36
    assert law.wanted(half, 0.20) == 2  # on the way down all count
    assert law.wanted(pool(2, coming=2), 0.60) == 4  # 0.3 would be below: nothing is taken away
    # workers that fail to be ready without starting do not discount
    assert law.wanted(replace(pool(2), desired=4), 1.10) == 8
    assert law.wanted(pool(0), 2.0) == 0


def test_predictions_keep_the_worst_of_a_minute() -> None:
    """Each look of 45 s is the worst of the 60 s up to it: not what came after, nor just left."""
    law = SloKeda(ttft_s=1.0, tpot_s=None, signal="predicted", limits=STILL)

    def looked(at_s: float, queued: int, memory: Memory) -> tuple[float, Memory]:
        shown = pool(1, queued_tokens=(queued,))
        _, why, memory = law.decide(shown, seen(at_s, flow(1.0)), memory)
        return float(why.split()[0]), memory

    # a queue of q tokens and 1,000 of its own at 0.1 ms: 0.1 s, 0.9 s, 0.1 s
    share, memory = looked(0.0, 0, Memory())
    assert share == 0.1
    share, memory = looked(30.0, 8_000, memory)
    assert share == 0.5  # (0.1 + 0.9) / 2
    share, memory = looked(60.0, 0, memory)
    assert share == 0.9  # of 30 s and 60 s, both the worst of a minute
    share, memory = looked(90.0, 0, memory)
    assert share == 0.5  # at 60 s still the worst, at 90 s gone by its very moment
    assert looked(120.0, 0, memory)[0] == 0.1


def test_the_worse_of_two_predictions_is_capped() -> None:
    """TTFT of 0.1 s over 0.2 s, TPOT of 0.01 s and more over 0.1 s or 1 ms, 2 at most."""
    shown, traffic = pool(1), flow(1.0)
    ((first, gap),) = expected(shown, traffic)
    assert first == pytest.approx(0.1)
    for tpot_s, share in ((0.1, 0.5), (0.02, gap / 0.02), (0.001, 2.0)):
        law = SloKeda(ttft_s=0.2, tpot_s=tpot_s, signal="predicted", limits=STILL)
        assert law.decide(shown, seen(0.0, traffic), Memory())[2].signals == (
            Told(0.0, pytest.approx(share)),
        )


# --- what a next request would meet ------------------------------------------------------------


def test_iterations_carry_what_arrives_in_them() -> None:
    """5 prompts/s of 1,000 tokens at 0.1 ms: half of each step's time again, three times over.

    10 ms carry 50 tokens: 15 ms; they carry 75: 17.5 ms; they carry 88: 18.8 ms. Two workers share
    what arrives, so each has half of it.
    """
    for ready, rate in ((1, 5.0), (2, 10.0)):
        found = expected(pool(ready), flow(rate))
        assert found == ((pytest.approx(0.1), pytest.approx(0.0188)),) * ready


def test_no_more_rides_than_a_step_has_room_for() -> None:
    """100 tokens a step beside ten sequences: 89, as the next one takes a token too."""
    tight = pool(1, running=(10,), engine=engine(max_num_batched_tokens=100))
    ((_, gap),) = expected(tight, flow(50.0))
    assert gap == pytest.approx(0.01 + 89e-4)
    # almost nothing arrives: a token rides all the same
    ((_, gap),) = expected(pool(1), flow(0.02))
    assert gap == pytest.approx(0.0101)


def test_a_next_request_adds_its_own_context() -> None:
    """11 sequences with 4,000 tokens and its own 1,000: 10 ms + 11 ms + 5 ms and 1 of 0.1 ms."""
    slow = engine(Steps(seq=1e-3, kv=1e-6))
    ((first, gap),) = expected(pool(1, running=(10,), kv_tokens=(4_000,), engine=slow), flow(0.02))
    assert gap == pytest.approx(0.01 + 0.011 + 0.005 + 1e-4)
    # its prompt is computed beside the ten: 0.1 s + 10 ms + 10 ms + 4 ms
    assert first == pytest.approx(0.1 + 0.01 + 0.01 + 0.004)


def test_contexts_are_whole_tokens() -> None:
    """A prompt of 1,000.5 has 1,001, of 1 ms each; in 1.01 s 21 tokens arrive, 20.3 rounded up."""
    ((_, gap),) = expected(pool(1, engine=engine(Steps(kv=1e-3))), flow(0.02, inputs=1000.5))
    assert gap == pytest.approx(0.01 + 1.001 + 21e-4)


@pytest.mark.parametrize(
    ("waiting", "running", "over"), [(0, 3, 0), (0, 4, 1), (2, 4, 3), (1, 2, 0)]
)
def test_who_finds_no_seat_waits_for_answers(waiting: int, running: int, over: int) -> None:
    """Of four seats: each too many waits for a quarter of an answer of 1,000 tokens."""
    made = engine(max_num_seqs=4)
    shown = pool(1, waiting=(waiting,), running=(running,), engine=made)
    ((first, gap),) = expected(shown, flow(0.02, outputs=1000.0))
    assert gap == pytest.approx(0.0101)
    alone = 0.1 + 0.01  # the prompt, beside who decodes
    assert first == pytest.approx(max(alone, over * 1000 * gap / 4))


def test_kv_is_seats_too() -> None:
    """10,500 tokens hold ten sequences of 1,000 and half of 100; the eleventh waits for one."""
    made = engine(kv_tokens=10_500)
    ((first, gap),) = expected(pool(1, running=(10,), engine=made), flow(0.02))
    assert first == pytest.approx(max(0.11, 100 * gap / 10))
    # less KV than one sequence counts as a seat; answers have a token at least
    small = engine(kv_tokens=525)
    ((first, gap),) = expected(pool(1, running=(9,), engine=small), flow(0.02))
    assert first == pytest.approx(9.5 * 100 * gap)
    ((first, gap),) = expected(
        pool(1, running=(99,), engine=engine(max_num_seqs=1)), flow(0.02, outputs=0.0)
    )
    assert first == pytest.approx(99 * gap)


def test_workers_alike_are_told_alike_in_their_order() -> None:
    """Each by its own queue."""
    shown = pool(3, queued_tokens=(1_000, 0, 1_000))
    assert [round(first, 6) for first, _ in expected(shown, flow(0.02))] == [0.2, 0.1, 0.2]


@pytest.mark.parametrize(
    "blind",
    [
        pool(2, engine=None),
        pool(0),
        *(pool(2, **{name: None}) for name in ("queued_tokens", "waiting", "running", "kv_tokens")),
    ],
)
def test_what_cannot_be_told_is_nothing(blind: Any) -> None:
    """An engine, workers, and each of four gauges are needed; and traffic."""
    assert expected(blind, flow(1.0)) == ()
    assert expected(pool(2), flow(0.0)) == ()
    assert len(expected(pool(2), flow(1.0))) == 2


KEDA = ScaledObject(
    hpa=Hpa(triggers=(Total(metric="waiting", target=5.0),), limits=Limits(least=1, most=4)),
    cooldown_s=360.0,
)


@pytest.mark.parametrize(
    ("last_active_s", "now_s", "workers", "waiting", "wanted"),
    [
        (0.0, 359.0, 1, 0, 1),  # not yet: the HPA's least
        (0.0, 360.0, 1, 0, 0),  # six minutes in which nobody waited
        (0.0, 360.0, 1, 1, 1),  # one request is activity enough
        (100.0, 400.0, 1, 0, 1),  # it was active since
        (0.0, 1000.0, 0, 0, 0),  # nobody to tell of a queue
        (0.0, 1000.0, 2, 12, 3),  # twelve wait: ceil(12 / 5), an HPA as any
        (0.0, 1000.0, 4, 0, 0),  # from four to none at once: windows are the HPA's
    ],
)
def test_a_scaled_object_is_idle_by_its_triggers(
    last_active_s: float, now_s: float, workers: int, waiting: int, wanted: int
) -> None:
    """KEDA's own rule around the HPA: a cooldown before none, and nothing else."""
    there = pool(workers, waiting=(waiting, *(0,) * (workers - 1)) if workers else ())
    memory = Memory(since_s=last_active_s)
    granted, _, after = KEDA.decide(there, seen(now_s, mixed=there), memory)
    assert granted == wanted
    assert after.since_s == (now_s if waiting else last_active_s)


def test_a_scaled_object_comes_back_with_its_least() -> None:
    """From none an active trigger brings back the HPA's least at once; it counts who holds all."""
    queue = replace(KEDA, hpa=replace(KEDA.hpa, triggers=(RouterQueue(),)))
    empty = replace(pool(0), held=7)
    granted, why, _ = queue.decide(empty, seen(500.0, mixed=empty), Memory(since_s=0.0))
    assert (granted, why) == (1, "a trigger is active")


@pytest.mark.parametrize(
    ("change", "says"), [({"cooldown_s": -1.0}, "cooldown_s"), ({"idle": 1}, "idle")]
)
def test_a_bad_scaled_object_is_told(change: dict[str, Any], says: str) -> None:
    """By its key."""
    with pytest.raises(ValueError, match=f"scaled_object: {says} must"):
        replace(KEDA, **change)
