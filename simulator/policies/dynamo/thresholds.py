"""Dynamo's stock planner: one worker more or fewer as queues and KV cross fixed thresholds.

Source: ai-dynamo 1.6.1, ``dynamo/planner/core/load_scaling.py`` and ``config/defaults.py``;
``optimization_target`` is ``throughput`` unless it is set, and then latencies play no part.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from simulator.policies.autoscaling import Observation, Plan, PoolSeen
from simulator.policies.dynamo.inventory import (
    Budget,
    Inventory,
    Waiting,
    Wanted,
    budget_refused,
    inventory,
    reductions,
    sustained,
)

TARGETS = ("throughput", "latency", "load")


class Rule(NamedTuple):
    """A pool grows if any worker's value is over ``up``, and shrinks if all are under ``down``.

    ``at_up`` and ``at_down``: the bound itself counts as over, or as under.
    """

    up: float
    down: float
    at_up: bool
    at_down: bool

    def wanted(self, values: tuple[float, ...], pending: int, least: int) -> int | None:
        """Return one more, one fewer, or ``None``; the survivors must not ask for more at once.

        One ready worker alone stays; while others are on their way it may be all that is left.
        """
        ready = len(values)
        if any(each > self.up or (self.at_up and each == self.up) for each in values):
            return ready + 1
        low = all(each < self.down or (self.at_down and each == self.down) for each in values)
        if not low or (ready == 1 and not pending):
            return None
        fewer = max(ready - 1, least)
        if fewer < ready and max(values) * ready / fewer >= self.up:
            return ready
        return fewer


PREFILL: Mapping[str, Rule] = MappingProxyType(
    {"throughput": Rule(1.0, 0.1, True, False), "latency": Rule(0.1, 0.0, True, True)}
)
"""Of queued prompt tokens over the model's context."""
KV: Mapping[str, Rule] = MappingProxyType(
    {"throughput": Rule(1.0, 0.6, False, False), "latency": Rule(0.4, 0.1, False, False)}
)
"""Of KV tokens, decoding and queued, over those there are room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoThreshold:
    """Dynamo's planner as it comes: ``target`` says which thresholds, ``load`` takes the user's.

    Prefill: tokens of prompts not begun over the model's context (``load``: the tokens). Decode:
    KV tokens of sequences that decode or wait to, over KV room; mixed workers add queued prompts.
    While workers start nothing grows, and only a reduction proposed for ``interval_s`` on end goes
    through (not ``reduces_starting``: nothing at all, the rule of 1.4); while workers drain nothing
    changes.
    """

    sees: ClassVar[Mapping[str, object]] = MappingProxyType({"scrape_s": 5.0})
    target: str = "throughput"
    prefill_up_tokens: float | None = None
    prefill_down_tokens: float | None = None
    decode_up_percent: float | None = None
    decode_down_percent: float | None = None
    budget: Budget = field(default_factory=Budget)
    reduces_starting: bool = True
    interval_s: float = 5.0

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(
                f"dynamo_threshold: target must be one of {', '.join(TARGETS)} but got "
                f"{self.target!r}"
            )
        for low, high in (
            ("prefill_down_tokens", "prefill_up_tokens"),
            ("decode_down_percent", "decode_up_percent"),
        ):
            down, up = getattr(self, low), getattr(self, high)
            if (down is None) != (up is None) or (up is not None and not 0 <= down < up):
                raise ValueError(
                    f"dynamo_threshold: {low} must lie in 0..{high}, {up!r}, both or neither "
                    f"given, but got {down!r}"
                )
        if self.target == "load" and self.decode_up_percent is None:
            raise ValueError(
                "dynamo_threshold: decode_up_percent must be given where target is load but got "
                "None"
            )

    def refused(self, gpus: Mapping[str, int]) -> str:
        """Return why it cannot plan for such pools, if so."""
        return budget_refused(self.budget, gpus)

    def initial(self) -> Waiting | None:
        """Return nothing to wait for."""
        return None

    def decide(self, seen: Observation, state: Waiting | None) -> tuple[Plan, Waiting | None]:
        """Return one worker more or fewer in each pool, if the budget lets that be."""
        there = inventory(seen)
        if there.starting and not self.reduces_starting:
            return Plan({}, "scaling in progress"), None
        return settled(seen, there, self._wanted, Settling(self.budget, self.interval_s, state))

    def _wanted(self, role: str, pool: PoolSeen, pending: int) -> int | None:
        rule = self._rule(role)
        values = self._values(role, pool)
        return rule.wanted(values, pending, self.budget.min_endpoint) if rule and values else None

    def _rule(self, role: str) -> Rule | None:
        if self.target != "load":
            return (PREFILL if role == "prefill" else KV)[self.target]
        if role == "prefill":
            up, down = self.prefill_up_tokens, self.prefill_down_tokens
            return None if up is None or down is None else Rule(up, down, True, True)
        up, down = self.decode_up_percent, self.decode_down_percent
        return None if up is None or down is None else Rule(up / 100, down / 100, True, True)

    def _values(self, role: str, pool: PoolSeen) -> tuple[float, ...]:
        """Return each ready worker's value; none where it cannot be read."""
        if role == "prefill":
            whole = 1.0 if self.target == "load" else _context(pool)
            if pool.queued_tokens is None or not whole:
                return ()
            return tuple(each / whole for each in pool.queued_tokens)
        room = 0 if pool.engine is None else pool.engine.kv_tokens
        loads = [pool.kv_tokens, pool.queued_kv_tokens]
        loads += [pool.queued_tokens] if role == "mixed" else []
        known = [each for each in loads if each is not None]
        if len(known) < len(loads) or not room:
            return ()
        return tuple(sum(each) / room for each in zip(*known, strict=True))


