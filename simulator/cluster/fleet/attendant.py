"""Sees workers in and out: routers see who serves, and who leaves parts with what it holds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from simulator.cluster.fleet.crew import Means
from simulator.cluster.fleet.lives import Fleet, Life
from simulator.cluster.moves.departures import Departures
from simulator.cluster.moves.handoff import Handoff
from simulator.cluster.moves.migration import Migration
from simulator.cluster.pools.router import Router
from simulator.cluster.pools.team import AnyWorker, Roster, Team
from simulator.cluster.pools.tiers import Tiers
from simulator.cluster.pools.wiring import Ways
from simulator.cluster.traffic.gateway import Gateway
from simulator.cluster.workers.batch import BatchWorker
from simulator.elastic import StartUp

Seen = Callable[[AnyWorker], None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Attendant:
    """Lets workers of a :class:`Fleet` serve, hides those that leave, and sees to what they held.

    ``joined`` and ``left`` hear of workers that serve and of those that died. With ``migrates``
    what a leaving decode worker has moves on.
    """

    fleet: Fleet
    means: Means
    startup: StartUp
    roster: Roster
    routers: tuple[Router, Router]
    entries: Team[AnyWorker]
    decoders: Team[BatchWorker]
    gateway: Gateway
    handoff: Handoff
    migration: Migration
    departures: Departures
    ways: Ways
    tiers: Tiers
    joined: Seen
    left: Seen
    migrates: bool

    def opened(self, life: Life) -> AnyWorker:
        """Let a new worker serve."""
        worker = life.crew.worker(life.number, self.means)
        if life.why != "initial" and not life.flipped:
            worker.slow_steps = self.startup.slow_steps
            worker.slow_factor = self.startup.slow_factor
        worker.alarm.wakes(worker.wake)
        self._listen(worker)
        self.roster.add(worker)
        self.joined(worker)
        if life.slot is not None:
            self.ways.open(life.number, life.crew.spec, life.slot)
            self.tiers.open(worker, life.crew.spec.gpu.name, life.slot)
        if isinstance(worker, BatchWorker) and worker.role == "decode":
            self.decoders.join(worker)
            self.handoff.opened()
            self.gateway.eased()
        else:
            self.entries.join(worker)
            self.gateway.opened()
        return worker

    def _listen(self, worker: AnyWorker) -> None:
        """Let the router that places requests on a worker hear of its cache, if it wants to."""
        believed = self.routers[worker.role == "decode"].believed
        if worker.cache is not None and believed is not None and believed.by_events:
            worker.cache.tell = believed.listener(worker.number)

    def closing(self, life: Life) -> None:
        """Hide a worker from the routers; it parts with what it has not begun."""
        worker = self._hidden(life)
        worker.leaving = partial(self.fleet.empty, life.number)
        self.departures.part(worker)
        if self.migrates and isinstance(worker, BatchWorker) and worker.role == "decode":
            worker.migrate(self.migration.depart)

    def lost(self, life: Life) -> None:
        """Forget a worker that is gone, and see to what it held."""
        worker = self._hidden(life)
        worker.leaving = None
        self.departures.lose(worker)
        self.tiers.lost(worker)
        self.left(worker)

    def _hidden(self, life: Life) -> AnyWorker:
        """Hide a worker from the routers, if it is not hidden yet, and return it."""
        worker = self.roster[life.number]
        if isinstance(worker, BatchWorker) and worker.role == "decode":
            self.decoders.leave(worker)
        else:
            self.entries.leave(worker)
        self.gateway.eased()
        return worker
