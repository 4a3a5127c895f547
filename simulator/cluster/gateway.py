"""Where requests come in: refused if nobody could ever serve them, else routed to a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.cluster.batch import BatchWorker
from simulator.cluster.endings import Endings
from simulator.cluster.ledger import Ledger
from simulator.cluster.prefill import PrefillWorker
from simulator.cluster.router import Router
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
    """Places arrivals on prefill and mixed workers; ``limits`` are each role's."""

    def __init__(
        self, ledger: Ledger, router: Router, endings: Endings, limits: Mapping[str, Limits]
    ) -> None:
        self._ledger = ledger
        self._router = router
        self._endings = endings
        self._refusals = {role: each.refusals(ledger) for role, each in limits.items()}
        self.workers: Sequence[PrefillWorker | BatchWorker] = ()

    def arrive(self, request: int, now: float) -> None:
        """Let a request in: reject it, or queue it at the worker the router chooses."""
        ledger = self._ledger
        tokens, output = ledger.input_tokens[request], ledger.output_tokens[request]
        index = self._router.place(request, tokens, output)
        worker = self.workers[index]
        if reason := self._refusals[worker.role][request]:
            self._endings.rejected(request, reason)
            return
        ledger.admitted[request] = ledger.prefill_queue_enter[request] = now
        ledger.prefill_worker[request] = worker.number
        load = worker.load
        load.requests[index] += 1
        load.tokens[index] += tokens
        load.kv_blocks[index] += worker.blocks(tokens)
        if worker.role == "mixed":
            ledger.decode_worker[request] = worker.number
        worker.enqueue(request)
