"""Where requests come in: refused if nobody could or should serve them, else put in a queue."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

import numpy as np

from simulator.clients import Clients
from simulator.cluster.delays import Delays
from simulator.cluster.ledger import Ledger
from simulator.cluster.pools.router import Router
from simulator.cluster.pools.team import AnyWorker, Team
from simulator.cluster.traffic.bypass import Bypass
from simulator.cluster.traffic.endings import Endings
from simulator.cluster.traffic.entrance import Entrance
from simulator.cluster.traffic.flipper import Flipper
from simulator.cluster.traffic.held import Held
from simulator.record import REASONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker's request may need at most: KV blocks at its first and at its last worker."""

    max_context: int
    block_size: int
    kv_blocks: int
    last_block_size: int
    last_kv_blocks: int

    def refusals(self, ledger: Ledger) -> bytes:
        """Return, per request, why it could never be served (an index of REASONS), or 0."""
        columns = ledger.columns()
        inputs = columns["input_tokens"].astype(np.int64)
        whole = inputs + columns["output_tokens"] - 1
        checks = (
            ("exceeds_context", whole + 1 > self.max_context),
            ("exceeds_kv_capacity", -(-whole // self.last_block_size) > self.last_kv_blocks),
            ("exceeds_prefill_kv_capacity", -(-inputs // self.block_size) > self.kv_blocks),
        )
        reasons = np.zeros(len(inputs), dtype=np.uint8)
        for reason, refused in checks:
            reasons[refused & (reasons == 0)] = REASONS.index(reason)
        return reasons.tobytes()


class Gateway:
    """Places arrivals on prefill and mixed workers; ``limits`` are each role's.

    An ``entrance`` (``None``: everybody is let in) is asked about each once; a ``flipper`` hears
    where each that is new was placed. A ``bypass`` may have decode workers compute prompts. With
    ``held`` prompts wait here, in its order, as long as its gate is closed.
    """

    def __init__(
        self,
        endings: Endings,
        router: Router,
        team: Team[AnyWorker],
        limits: Mapping[str, Limits],
        entrance: Entrance | None = None,
        flipper: Flipper | None = None,
    ) -> None:
        self._ledger = endings.ledger
        self._router = router
        self._team = team
        self._endings = endings
        self._refusals = {role: each.refusals(self._ledger) for role, each in limits.items()}
        self._waiting: deque[int] = deque()  # for any worker at all
        self._entrance = entrance
        self._flipper = flipper
        self.bypass: Bypass | None = None
        self.held: Held | None = None
        self.clients = Clients()
        self.entering: Delays | None = None  # which a request passes that is sent again

    @property
    def unplaced(self) -> int:
        """Requests that are with no worker yet."""
        return len(self._waiting) + (0 if self.held is None else len(self.held))

    def eased(self) -> None:
        """Hear that fewer prompt tokens wait at a worker, or that there are other workers."""
        if self.held is not None:
            self.held.look()

    def opened(self) -> None:
        """Hear that a worker is there: whoever waited for one is placed, first come first."""
        now = self._endings.clock.now
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            self.place(request, now)
        self.eased()

    def forget(self, request: int) -> bool:
        """Let a request go that waits for a worker; tell whether it was one."""
        if request in self._waiting:
            self._waiting.remove(request)
            return True
        return self.held is not None and self.held.forget(request)

    def wake(self, _: float) -> None:
        """Place who was held, as long as they may go."""
        held = self.held
        if held is None:
            return
        while held.can_go:
            request, new = held.take()
            worker = self._chosen(request)
            if reason := self._refusals[worker.role][request]:  # another role's than foreseen
                self._endings.rejected(request, reason)
            else:
                self._queue(request, worker, new=new)
        held.rest()

    def place(self, request: int, now: float) -> None:
        """Let a request in, or in again: reject it, or queue it where the router says."""
        ledger, team = self._ledger, self._team
        if not team.workers:
            self._waiting.append(request)
            return
        held = self.held is not None and self.held.holds
        worker = self._foreseen(request) if held else self._chosen(request)
        if reason := self._refusals[worker.role][request]:
            self._endings.rejected(request, reason)
            return
        if reason := self._unwanted(request, worker):
            if not self._comes_again(request, now):
                self._endings.rejected(request, reason)
            return
        queued = ledger.prefill_queue_enter
        new = isnan(queued[request])
        if new:  # NaN: it does not come from another queue
            ledger.admitted[request] = queued[request] = now
            if request >= ledger.entered:
                ledger.entered = request + 1
        if held and self.held is not None:
            self.held.hold(request, ledger.prompt_tokens[request], new=new)
        else:
            self._queue(request, worker, new=new)

    def _queue(self, request: int, worker: AnyWorker, *, new: bool) -> None:
        """Put a request into a worker's queue."""
        ledger = self._ledger
        tokens = ledger.prompt_tokens[request]
        ledger.prefill_worker[request] = worker.number
        load, index = worker.load, worker.index
        load.requests[index] += 1
        load.tokens[index] += tokens - ledger.expected.get(request, 0)
        load.kv_blocks[index] += worker.blocks(tokens)
        if worker.role != "prefill":
            ledger.decode_worker[request] = worker.number
        worker.enqueue(request)
        if new and self._flipper is not None:
            self._flipper.placed(request, tokens, worker)

    def _foreseen(self, request: int) -> AnyWorker:
        """Return who would compute a prompt now."""
        ledger = self._ledger
        lengths = ledger.prompt_tokens[request], ledger.output_tokens[request]
        return self._team.workers[self._router.peek(request, *lengths)[0]]

    def _chosen(self, request: int) -> AnyWorker:
        """Return who computes a prompt."""
        ledger = self._ledger
        tokens, output = ledger.prompt_tokens[request], ledger.output_tokens[request]
        if self.bypass is not None:
            worker = self.bypass.placed(request, tokens, output)
            if worker is not None:
                return worker
        return self._team.workers[self._router.place(request, tokens, output)]

    def _comes_again(self, request: int, now: float) -> bool:
        """Tell whether the client of a request that was turned away sends it again, later."""
        ledger, clients = self._ledger, self.clients
        before = ledger.resends[request]
        if before >= clients.resends or self.entering is None:
            return False
        ledger.resends[request] = before + 1
        self.entering.at(now + clients.resend_after_s * 2.0**before, request)
        return True

    def _unwanted(self, request: int, worker: AnyWorker) -> int:
        """Return why a request that was not let in before is not let in now, or 0."""
        entrance, ledger = self._entrance, self._ledger
        if entrance is None or ledger.retries[request] or not isnan(ledger.admitted[request]):
            return 0
        return entrance.ask(request, worker)
