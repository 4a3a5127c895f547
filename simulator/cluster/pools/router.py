"""Applies a routing policy to a pool, with its own stream of draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator.cluster.clock import Clock
from simulator.cluster.pools.beliefs import Believed
from simulator.cluster.pools.team import Team
from simulator.cluster.workers.pace import Pace
from simulator.cluster.workers.worker import Load
from simulator.errors import ConfigError
from simulator.plugins import is_own
from simulator.policies.classes import Classes
from simulator.policies.prefixes import Beliefs
from simulator.policies.ranking import Column, Ranking, Total
from simulator.policies.routing import (
    NO_PREFIXES,
    PoolView,
    Prefixes,
    RoutedRequest,
    RoutingPolicy,
)

INTEGERS = (int, np.integer)  # what a policy of anybody's may name a worker by
_DRAWS = 4096
COLUMNS = ("requests", "tokens", "kv_blocks")
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
        "_live",
        "_order",
        "_policy",
        "_read",
        "_read_s",
        "_seen",
        "believed",
        "classes",
        "clock",
        "has_room",
        "paces",
        "refresh_s",
        "sessions",
        "team",
    )

    def __init__(
        self, policy: RoutingPolicy, team: Team[Any], generator: np.random.Generator
    ) -> None:
        self.team = team
        self._policy = policy
        self._choose = policy.choose
        self._live = self._read = PoolView((), (), ())
        self._changes = self._seen = -1
        self._generator = generator
        self._draws: list[float] = []
        self._order = 0
        self.classes = Classes()
        self.paces: Mapping[str, Pace] = {}
        self.sessions: Sequence[int] | None = None  # each request's, -1 where there is none
        self.believed: Believed | None = None  # about the team's caches
        self.has_room: Callable[[int], bool] | None = None  # tells who is for more prompts
        self.refresh_s = 0.0  # between readings of loads; 0: they are live
        self.clock: Clock | None = None
        self._read_s = 0.0

    @property
    def name(self) -> str:
        """The policy's name."""
        return type(self._policy).__name__

    def take_stock(self) -> None:
        """Let every worker count what it did until now."""
        for worker in self.team.workers:
            worker.take_stock()

    @property
    def beliefs(self) -> Beliefs | None:
        """How the policy wants to know of caches, if it does."""
        return getattr(self._policy, "beliefs", None)

    def place(self, request: int, input_tokens: int, output_tokens: int) -> int:
        """Return the index in the team of the worker that gets ``request``."""
        index = self._ask(request, input_tokens, output_tokens)
        self._draws.pop()
        self._order += 1
        self.sent(request, index)
        return index

    def peek(self, request: int, input_tokens: int, output_tokens: int) -> tuple[int, int]:
        """Return where ``request`` would be placed, and the prompt tokens believed to be there.

        Nothing is kept of it: whoever is placed next meets the draw and the order of this one.
        """
        index = self._ask(request, input_tokens, output_tokens)
        if self.believed is None:
            return index, 0
        found = self.believed.overlaps(request).get(index, 0)
        self.believed.forget()
        return index, found

    def sent(self, request: int, index: int) -> None:
        """Hear that ``request`` goes to a worker that others have chosen."""
        if self.believed is not None:
            self.believed.chosen(request, index, self.team.workers[index].number)

    def routed(self, request: int, input_tokens: int, output_tokens: int) -> RoutedRequest:
        """Return a request as the policy sees it, with the next draw."""
        if not self._draws:
            self._draws = self._generator.random(_DRAWS).tolist()[::-1]
        return RoutedRequest(
            request,
            input_tokens,
            output_tokens,
            self._order,
            self._draws[-1],
            self.classes[request],
            -1 if self.sessions is None else self.sessions[request],
        )

    def _ask(self, request: int, input_tokens: int, output_tokens: int) -> int:
        """Return the policy's choice."""
        routed = self.routed(request, input_tokens, output_tokens)
        index = self._choose(routed, self.view)
        size = len(self.team.workers)
        if not is_index(index, size):
            raise ConfigError(
                f"router {type(self._policy).__name__}: chose worker {index!r} for request "
                f"{request}, but the pool has workers 0 to {size - 1}"
            )
        if self.has_room is not None and not self.has_room(int(index)):
            index = self.view.least("tokens", "requests", draw=routed.draw)
        return int(index)

    @property
    def live(self) -> PoolView:
        """The team as it is now made up; its columns are live."""
        if self._changes != self.team.changes:
            self._changes, self._live = self.team.changes, self._look()
        return self._live

    @property
    def view(self) -> PoolView:
        """The team as the policy sees it: live, or as it was last read."""
        if not self.refresh_s or self.clock is None:
            return self.live
        now = self.clock.now
        if self._seen != self.team.changes or now - self._read_s >= self.refresh_s:
            self._seen, self._read_s, self._read = self.team.changes, now, self._reading()
        return self._read

    def _reading(self) -> PoolView:
        """Return a view of the loads as they are at this moment, and stay."""
        load = Load(*map(list, self.team.load.columns()))
        requests, tokens, blocks = map(ReadOnly, load.columns())
        estimates = Estimated(self.team, self.paces, load)
        return PoolView(requests, tokens, blocks, estimates, self._known())

    def _known(self) -> Prefixes:
        """Return what is known of caches, by the places that workers have now."""
        if self.believed is not None:
            workers = enumerate(self.team.workers)
            self.believed.places = {worker.number: index for index, worker in workers}
        return self.believed or NO_PREFIXES

    def _look(self) -> PoolView:
        """Return the view of the team as it is now made up; others' policies cannot write to it."""
        load = self.team.load
        ranked = len(load.requests) > LARGE
        if ranked:
            for name in COLUMNS:
                setattr(load, name, Column(getattr(load, name)))
        loads: list[Sequence[int]] = [getattr(load, name) for name in COLUMNS]
        shown = loads if is_own(_module(self._policy)) else [ReadOnly(each) for each in loads]
        requests, tokens, blocks = shown
        estimates, prefixes = Estimated(self.team, self.paces, load), self._known()
        if ranked:
            columns = dict(zip(COLUMNS, loads, strict=True))
            return _RankedView(requests, tokens, blocks, estimates, prefixes, columns)
        return PoolView(requests, tokens, blocks, estimates, prefixes)


