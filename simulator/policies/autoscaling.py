"""How many workers each pool shall have: what a controller sees, and policies over it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.policies.engines import Engine
from simulator.policies.ticks import check_interval

Numbers = NDArray[np.float64] | NDArray[np.int32]

State = TypeVar("State")

INTERVAL_S = 15.0
"""Seconds between two decisions of a policy that says nothing else: Kubernetes' own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSeen:
    """What a controller sees of one pool, as old as its last scrape.

    ``desired`` workers were asked for, of which so many are ``pending`` (no GPUs yet),
    ``starting`` and ``ready``; ``draining`` ones come on top. Of its ready workers: requests
    ``waiting`` and ``running`` and KV blocks in use over those there are, one entry each; prompt
    tokens not begun (``queued_tokens``); KV tokens of the sequences that decode (``kv_tokens``) and
    of those that wait to or were preempted (``queued_kv_tokens``); prompt tokens and prompts of the
    step under way (``scheduled_tokens``, ``scheduled_prompts``). A metric the pool's engine does
    not export is ``None``. ``engine`` is what is known of its workers beforehand. ``held`` requests
    wait at the router, for whichever pool (``None``: it keeps no queue); ``role`` is the pool's.
    """

    desired: int
    pending: int
    starting: int
    ready: int
    draining: int
    gpus_per_worker: int
    waiting: tuple[int, ...] | None
    running: tuple[int, ...] | None
    kv_utilization: tuple[float, ...] | None
    queued_tokens: tuple[int, ...] | None = None
    kv_tokens: tuple[int, ...] | None = None
    queued_kv_tokens: tuple[int, ...] | None = None
    scheduled_tokens: tuple[int, ...] | None = None
    scheduled_prompts: tuple[int, ...] | None = None
    engine: Engine | None = None
    held: int | None = None
    role: str = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSeen:
    """Requests of the rate window: how many, per second, and their mean lengths in tokens.

    Counted on arrival or on completion, as the control's ``demand`` says; lengths are ``nan``
    where there were none. ``ttft_s`` and ``tpot_s`` are those of the requests that got their first
    token, and their last one, in the window; ``hit_rate`` is the share of the former's prompt
    tokens that a cache held.
    """

    requests: int
    rate: float
    input_tokens: float
    output_tokens: float
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    hit_rate: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What will come: every request's arrival in seconds (rising), and its lengths in tokens."""

    arrival_s: Numbers
    input_tokens: Numbers
    output_tokens: Numbers

    def between(self, start_s: float, end_s: float) -> tuple[int, float, float]:
        """Return the requests of [start, end) and their mean lengths, NaN of none."""
        first, beyond = np.searchsorted(self.arrival_s, (start_s, end_s))
        if first == beyond:
            return 0, math.nan, math.nan
        inputs, outputs = self.input_tokens[first:beyond], self.output_tokens[first:beyond]
        return int(beyond - first), float(inputs.mean()), float(outputs.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What is known at a controller's tick: ``seen_s`` is when it was so, ``now_s`` the tick.

    ``free_gpus`` are those of the quota nobody holds (``None``: there is no quota). ``planned`` are
    the workers that policies before this one in a chain ask for at this tick. ``truth`` is shown to
    policies alone that say ``knows_trace``: they are bounds on what others can do.
    """

    now_s: float
    seen_s: float
    pools: Mapping[str, PoolSeen]
    traffic: TrafficSeen
    free_gpus: int | None
    planned: Mapping[str, int] = field(default_factory=dict)
    truth: Truth | None = None


class Flip(NamedTuple):
    """So many ready workers of a pool drain and then serve in another one, on their own GPUs."""

    pool: str
    to: str
    workers: int


class Plan(NamedTuple):
    """Workers desired per pool; pools that are not named stay as they are. Why, in words.

    ``flips`` are ways to get there, counted in ``workers``: what they cannot do is started and
    stopped. ``together``: where one pool grows and another shrinks, both do in full or neither.
    """

    workers: Mapping[str, int]
    reason: str = ""
    flips: tuple[Flip, ...] = ()
    together: bool = False


class Autoscaler(Protocol[State]):
    """A pure decision: what it remembers is the state it returns, so two runs never meet."""

    def initial(self) -> State:
        """Return the state before the first tick."""
        ...

    def decide(self, seen: Observation, state: State) -> tuple[Plan, State]:
        """Return the workers each pool shall have, and the state for the next tick."""
        ...


@dataclass(frozen=True, slots=True)
class Static:
    """Never changes anything."""

    def initial(self) -> None:
        """Return nothing to remember."""

    def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:  # noqa: ARG002
        """Return an empty plan."""
        return Plan({}), state


class Step(NamedTuple):
    """From ``at_s`` on a pool shall have so many workers."""

    at_s: float
    pool: str
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Workers by the clock, repeated every ``period_s`` (``None``: once): a planned day.

    Raises:
        ValueError: a step with a negative time or count, or one beyond the period.
    """

    steps: tuple[Step, ...]
    period_s: float | None = None

    def __post_init__(self) -> None:
        last = math.inf if self.period_s is None else self.period_s
        for step in self.steps:
            if not 0 <= step.at_s < last:
                raise ValueError(f"schedule: at_s must lie in [0, {last:g}) but got {step.at_s!r}")
            if step.workers < 0:
                raise ValueError(f"schedule: workers must be at least 0 but got {step.workers!r}")

    def refused(self, gpus: Mapping[str, int]) -> str:
        """Return what is wrong with it for these pools (by role a worker's GPUs), if anything."""
        strangers = [step.pool for step in self.steps if step.pool not in gpus]
        known = ", ".join(gpus)
        return f"steps must be of {known} but got {strangers[0]!r}" if strangers else ""

    def initial(self) -> None:
        """Return nothing to remember: the clock says it all."""

    def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:
        """Return each pool's latest step, of this period or the end of the one before."""
        now = seen.now_s if self.period_s is None else seen.now_s % self.period_s
        ordered = sorted(self.steps, key=lambda step: step.at_s)
        begun = self.period_s is not None and seen.now_s >= self.period_s
        past = [step for step in ordered if step.at_s > now] if begun else []
        current = [step for step in ordered if step.at_s <= now]
        return Plan({step.pool: step.workers for step in (*past, *current)}, "schedule"), state


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a plan may ask of each pool, whatever the policy says.

    Between ``least`` and ``most`` workers (``None``: any), at most ``step`` more or fewer per
    tick, and none within ``up_cooldown_s`` or ``down_cooldown_s`` after the last change. With
    ``one_at_a_time`` nothing changes while a worker is pending or starting.
    """

    least: int = 1
    most: int | None = None
    step: int | None = None
    up_cooldown_s: float = 0.0
    down_cooldown_s: float = 0.0
    one_at_a_time: bool = False

    def __post_init__(self) -> None:
        if self.least < 0:
            raise ValueError(f"bounds: least must be at least 0 workers but got {self.least!r}")
        if self.most is not None and self.most < self.least:
            raise ValueError(
                f"bounds: most must be at least least, {self.least}, but got {self.most!r}"
            )
        if self.step is not None and self.step < 1:
            raise ValueError(f"bounds: step must be at least 1 worker but got {self.step!r}")
        for name in ("up_cooldown_s", "down_cooldown_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"bounds: {name} must be ≥ 0 s but got {getattr(self, name)!r}")

    def hold(self, asked: int, now: int, coming: int, since_s: float) -> int:
        """Return how many of ``asked`` workers a pool gets that has ``now``.

        ``coming`` of these are pending or starting; its last change was ``since_s`` ago.
        """
        if self.one_at_a_time and coming:
            return now
        wanted = max(asked, self.least)
        if self.most is not None:
            wanted = min(wanted, self.most)
        if self.step is not None:
            wanted = min(max(wanted, now - self.step), now + self.step)
        cooldown = self.up_cooldown_s if wanted > now else self.down_cooldown_s
        return now if since_s < cooldown else wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Observing:
    """How a controller comes to know: scraped every ``scrape_s``, and ``age_s`` old when read.

    Rates and lengths are over the last ``window_s`` of scrapes, of requests counted on
    ``arrival`` or on ``completion``. ``missing`` names metrics by role that engines do not export,
    as ``prefill.waiting``. ``orphans`` names queues whose metric goes on counting prompts that were
    not begun when their clients left, as ``mixed.waiting`` until their worker ends, or ``router``
    for good (llm-d-autoscaling issue 769, sglang issue 26912, ray issue 37943).
    """

    scrape_s: float = 5.0
    window_s: float = 60.0
    age_s: float = 0.0
    demand: str = "arrival"
    missing: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_interval("observing", "scrape_s", self.scrape_s)
        if not self.scrape_s <= self.window_s < math.inf:
            raise ValueError(
                f"observing: window_s must be at least scrape_s, {self.scrape_s:g} s, but got "
                f"{self.window_s!r}"
            )
        if not 0 <= self.age_s < math.inf:
            raise ValueError(f"observing: age_s must be ≥ 0 s but got {self.age_s!r}")
        if self.demand not in ("arrival", "completion"):
            raise ValueError(
                f"observing: demand must be arrival or completion but got {self.demand!r}"
            )
        metrics = [f"{role}.{name}" for role in POOLS for name in METRICS]
        for field_name, known in (("missing", metrics), ("orphans", list(QUEUES))):
            for name in getattr(self, field_name):
                if name not in known:
                    raise ValueError(
                        f"observing: {field_name} must name some of {known} but got {name!r}"
                    )


POOLS = ("prefill", "decode", "mixed")
METRICS = (
    *("waiting", "running", "kv_utilization"),
    *("queued_tokens", "kv_tokens", "queued_kv_tokens", "scheduled_tokens", "scheduled_prompts"),
)
"""Metrics of a pool that an engine may not export."""

QUEUES = (*(f"{role}.waiting" for role in POOLS), "router")
"""Queues of prompts that are not begun, whose metrics may count who has left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A controller: every ``interval_s`` its policy decides over what is seen, within bounds.

    An interval of ``None`` is the policy's own ``interval_s``, or 15 s where it has none.
    """

    policy: Autoscaler[object] = field(default_factory=Static)  # type: ignore[arg-type]
    interval_s: float | None = None
    observing: Observing = field(default_factory=Observing)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_interval("control", "interval_s", self.tick_s)
        for role in self.bounds:
            if role not in POOLS:
                raise ValueError(
                    f"control: bounds must be of {', '.join(POOLS)} but got those of {role!r}"
                )

    @property
    def tick_s(self) -> float:
        """Seconds between two decisions."""
        if self.interval_s is not None:
            return self.interval_s
        own: float = getattr(self.policy, "interval_s", INTERVAL_S)
        return own

    def bounds_of(self, role: str) -> Bounds:
        """Return a pool's bounds, or those that hold where none are given."""
        return self.bounds.get(role) or Bounds()

    def refused(self, gpus: Mapping[str, int], quota_gpus: int | None) -> str:
        """Return what of it does not fit a deployment, with the key; nothing if all does.

        ``gpus`` are those of a worker of each role there is. A policy may say so by ``refused``.
        """
        least = sum(self.bounds_of(role).least * each for role, each in gpus.items())
        if quota_gpus is not None and least > quota_gpus:
            return (
                f"elastic.quota_gpus must be at least the {least} GPUs of control.bounds' least "
                f"workers but got {quota_gpus!r}"
            )
        told = refusal(self.policy, gpus)
        return f"autoscaler: {told}" if told and not told.startswith("autoscaler") else told


def refusal(policy: object, gpus: Mapping[str, int]) -> str:
    """Return why a policy refuses such pools, if it does."""
    refused = getattr(policy, "refused", None)
    return refused(gpus) if callable(refused) else ""


def needs_both(gpus: Mapping[str, int]) -> str:
    """Return that prefill and decode pools are needed, where there are none."""
    if "prefill" in gpus:
        return ""
    return f"needs prefill and decode pools but there is {', '.join(gpus)}"
