"""The contracts of small decisions: who is let in, stays, is next or flips, and which split."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from simulator.policies.admission import ADMITTED, Admission, Arrival
from simulator.policies.autoscaling import Observation
from simulator.policies.classes import ServiceClass
from simulator.policies.engines import Shape
from simulator.policies.flipping import Crowd, Flipping
from simulator.policies.flow_control import FlowControl, Reading
from simulator.policies.local_prefill import LocalPlacing, LocalPrefill, Prompt
from simulator.policies.matching import Answer, Counts, Matcher, View, cost, rates_of
from simulator.policies.queueing import Queued, QueueOrder
from simulator.policies.rebalancing import Loaded, Rebalancing
from simulator.policies.routing import RoutedRequest
from simulator.record import TURNED_AWAY
from simulator.testing.autoscalers import Limits, looks
from simulator.testing.contract import Subject, asked_twice, same
from simulator.testing.routers import DUE, Pool

CLASSES = (
    ServiceClass(ttft_s=0.5, tpot_s=0.05),
    ServiceClass(priority=-1, ttft_s=0.5, tpot_s=0.05),
    ServiceClass(priority=3, ttft_s=30.0, tpot_s=1.0),
)
"""What requests are promised."""
LEVELS = (0.0, 0.3, 1.0, 7.5, 1e6)
"""Of whatever is measured: nothing, little, at its target, beyond it, a flood."""
BUDGETS = (2, 3, 8, 64)
"""GPUs that a matcher may split."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An entrance all of whose gauges are at one level."""

    workers: int
    level: float

    @property
    def waiting(self) -> int:
        """Return prompts."""
        return int(self.level * 10)

    @property
    def tokens(self) -> int:
        """Return prompt tokens."""
        return int(self.level * 20_000)

    def saturation(self, queue: float, kv: float, refresh_s: float) -> float:  # noqa: ARG002
        """Return the level."""
        return self.level

    def ttft_s(self) -> float:
        """Return the level, in the tightest target."""
        return self.level * 0.5

    def tpot_s(self) -> float:
        """Return the level, in the tightest target."""
        return self.level * 0.05

    def tpot_ahead_s(self, decode_s: float) -> float:  # noqa: ARG002
        """Return the level, in the tightest target."""
        return self.level * 0.05


def check_admission(policy: Admission) -> None:
    """See to it that an admission policy keeps its contract.

    It answers with nothing or one of :data:`simulator.record.TURNED_AWAY`, whatever the gauges; the
    same question has the same answer, today and in another run; it keeps nothing in itself.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    subject = Subject("admission", policy)
    known = (ADMITTED, *TURNED_AWAY)
    for workers, level, service in product((1, 8, 512), LEVELS, CLASSES):
        for tokens, draw in product((1, 2000, 10**6), (0.0, 0.37, 1 - 2**-53)):
            arrival = Arrival(7, tokens, 100, tokens // 2, service, draw)
            situation = f"with gauges at {level:g} and a prompt of {tokens:,} tokens"
            entrance = Seen(workers, level)
            found = asked_twice(subject, situation, lambda: policy.decide(arrival, entrance))  # noqa: B023
            if not isinstance(found, str) or found not in known:
                raise subject.broke(
                    f"decided {found!r} {situation}; {ADMITTED!r} or one of "
                    f"{', '.join(TURNED_AWAY)} is due"
                )


def check_queue_order(policy: QueueOrder) -> None:
    """See to it that an order of queues keeps its contract.

    Keys are numbers that order, as many for every prompt; the same prompt has the same key, today
    and in another run; it keeps nothing in itself.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    subject, lengths = Subject("queue order", policy), set()
    for arrival_s, service in product((0.0, 0.25, 86_400.0), CLASSES):
        for tokens, cached in product((1, 2000, 10**6), (0.0, 0.5)):
            prompt = Queued(3, arrival_s, tokens, max(1, int(tokens * (1 - cached))), service)
            situation = f"for a prompt of {tokens:,} tokens that came at {arrival_s:g} s"
            key = asked_twice(subject, situation, lambda: policy.key(prompt))  # noqa: B023
            numbers = isinstance(key, tuple) and all(
                isinstance(each, int | float) and not math.isnan(each) for each in key
            )
            if not numbers:
                raise subject.broke(f"gave the key {key!r} {situation}; a tuple of numbers is due")
            lengths.add(len(key))
    if len(lengths) > 1:
        told = " and ".join(map(str, sorted(lengths)))
        raise subject.broke(f"gave keys of {told} numbers, which do not compare")


