"""Where requests come from: a trace's arrivals, or clients that wait for their answers."""

from collections.abc import Callable

from simulator.cluster.clock import ARRIVAL, SOURCE, Alarm, Clock
from simulator.cluster.ledger import Ledger

Admit = Callable[[int, float], None]
"""Takes a request and the instant it arrives."""


class Source:
    """Lets requests in: at their arrival times, or (``concurrency``) as earlier ones end.

    With N clients, N requests arrive at time 0 and the next one whenever one ends, in trace
    order; the ledger's arrival times then become the times of dispatch.
    """

    __slots__ = ("_admit", "_clients", "_clock", "_ledger", "_next", "alarm", "closed")

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
        self.closed = concurrency is not None
        self._clients = concurrency or 0
        self._next = 0
        self.alarm = Alarm(clock, SOURCE)

    @property
    def arrived(self) -> int:
        """How many requests have arrived so far."""
        return self._next

    def start(self) -> None:
        """Arm the first arrival."""
        if self._ledger.size:
            self.alarm.set(0.0 if self.closed else self._ledger.arrival[0], ARRIVAL)

    def one_ended(self) -> None:
        """Hear that a request ended, in closed loop: its client sends the next one."""
        self._clients += 1
        self.alarm.set(self._clock.now, ARRIVAL)

    def wake(self, now: float) -> None:
        """Let in everything that is due."""
        if self.closed:
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
