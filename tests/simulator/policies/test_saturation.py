"""llm-d's older variant autoscaler and token capacities at their edges, by hand."""

import pytest
from views import engine, flow, pool, seen

from simulator.policies.saturation import WvaPercent, WvaTokens
from simulator.policies.windows import Behavior, Limits, Memory, Rate

FREE = Limits(most=100, up=Behavior(window_s=0.0, rates=()), down=Behavior(window_s=0.0, rates=()))


@pytest.mark.parametrize(
    ("waiting", "used", "wanted"),
    [
        # KV under 0.8 and fewer than 5 waiting; 0.1 of KV and 3 of the queue must be left
        ((0, 0), (0.5, 0.5), 2),  # one with both would have 1.0
        ((0, 0), (0.3, 0.3), 1),  # ... 0.6 leaves 0.2
        ((0, 0), (0.75, 0.75), 3),  # 0.05 is left
        ((2, 2), (0.1, 0.1), 2),  # of the queue 3 is enough; of one, 4 would wait
        ((3, 2), (0.1, 0.1), 3),  # 2.5 on average leave 2.5
        ((1, 1), (0.1, 0.1), 1),  # 2 would wait, 3 are left
        ((0, 0), (0.8, 0.9), 3),  # nobody is under 0.8
        ((5, 5), (0.1, 0.1), 3),  # nor under 5
        ((0, 0), (0.9, 0.1), 2),  # the only one that is free does not make room
        ((0, 0, 0), (0.4, 0.4, 0.4), 2),  # 0.4 · 3/2 leaves 0.2
        ((0, 0, 0), (0.48, 0.48, 0.48), 3),  # 0.72 leaves 0.08
        ((0, 0, 9), (0.3, 0.3, 0.1), 2),  # the saturated one is left out
    ],
)
def test_spare_shares_by_hand(
    waiting: tuple[int, ...], used: tuple[float, ...], wanted: int
) -> None:
    """One more where too little is left of those that are free, one fewer where enough would be."""
    shown = pool(len(waiting), waiting=waiting, kv_utilization=used)
    got, why, _ = WvaPercent(limits=FREE).decide(shown, seen(0), Memory())
    assert (got, why) == (wanted, f"spare capacity asks for {wanted}")


@pytest.mark.parametrize("used", [0.1, 0.9])
def test_nothing_is_decided_while_workers_start(used: float) -> None:
    """Neither one more nor one fewer, as long as not all that were asked for export metrics."""
    law = WvaPercent(limits=FREE)
    shown = pool(2, coming=1, waiting=(0, 0), kv_utilization=(used, used))
    first = law.decide(shown, seen(0), Memory())
    assert first[:2] == (3, "3 are still asked for")
    assert law.decide(shown, seen(60), first[2])[:2] == (3, "3 are still asked for")
    told = Memory(since_s=0.0, held=4)  # of which the HPA has carried out three
    assert law.decide(shown, seen(60), told)[0] == 4
    settled = pool(3, waiting=(0, 0, 0), kv_utilization=(used,) * 3)
    assert law.decide(settled, seen(0), Memory())[0] == (4 if used > 0.8 else 2)


def test_spare_shares_that_cannot_be_read_change_nothing() -> None:
    """Neither queue nor KV, nor without a worker that serves."""
    for blind in (pool(2, waiting=None), pool(2, kv_utilization=None), pool(0, coming=2)):
        got = WvaPercent(limits=FREE).decide(blind, seen(0), Memory())
        assert got == (2, "no metric can be read", Memory())


@pytest.mark.parametrize(
    ("waiting", "used", "coming", "wanted"),
    [
        # settings hold min(100, 8192 · 100 / 1,100) = 100 sequences of 1,050; KV 0.8 of 100,000
        ((0,), (0.6,), 0, 1),  # 60,000 of 80,000: between 0.70 and 0.85
        ((0,), (0.69,), 0, 2),  # 69,000 / 0.85 = 81,176: 1,176 more
        ((0,), (0.679,), 0, 1),  # 79,882
        ((9,), (0.6,), 0, 2),  # nine wait with 1,000 each: what it holds when it queues is its own
        ((4,), (0.65,), 0, 2),  # 69,000, of which four wait
        ((0,), (0.69,), 1, 2),  # one comes: 160,000 are to be
        ((0, 0), (0.27, 0.28), 0, 1),  # 55,000 / 0.70 = 78,571: 81,429 to spare, one worker
        ((0, 0), (0.28, 0.29), 0, 2),  # 81,429: 78,571 to spare, none
        ((0, 0, 0), (0.1, 0.1, 0.1), 0, 1),
    ],
)
def test_token_capacity_by_hand(
    waiting: tuple[int, ...], used: tuple[float, ...], coming: int, wanted: int
) -> None:
    """Demand over 0.85 against what is and comes, and what is against demand over 0.70."""
    shown = pool(len(waiting), coming=coming, waiting=waiting, kv_utilization=used, engine=engine())
    law = WvaTokens(limits=FREE)
    assert law.decide(shown, seen(0, flow(1.0)), Memory())[0] == wanted


@pytest.mark.parametrize(
    ("law", "busy", "why"),
    [
        (WvaPercent, (0.75, 0.75), "spare capacity asks for 3"),
        (WvaTokens, (0.69, 0.69), "138000 tokens of 80000 a worker ask for 3"),
    ],
)
def test_what_is_asked_for_holds_until_the_next_look(
    law: type[WvaPercent | WvaTokens], busy: tuple[float, float], why: str
) -> None:
    """Every minute it looks; between its looks the HPA carries out what it asked for last."""
    steps = Behavior(window_s=0.0, rates=(Rate(15.0, workers=1),))
    policy = law(limits=Limits(most=100, up=steps, down=steps))
    idle, full = (0.0, 0.0), pool(2, waiting=(0, 0), kv_utilization=busy, engine=engine())
    got, told, memory = policy.decide(full, seen(0, flow(1.0)), Memory())
    assert (got, told) == (3, why)
    for at_s in (15, 30, 45):
        calm = pool(2, waiting=(0, 0), kv_utilization=idle, engine=engine())
        got, told, memory = policy.decide(calm, seen(at_s, flow(1.0)), memory)
        assert (got, told) == (3, "3 are still asked for")
    got, _, memory = policy.decide(calm, seen(60, flow(1.0)), memory)
    assert got == 1
    assert (memory.since_s, memory.held) == (60, 1)


@pytest.mark.parametrize("law", [WvaPercent, WvaTokens])
def test_a_look_without_a_pause_is_refused(law: type[WvaPercent | WvaTokens]) -> None:
    """By its key."""
    with pytest.raises(ValueError, match=r"every_s must be at least 0\.001 s but got 0"):
        law(every_s=0.0)
