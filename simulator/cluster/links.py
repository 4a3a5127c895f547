"""KV transfers between workers: ports, and how simultaneous transfers share them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

from simulator.cluster.clock import ARRIVALS, LINKS, TRANSFER_END, Alarm, Clock


@dataclass(slots=True, eq=False)
class Port:
    """One direction of one worker's attachment to a link; ``bandwidth`` in bytes/s."""

    bandwidth: float
    free_at: float = 0.0
    flows: "dict[int, Flow]" = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Flow:
    """One request's KV on its way: ``size`` bytes from ``egress`` to ``ingress``.

    While its prefill still runs (until ``produced_at``) a layer-wise flow cannot send more than
    has been produced; the ``tail`` bytes of the last layer exist only then. Where ports are
    shared, ``left`` bytes remained at time ``since``, and flow at ``rate`` from then on.
    """

    request: int
    egress: Port
    ingress: Port
    size: float
    latency: float
    produced_at: float = 0.0
    tail: float = 0.0
    rate: float = field(init=False)
    left: float = field(init=False)
    since: float = field(init=False)
    version: int = field(init=False)


class Links(Protocol):
    """Something that carries flows, one way of sharing each."""

    def submit(self, flow: Flow) -> float:
        """Take a flow now; return when its first byte leaves."""
        ...


Deliver = Callable[[int, float], None]


class Arrivals:
    """Delivers at given times, in the order of time and request: one process for all links."""

    __slots__ = ("_deliver", "_heap", "alarm")

    def __init__(self, clock: Clock, deliver: Deliver) -> None:
        self._deliver = deliver
        self._heap: list[tuple[float, int]] = []
        self.alarm = Alarm(clock, ARRIVALS)

    def at(self, when: float, request: int) -> None:
        """Deliver ``request`` at ``when``."""
        heap = self._heap
        heappush(heap, (when, request))
        if heap[0][1] == request:
            self.alarm.set(when, TRANSFER_END)

    def wake(self, now: float) -> None:
        """Hand over everything that has arrived."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            self._deliver(heappop(heap)[1], now)
        if heap:
            self.alarm.set(heap[0][0], TRANSFER_END)


class FifoLinks:
    """Each port serves one transfer at a time, in the order of submission.

    A transfer holds both its ports for its wire time; the path's latency then passes without
    occupying them. As nothing overtakes, a transfer's times are known when it is submitted. A
    layer-wise transfer is one burst, timed to end no sooner than its last layer can.
    """

    def __init__(self, clock: Clock, arrivals: Arrivals) -> None:
        self._clock = clock
        self._arrivals = arrivals

    def submit(self, flow: Flow) -> float:
        """Book both ports and return when the first byte leaves."""
        egress, ingress = flow.egress, flow.ingress
        wire = flow.size / min(egress.bandwidth, ingress.bandwidth)
        start = max(self._clock.now, egress.free_at, ingress.free_at)
        if flow.produced_at > start:
            tail = flow.tail / min(egress.bandwidth, ingress.bandwidth)
            start = max(start, flow.produced_at + tail - wire)
        end = start + wire
        egress.free_at = ingress.free_at = end
        self._arrivals.at(end + flow.latency, flow.request)
        return start


Rates = Callable[[list[Flow], dict[int, float]], None]


def equal_shares(flows: list[Flow], caps: dict[int, float]) -> None:
    """Give each flow the smaller of its two ports' even shares (and its cap)."""
    for flow in flows:
        egress, ingress = flow.egress, flow.ingress
        share = min(egress.bandwidth / len(egress.flows), ingress.bandwidth / len(ingress.flows))
        flow.rate = min(share, caps.get(flow.request, share))


