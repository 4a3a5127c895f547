"""Dynamo's stock planner at its edges, and how proposals become a plan."""

from typing import Any

import pytest
from views import engine, pool, seen

from simulator.policies.dynamo.inventory import Budget, inventory
from simulator.policies.dynamo.thresholds import DynamoThreshold, Rule, Settling, settled

FREE = Budget(max_gpu_budget=None)


@pytest.mark.parametrize(
    ("values", "pending", "least", "wanted"),
    [
        ((1.0, 0.0), 0, 1, None),
        ((1.1, 0.0), 0, 1, 3),  # any over
        ((0.5, 0.4), 0, 1, 2),  # all under 0.6, but one with both would be at 1
        ((0.49, 0.4), 0, 1, 1),
        ((0.6, 0.1), 0, 1, None),
        ((0.1,), 0, 1, None),  # one alone stays
        ((0.1,), 1, 1, 1),
        ((0.1, 0.1), 0, 2, 2),  # the least stays
        ((0.1, 0.1, 0.1), 0, 2, 2),
        ((0.66, 0.1, 0.1), 0, 1, None),
        ((0.59, 0.1, 0.1), 0, 1, 2),  # 0.59 · 3/2 is under 1
    ],
)
def test_a_rule_by_hand(
    values: tuple[float, ...], pending: int, least: int, wanted: int | None
) -> None:
    """Over 1 by any, under 0.6 by all and under 1 by who is left."""
    assert Rule(1.0, 0.6, False, False).wanted(values, pending, least) == wanted


def test_bounds_count_where_they_are_said_to() -> None:
    """At 1 and at 0.25, over and under, or neither."""
    assert Rule(1.0, 0.25, True, True).wanted((1.0, 0.0), 0, 1) == 3
    assert Rule(1.0, 0.25, True, True).wanted((0.25, 0.25), 0, 1) == 1
    assert Rule(1.0, 0.25, False, False).wanted((0.25, 0.25), 0, 1) is None


def planned(policy: DynamoThreshold, **pools: Any) -> dict[str, int]:
    """Return the workers of a first look."""
    return dict(policy.decide(seen(5, **pools), None)[0].workers)


def between(ready: int, **more: Any) -> Any:
    """Return workers that ask for nothing: 70 % of KV, and a queue of half the context."""
    gauges = {"kv_tokens": (70_000,) * ready, "queued_tokens": (5_000,) * ready}
    return pool(ready, **(gauges | more))


FULL = {"kv_tokens": (100_001,) * 4}


def test_at_the_ceiling_growth_finds_no_donor() -> None:
    """4 and 4 of 8 GPUs: decode asks for a fifth and gets none, prefill keeps its four."""
    assert planned(DynamoThreshold(), prefill=between(4), decode=pool(4, **FULL)) == {}


def test_pools_below_their_least_workers_are_brought_back() -> None:
    """1 and 7 of 8 GPUs with at least 2 each: 2 and 6, in proportion; nobody asked for it."""
    policy = DynamoThreshold(budget=Budget(min_endpoint=2))
    plan, _ = policy.decide(seen(5, prefill=between(1), decode=between(7)), None)
    assert dict(plan.workers) == {"prefill": 2, "decode": 6}
    assert plan.reason == "back into the budget"


def test_a_mixed_pool_of_which_nothing_is_proposed_is_left() -> None:
    """Even below its least workers; once it asks for one more it gets that many."""
    policy = DynamoThreshold(budget=Budget(min_endpoint=3))
    assert planned(policy, mixed=between(1, queued_tokens=(0,))) == {}
    assert planned(policy, mixed=pool(1, kv_tokens=(100_001,))) == {"mixed": 3}


def test_plans_say_why() -> None:
    """Nothing, a change, a hold, a start, a drain."""
    policy, full = DynamoThreshold(), pool(1, kv_tokens=(100_001,))

    def reason(**pools: Any) -> str:
        return policy.decide(seen(5, **pools), None)[0].reason

    assert reason(mixed=between(1, queued_tokens=(0,))) == "no change"
    assert reason(prefill=between(1), decode=between(1)) == "no change"
    assert reason(prefill=between(1), decode=full) == "scale"
    assert reason(prefill=between(4), decode=pool(4, **FULL)) == "held by the budget"
    assert reason(prefill=between(1), decode=pool(1, coming=1)) == "workers are starting"
    assert reason(prefill=between(1), decode=pool(1, draining=1)) == "scaling in progress"


