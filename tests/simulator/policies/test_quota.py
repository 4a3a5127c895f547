"""Rules for a quota that services share: what each allows, worked by hand."""

import pytest

from simulator.policies.quota import Asking, FirstCome, Guaranteed, QueueShare


def asking(
    service: str, waiting: int, gpus: int = 1, least: int = 1, most: int | None = None
) -> Asking:
    """Return a mixed pool of two workers where so many requests wait."""
    return Asking(
        service=service,
        pool="mixed",
        gpus=gpus,
        desired=2,
        least=least,
        most=most,
        waiting=waiting,
    )


def dealt(*pools: Asking, gpus: int) -> list[int]:
    """Return the workers each of the pools may have of so many GPUs."""
    told = QueueShare().ceilings(pools, gpus)
    return [told[each.service, each.pool] for each in pools]


@pytest.mark.parametrize(
    ("pools", "gpus", "may_have"),
    [
        # 10 GPUs by 50 : 50 and by 70 : 30
        ([asking("a", 50), asking("b", 50)], 10, [5, 5]),
        ([asking("a", 70), asking("b", 30)], 10, [7, 3]),
        # 62.5 % of 8 GPUs are 5.0; 37.5 % are 3.0, one worker of two GPUs and a half
        ([asking("a", 5), asking("b", 3, gpus=2)], 8, [5, 1]),
        # nobody waits at b: it has its least; a may have all, which is more than there is: a gives
        ([asking("a", 9), asking("b", 0)], 8, [7, 1]),
        ([asking("a", 9), asking("b", 0, least=3)], 8, [5, 3]),
        # nobody waits anywhere: everybody has its least
        ([asking("a", 0), asking("b", 0, least=2)], 8, [1, 2]),
        # 1 of 100 that wait are a tenth of a GPU, but one worker at least; b gives one
        ([asking("a", 1), asking("b", 99)], 8, [1, 7]),
        # no more than a pool may have
        ([asking("a", 90, most=3), asking("b", 10)], 10, [3, 1]),
        # the leasts are more than there is: they stay
        ([asking("a", 9, least=3), asking("b", 1, least=3)], 4, [3, 3]),
        # a third of 16 is 5.33, rounded down
        ([asking("a", 1), asking("b", 1), asking("c", 1)], 16, [5, 5, 5]),
        # a 4-GPU worker's share of 8 × 1/9 is none, but one it gets, and b gives 3 of its 7
        ([asking("a", 1, gpus=4), asking("b", 8)], 8, [1, 4]),
    ],
)
def test_the_quota_is_dealt_by_what_waits(
    pools: list[Asking], gpus: int, may_have: list[int]
) -> None:
    """In proportion, rounded down, at least one where somebody waits, and it adds up."""
    assert dealt(*pools, gpus=gpus) == may_have


def test_the_first_two_rules_deal_nothing() -> None:
    """They have no ceilings, and are never asked for any."""
    for rule in (FirstCome(), Guaranteed()):
        assert rule.interval_s is None
        assert rule.ceilings([asking("a", 9)], 8) == {}


@pytest.mark.parametrize(
    ("floors", "service", "gpus"),
    [
        ({}, "a", 4),  # equal parts of nine GPUs for two services, rounded down
        ({}, "b", 4),
        ({"a": 6}, "a", 6),
        ({"a": 6}, "b", 0),  # who is not named has none
        ({"a": 6, "b": 3}, "b", 3),
    ],
)
def test_floors(floors: dict[str, int], service: str, gpus: int) -> None:
    """Those that are given, else equal parts."""
    assert Guaranteed(floors=floors).floor(service, 2, 9) == gpus


def test_who_reserves() -> None:
    """Only a rule with floors has some ask before others."""
    assert [rule.reserves for rule in (FirstCome(), Guaranteed(), QueueShare())] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("rule", "quota", "says"),
    [
        (FirstCome(), None, ""),
        (Guaranteed(), 8, ""),
        (Guaranteed(floors={"a": 4, "b": 4}), 8, ""),
        (Guaranteed(), None, "need a quota"),
        (Guaranteed(floors={"c": 1}), 8, "no such service but a, b"),
        (Guaranteed(floors={"a": 5, "b": 4}), 8, "9 GPUs but elastic.quota_gpus is only 8"),
        (QueueShare(), None, "needs a quota"),
        (QueueShare(), 8, ""),
    ],
)
def test_what_does_not_go_is_told(
    rule: FirstCome | Guaranteed | QueueShare, quota: int | None, says: str
) -> None:
    """In one sentence, or nothing is said."""
    told = rule.refused(["a", "b"], quota)
    assert says in told
    assert bool(told) == bool(says)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Guaranteed(floors={"a": -1}), r"floors\.a must be at least 0 GPUs but got -1"),
        (lambda: QueueShare(interval_s=0.0), "interval_s must be at least 0.001 s but got 0.0"),
        (lambda: QueueShare(interval_s=float("nan")), "interval_s must be at least"),
    ],
)
def test_bad_numbers_are_refused(make: object, says: str) -> None:
    """By the key, with the value."""
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]
