"""The contract suite: shipped policies keep it, and each way to break it is told in a sentence."""
# ruff: noqa: ARG002, D101, D102, RUF012 - spoilt policies take what is asked of them, are named for
# what they do wrong, and some share a memory on purpose

import math
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from shipped import ROOT, shipped

from simulator.cli import compose
from simulator.policies.autoscaling import Observation, Plan, Schedule, Step
from simulator.policies.routing import PoolView, RoutedRequest, RoutingPolicy
from simulator.testing import ContractError, check_autoscaler, check_router
from simulator.testing.contract import same

ROUTERS = sorted((p.parent.name, p.stem) for p in (ROOT / "conf").glob("*router/*.yaml"))
SCANNING = (
    "first_fit_slo",  # as the first that fits may be the last
    *("kv_aware", "prefix_affinity", "cache_aware", "estimated_ttft"),  # as costs are sums of loads
)
AUTOSCALERS = sorted(path.stem for path in (ROOT / "conf" / "autoscaler").glob("*.yaml"))


@pytest.mark.parametrize(("group", "name"), ROUTERS)
def test_every_shipped_router_keeps_the_contract(group: str, name: str) -> None:
    """Whoever adds a router to conf has it checked here."""
    check_router(shipped(group, name), scans=name in SCANNING)


@pytest.mark.parametrize("name", [name for name in AUTOSCALERS if name != "schedule"])
def test_every_shipped_autoscaler_keeps_the_contract(name: str) -> None:
    """With two pools and with one, whoever adds an autoscaler to conf has it checked here."""
    policy = compose([f"autoscaler={name}"]).deployment.control.policy
    check_autoscaler(policy)
    check_autoscaler(policy, pools=("mixed",))


def test_a_schedule_keeps_the_contract() -> None:
    """It asks for the workers of its steps, which are left to the user, and no others."""
    steps = (Step(100.0, "decode", 3), Step(300.0, "decode", 2), Step(500.0, "prefill", 4))
    for period_s in (None, 600.0):
        policy = Schedule(steps=steps, period_s=period_s)
        check_autoscaler(policy, least=1, quota_gpus=8)
        with pytest.raises(ContractError, match=r"Schedule: wants 8 GPUs .* there are 6"):
            check_autoscaler(replaced(policy), quota_gpus=6)


def replaced(policy: Schedule) -> Schedule:
    """Return the schedule with a larger decode pool."""
    return Schedule(steps=(*policy.steps, Step(510.0, "decode", 4)), period_s=policy.period_s)


# --- routers -----------------------------------------------------------------------------------


class Router:
    """A sound router to be spoilt."""

    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        """Return the worker with the fewest requests."""
        return pool.least("requests", draw=request.draw)


class PastTheEnd(Router):
    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        return len(pool.requests)


class Half(Router):
    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        return 0.0


class Truth(Router):
    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        return True


class Counting(Router):
    def __init__(self) -> None:
        self.placed = 0

    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        self.placed += 1
        return self.placed % len(pool.requests)


class Hidden(Router):
    def __init__(self) -> None:
        self.turn = iter(range(10**9))

    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        return next(self.turn) % len(pool.requests)


class Dice(Router):
    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        return random.randrange(len(pool.requests))  # noqa: S311 - the mistake under test


class Booking(Router):
    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        pool.requests[0] += 1  # type: ignore[index]
        return 0


class Deleting(Router):
    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        del pool.tokens[0]  # type: ignore[attr-defined]
        return 0


class Dividing(Router):
    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        return int(request.draw / min(pool.requests))


class Scanning(Router):
    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        loads = list(pool.requests)
        return loads.index(min(loads))


SPOILT_ROUTERS = {
    PastTheEnd: "chose worker 1 in a pool of 1 with idle workers, whose workers are 0 to 0",
    Half: "chose worker 0.0",
    Truth: "chose worker True",
    Counting: "changed its own placed when asked",
    Hidden: "to one and the same question",
    Dice: "to one and the same question",
    Booking: "writes 1 into the requests it is shown",
    Deleting: "deletes from the tokens it is shown",
    Dividing: "raised ZeroDivisionError: ",
    Scanning: "read 4,096 loads for a choice in a pool of 4,096",
}


