"""From prefill to decode worker: route, reserve, transfer, release."""

from collections.abc import Mapping, Sequence

from simulator.cluster.batch import BatchWorker
from simulator.cluster.endings import Endings
from simulator.cluster.ledger import Ledger
from simulator.cluster.links import Flow, Links
from simulator.cluster.prefill import PrefillWorker
from simulator.cluster.router import Router
from simulator.cluster.wiring import Route


class Handoff:
    """Moves finished prompts to decode workers.

    A decode worker is chosen and asked for blocks when the prompt is done (layer-wise: when its
    last chunk starts); the transfer begins when both are there, and the prefill worker keeps the
    prompt's KV until it ends.
    """

    def __init__(
        self, endings: Endings, ledger: Ledger, router: Router, *, layerwise: bool
    ) -> None:
        self._clock = endings.clock
        self._endings = endings
        self._ledger = ledger
        self._router = router
        self._layerwise = layerwise
        self._due: dict[int, float] = {}
        self._flying: dict[int, float] = {}
        self._sources: dict[int, PrefillWorker] = {}
        self._targets: Sequence[BatchWorker] = ()
        self._by_worker: dict[int, BatchWorker] = {}
        self._routes: Mapping[tuple[int, int], Route] = {}
        self._bandwidths: dict[int, float] = {}
        self._links: Links
        self.started_bytes = 0.0
        self.delivered_bytes = 0.0

    def connect(
        self,
        sources: Sequence[PrefillWorker],
        targets: Sequence[BatchWorker],
        routes: Mapping[tuple[int, int], Route],
        links: Links,
    ) -> None:
        """Say which workers hand over to which, on what routes, and what carries the bytes."""
        self._sources = {worker.number: worker for worker in sources}
        self._targets = targets
        self._by_worker = {worker.number: worker for worker in targets}
        self._routes = routes
        for ends, route in routes.items():
            for worker, lanes in zip(ends, (route.egress, route.ingress), strict=True):
                widest = max(lanes.bandwidth, self._bandwidths.get(worker, 0.0))
                self._bandwidths[worker] = widest
        self._links = links

    @property
    def bytes_in_flight(self) -> float:
        """KV bytes under way."""
        return sum(self._flying.values())

    def bandwidth(self, worker: int) -> float:
        """Return the bytes/s at which ``worker`` can send or receive over the routes it has."""
        return self._bandwidths.get(worker, 0.0)

    def prefilling(self, request: int, end: float) -> None:
        """Begin a layer-wise hand-over while the prompt is being computed."""
        if self._layerwise and self._ledger.output_tokens[request] > 1:
            self._due[request] = end
            self._hand_over(request)

    def prefilled(self, request: int) -> None:
        """Hand a computed prompt over, unless that is under way; or it was all there was to do."""
        if self._ledger.output_tokens[request] == 1:
            self.release(request)
            self._endings.completed(request)
        elif self._layerwise:
            self._due.pop(request, None)
        else:
            self._hand_over(request)

    def release(self, request: int) -> None:
        """Free a prompt at its prefill worker: nobody needs its KV there any more."""
        self._sources[self._ledger.prefill_worker[request]].release(request)

    def _hand_over(self, request: int) -> None:
        ledger, load = self._ledger, self._router.load
        tokens = ledger.input_tokens[request]
        index = self._router.place(request, tokens, ledger.output_tokens[request])
        worker = self._targets[index]
        ledger.decode_worker[request] = worker.number
        ledger.transfer_queue_enter[request] = self._clock.now
        load.requests[index] += 1
        load.kv_blocks[index] += worker.blocks(tokens)
        worker.reserve(request)

    def reserved(self, request: int) -> None:
        """Send the prompt's KV: its blocks are set aside at the decode worker."""
        flow = self._flow(request)
        self._flying[request] = flow.size
        self.started_bytes += flow.size
        self._links.submit(flow)

    def started(self, request: int, now: float) -> None:
        """Hear that the first byte of ``request`` leaves."""
        self._ledger.transfer_start[request] = now

    def _flow(self, request: int) -> Flow:
        ledger = self._ledger
        route = self._routes[ledger.prefill_worker[request], ledger.decode_worker[request]]
        size = ledger.input_tokens[request] * route.bytes_per_token
        ends = route.egress.next(), route.ingress.next()
        due = self._due.get(request, 0.0)
        return Flow(request, *ends, size, route.latency_s, due, size / route.layers)

    def deliver(self, request: int, now: float) -> None:
        """Give a transferred prompt to its decode worker and free it at its prefill worker."""
        ledger = self._ledger
        source = self._sources[ledger.prefill_worker[request]]
        target = self._by_worker[ledger.decode_worker[request]]
        size = self._flying.pop(request)
        self.delivered_bytes += size
        source.sent += size
        target.received += size
        ledger.transfer_end[request] = ledger.decode_queue_enter[request] = now
        source.release(request)
        target.join(request)