def is_index(named: object, size: int) -> bool:
    """Tell whether what a policy named is one of ``size`` workers."""
    return isinstance(named, INTEGERS) and type(named) is not bool and bool(0 <= named < size)


def _module(policy: object) -> str:
    return f"{type(policy).__module__}.{type(policy).__qualname__}"


class Estimated:
    """What a request would take at each worker of a team under some load."""

    __slots__ = ("_load", "_paces", "_team")

    def __init__(self, team: Team[Any], paces: Mapping[str, Pace], load: Load) -> None:
        self._team = team
        self._paces = paces
        self._load = load

    def ttft_s(self, worker: int, tokens: int) -> float:
        """Return the seconds until a prompt of so many tokens is computed there."""
        return 0.0 if self._team.workers[worker].role == "decode" else self.prompt_s(worker, tokens)

    def prompt_s(self, worker: int, tokens: int) -> float:
        """Return the same, of a decode worker too."""
        pace = self._paces[self._team.workers[worker].role]
        return pace.backlog_s(self._load.tokens[worker]) + pace.prompt_s(tokens)

    def tpot_s(self, worker: int, tokens: int) -> float:
        """Return a decode step's seconds there with one more sequence of so many tokens."""
        at, load = self._team.workers[worker], self._load
        if at.role == "prefill":
            return 0.0
        pace = self._paces[at.role]
        context = pace.tokens(load.kv_blocks[worker]) + tokens
        return pace.decode_s(load.requests[worker] + 1, context)


class ReadOnly(Sequence[int]):
    """A live column that can be read but not written."""

    __slots__ = ("_loads",)

    def __init__(self, loads: Sequence[int]) -> None:
        self._loads = loads

    def __getitem__(self, at: Any) -> Any:
        """Return one load, or a copy of several."""
        return self._loads[at]

    def __len__(self) -> int:
        """Return the number of workers."""
        return len(self._loads)

    def __iter__(self) -> Iterator[int]:
        """Yield every load."""
        return iter(self._loads)

    def count(self, value: int) -> int:
        """Return how many workers have that load."""
        return self._loads.count(value)

    def index(self, value: int, *between: int) -> int:
        """Return the first worker that has that load."""
        return self._loads.index(value, *between)


@dataclass(frozen=True, slots=True)
class _RankedView(PoolView):
    """The view of a large pool: rankings answer, made when first asked for."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    rankings: dict[tuple[str, ...], Ranking] = field(default_factory=dict)
    totals: dict[str, Total] = field(default_factory=dict)

    def least(self, *columns: str, draw: float) -> int:
        """Return the worker with the least of ``columns``; ``draw`` falls on one of its ties."""
        ranking = self.rankings.get(columns)
        if ranking is None:
            ranking = self.rankings[columns] = Ranking([self.columns[name] for name in columns])
        return ranking.choose(draw)

    def total(self, column: str) -> int:
        """Return the sum of a column, which is kept from when it is first asked for."""
        total = self.totals.get(column)
        if total is None:
            total = self.totals[column] = Total(self.columns[column])
        return total.value()
