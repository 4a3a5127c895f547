"""Which worker of a pool a request goes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class RoutedRequest(NamedTuple):
    """The request being placed: its lengths in tokens, how many were placed before it, a draw.

    ``draw`` is uniform in [0, 1) from the routing stream, the same for every policy.
    """

    request: int
    input_tokens: int
    output_tokens: int
    order: int
    draw: float


@dataclass(frozen=True, slots=True)
class PoolView:
    """What a router may see of a pool: one entry per worker, read only.

    ``requests``: placed here and not finished with this stage. ``tokens``: prompt tokens placed
    here and not yet computed. ``kv_blocks``: prompt KV blocks of the requests placed here, those
    still in transfer included, until the worker lets go of them.
    """

    requests: Sequence[int]
    tokens: Sequence[int]
    kv_blocks: Sequence[int]

    def least(self, *columns: str, draw: float) -> int:
        """Return the worker with the least of ``columns``, compared in order.

        ``draw``, uniform in [0, 1), falls on one of those that are alike, by index. Large pools
        answer in O(log n); a policy that looks through the columns itself pays for each worker.
        """
        tied: Sequence[int] | None = None  # all workers
        for name in columns:
            column: Sequence[int] = getattr(self, name)
            loads = column if tied is None else [column[worker] for worker in tied]
            least = min(loads)
            count = loads.count(least)
            if count == 1:
                at = loads.index(least)
                return at if tied is None else tied[at]
            tied = [
                worker if tied is None else tied[worker]
                for worker, load in enumerate(loads)
                if load == least
            ]
        return (tied or (0,))[int(draw * len(tied or (0,)))]

    def total(self, column: str) -> int:
        """Return the sum of a column; in a large pool that costs what changed of it."""
        loads: Sequence[int] = getattr(self, column)
        return sum(loads)


class RoutingPolicy(Protocol):
    """A pure choice of worker."""

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the index of the worker that takes ``request``, 0 ≤ index < pool size."""
        ...


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Each worker in turn."""

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the worker after the one the last request got."""
        return request.order % len(pool.requests)


@dataclass(frozen=True, slots=True)
class Random:
    """Any worker with equal probability."""

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the worker the request's uniform draw falls on."""
        return int(request.draw * len(pool.requests))


@dataclass(frozen=True, slots=True)
class LeastRequests:
    """The worker with the fewest unfinished requests; the request's draw breaks ties."""

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the worker with the fewest requests."""
        return pool.least("requests", draw=request.draw)


@dataclass(frozen=True, slots=True)
class LeastTokens:
    """The worker with the fewest prompt tokens still to compute (Splitwise's JSQ).

    Ties go to fewer requests; the request's draw breaks what is left of them.
    """

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the worker with the fewest pending prompt tokens."""
        return pool.least("tokens", "requests", draw=request.draw)


@dataclass(frozen=True, slots=True)
class LeastKV:
    """The worker whose placed requests hold the fewest prompt KV blocks, transfers included.

    Counting blocks from the moment of the choice keeps simultaneous choices from herding
    (Dynamo's decode cost with ``track_output_blocks`` off). The request's draw breaks ties.
    """

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the worker with the fewest placed KV blocks."""
        return pool.least("kv_blocks", draw=request.draw)
