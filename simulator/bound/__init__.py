"""A clairvoyant bound: the least GPU-hours with which anybody could hold the targets."""

from simulator.bound.program import (
    Bound,
    for_the_same,
    least_gpu_hours,
    most_attainment,
    with_regret,
)

__all__ = ["Bound", "for_the_same", "least_gpu_hours", "most_attainment", "with_regret"]
