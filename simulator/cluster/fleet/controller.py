"""A controller: it wakes on its interval, looks, lets its policy decide, and has it carried out."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from simulator.cluster.clock import CONTROL, TICK, Alarm
from simulator.cluster.fleet.lives import PENDING, SERVING, STARTING, Fleet
from simulator.cluster.fleet.observer import Observer
from simulator.elastic import MAX_WORKERS
from simulator.errors import ConfigError
from simulator.policies.autoscaling import Control, Observation, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One tick: what was asked of each pool, what it got, and why; ``seen_s`` is the data's age."""

    at_s: float
    seen_s: float
    pool: str
    before: int
    asked: int
    granted: int
    reason: str


class Controller:
    """Turns a policy's plans into desired numbers of workers, within the control's bounds."""

    def __init__(self, control: Control, fleet: Fleet, observer: Observer) -> None:
        self._control = control
        self._fleet = fleet
        self._observer = observer
        if getattr(control.policy, "knows_trace", False):
            observer.reveal()
        self._state = control.policy.initial()
        self._changed = dict.fromkeys(fleet.pools, -float("inf"))
        self._scrapes = self._ticks = 0
        self.decisions: list[Decision] = []
        self.alarm = Alarm(fleet.clock, CONTROL)

    def start(self) -> None:
        """Arm the first scrape."""
        self._arm()

    def record(self) -> tuple[Mapping[str, object], ...]:
        """Return every decision so far, its fields by name."""
        return tuple(asdict(decision) for decision in self.decisions)

    def wake(self, now: float) -> None:
        """Scrape, decide, or both, as is due."""
        scrape_s, interval_s = self._control.observing.scrape_s, self._control.tick_s
        if now >= (self._scrapes + 1) * scrape_s:
            self._scrapes += 1
            self._observer.scrape(now)
        if now >= (self._ticks + 1) * interval_s:
            self._ticks += 1
            seen = self._observer.observation(now)
            if seen is not None:
                self._decide(seen)
        self._arm()

    def _arm(self) -> None:
        scrape = (self._scrapes + 1) * self._control.observing.scrape_s
        self.alarm.set(min(scrape, (self._ticks + 1) * self._control.tick_s), TICK)

    def _decide(self, seen: Observation) -> None:
        plan, self._state = self._control.policy.decide(seen, self._state)
        self._check(plan.workers)
        grants = {
            role: self._grant(role, asked, seen.now_s) for role, asked in plan.workers.items()
        }
        if plan.together and not (_whole(grants.values()) and self._may_flip(plan)):
            plan = plan._replace(flips=(), reason=f"{plan.reason}; both legs or neither")
            grants = {role: (before, asked, before) for role, (before, asked, _) in grants.items()}
        for role, counts in grants.items():
            self._note(role, counts, plan, seen)
        self._carry_out(grants, plan, seen.now_s)
        if plan.reason and not plan.workers:
            self._hold(plan, seen)

    def _hold(self, plan: Plan, seen: Observation) -> None:
        """Write down that a policy changes nothing, and why, where it says so."""
        for role in self._fleet.pools:
            desired = self._fleet.counts(role)["desired"]
            self._note(role, (desired, desired, desired), plan, seen)

    def _note(self, role: str, counts: tuple[int, int, int], plan: Plan, seen: Observation) -> None:
        """Write down workers before, asked for and granted."""
        before, asked, granted = counts
        self.decisions.append(
            Decision(
                at_s=seen.now_s,
                seen_s=seen.seen_s,
                pool=role,
                before=before,
                asked=asked,
                granted=granted,
                reason=plan.reason,
            )
        )

    def _grant(self, role: str, asked: int, now: float) -> tuple[int, int, int]:
        """Return workers before, asked for, and what bounds allow; the fleet's count is current."""
        counts = self._fleet.counts(role)
        before, coming = counts["desired"], counts[PENDING] + counts[STARTING]
        bounds = self._control.bounds_of(role)
        held = bounds.hold(asked, before, coming, now - self._changed[role])
        return before, asked, self._fleet.pools[role].allowed(held)

    def _may_flip(self, plan: Plan) -> bool:
        """Tell whether workers stay that serve in every pool that others leave by flipping."""
        ready = {role: pool.count(SERVING) for role, pool in self._fleet.pools.items()}
        return all(ready[flip.pool] > flip.workers for flip in plan.flips)

    def _carry_out(
        self, grants: Mapping[str, tuple[int, int, int]], plan: Plan, now: float
    ) -> None:
        """Give pools what they were granted: flips, then who shrinks, then who grows."""
        for flip in plan.flips:
            self._fleet.flip(flip.pool, flip.to, flip.workers, plan.reason)
        for role, (before, _, granted) in sorted(grants.items(), key=_growth):
            if granted != before:
                self._changed[role] = now
                self._fleet.want(role, granted, plan.reason)
            else:
                self._fleet.pools[role].asked = granted

    def _check(self, workers: Mapping[str, int]) -> None:
        name = type(self._control.policy).__name__
        for role, count in workers.items():
            if role not in self._fleet.pools:
                known = ", ".join(self._fleet.pools)
                raise ConfigError(
                    f"autoscaler {name}: plans for pool {role!r}, but there are {known}"
                )
            if type(count) is not int or count < 0:
                raise ConfigError(
                    f"autoscaler {name}: wants {count!r} {role} workers; a whole number ≥ 0 is due"
                )
            if count > MAX_WORKERS:
                raise ConfigError(
                    f"autoscaler {name}: wants {count} {role} workers; at most {MAX_WORKERS} may be"
                )


def _whole(grants: Iterable[tuple[int, int, int]]) -> bool:
    """Tell whether opposing changes are granted in full; other ones may be in part."""
    grants = list(grants)
    ups, downs = (
        any(sign * (asked - before) > 0 for before, asked, _ in grants) for sign in (1, -1)
    )
    return not (ups and downs) or all(asked == granted for _, asked, granted in grants)


def _growth(grant: tuple[str, tuple[int, int, int]]) -> int:
    before, _, granted = grant[1]
    return granted - before
