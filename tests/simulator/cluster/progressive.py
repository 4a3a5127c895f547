"""Transfers the slow, obvious way: every flow by itself, every rate anew at every event.

It shares no arithmetic with the links of the engine: rates come from progressive filling over all
flows at once, first-come-first-served from walking the whole queue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.cluster.clock import ARRIVAL, SOURCE, Alarm, Clock
from simulator.cluster.links.sharing import SharedLinks, even_split, water_level
from simulator.cluster.links.transfers import Arrivals, FifoLinks, Flow, Port

NEVER = float("inf")


@dataclass(frozen=True)
class Job:
    """One transfer: when it is submitted, between which ports (by number), bytes, production.

    ``produced_in`` seconds after its submission the last ``tail`` bytes come into being. It never
    goes faster than ``cap``.
    """

    at: float
    egress: int
    ingress: int
    size: float
    produced_in: float = 0.0
    tail: float = 0.0
    cap: float = NEVER


@dataclass(frozen=True)
class Plant:
    """The bandwidths of all ports."""

    egress: Sequence[float]
    ingress: Sequence[float]


class Live:
    """The engine's links under a list of jobs; ``look`` is called after every event."""

    def __init__(self, plant: Plant, jobs: Sequence[Job], sharing: str) -> None:
        self.clock = Clock()
        self.sources = [Port(width) for width in plant.egress]
        self.sinks = [Port(width) for width in plant.ingress]
        self.jobs = jobs
        self.starts = [NEVER] * len(jobs)
        self.ends = [NEVER] * len(jobs)
        arrivals = Arrivals(self.clock, self.ends.__setitem__)
        started = self.starts.__setitem__
        fill = water_level if sharing == "max_min" else even_split
        self.links: FifoLinks | SharedLinks = (
            FifoLinks(self.clock, arrivals, started)
            if sharing == "fifo"
            else SharedLinks(self.clock, arrivals, fill, started)
        )
        self.alarm = Alarm(self.clock, SOURCE)
        for alarm, wake in (
            (arrivals.alarm, arrivals.wake),
            (self.links.alarm, self.links.wake),
            (self.alarm, self.submit),
        ):
            alarm.wakes(wake)
        self.order = sorted(range(len(jobs)), key=lambda at: jobs[at].at)
        self.alarm.set(jobs[self.order[0]].at, ARRIVAL)

    def submit(self, now: float) -> None:
        """Submit what is due."""
        while self.order and self.jobs[self.order[0]].at <= now:
            at = self.order.pop(0)
            job = self.jobs[at]
            produced = now + job.produced_in if job.produced_in else 0.0
            ends = self.sources[job.egress], self.sinks[job.ingress]
            self.links.submit(Flow(at, *ends, job.size, 0.0, job.cap, produced, job.tail))
        if self.order:
            self.alarm.set(self.jobs[self.order[0]].at, ARRIVAL)

    def run(self, look: Callable[["Live"], None] | None = None) -> None:
        """Process everything there is."""
        while self.clock.pending:
            self.clock.env.step()
            if look:
                look(self)


@dataclass
class _Flow:
    at: int
    job: Job
    left: float
    begun: float
    caught_up: bool = True
    rate: float = 0.0

    @property
    def produced_at(self) -> float:
        return self.begun + self.job.produced_in

    def producing(self, now: float) -> bool:
        return bool(self.job.produced_in) and now < self.produced_at

    @property
    def pace(self) -> float:
        return (self.job.size - self.job.tail) / self.job.produced_in

    def limit(self, now: float) -> float:
        """Return the most it may have whatever its ports are."""
        slow = self.producing(now) and self.caught_up
        return min(self.job.cap, self.pace) if slow else self.job.cap

    def backlog(self, now: float) -> float:
        return self.pace * (now - self.begun) - (self.job.size - self.left)


