"""Contracts of admission, queue orders, flips and splits: kept by what ships, broken by others."""
# ruff: noqa: ARG002, D101, D102 - spoilt policies take what is asked of them, and are named for it

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from shipped import ROOT, shipped

from simulator.cli import compose
from simulator.policies.matching import Answer, Common, Counts, RateMatched
from simulator.testing import (
    ContractError,
    check_admission,
    check_flipping,
    check_flow_control,
    check_local_prefill,
    check_matcher,
    check_queue_order,
    check_rebalancing,
)

CHECKS = {
    "admission": check_admission,
    "queue": check_queue_order,
    "flipping": check_flipping,
    "local_prefill": check_local_prefill,
    "rebalancing": check_rebalancing,
}
SHIPPED = [
    (group, path.stem)
    for group in CHECKS
    for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
]
CONTROLS = sorted(path.stem for path in (ROOT / "conf" / "flow_control").glob("*.yaml"))
MATCHERS = sorted(path.stem for path in (ROOT / "conf" / "rate_matcher").glob("*.yaml"))


@pytest.mark.parametrize(("group", "name"), SHIPPED)
def test_what_is_shipped_keeps_its_contract(group: str, name: str) -> None:
    """Whoever adds one to conf has it checked here."""
    if group == "admission":  # tiers are a list, which only composing builds
        CHECKS[group](compose([f"admission={name}"]).deployment.admission)
    else:
        CHECKS[group](shipped(group, name))


@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "none"])
def test_shipped_flow_control_keeps_its_contract(name: str) -> None:
    """Whatever the metrics, and where there are none."""
    check_flow_control(shipped("flow_control", name))


@pytest.mark.parametrize("name", [name for name in MATCHERS if name != "none"])
def test_shipped_matchers_keep_their_contract(name: str) -> None:
    """And within every budget."""
    policy = compose([f"rate_matcher={name}"]).deployment.control.policy
    assert isinstance(policy, RateMatched)
    check_matcher(policy.matcher)


@dataclass(frozen=True)
class Sees:
    """Flow control with an answer of its own."""

    answer: Any = 0.5
    scrape_s: Any = 1.0
    stale_s: float = 2.0
    dispatch_s: float = 0.0

    def saturation(self, readings: Any) -> Any:
        return self.answer


class Averages(Sees):
    def saturation(self, readings: Any) -> Any:
        return sum(each.waiting for each in readings) / len(readings)


@dataclass
class Admits:
    answer: Any = ""
    asked: list[int] = field(default_factory=list)

    def decide(self, arrival: Any, entrance: Any) -> Any:
        return self.answer


class Forgets(Admits):
    def decide(self, arrival: Any, entrance: Any) -> str:
        self.asked.append(arrival.request)
        return ""


class Dices(Admits):
    def decide(self, arrival: Any, entrance: Any) -> str:
        return "shed" if random.random() < 0.5 else ""  # noqa: S311 - that is what is wrong


class Divides(Admits):
    def decide(self, arrival: Any, entrance: Any) -> str:
        return "" if 1 / entrance.waiting else "shed"


class ByLength:
    def key(self, prompt: Any) -> Any:
        return (1.0,) * (1 + (prompt.uncached_tokens > 1000))


class ByName:
    def key(self, prompt: Any) -> Any:
        return ("first",)


class ByNan:
    def key(self, prompt: Any) -> Any:
        return (float("nan"),)


@dataclass
class Flips:
    update_s: float = 1.0
    answer: Any = True

    def to_decode(self, seen: Any, service: Any) -> Any:
        return self.answer

    def to_prefill(self, requests: int) -> Any:
        return True


class Shrugs(Flips):
    def to_prefill(self, requests: int) -> Any:
        return None


@dataclass
class Splits:
    answer: Any = None
    common: Common = field(default_factory=lambda: Common(ttft_s=1.0, tpot_s=0.05))

    def initial(self) -> Any:
        return None

    def split(self, view: Any, state: Any) -> Any:
        return Answer(self.answer, "")


