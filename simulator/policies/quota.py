"""Who gets the GPUs of a quota that several services share.

A service is a model with its own pools, traffic and policies. A rule is a pure choice: asked when a
worker wants GPUs, when some are given back, or now and then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from simulator.policies.ticks import check_interval

Place = tuple[str, str]
"""A service and one of its pools."""


class Asking(NamedTuple):
    """A pool as a quota sees it: ``desired`` workers of ``gpus`` GPUs each, within its bounds.

    It is never to have fewer than ``least`` workers and never more than ``most`` (``None``: any);
    so many of its requests are ``waiting``.
    """

    service: str
    pool: str
    gpus: int
    desired: int
    least: int
    most: int | None
    waiting: int


class Quota(Protocol):
    """How GPUs of one kind are shared; ``quota_gpus`` there are.

    ``interval_s`` is how often :meth:`ceilings` is asked (``None``: never), ``reserves`` whether
    some asks come before others.
    """

    @property
    def interval_s(self) -> float | None:
        """Seconds between two looks at all services."""
        ...

    @property
    def reserves(self) -> bool:
        """Whether GPUs are kept for a service."""
        ...

    def refused(self, services: Sequence[str], quota_gpus: int | None) -> str:
        """Return what speaks against these services under this quota, or nothing."""
        ...

    def floor(self, service: str, services: int, quota_gpus: int) -> int:
        """Return the GPUs that one of so many ``services`` may always have."""
        ...

    def ceilings(self, asking: Sequence[Asking], quota_gpus: int) -> Mapping[Place, int]:
        """Return how many workers pools may have from now on; others as many as before."""
        ...


@dataclass(frozen=True, slots=True)
class FirstCome:
    """GPUs go to whoever asked first, and stay: a namespace's ResourceQuota in Kubernetes."""

    @property
    def interval_s(self) -> float | None:
        """Never."""
        return None

    @property
    def reserves(self) -> bool:
        """No."""
        return False

    def refused(self, services: Sequence[str], quota_gpus: int | None) -> str:  # noqa: ARG002
        """Return nothing."""
        return ""

    def floor(self, service: str, services: int, quota_gpus: int) -> int:  # noqa: ARG002
        """Return none."""
        return 0

    def ceilings(
        self,
        asking: Sequence[Asking],  # noqa: ARG002
        quota_gpus: int,  # noqa: ARG002
    ) -> Mapping[Place, int]:
        """Return nothing."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guaranteed(FirstCome):
    """Each service has a floor; what it leaves of that is lent, and taken back when it asks.

    ``floors`` are GPUs by service (none: equal parts of the quota). Who asks within its floor comes
    first. Where too few GPUs are free or about to be, workers of services above their own floors
    drain, the newest first, and their pools ask for others. Kueue's cohort of queues with nominal
    quotas and ``reclaimWithinCohort: Any``, as llm-d's guide has it (llm-d pull request 2458); its
    priorities and borrowing limits do not exist here.

    Raises:
        ValueError: a floor below 0 GPUs.
    """

    floors: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for service, gpus in self.floors.items():
            if gpus < 0:
                raise ValueError(
                    f"quota: floors.{service} must be at least 0 GPUs but got {gpus!r}"
                )

    @property
    def reserves(self) -> bool:
        """Yes."""
        return True

    def refused(self, services: Sequence[str], quota_gpus: int | None) -> str:
        """Return that there is no quota or no such service, or that the floors exceed it."""
        if quota_gpus is None:
            return "quota: floors need a quota, elastic.quota_gpus, but there is none"
        for service in self.floors:
            if service not in services:
                known = ", ".join(services)
                return f"quota: floors.{service}: there is no such service but {known}"
        if (total := sum(self.floors.values())) > quota_gpus:
            return (
                f"quota: floors add up to {total} GPUs but elastic.quota_gpus is only {quota_gpus}"
            )
        return ""

    def floor(self, service: str, services: int, quota_gpus: int) -> int:
        """Return the service's floor."""
        return self.floors.get(service, 0) if self.floors else quota_gpus // services


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueShare(FirstCome):
    """Every ``interval_s`` the quota is dealt out anew, in proportion to requests that wait.

    A pool's share over the GPUs of a worker, rounded down, is the most workers it may have; one
    where somebody waits has at least one, one where nobody does its least. Where that adds up to
    more than there is, pools above their least give way in proportion to what they have. A lower
    ceiling has workers drain at once, a higher one lets autoscalers ask for more: the rule of
    llm-d's coordinator (plugin gpu-rebalance, pull requests 1244 and 1434; 15 s by issue 1427),
    whose noise it has too.

    Raises:
        ValueError: an interval that is too short.
    """

    interval_s: float | None = 15.0

    def __post_init__(self) -> None:
        check_interval("quota", "interval_s", self.interval_s or 0.0)

    def refused(self, services: Sequence[str], quota_gpus: int | None) -> str:  # noqa: ARG002
        """Return that there is no quota."""
        if quota_gpus is None:
            return "quota: queue_share needs a quota, elastic.quota_gpus, but there is none"
        return ""

    def ceilings(self, asking: Sequence[Asking], quota_gpus: int) -> Mapping[Place, int]:
        """Return every pool's share of what waits."""
        waiting = sum(each.waiting for each in asking)
        least = [max(1, each.least) for each in asking]
        shares = []
        for each, floor in zip(asking, least, strict=True):
            part = quota_gpus * each.waiting / waiting if each.waiting else 0.0
            workers = max(int(part / each.gpus), int(part > 0))
            most = quota_gpus // each.gpus if each.most is None else each.most
            shares.append(max(floor, min(workers, most, quota_gpus // each.gpus)))
        _fit(shares, least, [each.gpus for each in asking], quota_gpus)
        return {
            (each.service, each.pool): share for each, share in zip(asking, shares, strict=True)
        }


def _fit(shares: list[int], least: Sequence[int], gpus: Sequence[int], quota: int) -> None:
    """Make shares smaller, in proportion to their GPUs, until they fit or all are at the least."""
    while (excess := sum(n * g for n, g in zip(shares, gpus, strict=True)) - quota) > 0:
        above = [at for at, share in enumerate(shares) if share > least[at]]
        whole = sum(shares[at] * gpus[at] for at in above)
        if not above:
            return
        for at in above:
            part = excess * shares[at] * gpus[at] / whole
            shares[at] = max(least[at], shares[at] - max(int(part) // gpus[at], 1))