def check_flipping(policy: Flipping) -> None:
    """See to it that a flipping policy keeps its contract.

    It says yes or no, in pools of any size, whatever the backlog; the same question has the same
    answer, today and in another run; it keeps nothing in itself.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    subject = Subject("flipping", policy)
    update_s = subject.asked("about its interval", lambda: policy.update_s)
    if isinstance(update_s, bool) or not isinstance(update_s, int | float) or not update_s >= 0:
        raise subject.broke(f"has update_s {update_s!r}; seconds of at least 0 are due")
    for prefill, decode, level in product((1, 2, 512), (1, 2, 512), LEVELS):
        for service in CLASSES:
            crowd = Crowd(prefill, decode, level * 0.5, level * 0.05)
            situation = f"with {prefill} prefill and {decode} decode workers at {level:g}"
            _yes_or_no(subject, situation, lambda: policy.to_decode(crowd, service))  # noqa: B023
    for requests in (0, 1, 10**6):
        situation = f"about a decode worker with {requests:,} requests"
        _yes_or_no(subject, situation, lambda: policy.to_prefill(requests))  # noqa: B023


def check_local_prefill(policy: LocalPrefill | LocalPlacing) -> None:
    """See to it that a policy of which prompts stay at decode workers keeps its contract.

    It says yes or no, of prompts of any length, cached in part, whole or nobody knows, whatever the
    loads (one that chooses the worker: which of those there are, or none); the same question has
    the same answer, today and in another run; it keeps nothing in itself.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    subject = Subject("local prefill", policy)
    if isinstance(policy, LocalPlacing):
        _check_placing(subject)
        return
    for tokens, cached in product((1, 16, 2000, 10**6), (None, 0.0, 0.5, 1.0)):
        for blocks, waiting in product((1, 5_000, 10**7), (0, 8_192, 10**7)):
            found = None if cached is None else int(cached * tokens)
            told = "nobody knows how much" if found is None else f"{found:,}"
            situation = f"about a prompt of {tokens:,} tokens of which {told} are cached"
            prompt = Prompt(tokens, found, blocks, 10_000, waiting, 8_192)
            _yes_or_no(subject, situation, lambda: policy.local(prompt))  # noqa: B023


def _check_placing(subject: Subject) -> None:
    for size, tokens, level in product((1, 2, 7), (1, 2000, 10**6), (0, 1, 500, 200_000)):
        loads = [(level * (1 + at)) % (3 * level + 1) for at in range(3 * size)]
        prefill, decode = Pool((loads[:size],) * 3).view(), Pool((loads,) * 3).view()
        situation = f"about a prompt of {tokens:,} tokens over {3 * size} decode workers"
        request = RoutedRequest(0, tokens, 100, 0, 0.5, DUE)
        args = request, prefill, decode
        found = asked_twice(subject, situation, lambda: subject.policy.place(*args))  # noqa: B023
        whole = isinstance(found, int) and not isinstance(found, bool)
        if found is not None and not (whole and 0 <= found < 3 * size):
            raise subject.broke(f"chose worker {found!r} {situation}; 0 to {3 * size - 1} are due")


