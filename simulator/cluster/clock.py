"""Absolute-time wake-ups on a plain simpy environment, with a stated order among ties.

simpy schedules relative delays, and ``now + (t - now)`` need not equal ``t``; and it orders ties by
when they were scheduled, which depends on how often a worker wakes. Both would make a leap differ
from stepping. This module alone touches simpy's private queue (hence ``simpy<5``): entries are
``(time, priority, rank, event)``, where the rank orders components, not scheduling calls.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush

from simpy import Environment
from simpy.events import Event

from simulator.errors import settings_of

# The order of events at one instant; then by component, then by wake-up. simpy itself uses 0.
STEP_END = 1
TRANSFER_END = 2
READY = 3
ARRIVAL = 4
ADMISSION = 5
TICK = 6
LAST = 7

_SERIALS = 1 << 40
_COMPONENTS = 1 << 20
FLEET, LEAVERS, SOURCE, ENTRY, ARRIVALS, LINKS, LOADED, LOADS, PATIENCE = range(
    _COMPONENTS - 15, _COMPONENTS - 6
)
HANDOVER, SCRAPE, HELD, CONTROL, REBALANCE, GAUGES = range(_COMPONENTS - 6, _COMPONENTS)
"""The components that are not workers; a worker's number is its component, however many start."""


class _Wake(Event):
    """An event that has succeeded from birth: put into the queue it only waits for its time."""

    _ok = True
    _value = None
    callbacks: list[Callable[[Event], None]] | None = None  # type: ignore[assignment]

    def __init__(self) -> None:
        pass  # what simpy would note of it is not asked for


class Clock:
    """The simulation's time and whose turn it is.

    ``turn`` encodes priority and component of the event being processed, so that a component can
    tell whether a boundary of its own at this very instant lies before or after it. Simulations
    that share one time have a clock each, :meth:`beside` each other; what one does to another, it
    does in an event of the other's. ``owner`` names whose simulation it is where there are several.
    """

    __slots__ = ("_place", "env", "owner", "turn")

    def __init__(self) -> None:
        self.env = Environment()
        self.turn = 0
        self.owner = ""
        self._place = 0

    def beside(self, place: int) -> "Clock":
        """Return the clock of simulation number ``place``, at least 1, in this one's time.

        Of events of one priority at one instant, those of lower places come first.
        """
        other = Clock()
        other.env, other._place = self.env, place
        return other

    @property
    def first_rank(self) -> int:
        """The rank among ties below all those of its components."""
        return self._place * _COMPONENTS * _SERIALS

    @property
    def now(self) -> float:
        """Simulated seconds since the start."""
        return self.env._now

    @property
    def pending(self) -> int:
        """How many entries wait in the queue."""
        return len(self.env._queue)

    def at_last(self, when: float, act: Callable[[], object]) -> None:
        """Call ``act`` at ``when`` (absolute seconds), after everything else of that instant."""

        def ring(_: Event) -> None:
            self.turn = turn_of(LAST, 0)
            act()

        event = _Wake()
        event.callbacks = [ring]
        heappush(self.env._queue, (when, LAST, self.first_rank, event))  # type: ignore[misc]

    def run(self, until: Event) -> None:
        """Process events until ``until`` has happened.

        The same as ``env.run(until)``, without its per-event bookkeeping for failed events: a
        failed process raises here at once.
        """
        env, queue = self.env, self.env._queue
        while until.callbacks is not None:
            env._now, _, _, event = heappop(queue)
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
            if not event._ok:
                raise event.value  # type: ignore[misc]


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause cyclic garbage collection.

    The components make no cycles, and it would scan every column and worker again and again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def turn_of(priority: int, component: int) -> int:
    """Return where events of ``component`` with ``priority`` stand among ties."""
    return priority * _COMPONENTS + component


class Alarm:
    """The one pending wake-up of one component; setting it again replaces it.

    ``turn`` is where the wake-up last set stands among ties; it goes on the clock when it rings.
    """

    __slots__ = ("_event", "_queue", "_rank", "_rings", "_turns", "clock", "turn")

    def __init__(self, clock: Clock, component: int) -> None:
        self.clock = clock
        self._queue = clock.env._queue
        self._rank = clock.first_rank + (component + 1) * _SERIALS  # simpy's own are below
        self._turns = [turn_of(priority, component) for priority in range(TICK + 1)]
        self._rings: list[Callable[[Event], None]] = []
        self._event = _Wake()  # has callbacks as long as it waits to ring
        self.turn = 0

    def wakes(self, wake: Callable[[float], None]) -> None:
        """Have a component do what is due, given the time, whenever it rings: its whole life."""
        clock, env = self.clock, self.clock.env
        if clock.owner:
            wake = settings_of(clock.owner)(wake)

        def ring(_: Event) -> None:
            clock.turn = self.turn
            wake(env._now)

        self._rings.append(ring)

    def set(self, when: float, priority: int) -> None:
        """Wake the component at ``when`` (absolute seconds, not in the past), and only then."""
        if self._event.callbacks is not None:
            self.cancel()
        self._event.callbacks = self._rings
        self.turn = self._turns[priority]
        self._rank += 1
        heappush(self._queue, (when, priority, self._rank, self._event))  # type: ignore[misc]

    def cancel(self) -> None:
        """Let the component sleep on, whatever it was set to."""
        if self._event.callbacks is not None:
            self._event.callbacks = []  # this one stays in simpy's queue, and wakes nobody
            self._event = _Wake()
