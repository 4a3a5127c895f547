"""What is brought up from SSDs and a store to host memory while prompts wait in queues."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from simulator.cache_tiers import Prefetch
from simulator.cluster.clock import PATIENCE, Clock
from simulator.cluster.links.transfers import Arrivals, Flow, Port
from simulator.cluster.pools.team import AnyWorker
from simulator.cluster.workers.prompts import Path, first

if TYPE_CHECKING:
    from simulator.cluster.pools.tiers import Store

ALMOST = 1e-6
"""A block of which so small a part lacks has come, but for rounding."""

Reach = Sequence[tuple["Store", Port]]
"""The memories a worker reaches, from near to far, and through which port each."""


class Carrier(Protocol):
    """What brings blocks from a memory."""

    def send(self, request: int, port: Port, store: "Store", blocks: int) -> Flow:
        """Begin to bring so many blocks for a prompt."""
        ...

    def stop(self, flow: Flow) -> float:
        """Stop bringing; return the bytes that have crossed."""
        ...


class Part(NamedTuple):
    """Blocks ``begin`` to ``end`` of a prompt, which come from one memory through a port."""

    port: Port
    store: "Store"
    begin: int
    end: int


@dataclass(slots=True, eq=False)
class Raising:
    """A prompt of which ``parts`` are brought up to ``host``, in turn: ``done`` of them are there.

    Room for all of them is set aside there. Its worker does not begin it before ``deadline`` as
    long as it ``waits``; ``flow`` is what is on the wire.
    """

    worker: AnyWorker
    host: "Store"
    path: Path
    parts: list[Part]
    deadline: float
    waits: bool
    done: int = 0
    flow: Flow | None = None

    @property
    def blocks(self) -> int:
        """All blocks to be brought up."""
        return self.parts[-1].end - self.parts[0].begin


@dataclass(slots=True)
class Raised:
    """What came of a prompt before it was begun: parts, as far as they came.

    Of it the host had ``had`` blocks before.
    """

    parts: list[Part] = field(default_factory=list)
    had: int = 0


class Prefetches:
    """Brings up what prompts in queues will need, for each worker one prompt after the other.

    What came for a prompt stays in the room set aside for it until the prompt is begun, and is in
    the host's memory for all from then on. A prompt that leaves takes it along.
    """

    def __init__(
        self, spec: Prefetch, size: int, block_bytes: float, clock: Clock, carrier: Carrier
    ) -> None:
        self._spec = spec
        self._size = size
        self._block_bytes = block_bytes
        self._clock = clock
        self._carrier = carrier
        self._all: dict[int, Raising] = {}
        self._queues: dict[int, OrderedDict[int, Raising]] = {}  # by worker
        self.patience = Arrivals(clock, self._lose_patience, PATIENCE)

    @property
    def flows(self) -> list[Flow]:
        """What is on the wire."""
        return [each.flow for each in self._all.values() if each.flow is not None]

    def begin(self, worker: AnyWorker, reach: Reach, request: int, tokens: int) -> bool:
        """Bring up what there is of a prompt that joins a queue; tell whether it is to wait."""
        raising = self._planned(worker, reach, request, tokens)
        if raising is None:
            return False
        raising.host.set_aside(raising.blocks)
        self._all[request] = raising
        queue = self._queues.setdefault(worker.number, OrderedDict())
        queue[request] = raising
        if len(queue) == 1:
            self._send(request, raising)
        if raising.waits and self._spec.policy == "timeout":
            self.patience.at(raising.deadline, request)
        return raising.waits

    def _planned(
        self, worker: AnyWorker, reach: Reach, request: int, tokens: int
    ) -> Raising | None:
        """Return what is to be brought up of a prompt, if it is enough, and has room."""
        (host, _), *far = reach
        assert worker.cache is not None  # noqa: S101 - nobody else reaches memories
        worker.take_stock()  # what it has taken by now is no longer in its cache
        near = host.find(request, tokens)
        begin = have = max(worker.cache.find(request, tokens).blocks, near.blocks)
        most = begin + int(self._spec.host_share * host.capacity) - host.reserved - near.blocks
        parts: list[Part] = []
        for store, port in far:
            found = store.find(request, tokens).blocks
            if found > have * store.threshold and have < most:
                parts.append(Part(port, store, have, min(found, most)))
                have = parts[-1].end
        more = (have - begin) * self._size
        if not parts or more < self._spec.threshold_tokens:
            return None
        for part in parts:
            part.store.keep(first(near.path, part.end))
        if near.blocks:
            host.keep(first(near.path, near.blocks))
        now = self._clock.now
        deadline = now + self._spec.patience_s(more)
        return Raising(worker, host, near.path, parts, deadline, waits=deadline > now)

    def _send(self, request: int, raising: Raising) -> None:
        part = raising.parts[raising.done]
        raising.flow = self._carrier.send(request, part.port, part.store, part.end - part.begin)

    def delivered(self, request: int) -> float:
        """Bring the next part of a prompt, or what another needs; return the bytes that came."""
        raising = self._all[request]
        assert raising.flow is not None  # noqa: S101 - it has just come
        came, raising.flow = raising.flow.payload, None
        raising.done += 1
        if raising.done < len(raising.parts):
            self._send(request, raising)
            return came
        self._go_on_after(request, raising)
        self._wait_no_more(request, raising)
        return came

    def _go_on_after(self, request: int, raising: Raising) -> None:
        """Bring what the worker's next prompt needs if this one had its turn."""
        queue = self._queues[raising.worker.number]
        turn = next(iter(queue)) == request
        del queue[request]
        if queue and turn:
            self._send(*next(iter(queue.items())))

    def _lose_patience(self, request: int, _: float) -> None:
        raising = self._all.get(request)
        if raising is not None and raising.deadline <= self._clock.now:
            self._wait_no_more(request, raising)

    @staticmethod
    def _wait_no_more(request: int, raising: Raising) -> None:
        if raising.waits:
            raising.waits = False
            raising.worker.prefetched(request)

    def give_up(self, request: int) -> None:
        """Let go of all that was brought up of a prompt that leaves its queue."""
        if request in self._all:
            self._end(request)

    def stage(self, request: int, tokens: int) -> Raised:
        """Let host memory have what came of a prompt that is begun."""
        raising = self._all.get(request)
        if raising is None:
            return Raised()
        raised = Raised(self._end(request), raising.host.find(request, tokens).blocks)
        if raised.parts:
            raising.host.keep(first(raising.path, raised.parts[-1].end))
        return raised

    def _end(self, request: int) -> list[Part]:
        """End a prefetch; return its parts, as far as they came."""
        raising = self._all.pop(request)
        came = raising.parts[: raising.done]
        for part in came:
            part.store.prefetched_bytes += (part.end - part.begin) * self._block_bytes
        if raising.flow is not None:
            part = raising.parts[raising.done]
            crossed = self._carrier.stop(raising.flow)
            part.store.prefetched_bytes += crossed
            blocks = int(crossed / self._block_bytes + ALMOST)
            came += [part._replace(end=part.begin + blocks)] if blocks else []
        if raising.done < len(raising.parts):
            self._go_on_after(request, raising)
        for part in came:
            part.store.prefetched_blocks += part.end - part.begin
        raising.host.set_aside(-raising.blocks)
        return came

    @staticmethod
    def count(raised: Raised, known: int, upto: int) -> None:
        """Count what served a prompt of what came: of blocks up to ``upto``, but ``known`` ones."""
        known = max(known, raised.had)
        for part in raised.parts:
            part.store.prefetch_used_blocks += max(0, min(part.end, upto) - max(part.begin, known))
