"""Memories beneath workers' KV caches: host memory, SSDs and a store that all share."""

import math
from dataclasses import dataclass

from simulator.errors import ConfigError

WRITES = ("through", "eviction")
POLICIES = ("best_effort", "wait_complete", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One memory for KV blocks: ``gib`` of capacity in each place, read at ``gb_per_s`` there.

    All that is read in one place shares its bandwidth (max-min); a worker reads at most
    ``worker_gb_per_s`` (``None``: no less than the place gives), and ``latency_s`` pass beside the
    time on the wire. ``write``: blocks come when they are computed (``through``), or when the
    memory above has no room for them any more (``eviction``). That takes the time of
    ``write_gb_per_s``, which all that write there share (max-min), a worker at most
    ``worker_gb_per_s``, and what a memory drops its own reading bandwidth; blocks are found when
    they are written, not before. ``None``: it takes no time, and blocks bring along those they
    follow free of charge. The least recently used go; after ``ttl_s`` (``None``:
    never) without use they go anyway. A prompt is loaded where the memory has more than
    ``threshold`` times as much of it as what is nearer (Mooncake's balancing threshold).
    """

    gib: float
    gb_per_s: float
    worker_gb_per_s: float | None = None
    latency_s: float = 0.0
    write: str = "through"
    write_gb_per_s: float | None = None
    ttl_s: float | None = None
    threshold: float = 1.0

    def __post_init__(self) -> None:
        for name in ("gib", "gb_per_s", "worker_gb_per_s", "write_gb_per_s", "ttl_s"):
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
class Prefetch:
    """What lies in the SSDs or the store of a prompt is brought up to host memory as it queues.

    That begins when a prompt joins its worker's queue, with what is found there beyond what the
    worker and the host have, if it is at least ``threshold_tokens``; a prompt that was preempted is
    left alone. Prefetches under way take at most ``host_share`` of the host's memory (0 to 1); what
    has no room there is left out. When the prompt is begun its prefetch ends: what has come is
    loaded from the host, what has not is computed; nothing is loaded from further away any more.

    ``policy``: a prompt is begun as soon as it can be (``best_effort``), not before all has come
    (``wait_complete``), or not before that or so many seconds after it joined (``timeout``): the
    least of ``timeout_max_s`` and ``timeout_s`` + ``timeout_s_per_1024_tokens`` × tokens to bring
    up / 1024. While it waits those behind it are begun.

    These are SGLang's rules and defaults for HiCache (``docs/advanced_features/hicache_design.md``;
    default policy and seconds: its pull request 23309, merged in May 2026).
    """

    policy: str = "timeout"
    threshold_tokens: int = 256
    host_share: float = 0.8
    timeout_s: float | None = 2.0
    timeout_s_per_1024_tokens: float = 0.1
    timeout_max_s: float | None = 30.0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(
                f"prefetch: policy must be one of {', '.join(POLICIES)} but got {self.policy!r}"
            )
        if not self.threshold_tokens >= 0:
            raise ConfigError(
                f"prefetch: threshold_tokens must be at least 0 but got {self.threshold_tokens!r}"
            )
        if not 0 < self.host_share <= 1:
            raise ConfigError(
                f"prefetch: host_share must be above 0 and at most 1 but got {self.host_share!r}"
            )
        if self.policy == "timeout" and self.timeout_s is None:
            raise ConfigError("prefetch: policy timeout needs timeout_s, in seconds, but got None")
        for name in ("timeout_s", "timeout_s_per_1024_tokens", "timeout_max_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"prefetch: {name} must be at least 0 s but got {value!r}")

    def patience_s(self, tokens: int) -> float:
        """Return how many seconds a prompt waits at most for ``tokens`` tokens to be brought up."""
        if self.policy == "best_effort":
            return 0.0
        if self.policy == "wait_complete" or self.timeout_s is None:
            return math.inf
        patience = self.timeout_s + self.timeout_s_per_1024_tokens * tokens / 1024
        return patience if self.timeout_max_s is None else min(self.timeout_max_s, patience)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTiers:
    """What there is beneath the KV caches, from near to far; ``None``: no such memory.

    ``host`` memory and ``ssd`` are of a scale-up domain, for all workers that begin in it;
    ``store`` is one for all. Without ``prefetch`` all is loaded when a prompt is begun.
    """

    host: Tier | None = None
    ssd: Tier | None = None
    store: Tier | None = None
    prefetch: Prefetch | None = None

    def __post_init__(self) -> None:
        if self.prefetch is None:
            return
        if self.host is None:
            raise ConfigError("prefetch needs host memory to bring blocks up to")
        if self.ssd is None and self.store is None:
            raise ConfigError("prefetch needs an ssd or a store to bring blocks from")

    @property
    def tiers(self) -> dict[str, Tier]:
        """The memories there are by their names, from near to far."""
        named = {"host": self.host, "ssd": self.ssd, "store": self.store}
        return {name: tier for name, tier in named.items() if tier is not None}
