"""How Dynamo's planner counts workers that come and go, and what it still does meanwhile.

Source: ai-dynamo 1.6.1, ``dynamo/planner/core/state_machine.py``,
``connectors/clients/kubernetes_api.py`` and ``plugins/orchestrator/engine_adapter.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from simulator.errors import ConfigError
from simulator.policies.autoscaling import Observation
from simulator.policies.dynamo.budget import Band, Counts

Wanted = tuple[int | None, ...]
"""Workers proposed for each pool; ``None`` says nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """GPUs the planner may use (``None``: any), and each pool's least workers, at all times."""

    min_endpoint: int = 1
    max_gpu_budget: int | None = 8
    min_gpu_budget: int | None = None

    def __post_init__(self) -> None:
        if self.min_endpoint < 1:
            raise ValueError(
                f"budget: min_endpoint must be at least 1 worker but got {self.min_endpoint!r}"
            )
        least, most = self.min_gpu_budget, self.max_gpu_budget
        if most is not None and most < 1:
            raise ValueError(f"budget: max_gpu_budget must be at least 1 GPU but got {most!r}")
        if least is not None and (least < 0 or (most is not None and least > most)):
            raise ValueError(
                f"budget: min_gpu_budget must lie in 0..max_gpu_budget, {most!r}, but got {least!r}"
            )

    def band(self, gpus: Counts) -> Band:
        """Return the band for workers of so many GPUs.

        Raises:
            ConfigError: the least workers of each pool do not fit it.
        """
        floors = (self.min_endpoint,) * len(gpus)
        band = Band(least=self.min_gpu_budget, most=self.max_gpu_budget, gpus=gpus, floors=floors)
        if band.most is not None and band.total(floors) > band.most:
            raise ConfigError(
                "autoscaler.budget: max_gpu_budget must be at least the "
                f"{band.total(floors)} GPUs of min_endpoint {self.min_endpoint} in each pool "
                f"but got {band.most!r}"
            )
        return band


def budget_refused(budget: Budget, gpus: Mapping[str, int]) -> str:
    """Return that the least workers of the pools planned for do not fit a budget, if so."""
    roles = ("prefill", "decode") if "prefill" in gpus else ("mixed",)
    try:
        budget.band(tuple(gpus[role] for role in roles))
    except ConfigError as error:
        return str(error)
    return ""


class Inventory(NamedTuple):
    """The planner's pools, workers that serve in each, and those that are on their way.

    ``moving``: something changes that is not merely a start, as workers that drain do: the planner
    then only looks on, and counts nobody as on the way.
    """

    roles: tuple[str, ...]
    ready: Counts
    pending: Counts
    moving: bool

    @property
    def starting(self) -> bool:
        """Whether workers are on their way, and that is all that changes."""
        return any(self.pending)


def inventory(seen: Observation) -> Inventory:
    """Return what there is: of prefill and decode workers, else of mixed ones."""
    roles = ("prefill", "decode") if "prefill" in seen.pools else ("mixed",)
    pools = [seen.pools[role] for role in roles]
    ready = tuple(pool.ready for pool in pools)
    if any(pool.draining or pool.ready > pool.desired for pool in pools):
        return Inventory(roles, ready, (0,) * len(roles), moving=True)
    pending = tuple(pool.desired - pool.ready for pool in pools)
    return Inventory(roles, ready, pending, moving=False)


class Waiting(NamedTuple):
    """A reduction proposed while workers start: which, over what inventory, and since when."""

    wanted: Wanted
    there: Inventory
    since_s: float


def reductions(wanted: Wanted, there: Inventory, band: Band) -> Wanted:
    """Return what of a proposal may interrupt a start-up: what takes away from ready and pending.

    Who is not named keeps all it has; together they stay above the floor of GPUs.
    """
    cut = tuple(map(_cut, wanted, there.ready, there.pending))
    now = tuple(
        ready if each is not None else ready + pending
        for each, ready, pending in zip(cut, there.ready, there.pending, strict=True)
    )
    asked = tuple(n if each is None else each for each, n in zip(cut, now, strict=True))
    floor = Band(least=band.least, most=None, gpus=band.gpus, floors=band.floors)
    fitted = floor.fitted(now, asked)
    return tuple(
        None if each is None else _cut(found, ready, pending)
        for each, found, ready, pending in zip(cut, fitted, there.ready, there.pending, strict=True)
    )


def _cut(wanted: int | None, ready: int, pending: int) -> int | None:
    """Return a target that takes workers away, nothing of one that does not."""
    if wanted is None or wanted > ready or wanted >= ready + pending:
        return None
    return wanted


def sustained(
    cut: Wanted, there: Inventory, waiting: Waiting | None, now_s: float, for_s: float
) -> tuple[bool, Waiting | None]:
    """Tell whether the same reduction has been proposed for ``for_s``; return what to remember."""
    if not any(each is not None for each in cut):
        return False, None
    if waiting is None or (waiting.wanted, waiting.there) != (cut, there):
        return False, Waiting(cut, there, now_s)
    return now_s - waiting.since_s >= for_s, waiting
