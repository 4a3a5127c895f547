"""Sessions: which request waits for which, and what a replay makes of it.

A turn is sent when those it waits for have ended and its think or tool time has passed. A replay
follows the clock (every request at its recorded time) or completion (at the times the simulated
answers give).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads import checks
from workloads.errors import TraceError
from workloads.trace import Trace

Rows = NDArray[np.int64]
Seconds = NDArray[np.float64]

BY = ("auto", "completion", "clock")
AFTER_FAILURE = ("abandon", "go_on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """When the later turns of sessions are sent.

    ``by`` ``completion`` sends a request so many seconds after those it waits for have ended,
    ``clock`` at its recorded time; ``auto`` is the clock where every request has a time and there
    is no ``concurrency``, else completion. If a request is rejected or fails, what waits for it,
    directly or through others, is never sent (``after_failure`` ``abandon``), or is sent as if it
    had been answered then (``go_on``).
    """

    by: str = "auto"
    after_failure: str = "abandon"

    def __post_init__(self) -> None:
        checks.one_of("turns", "by", self.by, BY)
        checks.one_of("turns", "after_failure", self.after_failure, AFTER_FAILURE)

    def follow(self, trace: Trace, *, clients: bool = False) -> "Following | None":
        """Return who waits for whom in ``trace``; ``None`` where every request has its own time.

        ``clients``: so many sessions at a time are under way, instead of at their recorded times.

        Raises:
            TraceError: the clock is to be followed, but there are requests without a time; or
                completion, but nobody waits for anybody.
        """
        linked = trace.frame["parent_id"].null_count() < len(trace)
        timed = trace.frame["arrival_s"].null_count() == 0
        if self.by == "completion" and not linked:
            raise TraceError(
                f"trace {trace.meta.name!r}: turns.by=completion needs requests that wait for "
                "others, but none has a parent"
            )
        if self.by == "clock" and not timed and not clients:
            raise TraceError(
                f"trace {trace.meta.name!r}: turns.by=clock needs the time of every request, but "
                f"{trace.frame['arrival_s'].null_count()} have none"
            )
        if not linked or self.by == "clock" or (self.by == "auto" and timed and not clients):
            return None
        return following(trace, go_on=self.after_failure == "go_on")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Following:
    """Who waits for whom: link i lets ``child[i]`` go ``delay_s[i]`` after ``parent[i]`` ended.

    Where ``dispatch[i]``, it is after ``parent[i]`` was sent. A request that waits for several is
    sent when the last of them lets it go; one that waits for none is a session's first.
    ``go_on``: a failed request lets others go too.
    ``unknown`` delays were not told by the source and are 0 s. Links are sorted by parent.

    Raises:
        TraceError: a parent does not come before its child, links are not sorted, or a delay is no
            number of seconds.
    """

    requests: int
    parent: Rows
    child: Rows
    delay_s: Seconds
    dispatch: NDArray[np.bool_]
    go_on: bool = False
    unknown: int = 0

    def __post_init__(self) -> None:
        wrong = np.flatnonzero((self.parent >= self.child) | (self.child >= self.requests))
        if wrong.size:
            child, parent = self.child[wrong[0]], self.parent[wrong[0]]
            raise TraceError(f"sessions: request {child} cannot wait for request {parent}")
        if (np.diff(self.parent) < 0).any():
            raise TraceError("sessions: links must be sorted by parent")
        wrong = np.flatnonzero(~(np.isfinite(self.delay_s) & (self.delay_s >= 0)))
        if wrong.size:
            raise TraceError(
                f"sessions: the delay of request {self.child[wrong[0]]} must be a finite number of "
                f"seconds, at least 0, but is {self.delay_s[wrong[0]]}"
            )

    def sessions(self) -> Rows:
        """Return the number of each request's session: those that hang together have the same."""
        return _together(self.parent, self.child, self.requests)

    @property
    def firsts(self) -> Rows:
        """The requests that wait for nobody, in order."""
        waits = np.zeros(self.requests, dtype=bool)
        waits[self.child] = True
        return np.flatnonzero(~waits)

    def earliest(self, arrival_s: Seconds) -> Seconds:
        """Return when each request is sent if every answer takes no time at all.

        ``arrival_s`` are the times of the first ones; those of others do not count.
        """
        start = np.where(np.isnan(arrival_s), 0.0, arrival_s)
        start[self.child] = 0.0
        sent = start.tolist()
        order = np.argsort(self.child, kind="stable")  # parents, which come before, are settled
        columns = (each[order].tolist() for each in (self.parent, self.child, self.delay_s))
        for parent, child, delay in zip(*columns, strict=True):
            sent[child] = max(sent[child], sent[parent] + delay)
        return np.asarray(sent)


