"""What made requests late: the stages they went through, and why no more workers were there yet.

A request that misses a target spent its time in stages. What it waited for in the queue of a pool
that was about to grow is told apart: a worker that had GPUs but was not ready (``warm_up_s``), one
that waited for GPUs (``grant_s``), and before it was asked for the age of what the controller saw
(``signal_age_s``) and the time since it looked last (``tick_s``). Each cause has the share of the
lateness that it has of the whole latency, so that causes add up to the lateness.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.joined import SERVICE
from simulator.record import WorkerInfo
from simulator.results import STAGES, Results, counted

Floats = NDArray[np.float64]
Spans = Sequence[tuple[float, float]]
Place = tuple[str, str]
"""A service, nothing where there is but one, and a pool."""

SCALING = ("signal_age_s", "tick_s", "grant_s", "warm_up_s")
"""What kept a worker that was to come, the later ones first in precedence."""
CAUSES = (*STAGES, *SCALING)
QUEUES = {"prefill_queue_s": "prefill_worker", "decode_queue_s": "decode_worker"}
"""Stages that more workers would have shortened, and the column of whose queue it was."""


def late(results: Results, metric: str) -> pl.DataFrame:
    """Return the requests that have ``metric`` but missed its target, and what made them late.

    ``row`` (among the requests), ``arrival_s``, ``late_s`` (seconds above the target) and each of
    :data:`CAUSES`, whose sum is ``late_s``. Who was never served has no such time and no row.

    Raises:
        KeyError: the metric has no target.
    """
    target = results.slo.targets()[metric]
    columns = [counted(metric, at).alias(stage) for at, stage in enumerate(STAGES)]
    moments = ("prefill_queue_enter_s", "prefill_start_s", "decode_join_s")
    frame = (
        results.scan.with_row_index("row")
        .filter(pl.col(metric) > target)
        .select(
            *("row", "arrival_s", *QUEUES.values(), *moments),
            pl.col("decode_queue_s").alias("decode_queued_s"),
            (pl.col(metric) - target).alias("late_s"),
            (1 - target / pl.col(metric)).alias("share"),
            *columns,
        )
        .collect()
    )
    frame = frame.with_columns(pl.col(STAGES) * pl.col("share"))
    frame = frame.with_columns(_of_scaling(frame, results))
    return frame.select("row", "arrival_s", "late_s", *CAUSES)


def bill(late_ones: pl.DataFrame) -> pl.DataFrame:
    """Return, by ``cause``, its seconds of all lateness and for how many requests it is the most.

    Causes that cost nothing are left out, the dearest come first.
    """
    if late_ones.is_empty():
        return pl.DataFrame(schema={"cause": pl.String, "late_s": pl.Float64, "requests": pl.Int64})
    seconds = late_ones.select(CAUSES).to_numpy()
    most = np.bincount(seconds.argmax(axis=1), minlength=len(CAUSES))
    told = pl.DataFrame({"cause": CAUSES, "late_s": seconds.sum(axis=0), "requests": most})
    return told.filter(pl.col("late_s") > 0).sort("late_s", descending=True)


def _of_scaling(frame: pl.DataFrame, results: Results) -> list[pl.Series]:
    """Return the seconds of :data:`SCALING`, and what they leave of the queues."""
    pools = [(worker.service, worker.pool) for worker in results.workers]
    found = {name: np.zeros(len(frame)) for name in SCALING}
    left = {stage: frame[stage].to_numpy().copy() for stage in QUEUES}
    for place in dict.fromkeys(pools):
        ends, covered = _covered(results, place)
        members = np.array([pool == place for pool in pools])
        for stage, column in QUEUES.items():
            numbers = frame[column].fill_null(-1).to_numpy()
            here = (numbers >= 0) & members[numbers]
            begin, end = (each[here] for each in _waits(frame, stage))
            span, whole = end - begin, frame[stage].to_numpy()[here]
            for name, cover in covered.items():
                within = np.interp(end, ends, cover) - np.interp(begin, ends, cover)
                part = np.divide(within, span, out=np.zeros_like(span), where=span > 0)
                part = np.nan_to_num(part) * whole
                found[name][here] += part
                left[stage][here] -= part
    shortened = [pl.Series(stage, np.maximum(values, 0.0)) for stage, values in left.items()]
    return [*(pl.Series(name, values) for name, values in found.items()), *shortened]


def _waits(frame: pl.DataFrame, stage: str) -> tuple[Floats, Floats]:
    """Return when each request began and ended to wait in a queue, NaN where it did not."""
    if stage == "prefill_queue_s":
        return frame["prefill_queue_enter_s"].to_numpy(), frame["prefill_start_s"].to_numpy()
    end = frame["decode_join_s"].to_numpy()
    return end - frame["decode_queued_s"].to_numpy(), end


def _covered(results: Results, place: Place) -> tuple[Floats, dict[str, Floats]]:
    """Return moments, and of each cause for how long it has been in force until each of them.

    Of several in force at once the last of :data:`SCALING` counts.
    """
    spans = _spans(results, place)
    edges = np.unique([0.0, *(edge for each in spans.values() for span in each for edge in span)])
    middles, lengths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    cause = np.full(len(middles), -1)
    for at, name in enumerate(SCALING):
        for begin, end in spans[name]:
            cause[(middles > begin) & (middles < end)] = at
    return edges, {
        name: np.concatenate(([0.0], np.cumsum(np.where(cause == at, lengths, 0.0))))
        for at, name in enumerate(SCALING)
    }


def _spans(results: Results, place: Place) -> dict[str, Spans]:
    """Return when each cause kept workers of a service's pool from being there."""
    lives = [worker for worker in results.workers if (worker.service, worker.pool) == place]
    grants = [(each.asked_s, _until(each.granted_s, each)) for each in lives]
    starts = [
        (each.granted_s, _until(each.ready_s, each))
        for each in lives
        if not np.isnan(each.granted_s)
    ]
    looked = list(_looks(results.decisions, place))
    return {
        "signal_age_s": [(seen, at) for _, seen, at in looked],
        "tick_s": [(before, seen) for before, seen, _ in looked],
        "grant_s": [span for span in grants if span[0] < span[1]],
        "warm_up_s": [span for span in starts if span[0] < span[1]],
    }


def _until(moment: float, life: WorkerInfo) -> float:
    """Return a moment of a life, or its end where that never came."""
    return life.ended_s if np.isnan(moment) else moment


def _looks(decisions: pl.DataFrame, place: Place) -> Iterator[tuple[float, float, float]]:
    """Yield of each decision that grew a pool the tick before, when it saw and when it acted."""
    before, (service, pool) = 0.0, place
    if service:
        decisions = decisions.filter(pl.col(SERVICE) == service)
    rows = decisions.filter(pl.col("pool") == pool).select("at_s", "seen_s", "before", "granted")
    for at_s, seen_s, there, granted in rows.iter_rows():
        if granted > there:
            seen = min(max(seen_s, before), at_s)
            yield before, seen, at_s
        before = at_s
