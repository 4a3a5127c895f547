"""Ports that all their transfers use at once, and the rates these then have.

A flow's rate is the smallest of what its two ports grant it and of its cap. Under max-min fairness
a port that is full grants the one level at which the rates of its flows sum to its bandwidth; a
port with room to spare limits nobody. Levels depend on each other only through flows, so a change
spreads from the two ports where a flow came or went, and ends where no rate changes.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from simulator.cluster.clock import LINKS, TRANSFER_END, Alarm, Clock
from simulator.cluster.links.transfers import ENDLESS, Arrivals, Deliver, Flow, Port

ABOVE = 1 + 1e-13
"""A rate that changes by a smaller factor than this has not changed, but for rounding."""

MOST_PAIRS = 32
"""Bundles that a port keeps for its next flows to the same ports; others are let go when empty."""

Fill = Callable[[Port], float]
"""Returns the bytes/s a port grants each of its flows at most, given what their other ends do."""


class Bundle:
    """Flows between the same two ports with one ``cap``, which hence have one rate.

    Each of them has been ``served`` so many bytes since the bundle was last empty; a flow that came
    when that was s ends when it is s + its size, its mark. ``share`` is the rate being settled,
    ``rate`` the one in force since ``since``, and ``due`` when the next mark is reached.
    """

    __slots__ = (
        "cap",
        "due",
        "egress",
        "flows",
        "ingress",
        "marks",
        "number",
        "rate",
        "served",
        "share",
        "since",
    )

    def __init__(self, flow: Flow, number: int) -> None:
        self.egress = flow.egress
        self.ingress = flow.ingress
        self.number = number
        self.cap = flow.cap
        self.flows = 0
        self.marks: list[tuple[float, int, float]] = []  # heap of (mark, request, latency)
        self.served = self.rate = self.share = self.since = 0.0
        self.due = ENDLESS

    def advance(self, now: float) -> None:
        """Count what was served until now."""
        self.served += self.rate * (now - self.since)
        self.since = now

    def next_change(self, now: float) -> float:
        """Take the settled share as the rate from now on and return when it serves its purpose."""
        self.advance(now)
        self.rate = self.share
        left = self.marks[0][0] - self.served
        if left <= 0:
            return now
        return now + left / self.rate if self.rate > 0 else ENDLESS

    def drop(self, request: int) -> float:
        """Take one flow out that has not reached its mark; return what it lacks."""
        left = next((mark - self.served for mark, own, _ in self.marks if own == request), 0.0)
        self.marks = [mark for mark in self.marks if mark[1] != request]
        heapify(self.marks)
        return max(0.0, left)

    def carries(self, request: int) -> bool:
        """Tell whether ``request`` is one of its flows."""
        return any(mark[1] == request for mark in self.marks)


class Production(Bundle):
    """One flow whose prefill still runs: it has been sent ``served`` bytes of those there are.

    As long as it keeps up it goes at most at the ``pace`` at which bytes come into being; once it
    has fallen behind it may go as fast as any, until all there is has been sent.
    """

    __slots__ = ("begun", "flow", "keeps_up", "pace")

    def __init__(self, flow: Flow, number: int, now: float) -> None:
        super().__init__(flow, number)
        self.flow = flow
        self.begun = self.since = now
        self.pace = (flow.size - flow.tail) / (flow.produced_at - now)
        self.keeps_up = True
        self.cap = min(self.pace, flow.cap)

    def carries(self, request: int) -> bool:
        """Tell whether ``request`` is its flow."""
        return self.flow.request == request

    def drop(self, request: int) -> float:  # noqa: ARG002 - it is the only one
        """Return what the flow lacks."""
        return self.flow.size - self.served

    def catch_up(self, now: float) -> None:
        """Find that everything there is has been sent."""
        self.served = self.pace * (now - self.begun)
        self.keeps_up = True
        self.cap = min(self.pace, self.flow.cap)

    def advance(self, now: float) -> None:
        """Count what was sent until now; who keeps up has sent all there is."""
        super().advance(now)
        if self.keeps_up:
            self.served = self.pace * (now - self.begun)

    def next_change(self, now: float) -> float:
        """Return when the prompt is computed, or before that when everything there is sent."""
        self.advance(now)
        self.rate = self.share
        end = self.flow.produced_at
        if self.rate < self.pace:
            self.keeps_up, self.cap = False, self.flow.cap
        elif self.rate > self.pace:
            there = max(0.0, self.pace * (now - self.begun) - self.served)
            end = min(end, now + there / (self.rate - self.pace))
        return end


def even_split(port: Port) -> float:
    """Return the same part of the port for each of its flows, whether they can use it or not."""
    return port.bandwidth / port.flows if port.flows else ENDLESS


def water_level(port: Port) -> float:
    """Return the rate at which the port's flows fill it, endless if their other limits leave room.

    Flows limited below that level elsewhere keep their rates (Bertsekas and Gallager, *Data
    Networks*, section 6.5.2, seen from one link).
    """
    room, flows, bundles = port.bandwidth, port.flows, port.bundles
    if len(bundles) == 1:
        for bundle, other in bundles.items():
            limit = other.level if other.level < bundle.cap else bundle.cap
            return room / flows if limit * flows >= room else ENDLESS
    limits = [
        (other.level if other.level < bundle.cap else bundle.cap, bundle.flows)
        for bundle, other in bundles.items()
    ]
    limits.sort()
    for limit, count in limits:
        if limit * flows >= room:
            return room / flows
        room -= limit * count
        flows -= count
    return ENDLESS


class SharedLinks:
    """All transfers of a port proceed at once; ``fill`` says what a port grants them.

    Rates are settled anew whenever a transfer starts, ends, or meets or leaves its production. The
    ports of a change are filled, then every port whose flows' rates changed, until none does.
    Rounds end: once all ports have been filled, the lowest level is right and stays, then the next.
    ``component`` is their place among ties.
    """

    def __init__(
        self,
        clock: Clock,
        arrivals: Arrivals,
        fill: Fill,
        started: Deliver,
        component: int = LINKS,
    ) -> None:
        self._clock = clock
        self._arrivals = arrivals
        self._fill = fill
        self._evenly = fill is even_split
        self._started = started
        self._made = 0
        self._changes: list[tuple[float, int, Bundle]] = []  # heap; those no longer due are stale
        self._armed = ENDLESS
        self.alarm = Alarm(clock, component)

    def submit(self, flow: Flow) -> None:
        """Start the flow now, beside those that are under way."""
        now, egress, ingress = self._clock.now, flow.egress, flow.ingress
        if flow.produced_at > now:
            self._made += 1
            bundle: Bundle = Production(flow, self._made, now)
            _attach(bundle)
        else:
            bundle = self._join(flow, flow.size, now)
        if egress.flows == ingress.flows == 1 and flow.produced_at <= now:
            self._go_alone(bundle, now)
        else:
            self._settle(now, [egress, ingress], {bundle: None})
            self._arm()
        self._started(flow.request, now)

    def _go_alone(self, bundle: Bundle, now: float) -> None:
        """Put in force what :meth:`_settle` would find for the only flow of two ports."""
        egress, ingress = bundle.egress, bundle.ingress
        bundle.share = rate = min(egress.bandwidth, ingress.bandwidth, bundle.cap)
        for port in (egress, ingress):
            full = port.bandwidth == rate or self._evenly
            port.level = port.bandwidth if full else ENDLESS
        bundle.due = due = bundle.next_change(now)
        if due != ENDLESS:
            heappush(self._changes, (due, bundle.number, bundle))
            if due < self._armed:
                self._armed = due
                self.alarm.set(due, TRANSFER_END)

    def cancel(self, flow: Flow) -> float:
        """Forget a flow; the others have its share from now on.

        Returns:
            How many of its bytes have not crossed.
        """
        now, request = self._clock.now, flow.request
        bundle = next((each for each in flow.egress.bundles if each.carries(request)), None)
        if bundle is None:
            self._arrivals.cancel(request)
            return 0.0
        bundle.advance(now)
        left = bundle.drop(request)
        _detach(bundle)
        self._settle(now, [flow.egress, flow.ingress], {bundle: None})
        self._arm()
        return left

    def set_bandwidth(self, port: Port, bandwidth: float) -> None:
        """Let a port carry so many bytes/s from now on, also of what is under way."""
        port.bandwidth = bandwidth
        self._settle(self._clock.now, [port], dict.fromkeys(port.bundles))
        self._arm()

    def _join(self, flow: Flow, left: float, now: float) -> Bundle:
        """Add a flow with ``left`` bytes to go to the bundle of its two ports."""
        port, alike = flow.egress, (flow.ingress, flow.cap)
        bundle = port.pairs.get(alike)
        if bundle is None:
            if len(port.pairs) >= MOST_PAIRS:
                port.pairs = {pair: each for pair, each in port.pairs.items() if each.flows}
            self._made += 1
            bundle = port.pairs[alike] = Bundle(flow, self._made)
        if not bundle.flows:
            bundle.served, bundle.since = 0.0, now
        else:
            bundle.advance(now)
        _attach(bundle)
        heappush(bundle.marks, (bundle.served + left, flow.request, flow.latency))
        return bundle

    def _settle(self, now: float, stale: list[Port], touched: dict[Bundle, None]) -> None:
        """Fill ``stale`` ports, and every port this changes, then put the new rates in force."""
        fill = self._fill
        for port in stale:
            port.stale = True
        for port in stale:  # which grows meanwhile
            port.stale = False
            port.level = level = fill(port)
            for bundle, other in port.bundles.items():
                share = other.level if other.level < level else level
                if share > bundle.cap:
                    share = bundle.cap
                before = bundle.share
                if share == before:
                    continue
                touched[bundle] = None
                bundle.share = share
                rises = before * ABOVE < share
                # A port with room to spare keeps it when a flow takes less.
                falls = share * ABOVE < before and other.level != ENDLESS
                if (rises or falls) and not other.stale:
                    other.stale = True
                    stale.append(other)
        changes = self._changes
        for bundle in touched:
            if bundle.flows:
                bundle.due = due = bundle.next_change(now)
                if due != ENDLESS:  # a link is cut
                    heappush(changes, (due, bundle.number, bundle))

    def _arm(self) -> None:
        changes = self._changes
        while changes and changes[0][0] != changes[0][2].due:
            heappop(changes)
        due = changes[0][0] if changes else ENDLESS
        if due != self._armed:
            self._armed = due
            if changes:
                self.alarm.set(due, TRANSFER_END)

    def wake(self, now: float) -> None:
        """End the flows that are through, and re-rate all whose limits changed."""
        self._armed = ENDLESS
        changes = self._changes
        stale: dict[Port, None] = {}
        touched: dict[Bundle, None] = {}
        while changes and changes[0][0] <= now:
            due, _, bundle = heappop(changes)
            if due == bundle.due:
                bundle.due = ENDLESS  # an older entry may name the same instant
                touched[self._change(bundle, now)] = None
                for port in (bundle.egress, bundle.ingress):
                    if port.flows:
                        stale[port] = None
                    else:
                        port.level = ENDLESS
        if stale:
            self._settle(now, list(stale), touched)
        self._arm()

    def _change(self, bundle: Bundle, now: float) -> Bundle:
        """Do what is due for a bundle; return the one that now has the flows in question."""
        if not isinstance(bundle, Production):
            self._end(bundle, now)
            return bundle
        bundle.advance(now)
        if now < bundle.flow.produced_at:
            bundle.catch_up(now)
            return bundle
        _detach(bundle)
        flow = bundle.flow
        return self._join(flow, flow.size - min(bundle.served, flow.size - flow.tail), now)

    def _end(self, bundle: Bundle, now: float) -> None:
        """Hand over the flows that have reached their marks."""
        marks = bundle.marks
        bundle.served, bundle.since = marks[0][0], now
        while marks and marks[0][0] <= bundle.served:
            _, request, latency = heappop(marks)
            _detach(bundle)
            self._arrivals.at(now + latency, request)


def _attach(bundle: Bundle) -> None:
    """Count one more flow of a bundle at both its ports."""
    bundle.flows += 1
    egress, ingress = bundle.egress, bundle.ingress
    egress.flows += 1
    ingress.flows += 1
    if bundle.flows == 1:
        egress.bundles[bundle] = ingress
        ingress.bundles[bundle] = egress


def _detach(bundle: Bundle) -> None:
    """Count one flow less of a bundle at both its ports."""
    bundle.flows -= 1
    egress, ingress = bundle.egress, bundle.ingress
    egress.flows -= 1
    ingress.flows -= 1
    if not bundle.flows:
        del egress.bundles[bundle], ingress.bundles[bundle]
        bundle.rate = bundle.share = 0.0
        bundle.due = ENDLESS
