"""The lives of workers: who starts, serves, drains, stops and fails, on which GPUs, and why."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

import numpy as np

from hardware.rack import Slot
from simulator.cluster.clock import FLEET, READY, Alarm, Clock
from simulator.cluster.fleet.crew import Crew
from simulator.cluster.pools.team import AnyWorker
from simulator.elastic import Elastic
from simulator.errors import ConfigError

NAN = math.nan
PENDING, STARTING, SERVING, DRAINING, STOPPED, FAILED = (
    "pending",
    "starting",
    "ready",
    "draining",
    "stopped",
    "failed",
)
COMING = (PENDING, STARTING, SERVING)
"""States that count towards a pool's desired number."""
ENDED = (STOPPED, FAILED)


@dataclass(slots=True, eq=False, kw_only=True)
class Life:
    """One worker from being asked for to its end; times in seconds, NaN where it never got there.

    ``why`` it was asked for and ``because`` of what it ended are words for people.
    """

    number: int
    crew: Crew
    why: str
    asked_s: float
    slot: Slot | None = None
    state: str = PENDING
    granted_s: float = NAN
    ready_s: float = NAN
    draining_s: float = NAN
    ended_s: float = NAN
    because: str = ""
    worker: AnyWorker | None = None
    replaces: "Life | None" = None
    flips_to: str | None = None
    flipped: bool = False

    def allocated_s(self, now: float) -> float:
        """Return the seconds it has held its GPUs until ``now``."""
        if math.isnan(self.granted_s):
            return 0.0
        return (now if math.isnan(self.ended_s) else self.ended_s) - self.granted_s


class Land(Protocol):
    """Where the fleet has its GPUs from, which others may share."""

    @property
    def free_gpus(self) -> int | None:
        """GPUs of the quota that nobody holds (``None``: there is no quota)."""
        ...

    def take(self, fleet: "Fleet", life: Life) -> Slot | None:
        """Return GPUs for a worker, or ``None`` if it has to wait."""

    def give(self, fleet: "Fleet", life: Life, slot: Slot) -> None:
        """Take back a worker's GPUs."""

    def offer(self) -> None:
        """Offer free GPUs to whoever waits."""


class Door(Protocol):
    """What the fleet asks of the rest: to let a worker serve, to take it out, to forget it."""

    def opened(self, life: Life) -> AnyWorker:
        """Make a life's worker and let routers see it."""

    def closing(self, life: Life) -> None:
        """Hide a life's worker, and let it part with what it has not begun."""

    def lost(self, life: Life) -> None:
        """Take from a life's worker all it still holds."""


@dataclass(slots=True, eq=False)
class Pool:
    """One role's crew, the number of workers it shall have, and its lives that have not ended.

    Others ``asked`` for a number, of which a quota allows the ``ceiling`` (``None``: all).
    """

    crew: Crew
    desired: int = 0
    asked: int = 0
    ceiling: int | None = None
    surge: int = 0  # workers beyond that, while they replace others
    inbound: int = 0  # workers that drain in another pool and then come here
    lives: list[Life] = field(default_factory=list)
    renewing: deque[Life] = field(default_factory=deque)

    def count(self, *states: str) -> int:
        """Return how many lives are in one of ``states``."""
        return sum(life.state in states for life in self.lives)

    def allowed(self, workers: int) -> int:
        """Return so many workers, or as many as a quota allows."""
        return workers if self.ceiling is None else min(workers, self.ceiling)


