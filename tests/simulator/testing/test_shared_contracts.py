"""Contracts of quota rules and forecasters: kept by what ships, broken by others."""
# ruff: noqa: ARG001, ARG002, ARG005, D101, D102 - spoilt policies take what is asked of them, and are named for it

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from shipped import ROOT, shipped

from simulator.policies.forecasting import Constant, Series
from simulator.policies.quota import FirstCome, Guaranteed, QueueShare
from simulator.testing import ContractError, check_forecaster, check_quota

QUOTAS = sorted(path.stem for path in (ROOT / "conf" / "quota").glob("*.yaml"))
FORECASTERS = sorted(path.stem for path in (ROOT / "conf" / "forecaster").glob("*.yaml"))


@pytest.mark.parametrize("name", QUOTAS)
def test_shipped_quota_rules_keep_their_contract(name: str) -> None:
    """For services of which nothing is said, and under a quota that is scarce."""
    check_quota(shipped("quota", name))
    check_quota(shipped("quota", name), services=("a",), quota_gpus=1)
    check_quota(shipped("quota", name), services=tuple("abcdef"), quota_gpus=7)


@pytest.mark.parametrize("name", FORECASTERS)
def test_shipped_forecasters_keep_their_contract(name: str) -> None:
    """Whatever they are told."""
    check_forecaster(shipped("forecaster", name))


def test_floors_are_of_services_there_are() -> None:
    """Those a rule is for are named."""
    rule = Guaranteed(floors={"mine": 4, "yours": 2})
    check_quota(rule, services=("mine", "yours"), quota_gpus=8)
    with pytest.raises(
        ContractError, match="refuses chat, coder, search of 24 GPUs: quota: floors"
    ):
        check_quota(rule)


@dataclass(frozen=True)
class Rule(FirstCome):
    """Deals as it is told, of what it is asked."""

    deal: Any = field(default=lambda asking, gpus: {})
    own: Any = 0
    every: Any = 1.0
    kept: Any = False
    says: Any = ""

    @property
    def interval_s(self) -> Any:
        return self.every

    @property
    def reserves(self) -> Any:
        return self.kept

    def refused(self, services: Any, quota_gpus: Any) -> Any:
        return self.says

    def floor(self, service: str, services: int, quota_gpus: int) -> Any:
        return self.own

    def ceilings(self, asking: Any, quota_gpus: int) -> Any:
        return self.deal(asking, quota_gpus)


def each(workers: Any) -> Any:
    """Return a deal of so many workers for every pool, by what is asked of it and of the quota."""
    return lambda asking, gpus: {
        (one.service, one.pool): workers(one, gpus) if callable(workers) else workers
        for one in asking
    }


def tires() -> Rule:
    """Return a rule that counts beside itself how often it was asked, and gives in."""
    asked: Counter[Any] = Counter()

    def deal(asking: Any, gpus: int) -> Any:
        asked[tuple(asking)] += 1
        return each(1 + (asked[tuple(asking)] > 2))(asking, gpus)

    return Rule(deal)


class Empties(Rule):
    def ceilings(self, asking: Any, quota_gpus: int) -> Any:
        asking.clear()
        return {}


class Dawdles(Rule):
    def ceilings(self, asking: Any, quota_gpus: int) -> Any:
        sum(one.waiting < other.waiting for one in asking for other in asking)
        return {}


