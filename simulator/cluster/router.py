"""Applies a routing policy to a pool, with its own stream of draws."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator.cluster.team import Team
from simulator.cluster.worker import Load
from simulator.errors import ConfigError
from simulator.policies.ranking import Column, Ranking
from simulator.policies.routing import PoolView, RoutedRequest, RoutingPolicy

INTEGERS = (int, np.integer)  # what a policy of anybody's may name a worker by
_DRAWS = 4096
LARGE = 64
"""Pools up to this many workers are looked through, which is quicker there."""


class Router:
    """Asks the policy for each request and keeps what it may see up to date.

    Every request consumes one draw whatever the policy, so policies meet the same luck.
    """

    __slots__ = (
        "_changes",
        "_choose",
        "_draws",
        "_generator",
        "_order",
        "_policy",
        "_view",
        "team",
    )

    def __init__(
        self, policy: RoutingPolicy, team: Team[Any], generator: np.random.Generator
    ) -> None:
        self.team = team
        self._policy = policy
        self._choose = policy.choose
        self._view: PoolView = PoolView((), (), ())
        self._changes = -1
        self._generator = generator
        self._draws: list[float] = []
        self._order = 0

    def place(self, request: int, input_tokens: int, output_tokens: int) -> int:
        """Return the index in the team of the worker that gets ``request``."""
        if not self._draws:
            self._draws = self._generator.random(_DRAWS).tolist()[::-1]
        draw = self._draws.pop()
        routed = RoutedRequest(request, input_tokens, output_tokens, self._order, draw)
        self._order += 1
        if self._changes != self.team.changes:
            self._changes, self._view = self.team.changes, _view(self.team.load)
        index = self._choose(routed, self._view)
        size = len(self.team.workers)
        if not (isinstance(index, INTEGERS) and 0 <= index < size):
            raise ConfigError(
                f"router {type(self._policy).__name__}: chose worker {index!r} for request "
                f"{request}, but the pool has workers 0 to {size - 1}"
            )
        return index


@dataclass(frozen=True, slots=True)
class _RankedView(PoolView):
    """The view of a large pool: rankings answer, made when first asked for."""

    rankings: dict[tuple[str, ...], Ranking] = field(default_factory=dict)

    def least(self, *columns: str, draw: float) -> int:
        """Return the worker with the least of ``columns``; ``draw`` falls on one of its ties."""
        ranking = self.rankings.get(columns)
        if ranking is None:
            ranking = self.rankings[columns] = Ranking([getattr(self, name) for name in columns])
        return ranking.choose(draw)


def _view(load: Load) -> PoolView:
    """Return the view of a team as it is now made up."""
    if len(load.requests) <= LARGE:
        return PoolView(load.requests, load.tokens, load.kv_blocks)
    for name in ("requests", "tokens", "kv_blocks"):
        setattr(load, name, Column(getattr(load, name)))
    return _RankedView(load.requests, load.tokens, load.kv_blocks)
