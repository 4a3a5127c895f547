"""From prefill to decode worker: route, reserve, transfer, release."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hardware.fabric import Path
from simulator.cluster.batch import BatchWorker
from simulator.cluster.clock import Clock
from simulator.cluster.ledger import Ledger
from simulator.cluster.links import Flow, Links, Port
from simulator.cluster.prefill import PrefillWorker
from simulator.cluster.router import Router
from simulator.deployment import Transfer
from simulator.latency.base import WorkerSpec


@dataclass(slots=True, eq=False)
class Ports:
    """A worker's ports by link kind, one per attention-DP rank; requests take them in turn."""

    by_kind: dict[str, list[Port]]
    taken: int = 0

    def bandwidth(self, kind: str) -> float:
        """Return the most this worker moves per second over links of ``kind``."""
        return sum(port.bandwidth for port in self.by_kind[kind])

    def next(self, kind: str) -> Port:
        """Return the port of the rank the next request's KV lies on."""
        ranks = self.by_kind[kind]
        if len(ranks) == 1:
            return ranks[0]
        self.taken += 1
        return ranks[self.taken % len(ranks)]

    @classmethod
    def of(cls, spec: WorkerSpec, bandwidths: dict[str, float]) -> "Ports":
        """Return the idle ports of a worker whose GPUs have ``bandwidths`` bytes/s per kind.

        The GPUs of a rank that hold distinct KV shards of a request move them side by side.
        """
        return cls(
            {
                kind: [
                    Port(bandwidth * spec.memory.kv_shards) for _ in range(spec.layout.attention_dp)
                ]
                for kind, bandwidth in bandwidths.items()
            }
        )


@dataclass(slots=True, eq=False)
class Endpoint:
    """One end of transfers: a worker's specification and ports in one direction."""

    spec: WorkerSpec
    ports: Ports


class Handoff:
    """Moves finished prompts to decode workers.

    A decode worker is chosen and asked for blocks when the prompt is done (layer-wise: when its
    last chunk starts); the transfer begins when both are there, and the prefill worker keeps the
    prompt's KV until it ends.
    """

    def __init__(self, clock: Clock, ledger: Ledger, transfer: Transfer, router: Router) -> None:
        self._clock = clock
        self._ledger = ledger
        self._transfer = transfer
        self._router = router
        self._layerwise = transfer.mode == "push_layerwise"
        self._trips = 2 if transfer.mode == "pull" else 1
        self._due: dict[int, float] = {}
        self._flying: dict[int, float] = {}
        self.sources: dict[int, PrefillWorker] = {}
        self.targets: Sequence[BatchWorker] = ()
        self._by_worker: dict[int, BatchWorker] = {}
        self.ends: dict[int, Endpoint] = {}
        self.paths: dict[tuple[int, int], Path] = {}
        self.links: Links
        self.started_bytes = 0.0
        self.delivered_bytes = 0.0

    def connect(self, sources: Iterable[PrefillWorker], targets: Sequence[BatchWorker]) -> None:
        """Say which workers hand over, and to which."""
        self.sources = {worker.settings.worker: worker for worker in sources}
        self.targets = targets
        self._by_worker = {worker.settings.worker: worker for worker in targets}

    @property
    def bytes_in_flight(self) -> float:
        """KV bytes under way."""
        return sum(self._flying.values())

    def bandwidth(self, worker: int) -> float:
        """Return the bytes/s at which ``worker`` can send or receive over the paths it has."""
        kinds = {path.kind for ends, path in self.paths.items() if worker in ends}
        return max((self.ends[worker].ports.bandwidth(kind) for kind in kinds), default=0.0)

    def prefilling(self, request: int, end: float) -> None:
        """Begin a layer-wise hand-over while the prompt is being computed."""
        if self._layerwise and self._ledger.output_tokens[request] > 1:
            self._due[request] = end
            self._hand_over(request)

    def prefilled(self, request: int) -> None:
        """Begin the hand-over of a computed prompt, unless it is under way."""
        if not self._layerwise:
            self._hand_over(request)
        self._due.pop(request, None)

    def _hand_over(self, request: int) -> None:
        ledger, load = self._ledger, self._router.load
        tokens = ledger.input_tokens[request]
        index = self._router.place(request, tokens, ledger.output_tokens[request])
        worker = self.targets[index]
        ledger.decode_worker[request] = worker.settings.worker
        ledger.transfer_queue_enter[request] = self._clock.now
        load.requests[index] += 1
        load.kv_blocks[index] += worker.blocks(tokens)
        worker.reserve(request)

    def reserved(self, request: int) -> None:
        """Send the prompt's KV: its blocks are set aside at the decode worker."""
        flow = self._flow(request)
        self._flying[request] = flow.size
        self.started_bytes += flow.size
        self._ledger.transfer_start[request] = self.links.submit(flow)

    def _flow(self, request: int) -> Flow:
        ledger = self._ledger
        here, there = ledger.prefill_worker[request], ledger.decode_worker[request]
        path = self.paths[here, there]
        source, target = self.ends[here], self.ends[there]
        memory = source.spec.memory
        size = ledger.input_tokens[request] * memory.kv_bytes_per_token
        flow = Flow(
            request,
            source.ports.next(path.kind),
            target.ports.next(path.kind),
            size,
            path.latency_s * self._trips + self._transfer.setup_s,
        )
        due = self._due.get(request)
        if due is not None:
            flow.produced_at, flow.tail = due, size / source.spec.model.layers
        return flow

    def deliver(self, request: int, now: float) -> None:
        """Give a transferred prompt to its decode worker and free it at its prefill worker."""
        ledger = self._ledger
        source = self.sources[ledger.prefill_worker[request]]
        target = self._by_worker[ledger.decode_worker[request]]
        size = self._flying.pop(request)
        self.delivered_bytes += size
        source.sent += size
        target.received += size
        ledger.transfer_end[request] = ledger.decode_queue_enter[request] = now
        source.release(request)
        target.join(request)
