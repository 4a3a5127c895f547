"""Several services in one time, on the GPUs of one quota."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulator.cluster.clock import CONTROL, TICK, Alarm, Clock, collection_paused, turn_of
from simulator.cluster.fleet.estate import Estate
from simulator.cluster.fleet.lives import SERVING
from simulator.cluster.simulation import RunOptions, Simulation, Traffic
from simulator.deployment import Deployment
from simulator.errors import ConfigError, InvariantError, settings_of
from simulator.policies.quota import Asking, Quota
from simulator.policies.ticks import LEAST_INTERVAL_S, check_interval
from simulator.record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A deployment, its traffic, and what is simulated of it."""

    deployment: Deployment
    traffic: Traffic
    options: RunOptions


class Together:
    """Services by name, each a simulation of its own but for the GPUs. ``run`` it to the end.

    Every deployment has the same fabric and quota. All gauges are read at the same moments. It is
    over when the last service's last request is, or at ``until_s``.

    Raises:
        ConfigError: a deployment cannot run, or the quota does not go with the services.
    """

    simulation: type[Simulation] = Simulation

    def __init__(self, services: Mapping[str, Service], quota: Quota) -> None:
        first = next(iter(services.values())).deployment
        if refused := quota.refused(list(services), first.elastic.quota_gpus):
            raise ConfigError(refused)
        if quota.interval_s is not None:
            _check_interval(quota, quota.interval_s)
        self.estate = Estate(first.fabric, first.elastic.quota_gpus, quota)
        self._clock = Clock()
        self.simulations = {
            name: self._simulation(name, place, service)
            for place, (name, service) in enumerate(services.items())
        }
        self._alarm = Alarm(self._clock.beside(len(services)), CONTROL)
        self._ticks = 0
        self._start()

    def _simulation(self, name: str, place: int, service: Service) -> Simulation:
        clock = self._clock.beside(place) if place else self._clock
        clock.owner = name
        args = service.deployment, service.traffic, service.options
        with settings_of(name):
            made = self.simulation(*args, self.estate, clock)
        made.fleet.service = name
        made.ticking = self._ticking
        return made

    def _start(self) -> None:
        self.estate.check()
        interval = min(each.telemetry.interval_s for each in self.simulations.values())
        for name, each in self.simulations.items():
            each.telemetry.interval_s = interval
            with settings_of(name):
                each.start()
        if self.estate.quota.interval_s is not None:
            self._alarm.wakes(self._wake)
            self._arm(self.estate.quota.interval_s)

    def _ticking(self) -> int:
        """Return how many parts tick on whatever happens."""
        own = self.estate.quota.interval_s is not None
        return own + sum(each.tickers() for each in self.simulations.values())

    # --- running -------------------------------------------------------------------------------

    def step(self) -> None:
        """Process one event."""
        self._clock.env.step()

    def run(self) -> dict[str, RunRecord]:
        """Run to the end, check the laws of each service and of all, and return what happened."""
        with collection_paused():
            for each in self.simulations.values():
                each.go()
            self.check()
            return {name: each.account() for name, each in self.simulations.items()}

    def check(self) -> None:
        """Check that the services hold what is taken, and no more than there is.

        Raises:
            InvariantError: with both numbers.
        """
        held = sum(each.fleet.taken for each in self.simulations.values())
        if held != self.estate.taken:
            raise InvariantError(
                f"GPU accounting: services hold {held} GPUs, of the racks {self.estate.taken} are "
                "taken"
            )
        for name, most in self.estate.over_quota():
            raise InvariantError(
                f"GPU accounting: {most} GPUs of {name} are taken, beyond the quota"
            )

    # --- ceilings ------------------------------------------------------------------------------

    def _arm(self, interval_s: float) -> None:
        self._ticks += 1
        self._alarm.set(self._ticks * interval_s, TICK)

    def _wake(self, now: float) -> None:  # noqa: ARG002 - an alarm's
        """Look at all services and let their pools have what the rule says."""
        quota = self.estate.quota
        for each in self.simulations.values():
            each.clock.turn = turn_of(TICK, CONTROL)
        asking = [ask for name in self.simulations for ask in self._asking(name)]
        if self.estate.quota_gpus is not None:
            told = quota.ceilings(asking, self.estate.quota_gpus)
            _check_ceilings(quota, told, asking)
            for (name, pool), most in told.items():
                fleet = self.simulations[name].fleet
                fleet.cap(pool, most, f"at most {most} by the quota")
        if quota.interval_s is not None:
            self._arm(quota.interval_s)

    def _asking(self, name: str) -> list[Asking]:
        simulation = self.simulations[name]
        control, asks = simulation.deployment.control, []
        unplaced = simulation.gateway.unplaced
        for role, pool in simulation.fleet.pools.items():
            serving = [life.worker for life in pool.lives if life.state == SERVING and life.worker]
            bounds = control.bounds_of(role)
            asks.append(
                Asking(
                    service=name,
                    pool=role,
                    gpus=pool.crew.spec.layout.gpus,
                    desired=pool.desired,
                    least=bounds.least,
                    most=bounds.most,
                    waiting=unplaced + sum(worker.observe()[0] for worker in serving),
                )
            )
            unplaced = 0
        return asks


def _check_interval(quota: Quota, interval_s: object) -> None:
    """Refuse a rule that does not say how often it is to be asked."""
    try:
        check_interval("quota", "interval_s", interval_s)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigError(
            f"quota {type(quota).__name__}: interval_s must be None or at least "
            f"{LEAST_INTERVAL_S:g} s but got {interval_s!r}"
        ) from None


def _check_ceilings(quota: Quota, told: object, asking: Sequence[Asking]) -> None:
    """Refuse ceilings that are none, or of pools that are not there."""
    name = f"quota {type(quota).__name__}"
    if not isinstance(told, Mapping):
        raise ConfigError(f"{name}: answered {told!r}, but ceilings by service and pool are due")
    places = {(each.service, each.pool) for each in asking}
    for place, most in told.items():
        if place not in places:
            known = ", ".join(".".join(each) for each in sorted(places))
            raise ConfigError(f"{name}: named {place!r}, but there are {known}")
        if type(most) is not int or most < 0:
            raise ConfigError(
                f"{name}: lets {'.'.join(place)} have {most!r} workers, but a whole number of at "
                "least 0 is due"
            )


def run_together(services: Mapping[str, Service], quota: Quota) -> dict[str, RunRecord]:
    """Simulate ``services`` that share a quota and return what happened to each.

    Raises:
        ConfigError: a deployment cannot run, or the quota does not go with the services.
        InvariantError: a conservation law broke, which is a bug of this program.
    """
    return Together(services, quota).run()
