"""The workers one router chooses among."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from simulator.cluster.workers.batch import BatchWorker
from simulator.cluster.workers.prefill import PrefillWorker
from simulator.cluster.workers.worker import Load, Worker

AnyWorker = PrefillWorker | BatchWorker


class Roster:
    """Every worker there has been, by number and kind."""

    __slots__ = ("batches", "prefills")

    def __init__(self) -> None:
        self.prefills: dict[int, PrefillWorker] = {}
        self.batches: dict[int, BatchWorker] = {}

    def add(self, worker: AnyWorker) -> None:
        """Enter a worker."""
        if isinstance(worker, PrefillWorker):
            self.prefills[worker.number] = worker
        else:
            self.batches[worker.number] = worker

    def __getitem__(self, number: int) -> AnyWorker:
        """Return the worker of that number."""
        return self.prefills.get(number) or self.batches[number]

    def __iter__(self) -> Iterator[AnyWorker]:
        """Yield every worker by rising number."""
        every: dict[int, AnyWorker] = {**self.prefills, **self.batches}
        return (every[number] for number in sorted(every))


W = TypeVar("W", bound=Worker)


class Team(Generic[W]):
    """The ready workers of one stage, densely numbered, by rising worker number.

    Joining and leaving cost the size of the team; placing a request costs nothing of that kind.
    A worker that leaves keeps its own account of what it holds, which no router sees.
    """

    __slots__ = ("changes", "load", "workers")

    def __init__(self) -> None:
        self.workers: list[W] = []
        self.load = Load.of(0)
        self.changes = 0

    def join(self, worker: W) -> None:
        """Let the router see a worker, idle and the latest of all."""
        worker.index, worker.load = len(self.workers), self.load
        self.workers.append(worker)
        self.changes += 1
        for column in self.load.columns():
            column.append(0)

    def leave(self, worker: W) -> None:
        """Hide a worker from the router, with what it holds; nothing if it is hidden already."""
        if worker.load is not self.load:
            return
        index = worker.index
        del self.workers[index]
        self.changes += 1
        worker.index, worker.load = (
            0,
            Load(*([column.pop(index)] for column in self.load.columns())),
        )
        for moved in self.workers[index:]:
            moved.index -= 1