def fill_progressively(flows: list[_Flow], plant: Plant, now: float) -> None:
    """Raise all rates together; freeze a flow at its cap or when one of its ports is full."""
    room = {("e", i): width for i, width in enumerate(plant.egress)}
    room |= {("i", i): width for i, width in enumerate(plant.ingress)}
    for flow in flows:
        flow.rate = 0.0
    rising = list(flows)
    while rising:
        users: dict[tuple[str, int], int] = {}
        for flow in rising:
            for port in (("e", flow.job.egress), ("i", flow.job.ingress)):
                users[port] = users.get(port, 0) + 1
        step = min(room[port] / count for port, count in users.items())
        step = min([step, *(flow.limit(now) - flow.rate for flow in rising)])
        for flow in rising:
            flow.rate += step
        full = {p for p, count in users.items() if room[p] - step * count <= 1e-12 * room[p]}
        for port, count in users.items():
            room[port] -= step * count
        rising = [
            flow
            for flow in rising
            if ("e", flow.job.egress) not in full
            and ("i", flow.job.ingress) not in full
            and flow.rate < flow.limit(now) * (1 - 1e-12)
        ]


def split_evenly(flows: list[_Flow], plant: Plant, now: float) -> None:
    """Give each flow the smaller of its even shares of both ports, or its cap."""
    for flow in flows:
        out = sum(other.job.egress == flow.job.egress for other in flows)
        into = sum(other.job.ingress == flow.job.ingress for other in flows)
        even = min(plant.egress[flow.job.egress] / out, plant.ingress[flow.job.ingress] / into)
        flow.rate = min(even, flow.limit(now))


def shared_ends(plant: Plant, jobs: Sequence[Job], sharing: str) -> list[float]:
    """Return when each job ends where ports are shared."""
    rule = fill_progressively if sharing == "max_min" else split_evenly
    ends = [NEVER] * len(jobs)
    coming = sorted(range(len(jobs)), key=lambda at: jobs[at].at)
    flows: list[_Flow] = []
    now = 0.0
    while coming or flows:
        rule(flows, plant, now)
        then = min([jobs[at].at for at in coming[:1]] + [_next_change(f, now) for f in flows])
        for flow in flows:
            flow.left -= flow.rate * (then - now)
            if flow.producing(then) and flow.backlog(then) <= 1e-12 * flow.job.size:
                flow.caught_up = True
            elif not flow.producing(then) and flow.left <= 1e-12 * flow.job.size:
                ends[flow.at] = then
        now = then
        flows = [flow for flow in flows if ends[flow.at] == NEVER]
        while coming and jobs[coming[0]].at <= now:
            at = coming.pop(0)
            flows.append(_Flow(at, jobs[at], jobs[at].size, now))
    return ends


def _next_change(flow: _Flow, now: float) -> float:
    """Return when a flow ends, is produced or has caught up; note if it falls behind."""
    if not flow.producing(now):
        return now + max(0.0, flow.left) / flow.rate
    if flow.rate < flow.pace * (1 - 1e-12):
        flow.caught_up = False
    elif not flow.caught_up and flow.rate > flow.pace:
        catch_up = now + max(0.0, flow.backlog(now)) / (flow.rate - flow.pace)
        return min(flow.produced_at, catch_up)
    return flow.produced_at


def fifo_times(plant: Plant, jobs: Sequence[Job]) -> tuple[list[float], list[float]]:
    """Return when each job starts and ends where a port serves one at a time."""
    starts, ends = [NEVER] * len(jobs), [NEVER] * len(jobs)
    entries = [_entry(plant, job) for job in jobs]
    coming = sorted((entry, jobs[at].at == entry, at) for at, entry in enumerate(entries))
    queue: list[int] = []
    busy: list[tuple[float, int]] = []
    while coming or queue or busy:
        now = min([entry for entry, _, _ in coming[:1]] + [end for end, _ in busy])
        busy = [each for each in busy if each[0] > now]
        for walk in ("waiting", "new"):
            if walk == "new":
                queue += [at for entry, _, at in coming if entry <= now]
                coming = [each for each in coming if each[0] > now]
            for at in list(queue):
                job = jobs[at]
                taken = [jobs[other] for _, other in busy]
                if any(t.egress == job.egress or t.ingress == job.ingress for t in taken):
                    continue
                queue.remove(at)
                starts[at] = now
                width = min(plant.egress[job.egress], plant.ingress[job.ingress], job.cap)
                ends[at] = now + job.size / width
                busy.append((ends[at], at))
    return starts, ends


def _entry(plant: Plant, job: Job) -> float:
    """Return when a job joins the queue: when its burst would not have to wait for its tail."""
    width = min(plant.egress[job.egress], plant.ingress[job.ingress], job.cap)
    ready = (job.at + job.produced_in) + job.tail / width - job.size / width
    return max(job.at, ready) if job.produced_in else job.at