def _context(pool: PoolSeen) -> float:
    return 0.0 if pool.engine is None else float(pool.engine.max_context)


# --- from proposals to a plan, for the load loop of either planner ------------------------------


class Settling(NamedTuple):
    """What proposals are held to, and the reduction that waits; ``floors`` are other lower bounds.

    A reduction during start-up must have been proposed for ``for_s``.
    """

    budget: Budget
    for_s: float
    waiting: Waiting | None
    floors: tuple[int, ...] = ()


def settled(
    seen: Observation,
    there: Inventory,
    propose: Callable[[str, PoolSeen, int], int | None],
    rules: Settling,
) -> tuple[Plan, Waiting | None]:
    """Return the plan that comes of each pool's proposal, and the reduction that then waits."""
    if there.moving:
        return Plan({}, "scaling in progress"), None
    band = rules.budget.band(tuple(seen.pools[role].gpus_per_worker for role in there.roles))
    wanted = tuple(
        propose(role, seen.pools[role], pending)
        for role, pending in zip(there.roles, there.pending, strict=True)
    )
    floors = rules.floors or band.floors
    if there.starting:
        return _while_starting(seen, there, wanted, rules)
    if there.roles == ("mixed",) and wanted == (None,) and not rules.floors:
        return Plan({}, "no change"), None
    asked = tuple(
        max(ready if each is None else each, floor, least)
        for each, ready, floor, least in zip(wanted, there.ready, floors, band.floors, strict=True)
    )
    below = any(n < f for n, f in zip(there.ready, band.floors, strict=True))
    if below and len(asked) > 1:
        granted, why = band.clamped(asked), "back into the budget"
    else:
        granted, why = band.guarded(there.ready, asked)
    changed = {r: g for r, g, n in zip(there.roles, granted, there.ready, strict=True) if g != n}
    return Plan(changed, why or ("scale" if changed else "no change")), None


def _while_starting(
    seen: Observation, there: Inventory, wanted: Wanted, rules: Settling
) -> tuple[Plan, Waiting | None]:
    """Return the reduction that has been proposed long enough, and nothing else."""
    band = rules.budget.band(tuple(seen.pools[role].gpus_per_worker for role in there.roles))
    floors = rules.floors or band.floors
    down = tuple(
        None if each is None or each > ready else max(each, floor, least)
        for each, ready, floor, least in zip(wanted, there.ready, floors, band.floors, strict=True)
    )
    cut = reductions(down, there, band)
    due, waiting = sustained(cut, there, rules.waiting, seen.now_s, rules.for_s)
    if not due:
        return Plan({}, "workers are starting"), waiting
    plan = {role: each for role, each in zip(there.roles, cut, strict=True) if each is not None}
    return Plan(plan, "fewer than are starting"), None
