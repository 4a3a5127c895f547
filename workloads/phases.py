"""Traffic that changes its kind: synthetic workloads one after the other."""

from dataclasses import dataclass

import numpy as np

from workloads.combining import splice_at
from workloads.errors import TraceError
from workloads.trace import Trace
from workloads.workload import SyntheticWorkload


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Each of ``phases`` for its ``duration_s``, then the next: a day whose mix of lengths shifts.

    Raises:
        TraceError: there is none, or one without a duration or with clients that wait.
    """

    phases: tuple[SyntheticWorkload, ...]

    def __post_init__(self) -> None:
        if not self.phases:
            raise TraceError("phases: give at least one workload")
        for at, phase in enumerate(self.phases):
            if phase.duration_s is None:
                raise TraceError(f"phases: phases[{at}] needs duration_s, when the next begins")
            if phase.concurrency is not None:
                raise TraceError(
                    f"phases: phases[{at}] must send by the clock, but has concurrency "
                    f"{phase.concurrency}"
                )

    @property
    def concurrency(self) -> int | None:
        """Nobody here waits for an answer."""
        return None

    def trace(self, rng_arrivals: np.random.Generator, rng_lengths: np.random.Generator) -> Trace:
        """Return the requests of all phases, each from its own start; they share the streams."""
        traces = [phase.trace(rng_arrivals, rng_lengths) for phase in self.phases]
        lasting = [phase.duration_s or 0.0 for phase in self.phases]
        return splice_at(traces, np.concatenate([[0.0], np.cumsum(lasting[:-1])]).tolist())
