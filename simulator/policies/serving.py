"""Autoscalers of serving frameworks that look at requests in flight: Knative's and Ray Serve's.

Who waits at the router counts, but for a decode pool: Knative's activator and Ray's handles tell of
what they hold back. Sources: knative.dev/serving/pkg/autoscaler/scaling/autoscaler.go and
config.go at 98e5ef90; ray/serve/autoscaling_policy.py and config.py 2.60.0.
"""

import math
from dataclasses import dataclass

from simulator.policies.autoscaling import Observation, PoolSeen
from simulator.policies.windows import Memory, Told, mean_since, per_worker, since


@dataclass(frozen=True, slots=True, kw_only=True)
class Kpa:
    """Knative's pod autoscaler: requests in flight over a stable and a panic window.

    Each window's mean over ``target`` is what it asks for, at most ``up_rate`` times the ready
    workers and at least their ``down_rate``-th part. Where the panic window asks for
    ``panic_share`` times the ready workers it rules, and workers only grow until it has not done so
    for a stable window. It starts in panic where more than one worker is ready.
    """

    target: float = 70.0
    stable_s: float = 60.0
    panic_s: float = 6.0
    panic_share: float = 2.0
    up_rate: float = 1000.0
    down_rate: float = 2.0
    least: int = 1
    most: int = 10

    def __post_init__(self) -> None:
        _bounds("kpa", self.least, self.most)
        for name in ("target", "panic_s", "up_rate", "down_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"kpa: {name} must be above 0 but got {getattr(self, name)!r}")
        if not self.panic_s <= self.stable_s < math.inf:
            raise ValueError(f"kpa: stable_s must be at least panic_s but got {self.stable_s!r}")

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        in_flight = per_worker(pool, "in_flight")
        if in_flight is None:
            return pool.desired, "no metric can be read", memory
        now_s, ready = seen.now_s, max(1, pool.ready)
        told = (
            *since(memory.signals, now_s - self.stable_s),
            Told(now_s, sum(in_flight) + coming(pool)),
        )
        stable, panic = (
            self._asked(mean_since(told, now_s - window_s), ready)
            for window_s in (self.stable_s, self.panic_s)
        )
        first = not memory.signals and pool.ready > 1
        if first:
            memory = memory._replace(since_s=now_s, held=pool.ready)
        since_s, held = self._panic(panic / ready >= self.panic_share, now_s, memory)
        wanted = stable
        if since_s is not None:
            wanted = held = max(held, stable, panic)
        after = memory._replace(signals=told, since_s=since_s, held=held)
        why = f"{'panic' if since_s is not None else 'stable'} asks for {wanted}"
        return min(max(wanted, self.least), self.most), why, after

    def _asked(self, mean: float, ready: int) -> int:
        wanted = math.ceil(mean / self.target)
        return min(max(wanted, math.floor(ready / self.down_rate)), math.ceil(ready * self.up_rate))

    def _panic(self, over: bool, now_s: float, memory: Memory) -> tuple[float | None, int]:
        """Return since when it panics, last seen over, and the most it asked for."""
        if over:
            return now_s, memory.held if memory.since_s is not None else 0
        if memory.since_s is not None and now_s - memory.since_s < self.stable_s:
            return memory.since_s, memory.held
        return None, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RayServe:
    """Ray Serve's autoscaler: as many workers as the mean of requests in flight asks for.

    It acts once it has wanted the same direction for ``up_s`` or ``down_s``, and then jumps to what
    it wants; another direction starts the wait anew. ``factor`` damps or overdoes the change. Ray's
    own ``max_replicas`` is 1 unless it is set.
    """

    target: float = 2.0
    look_back_s: float = 30.0
    up_s: float = 30.0
    down_s: float = 600.0
    factor: float = 1.0
    least: int = 1
    most: int = 10

    def __post_init__(self) -> None:
        _bounds("ray_serve", self.least, self.most)
        for name in ("target", "look_back_s", "factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"ray_serve: {name} must be above 0 but got {getattr(self, name)!r}"
                )

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        in_flight = per_worker(pool, "in_flight")
        if in_flight is None:
            return pool.desired, "no metric can be read", memory
        now_s, workers = seen.now_s, pool.desired
        told = (
            *since(memory.signals, now_s - self.look_back_s),
            Told(now_s, sum(in_flight) + coming(pool)),
        )
        wanted = self._wanted(mean_since(told, now_s - self.look_back_s), workers)
        direction = (wanted > workers) - (wanted < workers)
        began = memory.since_s if direction == memory.held and direction else now_s
        began = now_s if began is None else began
        waits_s = self.up_s if direction > 0 else self.down_s
        acts = direction != 0 and (not workers or now_s - began >= waits_s)
        after = memory._replace(
            signals=told, since_s=None if acts else began, held=0 if acts else direction
        )
        return (wanted if acts else workers), f"{wanted} wanted", after

    def _wanted(self, ongoing: float, workers: int) -> int:
        error = ongoing / self.target - workers
        wanted = math.ceil(workers + self.factor * error)
        if error < 0 and self.factor < 1 and wanted == workers:
            wanted -= 1  # damped to nothing for ever
        return min(max(wanted, self.least), self.most)


def coming(pool: PoolSeen) -> int:
    """Return the requests that wait at the router before a pool."""
    return 0 if pool.role == "decode" else pool.held or 0


def _bounds(owner: str, least: int, most: int) -> None:
    if not 1 <= least <= most:
        raise ValueError(f"{owner}: least must lie in 1..most, {most!r}, but got {least!r}")
