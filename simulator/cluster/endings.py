"""Where every request ends, once: completed, rejected or failed, left by its client included."""

from collections.abc import Callable, Mapping

from simulator.cluster.clock import Clock
from simulator.cluster.ledger import COMPLETED, FAILED, REJECTED, Ledger
from simulator.cluster.worker import Worker


class Endings:
    """Counts the requests that are over; ``all_over`` is the event of the last one's end.

    ``on_end`` hears of each, so that a client who waited for it can send the next.
    """

    __slots__ = ("_decoders", "all_over", "clock", "count", "ledger", "lingering", "on_end")

    def __init__(self, clock: Clock, ledger: Ledger, decoders: Mapping[int, Worker]) -> None:
        self.clock = clock
        self.ledger = ledger
        self._decoders = decoders
        self.all_over = clock.env.event()
        self.count = self.lingering = 0
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

    def left(self, request: int, reason: int, *, lingers: bool) -> None:
        """Record that a client has gone; what ``lingers`` is freed when the step under way ends."""
        self.lingering += lingers
        self.failed(request, reason)

    def vanished(self, request: int) -> None:  # noqa: ARG002 - a listener's
        """Hear that what was left of a request whose client has gone is freed."""
        self.lingering -= 1
        self._end_if_over()

    def _over(self) -> None:
        self.count += 1
        if self.on_end is not None:
            self.on_end()
        if self.count == self.ledger.size:
            self._end_if_over()

    @property
    def closed(self) -> bool:
        """Whether every request is over and nothing of any is left."""
        return self.count == self.ledger.size and not self.lingering

    def _end_if_over(self) -> None:
        if self.closed and not self.all_over.triggered:
            self.all_over.succeed()