def max_min_shares(flows: list[Flow], caps: dict[int, float]) -> None:
    """Give the flows their max-min fair rates: fill all evenly, freeze what saturates, repeat.

    Progressive filling (Bertsekas and Gallager, *Data Networks*, section 6.5.2).
    """
    room = {id(port): port.bandwidth for flow in flows for port in (flow.egress, flow.ingress)}
    active = {flow.request: flow for flow in flows}
    level = dict.fromkeys(active, 0.0)
    while active:
        users: dict[int, int] = {}
        for flow in active.values():
            for end in (flow.egress, flow.ingress):
                users[id(end)] = users.get(id(end), 0) + 1
        rise = min(room[port] / count for port, count in users.items())
        rise = min([rise, *(caps[r] - level[r] for r in active if r in caps)])
        tight = {port for port, count in users.items() if room[port] <= rise * count * (1 + 1e-12)}
        for request in active:
            level[request] += rise
        for port, count in users.items():
            room[port] -= rise * count
        for request, flow in list(active.items()):
            capped = request in caps and level[request] >= caps[request] * (1 - 1e-12)
            if capped or id(flow.egress) in tight or id(flow.ingress) in tight:
                flow.rate = level[request]
                del active[request]


class SharedLinks:
    """All transfers of a port proceed at once; rates change whenever one starts or ends.

    ``shares`` is the sharing rule; with ``local`` only flows that meet at a port are re-rated,
    which suffices where a flow's rate depends on its own ports alone.
    """

    def __init__(self, clock: Clock, arrivals: Arrivals, shares: Rates) -> None:
        self._clock = clock
        self._arrivals = arrivals
        self._shares = shares
        self._local = shares is equal_shares
        self._flows: dict[int, Flow] = {}
        self._changes: list[tuple[float, int, int]] = []
        self.alarm = Alarm(clock, LINKS)

    def submit(self, flow: Flow) -> float:
        """Start the flow now, beside those that are under way; return now."""
        now = self._clock.now
        flow.left, flow.since, flow.rate, flow.version = flow.size, now, 0.0, 0
        for port in (flow.egress, flow.ingress):
            port.flows[flow.request] = flow
        self._flows[flow.request] = flow
        self._rerate(now, self._touched(flow))
        return now

    def _touched(self, flow: Flow) -> list[Flow]:
        if self._local:
            return list((flow.egress.flows | flow.ingress.flows).values())
        return list(self._flows.values())

    def _rerate(self, now: float, flows: list[Flow]) -> None:
        for flow in flows:
            flow.left = max(0.0, flow.left - flow.rate * (now - flow.since))
            flow.since = now
        self._shares(flows, self._production_caps(now, flows))
        for flow in flows:
            flow.version += 1
            heappush(self._changes, (self._next_change(now, flow), flow.request, flow.version))
        self._arm()

    @staticmethod
    def _production_caps(now: float, flows: list[Flow]) -> dict[int, float]:
        """Cap flows in production so that they reach their last layer as it is computed."""
        return {
            flow.request: max(0.0, flow.left - flow.tail) / (flow.produced_at - now)
            for flow in flows
            if flow.produced_at > now
        }

    @staticmethod
    def _next_change(now: float, flow: Flow) -> float:
        end = now + flow.left / flow.rate if flow.rate > 0 else float("inf")
        return min(end, flow.produced_at) if flow.produced_at > now else end

    def _arm(self) -> None:
        changes = self._changes
        while changes and not self._current(changes[0]):
            heappop(changes)
        if changes:
            self.alarm.set(max(changes[0][0], self._clock.now), TRANSFER_END)

    def _current(self, change: tuple[float, int, int]) -> bool:
        flow = self._flows.get(change[1])
        return flow is not None and flow.version == change[2]

    def wake(self, now: float) -> None:
        """End the flows that are through and re-rate those whose limits changed."""
        changes = self._changes
        while changes and changes[0][0] <= now:
            change = heappop(changes)
            if self._current(change):
                self._change(now, self._flows[change[1]])
        self._arm()

    def _change(self, now: float, flow: Flow) -> None:
        if flow.produced_at >= now and flow.tail > 0:
            flow.produced_at = 0.0
            self._rerate(now, self._touched(flow))
            return
        touched = [other for other in self._touched(flow) if other is not flow]
        del self._flows[flow.request], flow.egress.flows[flow.request]
        del flow.ingress.flows[flow.request]
        self._arrivals.at(now + flow.latency, flow.request)
        self._rerate(now, touched)