class Overdraws(Splits):
    def split(self, view: Any, state: Any) -> Any:
        return Answer(Counts(view.budget, 1), "")


class Writes(Splits):
    def split(self, view: Any, state: Any) -> Any:
        view.seen.pools.clear()
        return Answer(None, "")


class Bare(Splits):
    def split(self, view: Any, state: Any) -> Any:
        return Counts(1, 1)


@pytest.mark.parametrize(
    ("check", "policy", "told"),
    [
        (check_admission, Admits("no"), r"admission Admits: decided 'no' .*; '' or one of"),
        (check_admission, Admits(None), "decided None"),
        (check_admission, Forgets(), "changed its own asked when asked"),
        (check_admission, Dices(), "to one and the same question"),
        (check_admission, Divides(), "raised ZeroDivisionError"),
        (check_queue_order, ByLength(), "gave keys of 1 and 2 numbers"),
        (check_queue_order, ByName(), "a tuple of numbers is due"),
        (check_queue_order, ByNan(), "a tuple of numbers is due"),
        (check_flipping, Flips(answer=1), "answered 1 .*; True or False is due"),
        (check_flipping, Flips(update_s=-1.0), "has update_s -1.0"),
        (check_flipping, Shrugs(), "answered None about a decode worker with 0 requests"),
        (check_flow_control, Sees(None), "answered None with gauges of 0 of 1 workers"),
        (check_flow_control, Sees(float("nan")), "answered nan .*; a number is due"),
        (check_flow_control, Sees(scrape_s=0), "has scrape_s 0; seconds above 0 are due"),
        (check_flow_control, Averages(), "raised AttributeError"),
        (check_matcher, Splits(Counts(0, 1)), "split into .*a worker of each is the least"),
        (check_matcher, Splits((1.0, 1)), "a worker of each is the least"),
        (check_matcher, Overdraws(), "split into .* GPUs"),
        (check_matcher, Writes(), "wrote into what it was shown"),
        (check_matcher, Bare(), "an Answer is due"),
    ],
)
def test_what_breaks_a_contract_is_told(check: Any, policy: Any, told: str) -> None:
    """In one sentence that names the policy."""
    with pytest.raises(ContractError, match=told) as raised:
        check(policy)
    assert "\n" not in str(raised.value)
    assert type(policy).__name__ in str(raised.value)


def test_spoilt_policies_are_told_by_what_is_spoilt() -> None:
    """Unspoilt they pass: no check refuses everybody."""
    check_admission(Admits("shed"))
    check_flipping(Flips())
    check_flow_control(Sees())
    check_matcher(Splits(None))


def test_a_policy_that_names_nobody_there_is_told() -> None:
    """A decode worker beyond the last, or a truth."""

    class Beyond:
        def place(self, request: Any, prefill: Any, decode: Any) -> Any:
            return len(decode.tokens)

    class Truth:
        def place(self, request: Any, prefill: Any, decode: Any) -> Any:
            return True

    class Moody:
        def place(self, request: Any, prefill: Any, decode: Any) -> Any:
            return random.randrange(len(decode.tokens))  # noqa: S311 - no secret

    for policy, words in (
        (Beyond(), "chose worker 3 about a prompt"),
        (Truth(), "chose worker True about a prompt"),
        (Moody(), "to one and the same question"),
    ):
        with pytest.raises(ContractError, match=words):
            check_local_prefill(policy)


def test_a_policy_that_moves_what_is_not_there_is_told() -> None:
    """To a worker beyond the last, or three at once."""

    class Far:
        interval_s = 1.0

        def moves(self, workers: Any) -> Any:
            return [(0, len(workers))]

    class Many:
        interval_s = 1.0

        def moves(self, workers: Any) -> Any:
            return [(0, 0, 0)]

    for policy in (Far(), Many()):
        with pytest.raises(ContractError, match=r"named .* about 0 workers"):
            check_rebalancing(policy)
