"""What is written to memories beneath the KV caches where that takes time."""

from collections import deque
from typing import TYPE_CHECKING, Protocol

from simulator.cluster.links.transfers import Flow, Port
from simulator.cluster.workers.prompts import Path

if TYPE_CHECKING:
    from simulator.cluster.pools.tiers import Store


class Carrier(Protocol):
    """What brings blocks to a memory."""

    def put(self, writer: "Writer", blocks: int) -> Flow:
        """Begin to bring so many blocks."""
        ...

    def stop(self, flow: Flow) -> float:
        """Stop bringing; return the bytes that have crossed."""
        ...


class Writer:
    """Brings blocks through ``port`` from a worker, or from the memory above, to a ``store``.

    One path after the other: of each what the store has not when it is its turn. The store has
    them when all have come. What waits takes no room anywhere.
    """

    __slots__ = ("_carrier", "_path", "_waiting", "flow", "port", "store")

    def __init__(self, carrier: Carrier, store: "Store", port: Port) -> None:
        self._carrier = carrier
        self.store = store
        self.port = port
        self._waiting: deque[Path] = deque()
        self._path: Path = ()
        self.flow: Flow | None = None

    def write(self, path: Path) -> None:
        """Bring all blocks of a path, after those that wait already."""
        self._waiting.append(path)
        if self.flow is None:
            self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self.flow is None:
            self._path = self._waiting.popleft()
            missing = self.store.missing(self._path)
            if missing:
                self.flow = self._carrier.put(self, missing)
            else:
                self.store.keep(self._path)

    def delivered(self) -> None:
        """Let the store have what has come, and bring the next."""
        self.flow = None
        self.store.keep(self._path)
        self._go_on()

    def stop(self) -> None:
        """Bring nothing more: what it came from is gone."""
        self._waiting.clear()
        if self.flow is not None:
            self._carrier.stop(self.flow)
            self.flow = None
