"""From a reader's raw rows to a trace: what is dropped, altered and counted on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from workloads import checks
from workloads.trace import STATUS, Trace, TraceMeta, Transform, canonical_frame
from workloads.where import Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to do with requests that cannot be replayed as they stand; all of it is counted.

    ``zero_output``: ``drop`` a request that produced nothing, ``keep_prefill_only`` (one output
    token, the one prefill yields, and status ``failed``) or ``clamp1`` (one token, status ``ok``).
    ``over_context``, for ISL + OSL above ``max_context`` tokens (``None``: no limit): ``drop``,
    ``truncate`` (the input's tail first, then the output) or ``error``. A request without input is
    always dropped.
    """

    zero_output: str = "drop"
    over_context: str = "drop"
    max_context: int | None = None

    def __post_init__(self) -> None:
        checks.one_of(
            "trace", "zero_output", self.zero_output, ("drop", "keep_prefill_only", "clamp1")
        )
        checks.one_of("trace", "over_context", self.over_context, ("drop", "truncate", "error"))
        if self.max_context is not None:
            checks.whole("trace", "max_context", self.max_context, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """What a reader hands over: every data row of the file, in file order.

    ``frame`` has ``time_ns`` (Int64, any origin), ``input_tokens`` and ``output_tokens`` (Int32,
    at least 0) and any other canonical column the format fills. ``first_row`` is the 1-based line
    of the first data row. ``utc_offset`` is ``None`` where ``time_ns`` does not count from 1970,
    empty where it is wall-clock time of an unnamed zone, else an offset such as ``+00:00``.
    ``about`` holds further fields of :class:`TraceMeta`.
    """

    path: str
    format: str
    frame: pl.DataFrame
    first_row: int
    utc_offset: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def clean(raw: Raw, policy: Policy) -> Trace:
    """Return the trace ``raw`` makes under ``policy``; raise ``TraceError`` if nothing is left.

    In order: drop requests without input, apply ``zero_output``, stable sort by time, apply
    ``over_context``.
    """
    rows = raw.frame.with_columns(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("source_row"),
        pl.lit("ok", dtype=STATUS).alias("status"),
    )
    total = rows.height
    inversions = int((rows["time_ns"].diff() < 0).sum())
    rows, drops, transforms = _without_empty(rows, policy)
    meta = TraceMeta(
        name=Path(raw.path).name,
        format=raw.format,
        rows_read=total,
        rows_kept=rows.height,
        drops=drops,
        transforms=tuple(transforms),
        **raw.about,
    )
    if inversions:
        meta = meta.after(Transform(name="sort", counts={"inversions": inversions}))
    rows = rows.sort("time_ns", maintain_order=True) if inversions else rows
    rows, meta = _within_context(rows, meta, policy, Where(raw.path, raw.first_row))
    return _finish(rows, meta, raw.utc_offset)


def limit_context(trace: Trace, policy: Policy, where: Where) -> Trace:
    """Return ``trace`` with ``policy.over_context`` applied."""
    rows, meta = _within_context(trace.frame, trace.meta, policy, where)
    return trace if meta is trace.meta else Trace(canonical_frame(rows), meta).rebased()


def _without_empty(
    rows: pl.DataFrame, policy: Policy
) -> tuple[pl.DataFrame, dict[str, int], list[Transform]]:
    """Drop rows without input; drop or clamp those without output."""
    drops: dict[str, int] = {}
    no_input = int((rows["input_tokens"] == 0).sum())
    if no_input:
        rows = rows.filter(pl.col("input_tokens") > 0)
        drops["zero_input"] = no_input
    no_output = int((rows["output_tokens"] == 0).sum())
    if not no_output:
        return rows, drops, []
    if policy.zero_output == "drop":
        drops["zero_output"] = no_output
        return rows.filter(pl.col("output_tokens") > 0), drops, []
    status = "failed" if policy.zero_output == "keep_prefill_only" else "ok"
    empty = pl.col("output_tokens") == 0
    rows = rows.with_columns(
        pl.when(empty).then(pl.lit(status, dtype=STATUS)).otherwise("status").alias("status"),
        pl.col("output_tokens").clip(lower_bound=1),
    )
    counts: dict[str, int | float | str] = {"policy": policy.zero_output, "rows": no_output}
    return rows, drops, [Transform(name="zero_output", counts=counts)]


def _within_context(
    rows: pl.DataFrame, meta: TraceMeta, policy: Policy, where: Where
) -> tuple[pl.DataFrame, TraceMeta]:
    """Apply ``over_context`` and record the share of tokens it touched."""
    limit = policy.max_context
    if limit is None:
        return rows, meta
    tokens = rows["input_tokens"].cast(pl.Int64) + rows["output_tokens"].cast(pl.Int64)
    over = tokens > limit
    count = int(over.sum())
    if not count:
        return rows, meta
    if policy.over_context == "error":
        first = int(over.arg_true()[0])
        row = int(rows["source_row"][first])
        expected = f"at most {limit} tokens (max_context)"
        where.fail(row, "input + output", int(tokens[first]), expected)
    counts: dict[str, int | float | str] = {
        "policy": policy.over_context,
        "max_context": limit,
        "rows": count,
        "token_share": float(tokens.filter(over).sum()) / float(tokens.sum()),
    }
    transform = Transform(name="over_context", counts=counts)
    if policy.over_context == "drop":
        return rows.filter(~over), meta.after(transform, drops={"over_context": count})
    return _truncated(rows, limit), meta.after(transform)


def _truncated(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    """Cut ISL + OSL to ``limit``, the output only where one input token would not fit."""
    output = pl.min_horizontal(pl.col("output_tokens"), pl.lit(min(limit - 1, 2**31 - 1)))
    return rows.with_columns(output.cast(pl.Int32)).with_columns(
        pl.min_horizontal(pl.col("input_tokens"), limit - pl.col("output_tokens").cast(pl.Int64))
        .cast(pl.Int32)
        .alias("input_tokens")
    )


def _finish(rows: pl.DataFrame, meta: TraceMeta, utc_offset: str | None) -> Trace:
    """Count ties, set the clock to 0 at the first kept arrival and take the canonical form."""
    time_ns = rows["time_ns"].to_numpy()
    if time_ns.size:
        ties = int(np.count_nonzero(np.diff(time_ns) == 0))
        if ties:
            meta = meta.after(Transform(name="ties_kept", counts={"rows": ties}))
        arrivals = (time_ns - time_ns[0]) / 1e9
        if utc_offset is not None:
            meta = replace(meta, t0=f"{np.datetime64(int(time_ns[0]), 'ns')}{utc_offset}")
        rows = rows.with_columns(pl.Series("arrival_s", arrivals, dtype=pl.Float64))
    return Trace(canonical_frame(rows), meta)