def drawn(one: Any, gpus: int) -> int:
    """Return one worker or two."""
    return random.choice((1, 2))  # noqa: S311 - that is what is wrong


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Rule(every=0.0), "has interval_s 0.0; None or at least 0.001 s is due"),
        (Rule(every="1"), "has interval_s '1'"),
        (Rule(kept=1), "has reserves 1; True or False is due"),
        (Rule(says=None), "refused None without a quota"),
        (Rule(says="no"), "refuses chat, coder, search of 24 GPUs: no"),
        (Rule(own=1.5), "answered 1.5 about chat's floor; 0 to 24 GPUs are due"),
        (Rule(own=-1), "answered -1 about chat's floor"),
        (Rule(own=9), "has floors of 27 GPUs in all, of 24"),
        (Rule(lambda asking, gpus: None), "answered None where there is no pool"),
        (Rule(lambda asking, gpus: {("a", "b"): 1}), r"named \('a', 'b'\) .* not there"),
        (Rule(each(1.0)), "lets chat.mixed have 1.0 workers"),
        (Rule(each(-1)), "lets chat.mixed have -1 workers"),
        (Rule(each(0)), "lets chat.mixed have 0 workers .*; 1 to 24 are due"),
        (
            Rule(each(4)),
            "lets chat.mixed have 4 workers .*; 0 to 3 are due",
        ),
        (
            Rule(each(lambda one, gpus: min(one.most or gpus, gpus // one.gpus))),
            "deals out 72 GPUs of 24",
        ),
        (Rule(each(1), own=8), "takes workers of chat.mixed .* no more than its floor, 8 GPUs"),
        (Rule(each(lambda one, gpus: 1 // one.waiting)), "raised ZeroDivisionError"),
        (Rule(each(drawn)), "to one and the same question"),
        (tires(), "answered otherwise after other questions"),
        (Empties(), "wrote into what it was shown"),
        (Dawdles(), "CPU s a look at 256 services; 0.0001 may be"),
    ],
)
def test_a_rule_that_breaks_its_contract_is_told(policy: Rule, told: str) -> None:
    """In one sentence that names it."""
    with pytest.raises(ContractError, match=told) as raised:
        check_quota(policy, look_s=1e-4 if isinstance(policy, Dawdles) else 5.0)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"quota {type(policy).__name__}: ")


def test_ceilings_may_overlap_where_that_is_meant() -> None:
    """Then the quota itself holds them; a rule that keeps to it needs no leave."""
    compete = Rule(each(lambda one, gpus: min(one.most or gpus, gpus // one.gpus)))
    check_quota(compete, overlap=True)
    check_quota(Rule())
    check_quota(QueueShare())


@dataclass
class Expects:
    """Expects as it is told."""

    answer: Any = 1.0

    def told(self, series: Series, value: float) -> Any:
        return Constant().told(series, value)

    def ahead(self, series: Series, steps: int = 1) -> Any:
        return self.answer(series, steps) if callable(self.answer) else self.answer


class Hoards(Expects):
    def told(self, series: Series, value: float) -> Any:
        return [value]


class Adds(Expects):
    def told(self, series: Series, value: float) -> Any:
        return Series((*series.points, value))


@dataclass
class Notes(Expects):
    last: float = 0.0

    def told(self, series: Series, value: float) -> Any:
        self.last = value
        return Series((value,))


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Expects(-1.0), "expects -1.0 1 ahead of a series of noughts; a number of at least 0"),
        (Expects(float("nan")), "expects nan"),
        (Expects(float("inf")), "expects inf"),
        (Expects(None), "expects None"),
        (Expects(True), "expects True"),
        (Adds(lambda series, steps: sum(series.points)), "expects nan .* nothing known"),
        (Expects(lambda series, steps: 1 / len(series.points)), "raised ZeroDivisionError"),
        (Expects(lambda series, steps: random.random()), "to one and the same question"),  # noqa: S311
        (Hoards(), r"returned \[0.0\] when told of noughts; a Series is due"),
        (Notes(), "changed its own last when asked"),
    ],
)
def test_a_forecaster_that_breaks_its_contract_is_told(policy: Expects, told: str) -> None:
    """In one sentence that names it."""
    with pytest.raises(ContractError, match=told) as raised:
        check_forecaster(policy)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"forecaster {type(policy).__name__}: ")


def test_a_forecaster_that_takes_its_time_is_told() -> None:
    """By what a point took; unspoilt it passes."""
    check_forecaster(Expects())
    slow = Adds(lambda series, steps: float(sum(at % 7 for at in range(len(series.points) * 40))))
    with pytest.raises(ContractError, match=r"CPU s a point after 500; 0[.]0001 may be"):
        check_forecaster(slow, point_s=1e-4)
