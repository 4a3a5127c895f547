"""KV transfers between workers: ports, flows, deliveries, and ports that serve one flow at a time.

:mod:`simulator.cluster.links.sharing` has the ports that serve many at once.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, NamedTuple, Protocol

from simulator.cluster.clock import ARRIVALS, LINKS, TRANSFER_END, Alarm, Clock
from simulator.errors import ConfigError

if TYPE_CHECKING:
    from simulator.cluster.links.sharing import Bundle

ENDLESS = float("inf")


@dataclass(slots=True, eq=False)
class Port:
    """One direction of one worker's attachment to a link; ``bandwidth`` in bytes/s.

    Serving one flow at a time it is ``busy`` or not, and flows wait in the order they came, by
    their other port. Shared, it carries ``flows`` flows in bundles that go to the same other port,
    and grants each at most ``level`` bytes/s (endless while it has room for what all of them take).
    """

    bandwidth: float
    busy: bool = False
    waiting: "dict[Port, deque[tuple[int, Flow]]]" = field(default_factory=dict)
    flows: int = 0
    level: float = ENDLESS
    stale: bool = False
    bundles: "dict[Bundle, Port]" = field(default_factory=dict)
    pairs: "dict[tuple[Port, float], Bundle]" = field(default_factory=dict)


class Flow(NamedTuple):
    """One request's KV on its way: ``size`` bytes from ``egress`` to ``ingress``.

    It goes no faster than ``cap`` bytes/s and arrives ``latency`` seconds after its last byte left.
    A layer-wise flow is submitted while its prefill still runs: all but the ``tail`` bytes of the
    last layer come into being at an even pace until ``produced_at``, and the tail at that moment.
    Of its bytes ``payload`` are distinct; the others are copies.
    """

    request: int
    egress: Port
    ingress: Port
    size: float
    latency: float
    cap: float = ENDLESS
    produced_at: float = 0.0
    tail: float = 0.0
    payload: float = 0.0

    @property
    def fastest(self) -> float:
        """The bytes/s at which it goes alone."""
        return min(self.egress.bandwidth, self.ingress.bandwidth, self.cap)


class Links(Protocol):
    """Something that carries flows, one way of sharing each."""

    def submit(self, flow: Flow) -> None:
        """Take a flow now."""
        ...

    def cancel(self, flow: Flow) -> object:
        """Forget a flow that was taken and is not delivered yet."""
        ...

    def set_bandwidth(self, port: Port, bandwidth: float) -> None:
        """Let a port carry so many bytes/s from now on."""
        ...


Deliver = Callable[[int, float], None]
"""Takes a request and the instant at which its first byte leaves, or its last one arrives."""


class Arrivals:
    """Delivers at given times, in the order of time and request: one alarm for all links.

    ``component`` is its place among ties.
    """

    __slots__ = ("_deliver", "_heap", "alarm")

    def __init__(self, clock: Clock, deliver: Deliver, component: int = ARRIVALS) -> None:
        self._deliver = deliver
        self._heap: list[tuple[float, int]] = []
        self.alarm = Alarm(clock, component)

    def at(self, when: float, request: int) -> None:
        """Deliver ``request`` at ``when``."""
        heap = self._heap
        heappush(heap, (when, request))
        if heap[0] == (when, request):
            self.alarm.set(when, TRANSFER_END)

    def cancel(self, request: int) -> None:
        """Do not deliver ``request`` after all."""
        self._heap[:] = [each for each in self._heap if each[1] != request]
        heapify(self._heap)

    def wake(self, now: float) -> None:
        """Hand over everything that has arrived."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            self._deliver(heappop(heap)[1], now)
        if heap:
            self.alarm.set(heap[0][0], TRANSFER_END)


