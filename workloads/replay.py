"""How a recorded trace is replayed: a window of it, faster or slower, thinner or denser."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from workloads import checks
from workloads.arrivals import Arrivals
from workloads.cleaning import in_order, relinked
from workloads.errors import TraceError
from workloads.lineage import Links, started
from workloads.sessions import sessions_of, with_known_delays
from workloads.trace import (
    NO_STARTS,
    RUN,
    Trace,
    TraceMeta,
    Transform,
    canonical_frame,
    token_sum,
)

MAX_COPIES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Transforms of a trace, applied in the order of the fields, each recorded with its counts.

    0. ``session_arrivals``: sessions, and requests of none, begin at times drawn from these, in the
       trace's order; what passes within a session stays.
    1. ``start_s`` ≤ arrival < ``end_s``: the window, seconds from the trace's first arrival.
    2. ``max_input_tokens``: longer prompts are left out.
    3. ``debatch_step_s``: arrivals on a lattice of this step are spread uniformly within it.
    4. ``rate_scale`` times the rate, or ``target_rate`` requests/s on average, by ``scale_by``:
       ``clock`` compresses or stretches time (same requests, other gaps); ``sample`` keeps the
       clock, keeps each request (or whole session) with a probability below 1, or adds copies,
       each placed at random before the next arrival and with prompt blocks of its own.
    5. ``max_requests``: the first so many.

    At the end the clock is set to 0 at the first arrival left. A turn that has no time of its own,
    as it waits for others, stands where what it waits for has one: a window holds sessions by their
    start. What it waits is no part of the clock and stays as it is.
    """

    session_arrivals: Arrivals | None = None
    start_s: float = 0.0
    end_s: float | None = None
    max_input_tokens: int | None = None
    debatch_step_s: float | None = None
    rate_scale: float = 1.0
    target_rate: float | None = None
    scale_by: str = "clock"
    max_requests: int | None = None

    def __post_init__(self) -> None:
        checks.at_least("replay", "start_s", self.start_s, 0, "s")
        if self.end_s is not None:
            checks.positive("replay", "end_s", self.end_s, "s")
            if self.end_s <= self.start_s:
                raise TraceError(
                    f"replay: end_s must be above start_s ({self.start_s!r} s) "
                    f"but got {self.end_s!r}"
                )
        if self.max_input_tokens is not None:
            checks.whole("replay", "max_input_tokens", self.max_input_tokens, 1)
        if self.debatch_step_s is not None:
            checks.positive("replay", "debatch_step_s", self.debatch_step_s, "s")
        self._check_rate()
        if self.max_requests is not None:
            checks.whole("replay", "max_requests", self.max_requests, 1)

    def _check_rate(self) -> None:
        checks.positive("replay", "rate_scale", self.rate_scale)
        checks.one_of("replay", "scale_by", self.scale_by, ("clock", "sample"))
        if self.target_rate is None:
            return
        checks.positive("replay", "target_rate", self.target_rate, "requests/s")
        if self.rate_scale != 1:
            raise TraceError(
                f"replay: give rate_scale or target_rate, not both, but got {self.rate_scale!r} "
                f"and {self.target_rate!r}"
            )

    def apply(self, trace: Trace, rng: np.random.Generator) -> Trace:
        """Return the transformed trace; raise ``TraceError`` if no request is left.

        ``rng`` is drawn from by ``session_arrivals``, ``debatch_step_s`` and ``scale_by="sample"``
        only.
        """
        if self == Replay():
            return trace
        if self.session_arrivals is not None:
            trace = _begun_at(trace, self.session_arrivals, rng)
        trace = self._windowed(trace)
        if self.max_input_tokens is not None:
            trace = _kept(
                trace,
                pl.col("input_tokens") <= self.max_input_tokens,
                "over_max_input_tokens",
                {"max_input_tokens": self.max_input_tokens},
            )
        if self.debatch_step_s is not None:
            trace = _debatched(trace, self.debatch_step_s, rng)
        trace = self._scaled(trace, rng)
        if self.max_requests is not None and self.max_requests < len(trace):
            kept = pl.col("request_id") < self.max_requests
            counts = {"max_requests": self.max_requests}
            trace = _kept(trace, kept, "over_max_requests", counts)
        return trace.rebased()

    def _windowed(self, trace: Trace) -> Trace:
        if self.start_s == 0 and self.end_s is None:
            return trace
        began = _began(trace)
        inside = began >= self.start_s
        counts = {"start_s": self.start_s}
        if self.end_s is not None:
            inside = inside & (began < self.end_s)
            counts["end_s"] = self.end_s
        return _kept(trace, pl.lit(inside), "outside_window", counts)

    def _scaled(self, trace: Trace, rng: np.random.Generator) -> Trace:
        scale = self._scale(trace)
        if scale == 1:
            return trace
        if self.scale_by == "clock":
            trace = with_known_delays(trace)
            frame = trace.frame.with_columns(pl.col("arrival_s") / scale)
            return Trace(frame, trace.meta.after(Transform(name="clock", counts={"scale": scale})))
        if scale < 1:
            return _thinned(trace, scale, rng)
        return _replicated(trace, scale, rng)

    def _scale(self, trace: Trace) -> float:
        """Return the factor on the rate."""
        if self.target_rate is None:
            return self.rate_scale
        if trace.duration_s <= 0:
            raise TraceError(
                f"trace {trace.meta.name!r}: target_rate needs arrivals at two instants at least, "
                "but all arrive at once"
            )
        return self.target_rate / trace.mean_rate


