"""One simulation: the components, wired together, from the first arrival to the last token."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.audit import audit
from simulator.cluster.batch import BatchWorker
from simulator.cluster.clock import Alarm, Clock, sleeper
from simulator.cluster.crew import Crew, Means
from simulator.cluster.endings import Endings
from simulator.cluster.gaps import pooled
from simulator.cluster.gateway import Gateway
from simulator.cluster.handoff import Handoff
from simulator.cluster.ledger import Ledger
from simulator.cluster.links import Arrivals, FifoLinks
from simulator.cluster.prefill import PrefillWorker
from simulator.cluster.router import Router
from simulator.cluster.sharing import SharedLinks, even_split, water_level
from simulator.cluster.source import Source
from simulator.cluster.telemetry import Telemetry
from simulator.cluster.wiring import routes
from simulator.cluster.worker import Listener, Load, Worker
from simulator.deployment import Deployment
from simulator.errors import ConfigError, InvariantError
from simulator.record import TIMES, GapHistogram, RunRecord, WorkerInfo

Column = NDArray[np.float64] | NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The requests: arrival seconds (rising), and lengths in tokens (at least 1), each (n,).

    With ``concurrency`` that many clients send them in order instead, each after its last answer.

    Raises:
        ConfigError: unequal lengths, falling or negative arrivals, a length or count below 1.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    concurrency: int | None = None

    def __post_init__(self) -> None:
        arrival = self.arrival_s
        if not len(arrival) == len(self.input_tokens) == len(self.output_tokens):
            raise ConfigError("traffic: arrival_s, input_tokens and output_tokens differ in length")
        if len(arrival) == 0:
            raise ConfigError("traffic: no requests to simulate")
        if not (np.isfinite(arrival).all() and arrival[0] >= 0 and (np.diff(arrival) >= 0).all()):
            raise ConfigError("traffic: arrival_s must be finite, at least 0 s and never fall")
        if min(self.input_tokens.min(), self.output_tokens.min()) < 1:
            raise ConfigError("traffic: every request needs at least 1 input and 1 output token")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"traffic: concurrency must be at least 1, not {self.concurrency!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run: ``seed`` of the routing stream, gauge interval and end in seconds.

    What is due after ``until_s`` does not happen any more.
    An interval of ``None`` is a thousandth of the arrivals' span, but at least 10 ms.
    ``progress`` is called after each sample of the gauges with simulated seconds and requests done.
    ``leap`` bounds the iterations a decode worker takes at once; it changes no result.
    """

    seed: int = 0
    sample_interval_s: float | None = None
    until_s: float | None = None
    progress: Callable[[float, int], None] | None = None
    leap: int | None = None


