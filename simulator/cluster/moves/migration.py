"""Sequences that move: from a decode worker that drains to another, with their KV."""

from dataclasses import dataclass

from simulator.cluster.clock import Clock
from simulator.cluster.ledger import Ledger
from simulator.cluster.links.transfers import Flow, Links
from simulator.cluster.pools.router import Router
from simulator.cluster.pools.team import Team
from simulator.cluster.pools.wiring import Ways
from simulator.cluster.workers.batch import BatchWorker
from simulator.cluster.workers.worker import Worker


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """A sequence on its way."""

    source: BatchWorker
    target: BatchWorker
    flow: Flow


class Migration:
    """Moves sequences between decode workers.

    The router chooses a worker; if that has the blocks the KV so far goes there at once, and the
    sequence joins its batch when it has arrived. The source keeps the KV until then.
    """

    def __init__(
        self, clock: Clock, ledger: Ledger, router: Router, team: Team[BatchWorker], ways: Ways
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._router = router
        self._team = team
        self._ways = ways
        self.links: Links
        self.moves: dict[int, Move] = {}
        self.started_bytes = 0.0
        self.delivered_bytes = 0.0
        self.dropped_bytes = 0.0

    @property
    def bytes_in_flight(self) -> float:
        """KV bytes under way."""
        return sum(move.flow.payload for move in self.moves.values())

    def depart(self, source: BatchWorker, request: int, length: int) -> bool:
        """Send a sequence whose next iteration has ``length`` tokens; tell whether it found room.

        All of these but the newest token have KV.
        """
        if not self._team.workers:
            return False
        output = self._ledger.output_tokens[request]
        index = self._router.place(request, length - 1, output)
        return self._send(source, request, length, index)

    def depart_to(
        self, target: BatchWorker, source: BatchWorker, request: int, length: int
    ) -> bool:
        """Do the same, to a worker that others have chosen, if it is still there for more."""
        if target.load is not self._team.load or source.load is not self._team.load:
            return False
        return self._send(source, request, length, target.index)

    def _send(self, source: BatchWorker, request: int, length: int, index: int) -> bool:
        """Send a sequence to a worker of the team; tell whether that has room."""
        ledger, load = self._ledger, self._team.load
        tokens, before = length - 1, ledger.prompt_tokens[request]
        target = self._team.workers[index]
        ledger.prompt_tokens[request], ledger.moved_at[request] = tokens, self._clock.now
        if not target.take_in(request):
            ledger.prompt_tokens[request] = before
            del ledger.moved_at[request]
            return False
        load.requests[index] += 1
        load.kv_blocks[index] += target.blocks(tokens)
        ledger.decode_worker[request] = target.number
        flow = self._flow(request, source, target)
        self.moves[request] = Move(source, target, flow)
        self.started_bytes += flow.payload
        self.links.submit(flow)
        return True

    def _flow(self, request: int, source: BatchWorker, target: BatchWorker) -> Flow:
        egress, ingress, route = self._ways.between(source.number, target.number)
        size, payload = route.sizes(self._ledger.prompt_tokens[request])
        return Flow(
            request=request,
            egress=egress.next(),
            ingress=ingress.next(),
            size=size,
            latency=route.latency_s,
            cap=route.cap,
            payload=payload,
        )

    def deliver(self, request: int) -> None:
        """Let a sequence whose KV has arrived go on at its new worker."""
        move = self.moves.pop(request)
        self.delivered_bytes += move.flow.payload
        move.source.sent += move.flow.payload
        move.target.received += move.flow.payload
        move.target.join(request)
        move.source.departed(request)

    def drop(self, request: int) -> None:
        """Lose a sequence on its way, with the KV at both ends."""
        move = self.moves.pop(request)
        self.links.cancel(move.flow)
        self.dropped_bytes += move.flow.payload
        self._ledger.lost_at[request] = self._ledger.moved_at[request]
        self._ledger.decode_worker[request] = -1
        move.target.unreserve(request)  # after which it may stop, and lose what is still its own
        move.source.departed(request)

    def leaving(self, worker: Worker) -> list[int]:
        """Return the requests that are on their way from a worker."""
        return [request for request, move in self.moves.items() if move.source is worker]
