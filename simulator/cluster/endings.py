"""Where every request ends, once: completed, rejected or failed."""

from collections.abc import Callable, Mapping

from simulator.cluster.clock import Clock
from simulator.cluster.ledger import COMPLETED, FAILED, REJECTED, Ledger
from simulator.cluster.worker import Worker


class Endings:
    """Counts the requests that are over; ``all_over`` is the event of the last one's end.

    ``on_end`` hears of each, so that a client who waited for it can send the next.
    """

    __slots__ = ("_decoders", "all_over", "clock", "count", "ledger", "on_end")

    def __init__(self, clock: Clock, ledger: Ledger, decoders: Mapping[int, Worker]) -> None:
        self.clock = clock
        self.ledger = ledger
        self._decoders = decoders
        self.all_over = clock.env.event()
        self.count = 0
        self.on_end: Callable[[], None] | None = None

    def completed(self, request: int) -> None:
        """Record the last token of a request."""
        ledger = self.ledger
        ledger.finish[request] = self.clock.now
        ledger.status[request] = COMPLETED
        decoder = ledger.decode_worker[request]
        if decoder >= 0:
            worker = self._decoders[decoder]
            load, index = worker.load, worker.index
            load.requests[index] -= 1
            load.kv_blocks[index] -= worker.blocks(ledger.prompt_tokens[request])
        self._over()

    def rejected(self, request: int, reason: int) -> None:
        """Record that a request was not let in."""
        self.ledger.status[request] = REJECTED
        self.ledger.reason[request] = reason
        self._over()

    def failed(self, request: int, reason: int) -> None:
        """Record that a request will never have its last token."""
        self.ledger.status[request] = FAILED
        self.ledger.reason[request] = reason
        self._over()

    def _over(self) -> None:
        self.count += 1
        if self.on_end is not None:
            self.on_end()
        if self.count == self.ledger.size:
            self.all_over.succeed()
