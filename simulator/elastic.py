"""How pools change while traffic flows: starting, draining, failing, and the schedule of it all."""

import math
from dataclasses import dataclass, field

from simulator.errors import ConfigError

DRAINS = ("finish", "abort", "migrate")
ACTIONS = ("workers", "fail", "restart", "flip", "bandwidth")

MAX_WORKERS = 4096
"""More workers than this in one pool are taken for a mistake: each has its own gauges over time."""


def _number(owner: str, name: str, value: float, least: float = 0.0) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ConfigError(f"{owner}: {name} must be a number ≥ {least:g} but got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUp:
    """What lies between a worker's GPUs being granted and its first request.

    ``seconds`` if given, else its weights over ``weights_bandwidth`` (bytes/s into each of its
    GPUs, which load their shares side by side) plus ``init_s`` plus ``graph_capture_s``.
    ``variation`` is the coefficient of variation of a lognormal factor of mean 1 on that;
    ``failure_probability`` that of a start which never succeeds and holds its GPUs until somebody
    stops it. The worker's first ``slow_steps`` steps then take ``slow_factor`` times as long
    (caches to fill, kernels to compile); neither initial workers' do, nor those that flipped.
    """

    seconds: float | None = None
    weights_bandwidth: float = 1e9
    init_s: float = 30.0
    graph_capture_s: float = 15.0
    variation: float = 0.0
    failure_probability: float = 0.0
    slow_steps: int = 0
    slow_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.seconds is not None:
            _number("startup", "seconds", self.seconds)
        if not 0 < self.weights_bandwidth < math.inf:
            raise ConfigError(
                "startup: weights_bandwidth must be above 0 bytes/s but got "
                f"{self.weights_bandwidth!r}"
            )
        for name in ("init_s", "graph_capture_s", "variation"):
            _number("startup", name, getattr(self, name))
        if not 0 <= self.failure_probability <= 1:
            raise ConfigError(
                "startup: failure_probability must lie in [0, 1] but got "
                f"{self.failure_probability!r}"
            )
        _number("startup", "slow_steps", self.slow_steps)
        _number("startup", "slow_factor", self.slow_factor, 1)

    def mean_s(self, weights_bytes: float) -> float:
        """Return the mean seconds of a worker each of whose GPUs holds ``weights_bytes``."""
        if self.seconds is not None:
            return self.seconds
        return weights_bytes / self.weights_bandwidth + self.init_s + self.graph_capture_s

    def draw_s(self, weights_bytes: float, uniform: float, normal: float) -> float:
        """Return one start's seconds from its two draws; infinite if it never succeeds."""
        if uniform < self.failure_probability:
            return math.inf
        spread = math.sqrt(math.log1p(self.variation**2))
        return self.mean_s(weights_bytes) * math.exp(spread * normal - spread**2 / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How a worker that is told to stop parts with what it holds.

    Prompts not begun go back to the router at once. What is begun is finished; what is left after
    ``grace_s`` (``None``: as long as it takes) is lost and begun anew elsewhere. ``abort`` is
    ``finish`` with a grace that must be given. ``migrate``: at the end of its iteration a decode
    worker offers each of its sequences, and each that joins later, to another worker of its pool,
    which the decode router chooses; if that has the blocks, the KV moves there over the links and
    the sequence goes on, nothing being computed again. What finds no room is finished.
    """

    mode: str = "finish"
    grace_s: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in DRAINS:
            raise ConfigError(
                f"drain: mode must be one of {', '.join(DRAINS)} but got {self.mode!r}"
            )
        if self.grace_s is not None:
            _number("drain", "grace_s", self.grace_s)
        elif self.mode == "abort":
            raise ConfigError("drain: mode abort needs grace_s, the seconds it waits first")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One planned event at ``at_s`` simulated seconds, of exactly one kind.

    ``workers``: the ``pool`` shall have that many from now on. ``fail``: the worker of that number
    dies, or with a ``pool`` that many of its oldest ready workers do. ``restart``: the pool's
    workers are replaced by new ones, that many at a time, each when its successor is ready
    (a rolling upgrade). ``flip``: that many of the pool's workers drain, then serve in the pool
    ``to`` on their GPUs. ``bandwidth``: the pool's ports (or only those of ``worker``) run at that
    share of theirs until another change says otherwise; 0 cuts them.
    """

    at_s: float
    pool: str | None = None
    workers: int | None = None
    fail: int | None = None
    restart: int | None = None
    flip: int | None = None
    to: str | None = None
    bandwidth: float | None = None
    worker: int | None = None

    def __post_init__(self) -> None:
        _number("change", "at_s", self.at_s)
        given = [name for name in ACTIONS if getattr(self, name) is not None]
        where = f"change at {self.at_s:g} s"
        if len(given) != 1:
            raise ConfigError(
                f"{where}: needs exactly one of {', '.join(ACTIONS)} but got "
                f"{' and '.join(given) or 'none'}"
            )
        self._check(where, given[0])

    def _check(self, where: str, action: str) -> None:
        counted = action in ("restart", "flip") or (action == "fail" and self.pool is not None)
        least = 1 if counted else 0
        value = getattr(self, action)
        if not (math.isfinite(value) and value >= least):
            raise ConfigError(f"{where}: {action} must be at least {least} but got {value!r}")
        if action == "workers" and value > MAX_WORKERS:
            raise ConfigError(f"{where}: workers must be at most {MAX_WORKERS} but got {value!r}")
        if action == "bandwidth" and value > 1:
            raise ConfigError(f"{where}: bandwidth is a share of the port's, but got {value!r}")
        alone = action == "fail" or (action == "bandwidth" and self.worker is not None)
        if self.pool is None and not alone:
            raise ConfigError(f"{where}: {action} needs a pool: prefill, decode or mixed")
        if (action == "flip") != (self.to is not None) or self.to == self.pool is not None:
            raise ConfigError(f"{where}: flip=N goes with to, another pool, where they then serve")
        if self.worker is not None and action != "bandwidth":
            raise ConfigError(f"{where}: worker goes with bandwidth only; a worker fails by fail=N")


@dataclass(frozen=True, slots=True, kw_only=True)
class Elastic:
    """What a change of the pools takes.

    ``quota_gpus`` are the GPUs that exist, of each kind (``None``: as many as are asked for); a
    start they do not suffice for is pending until some are given back. ``flip_s`` passes between a
    worker's being drained in one role and ready in the other, in place of a start-up.
    A request lost more than ``max_retries`` times has failed. ``changes`` are planned.
    """

    startup: StartUp = field(default_factory=StartUp)
    drain: Drain = field(default_factory=Drain)
    quota_gpus: int | None = None
    flip_s: float = 10.0
    max_retries: int = 3
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        if self.quota_gpus is not None:
            _number("elastic", "quota_gpus", self.quota_gpus, 1)
        _number("elastic", "flip_s", self.flip_s)
        _number("elastic", "max_retries", self.max_retries)
