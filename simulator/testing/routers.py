"""The contract of a routing policy: a pure, quick choice of a ready worker."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator.cluster.pools.router import COLUMNS, INTEGERS
from simulator.policies.classes import ServiceClass
from simulator.policies.routing import Beneath, PoolView, RoutedRequest, RoutingPolicy
from simulator.testing.contract import ContractError, Subject, streams_at

SIZES = (1, 2, 3, 8, 65, 512)
"""Pools looked at, in workers."""
LARGE = 4096
"""Workers of the pool in which is counted what a choice reads."""
SHARE = 8
"""A choice that reads more than one in so many of them looks through the pool."""
REQUESTS = 40
DUE = ServiceClass(ttft_s=0.5, tpot_s=0.05)
"""What every request is promised."""


def check_router(policy: RoutingPolicy, *, scans: bool = False) -> None:
    """See to it that a routing policy keeps its contract, in pools of 1 to 4,096 workers.

    It answers with the index of a ready worker, whatever the loads; the same question has the same
    answer, today and in another run, whatever else it is asked in between; it writes to nothing it
    is shown, and keeps nothing in itself; and a choice does not look through a large pool, unless
    ``scans`` says that it may: its cost then grows with the workers.

    Raises:
        ContractError: it does not; the text names the policy and what it broke.
    """
    subject = Subject("router", policy)
    for size in SIZES:
        for name, loads in _loads(size):
            situation = f"in a pool of {size} with {name}"
            _purely(subject, Pool(loads), situation)
        _alone(subject, size)
    if not scans:
        _quickly(subject)


@dataclass(eq=False)
class Pool:
    """The loads of one pool, and how many entries of them were read."""

    columns: tuple[list[int], ...]
    reads: int = 0
    placed: int = 0

    @property
    def size(self) -> int:
        """Workers in it."""
        return len(self.columns[0])

    def view(self) -> "WatchedView":
        """Return what a policy sees of it."""
        requests, tokens, blocks = (Entries(self, name) for name in COLUMNS)
        return WatchedView(requests, tokens, blocks, Guessed(self), Supposed(self.size), pool=self)

    def plain(self) -> PoolView:
        """Return the same, unwatched."""
        requests, tokens, blocks = self.columns
        return PoolView(requests, tokens, blocks)

    def place(self, subject: Subject, rng: np.random.Generator, situation: str) -> int:
        """Place one more request, and let one that was placed end."""
        draws = rng.random(4)
        request = RoutedRequest(
            request=self.placed,
            input_tokens=1 + int(1e5 * draws[0] ** 4),
            output_tokens=1 + int(4e3 * draws[1] ** 4),
            order=self.placed,
            draw=float(draws[2]),
            service=DUE,
        )
        chosen = self.ask(subject, request, situation)
        self.placed += 1
        for column, more in zip(self.columns, (1, request.input_tokens, 9), strict=True):
            column[chosen] += more
            done = int(draws[3] * self.size)
            column[done] = max(0, column[done] - more)
        return chosen

    def ask(self, subject: Subject, request: RoutedRequest, situation: str) -> int:
        """Return the policy's choice, a worker there is."""
        view = self.view()
        chosen = subject.asked(situation, lambda: subject.policy.choose(request, view))
        whole = isinstance(chosen, INTEGERS) and not isinstance(chosen, bool)
        if not (whole and 0 <= chosen < self.size):
            raise subject.broke(
                f"chose worker {chosen!r} {situation}, whose workers are 0 to {self.size - 1}"
            )
        return int(chosen)


@dataclass(eq=False)
class Guessed:
    """Estimates that grow with a pool's loads; each reads one worker."""

    pool: Pool

    def ttft_s(self, worker: int, tokens: int) -> float:
        """Return 10 µs a token."""
        self.pool.reads += 1
        return 1e-5 * (self.pool.columns[1][worker] + tokens)

    def prompt_s(self, worker: int, tokens: int) -> float:
        """Return the same."""
        return self.ttft_s(worker, tokens)

    def tpot_s(self, worker: int, tokens: int) -> float:
        """Return 10 ms, and a little for each sequence and block."""
        self.pool.reads += 1
        requests, _, blocks = (column[worker] for column in self.pool.columns)
        return 0.01 + 1e-4 * (requests + 1) + 1e-7 * (16 * blocks + tokens)


