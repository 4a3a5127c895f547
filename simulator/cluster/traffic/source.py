"""Where requests come from: a trace's arrivals, clients that wait for answers, or sessions."""

from array import array
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.clock import ARRIVAL, SOURCE, Alarm, Clock
from simulator.cluster.ledger import COMPLETED, Ledger
from workloads.sessions import Following

Admit = Callable[[int, float], None]
"""Takes a request and the instant it arrives."""

NEVER = -1
"""How many a request waits for that will never be sent: fewer than none, whoever lets it go."""


class Source(Protocol):
    """Lets requests in, one way or another."""

    alarm: Alarm

    @property
    def arrived(self) -> int:
        """How many requests have arrived so far."""
        ...

    @property
    def foretold(self) -> bool:
        """Whether the ledger has every arrival's time, and in order, before it comes."""
        ...

    def rows(self, first: int, last: int) -> slice | NDArray[np.uint32]:
        """Return which requests arrived as number ``first`` (from 0) to ``last`` (excluded)."""
        ...

    def sent(self) -> slice | NDArray[np.uint32]:
        """Return which requests have arrived, in the ledger's order."""
        ...

    def start(self) -> None:
        """Arm the first arrival."""
        ...

    def ended(self, request: int) -> int:
        """Hear that a request ended; tell how many others will therefore never arrive."""
        ...

    def wake(self, now: float) -> None:
        """Let in everything that is due."""
        ...


