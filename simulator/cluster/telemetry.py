"""Samples every worker's gauges on a regular grid, thinning itself when a run gets long."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.clock import GAUGES as COMPONENT
from simulator.cluster.clock import TICK, Alarm, Clock
from simulator.cluster.workers.worker import Worker
from simulator.record import GAUGES

MAX_SAMPLES = 4096


@dataclass(slots=True, eq=False)
class Meter:
    """One worker's blocks in use when last read, at ``since``, and their integral until then."""

    worker: Worker
    since: float
    blocks: int = 0
    block_seconds: float = 0.0

    def read(self, now: float) -> tuple[float, ...]:
        """Return the gauges, in the order of :data:`GAUGES`; the blocks changed evenly until now.

        Reading does not make a worker take stock: it is asked often, and little has changed.
        """
        worker, blocks = self.worker, self.worker.blocks_in_use()
        self.block_seconds += (self.blocks + blocks) / 2 * (now - self.since)
        self.since, self.blocks = now, blocks
        waiting, running = worker.observe()
        busy = worker.busy_seconds(now)
        cached = worker.cached_blocks(blocks)
        return waiting, running, blocks, busy, worker.sent, worker.received, cached


class Telemetry:
    """Keeps at most :data:`MAX_SAMPLES` samples of the workers that are there.

    When full, every second one goes and the interval doubles. ``on_sample`` is called after each
    sample with the time.
    """

    def __init__(self, clock: Clock, interval_s: float, on_sample: Callable[[float], None]) -> None:
        self._clock = clock
        self.interval_s = interval_s
        self._on_sample = on_sample
        self._tick = 0
        self._samples: list[tuple[float, tuple[int, ...], NDArray[np.float64]]] = []
        self._meters: dict[int, Meter] = {}
        self._numbers: tuple[int, ...] = ()
        self._left: dict[int, float] = {}  # block-seconds of those that are gone
        self.alarm = Alarm(clock, COMPONENT)

    def start(self) -> None:
        """Take the first sample when everything else at time 0 has happened."""
        self.alarm.set(0.0, TICK)

    def join(self, worker: Worker) -> None:
        """Read a worker's gauges from now on."""
        self._meters[worker.number] = Meter(worker, self._clock.now)
        self._numbers = ()

    def leave(self, worker: Worker) -> None:
        """Read a worker's gauges for the last time."""
        meter = self._meters.pop(worker.number)
        meter.read(self._clock.now)
        self._left[worker.number] = meter.block_seconds
        self._numbers = ()

    def block_seconds(self) -> dict[int, float]:
        """Return the integral over each worker's blocks in use, until it was last read."""
        there = {number: meter.block_seconds for number, meter in self._meters.items()}
        return self._left | there

    def wake(self, now: float) -> None:
        """Sample, and arm the next sample on the grid."""
        self.sample(now)
        if len(self._samples) >= MAX_SAMPLES:
            self._thin()  # here only: the last sample, at the end of the run, always stays
        self._tick += 1
        self.alarm.set(self._tick * self.interval_s, TICK)
        self._on_sample(now)

    def sample(self, now: float) -> None:
        """Read every worker's gauges."""
        if not self._numbers:
            self._numbers = tuple(self._meters)
        readings: list[float] = []
        for meter in self._meters.values():
            readings += meter.read(now)
        if self._samples and now == self._samples[-1][0]:
            self._samples.pop()
        table = np.array(readings, dtype=np.float64).reshape(-1, len(GAUGES))
        self._samples.append((now, self._numbers, table))

    def _thin(self) -> None:
        """Keep every second sample; the next ones come half as often."""
        self._samples = self._samples[::2]
        self.interval_s *= 2
        self._tick //= 2

    def timeline(self, workers: int) -> dict[str, NDArray[np.float64]]:
        """Return ``time_s`` (T,) and every gauge (T, workers), NaN where a worker was not there."""
        table = np.full((len(self._samples), workers, len(GAUGES)), np.nan)
        for at, (_, numbers, rows) in enumerate(self._samples):
            if numbers:
                table[at, numbers, :] = rows
        columns = {name: table[:, :, at] for at, name in enumerate(GAUGES)}
        return {"time_s": np.array([now for now, _, _ in self._samples]), **columns}
