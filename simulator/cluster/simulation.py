"""One simulation: the components, wired together, from the first arrival to the last token."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulator.clients import Clients
from simulator.cluster.audit import audit
from simulator.cluster.clock import ENTRY, Clock, collection_paused
from simulator.cluster.delays import Delays
from simulator.cluster.fleet.attendant import Attendant
from simulator.cluster.fleet.changes import schedule
from simulator.cluster.fleet.controller import Controller
from simulator.cluster.fleet.crew import Crew, Means
from simulator.cluster.fleet.estate import Estate
from simulator.cluster.fleet.lives import ENDED, Fleet, Life
from simulator.cluster.fleet.observer import Observer
from simulator.cluster.ledger import Ledger
from simulator.cluster.links.sharing import SharedLinks, even_split, water_level
from simulator.cluster.links.transfers import Arrivals, Deliver, FifoLinks, Links
from simulator.cluster.moves.departures import Departures
from simulator.cluster.moves.handoff import Handoff
from simulator.cluster.moves.leavers import Leavers
from simulator.cluster.moves.migration import Migration
from simulator.cluster.moves.rebalancer import Rebalancer
from simulator.cluster.pools.beliefs import believe
from simulator.cluster.pools.router import Router
from simulator.cluster.pools.team import AnyWorker, Roster, Team
from simulator.cluster.pools.tiers import Tiers
from simulator.cluster.pools.wiring import Ways
from simulator.cluster.telemetry import Telemetry
from simulator.cluster.traffic.bypass import Bypass
from simulator.cluster.traffic.endings import Endings
from simulator.cluster.traffic.entrance import Entrance
from simulator.cluster.traffic.flipper import Flipper
from simulator.cluster.traffic.gates import Gate, Room, Scraped
from simulator.cluster.traffic.gateway import Gateway
from simulator.cluster.traffic.held import Held
from simulator.cluster.traffic.source import Sessions, Single, Source
from simulator.cluster.workers.batch import BatchWorker
from simulator.cluster.workers.gaps import pooled
from simulator.cluster.workers.lines import in_turn, key_of
from simulator.cluster.workers.prompts import PromptBlocks
from simulator.cluster.workers.worker import Listener, Load
from simulator.deployment import Deployment
from simulator.errors import ConfigError, InvariantError
from simulator.policies.admission import AdmitAll
from simulator.policies.autoscaling import Static
from simulator.policies.classes import Classes, lacking
from simulator.policies.flipping import NeverFlip
from simulator.policies.flow_control import NeverHolds
from simulator.policies.matching import RateMatched
from simulator.record import TIMES, GapHistogram, RunRecord, WorkerInfo
from workloads.sessions import Following

Column = NDArray[np.float64] | NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The requests: arrival seconds (rising), and lengths in tokens (at least 1), each (n,).

    With ``concurrency`` that many clients send them in order instead, each after its last answer.
    ``following`` says which wait for others; these have no time of their own (NaN), and clients
    then send whole sessions. ``clients`` says how long they wait for an answer, ``classes`` what
    service each request is due. Prompts have those parts in common that ``blocks`` says.
    ``sessions`` (n,) numbers the conversation of each request, -1 where there is none.

    Raises:
        ConfigError: unequal lengths, falling or negative arrivals, a length or count below 1.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    concurrency: int | None = None
    clients: Clients = field(default_factory=Clients)
    classes: Classes = field(default_factory=Classes)
    following: Following | None = None
    blocks: PromptBlocks | None = None
    sessions: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        arrival = self.arrival_s
        self._check_lengths()
        if len(arrival) == 0:
            raise ConfigError("traffic: no requests to simulate")
        if self.following is not None:
            if self.following.requests != len(arrival):
                raise ConfigError("traffic: arrival_s and following differ in length")
            arrival = arrival[self.following.firsts]
        if not (np.isfinite(arrival).all() and arrival[0] >= 0 and (np.diff(arrival) >= 0).all()):
            raise ConfigError("traffic: arrival_s must be finite, at least 0 s and never fall")
        if min(self.input_tokens.min(), self.output_tokens.min()) < 1:
            raise ConfigError("traffic: every request needs at least 1 input and 1 output token")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"traffic: concurrency must be at least 1, not {self.concurrency!r}")
        if len(self.classes.of) not in (0, len(self.arrival_s)):
            raise ConfigError(
                f"traffic: classes must be of {len(self.arrival_s)} requests, not "
                f"{len(self.classes.of)}"
            )

    def _check_lengths(self) -> None:
        size = len(self.arrival_s)
        blocks = None if self.blocks is None else self.blocks.tokens
        for name, column in (("blocks", blocks), ("sessions", self.sessions)):
            if column is not None and len(column) != size:
                raise ConfigError(f"traffic: arrival_s and {name} differ in length")
        if not size == len(self.input_tokens) == len(self.output_tokens):
            raise ConfigError("traffic: arrival_s, input_tokens and output_tokens differ in length")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run: ``seed`` of the routing stream, gauge interval and end in seconds.

    What is due after ``until_s`` does not happen any more.
    An interval of ``None`` is a thousandth of the arrivals' span, but at least 10 ms, and longer
    where that would read gauges more than twice per request (down to 50 samples).
    ``progress`` is called after each sample of the gauges with simulated seconds and requests done.
    ``leap`` bounds the iterations a decode worker takes at once; it changes no result.
    """

    seed: int = 0
    sample_interval_s: float | None = None
    until_s: float | None = None
    progress: Callable[[float, int], None] | None = None
    leap: int | None = None


