"""The contract of an autoscaler: a pure, quick plan within what there is, whatever is seen."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from simulator.elastic import MAX_WORKERS
from simulator.latency.base import Busiest, Piece
from simulator.policies.autoscaling import (
    METRICS,
    Autoscaler,
    Observation,
    Plan,
    PoolSeen,
    TrafficSeen,
)
from simulator.policies.engines import Engine
from simulator.testing.contract import Subject, same, streams_at

TICKS = 60
INTERVAL_S = 15.0
LARGE = 4096
"""Workers per pool where ticks are timed."""
QUIET = TrafficSeen(
    requests=0,
    rate=0.0,
    input_tokens=math.nan,
    output_tokens=math.nan,
    ttft_s=(),
    tpot_s=(),
)
"""A window without requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What plans must stay within: ``least`` workers a pool, and ``quota_gpus`` if there is one."""

    pools: tuple[str, ...]
    least: int
    quota_gpus: int | None


def check_autoscaler(
    policy: Autoscaler[Any],
    *,
    pools: tuple[str, ...] = ("prefill", "decode"),
    least: int = 0,
    quota_gpus: int | None = None,
    tick_s: float = 0.05,
) -> None:
    """See to it that an autoscaler keeps its contract in a deployment of ``pools``.

    It plans whole numbers of workers, of pools there are, never below ``least`` nor, where
    ``quota_gpus`` says how many GPUs exist, beyond them; it survives metrics that are not exported,
    a window without requests (lengths are NaN), pools without a ready or any desired worker, full
    quotas and floods; one look and one state have one plan and one next state, today and in another
    run; it writes to nothing it is shown and keeps nothing in itself; and a tick with 4,096 workers
    per pool takes ``tick_s`` CPU seconds at most.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    limits = Limits(pools=pools, least=least, quota_gpus=quota_gpus)
    subject = Subject("autoscaler", policy)
    for situation, seen in looks(limits):
        state = subject.asked("at the start", policy.initial)
        for _ in range(3):
            plan, state = _decided(subject, seen, state, situation)
            _within(subject, plan, seen, limits, situation)
    _alone(subject, limits)
    _quickly(subject, limits, tick_s)


# --- what it is shown --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Steps:
    """Step times of a worker that computes 50,000 prompt tokens/s and decodes in 20 ms or more."""

    stages: int = 1

    def decode_pieces(self, batch: int) -> tuple[Piece, ...]:
        """Return one line."""
        return (Piece(math.inf, 0.02 + 1e-4 * batch, 1e-8, 0.0),)

    def step_seconds(
        self,
        tokens: int,
        pairs: int,  # noqa: ARG002
        past: int,  # noqa: ARG002
        prompts: int,  # noqa: ARG002
        batch: int,
        context: int,
        busiest: Busiest | None = None,  # noqa: ARG002
    ) -> float:
        """Return a sum of its parts."""
        decoding = 0.02 + 1e-4 * batch + context * 1e-8 if batch else 0.0
        return tokens / 50_000 + decoding


ENGINE = Engine(
    steps=_Steps(),
    gpus=1,
    max_num_batched_tokens=8192,
    max_num_seqs=256,
    kv_tokens=400_000,
    max_context=131_072,
)
"""What is known of the workers a policy is shown."""


def _pool(workers: int, load: float = 0.5, **changes: Any) -> PoolSeen:
    """Return a pool of ready workers that are all as busy as ``load`` says, 1 being full."""
    whole = PoolSeen(
        desired=workers,
        pending=0,
        starting=0,
        ready=workers,
        draining=0,
        gpus_per_worker=1,
        waiting=(int(10 * max(0.0, load - 0.8)),) * workers,
        running=(int(100 * min(load, 1.0)),) * workers,
        kv_utilization=(min(load, 1.0),) * workers,
        queued_tokens=(int(20_000 * max(0.0, load - 0.8)),) * workers,
        kv_tokens=(int(ENGINE.kv_tokens * min(load, 1.0)),) * workers,
        queued_kv_tokens=(int(ENGINE.kv_tokens * max(0.0, load - 1.0)),) * workers,
        scheduled_tokens=(int(8192 * min(load, 1.0)),) * workers,
        scheduled_prompts=(int(4 * min(load, 1.0)),) * workers,
        engine=ENGINE,
        held=int(50 * max(0.0, load - 1.0)),
    )
    return replace(whole, **changes)