class FifoLinks:
    """Each port serves one transfer at a time; whoever came first and finds both ports free goes.

    A transfer holds both its ports for its wire time; the path's latency then passes without
    occupying them. While it waits for one port the other may idle: a convoy behind a long transfer
    reaches every worker it comes from. A layer-wise transfer is one burst, which joins the queue
    when it can run through without waiting for its last layer.
    """

    def __init__(self, clock: Clock, arrivals: Arrivals, started: Deliver) -> None:
        self._clock = clock
        self._arrivals = arrivals
        self._started = started
        self._order = 0
        self._events: list[tuple[float, bool, int, Flow]] = []  # wire ends before new entries
        self.alarm = Alarm(clock, LINKS)

    def submit(self, flow: Flow) -> None:
        """Queue the flow, a layer-wise one as soon as its burst can run through."""
        now = self._clock.now
        fastest = flow.fastest
        ready = flow.produced_at + flow.tail / fastest - flow.size / fastest
        if flow.produced_at > now and ready > now:
            self._note(ready, flow, entering=True)
        else:
            self._enter(flow, now)

    def cancel(self, flow: Flow) -> None:
        """Forget a flow; if it was on the wire, others may have its ports now."""
        now = self._clock.now
        noted = [each for each in self._events if each[3] is flow]
        if noted and not noted[0][1]:
            flow.egress.busy = flow.ingress.busy = False
        self._events[:] = [each for each in self._events if each[3] is not flow]
        heapify(self._events)
        for port, other in ((flow.egress, flow.ingress), (flow.ingress, flow.egress)):
            queue = port.waiting.pop(other, deque())
            kept = deque(each for each in queue if each[1] is not flow)
            if kept:
                port.waiting[other] = kept
        self._arrivals.cancel(flow.request)
        self._serve([flow.egress, flow.ingress], now)

    def set_bandwidth(self, port: Port, bandwidth: float) -> None:
        """Let a port carry so many bytes/s, from the next transfer on."""
        if bandwidth <= 0:
            raise ConfigError(
                "transfer: sharing fifo cannot have a link cut (bandwidth 0): a transfer that has "
                "begun would hold its ports for ever; choose max_min"
            )
        port.bandwidth = bandwidth

    def _note(self, when: float, flow: Flow, *, entering: bool) -> None:
        events = self._events
        heappush(events, (when, entering, flow.request, flow))
        if events[0][3] is flow:
            self.alarm.set(when, TRANSFER_END)

    def _enter(self, flow: Flow, now: float) -> None:
        if not (flow.egress.busy or flow.ingress.busy):
            self._start(flow, now)
            return
        self._order += 1
        for port, other in ((flow.egress, flow.ingress), (flow.ingress, flow.egress)):
            port.waiting.setdefault(other, deque()).append((self._order, flow))

    def _start(self, flow: Flow, now: float) -> None:
        flow.egress.busy = flow.ingress.busy = True
        self._started(flow.request, now)
        self._note(now + flow.size / flow.fastest, flow, entering=False)

    def wake(self, now: float) -> None:
        """Free the ports of what is through, start who waited for them, let in who may enter."""
        events = self._events
        freed: list[Port] = []
        while events and events[0][0] <= now and not events[0][1]:
            flow = heappop(events)[3]
            flow.egress.busy = flow.ingress.busy = False
            freed += (flow.egress, flow.ingress)
            self._arrivals.at(now + flow.latency, flow.request)
        self._serve(freed, now)
        while events and events[0][0] <= now and events[0][1]:
            self._enter(heappop(events)[3], now)
        if events:
            self.alarm.set(max(events[0][0], now), TRANSFER_END)

    def _serve(self, freed: list[Port], now: float) -> None:
        """Start, first come first served, who waits at a freed port for no other one."""
        while freed:
            freed = [port for port in freed if not port.busy and port.waiting]
            heads = [
                queue[0]
                for port in freed
                for other, queue in port.waiting.items()
                if not other.busy
            ]
            if not heads:
                return
            _, flow = min(heads, key=lambda head: head[0])
            self._leave(flow.egress, flow.ingress)
            self._leave(flow.ingress, flow.egress)
            self._start(flow, now)

    @staticmethod
    def _leave(port: Port, other: Port) -> None:
        queue = port.waiting[other]
        queue.popleft()
        if not queue:
            del port.waiting[other]
