"""Asks, now and then, which decode workers are to give sequences to which others."""

from functools import partial

from simulator.cluster.clock import REBALANCE, TICK, Alarm, Clock
from simulator.cluster.moves.migration import Migration
from simulator.cluster.pools.router import is_index
from simulator.cluster.pools.team import Team
from simulator.cluster.workers.batch import BatchWorker
from simulator.errors import ConfigError
from simulator.policies.rebalancing import Loaded, Rebalancing


class Rebalancer:
    """Shows the policy every decode worker, and has sequences offered to those it names.

    A worker parts with its shortest sequence at the end of the iteration under way, if the other
    then has the blocks; the KV goes over the links.
    """

    def __init__(
        self,
        clock: Clock,
        policy: Rebalancing,
        interval_s: float,
        team: Team[BatchWorker],
        migration: Migration,
    ) -> None:
        self._policy = policy
        self._interval = interval_s
        self._team = team
        self._migration = migration
        self._tick = 0
        self.alarm = Alarm(clock, REBALANCE)

    def start(self) -> None:
        """Arm the first asking."""
        self._arm()

    def _arm(self) -> None:
        self._tick += 1
        self.alarm.set(self._tick * self._interval, TICK)

    def wake(self, _: float) -> None:
        """Ask, and have what is named offered."""
        workers = self._team.workers
        for source, target in self._policy.moves([_loaded(worker) for worker in workers]):
            if not (is_index(source, len(workers)) and is_index(target, len(workers))):
                raise ConfigError(
                    f"rebalancing {type(self._policy).__name__}: named workers {source!r} and "
                    f"{target!r}, but there are 0 to {len(workers) - 1}"
                )
            request = workers[source].shortest
            if request is not None and source != target:
                depart = partial(self._migration.depart_to, workers[target])
                workers[source].offer(request, depart)
        self._arm()


def _loaded(worker: BatchWorker) -> Loaded:
    waiting, running = worker.observe()
    shortest = worker.shortest
    return Loaded(
        blocks=worker.blocks_in_use(),
        wanted=worker.blocks_wanted,
        capacity=worker.capacity,
        requests=waiting + running,
        shortest=0 if shortest is None else worker.blocks_of(shortest),
    )
