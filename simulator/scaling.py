"""How steady scaling was: how often it turned round, how long it was late, what it held idle."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.joined import SERVICE
from simulator.record import RunRecord, WorkerInfo

MINUTE_S = 60.0
HELD = 0.9
"""A minute is late if a smaller share of those that arrived in it was good."""


def of_scaling(
    record: RunRecord, arrival_s: NDArray[np.float64], good: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return what a comparison of autoscalers asks beside attainment and cost, ready for JSON.

    ``reversals`` counts how often a pool was told to grow after it was told to shrink, or the other
    way, ``reversals_per_hour`` of simulated time; both ``None`` where nobody decided anything.
    ``late_minutes`` are those, counted from the first arrival, in which less than 90 % of the
    arrivals were good, ``longest_late_s`` the longest row of them: the time to recover.
    ``idle_gpu_hours`` were held by workers that served and computed nothing meanwhile, or that were
    starting or draining.
    """
    turned = reversals(record.decisions) if record.decisions else None
    late = late_minutes(arrival_s, good)
    return {
        "reversals": turned,
        "reversals_per_hour": None if turned is None else turned / max(record.end_s, 1.0) * 3600,
        "late_minutes": int(late.sum()),
        "longest_late_s": MINUTE_S * _longest(late),
        "idle_gpu_hours": sum(map(_idle_s, record.workers)) / 3600,
    }


def reversals(decisions: Sequence[Mapping[str, Any]]) -> int:
    """Return how often pools turned round, each by itself."""
    steps: dict[tuple[str, str], list[int]] = {}
    for made in decisions:
        if step := made["granted"] - made["before"]:
            steps.setdefault((made.get(SERVICE, ""), made["pool"]), []).append(step)
    return sum(turns(each) for each in steps.values())


def turns(steps: Sequence[int]) -> int:
    """Return how often growing follows shrinking, or the other way."""
    return sum((one > 0) != (other > 0) for one, other in pairwise(steps))


def late_minutes(arrival_s: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return of each minute from the first arrival on whether it was late; an empty one was not."""
    there = np.isfinite(arrival_s)
    if not there.any():
        return np.zeros(0, dtype=bool)
    minutes = ((arrival_s[there] - arrival_s[there].min()) / MINUTE_S).astype(np.int64)
    held = np.bincount(minutes, weights=good[there])
    return np.asarray(held < HELD * np.bincount(minutes))


def _longest(flags: NDArray[np.bool_]) -> int:
    """Return the longest row of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _idle_s(worker: WorkerInfo) -> float:
    """Return the GPU-seconds of a worker in which it computed nothing."""
    return worker.gpus * max(0.0, worker.allocated_s - worker.busy_s)
