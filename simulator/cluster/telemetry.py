"""Samples every worker's gauges on a regular grid, thinning itself when a run gets long."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.clock import GAUGES as COMPONENT
from simulator.cluster.clock import TICK, Alarm, Clock
from simulator.cluster.worker import Worker
from simulator.record import GAUGES

MAX_SAMPLES = 4096


class Telemetry:
    """Keeps at most :data:`MAX_SAMPLES` samples.

    When full, every second one goes and the interval doubles. ``on_sample`` is called after each
    sample with the time.
    """

    def __init__(
        self,
        clock: Clock,
        interval_s: float,
        on_sample: Callable[[float], None],
    ) -> None:
        self._interval = interval_s
        self._on_sample = on_sample
        self._tick = 0
        self._samples: list[tuple[float, list[tuple[float, ...]]]] = []
        self._last = 0.0
        self._latest: list[tuple[float, ...]] = []
        self.workers: list[Worker] = []
        self.block_seconds: list[float] = []
        self.alarm = Alarm(clock, COMPONENT)

    def start(self) -> None:
        """Take the first sample when everything else at time 0 has happened."""
        self.block_seconds = [0.0] * len(self.workers)
        self.alarm.set(0.0, TICK)

    def wake(self, now: float) -> None:
        """Sample, and arm the next sample on the grid."""
        self.sample(now)
        self._tick += 1
        self.alarm.set(self._tick * self._interval, TICK)
        self._on_sample(now)

    def sample(self, now: float) -> None:
        """Read every worker's gauges."""
        row = [self._gauges(worker, now) for worker in self.workers]
        if self._samples:
            if now == self._last:
                self._samples.pop()
            for index, (before, after) in enumerate(zip(self._latest, row, strict=True)):
                mean = (before[2] + after[2]) / 2
                self.block_seconds[index] += mean * (now - self._last)
        self._latest, self._last = row, now
        self._samples.append((now, row))
        if len(self._samples) >= MAX_SAMPLES:
            self._samples = self._samples[::2]
            self._interval *= 2
            self._tick //= 2

    @staticmethod
    def _gauges(worker: Worker, now: float) -> tuple[float, ...]:
        waiting, running = worker.observe()
        return (
            waiting,
            running,
            worker.used,
            worker.busy_seconds(now),
            worker.sent,
            worker.received,
        )

    def timeline(self) -> dict[str, NDArray[np.float64]]:
        """Return ``time_s`` (T,) and every gauge (T, workers)."""
        table = np.array([row for _, row in self._samples], dtype=np.float64)
        table = table.reshape(len(self._samples), len(self.workers), len(GAUGES))
        columns = {name: table[:, :, at] for at, name in enumerate(GAUGES)}
        return {"time_s": np.array([now for now, _ in self._samples]), **columns}