def following(trace: Trace, *, go_on: bool = False) -> Following:
    """Return who waits for whom in a trace, by ``parent_id``, ``trigger`` and ``joins``."""
    frame = with_known_delays(trace).frame
    linked = frame.filter(pl.col("parent_id").is_not_null())
    columns = {
        "parent": linked["parent_id"].cast(pl.Int64),
        "child": linked["request_id"].cast(pl.Int64),
        "delay_s": linked["delay_s"].fill_null(0.0),
        "dispatch": _dispatched(linked),
    }
    links = pl.concat([pl.DataFrame(columns), _joins(frame)]).sort(
        "parent", "child", maintain_order=True
    )
    return Following(
        requests=len(trace),
        parent=links["parent"].to_numpy(),
        child=links["child"].to_numpy(),
        delay_s=links["delay_s"].to_numpy(),
        dispatch=links["dispatch"].to_numpy(),
        go_on=go_on,
        unknown=linked["delay_s"].null_count(),
    )


def sessions_of(trace: Trace) -> Rows:
    """Return the number of each request's session, 0, 1, … as they appear.

    Requests are of one if the trace says so or if one waits for the other.
    """
    links = following(trace)
    named = trace.frame.select("request_id", "session_id").drop_nulls()
    first = named.select(pl.col("request_id").first().over("session_id"))["request_id"].to_numpy()
    labels = _together(
        np.concatenate([links.parent, first.astype(np.int64)]),
        np.concatenate([links.child, named["request_id"].cast(pl.Int64).to_numpy()]),
        len(trace),
    )
    _, where, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(where))[numbers], dtype=np.int64)


def with_known_delays(trace: Trace) -> Trace:
    """Return the trace with the waits that its times tell.

    Where the source told no wait but when both were sent and how long the parent took, it is what
    is left. Another clock would make it another.
    """
    frame = trace.frame
    missing = frame["parent_id"].is_not_null() & frame["delay_s"].is_null()
    if not missing.any():
        return trace
    above = frame.select("arrival_s", "src_e2e_s")[frame["parent_id"].fill_null(0)]
    ended = above["arrival_s"] + above["src_e2e_s"].cast(pl.Float64)
    left = (frame["arrival_s"] - ended).clip(0.0)
    delay = pl.when(pl.lit(missing)).then(pl.lit(left)).otherwise("delay_s").alias("delay_s")
    return Trace(frame.with_columns(delay), trace.meta)


def _dispatched(linked: pl.DataFrame) -> pl.Series:
    if "trigger" not in linked.columns:
        return pl.Series([False] * linked.height, dtype=pl.Boolean)
    return (linked["trigger"] == "dispatch").fill_null(value=False)


def _joins(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the further links of rows that wait for more than one."""
    schema = {
        "parent": pl.Int64,
        "child": pl.Int64,
        "delay_s": pl.Float64,
        "dispatch": pl.Boolean,
    }
    if "joins" not in frame.columns or frame["joins"].null_count() == frame.height:
        return pl.DataFrame(schema=schema)
    rows = frame.select("request_id", "joins").drop_nulls().explode("joins", empty_as_null=False)
    return rows.select(
        pl.col("joins").struct.field("parent_id").cast(pl.Int64).alias("parent"),
        pl.col("request_id").cast(pl.Int64).alias("child"),
        pl.col("joins").struct.field("delay_s").fill_null(0.0).alias("delay_s"),
        pl.lit(value=False).alias("dispatch"),
    )


def told(turns: Turns, trace: Trace, found: Following | None) -> Mapping[str, Any]:
    """Return, for a summary, what sends the turns of a trace's sessions; empty without any."""
    frame = trace.frame
    if frame["session_id"].null_count() == len(trace) and found is None:
        return {}
    return {
        "by": "clock" if found is None else "completion",
        "after_failure": turns.after_failure,
        "unknown_delays": 0 if found is None else found.unknown,
    }


def _together(one: Rows, other: Rows, count: int) -> Rows:
    """Return a number for each of ``count`` requests, one for all that pairs hang together."""
    from scipy.sparse import coo_array  # here: slow to import, and few runs need it
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(one.size, dtype=np.int8), (one, other)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.int64)
