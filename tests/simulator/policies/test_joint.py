"""Autoscalers of both pools at once, at their edges."""

import pytest
from views import Steps, engine, flow, pool, seen

from simulator.policies.joint import HeteroScale, TokenVelocity


@pytest.mark.parametrize(
    ("workers", "made", "wanted"),
    [
        (4, 400.0, 4),
        (4, 450.0, 5),  # an eighth more, which is tolerated no more
        (4, 430.0, 4),
        (4, 350.0, 4),  # 0.875: 3.5 → 4
        (4, 300.0, 3),
        (4, 0.0, 1),
        (4, 10_000.0, 32),
    ],
)
def test_decode_tokens_a_worker(workers: int, made: float, wanted: int) -> None:
    """100 tokens/s each, a tenth off tolerated, 1 to 32."""
    assert HeteroScale(tokens_per_s=100.0).wanted(workers, made) == wanted


def test_the_tolerance_itself_is_tolerated() -> None:
    """An eighth more of an eighth."""
    law = HeteroScale(tokens_per_s=128.0, tolerance=0.125)
    assert [law.wanted(4, made) for made in (576.0, 577.0, 448.0)] == [4, 5, 4]


def test_prefill_follows_in_the_ratio_there_was() -> None:
    """3 beside 2 at first: 1.5 for each, rounded, one at least; a given ratio counts instead."""
    law = HeteroScale(tokens_per_s=100.0)
    state = law.initial()
    told = []
    for rate in (2.0, 4.0, 0.5, 0.0):  # of 100 tokens each
        look = seen(0, flow(rate), prefill=pool(3), decode=pool(2))
        plan, state = law.decide(look, state)
        told.append((plan.workers["prefill"], plan.workers["decode"]))
    assert told == [(3, 2), (6, 4), (2, 1), (2, 1)]
    given = HeteroScale(tokens_per_s=100.0, ratio=0.2)
    plan, _ = given.decide(look, given.initial())
    assert plan.workers == {"prefill": 1, "decode": 1}
    # no prefill workers at first count as one
    look = seen(0, flow(4.0), prefill=pool(0), decode=pool(2))
    assert law.decide(look, law.initial())[0].workers == {"prefill": 2, "decode": 4}


@pytest.mark.parametrize(
    ("limits", "held"),
    [
        ({}, False),
        ({"ttft_s": 0.5}, True),  # nine of ten are at 0.6
        ({"ttft_s": 0.6}, False),
        ({"ttft_s": 0.7}, False),
        ({"tpot_s": 0.01}, True),
        ({"tpot_s": 0.02}, False),
        ({"ttft_s": 0.7, "tpot_s": 0.01}, True),
    ],
)
def test_late_answers_forbid_fewer(limits: dict[str, float], held: bool) -> None:
    """The ninth of ten latencies over its limit; growth goes on."""
    law = HeteroScale(tokens_per_s=100.0, **limits)
    slow = {"ttft_s": (0.6,) * 9 + (9.0,), "tpot_s": (0.02,)}
    look = seen(0, flow(1.0, **slow), prefill=pool(2), decode=pool(2))
    plan, _ = law.decide(look, law.initial())
    assert plan.workers == ({} if held else {"prefill": 1, "decode": 1})
    look = seen(0, flow(4.0, **slow), prefill=pool(2), decode=pool(2))
    assert law.decide(look, law.initial())[0].workers == {"prefill": 4, "decode": 4}


def test_without_both_pools_or_a_decode_worker_nothing_is_asked_for() -> None:
    """It looks on."""
    law = HeteroScale(tokens_per_s=100.0)
    for pools in (
        {"decode": pool(2)},
        {"prefill": pool(2)},
        {"prefill": pool(2), "decode": pool(0, coming=1)},
        {"prefill": pool(2), "decode": pool(1, desired=0)},
    ):
        assert law.decide(seen(0, flow(4.0), **pools), law.initial())[0].workers == {}


def test_velocities_by_hand() -> None:
    """10 prompts/s and 8 answers/s a worker: 31/s ask for 4 and 4, 33/s for 4 and 5."""
    made = engine(Steps(seq=0.001), kv_tokens=1_000_000)
    law = TokenVelocity(tpot_s=0.050000001)
    for rate, workers in ((31.0, (4, 4)), (33.0, (4, 5)), (0.5, (1, 1)), (1000.0, (32, 32))):
        look = seen(0, flow(rate), prefill=pool(1, engine=made), decode=pool(1, engine=made))
        plan, _ = law.decide(look, None)
        assert (plan.workers["prefill"], plan.workers["decode"]) == workers
    unknown = seen(0, flow(9.0), prefill=pool(1, engine=made), decode=pool(1, engine=None))
    assert law.decide(unknown, None)[0].workers == {}
    assert law.decide(seen(0, mixed=pool(3)), None)[0].workers == {"mixed": 1}