def _begun_at(trace: Trace, arrivals: Arrivals, rng: np.random.Generator) -> Trace:
    """Let sessions begin at other times, drawn from ``arrivals``."""
    trace = with_known_delays(trace)
    session, began = sessions_of(trace), _began(trace).to_numpy()
    count = int(session.max()) + 1
    owner = f"replay: session_arrivals: {type(arrivals).__name__}"
    starts = checks.numbers(owner, "times", arrivals.times(rng, n=count))
    if starts.size < count:
        raise TraceError(f"{owner}: gives {starts.size} times, but there are {count} sessions")
    first = np.full(count, np.inf)
    np.minimum.at(first, session, began)
    shift = pl.Series((starts - first)[session])
    frame = trace.frame.with_columns(pl.col("arrival_s") + shift)
    meta = trace.meta.after(Transform(name="session_arrivals", counts={"sessions": count}))
    told = tuple(each for each in meta.warnings if not each.endswith(NO_STARTS))
    return _resorted(frame, replace(meta, warnings=told))


def _resorted(frame: pl.DataFrame, meta: TraceMeta) -> Trace:
    """Return rows whose times have changed in the order of a trace."""
    if frame["parent_id"].null_count() == frame.height:
        return Trace(_sorted(frame), meta)
    frame, meta = in_order(frame, meta, "arrival_s")
    return Trace(canonical_frame(frame), meta)


def _began(trace: Trace) -> pl.Series:
    """Return each row's arrival, or that of what it waits for, in the end, where it has none."""
    return pl.Series(started(Links.of(trace.frame, "parent_id", "arrival_s")))


def _kept(trace: Trace, keep: pl.Expr, reason: str, counts: Mapping[str, float]) -> Trace:
    """Return the rows where ``keep`` holds, the others counted as dropped for ``reason``."""
    frame = trace.frame.filter(keep)
    dropped = len(trace) - frame.height
    transform = Transform(name=reason, counts={**counts, "dropped": dropped})
    lost = token_sum(trace.frame) - token_sum(frame)
    meta = trace.meta.after(transform, drops={reason: dropped}, tokens={reason: lost})
    frame, meta = relinked(trace.frame, frame, meta)
    return Trace(canonical_frame(frame), meta)


def _debatched(trace: Trace, step_s: float, rng: np.random.Generator) -> Trace:
    """Spread each arrival uniformly over the lattice step it stands for."""
    jitter = pl.Series(rng.random(len(trace)) * step_s)
    frame = trace.frame.with_columns(pl.col("arrival_s") + jitter)
    transform = Transform(name="debatch", counts={"step_s": step_s, "rows": len(trace)})
    return _resorted(frame, trace.meta.after(transform))


def _thinned(trace: Trace, probability: float, rng: np.random.Generator) -> Trace:
    """Keep each session, or request without one, with ``probability``."""
    keep = rng.random(len(trace)) < probability
    sessions = trace.frame["session_id"]
    if sessions.null_count() < len(trace):
        first = pl.col("keep").first().over("session_id")
        chosen = pl.when(pl.col("session_id").is_null()).then("keep").otherwise(first)
        drawn = trace.frame.select("session_id", keep=pl.Series(keep))
        keep = drawn.select(chosen).to_series().to_numpy()
    return _kept(trace, pl.lit(pl.Series(keep)), "thinned", {"probability": probability})


def _replicated(trace: Trace, scale: float, rng: np.random.Generator) -> Trace:
    """Add copies until each request is there ``scale`` times on average."""
    if scale > MAX_COPIES:
        raise TraceError(
            f"replay: scaling by {scale:g} copies is too much, expected at most {MAX_COPIES}"
        )
    if any(trace.frame[name].null_count() < len(trace) for name in ("session_id", "parent_id")):
        raise TraceError(
            f"trace {trace.meta.name!r}: sessions cannot be copied; use scale_by=clock"
        )
    frames = [trace.frame]
    for copy in range(1, int(np.ceil(scale))):
        copied = _copy(trace.frame, copy, rng)
        keep = rng.random(len(trace)) < scale - copy
        frames.append(copied.filter(pl.Series(keep)))
    frame = pl.concat(frames)
    added = (frame.height - len(trace), token_sum(frame) - token_sum(trace.frame))
    transform = Transform(name="replicated", counts={"scale": scale, "added": added[0]})
    return Trace(_sorted(frame), trace.meta.after(transform, added=added))


def _copy(frame: pl.DataFrame, copy: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return the rows, each later by a part of the gap behind it, with block ids of their own."""
    arrivals = frame["arrival_s"].to_numpy()
    gaps = np.diff(arrivals, append=arrivals[-1])
    if gaps.size > 1:
        gaps[-1] = gaps[-2]
    times = pl.Series(arrivals + rng.random(gaps.size) * gaps)
    return frame.with_columns(times.alias("arrival_s"), _shifted_blocks(frame, copy))


def _shifted_blocks(frame: pl.DataFrame, copy: int) -> pl.Series:
    """Return ``block_runs`` with ids moved past those of the earlier copies."""
    runs = frame["block_runs"]
    fields = runs.drop_nulls().explode(empty_as_null=False).struct
    ends = fields.field("first").cast(pl.Int64) + fields.field("n").cast(pl.Int64)
    shift = (int(ends.to_numpy().max()) if ends.len() else 0) * copy
    if shift + shift // copy > 2**32:
        raise TraceError("replay: so many copies need more than 2^32 block ids; use scale_by=clock")
    if shift == 0:
        return runs
    first = pl.element().struct.field("first") + pl.lit(shift, dtype=pl.UInt32)
    moved = pl.struct(first.alias("first"), pl.element().struct.field("n"))
    return runs.to_frame().select(pl.col("block_runs").list.eval(moved).cast(pl.List(RUN)))[
        "block_runs"
    ]


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    return canonical_frame(frame.sort("arrival_s", "source_row", maintain_order=True))