class Simulation:
    """A deployment under traffic. ``run`` it to the end, or ``step`` through its events.

    With an ``estate`` it has its GPUs from there, as the service that ``clock`` is of; it is then
    begun by who shares them out. ``ticking`` says how many things tick on whatever happens.
    """

    batch_worker: type[BatchWorker] = BatchWorker

    def __init__(
        self,
        deployment: Deployment,
        traffic: Traffic,
        options: RunOptions,
        estate: Estate | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.deployment = deployment
        self.options = options
        self.ledger = Ledger(traffic.arrival_s, traffic.input_tokens, traffic.output_tokens)
        self.clock = Clock() if clock is None else clock
        self.roster = Roster()
        self.endings = Endings(self.clock, self.ledger, self.roster.batches)
        self.entries: Team[AnyWorker] = Team()
        self.decoders: Team[BatchWorker] = Team()
        _check_targets(deployment, traffic.classes)
        router, decode_router = self.routers = self._routers()
        believe(traffic.blocks, deployment, self.clock, self.routers, self.ledger.expected)
        self.ways = Ways(deployment)
        self.tiers = Tiers(deployment, self.clock, traffic.blocks)
        if router.believed is not None and self.tiers.lives:
            router.believed.memories = self.tiers.found
        self.handoff = Handoff(
            self.endings,
            self.roster,
            decode_router,
            self.decoders,
            self.ways,
            early=deployment.first_token == "prefill",  # noqa: S105 - a place, not a secret
            handover_s=deployment.handover_s,
        )
        self.migration = Migration(self.clock, self.ledger, decode_router, self.decoders, self.ways)
        links = self._links()
        self.handoff.links = self.migration.links = self.ways.links = links
        self.fleet = self._fleet()
        paces = {role: pool.crew.pace() for role, pool in self.fleet.pools.items()}
        for each in (router, decode_router):
            each.classes, each.paces = traffic.classes, paces
            each.clock, each.refresh_s = self.clock, deployment.router_refresh_s
            each.sessions = None if traffic.sessions is None else traffic.sessions.data
        entrance = self._entrance(traffic.classes, router, decode_router)
        self.gateway = self._gateway(router, entrance)
        self.scraped: Scraped | None = None
        self._stuck = -1, 0  # how many were done, and scrapes, when nothing else was to happen
        self.gateway.held = self._held(traffic)
        if entrance is not None:
            entrance.held = self.gateway.held
        self.departures = Departures(
            self.endings,
            self.gateway,
            self.handoff,
            self.migration,
            deployment.elastic.max_retries,
        )
        self._entry_s = deployment.entry_s
        self.entering = Delays(self.clock, ENTRY, self.gateway.place)
        self.gateway.clients, self.gateway.entering = traffic.clients, self.entering
        self.leavers = self._leavers(traffic.clients)
        self.source = self._source(traffic)
        self.endings.on_end = self.source.ended
        self.telemetry = Telemetry(self.clock, self._sample_interval(traffic), self._sampled)
        self._means = self._common(traffic)
        self.fleet.door = self._attendant()
        self.controller = self._controller()
        self.rebalancer = self._rebalancer()
        self.ticking: Callable[[], int] = self.tickers
        if estate is None:
            estate = Estate(deployment.fabric, deployment.elastic.quota_gpus)
            estate.join(self.fleet)
            estate.check()
            self.start()
        else:
            estate.join(self.fleet)

    # --- assembly ------------------------------------------------------------------------------

    def _routers(self) -> tuple[Router, Router]:
        streams = np.random.SeedSequence(self.options.seed, spawn_key=(2,)).spawn(2)
        entry, decode = (np.random.default_rng(stream) for stream in streams)
        deployment = self.deployment
        return (
            Router(deployment.router, self.entries, entry),
            Router(deployment.decode_router, self.decoders, decode),
        )

    def _links(self) -> Links:
        clock, sharing = self.clock, self.deployment.transfer.sharing
        started: Deliver = self.handoff.started
        deliver: Deliver = self.handoff.deliver
        if self.deployment.moves_sequences:
            started = self._carried(started)
            deliver = self._carried(deliver, self.migration.deliver)
        arrivals = Arrivals(clock, deliver)
        arrivals.alarm.wakes(arrivals.wake)
        if sharing == "fifo":
            links: FifoLinks | SharedLinks = FifoLinks(clock, arrivals, started)
        else:
            fill = water_level if sharing == "max_min" else even_split
            links = SharedLinks(clock, arrivals, fill, started)
        links.alarm.wakes(links.wake)
        return links

    def _carried(self, handed: Deliver, moved: Callable[[int], None] | None = None) -> Deliver:
        """Return who hears of a flow: ``handed`` if of a prompt, ``moved`` if of a sequence."""

        def tell(request: int, now: float) -> None:
            if request not in self.migration.moves:
                handed(request, now)
            elif moved is not None:
                moved(request)

        return tell

    def _fleet(self) -> Fleet:
        pools = {pool.role: pool for pool in self.deployment.pools}
        roles: list[str] = [role for role in ("prefill", "mixed", "decode") if role in pools]
        draws = np.random.default_rng(np.random.SeedSequence(self.options.seed, spawn_key=(3,)))
        crews = {role: Crew(self.deployment, pools[role]) for role in roles}
        return Fleet(self.clock, self.deployment.elastic, crews, draws)

    def _entrance(self, classes: Classes, router: Router, decode_router: Router) -> Entrance | None:
        """Return what decides who is let in, unless everybody is."""
        policy = self.deployment.admission
        if isinstance(policy, AdmitAll):
            return None
        sequence = np.random.SeedSequence(self.options.seed, spawn_key=(5,))
        draws = np.random.default_rng(sequence).random(self.ledger.size)
        routers = (router, decode_router)
        entrance = Entrance(policy, classes, self.endings, routers, draws)
        entrance.paces = router.paces
        entrance.handover_s = self.deployment.handover_s
        return entrance

    def _gateway(self, router: Router, entrance: Entrance | None) -> Gateway:
        crews = {role: pool.crew for role, pool in self.fleet.pools.items()}
        bypass = self._bypass()
        entries = {role: crew for role, crew in crews.items() if bypass or role != "decode"}
        limits = {role: crew.limits(crews.get("decode", crew)) for role, crew in entries.items()}
        flipper = self._flipper(router)
        gateway = Gateway(self.endings, router, self.entries, limits, entrance, flipper)
        gateway.bypass = bypass
        return gateway

    def _held(self, traffic: Traffic) -> Held | None:
        """Return the queue before all workers, if there is one."""
        threshold, control = self.deployment.router_queue_threshold, self.deployment.flow_control
        gate: Gate
        if not isinstance(control, NeverHolds):
            gate = self.scraped = Scraped(self.clock, self.routers, control)
        elif threshold is not None:
            gate = Room(self.routers[0], threshold)
        else:
            return None
        key = key_of(self.deployment.queue, self.ledger, traffic.classes)
        held = Held(self.clock, gate, key)
        held.alarm.wakes(self.gateway.wake)
        return held

    def _scrape(self, now: float) -> None:
        """Read workers' metrics for the router, and see who may leave it."""
        if self.scraped is not None and self.gateway.held is not None:
            self.scraped.scrape(now)
            self.gateway.held.look()

    def _check_two_pools(self, field: str, policy: object) -> None:
        """Refuse a policy that makes no sense where workers do both."""
        if "decode" not in self.fleet.pools:
            raise ConfigError(
                f"{field} {type(policy).__name__}: needs prefill and decode pools, but there are "
                f"only {', '.join(self.fleet.pools)} workers"
            )

    def _bypass(self) -> Bypass | None:
        """Return what has decode workers compute prompts, if anything does."""
        policy = self.deployment.local_prefill
        if not self.deployment.computes_locally:
            return None
        self._check_two_pools("local_prefill", policy)
        knows = (self.routers[1].beliefs or getattr(policy, "beliefs", None)) is not None
        return Bypass(policy, self.ledger, self.routers, knows=knows)

    def _flipper(self, router: Router) -> Flipper | None:
        """Return what lets workers change their roles as requests come, if anything does."""
        policy = self.deployment.flipping
        if isinstance(policy, NeverFlip):
            return None
        self._check_two_pools("flipping", policy)
        return Flipper(policy, router.classes, self.clock, self.fleet.flip_one, self.routers)

    def _controller(self) -> Controller | None:
        """Return what changes the pools as it goes, unless they are to stay as they are."""
        control = self.deployment.control
        if isinstance(control.policy, Static):
            return None
        if isinstance(control.policy, RateMatched):
            gpus = {role: p.crew.spec.layout.gpus for role, p in self.fleet.pools.items()}
            control.policy.check(gpus, self.deployment.elastic.quota_gpus)
        observer = Observer(control.observing, self.fleet, self.ledger, self.source)
        observer.held = self.gateway.held
        if self.leavers is not None:
            observer.orphans = self.leavers.orphans
        return Controller(control, self.fleet, observer)

    def _rebalancer(self) -> Rebalancer | None:
        """Return what has sequences move as they decode, if anything does."""
        policy = self.deployment.rebalancing
        if policy.interval_s is None:
            return None
        self._check_two_pools("rebalancing", policy)
        return Rebalancer(self.clock, policy, policy.interval_s, self.decoders, self.migration)

    def _leavers(self, clients: Clients) -> Leavers | None:
        """Return what takes out the requests of clients that leave, unless all of them stay."""
        if clients.stay:
            return None
        leavers = Leavers(clients, self.endings, self.options.seed)
        leavers.entering, leavers.gateway = self.entering, self.gateway
        leavers.handoff, leavers.migration = self.handoff, self.migration
        leavers.roster = self.roster
        leavers.alarm.wakes(leavers.wake)
        return leavers

    def _attendant(self) -> Attendant:
        """Return who sees workers in and out."""
        return Attendant(
            fleet=self.fleet,
            means=self._means,
            startup=self.deployment.elastic.startup,
            roster=self.roster,
            routers=self.routers,
            entries=self.entries,
            decoders=self.decoders,
            gateway=self.gateway,
            handoff=self.handoff,
            migration=self.migration,
            departures=self.departures,
            ways=self.ways,
            tiers=self.tiers,
            joined=self.telemetry.join,
            left=self.telemetry.leave,
            migrates=self.deployment.elastic.drain.mode == "migrate",
        )

    def _common(self, traffic: Traffic) -> Means:
        key = key_of(self.deployment.queue, self.ledger, traffic.classes)
        return Means(
            clock=self.clock,
            ledger=self.ledger,
            listener=Listener(
                prefilling=self.handoff.prefilling,
                prefilled=self.handoff.prefilled,
                reserved=self.handoff.reserved,
                finished=self.endings.completed,
                vanished=self.endings.vanished,
                eased=self.gateway.eased,
            ),
            batch_worker=self.batch_worker,
            leap=self.options.leap,
            clients_stay=self.leavers is None,
            key_of=key or (in_turn if self.tiers.prompts_wait else None),
            prompts=traffic.blocks,
        )

    def _source(self, traffic: Traffic) -> Source:
        """Return what lets the requests in."""
        args = self.clock, self.ledger, self._enter
        if traffic.following is None:
            return Single(*args, traffic.concurrency)
        return Sessions(*args, traffic.following, traffic.concurrency)

    def _sample_interval(self, traffic: Traffic) -> float:
        if self.options.sample_interval_s is not None:
            return self.options.sample_interval_s
        workers = sum(pool.workers for pool in self.deployment.pools)
        readings = 2 * self.ledger.size / workers  # at most two a request, over all of them
        arrival = traffic.arrival_s
        if traffic.following is not None:
            arrival = traffic.following.earliest(arrival)
        span = float(arrival.max() - arrival.min())
        return max(0.01, span / min(max(readings, 50), 1000))

    def start(self) -> None:
        """Let the first workers serve, and everything live."""
        for part in (
            *(self.source, self.entering, self.handoff.dispatched),
            *(self.fleet, self.telemetry, *self.tiers.lives),
        ):
            part.alarm.wakes(part.wake)
        self.fleet.open()
        schedule(self.deployment.elastic.changes, self.fleet, self.ways)
        if self.controller is not None:
            self.controller.alarm.wakes(self.controller.wake)
            self.controller.start()
        if self.rebalancer is not None:
            self.rebalancer.alarm.wakes(self.rebalancer.wake)
            self.rebalancer.start()
        if self.scraped is not None:
            self.scraped.alarm.wakes(self._scrape)
            self.scraped.start()
        self.source.start()
        self.telemetry.start()

    def _enter(self, request: int, now: float) -> None:
        """Let a request through the gateway to the workers."""
        if self.leavers is not None:
            self.leavers.arrived(request, now)
        self.entering.at(now + self._entry_s, request)

    @property
    def workers(self) -> list[AnyWorker]:
        """Every worker there has been."""
        return list(self.roster)

    @property
    def loads(self) -> tuple[Load, Load]:
        """What the two routers see."""
        return self.entries.load, self.decoders.load

    @property
    def done(self) -> int:
        """How many requests are over."""
        return self.endings.done

    # --- running -------------------------------------------------------------------------------

    def _sampled(self, now: float) -> None:
        self.ledger.room.shed()
        waits = self.clock.pending == self.ticking()
        if waits and self.done < self.ledger.size:
            if self.controller is not None and now < self._patience:
                return
            if self._may_leave_router():
                return
            given_up = bool(self.deployment.elastic.changes) or self.controller is not None
            if given_up or self.scraped is not None:
                self.end()  # whoever waits now waits for ever
                return
            raise InvariantError(
                f"nothing is left to happen at {now:g} s but only {self.done} of "
                f"{self.ledger.size} requests are done"
            )
        if self.options.progress is not None:
            self.options.progress(now, self.done)

    def tickers(self) -> int:
        """Return how many of its parts tick on whatever happens."""
        parts = (self.controller, self.rebalancer, self.scraped)
        return 1 + sum(part is not None for part in parts)

    def end(self) -> None:
        """Let it be over now, whoever still waits."""
        if not self.endings.all_over.triggered:
            self.endings.all_over.succeed()

    def _may_leave_router(self) -> bool:
        """Tell, where nothing else is left to happen, whether a scrape may yet let somebody go.

        What two scrapes of workers that do nothing did not open stays closed.
        """
        if self.scraped is None or not self.gateway.held or not self.entries.workers:
            return False
        if self._stuck[0] != self.done:
            self._stuck = self.done, self.scraped.scrapes
        return self.scraped.scrapes < self._stuck[1] + 2

    @property
    def _patience(self) -> float:
        """Return until when a controller may still do something about requests that wait."""
        last = max((time for time, *_ in self.fleet.events), default=0.0)
        arrived = self.source.arrived
        (latest,) = np.asarray(self.ledger.arrival)[self.source.rows(arrived - 1, arrived)]
        return max(last, float(latest)) + 1000 * self.deployment.control.tick_s

    def step(self) -> None:
        """Process one event."""
        self.clock.env.step()

    def run(self) -> RunRecord:
        """Run to the last token (or ``until_s``), check the laws and return what happened."""
        with collection_paused():
            self.go()
            return self.account()

    def go(self) -> None:
        """Process events until every request is over, or until ``until_s``."""
        if self.options.until_s is not None:
            self.clock.at_last(self.options.until_s, self.end)
        self.clock.run(self.endings.all_over)

    def account(self) -> RunRecord:
        """Return what happened, the laws checked."""
        record = self.record()
        audit(self, record)
        return record

    def record(self, *, sample: bool = True) -> RunRecord:
        """Return everything so far as columns, after a last sample of the gauges."""
        columns, sent = self.ledger.columns(), self.source.sent()
        if self.done < self.ledger.size:
            columns = {name: self._so_far(name, column) for name, column in columns.items()}
        if sample:
            for worker in self.roster:
                worker.take_stock()
            self.telemetry.sample(self.clock.now)
        return RunRecord(
            requests={name: column[sent] for name, column in columns.items()},
            timeline=self.telemetry.timeline(len(self.fleet.lives)),
            workers=self._infos(),
            events=tuple(self._events()),
            gaps=self._gaps(columns),
            end_s=self.clock.now,
            first_token=self.deployment.first_token,
            decisions=() if self.controller is None else self.controller.record(),
            room=self.ledger.room if self.ledger.room.mapped else None,
            rows=None if isinstance(sent, slice) else sent,
            never_sent=self.endings.never,
            tiers=self.tiers.infos(),
        )

    def _so_far(self, name: str, column: Column) -> Column:
        """Return a column without the moments that are known but have yet to come."""
        if name not in TIMES or not (late := column > self.clock.now).any():
            return column
        return np.where(late, np.nan, column)

    def _infos(self) -> tuple[WorkerInfo, ...]:
        bandwidths, held = self.ways.bandwidths(), self.telemetry.block_seconds()
        return tuple(
            self._info(life, bandwidths.get(life.number, 0.0), held.get(life.number, 0.0))
            for life in self.fleet.lives
        )

    def _info(self, life: Life, bandwidth: float, block_seconds: float) -> WorkerInfo:
        spec, now, worker = life.crew.spec, self.clock.now, life.worker
        served = life.crew.worker(life.number, self._means) if worker is None else worker
        over = life.state in ENDED
        return WorkerInfo(
            worker=life.number,
            pool=spec.role,
            gpus=spec.layout.gpus,
            gpu=spec.gpu.name,
            kv_blocks=served.capacity,
            block_size=served.block_size,
            max_transfer_bandwidth=bandwidth,
            busy_s=served.busy_seconds(now),
            steps=served.step_count,
            prefill_tokens=served.prefill_tokens,
            decode_tokens=served.decode_tokens,
            kv_block_seconds=block_seconds,
            allocated_s=life.allocated_s(now),
            state=life.state,
            why=life.why,
            because=life.because if over else "end of run",
            domain=-1 if life.slot is None else life.slot.first_domain,
            asked_s=life.asked_s,
            granted_s=life.granted_s,
            ready_s=life.ready_s,
            draining_s=life.draining_s,
            ended_s=life.ended_s if over else now,
            prefix_cache=served.cache is not None,
            found_tokens=served.found_tokens,
            spared_s=served.spared_s,
            kept_tokens=served.kept_tokens,
            evicted_blocks=0 if served.cache is None else served.cache.evicted,
        )

    def _events(self) -> Iterator[tuple[float, str, int, str]]:
        yield from self.fleet.events
        for life in self.fleet.lives:
            if life.state not in ENDED:
                yield self.clock.now, "stopped", life.number, "end of run"

    def _gaps(self, columns: Mapping[str, Column]) -> GapHistogram:
        """Pool the workers' gaps with each handed-over request's gap before its second token."""
        handed = ~np.isnan(columns["transfer_end_s"]) & ~np.isnan(columns["second_token_s"])
        handed[list(self.ledger.settled)] = False
        firsts = (columns["second_token_s"] - columns["first_token_s"])[handed]
        logs = [pool.crew.gaps for pool in self.fleet.pools.values()]
        return pooled(logs, np.concatenate([firsts, self.ledger.resumed]))


def _check_targets(deployment: Deployment, classes: Classes) -> None:
    """Refuse a policy that judges by a target which some requests have not."""
    groups = ("router", "decode_router", "local_prefill", "admission", "queue", "flipping")
    for group in groups:
        policy = getattr(deployment, group)
        if lacks := lacking(policy, classes.kinds):
            keys = " or ".join(f"slo.{each}" for each in lacks.split(" or "))
            raise ConfigError(
                f"{group} {type(policy).__name__}: needs {lacks} of every request, so set {keys}, "
                "or that of classes"
            )


def run(deployment: Deployment, traffic: Traffic, options: RunOptions) -> RunRecord:
    """Simulate ``traffic`` on ``deployment`` and return what happened.

    Raises:
        ConfigError: the deployment cannot run (layout, memory, latency model, fabric).
        InvariantError: a conservation law broke, which is a bug of this program.
    """
    return Simulation(deployment, traffic, options).run()
