"""Classes of service: how urgent a tenant's requests are, and what latency it was promised."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClass:
    """What holds for a tenant's requests.

    A greater ``priority`` comes first, and one below 0 may be shed. ``jump`` weighs a request's
    place in queues that ask for it. ``ttft_s`` and ``tpot_s`` are its targets in seconds
    (``None``: those of the run's SLO). ``share`` of the requests belong to it where the workload
    names no tenants.

    Raises:
        ConfigError: a target that is not above 0 s, or a share outside [0, 1].
    """

    priority: int = 0
    jump: float = 0.0
    ttft_s: float | None = None
    tpot_s: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"class: {name} must be above 0 s or null but got {value!r}")
        if not -1 < self.jump < math.inf:
            raise ConfigError(f"class: jump must be above -1 but got {self.jump!r}")
        if self.share is not None and not 0 <= self.share <= 1:
            raise ConfigError(f"class: share must lie in [0, 1] or be null but got {self.share!r}")

    def within(self, ttft_s: float | None, tpot_s: float | None) -> "ServiceClass":
        """Return the class with the run's targets where it has none of its own."""
        return ServiceClass(
            priority=self.priority,
            jump=self.jump,
            ttft_s=ttft_s if self.ttft_s is None else self.ttft_s,
            tpot_s=tpot_s if self.tpot_s is None else self.tpot_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Every request's class: ``of`` are indices into ``kinds``, empty if all have the first."""

    kinds: tuple[ServiceClass, ...] = (ServiceClass(),)
    of: bytes = field(default=b"", repr=False)

    def __getitem__(self, request: int) -> ServiceClass:
        """Return a request's class."""
        return self.kinds[self.of[request]] if self.of else self.kinds[0]


def lacking(policy: object, kinds: Sequence[ServiceClass]) -> str:
    """Return what some class lacks for a policy to judge it, or nothing."""
    needs = getattr(policy, "needs", None)
    told = [needs(kind) for kind in kinds] if needs is not None else []
    return next((each for each in told if each), "")


MOST = 255
"""Classes of one run, the one without a name apart."""


def classed(
    named: Mapping[str, ServiceClass],
    tenants: Sequence[str | None] | None,
    draws: NDArray[np.float64],
    targets: ServiceClass,
) -> Classes:
    """Return the class of each request: its tenant's, or one drawn by the classes' shares.

    ``tenants`` are the requests' (``None``: the workload names none), ``draws`` uniform in [0, 1),
    one each. Who belongs to no class has that of ``targets``, the run's SLO.

    Raises:
        ConfigError: a class of a tenant that is not there, or shares where they say nothing.
    """
    rest = targets.within(None, None)
    if not named:
        return Classes(kinds=(rest,))
    if len(named) > MOST:
        raise ConfigError(f"classes: there may be at most {MOST} but got {len(named)}")
    kinds = (rest, *(each.within(rest.ttft_s, rest.tpot_s) for each in named.values()))
    if tenants is None:
        return Classes(kinds=kinds, of=_drawn(named, draws))
    known = sorted({each for each in tenants if each is not None})
    for name, each in named.items():
        if name not in known:
            raise ConfigError(
                f"classes.{name}: the workload has no tenant {name!r} but {_listed(known)}"
            )
        if each.share is not None:
            raise ConfigError(
                f"classes.{name}.share: the workload names its tenants, so leave it out"
            )
    at = {name: index for index, name in enumerate(named, 1)}
    return Classes(kinds=kinds, of=bytes(at.get(each or "", 0) for each in tenants))


TOLD = 8


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:TOLD], *(["…"] if len(names) > TOLD else [])])


def _drawn(named: Mapping[str, ServiceClass], draws: NDArray[np.float64]) -> bytes:
    for name, each in named.items():
        if each.share is None:
            raise ConfigError(
                f"classes.{name}.share is missing: the workload names no tenants, so say which "
                "share of its requests belongs to this class"
            )
    ends = np.cumsum([each.share for each in named.values()])
    if ends[-1] > 1 + 1e-9:
        raise ConfigError(f"classes: shares must add up to at most 1 but got {ends[-1]:g}")
    at = np.searchsorted(ends, draws, side="right")
    return np.where(at == len(named), 0, at + 1).astype(np.uint8).tobytes()