@dataclass(frozen=True, slots=True)
class Supposed:
    """Beliefs about caches: a few workers of a pool have something of every second prompt."""

    size: int
    block_size: int = 16

    def overlaps(self, request: int) -> Mapping[int, int]:
        """Return the tokens they have."""
        having = range(request % 7, self.size, max(1, self.size // 3))
        return {worker: 16 * (1 + worker % 40) for worker in having} if request % 2 else {}

    def beneath(self, request: int) -> tuple[Beneath, ...]:
        """Return what a host's memory of every other worker has, of every third prompt."""
        tokens = dict.fromkeys(range(0, self.size, 2), 320) if request % 3 == 0 else {}
        return (Beneath("host", tokens, 1e-5, 1e-4),)


@dataclass(frozen=True, slots=True)
class WatchedView(PoolView):
    """A view that notes what is read of it one by one; :meth:`least` is the engine's own search."""

    pool: Pool = field(kw_only=True)

    def least(self, *columns: str, draw: float) -> int:
        """Return the worker with the least of ``columns``; ``draw`` falls on one of its ties."""
        return self.pool.plain().least(*columns, draw=draw)

    def total(self, column: str) -> int:
        """Return the sum of a column."""
        return self.pool.plain().total(column)


class Entries(Sequence[int]):
    """One column of a pool: its reads are counted, and nothing can be written to it."""

    __slots__ = ("_name", "_pool")

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool, self._name = pool, name

    def _loads(self) -> list[int]:
        return self._pool.columns[COLUMNS.index(self._name)]

    def __getitem__(self, at: Any) -> Any:
        """Return one load, or a copy of several."""
        found = self._loads()[at]
        self._pool.reads += len(found) if isinstance(found, list) else 1
        return found

    def __iter__(self) -> Iterator[int]:
        """Yield every load."""
        for load in self._loads():
            self._pool.reads += 1
            yield load

    def __len__(self) -> int:
        """Return the number of workers."""
        return len(self._loads())

    def __setitem__(self, at: object, load: object) -> None:
        """Refuse to be written to."""
        raise ContractError(f"writes {load!r} into the {self._name} it is shown")

    def __delitem__(self, at: object) -> None:
        """Refuse to be written to."""
        raise ContractError(f"deletes from the {self._name} it is shown")


def _loads(size: int) -> Iterator[tuple[str, tuple[list[int], ...]]]:
    """Yield loads of a pool, in words and as columns."""
    rng = np.random.default_rng(size)
    yield "idle workers", ([0] * size, [0] * size, [0] * size)
    yield "equal loads", ([7] * size, [10_000] * size, [700] * size)
    yield "huge loads", ([10**6] * size, [10**11] * size, [10**9] * size)
    drawn = rng.integers(0, 9, (3, size)) * [[1], [1000], [60]]
    yield "uneven loads", tuple(column.tolist() for column in drawn)
    one = [0] * (size - 1)
    yield "one busy worker", ([*one, 50], [*one, 10**6], [*one, 10**5])


def _purely(subject: Subject, pool: Pool, situation: str) -> None:
    """Ask each question twice."""
    for draw in (0.0, 0.37, 1 - 2**-53):
        for order, tokens in ((0, 1), (1, 2000), (10**7, 10**6)):
            request = RoutedRequest(
                request=order,
                input_tokens=tokens,
                output_tokens=9,
                order=order,
                draw=draw,
                service=DUE,
            )
            answers = [pool.ask(subject, request, situation) for _ in range(2)]
            if answers[0] != answers[1]:
                raise subject.broke(
                    f"answered {answers[0]} and then {answers[1]} to one and the same question "
                    f"{situation}; its draws are the request's"
                )


def _alone(subject: Subject, size: int) -> None:
    """Let two runs go one after the other and in turns: they must not notice each other."""
    situation = f"in a pool of {size} while requests come and go"

    def run(seed: int, runs: int) -> list[int]:
        pools = [Pool(tuple([0] * size for _ in COLUMNS)) for _ in range(runs)]
        streams = [np.random.default_rng(10 + at) for at in range(runs)]
        answers = []
        with streams_at(seed):
            for turn in range(REQUESTS * runs):
                at = turn % runs
                answers.append(pools[at].place(subject, streams[at], situation))
        return answers[::runs]

    first = run(1, 1)
    if run(2, 1) != first:
        raise subject.broke(
            f"chose otherwise the second time {situation}; it draws from a random stream of its "
            "own, or remembers"
        )
    if run(1, 2) != first:
        raise subject.broke(f"chose otherwise {situation} when another run was asking it too")


def _quickly(subject: Subject) -> None:
    """Count the loads that choices read in a large pool, after the first."""
    pool = Pool(tuple([0] * LARGE for _ in COLUMNS))
    rng, situation = np.random.default_rng(1), f"in a pool of {LARGE:,}"
    pool.place(subject, rng, situation)
    pool.reads = 0
    for _ in range(REQUESTS):
        pool.place(subject, rng, situation)
    each = pool.reads / REQUESTS
    if each > LARGE / SHARE:
        raise subject.broke(
            f"read {each:,.0f} loads for a choice {situation}; take view.least or a few draws, "
            "or let it be checked with scans=True and say so"
        )
