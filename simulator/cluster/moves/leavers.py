"""Clients that leave: who gave up or took its request back, and what is then freed where."""

from collections import Counter
from heapq import heappop, heappush
from math import inf, isnan

import numpy as np

from simulator.clients import Clients
from simulator.cluster.clock import ARRIVAL, LEAVERS, Alarm
from simulator.cluster.delays import Delays
from simulator.cluster.ledger import FAILED, INCOMPLETE
from simulator.cluster.moves.handoff import Handoff
from simulator.cluster.moves.migration import Migration
from simulator.cluster.pools.team import Roster
from simulator.cluster.traffic.endings import Endings
from simulator.cluster.traffic.gateway import Gateway
from simulator.record import REASONS

AT_ROUTER = -1
"""Stands for the router where workers go by their numbers."""

TIMEOUT, CANCELLED = REASONS.index("timeout"), REASONS.index("cancelled")


class Leavers:
    """Wakes when a client's patience ends and takes its request out, wherever it is.

    What happens at that very instant in a worker or on a link comes first, so an answer that is
    complete then counts; arrivals of that instant come after. Each request has at most two
    deadlines here: of its first token, and of the whole of it. ``orphans`` counts the prompts left
    behind that were not begun, by the worker where they waited.
    """

    def __init__(self, clients: Clients, endings: Endings, seed: int) -> None:
        self._clients = clients
        self._endings = endings
        self._ledger = endings.ledger
        self._heap: list[tuple[float, int, bool]] = []  # when, of whom, only of its first token
        self.alarm = Alarm(endings.clock, LEAVERS)
        self._cancelled = self._draw(seed)
        self.orphans: Counter[int] = Counter()
        self.entering: Delays
        self.gateway: Gateway
        self.handoff: Handoff
        self.migration: Migration
        self.roster: Roster

    def _draw(self, seed: int) -> list[float]:
        """Return, per request, after how many seconds its client takes it back; empty if none."""
        clients, size = self._clients, self._ledger.size
        if not clients.cancel_probability:
            return []
        draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))
        rows = draws.random((size, 2))
        after = -clients.cancel_mean_s * np.log1p(-rows[:, 1])
        seconds: list[float] = np.where(
            rows[:, 0] < clients.cancel_probability, after, inf
        ).tolist()
        return seconds

    def arrived(self, request: int, now: float) -> None:
        """Note until when a request's client waits."""
        clients, first = self._clients, self._clients.first_token_timeout_s
        last = inf if clients.timeout_s is None else clients.timeout_s
        if self._cancelled:
            last = min(last, self._cancelled[request])
        if first is not None and first < last:
            self._note(now + first, request, first=True)
        if last < inf:
            self._note(now + last, request, first=False)

    def _note(self, when: float, request: int, *, first: bool) -> None:
        heap = self._heap
        entry = (when, request, first)
        heappush(heap, entry)
        if heap[0] is entry:
            self.alarm.set(when, ARRIVAL)

    def wake(self, now: float) -> None:
        """Let everybody go whose patience has ended."""
        heap, status = self._heap, self._ledger.status
        while heap:
            when, request, first = heap[0]
            waits = status[request] == INCOMPLETE
            if waits and when > now:
                self.alarm.set(when, ARRIVAL)
                return
            heappop(heap)
            if waits and not (first and not isnan(self._ledger.first_token[request])):
                self._leave(request, self._reason(request, first=first))

    def _reason(self, request: int, *, first: bool) -> int:
        limit = self._clients.timeout_s
        taken_back = bool(self._cancelled) and not first
        if taken_back and self._cancelled[request] < (inf if limit is None else limit):
            return CANCELLED
        return TIMEOUT

    def _leave(self, request: int, reason: int) -> None:
        self._ledger.status[request] = FAILED  # a worker that stops for it must not begin it anew
        self._endings.left(request, reason, lingers=self._take_out(request))

    def _take_out(self, request: int) -> bool:
        """Free all a request has; tell whether a step under way keeps something to its end."""
        ledger = self._ledger
        number = ledger.prefill_worker[request]
        if number < 0:
            ledger.give_up(request)
            held = self.gateway.held
            self.orphans[AT_ROUTER] += held is not None and request in held
            if not self.gateway.forget(request):
                self.entering.cancel(request)
            return False
        self.orphans[number] += isnan(ledger.prefill_start[request])
        if request in self.migration.moves:
            self.migration.drop(request)
            return False
        if number in self.roster.batches or not isnan(ledger.transfer_end[request]):
            self.handoff.dispatched.cancel(request)
            return self.roster.batches[ledger.decode_worker[request]].leave(request)
        if not isnan(ledger.prefill_start[request]):
            self.handoff.cancel(request)
            self.handoff.forget(request)
        return self.roster.prefills[number].leave(request)