@pytest.mark.parametrize("kind", SPOILT_ROUTERS, ids=lambda kind: kind.__name__)
def test_a_router_that_breaks_the_contract_is_told_how(kind: type[Router]) -> None:
    """One sentence names the policy and what it broke."""
    with pytest.raises(ContractError) as told:
        check_router(kind())
    (line,) = str(told.value).splitlines()
    assert line.startswith(f"router {kind.__name__}: ")
    assert SPOILT_ROUTERS[kind] in line


def test_a_router_may_look_through_the_pool_if_it_says_so() -> None:
    """With ``scans`` the same router keeps the contract; power of two choices needs no leave."""
    check_router(Scanning(), scans=True)

    class TwoChoices(Router):
        def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
            size = len(pool.requests)
            one = int(request.draw * size)
            other = int(request.draw * 7919 * size) % size
            return min(one, other, key=lambda worker: pool.requests[worker])

    check_router(TwoChoices())


class Remembering(Router):
    """Answers one question alike twice, but remembers what it was asked before."""

    last: "dict[str, Any]" = {}

    def choose(self, request: RoutedRequest, pool: PoolView) -> Any:
        key = (request.order, request.draw)
        if self.last.get("key") != key:
            self.last["turn"] = self.last.get("turn", 0) + 1
            self.last["key"] = key
        return self.last["turn"] % len(pool.requests)


def test_a_router_with_a_memory_for_all_is_found() -> None:
    """A memory of the class, which no attribute shows, makes a second run differ."""
    with pytest.raises(ContractError, match=r"Remembering: .*(remembers|another run)"):
        check_router(Remembering())


# --- autoscalers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaler:
    """A sound autoscaler to be spoilt: it follows demand, within a budget of GPUs."""

    most: int = 4

    def initial(self) -> Any:
        """Return the demands of the latest ticks."""
        return ()

    def decide(self, seen: Observation, state: Any) -> Any:
        """Return as many workers as the mean demand asks for."""
        demand = (*state, seen.traffic.rate)[-4:]
        workers = max(1, min(self.most, math.ceil(sum(demand) / len(demand) / 5)))
        return Plan(dict.fromkeys(seen.pools, workers), "demand"), demand


class Blind(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        waiting = {role: sum(pool.waiting or ()) for role, pool in seen.pools.items()}
        kv = max(seen.pools["decode"].kv_utilization)  # type: ignore[arg-type]
        return Plan({"prefill": 1 + waiting["prefill"] % 3}, f"KV {kv}"), state


class Lengths(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"decode": math.ceil(seen.traffic.output_tokens / 300)}), state


class Fractions(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"decode": seen.traffic.rate / 5}), state


class Elsewhere(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"mixed": 3}), state


class Starving(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"decode": 0 if seen.traffic.rate < 1 else 2}), state


class Greedy(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"decode": 1 + int(seen.traffic.rate)}), state


class Bare(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"decode": 2})


class Mute(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"decode": 2}, None), state  # type: ignore[arg-type]


class Writing(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        seen.pools.pop("prefill")  # type: ignore[attr-defined]
        return Plan({"decode": 2}), state


class Rewriting(Scaler):
    def initial(self) -> Any:
        return []

    def decide(self, seen: Observation, state: Any) -> Any:
        state.append(seen.now_s)
        return Plan({"decode": 2}), [*state]


@dataclass(frozen=True)
class Own(Scaler):
    history: list[float] = field(default_factory=list)

    def decide(self, seen: Observation, state: Any) -> Any:
        self.history.append(seen.traffic.rate)
        return Plan({"decode": 2}), state


class Shared(Scaler):
    memory: "deque[float]" = deque()

    def initial(self) -> Any:
        return self.memory

    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"decode": 1 + int(random.random() * 3)}), state  # noqa: S311


