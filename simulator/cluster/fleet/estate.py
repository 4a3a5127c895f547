"""The GPUs that all services share: taken, given back, waited for, and taken back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hardware.fabric import Fabric
from hardware.gpu import GPU
from hardware.rack import Rack, Slot
from simulator.cluster.fleet.lives import DRAINING, PENDING, SERVING, STARTING, Fleet, Life
from simulator.errors import ConfigError
from simulator.policies.quota import FirstCome, Quota


@dataclass(slots=True, eq=False)
class _Kind:
    """GPUs of one kind, and how many each fleet holds of them."""

    gpu: GPU
    rack: Rack
    held: list[int]


class _Ask(NamedTuple):
    """A worker that waits for GPUs: those within their floor have rank 0 and come first."""

    rank: int
    asked_s: float
    place: int
    life: Life


class Estate:
    """Racks of every kind of GPU, at most ``quota_gpus`` of each, and the services' fleets."""

    def __init__(self, fabric: Fabric, quota_gpus: int | None, quota: Quota | None = None) -> None:
        self.quota_gpus = quota_gpus
        self.quota: Quota = FirstCome() if quota is None else quota
        self.fleets: list[Fleet] = []
        self._fabric = fabric
        self._kinds: list[_Kind] = []
        self._doomed: set[Life] = set()

    def join(self, fleet: Fleet) -> None:
        """Let a fleet have its GPUs from here; all fleets join before the first takes any."""
        self.fleets.append(fleet)
        fleet.land = self

    def check(self) -> None:
        """Refuse a quota that is less than what the pools begin with.

        Raises:
            ConfigError: with both numbers.
        """
        if self.quota_gpus is None:
            return
        crews = [pool.crew for fleet in self.fleets for pool in fleet.pools.values()]
        for gpu in (crew.spec.gpu for crew in crews):
            needed = sum(
                crew.pool.workers * crew.spec.layout.gpus for crew in crews if crew.spec.gpu == gpu
            )
            if needed > self.quota_gpus:
                raise ConfigError(
                    f"elastic: quota_gpus {self.quota_gpus} is less than the {needed} GPUs that "
                    "the pools begin with"
                )

    # --- what fleets ask of it -----------------------------------------------------------------

    def take(self, fleet: Fleet, life: Life) -> Slot | None:
        """Return GPUs for a worker, or ``None`` if it has to wait."""
        kind, gpus = self._kind(life.crew.spec.gpu), life.crew.spec.layout.gpus
        if self.quota.reserves and self._yields(kind, life):
            return None
        slot = kind.rack.take(gpus)
        if slot is not None:
            kind.held[self.fleets.index(fleet)] += gpus
        elif self.quota.reserves:
            self._take_back(kind)
        return slot

    def give(self, fleet: Fleet, life: Life, slot: Slot) -> None:
        """Take back a worker's GPUs."""
        kind = self._kind(life.crew.spec.gpu)
        kind.rack.give(slot)
        kind.held[self.fleets.index(fleet)] -= slot.gpus

    def offer(self) -> None:
        """Offer free GPUs to whoever waits: by rank, then in the order they were asked for."""
        for kind in self._kinds:
            refused = None
            for ask in list(self._asks(kind)):
                if refused is not None and ask.rank > refused:
                    break
                if not self.fleets[ask.place].grant(ask.life):
                    refused = ask.rank

    @property
    def free_gpus(self) -> int | None:
        """GPUs of the quota that nobody holds, over all kinds."""
        quota = self.quota_gpus
        return None if quota is None else sum(quota - kind.rack.taken for kind in self._kinds)

    @property
    def taken(self) -> int:
        """GPUs that are held, over all kinds."""
        return sum(kind.rack.taken for kind in self._kinds)

    def over_quota(self) -> Iterator[tuple[str, int]]:
        """Yield the kinds of which more are taken than there are, and how many."""
        for kind in self._kinds:
            if self.quota_gpus is not None and kind.rack.taken > self.quota_gpus:
                yield kind.gpu.name, kind.rack.taken

    # --- what a rule that reserves some asks for -----------------------------------------------

    def _asks(self, kind: _Kind) -> Iterator[_Ask]:
        """Yield who waits for GPUs of a kind, the first to get them first."""
        asks = []
        for place, fleet in enumerate(self.fleets):
            held, floor = kind.held[place], self._floor(place)
            for life in sorted(_lives(fleet, kind.gpu, PENDING), key=lambda life: life.number):
                held += life.crew.spec.layout.gpus
                rank = int(self.quota.reserves and held > floor)
                asks.append(_Ask(rank, life.asked_s, place, life))
        yield from sorted(asks, key=lambda ask: (*ask[:3], ask.life.number))

    def _floor(self, place: int) -> int:
        if self.quota_gpus is None:
            return 0
        name = self.fleets[place].service
        floor = self.quota.floor(name, len(self.fleets), self.quota_gpus)
        if type(floor) is not int or floor < 0:
            raise ConfigError(
                f"quota {type(self.quota).__name__}: answered {floor!r} about {name}'s floor, but "
                "a whole number of at least 0 GPUs is due"
            )
        return floor

    def _yields(self, kind: _Kind, life: Life) -> bool:
        """Tell whether somebody who waits comes before this worker."""
        asks = list(self._asks(kind))
        return min(ask.rank for ask in asks) < next(a.rank for a in asks if a.life is life)

    def _take_back(self, kind: _Kind) -> None:
        """Have workers beyond their services' floors drain for those who wait within theirs."""
        draining = [self._leaving(fleet, kind) for fleet in self.fleets]
        held = [own - sum(_gpus(gone)) for own, gone in zip(kind.held, draining, strict=True)]
        free = (self.quota_gpus or 0) - sum(held)
        lacking = sum(_gpus([ask.life for ask in self._asks(kind) if not ask.rank])) - free
        while lacking > 0 and (found := self._newest(kind, held)) is not None:
            place, life = found
            self._doom(self.fleets[place], life)
            held[place] -= life.crew.spec.layout.gpus
            lacking -= life.crew.spec.layout.gpus

    def _leaving(self, fleet: Fleet, kind: _Kind) -> list[Life]:
        """Return the workers whose GPUs are about to come back."""
        draining = [life for life in _lives(fleet, kind.gpu, DRAINING) if life.flips_to is None]
        there = _lives(fleet, kind.gpu, STARTING, SERVING)
        return draining + [life for life in there if life in self._doomed]

    def _newest(self, kind: _Kind, held: Sequence[int]) -> tuple[int, Life] | None:
        """Return the worker that got its GPUs last, of the services above their floors."""
        found = [
            (life.granted_s, place, life.number, life)
            for place, fleet in enumerate(self.fleets)
            if held[place] > self._floor(place)
            for life in _lives(fleet, kind.gpu, STARTING, SERVING)
            if life not in self._doomed
        ]
        if not found:
            return None
        _, place, _, life = max(found, key=lambda each: each[:3])
        return place, life

    def _doom(self, fleet: Fleet, life: Life) -> None:
        """Have a worker give its GPUs back, in an event of its own service."""
        self._doomed.add(life)

        def reclaim() -> None:
            self._doomed.discard(life)
            fleet.reclaim(life)

        fleet.at(fleet.clock.now, reclaim)

    def _kind(self, gpu: GPU) -> _Kind:
        """Return the GPUs of this kind; kinds never share a domain."""
        for kind in self._kinds:
            if kind.gpu == gpu:
                return kind
        rack = self._fabric.rack(gpu, self.quota_gpus)
        self._kinds.append(_Kind(gpu, rack, [0] * len(self.fleets)))
        return self._kinds[-1]


def _lives(fleet: Fleet, gpu: GPU, *states: str) -> list[Life]:
    return [
        life
        for pool in fleet.pools.values()
        if pool.crew.spec.gpu == gpu
        for life in pool.lives
        if life.state in states
    ]


def _gpus(lives: Sequence[Life]) -> list[int]:
    return [life.crew.spec.layout.gpus for life in lives]
