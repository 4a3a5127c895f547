"""What a worker that stops or dies held: parted with, or begun anew elsewhere."""

from math import isnan

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.ledger import INCOMPLETE
from simulator.cluster.moves.handoff import Handoff
from simulator.cluster.moves.migration import Migration
from simulator.cluster.pools.team import AnyWorker
from simulator.cluster.traffic.endings import Endings
from simulator.cluster.traffic.gateway import Gateway
from simulator.cluster.workers.batch import BatchWorker
from simulator.record import REASONS


class Departures:
    """Sees to it that every request of a departing worker still ends exactly once."""

    def __init__(
        self,
        endings: Endings,
        gateway: Gateway,
        handoff: Handoff,
        migration: Migration,
        max_retries: int,
    ) -> None:
        self._endings = endings
        self._ledger = endings.ledger
        self._gateway = gateway
        self._handoff = handoff
        self._migration = migration
        self._early = handoff.early
        self._max_retries = max_retries
        self._first = 0

    def part(self, worker: AnyWorker) -> None:
        """Let others have what a worker has not begun, in the order it came."""
        now = self._endings.clock.now
        for request in worker.surrender():
            self._gateway.place(request, now)
        if isinstance(worker, BatchWorker):
            for request in worker.decline():
                self._handoff.again(request)

    def lose(self, worker: AnyWorker) -> None:
        """Take from a worker that is gone all it held, in the order it arrived."""
        self.part(worker)
        held, under_way = self._held(worker), worker.under_way
        stopped = {request for request in held if self._stop(request)}
        worker.die()
        for request in held:
            if request in stopped and worker.role == "decode":
                self._handoff.again(request)  # its KV is safe where it was computed
            else:
                self._handoff.forget(request)
                self._begin_anew(request, computed=request not in under_way)

    def _stop(self, request: int) -> bool:
        """Stop a request on its way; tell whether its KV is safe where it comes from."""
        if request in self._migration.moves:
            self._migration.drop(request)
            return False
        return self._handoff.cancel(request)

    def _held(self, worker: AnyWorker) -> list[int]:
        """Return the requests whose KV, or a place for it, a worker has."""
        ledger, begun = self._ledger, self._begun()
        if worker.role == "prefill":
            held = np.asarray(ledger.prefill_worker)[begun] == worker.number
            held &= np.isnan(np.asarray(ledger.transfer_end)[begun])
        else:
            held = np.asarray(ledger.decode_worker)[begun] == worker.number
        return sorted([*begun[held].tolist(), *self._migration.leaving(worker)])

    def _begun(self) -> NDArray[np.int64]:
        """Return the requests that were let in and have not ended.

        Those before the first of them are never looked at again.
        """
        ledger = self._ledger
        status = np.asarray(ledger.status)[self._first : ledger.entered]
        begun = np.flatnonzero(status == INCOMPLETE) + self._first
        self._first = int(begun[0]) if len(begun) else ledger.entered
        return begun

    def _begin_anew(self, request: int, *, computed: bool) -> None:
        """Let a lost request start again with what it has, or give it up after too many times.

        ``computed``: its prompt was, so that its tokens have to be computed once more.
        """
        ledger, now = self._ledger, self._endings.clock.now
        if ledger.retries[request] >= self._max_retries:
            if not computed:
                ledger.give_up(request)
            self._endings.failed(request, REASONS.index("worker_lost"))
            return
        if computed:
            self._redo(request)
        ledger.begin_anew(request)
        self._gateway.place(request, now)

    def _redo(self, request: int) -> None:
        """Count a computed prompt as to be computed again; a token nobody saw does not count."""
        ledger = self._ledger
        if self._unseen(request):
            ledger.generated[request] -= 1
            ledger.unseen_tokens += 1
        else:
            ledger.lost_at.setdefault(request, ledger.last_shown(request))
        known = ledger.input_tokens[request] + ledger.generated[request]
        ledger.recomputed_tokens[request] += known - 1

    def _unseen(self, request: int) -> bool:
        """Tell whether nobody saw the token that ended a computed prompt."""
        ledger = self._ledger
        if not isnan(ledger.decode_join[request]):
            return False
        return not self._early or isnan(ledger.first_token[request]) or request in ledger.lost_at
