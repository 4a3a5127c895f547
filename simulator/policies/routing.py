"""Which worker of a pool a request goes to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from simulator.policies.classes import ServiceClass

UNCLASSED = ServiceClass()


class RoutedRequest(NamedTuple):
    """The request being placed: its lengths in tokens, how many were placed before it, a draw.

    ``draw`` is uniform in [0, 1) from the routing stream, the same for every policy. ``service`` is
    its class, with the targets it is due. ``session`` numbers the conversation it is a turn of (-1:
    of none that is known).
    """

    request: int
    input_tokens: int
    output_tokens: int
    order: int
    draw: float
    service: ServiceClass = UNCLASSED
    session: int = -1


class Estimates(Protocol):
    """What a request would take at each worker of a pool, from the pool's own step times."""

    def ttft_s(self, worker: int, tokens: int) -> float:
        """Return the seconds until a prompt of so many tokens is computed there.

        The prompt tokens placed there at the pace of full steps, and then the prompt alone; no
        decodes beside it. 0 at a decode worker, which gets prompts computed.
        """
        ...

    def tpot_s(self, worker: int, tokens: int) -> float:
        """Return a decode step's seconds there with one more sequence of so many prompt tokens.

        Contexts are prompts alone. 0 at a prefill worker, which decodes nothing.
        """
        ...

    def prompt_s(self, worker: int, tokens: int) -> float:
        """Return what ``ttft_s`` does, of a decode worker too, which could compute the prompt."""
        ...


class Unknown:
    """No estimates: every worker takes no time."""

    def ttft_s(self, worker: int, tokens: int) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0

    def tpot_s(self, worker: int, tokens: int) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0

    def prompt_s(self, worker: int, tokens: int) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0


UNKNOWN = Unknown()


class Beneath(NamedTuple):
    """A memory beneath workers' caches: the leading prompt ``tokens`` it has, by worker.

    Loading one takes ``seconds_per_token`` where nobody else does, and ``latency_s`` all of them.
    """

    name: str
    tokens: Mapping[int, int]
    seconds_per_token: float
    latency_s: float


class Prefixes(Protocol):
    """What a router believes of its workers' prefix caches."""

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        ...

    def overlaps(self, request: int) -> Mapping[int, int]:
        """Return the leading prompt tokens each worker has; who has none is left out."""
        ...

    def beneath(self, request: int) -> Sequence[Beneath]:
        """Return what memories beneath the workers have of a prompt, from near to far."""
        ...


class NoPrefixes:
    """Nobody is believed to have anything."""

    block_size = 16

    def overlaps(self, request: int) -> Mapping[int, int]:  # noqa: ARG002
        """Return nothing."""
        return {}

    def beneath(self, request: int) -> Sequence[Beneath]:  # noqa: ARG002
        """Return nothing."""
        return ()


NO_PREFIXES = NoPrefixes()


@dataclass(frozen=True, slots=True)
class PoolView:
    """What a router may see of a pool: one entry per worker, read only.

    ``requests``: placed here and not finished with this stage. ``tokens``: prompt tokens placed
    here and not yet computed. ``kv_blocks``: prompt KV blocks of the requests placed here, those
    still in transfer included, until the worker lets go of them. ``estimates`` are seconds.
    ``prefixes`` is what a router with beliefs about caches knows; it does not count what it
    believes to be cached among ``tokens``.
    """

    requests: Sequence[int]
    tokens: Sequence[int]
    kv_blocks: Sequence[int]
    estimates: Estimates = UNKNOWN
    prefixes: Prefixes = NO_PREFIXES

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self.prefixes.block_size

    def overlaps(self, request: int) -> Mapping[int, int]:
        """Return the leading tokens of a prompt that each worker is believed to have cached.

        Workers that have none are left out, so this does not cost what there are workers.
        """
        return self.prefixes.overlaps(request)

    def beneath(self, request: int) -> Sequence[Beneath]:
        """Return what memories beneath the workers have of a prompt, from near to far.

        Empty where there are none, and for a router that believes only what it routed.
        """
        return self.prefixes.beneath(request)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAffinity:
    """One worker for all of a session, found by consistent hashing, whatever the loads.

    Where a worker comes, one in so many sessions moves to it and no other. Workers are told by
    their place in the pool: where one leaves that is not the last, those behind it move up, and
    their sessions with them. Who has no session goes where the fewest requests are. Source:
    Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (arXiv 1406.2294).
    """

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the session's worker; the steps are as many as the logarithm of the pool."""
        if request.session < 0:
            return pool.least("requests", draw=request.draw)
        key, bucket, after = request.session, -1, 0
        while after < len(pool.requests):
            bucket = after
            key = (key * 2862933555777941757 + 1) & 0xFFFF_FFFF_FFFF_FFFF
            after = int((bucket + 1) * (2**31 / ((key >> 33) + 1)))
        return bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerOfTwo:
    """The one with less ``load`` of two workers taken at random, the first taken where alike.

    SGLang's gateway does so by requests in flight.
    """

    load: str = "requests"

    def __post_init__(self) -> None:
        known = ("requests", "tokens", "kv_blocks")
        if self.load not in known:
            raise ValueError(
                f"power_of_two: load must be one of {', '.join(known)} but got {self.load!r}"
            )

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the less loaded of two different workers, both from the request's one draw."""
        loads: Sequence[int] = getattr(pool, self.load)
        size = len(loads)
        if size == 1:
            return 0
        one, rest = divmod(request.draw * size, 1.0)
        first = min(int(one), size - 1)
        second = min(int(rest * (size - 1)), size - 2)
        second += second >= first
        return first if loads[first] <= loads[second] else second


@dataclass(frozen=True, slots=True)
class FirstFitSlo:
    """The first worker that would hold the request's targets, else the one that misses by least.

    Arrow's rule for decode workers: the first whose TPOT with this request is within its target,
    else the least TPOT; and the same for prompts and TTFT. Workers are filled one after the other,
    so that the last ones may be spared. It looks through the pool until one fits.

    Source: xLLM-service, ``scheduler/managers/instance_mgr.cpp`` at c8033e00.
    """

    def needs(self, service: ServiceClass) -> str:
        """Return what a class lacks for a worker to fit, or nothing."""
        lacks = (name for name in ("ttft_s", "tpot_s") if getattr(service, name) is None)
        return next(lacks, "")

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the first that fits, or the one with the least share of its target."""
        service, tokens, estimates = request.service, request.input_tokens, pool.estimates
        best, least = 0, math.inf
        for worker in range(len(pool.requests)):
            share = max(
                estimates.ttft_s(worker, tokens) / (service.ttft_s or math.inf),
                estimates.tpot_s(worker, tokens) / (service.tpot_s or math.inf),
            )
            if share <= 1:
                return worker
            if share < least:
                best, least = worker, share
        return best
