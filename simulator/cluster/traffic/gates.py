"""What keeps prompts at the router: tokens that wait at every worker, or metrics that say so."""

from math import inf
from typing import Protocol

from simulator.cluster.clock import ADMISSION, SCRAPE, Alarm, Clock
from simulator.cluster.pools.router import Router
from simulator.cluster.pools.team import AnyWorker
from simulator.errors import ConfigError
from simulator.policies.flow_control import FlowControl, Reading


class Gate(Protocol):
    """Says whether a prompt may go to a worker now.

    ``opens_s`` is when it will be so if nothing happens before (``inf``: never); those let
    go leave ``apart_s`` one after the other.
    """

    apart_s: float

    @property
    def open(self) -> bool:
        """Whether a prompt may go."""
        ...

    @property
    def opens_s(self) -> float:
        """When that will be so of itself."""
        ...


class Room:
    """Open as long as some worker is for more.

    A worker is for more as long as no more prompt tokens wait there than ``threshold`` of its steps
    hold. The router's choice is overruled where it is not for more: then who has the fewest prompt
    tokens, of those alike the fewest requests, gets the prompt.
    """

    apart_s = 0.0
    opens_s = inf

    def __init__(self, router: Router, threshold: float) -> None:
        self._router = router
        self._threshold = threshold
        router.has_room = self._has_room

    def _has_room(self, index: int) -> bool:
        """Tell whether a worker is for more."""
        worker = self._router.team.workers[index]
        most = self._threshold * worker.settings.batching.max_num_batched_tokens
        return bool(self._router.team.load.tokens[index] <= most)

    @property
    def open(self) -> bool:
        """Whether a worker is for more."""
        team = self._router.team
        if not team.workers:
            return False
        least = self._router.live.least("tokens", draw=0.0)
        return self._has_room(least) or (
            len({worker.role for worker in team.workers}) > 1
            and any(map(self._has_room, range(len(team.workers))))
        )


class Scraped:
    """Open as long as the policy says so of metrics that are read now and then.

    All workers are read at once, at multiples of the policy's interval, after all else of that
    instant but who then leaves the router. One that came since has no metrics. Between readings a
    question costs nothing, unless workers have come or gone since the last.
    """

    def __init__(self, clock: Clock, routers: tuple[Router, Router], policy: FlowControl) -> None:
        name = type(policy).__name__
        for field, least in (("scrape_s", "above"), ("stale_s", "above"), ("dispatch_s", "from")):
            value = getattr(policy, field)
            if not (0 < value < inf or (value == 0 and least == "from")):
                raise ConfigError(
                    f"flow_control {name}: {field} must be {least} 0 s up but got {value!r}"
                )
        self._clock = clock
        self._teams = tuple(router.team for router in routers)
        self._policy = policy
        self.apart_s = policy.dispatch_s
        self.scrapes = 0
        self._stale_s = -inf  # from when on what was read is stale
        self._read: dict[int, Reading] = {}
        self._known: tuple[object, float] = (None, 0.0)  # a saturation, and of what it is
        self.alarm = Alarm(clock, SCRAPE)

    def start(self) -> None:
        """Read for the first time when everything else at time 0 has happened."""
        self.alarm.set(0.0, ADMISSION)

    def scrape(self, now: float) -> None:
        """Read the metrics of all workers."""
        self._stale_s = now + self._policy.stale_s
        workers = [worker for team in self._teams for worker in team.workers]
        self._read = {worker.number: _reading(worker) for worker in workers}
        self.scrapes += 1
        self.alarm.set(self.scrapes * self._policy.scrape_s, ADMISSION)

    @property
    def open(self) -> bool:
        """Whether a prompt may go."""
        return bool(self._teams[0].workers) and self._saturation(fresh=self._fresh) < 1

    @property
    def opens_s(self) -> float:
        """When it will open, whatever is read: once stale metrics are not minded."""
        if self.open:
            return self._clock.now
        waits = self._fresh and self._teams[0].workers and self._saturation(fresh=False) < 1
        return self._stale_s if waits else inf

    @property
    def _fresh(self) -> bool:
        return self._clock.now < self._stale_s

    def _saturation(self, *, fresh: bool) -> float:
        """Return the saturation of the workers there are, by what was read or as if it were old."""
        state = (fresh, self.scrapes, *(team.changes for team in self._teams))
        if self._known[0] != state:
            workers = [worker.number for team in self._teams for worker in team.workers]
            read = [self._read.get(number) if fresh else None for number in workers]
            told = self._policy.saturation(read)
            if isinstance(told, bool) or not isinstance(told, int | float) or told != told:
                raise ConfigError(
                    f"flow_control {type(self._policy).__name__}: answered {told!r} about "
                    f"{len(read)} workers, but a number is due"
                )
            self._known = state, told
        return self._known[1]


def _reading(worker: AnyWorker) -> Reading:
    """Return a worker's metrics as they are."""
    waiting, running = worker.observe()
    return Reading(waiting, running, worker.blocks_in_use() / worker.capacity)