def test_a_user_s_own_token_bounds_need_no_engine() -> None:
    """2,000 queued tokens are 2,000 whatever the context; KV bounds need to know the room."""
    policy = DynamoThreshold(
        target="load",
        prefill_up_tokens=2000,
        prefill_down_tokens=100,
        decode_up_percent=70,
        decode_down_percent=20,
        budget=FREE,
    )
    unknown = {"engine": None}
    late = pool(1, queued_tokens=(2000,), **unknown)
    assert planned(policy, prefill=late, decode=pool(1, **FULL, **unknown)) == {"prefill": 2}
    for made in (engine(kv_tokens=0), None):
        full = pool(4, **FULL, engine=made)
        assert planned(policy, prefill=pool(1, queued_tokens=(500,)), decode=full) == {}
    for name in ("kv_tokens", "queued_kv_tokens"):
        blind = pool(1, **({"kv_tokens": (100_001,)} | {name: None}))
        assert planned(policy, prefill=pool(1, queued_tokens=(500,)), decode=blind) == {}
    assert planned(policy, mixed=pool(1, kv_tokens=(100_001,), queued_tokens=None)) == {}
    one_sided = {"prefill_up_tokens": None, "prefill_down_tokens": None}
    policy = DynamoThreshold(
        target="load", decode_up_percent=70, decode_down_percent=20, **one_sided
    )
    assert planned(policy, mixed=pool(1, kv_tokens=(70_000,))) == {"mixed": 2}


def test_a_context_nobody_knows_holds_prefill() -> None:
    """A queue over no context is no ratio."""
    for made in (engine(max_context=0), None):
        late = pool(1, queued_tokens=(10**6,), engine=made)
        assert planned(DynamoThreshold(), prefill=late, decode=between(1)) == {}


# --- while workers start -----------------------------------------------------------------------


def cut(
    proposed: dict[str, int | None], floors: tuple[int, ...] = (), least: int = 1
) -> dict[str, int]:
    """Return what goes through of a proposal made twice, with 3 and 2 ready and one starting."""
    looks = [seen(at, prefill=pool(3, coming=1), decode=pool(2)) for at in (5, 10)]
    waiting, plan = None, None
    for look in looks:
        rules = Settling(Budget(min_endpoint=least, max_gpu_budget=None), 5.0, waiting, floors)
        plan, waiting = settled(look, inventory(look), lambda role, _, __: proposed[role], rules)
    assert plan is not None
    assert waiting is None or not plan.workers
    return dict(plan.workers)


@pytest.mark.parametrize(
    ("proposed", "floors", "least", "through"),
    [
        ((2, None), (), 1, {"prefill": 2}),
        ((2, 1), (), 1, {"prefill": 2, "decode": 1}),
        ((2, 3), (), 1, {"prefill": 2}),  # the other pool's growth is dropped
        ((3, None), (), 1, {"prefill": 3}),  # the one that starts is spared
        ((4, 3), (), 1, {}),
        ((None, None), (), 1, {}),
        # neither below what throughput takes, nor below the least
        ((1, 1), (3, 2), 1, {"prefill": 3}),
        ((1, 1), (2, 1), 1, {"prefill": 2, "decode": 1}),
        ((1, 1), (), 2, {"prefill": 2}),
        ((1, 1), (4, 1), 1, {"decode": 1}),
    ],
)
def test_only_reductions_go_through_during_a_start(
    proposed: tuple[int | None, int | None],
    floors: tuple[int, ...],
    least: int,
    through: dict[str, int],
) -> None:
    """Of each pool what was proposed twice, five seconds apart."""
    assert cut(dict(zip(("prefill", "decode"), proposed, strict=True)), floors, least) == through


def test_other_floors_hold_without_a_start_too() -> None:
    """What throughput takes is asked for though nothing is proposed, of a mixed pool as well."""
    look = seen(5, prefill=pool(3), decode=pool(2))
    rules = Settling(FREE, 5.0, None, (4, 1))
    plan, _ = settled(look, inventory(look), lambda *_: None, rules)
    assert dict(plan.workers) == {"prefill": 4}
    plan, _ = settled(look, inventory(look), lambda *_: 1, rules)
    assert dict(plan.workers) == {"prefill": 4, "decode": 1}
    mixed = seen(5, mixed=pool(1))
    plan, _ = settled(mixed, inventory(mixed), lambda *_: None, rules._replace(floors=(3,)))
    assert dict(plan.workers) == {"mixed": 3}


def test_it_looks_as_often_as_it_is_told() -> None:
    """Its scrapes are as far apart as its decisions."""
    assert DynamoThreshold.sees["scrape_s"] == DynamoThreshold().interval_s == 5.0
