"""From prefill to decode worker: route, reserve, transfer, release."""

from collections import deque
from math import isnan

from simulator.cluster.clock import HANDOVER
from simulator.cluster.delays import Delays
from simulator.cluster.links.transfers import Flow, Links
from simulator.cluster.pools.router import Router
from simulator.cluster.pools.team import Roster, Team
from simulator.cluster.pools.wiring import Ways
from simulator.cluster.traffic.endings import Endings
from simulator.cluster.workers.batch import BatchWorker


class Handoff:
    """Moves finished prompts to decode workers.

    ``handover_s`` after the prompt is done a decode worker is chosen and asked for blocks; the
    transfer begins when both are there, and the prefill worker keeps the prompt's KV until it ends.
    Layer-wise the worker is chosen when the prompt's last chunk starts, and its part begins no
    sooner than ``handover_s`` after the prompt's end, however soon the KV is there. Where clients
    see their first token ``early``, from the prefill worker, answers of a single token end there.
    """

    def __init__(
        self,
        endings: Endings,
        roster: Roster,
        router: Router,
        team: Team[BatchWorker],
        ways: Ways,
        *,
        early: bool,
        handover_s: float,
    ) -> None:
        self._clock = endings.clock
        self._endings = endings
        self._ledger = endings.ledger
        self._prefills = roster.prefills
        self._decoders = roster.batches
        self._router = router
        self._team = team
        self._ways = ways
        self.layerwise = ways.layerwise
        self._waiting: deque[int] = deque()  # for any decode worker at all
        self.links: Links
        self.early = early
        self._handover_s = handover_s
        self.dispatched = Delays(endings.clock, HANDOVER, self._act)
        self._due: dict[int, float] = {}
        self._flying: dict[int, Flow] = {}
        self.started_bytes = 0.0
        self.delivered_bytes = 0.0
        self.dropped_bytes = 0.0

    @property
    def bytes_in_flight(self) -> float:
        """KV bytes under way."""
        return sum(flow.payload for flow in self._flying.values())

    def opened(self) -> None:
        """Hear that a decode worker is there: whoever waited for one is handed over."""
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            self._hand_over(request)

    def again(self, request: int) -> None:
        """Hand a computed prompt over to another worker than the one it was meant for."""
        self._ledger.transfer_start[request] = float("nan")
        self._ledger.decode_worker[request] = -1
        self._hand_over(request)

    def forget(self, request: int) -> None:
        """Hear that a prompt under way is lost with the worker that computed it."""
        self._due.pop(request, None)

    def cancel(self, request: int) -> bool:
        """Stop handing a request over, whatever it waits for; tell whether that was under way."""
        if request in self._waiting:
            self._waiting.remove(request)
            return True
        if self.dispatched.cancel(request) and isnan(self._ledger.transfer_end[request]):
            return True
        ledger = self._ledger
        worker = self._decoders.get(ledger.decode_worker[request])
        delivered = not isnan(ledger.transfer_end[request])
        if worker is None or ledger.prefill_worker[request] in self._decoders or delivered:
            return False  # it comes from no prefill worker, or has come
        flow = self._flying.pop(request, None)
        if flow is not None:
            self.links.cancel(flow)
            self.dropped_bytes += flow.payload
        self._ledger.decode_worker[request] = -1
        worker.unreserve(request)  # after which it may stop, and lose what is still its own
        return True

    def prefilling(self, request: int, end: float) -> None:
        """Begin a layer-wise hand-over while the prompt is being computed."""
        if self.layerwise and not self._ends_early(request, 1):
            self._due[request] = end
            self._hand_over(request)

    def prefilled(self, request: int) -> None:
        """Hand a computed prompt over, unless that is under way; or it was all there was to do."""
        if self.early:
            self._ledger.shown(request, self._clock.now)
            if self._ledger.prefill_end[request] != self._clock.now:
                self._ledger.shown_at[request] = self._clock.now
        if self._ends_early(request, 0):
            self._endings.completed(request)
            self.release(request)  # after which its worker may stop, and lose what is not over
        elif self.layerwise:
            self._due.pop(request, None)
        else:
            self.dispatched.at(self._clock.now + self._handover_s, request)

    def _act(self, request: int, now: float) -> None:
        """Let the decode side act: begin the hand-over, or take the KV that is there into use."""
        if isnan(self._ledger.transfer_end[request]):
            self._hand_over(request)
            return
        self._ledger.decode_queue_enter[request] = now
        self._decoders[self._ledger.decode_worker[request]].join(request)

    def _ends_early(self, request: int, left: int) -> bool:
        """Tell whether a request ends at its prefill worker, which has ``left`` tokens to give."""
        ledger = self._ledger
        return self.early and ledger.output_tokens[request] == ledger.generated[request] + left

    def release(self, request: int) -> None:
        """Free a prompt at its prefill worker: nobody needs its KV there any more."""
        self._prefills[self._ledger.prefill_worker[request]].release(request)

    def _hand_over(self, request: int) -> None:
        ledger, load = self._ledger, self._team.load
        if not self._team.workers:
            self._waiting.append(request)
            return
        tokens = ledger.prompt_tokens[request]
        index = self._router.place(request, tokens, ledger.output_tokens[request])
        worker = self._team.workers[index]
        ledger.decode_worker[request] = worker.number
        ledger.transfer_queue_enter[request] = self._clock.now
        load.requests[index] += 1
        load.kv_blocks[index] += worker.blocks(tokens)
        worker.reserve(request)

    def reserved(self, request: int) -> None:
        """Send the prompt's KV: its blocks are set aside at the decode worker."""
        flow = self._flow(request)
        self._flying[request] = flow
        self.started_bytes += flow.payload
        self.links.submit(flow)

    def started(self, request: int, now: float) -> None:
        """Hear that the first byte of ``request`` leaves."""
        self._ledger.transfer_start[request] = now

    def _flow(self, request: int) -> Flow:
        ledger = self._ledger
        source, target = ledger.prefill_worker[request], ledger.decode_worker[request]
        egress, ingress, route = self._ways.between(source, target)
        there = self._decoders[target].found(request)
        size, payload = route.sizes(ledger.prompt_tokens[request] - there)
        return Flow(
            request=request,
            egress=egress.next(),
            ingress=ingress.next(),
            size=size,
            latency=route.latency_s,
            cap=route.cap,
            produced_at=self._due.get(request, 0.0),
            tail=size / route.layers,
            payload=payload,
        )

    def deliver(self, request: int, now: float) -> None:
        """Give a transferred prompt to its decode worker and free it at its prefill worker."""
        ledger = self._ledger
        source = self._prefills[ledger.prefill_worker[request]]
        target = self._decoders[ledger.decode_worker[request]]
        size = self._flying.pop(request).payload
        self.delivered_bytes += size
        source.sent += size
        target.received += size
        ledger.transfer_end[request] = now
        source.release(request)
        late = ledger.prefill_end[request] + self._handover_s if self.layerwise else now
        self.dispatched.at(late, request)
