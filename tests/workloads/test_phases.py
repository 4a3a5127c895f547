"""Phases: workloads one after the other, each for its own time."""

import numpy as np
import pytest

from workloads import arrivals, lengths
from workloads.errors import TraceError
from workloads.phases import Phases
from workloads.workload import SyntheticWorkload


def phase(rate: float, tokens: int, duration_s: float | None = 10.0) -> SyntheticWorkload:
    """Return constant traffic of one size."""
    return SyntheticWorkload(
        arrivals=arrivals.Constant(rate=rate),
        input_lengths=lengths.Constant(tokens=tokens),
        output_lengths=lengths.Constant(tokens=5),
        duration_s=duration_s,
        requests=None if duration_s else 5,
    )


def test_each_phase_has_its_time_and_its_lengths() -> None:
    """The second begins when the first one's duration is over, not when its last request came."""
    both = Phases(phases=(phase(1.0, 100), phase(2.0, 7, 5.0), phase(0.5, 3, 5.0)))
    trace = both.trace(np.random.default_rng(0), np.random.default_rng(1))
    times = trace.column("arrival_s")
    tokens = trace.column("input_tokens")
    assert times[tokens == 100].tolist() == [1.0 * k for k in range(1, 10)]
    assert times[tokens == 7].tolist() == [10 + 0.5 * k for k in range(1, 10)]
    assert times[tokens == 3].tolist() == [17.0, 19.0]
    assert trace.meta.rows_kept == len(trace) == 20
    assert both.concurrency is None


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ((), "give at least one workload"),
        ((phase(1.0, 1, None),), r"phases\[0\] needs duration_s"),
    ],
)
def test_phases_that_are_none(phases: tuple[SyntheticWorkload, ...], told: str) -> None:
    """One sentence names the phase."""
    with pytest.raises(TraceError, match=told):
        Phases(phases=phases)
