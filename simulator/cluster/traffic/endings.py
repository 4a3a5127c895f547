"""Where every request ends, once: completed, rejected or failed, left by its client included."""

from collections.abc import Callable, Mapping

from simulator.cluster.clock import Clock
from simulator.cluster.ledger import COMPLETED, FAILED, REJECTED, Ledger
from simulator.cluster.workers.worker import Worker


class Endings:
    """Counts the requests that are over; ``all_over`` is the event of the last one's end.

    ``on_end`` hears of each, so that whoever waited for it can send the next, and tells how many
    requests will therefore ``never`` be sent; these are over too.
    """

    __slots__ = (
        *("_decoders", "all_over", "clock", "count", "ledger", "lingering", "never", "on_end"),
    )

    def __init__(self, clock: Clock, ledger: Ledger, decoders: Mapping[int, Worker]) -> None:
        self.clock = clock
        self.ledger = ledger
        self._decoders = decoders
        self.all_over = clock.env.event()
        self.count = self.lingering = self.never = 0
        self.on_end: Callable[[int], int]

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
        self._over(request)

    def rejected(self, request: int, reason: int) -> None:
        """Record that a request was not let in."""
        self.ledger.status[request] = REJECTED
        self.ledger.reason[request] = reason
        self._over(request)

    def failed(self, request: int, reason: int) -> None:
        """Record that a request will never have its last token."""
        self.ledger.status[request] = FAILED
        self.ledger.reason[request] = reason
        self._over(request)

    def left(self, request: int, reason: int, *, lingers: bool) -> None:
        """Record that a client has gone; what ``lingers`` is freed when the step under way ends."""
        self.lingering += lingers
        self.failed(request, reason)

    def vanished(self, request: int) -> None:  # noqa: ARG002 - a listener's
        """Hear that what was left of a request whose client has gone is freed."""
        self.lingering -= 1
        self._end_if_over()

    def _over(self, request: int) -> None:
        self.count += 1
        never = self.on_end(request)
        self.never += never
        if self.done == self.ledger.size:
            self._end_if_over()

    @property
    def done(self) -> int:
        """How many requests are over, those that will never be sent included."""
        return self.count + self.never

    @property
    def closed(self) -> bool:
        """Whether every request is over and nothing of any is left."""
        return self.done == self.ledger.size and not self.lingering

    def _end_if_over(self) -> None:
        if self.closed and not self.all_over.triggered:
            self.all_over.succeed()