def check_rebalancing(policy: Rebalancing) -> None:
    """See to it that a policy that moves sequences keeps its contract.

    It names pairs of workers there are, whatever their loads and however many; the same question
    has the same answer, today and in another run; it keeps nothing in itself.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    subject = Subject("rebalancing", policy)
    for size, level in product((0, 1, 2, 5, 64), (0, 7, 60, 100)):
        workers = [
            Loaded(level * (at % 3) // 2, at % 5, 100, at % 7, level * (at % 2) // 10)
            for at in range(size)
        ]
        situation = f"about {size} workers"
        found = asked_twice(subject, situation, lambda: tuple(policy.moves(workers)))  # noqa: B023
        for pair in found:
            if not (len(pair) == 2 and all(type(at) is int and 0 <= at < size for at in pair)):
                raise subject.broke(f"named {pair!r} {situation}; pairs of 0 to {size - 1} are due")


def check_flow_control(policy: FlowControl) -> None:
    """See to it that a policy of who leaves the router keeps its contract.

    Its seconds are above 0 (between two that leave: at least 0); saturation is a number, of workers
    of any load, of which some or all have no fresh metrics; the same question has the same answer,
    today and in another run; it keeps nothing in itself.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    subject = Subject("flow control", policy)
    for name in ("scrape_s", "stale_s", "dispatch_s"):
        seconds = subject.asked(f"about {name}", lambda: getattr(policy, name))  # noqa: B023
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not (number and (0 < seconds < math.inf or (seconds == 0 and name == "dispatch_s"))):
            raise subject.broke(f"has {name} {seconds!r}; seconds above 0 are due")
    for size, level, without in product((1, 2, 64), LEVELS, (1, 2, 65)):
        readings = [
            None if at % without == without - 1 else Reading(int(10 * level), at, min(1.0, level))
            for at in range(size)
        ]
        known = size - readings.count(None)
        situation = f"with gauges of {known} of {size} workers at {level:g}"
        told = asked_twice(subject, situation, lambda: policy.saturation(tuple(readings)))  # noqa: B023
        if isinstance(told, bool) or not isinstance(told, int | float) or math.isnan(told):
            raise subject.broke(f"answered {told!r} {situation}; a number is due")


def check_matcher(policy: Matcher) -> None:
    """See to it that a rate matcher keeps its contract.

    A split has whole numbers of workers, at least one of each pool, within the budget; it survives
    metrics that are not exported, windows without requests, pools without a worker and floods; the
    same look and state have the same answer, today and in another run; it writes to nothing it is
    shown and keeps nothing in itself.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    subject = Subject("rate matcher", policy)
    for where, view in _views(policy):
        situation = f"{where}, over {view.budget} GPUs"
        state = subject.asked("at the start", policy.initial)
        for _ in range(3):
            answer = _split(subject, view, state, situation)
            _check_split(subject, view, answer, situation)
            state = answer.state


def _views(policy: Matcher) -> Iterator[tuple[str, View]]:
    """Yield what a matcher may come to see: pools and budgets of several sizes."""
    limits = Limits(pools=("prefill", "decode"), least=1, quota_gpus=None)
    for where, seen in looks(limits):
        for budget, gpus in product(BUDGETS, ((1, 1), (2, 1), (1, 4))):
            if budget >= sum(gpus):
                yield where, _view(policy, seen, budget, Counts(*gpus))


def _view(policy: Matcher, seen: Observation, budget: int, gpus: Counts) -> View:
    pools = {
        role: replace(seen.pools[role], gpus_per_worker=each)
        for role, each in zip(("prefill", "decode"), gpus, strict=True)
    }
    shown = replace(seen, pools=pools)
    shape = Shape(shown.traffic.input_tokens, shown.traffic.output_tokens, shown.traffic.hit_rate)
    return View(
        seen=shown,
        budget=budget,
        gpus=gpus,
        now=Counts(pools["prefill"].desired or 1, pools["decode"].desired or 1),
        rates=rates_of(shown, shape, policy.common),
    )


def _split(subject: Subject, view: View, state: object, situation: str) -> Answer:
    shown, kept = copy.deepcopy(view), copy.deepcopy(state)
    answer = asked_twice(subject, situation, lambda: subject.policy.split(shown, kept))
    if not same(shown, view):
        raise subject.broke(f"wrote into what it was shown {situation}")
    if not isinstance(answer, Answer):
        raise subject.broke(f"answered {answer!r} {situation}; an Answer is due")
    return answer


def _check_split(subject: Subject, view: View, answer: Answer, situation: str) -> None:
    counts: Any = answer.counts
    if counts is None:
        return
    whole = len(counts) == 2 and all(type(each) is int and each >= 1 for each in counts)
    if not whole:
        raise subject.broke(f"split into {counts!r} {situation}; a worker of each is the least")
    if cost(Counts(*counts), view.gpus) > view.budget:
        raise subject.broke(
            f"split into {tuple(counts)}, {cost(counts, view.gpus)} GPUs, {situation}"
        )


def _yes_or_no(subject: Subject, situation: str, ask: Callable[[], object]) -> None:
    found = asked_twice(subject, situation, ask)
    if not isinstance(found, bool):
        raise subject.broke(f"answered {found!r} {situation}; True or False is due")