class Fleet:
    """Keeps each pool at its desired number of workers, as GPUs and start-ups allow.

    ``land`` is where GPUs come from, ``service`` its name among those who share it.
    """

    def __init__(
        self, clock: Clock, elastic: Elastic, crews: Mapping[str, Crew], draws: np.random.Generator
    ) -> None:
        self.clock = clock
        self.pools = {role: Pool(crew) for role, crew in crews.items()}
        self.lives: list[Life] = []
        self.events: list[tuple[float, str, int, str]] = []
        self.alarm = Alarm(clock, FLEET)
        self.door: Door
        self.land: Land
        self.service = ""
        self._elastic = elastic
        self._draws = draws
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.taken = 0  # GPUs
        self._gpu_seconds = 0.0
        self._counted_until = 0.0

    # --- what others ask of it -----------------------------------------------------------------

    def open(self) -> None:
        """Let the pools' initial workers be ready at once; their GPUs are known to be there."""
        for role, pool in self.pools.items():
            pool.desired = pool.asked = pool.crew.pool.workers
            for _ in range(pool.desired):
                life = self._ask(role, "initial")
                self.grant(life)
                self._ready(life)

    def want(self, role: str, workers: int, why: str) -> None:
        """Have ``workers`` workers in a pool from now on, or as many as a quota allows."""
        pool = self.pools[role]
        pool.asked = workers
        workers = pool.allowed(workers)
        if workers != pool.desired:
            self._tell("desired", -1, f"{role}: {pool.desired} to {workers}, {why}")
        pool.desired = workers
        self._reconcile(role, why)

    def check_number(self, number: int, key: str) -> None:
        """Refuse the number, which ``key`` gave, of a worker that has not been."""
        if not 0 <= number < len(self.lives):
            raise ConfigError(
                f"{key}: there is no worker {number} at {self.clock.now:g} s; so far there are 0 "
                f"to {len(self.lives) - 1}"
            )

    def cap(self, role: str, ceiling: int, why: str) -> None:
        """Let a pool have at most so many workers from now on."""
        pool = self.pools[role]
        pool.ceiling = ceiling
        if pool.allowed(pool.asked) != pool.desired:
            self.want(role, pool.asked, why)

    def reclaim(self, life: Life) -> None:
        """Let a worker end whose GPUs are another service's due; its pool asks for one again."""
        if life.state in (STARTING, SERVING):
            self.stop(life, "its GPUs are taken back")
            self._reconcile(life.crew.pool.role, f"replaces worker {life.number}")

    def fail(self, number: int, why: str) -> None:
        """Let a worker die now, with all it holds; its pool starts another in its place."""
        life = self.lives[number]
        if life.state in ENDED:
            return
        life.because = why
        self._end(life, FAILED)
        self._reconcile(life.crew.pool.role, f"replaces worker {number}")

    def renew(self, role: str, at_once: int, why: str) -> None:
        """Replace a pool's ready workers by new ones, each when its successor is ready."""
        pool = self.pools[role]
        pool.renewing = deque(life for life in pool.lives if life.state == SERVING)
        self._tell("renewing", -1, f"{role}: {len(pool.renewing)} workers, {why}")
        for _ in range(at_once):
            self._renew_next(role)

    def flip(self, role: str, to: str, count: int, why: str) -> None:
        """Let that many workers of a pool, the oldest, drain and then serve in another one."""
        self._flip([self.lives[number] for number in self.oldest(role, count)], role, to, why)

    def flip_one(self, number: int, to: str, why: str) -> None:
        """Let a ready worker drain and then serve in another pool."""
        life = self.lives[number]
        self._flip([life], life.crew.pool.role, to, why)

    def _flip(self, doomed: list[Life], role: str, to: str, why: str) -> None:
        leaving, joining = self.pools[role], self.pools[to]
        self._tell("flipping", -1, f"{len(doomed)} workers from {role} to {to}, {why}")
        leaving.desired -= len(doomed)
        joining.desired += len(doomed)
        leaving.asked, joining.asked = leaving.desired, joining.desired
        joining.inbound += len(doomed)
        for life in doomed:
            life.flips_to = to
            self.stop(life, f"flips to {to}, {why}")

    def oldest(self, role: str, count: int) -> list[int]:
        """Return the numbers of a pool's ``count`` oldest ready workers."""
        return [life.number for life in self.pools[role].lives if life.state == SERVING][:count]

    def tell_of_links(self, whose: str | int, share: float) -> None:
        """Record that the ports of a pool or a worker now run at a share of their bandwidth."""
        number = whose if isinstance(whose, int) else -1
        self._tell("links", number, f"{whose}: {share:.0%} of the ports' bandwidth")

    def empty(self, number: int) -> None:
        """Hear that a draining worker holds nothing any more."""
        life = self.lives[number]
        if life.state == DRAINING:
            self._end(life, STOPPED)

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Do something at ``when``, before that instant's arrivals."""
        self._order += 1
        heappush(self._due, (when, self._order, act))
        self.alarm.set(self._due[0][0], READY)

    def wake(self, now: float) -> None:
        """Do what is due."""
        due = self._due
        while due and due[0][0] <= now:
            heappop(due)[2]()
        if due:
            self.alarm.set(due[0][0], READY)

    def counts(self, role: str) -> dict[str, int]:
        """Return how many workers a pool shall have, and has in each state."""
        pool = self.pools[role]
        states = (PENDING, STARTING, SERVING, DRAINING)
        return {"desired": pool.desired, **{state: pool.count(state) for state in states}}

    @property
    def free_gpus(self) -> int | None:
        """GPUs of the quota that nobody holds, over all kinds."""
        return self.land.free_gpus

    @property
    def gpu_seconds(self) -> float:
        """GPU-seconds held so far, counted at every change."""
        self._count_gpus()
        return self._gpu_seconds

    # --- from one state to the next ------------------------------------------------------------

    def _ask(self, role: str, why: str) -> Life:
        life = Life(
            number=len(self.lives), crew=self.pools[role].crew, why=why, asked_s=self.clock.now
        )
        self.lives.append(life)
        self.pools[role].lives.append(life)
        return life

    def _reconcile(self, role: str, why: str) -> None:
        pool = self.pools[role]
        for _ in range(pool.count(*COMING) + pool.inbound, pool.desired + pool.surge):
            life = self._ask(role, why)
            if not self.grant(life):
                self._tell("pending", life.number, why)
        surplus = pool.count(*COMING) + pool.inbound - pool.desired - pool.surge
        for life in self._least_wanted(pool)[: max(surplus, 0)]:
            self.stop(life, why)

    def _renew_next(self, role: str) -> None:
        """Start the successor of the next worker to be replaced, if there is one left."""
        pool = self.pools[role]
        while pool.renewing:
            old = pool.renewing.popleft()
            if old.state == SERVING:
                pool.surge += 1
                life = self._ask(role, f"replaces worker {old.number}")
                life.replaces = old
                if not self.grant(life):
                    self._tell("pending", life.number, life.why)
                return

    def _replaced(self, old: Life, by: Life) -> None:
        """Let a worker go whose successor serves."""
        role = old.crew.pool.role
        self.pools[role].surge -= 1
        by.replaces = None
        if old.state == SERVING:
            self.stop(old, f"replaced by worker {by.number}")
        self._reconcile(role, "a successor more than is wanted")
        self._renew_next(role)

    @staticmethod
    def _least_wanted(pool: Pool) -> list[Life]:
        """Return whom to stop first: who waits, then who starts, then who serves; newest first."""
        rank = {state: at for at, state in enumerate(COMING)}
        coming = [life for life in pool.lives if life.state in rank]
        return sorted(coming, key=lambda life: (rank[life.state], -life.number))

    def grant(self, life: Life) -> bool:
        """Give a life its GPUs, if there are as many, and start it."""
        self._count_gpus()
        life.slot = self.land.take(self, life)
        if life.slot is None:
            return False
        self.taken += life.slot.gpus
        life.granted_s, life.state = self.clock.now, STARTING
        if life.why != "initial":
            self._start(life)
        return True

    def _start(self, life: Life) -> None:
        seconds = self._elastic.flip_s if life.flipped else self._start_up_s(life)
        self._tell("starting", life.number, life.why)
        if math.isfinite(seconds):
            self.at(self.clock.now + seconds, lambda: self._started(life))

    def _start_up_s(self, life: Life) -> float:
        uniform, normal = float(self._draws.random()), float(self._draws.standard_normal())
        weights = life.crew.spec.memory.weights_bytes_per_gpu
        return self._elastic.startup.draw_s(weights, uniform, normal)

    def _started(self, life: Life) -> None:
        if life.state == STARTING:  # not stopped meanwhile
            self._ready(life)

    def _ready(self, life: Life) -> None:
        spec = life.crew.spec
        life.ready_s, life.state = self.clock.now, SERVING
        life.worker = self.door.opened(life)
        self._tell("ready", life.number, f"{spec.layout.gpus} × {spec.gpu.name}")
        if life.replaces is not None:
            self._replaced(life.replaces, life)

    def stop(self, life: Life, why: str) -> None:
        """Let a life end: at once if it serves nobody yet, else when it has drained."""
        life.because = why
        if life.state != SERVING:
            self._end(life, STOPPED)
            return
        life.draining_s, life.state = self.clock.now, DRAINING
        self._tell("draining", life.number, why)
        grace = self._elastic.drain.grace_s
        self.door.closing(life)
        if life.state == DRAINING and life.worker is not None and life.worker.empty:
            self._end(life, STOPPED)
        if grace is not None and life.state == DRAINING:
            self.at(self.clock.now + grace, lambda: self._give_up(life))

    def _give_up(self, life: Life) -> None:
        if life.state == DRAINING:
            life.because += f", after {self._elastic.drain.grace_s:g} s of grace"
            self._end(life, STOPPED)

    def _end(self, life: Life, state: str) -> None:
        """End a life in ``state``; what its worker still holds is lost."""
        served = life.state in (SERVING, DRAINING)
        life.ended_s, life.state = self.clock.now, state
        if life.replaces is not None:
            self.pools[life.crew.pool.role].surge -= 1
        role = life.crew.pool.role
        self.pools[role].lives.remove(life)
        self._tell(state, life.number, life.because)
        if served:
            self.door.lost(life)
        if life.slot is not None:
            self._count_gpus()
            self.taken -= life.slot.gpus
            self.land.give(self, life, life.slot)
        if life.flips_to is not None:
            self._flipped(life, life.flips_to)
        if life.slot is not None:
            self.land.offer()

    def _flipped(self, old: Life, to: str) -> None:
        """Let a worker that has drained begin in its other role, on the GPUs it gave back."""
        self.pools[to].inbound -= 1
        life = self._ask(to, f"was worker {old.number}")
        life.flipped = old.state == STOPPED
        if not self.grant(life):
            self._tell("pending", life.number, life.why)
        self._reconcile(to, "a worker more than is wanted")

    # --- accounts ------------------------------------------------------------------------------

    def _count_gpus(self) -> None:
        now = self.clock.now
        self._gpu_seconds += self.taken * (now - self._counted_until)
        self._counted_until = now

    def _tell(self, kind: str, number: int, detail: str) -> None:
        self.events.append((self.clock.now, kind, number, detail))
