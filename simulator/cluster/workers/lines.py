"""Queues of prompts in another order than that of coming."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Protocol

from simulator.cluster.ledger import Ledger
from simulator.errors import ConfigError
from simulator.policies.classes import Classes
from simulator.policies.queueing import Fcfs, Key, Queued, QueueOrder

KeyOf = Callable[[int], Key]


class Line(Protocol):
    """What a worker asks of its queue, as a deque answers it."""

    def append(self, request: int, /) -> None:
        """Let a prompt join."""
        ...

    def appendleft(self, request: int, /) -> None:
        """Let a prompt stand before all others."""
        ...

    def popleft(self) -> int:
        """Take the first out."""
        ...

    def remove(self, request: int, /) -> None:
        """Take one out, wherever it stands."""
        ...

    def clear(self) -> None:
        """Take all out."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __iter__(self) -> Iterator[int]:
        """Yield all, the first first."""
        ...

    def __getitem__(self, at: int, /) -> int:
        """Return the one at a place; only the first may be asked for often."""
        ...


class OrderedLine:
    """A queue by key: joining and leaving at the front cost O(log n).

    Who steps aside keeps its place and is not in the queue until it comes back.
    """

    __slots__ = ("_aside", "_entries", "_front", "_heap", "_key_of", "_order")

    def __init__(self, key_of: KeyOf) -> None:
        self._key_of = key_of
        self._heap: list[tuple[Key, int, int]] = []  # may hold entries of who has left
        self._entries: dict[int, tuple[Key, int, int]] = {}
        self._aside: dict[int, tuple[Key, int, int]] = {}
        self._front: list[int] = []  # who stands before all others, the first last
        self._order = 0

    def append(self, request: int) -> None:
        """Let a prompt join where its key says."""
        self.step_aside(request)
        self.come_back(request)

    def step_aside(self, request: int) -> None:
        """Let a prompt have a place where its key says, but not join yet."""
        self._order += 1
        self._aside[request] = (self._key_of(request), self._order, request)

    def come_back(self, request: int) -> None:
        """Let a prompt that stepped aside join at its place."""
        entry = self._entries[request] = self._aside.pop(request)
        heappush(self._heap, entry)

    def appendleft(self, request: int) -> None:
        """Let a prompt stand before all others."""
        self._front.append(request)

    def popleft(self) -> int:
        """Take the first out."""
        if self._front:
            return self._front.pop()
        request = self[0]
        heappop(self._heap)
        del self._entries[request]
        return request

    def remove(self, request: int) -> None:
        """Take one out, wherever it stands."""
        if request in self._front:
            self._front.remove(request)
        elif self._aside.pop(request, None) is None:
            del self._entries[request]

    def clear(self) -> None:
        """Take all out."""
        self._aside.clear()
        self._front.clear()
        self._heap.clear()
        self._entries.clear()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._front) + len(self._entries)

    def __contains__(self, request: int) -> bool:
        """Tell whether a prompt is in it."""
        return request in self._entries or request in self._front

    def __iter__(self) -> Iterator[int]:
        """Yield all, the first first."""
        yield from reversed(self._front)
        yield from (request for _, _, request in sorted(self._entries.values()))

    def everybody(self) -> list[int]:
        """Return all, those too that stepped aside, the first first."""
        entries = sorted((*self._entries.values(), *self._aside.values()))
        return [*reversed(self._front), *(request for _, _, request in entries)]

    def __getitem__(self, at: int) -> int:
        """Return the one at a place; the first in O(log n)."""
        if at:
            return list(self)[at]
        if self._front:
            return self._front[-1]
        heap = self._heap
        while self._entries.get(heap[0][2]) is not heap[0]:
            heappop(heap)
        return heap[0][2]


def in_turn(_: int) -> Key:
    """Return the key by which prompts stand as they come."""
    return ()


def key_of(policy: QueueOrder, ledger: Ledger, classes: Classes) -> KeyOf | None:
    """Return what gives a request its key, ``None`` where all stand as they come."""
    if isinstance(policy, Fcfs):
        return None

    def key(request: int) -> Key:
        tokens = ledger.prompt_tokens[request]
        uncached = tokens - ledger.expected.get(request, 0)
        prompt = Queued(request, ledger.arrival[request], tokens, uncached, classes[request])
        found = policy.key(prompt)
        numbers = isinstance(found, tuple) and all(isinstance(n, int | float) for n in found)
        if not numbers or any(number != number for number in found):  # NaN has no place
            raise ConfigError(
                f"queue {type(policy).__name__}: key must be a tuple of numbers but got {found!r} "
                f"for request {request}"
            )
        return found

    return key
