"""Things that happen to requests some time from now: one alarm for each kind."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from simulator.cluster.clock import ARRIVAL, Alarm, Clock


class Delays:
    """Acts on requests at given times, in the order of time and of asking; at once where due."""

    __slots__ = ("_act", "_clock", "_heap", "_order", "alarm")

    def __init__(self, clock: Clock, component: int, act: Callable[[int, float], None]) -> None:
        self._clock = clock
        self._act = act
        self._heap: list[tuple[float, int, int]] = []
        self._order = 0
        self.alarm = Alarm(clock, component)

    def at(self, when: float, request: int) -> None:
        """Act on ``request`` at ``when``."""
        now = self._clock.now
        if when <= now:
            self._act(request, now)
            return
        heap = self._heap
        self._order += 1
        heappush(heap, (when, self._order, request))
        if heap[0][1] == self._order:
            self.alarm.set(when, ARRIVAL)

    def cancel(self, request: int) -> bool:
        """Do not act on ``request`` after all; tell whether that was to come."""
        kept = [each for each in self._heap if each[2] != request]
        if len(kept) == len(self._heap):
            return False
        self._heap[:] = kept
        heapify(self._heap)
        return True

    def wake(self, now: float) -> None:
        """Act on every request that is due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            self._act(heappop(heap)[2], now)
        if heap:
            self.alarm.set(heap[0][0], ARRIVAL)
