"""Memories beneath workers' KV caches: host memory, SSDs and a store that all share."""

import math
from dataclasses import dataclass

from simulator.errors import ConfigError

WRITES = ("through", "eviction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One memory for KV blocks: ``gib`` of capacity in each place, read at ``gb_per_s`` there.

    All that is read in one place shares its bandwidth (max-min); a worker reads at most
    ``worker_gb_per_s`` (``None``: no less than the place gives), and ``latency_s`` pass beside the
    time on the wire. ``write``: blocks come when they are computed (``through``), or when the
    memory above has no room for them any more (``eviction``). Written blocks bring along those they
    follow, at once and free of charge. The least recently used go; after ``ttl_s`` (``None``:
    never) without use they go anyway. A prompt is loaded where the memory has more than
    ``threshold`` times as much of it as what is nearer (Mooncake's balancing threshold).
    """

    gib: float
    gb_per_s: float
    worker_gb_per_s: float | None = None
    latency_s: float = 0.0
    write: str = "through"
    ttl_s: float | None = None
    threshold: float = 1.0

    def __post_init__(self) -> None:
        for name in ("gib", "gb_per_s", "worker_gb_per_s", "ttl_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"cache tier: {name} must be above 0 but got {value!r}")
        if not 0 <= self.latency_s < math.inf:
            raise ConfigError(
                f"cache tier: latency_s must be at least 0 s but got {self.latency_s!r}"
            )
        if not 1 <= self.threshold < math.inf:
            raise ConfigError(
                f"cache tier: threshold must be at least 1 but got {self.threshold!r}"
            )
        if self.write not in WRITES:
            raise ConfigError(
                f"cache tier: write must be one of {', '.join(WRITES)} but got {self.write!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTiers:
    """What there is beneath the KV caches, from near to far; ``None``: no such memory.

    ``host`` memory and ``ssd`` are of a scale-up domain, for all workers that begin in it;
    ``store`` is one for all.
    """

    host: Tier | None = None
    ssd: Tier | None = None
    store: Tier | None = None

    @property
    def tiers(self) -> dict[str, Tier]:
        """The memories there are by their names, from near to far."""
        named = {"host": self.host, "ssd": self.ssd, "store": self.store}
        return {name: tier for name, tier in named.items() if tier is not None}
