"""Samples every worker's gauges on a regular grid, thinning itself when a run gets long."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.clock import GAUGES as COMPONENT
from simulator.cluster.clock import TICK, Alarm, Clock
from simulator.cluster.worker import Worker
from simulator.record import GAUGES

MAX_SAMPLES = 4096
Gauges = tuple[float, ...]


class Telemetry:
    """Keeps at most :data:`MAX_SAMPLES` samples of the workers that are there.

    When full, every second one goes and the interval doubles. ``on_sample`` is called after each
    sample with the time.
    """

    def __init__(self, clock: Clock, interval_s: float, on_sample: Callable[[float], None]) -> None:
        self._clock = clock
        self._interval = interval_s
        self._on_sample = on_sample
        self._tick = 0
        self._samples: list[tuple[float, tuple[int, ...], list[Gauges]]] = []
        self._workers: dict[int, Worker] = {}
        self._numbers: tuple[int, ...] = ()
        self._latest: dict[int, tuple[float, int]] = {}  # when, and blocks in use then
        self.block_seconds: dict[int, float] = {}
        self.alarm = Alarm(clock, COMPONENT)

    def start(self) -> None:
        """Take the first sample when everything else at time 0 has happened."""
        self.alarm.set(0.0, TICK)

    def join(self, worker: Worker) -> None:
        """Read a worker's gauges from now on."""
        self._workers[worker.number] = worker
        self._numbers = tuple(self._workers)
        self._latest[worker.number] = self._clock.now, 0
        self.block_seconds[worker.number] = 0.0

    def leave(self, worker: Worker) -> None:
        """Read a worker's gauges for the last time."""
        self._integrate(worker, self._clock.now)
        del self._workers[worker.number]
        self._numbers = tuple(self._workers)

    def wake(self, now: float) -> None:
        """Sample, and arm the next sample on the grid."""
        self.sample(now)
        if len(self._samples) >= MAX_SAMPLES:
            self._thin()  # here only: the last sample, at the end of the run, always stays
        self._tick += 1
        self.alarm.set(self._tick * self._interval, TICK)
        self._on_sample(now)

    def sample(self, now: float) -> None:
        """Read every worker's gauges."""
        workers = self._workers.values()
        rows = [self._gauges(worker, now) for worker in workers]
        if self._samples and now == self._samples[-1][0]:
            self._samples.pop()
        for worker in workers:
            self._integrate(worker, now)
        self._samples.append((now, self._numbers, rows))

    def _thin(self) -> None:
        """Keep every second sample; the next ones come half as often."""
        self._samples = self._samples[::2]
        self._interval *= 2
        self._tick //= 2

    def _integrate(self, worker: Worker, now: float) -> None:
        """Add the block-seconds since the last reading, the blocks changing evenly."""
        before, blocks = self._latest[worker.number]
        self.block_seconds[worker.number] += (blocks + worker.used) / 2 * (now - before)
        self._latest[worker.number] = now, worker.used

    @staticmethod
    def _gauges(worker: Worker, now: float) -> Gauges:
        waiting, running = worker.observe()
        return (
            waiting,
            running,
            worker.used,
            worker.busy_seconds(now),
            worker.sent,
            worker.received,
        )

    def timeline(self, workers: int) -> dict[str, NDArray[np.float64]]:
        """Return ``time_s`` (T,) and every gauge (T, workers), NaN where a worker was not there."""
        table = np.full((len(self._samples), workers, len(GAUGES)), np.nan)
        for at, (_, numbers, rows) in enumerate(self._samples):
            if rows:
                table[at, numbers, :] = rows
        columns = {name: table[:, :, at] for at, name in enumerate(GAUGES)}
        return {"time_s": np.array([now for now, _, _ in self._samples]), **columns}