class Single:
    """Lets requests in: at their arrival times, or (``concurrency``) as earlier ones end.

    With N clients, N requests arrive at time 0 and the next one whenever one ends, in trace
    order; the ledger's arrival times then become the times of dispatch.
    """

    __slots__ = ("_admit", "_clients", "_clock", "_closed", "_ledger", "_next", "alarm")

    def __init__(
        self,
        clock: Clock,
        ledger: Ledger,
        admit: Admit,
        concurrency: int | None,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._admit = admit
        self._closed = concurrency is not None
        self._clients = concurrency or 0
        self._next = 0
        self.alarm = Alarm(clock, SOURCE)

    @property
    def arrived(self) -> int:
        """How many requests have arrived so far."""
        return self._next

    @property
    def foretold(self) -> bool:
        """Whether times are the trace's: not where clients wait for answers."""
        return not self._closed

    def rows(self, first: int, last: int) -> slice:
        """Return which requests arrived as these: they arrive in the ledger's order."""
        return slice(first, last)

    def sent(self) -> slice:
        """Return which requests have arrived."""
        return slice(0, self._next)

    def start(self) -> None:
        """Arm the first arrival."""
        if self._ledger.size:
            self.alarm.set(0.0 if self._closed else self._ledger.arrival[0], ARRIVAL)

    def ended(self, request: int) -> int:  # noqa: ARG002 - whichever it was
        """Hear that a request ended: in a closed loop its client sends the next one."""
        if self._closed:
            self._clients += 1
            self.alarm.set(self._clock.now, ARRIVAL)
        return 0

    def wake(self, now: float) -> None:
        """Let in everything that is due."""
        if self._closed:
            self._dispatch(now)
        else:
            self._arrive(now)

    def _dispatch(self, now: float) -> None:
        size = self._ledger.size
        while self._clients and self._next < size:
            self._clients -= 1
            request = self._next
            self._next += 1
            self._ledger.arrival[request] = now
            self._admit(request, now)

    def _arrive(self, now: float) -> None:
        arrival, size = self._ledger.arrival, self._ledger.size
        request = self._next
        while request < size and arrival[request] <= now:
            self._admit(request, now)
            request += 1
        self._next = request
        if request < size:
            self.alarm.set(arrival[request], ARRIVAL)


class Sessions:
    """Lets the first requests of sessions in at their times, and others as they are let go.

    With ``concurrency`` that many sessions are under way at a time, in the order of their first
    requests; the next one starts when nothing of one is under way or to come. Requests due at one
    instant arrive in the ledger's order. Each link is followed once, and what waits for one that
    failed is given up once, so a request costs no more than its own links, and a heap's log.
    """

    def __init__(
        self,
        clock: Clock,
        ledger: Ledger,
        admit: Admit,
        following: Following,
        concurrency: int | None = None,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._admit = admit
        self._go_on = following.go_on
        size = ledger.size
        bounds = np.searchsorted(following.parent, np.arange(size + 1))
        self._bounds = bounds.data
        self._child = following.child.data
        self._delay = np.ascontiguousarray(following.delay_s).data
        self._dispatch = following.dispatch.tolist() if following.dispatch.any() else []
        self._lacks = np.bincount(following.child, minlength=size).astype(np.int32).data
        self._ready = array("d", bytes(8 * size))  # when those waited for so far let it go
        self._order = array("I")
        self._heap: list[tuple[float, int]] = []
        self._firsts = following.firsts.data
        self._next = 0  # of the firsts
        self._set_to = inf  # when the alarm rings
        np.asarray(ledger.arrival)[following.child] = np.nan  # until they are sent
        self._crowd = None if concurrency is None else _Crowd(following, ledger, concurrency)
        self.alarm = Alarm(clock, SOURCE)

    @property
    def arrived(self) -> int:
        """How many requests have arrived so far."""
        return len(self._order)

    @property
    def foretold(self) -> bool:
        """No: turns come when answers have."""
        return False

    def rows(self, first: int, last: int) -> NDArray[np.uint32]:
        """Return which requests arrived as these."""
        return np.array(self._order[first:last], dtype=np.uint32)

    def sent(self) -> slice | NDArray[np.uint32]:
        """Return which requests have arrived, in the ledger's order."""
        if len(self._order) == self._ledger.size:
            return slice(0, self._ledger.size)
        return np.sort(np.array(self._order, dtype=np.uint32))

    def start(self) -> None:
        """Arm the first arrival."""
        if self._crowd is None:
            self._set(self._upcoming()[0])
        else:
            self._begin_sessions(0.0)

    def ended(self, request: int) -> int:
        """Hear that a request ended: let go, or give up, whoever waited for it."""
        if self._go_on or self._ledger.status[request] == COMPLETED:
            self._let_go(request, self._clock.now, dispatch=False)
            given_up = 0
        else:
            given_up = self._give_up(request)
        if self._crowd is not None and self._crowd.over(request, 1 + given_up):
            self._begin_sessions(self._clock.now)
        return given_up

    def wake(self, now: float) -> None:
        """Let in everything that is due; who comes in may end, and let others go, at once."""
        self._set_to = -inf  # so that nobody sets the alarm meanwhile
        while (upcoming := self._upcoming())[0] <= now:
            _, request, waited = upcoming
            if waited:
                heappop(self._heap)
            else:
                self._next += 1
            self._send(request, now)
        self._set_to = inf
        if upcoming[0] < inf:
            self._set(upcoming[0])

    def _upcoming(self) -> tuple[float, int, bool]:
        """Return when who is sent next, and whether it waited for others."""
        heap = self._heap
        waiting = (*heap[0], True) if heap else (inf, 0, True)
        if self._crowd is not None or self._next == len(self._firsts):
            return waiting
        first = self._firsts[self._next]
        return min(waiting, (self._ledger.arrival[first], first, False))

    def _set(self, when: float) -> None:
        """Set the alarm, unless it rings before."""
        if when < self._set_to:
            self._set_to = when
            self.alarm.set(when, ARRIVAL)

    def _send(self, request: int, now: float) -> None:
        self._order.append(request)
        self._ledger.arrival[request] = now
        if self._dispatch:
            self._let_go(request, now, dispatch=True)
        self._admit(request, now)

    def _let_go(self, request: int, now: float, *, dispatch: bool) -> None:
        """Follow a request's links, of those that count from its dispatch or from its end."""
        bounds, lacks, ready, kinds = self._bounds, self._lacks, self._ready, self._dispatch
        for link in range(bounds[request], bounds[request + 1]):
            child = self._child[link]
            if (kinds[link] if kinds else False) != dispatch:
                continue
            ready[child] = max(ready[child], now + self._delay[link])
            lacks[child] -= 1
            if not lacks[child]:
                self._await(child)

    def _await(self, request: int) -> None:
        heappush(self._heap, (self._ready[request], request))
        self._set(self._ready[request])

    def _give_up(self, request: int) -> int:
        """Never send what waits for a request that failed; tell how many that are."""
        bounds, lacks, kinds = self._bounds, self._lacks, self._dispatch
        failed, count = [request], 0
        while failed:
            each = failed.pop()
            for link in range(bounds[each], bounds[each + 1]):
                child = self._child[link]
                followed = each == request and bool(kinds) and kinds[link]
                if lacks[child] > 0 and not followed:
                    lacks[child] = NEVER
                    count += 1
                    failed.append(child)
        return count

    def _begin_sessions(self, now: float) -> None:
        """Let the first requests of as many sessions as there is room for wait for their turn."""
        assert self._crowd is not None  # noqa: S101 - asked before
        for request, offset_s in self._crowd.begun():
            self._ready[request] = now + offset_s
            self._await(request)


class _Crowd:
    """So many sessions at a time: who begins next, and how much of each is still to end."""

    def __init__(self, following: Following, ledger: Ledger, concurrency: int) -> None:
        session, firsts = following.sessions(), following.firsts
        start = np.nan_to_num(np.asarray(ledger.arrival)[firsts])
        of_firsts = session[firsts]
        _, where, group = np.unique(of_firsts, return_index=True, return_inverse=True)
        place = np.argsort(np.argsort(where))[group]  # sessions in the order of their first request
        order = np.argsort(place, kind="stable")
        self._firsts = firsts[order]
        self._bounds = np.append(np.searchsorted(place[order], np.arange(len(where))), len(order))
        earliest = np.full(len(where), np.inf)
        np.minimum.at(earliest, place, start)
        self._offset_s = (start - earliest[place])[order]
        self._session = session.data
        self._left = np.bincount(session).data
        self._next, self._free = 0, concurrency

    def over(self, request: int, count: int) -> bool:
        """Hear that a request and those given up with it are over; tell if its session is."""
        session = self._session[request]
        self._left[session] -= count
        if self._left[session]:
            return False
        self._free += 1
        return True

    def begun(self) -> list[tuple[int, float]]:
        """Return the first requests of the sessions that begin now, and how long after."""
        begun: list[tuple[int, float]] = []
        while self._free and self._next < len(self._bounds) - 1:
            start, end = self._bounds[self._next], self._bounds[self._next + 1]
            firsts, offsets = self._firsts[start:end].tolist(), self._offset_s[start:end].tolist()
            begun += zip(firsts, offsets, strict=True)
            self._next, self._free = self._next + 1, self._free - 1
        return begun
