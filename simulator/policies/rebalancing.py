"""Which decode workers give sequences to which others while they run, asked now and then.

Source: Llumnix (OSDI '24), ``llumnix/load_computation.py`` and ``migration_policy.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Loaded(NamedTuple):
    """A decode worker: ``blocks`` in use and wanted by those that wait, of its ``capacity``.

    ``requests`` decode or wait there, and the shortest that decodes has so many blocks (0: none).
    """

    blocks: int
    wanted: int
    capacity: int
    requests: int
    shortest: int


class Rebalancing(Protocol):
    """A pure choice of moves, asked every ``interval_s`` (``None``: never)."""

    @property
    def interval_s(self) -> float | None:
        """Seconds between askings."""
        ...

    def moves(self, workers: Sequence[Loaded]) -> Sequence[tuple[int, int]]:
        """Return pairs of workers, from and to: the first one's shortest sequence is to move."""
        ...


@dataclass(frozen=True, slots=True)
class NeverRebalance:
    """A sequence ends where it began to decode."""

    @property
    def interval_s(self) -> float | None:
        """Never."""
        return None

    def moves(self, workers: Sequence[Loaded]) -> Sequence[tuple[int, int]]:  # noqa: ARG002
        """Return nothing."""
        return ()


METRICS = ("kv_ratio", "remaining_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class HottestToColdest:
    """Llumnix's pairing: the hottest gives to the coldest, the second to the second coldest.

    A worker's load is the share of its blocks in use or wanted (``kv_ratio``), or the fewer the
    steps that its free blocks last, one for each request and step, the more (``remaining_steps``).
    A pair moves its hotter worker's shortest sequence if that makes their loads differ by less, and
    does not turn them round. Llumnix asks every 0.05 s; ``interval_s`` as shipped is ours.
    """

    metric: str = "kv_ratio"
    interval_s: float | None = 0.5

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(
                f"hottest_to_coldest: metric must be one of {', '.join(METRICS)} but got "
                f"{self.metric!r}"
            )
        if self.interval_s is None or not 0.01 <= self.interval_s < math.inf:
            raise ValueError(
                f"hottest_to_coldest: interval_s must be at least 0.01 s but got "
                f"{self.interval_s!r}"
            )

    def _load(self, worker: Loaded, blocks: int = 0, requests: int = 0) -> float:
        """Return a worker's load with so many blocks and requests more."""
        taken = worker.blocks + worker.wanted + blocks
        if self.metric == "kv_ratio":
            return taken / worker.capacity
        return -(worker.capacity - taken) / max(1, worker.requests + requests)

    def moves(self, workers: Sequence[Loaded]) -> Sequence[tuple[int, int]]:
        """Return the pairs whose loads a move brings nearer to each other."""
        loads = [self._load(worker) for worker in workers]
        order = sorted(range(len(workers)), key=lambda at: (-loads[at], at))
        found = []
        for hot, cold in zip(order[: len(order) // 2], order[::-1], strict=False):
            blocks = workers[hot].shortest
            after = self._load(workers[hot], -blocks, -1) - self._load(workers[cold], blocks, 1)
            if blocks and 0 < after < loads[hot] - loads[cold]:
                found.append((hot, cold))
        return found