def _traffic(load: float) -> TrafficSeen:
    """Return a minute's requests at a load."""
    requests = int(600 * load)
    if not requests:
        return QUIET
    return TrafficSeen(
        requests=requests,
        rate=requests / 60,
        input_tokens=2000.0 + 500 * load,
        output_tokens=300.0,
        ttft_s=(0.3 + load**4,) * 20,  # a few are as good as many
        tpot_s=(0.02 + 0.02 * load,) * 20,
    )


def _look(limits: Limits, pool: PoolSeen, load: float, now_s: float = 600.0) -> Observation:
    """Return a look at pools that are all alike, within the quota."""
    free = None
    if limits.quota_gpus is not None:
        taken = pool.gpus_per_worker * (pool.desired - pool.pending + pool.draining)
        free = max(0, limits.quota_gpus - taken * len(limits.pools))
    return Observation(
        now_s=now_s,
        seen_s=now_s - 5.0,
        pools=dict.fromkeys(limits.pools, pool),
        traffic=_traffic(load),
        free_gpus=free,
    )


def looks(limits: Limits) -> Iterator[tuple[str, Observation]]:
    """Yield what a controller may come to see, in words and as an observation."""
    size = max(1, limits.least)
    yield "at the first tick", _look(limits, _pool(size, 0.0), 0.0, now_s=INTERVAL_S)
    yield "at a quiet hour", _look(limits, _pool(size, 0.0), 0.0)
    yield "at a busy hour", _look(limits, _pool(size, 0.9), 0.9)
    flood = _pool(size, 1.0, waiting=(10**6,) * size)
    yield "in a flood", _look(limits, flood, 50.0)
    none: dict[str, Any] = dict.fromkeys(METRICS, ())
    starting = _pool(size, ready=0, starting=size, **none)
    yield "while no worker is ready", _look(limits, starting, 0.9)
    pending = _pool(size, ready=0, pending=size, **none)
    yield "while workers wait for GPUs", replace(_look(limits, pending, 0.9), free_gpus=0)
    yield "where a pool has no workers", _look(limits, _pool(0, **none), 0.9)
    yield "while workers drain", _look(limits, _pool(size, 0.1, draining=1), 0.1)
    for metric in METRICS:
        for role in limits.pools:
            seen = _look(limits, _pool(size, 0.9), 0.9)
            blind = replace(seen.pools[role], **{metric: None})  # type: ignore[arg-type]
            pools = {**seen.pools, role: blind}
            yield f"where {role} exports no {metric}", replace(seen, pools=pools)
    unknown: dict[str, Any] = dict.fromkeys(METRICS)
    nothing = _pool(size, **unknown)
    yield "where nothing is exported", _look(limits, nothing, 0.0)
    unknown_engine = _pool(size, 0.9, engine=None)
    yield "where nothing is known of engines", _look(limits, unknown_engine, 0.9)
    unread = replace(_look(limits, _pool(size, 0.9), 0.9), traffic=QUIET)
    yield "where busy workers had no request in the window", unread
    old = replace(_look(limits, _pool(size, 0.9), 0.9), seen_s=0.0)
    yield "where what it sees is ten minutes old", old


def _day(limits: Limits, phase: float) -> Callable[[int, Mapping[str, int]], Observation]:
    """Return what is seen at each tick of a day whose pools are as large as was planned."""

    def look(tick: int, workers: Mapping[str, int]) -> Observation:
        load = 0.6 + 0.6 * math.sin(2 * math.pi * (tick / TICKS + phase))
        size = max(1, limits.least)
        seen = _look(limits, _pool(size), max(0.0, load), now_s=INTERVAL_S * (tick + 1))
        pools = {
            role: _pool(workers.get(role, size), load * size / max(1, workers.get(role, size)))
            for role in limits.pools
        }
        taken = sum(pool.desired * pool.gpus_per_worker for pool in pools.values())
        quota = limits.quota_gpus
        return replace(
            seen, pools=pools, free_gpus=None if quota is None else max(0, quota - taken)
        )

    return look


# --- what is checked ---------------------------------------------------------------------------


def _decided(
    subject: Subject, seen: Observation, state: object, situation: str
) -> tuple[Plan, object]:
    """Ask twice for one decision; the first answer counts, the second must be the same."""
    answers = []
    for _ in range(2):
        shown, kept = copy.deepcopy(seen), copy.deepcopy(state)
        answer = subject.asked(situation, lambda: subject.policy.decide(shown, kept))  # noqa: B023
        if not same(shown, seen):
            raise subject.broke(f"wrote into what it was shown {situation}")
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Plan)):
            raise subject.broke(f"decided {answer!r} {situation}; a Plan and a state are due")
        if not same(kept, state) and answer[1] is not kept:
            raise subject.broke(
                f"wrote into the state it was given {situation}; it must return another"
            )
        answers.append(copy.deepcopy(answer))
    if not same(answers[0], answers[1]):
        raise subject.broke(
            f"decided {told(answers[0][0])} and then {told(answers[1][0])} over one and the same "
            f"look and state {situation}"
        )
    plan, new = answers[0]
    return plan, new