class Clockwork(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        return Plan({"decode": 1 + time.perf_counter_ns() % 3}), state


class Slow(Scaler):
    def decide(self, seen: Observation, state: Any) -> Any:
        until = time.process_time() + 0.02 * (sum(seen.pools["decode"].running or ()) > 10**5)
        while time.process_time() < until:
            pass
        return Plan({"decode": 2}), state


class Raising(Scaler):
    def initial(self) -> Any:
        raise KeyError("history")


SPOILT_SCALERS = {
    Blind: "raised ValueError: max() ",
    Lengths: "raised ValueError: cannot convert float NaN to integer at the first tick",
    Fractions: "wants 0.0 decode workers at the first tick",
    Elsewhere: "planned for pool 'mixed' at the first tick, but there are prefill, decode",
    Starving: "wants 0 decode workers at the first tick, fewer than the minimum, 1",
    Greedy: "GPUs (10 decode) at a busy hour, but there are 8",
    Bare: "a Plan and a state are due",
    Mute: "gave None as its reason",
    Writing: "wrote into what it was shown at the first tick",
    Rewriting: "wrote into the state it was given at the first tick",
    Own: "changed its own history when asked",
    Shared: "over one and the same look and state",
    Clockwork: "over one and the same look and state",
    Slow: "CPU s a tick with 4,096 workers per pool",
    Raising: "raised KeyError: 'history' at the start",
}


@pytest.mark.parametrize("kind", SPOILT_SCALERS, ids=lambda kind: kind.__name__)
def test_an_autoscaler_that_breaks_the_contract_is_told_how(kind: type[Scaler]) -> None:
    """One sentence names the policy and what it broke."""
    with pytest.raises(ContractError) as told:
        check_autoscaler(kind(), least=1, quota_gpus=8, tick_s=0.01)
    (line,) = str(told.value).splitlines()
    assert line.startswith(f"autoscaler {kind.__name__}: ")
    assert SPOILT_SCALERS[kind] in line


def test_a_sound_autoscaler_keeps_the_contract() -> None:
    """With a memory in its state, pools of any roles, a minimum and a quota."""
    check_autoscaler(Scaler(), least=1, quota_gpus=8)
    check_autoscaler(Scaler(), pools=("mixed",), quota_gpus=4)


class SharedMemory(Scaler):
    """Its first state is one and the same list for every run, which it goes on writing to."""

    memory: "list[float]" = []

    def initial(self) -> Any:
        return self.memory

    def decide(self, seen: Observation, state: Any) -> Any:
        if seen.now_s not in self.memory:
            self.memory.append(seen.now_s)
        return Plan({"decode": 1 + len(self.memory) % 5}), state


def test_an_autoscaler_with_a_memory_for_all_is_found() -> None:
    """What one run leaves behind is noticed by the next."""
    with pytest.raises(ContractError, match=r"SharedMemory: .*(remembers|another run|same look)"):
        check_autoscaler(SharedMemory())


def test_a_policy_that_cannot_be_copied_is_checked_all_the_same() -> None:
    """A lock among its attributes is no reason to refuse it."""

    class Locked(Router):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    check_router(Locked())


def test_a_check_leaves_the_process_as_it_was() -> None:
    """The process's own random streams go on where they were."""
    random.seed(5)
    before = random.getstate()
    check_router(Router())
    check_autoscaler(Scaler())
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (math.nan, math.nan, True),
        (1, 1.0, False),
        ((1, [math.nan]), (1, [math.nan]), True),
        ((1, 2), (1, 2, 3), False),
        (np.array([1.0, math.nan]), np.array([1.0, math.nan]), True),
        (np.array([1, 2]), np.array([1.0, 2.0]), False),
        (deque([1, 2], 3), deque([1, 2], 3), True),
        ({"a": {1}}, {"a": {2}}, False),
        ("ab", "ab", True),
        (np.random.default_rng(1), np.random.default_rng(1), True),
        (np.random.default_rng(1), np.random.default_rng(2), False),
        (Scaler(most=3), Scaler(most=3), True),
        (Scaler(most=3), Scaler(most=4), False),
        (Counting(), Counting(), True),
    ],
)
def test_what_is_the_same(one: object, other: object, alike: bool) -> None:
    """Values are compared to the last bit, objects by their attributes, NaN with NaN."""
    assert same(one, other) is alike


ROUTER: type[RoutingPolicy] = Router
"""A type checker agrees that it is one."""