class Simulation:
    """A deployment under traffic. ``run`` it to the end, or ``step`` through its events."""

    batch_worker: type[BatchWorker] = BatchWorker

    def __init__(self, deployment: Deployment, traffic: Traffic, options: RunOptions) -> None:
        self.deployment = deployment
        self.options = options
        self.ledger = Ledger(traffic.arrival_s, traffic.input_tokens, traffic.output_tokens)
        self.clock = Clock()
        self.workers: list[PrefillWorker | BatchWorker] = []
        self.endings = Endings(self.clock, self.ledger, self.workers)
        self.crews = self._crews()
        self._build_routers()
        layerwise = deployment.transfer.mode == "push_layerwise"
        self.handoff = Handoff(self.endings, self.ledger, self.decode_router, layerwise=layerwise)
        self._build_workers()
        self._build_links()
        self._build_source(traffic.concurrency)
        self._build_telemetry()
        self._start()

    # --- assembly ------------------------------------------------------------------------------

    def _crews(self) -> list[Crew]:
        pools = {pool.role: pool for pool in self.deployment.pools}
        roles = ("prefill", "mixed", "decode")
        return [Crew(self.deployment, pools[role]) for role in roles if role in pools]

    def _build_routers(self) -> None:
        sizes = {pool.role: pool.workers for pool in self.deployment.pools}
        entry = Load.of(sizes.get("prefill", 0) + sizes.get("mixed", 0))
        decode = Load.of(sizes.get("decode", 0))
        streams = np.random.SeedSequence(self.options.seed, spawn_key=(2,)).spawn(2)
        generators = [np.random.default_rng(stream) for stream in streams]
        self.router = Router(self.deployment.router, entry, generators[0])
        self.decode_router = Router(self.deployment.decode_router, decode, generators[1])

    def _build_workers(self) -> None:
        means = Means(
            clock=self.clock,
            ledger=self.ledger,
            listener=Listener(
                prefilling=self.handoff.prefilling,
                prefilled=self.handoff.prefilled,
                reserved=self.handoff.reserved,
                finished=self.endings.completed,
            ),
            batch_worker=self.batch_worker,
            leap=self.options.leap,
        )
        sizes = {"entry": 0, "decode": 0}
        for crew in self.crews:
            decodes = crew.pool.role == "decode"
            team, load = "decode" if decodes else "entry", self.router.load
            if decodes:
                load = self.decode_router.load
            for _ in range(crew.pool.workers):
                worker = crew.worker(len(self.workers), sizes[team], load, means)
                self.workers.append(worker)
                sizes[team] += 1

    def _build_links(self) -> None:
        decoders = [
            worker
            for worker in self.workers
            if isinstance(worker, BatchWorker) and worker.role == "decode"
        ]
        if not decoders:
            return
        clock, transfer = self.clock, self.deployment.transfer
        arrivals = Arrivals(clock, self.handoff.deliver)
        self._live(arrivals.alarm, arrivals.wake)
        started = self.handoff.started
        if transfer.sharing == "fifo":
            links: FifoLinks | SharedLinks = FifoLinks(clock, arrivals, started)
        else:
            fill = water_level if transfer.sharing == "max_min" else even_split
            links = SharedLinks(clock, arrivals, fill, started)
        self._live(links.alarm, links.wake)
        prefills = [worker for worker in self.workers if isinstance(worker, PrefillWorker)]
        specs = [worker.settings.spec for worker in self.workers]
        ways = routes(self.deployment.fabric, specs, transfer)
        self.handoff.connect(prefills, decoders, ways, links)

    def _build_source(self, concurrency: int | None) -> None:
        entries = [crew for crew in self.crews if crew.pool.role != "decode"]
        limits = {crew.pool.role: crew.limits(self.crews) for crew in entries}
        gateway = Gateway(self.ledger, self.router, self.endings, limits)
        gateway.workers = [worker for worker in self.workers if worker.role != "decode"]
        self.source = Source(self.clock, self.ledger, gateway.arrive, concurrency)
        if self.source.closed:
            self.endings.on_end = self.source.one_ended

    def _build_telemetry(self) -> None:
        interval = self.options.sample_interval_s
        if interval is None:
            span = self.ledger.arrival[-1] - self.ledger.arrival[0]
            interval = max(0.01, span / 1000)
        self.telemetry = Telemetry(self.clock, interval, self._sampled)
        self.telemetry.workers = list(self.workers)

    def _live(self, alarm: Alarm, wake: Callable[[float], None]) -> None:
        self.clock.env.process(sleeper(alarm, wake))

    def _start(self) -> None:
        for part in (self.source, *self.workers, self.telemetry):
            self._live(part.alarm, part.wake)
        self.source.start()
        self.telemetry.start()

    @property
    def done(self) -> int:
        """How many requests are over."""
        return self.endings.count

    # --- running -------------------------------------------------------------------------------

    def _sampled(self, now: float) -> None:
        if self.clock.pending == 1 and self.done < self.ledger.size:
            raise InvariantError(
                f"nothing is left to happen at {now:g} s but only {self.done} of "
                f"{self.ledger.size} requests are done"
            )
        if self.options.progress is not None:
            self.options.progress(now, self.done)

    def step(self) -> None:
        """Process one event."""
        self.clock.env.step()

    def run(self) -> RunRecord:
        """Run to the last token (or ``until_s``), check the laws and return what happened."""
        if self.options.until_s is not None:
            self.clock.at_last(self.options.until_s, self.endings.all_over.succeed)
        self.clock.run(self.endings.all_over)
        record = self.record()
        audit(self, record)
        return record

    def record(self, *, sample: bool = True) -> RunRecord:
        """Return everything so far as columns, after a last sample of the gauges."""
        arrived = self.source.arrived
        columns = {name: column[:arrived] for name, column in self.ledger.columns().items()}
        if self.done < self.ledger.size:
            columns = {name: self._so_far(name, column) for name, column in columns.items()}
        if self.deployment.first_token == "decode":  # noqa: S105 - a place, not a secret
            handed = ~np.isnan(columns["transfer_queue_enter_s"])
            np.copyto(columns["first_token_s"], columns["decode_join_s"], where=handed)
        if sample:
            self.telemetry.sample(self.clock.now)
        return RunRecord(
            requests=columns,
            timeline=self.telemetry.timeline(),
            workers=tuple(self._info(worker) for worker in self.workers),
            events=tuple(self._events()),
            gaps=self._gaps(columns),
            end_s=self.clock.now,
            first_token=self.deployment.first_token,
        )

    def _so_far(self, name: str, column: Column) -> Column:
        """Return a column without the moments that are known but have yet to come."""
        if name not in TIMES:
            return column
        return np.where(column <= self.clock.now, column, np.nan)

    def _info(self, worker: Worker) -> WorkerInfo:
        spec = worker.settings.spec
        return WorkerInfo(
            worker=worker.number,
            pool=worker.role,
            gpus=spec.layout.gpus,
            gpu=spec.gpu.name,
            kv_blocks=worker.capacity,
            block_size=worker.block_size,
            max_transfer_bandwidth=self.handoff.bandwidth(worker.number),
            busy_s=worker.busy_seconds(self.clock.now),
            steps=worker.step_count,
            prefill_tokens=worker.prefill_tokens,
            decode_tokens=worker.decode_tokens,
            kv_block_seconds=self.telemetry.block_seconds[worker.number],
            allocated_s=self.clock.now,
        )

    def _events(self) -> Iterator[tuple[float, str, int, str]]:
        for worker in self.workers:
            spec = worker.settings.spec
            yield 0.0, "ready", worker.number, f"{spec.layout.gpus} × {spec.gpu.name}"
        for worker in self.workers:
            yield self.clock.now, "stopped", worker.number, "end of run"

    def _gaps(self, columns: Mapping[str, Column]) -> GapHistogram:
        """Pool the workers' gaps with each handed-over request's gap before its second token."""
        handed = ~np.isnan(columns["transfer_end_s"]) & ~np.isnan(columns["second_token_s"])
        firsts = (columns["second_token_s"] - columns["first_token_s"])[handed]
        return pooled([crew.gaps for crew in self.crews], firsts.astype(np.float64))


def run(deployment: Deployment, traffic: Traffic, options: RunOptions) -> RunRecord:
    """Simulate ``traffic`` on ``deployment`` and return what happened.

    Raises:
        ConfigError: the deployment cannot run (layout, memory, latency model, fabric).
        InvariantError: a conservation law broke, which is a bug of this program.
    """
    return Simulation(deployment, traffic, options).run()