def told(plan: Plan) -> str:
    """Return a plan in a few words."""
    return ", ".join(f"{count!r} {role}" for role, count in plan.workers.items()) or "nothing"


def _within(
    subject: Subject, plan: Plan, seen: Observation, limits: Limits, situation: str
) -> None:
    """Check what a plan asks for."""
    if not isinstance(plan.reason, str):
        raise subject.broke(f"gave {plan.reason!r} as its reason {situation}; words are due")
    for role, count in plan.workers.items():
        if role not in seen.pools:
            known = ", ".join(seen.pools)
            raise subject.broke(f"planned for pool {role!r} {situation}, but there are {known}")
        if type(count) is not int or not 0 <= count <= MAX_WORKERS:
            raise subject.broke(
                f"wants {count!r} {role} workers {situation}; a whole number from 0 to "
                f"{MAX_WORKERS} is due"
            )
        if count < limits.least:
            raise subject.broke(
                f"wants {count} {role} workers {situation}, fewer than the minimum, {limits.least}"
            )
    _within_quota(subject, plan, seen, limits, situation)


def _within_quota(
    subject: Subject, plan: Plan, seen: Observation, limits: Limits, situation: str
) -> None:
    """Check that a plan that grows any pool asks for no more GPUs than exist."""
    grows = any(count > seen.pools[role].desired for role, count in plan.workers.items())
    if limits.quota_gpus is None or not grows:
        return
    gpus = sum(
        plan.workers.get(role, pool.desired) * pool.gpus_per_worker
        for role, pool in seen.pools.items()
    )
    if gpus > limits.quota_gpus:
        raise subject.broke(
            f"wants {gpus} GPUs ({told(plan)}) {situation}, but there are {limits.quota_gpus}"
        )


def _alone(subject: Subject, limits: Limits) -> None:
    """Let two days go one after the other and in turns: they must not notice each other."""
    first = _live(subject, limits, (0.0,), seed=1)
    if not same(_live(subject, limits, (0.0,), seed=2), first):
        raise subject.broke(
            "planned otherwise when the same day came again; it draws from a random stream of its "
            "own, reads a clock, or remembers"
        )
    if not same(_live(subject, limits, (0.0, 0.5), seed=1), first):
        raise subject.broke("planned otherwise when another run was asking it too")


def _live(
    subject: Subject, limits: Limits, phases: tuple[float, ...], *, seed: int
) -> list[Mapping[str, int]]:
    """Return the plans of the first of several days that are lived in turns."""
    looks = [_day(limits, phase) for phase in phases]
    with streams_at(seed):
        states = [subject.asked("at the start", subject.policy.initial) for _ in phases]
        sizes: list[dict[str, int]] = [{} for _ in phases]
        plans: list[Mapping[str, int]] = []
        for tick in range(TICKS):
            for at, look in enumerate(looks):
                seen, situation = look(tick, sizes[at]), f"at tick {tick} of a day"
                plan, states[at] = _decided(subject, seen, states[at], situation)
                _within(subject, plan, seen, limits, situation)
                sizes[at] |= {role: min(count, LARGE) for role, count in plan.workers.items()}
            plans.append(dict(sizes[0]))
    return plans


def _quickly(subject: Subject, limits: Limits, tick_s: float) -> None:
    """Time ticks of a large deployment."""
    looks = [_look(limits, _pool(LARGE, load), load) for load in (0.3, 0.9)]
    ticks = 10

    def decide() -> float:
        state = subject.policy.initial()
        started = time.process_time()
        for tick in range(ticks):
            seen = replace(looks[tick % 2], now_s=INTERVAL_S * (tick + 1))
            _, state = subject.policy.decide(seen, state)
        return (time.process_time() - started) / ticks

    each = subject.quickest(f"with {LARGE:,} workers per pool", decide, tick_s)
    if each > tick_s:
        raise subject.broke(
            f"took {each:.3f} CPU s a tick with {LARGE:,} workers per pool; {tick_s:g} may be"
        )
