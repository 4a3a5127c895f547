"""From a reader's raw rows to a trace: what is dropped, altered and counted on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from workloads import checks, lineage
from workloads.lineage import Links
from workloads.parts import parts_of
from workloads.trace import STATUS, Trace, TraceMeta, Transform, canonical_frame, token_sum
from workloads.where import Where

DAY_S = 86_400
LEAST_COVERED = 0.5
"""Of prompts' tokens, the share that their blocks hold: less is likely another size of blocks."""

LONGEST_GAP_DAYS = 3
"""Traces may pause over a weekend; more is likely a wrong time."""


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

    ``frame`` has ``time_ns`` (Int64, any origin) or, where a run's clock is kept as it was,
    ``arrival_s`` (Float64, at least 0), ``input_tokens`` and ``output_tokens`` (Int32,
    at least 0) and any other canonical column the format fills. A ``parent_id`` is a row of this
    frame, from 0; only rows with one may have a null time, which makes the loop closed.
    ``parent_field`` is what the file calls the parent. ``first_row`` is the 1-based line
    of the first data row. ``utc_offset`` is ``None`` where ``time_ns`` does not count from 1970,
    empty where it is wall-clock time of an unnamed zone, else an offset such as ``+00:00``.
    ``transforms`` are what the reader did, ``about`` holds further fields of :class:`TraceMeta`.
    """

    path: str
    format: str
    frame: pl.DataFrame
    first_row: int
    utc_offset: str | None = None
    parent_field: str = "parent"
    transforms: tuple[Transform, ...] = ()
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
    time = "arrival_s" if "arrival_s" in rows.columns else "time_ns"
    inversions = _Gaps.of(rows[time].drop_nulls()).inversions
    if "parent_id" in rows.columns:
        links = Links.of(rows, "parent_id", time)
        lineage.require_no_circle(links.parent, Where(raw.path, raw.first_row), raw.parent_field)
    meta = TraceMeta(
        name=Path(raw.path).name,
        format=raw.format,
        rows_read=rows.height,
        rows_kept=rows.height,
        tokens_read=token_sum(rows),
        transforms=raw.transforms,
        **raw.about,
    )
    meta = _warned_of_short_blocks(rows, meta)
    whole = rows
    rows, meta = _without_empty(rows, meta, policy)
    rows, meta = relinked(whole, rows, meta, time)
    if inversions:
        meta = meta.after(Transform(name="sort", counts={"inversions": inversions}))
    if "parent_id" in rows.columns:
        rows, meta = in_order(rows, meta, time)
    elif inversions:
        rows = rows.sort(time, maintain_order=True)
    whole = rows
    rows, meta = _within_context(rows, meta, policy, Where(raw.path, raw.first_row))
    rows, meta = relinked(whole, rows, meta, time)
    return _finish(rows, meta, raw.utc_offset)


def limit_context(trace: Trace, policy: Policy, where: Where) -> Trace:
    """Return ``trace`` with ``policy.over_context`` applied."""
    rows, meta = _within_context(trace.frame, trace.meta, policy, where)
    if meta is trace.meta:
        return trace
    rows, meta = relinked(trace.frame, rows, meta, "arrival_s")
    return Trace(canonical_frame(rows), meta).rebased()


def relinked(
    before: pl.DataFrame, after: pl.DataFrame, meta: TraceMeta, time: str = "arrival_s"
) -> tuple[pl.DataFrame, TraceMeta]:
    """Return the rows ``after`` some of ``before`` left, whose parents are rows of ``after``.

    Rows are known by ``source_row``, which is each one's own here; what changes is counted.
    """
    if before.height == after.height or "parent_id" not in before.columns:
        return after, meta
    if before["parent_id"].null_count() == before.height:
        return after, meta
    place = _places(before["source_row"], after["source_row"])
    done = lineage.relink(Links.of(before, "parent_id", time), place)
    joins = _joined(before, after, place)
    rows = _linked(after, done.links, time).with_columns(joins)
    if done.moved or done.freed:
        counts = {"to_earlier_turns": done.moved, "to_no_turn": done.freed}
        meta = meta.after(Transform(name="relinked", counts=counts))
    return rows, meta


def in_order(rows: pl.DataFrame, meta: TraceMeta, time: str) -> tuple[pl.DataFrame, TraceMeta]:
    """Return linked rows by time and then row of the file, parents always before their children.

    A row without a time stands where its nearest ancestor with one does. A link to a parent that
    was sent later is dropped and counted.
    """
    links = Links.of(rows, "parent_id", time)
    began = lineage.started(links)
    waits = np.isnan(links.time_s)
    depth = np.where(waits, lineage.depths(links.parent), 0)
    order = np.lexsort((rows["source_row"].to_numpy(), depth, began))
    sorted_rows = rows[order]
    links, late = lineage.untangled(lineage.relink(links, order).links)
    joins = _joined(rows, sorted_rows, order, earlier=True)
    if late:
        counts = {"links": late}
        meta = meta.after(Transform(name="parents_after_children_dropped", counts=counts))
    return _linked(sorted_rows, links, time).with_columns(joins), meta


def _places(before: pl.Series, after: pl.Series) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the positions in ``before`` of the row numbers ``after``."""
    numbers = before.to_numpy()
    by_number = np.argsort(numbers, kind="stable")
    return np.asarray(by_number[np.searchsorted(numbers[by_number], after.to_numpy())])


def _linked(rows: pl.DataFrame, links: Links, time: str) -> pl.DataFrame:
    """Return the rows with these links; a time that only a lost parent had told is filled in."""
    times = rows[time]
    if times.null_count():
        found = pl.Series(links.time_s).fill_nan(None)
        times = pl.select(pl.coalesce(times, found.cast(times.dtype))).to_series().alias(time)
    return rows.with_columns(
        times,
        lineage.column(links.parent, "parent_id", pl.UInt32()),
        lineage.column(links.delay_s, "delay_s", pl.Float64()),
    )


def _joined(
    before: pl.DataFrame,
    after: pl.DataFrame,
    place: np.ndarray[Any, np.dtype[np.int64]],
    *,
    earlier: bool = False,
) -> list[pl.Series]:
    """Return the column ``joins`` of ``after``, if there is one, numbered anew.

    Joins with rows that left are no more, nor, where only ``earlier`` ones count, with later ones.
    """
    if "joins" not in before.columns or before["joins"].null_count() == before.height:
        return []
    new = np.full(before.height, -1)
    new[place] = np.arange(place.size)
    rows = after.select("joins").with_row_index("row").drop_nulls().explode("joins")
    parents = new[rows["joins"].struct.field("parent_id").to_numpy()]
    kept = pl.DataFrame(
        {
            "row": rows["row"],
            "parent_id": parents,
            "delay_s": rows["joins"].struct.field("delay_s"),
        }
    ).filter((pl.col("parent_id") >= 0) & ((pl.col("parent_id") < pl.col("row")) | (not earlier)))
    lists = kept.group_by("row", maintain_order=True).agg(
        pl.struct(pl.col("parent_id").cast(pl.UInt32), "delay_s").alias("joins")
    )
    index = pl.DataFrame({"row": pl.int_range(after.height, dtype=pl.UInt32, eager=True)})
    return [index.join(lists, on="row", how="left", maintain_order="left")["joins"]]


def _without_empty(
    rows: pl.DataFrame, meta: TraceMeta, policy: Policy
) -> tuple[pl.DataFrame, TraceMeta]:
    """Drop rows without input; drop or clamp those without output."""
    rows, meta = _without(rows, meta, "zero_input", pl.col("input_tokens") == 0)
    empty = pl.col("output_tokens") == 0
    if policy.zero_output == "drop":
        return _without(rows, meta, "zero_output", empty)
    count = int((rows["output_tokens"] == 0).sum())
    if not count:
        return rows, meta
    status = "failed" if policy.zero_output == "keep_prefill_only" else "ok"
    rows = rows.with_columns(
        pl.when(empty).then(pl.lit(status, dtype=STATUS)).otherwise("status").alias("status"),
        pl.col("output_tokens").clip(lower_bound=1),
    )
    kept = Transform(name="zero_output", counts={"policy": policy.zero_output, "rows": count})
    return rows, meta.after(kept, added=(0, count))


def _without(
    rows: pl.DataFrame, meta: TraceMeta, reason: str, unwanted: pl.Expr
) -> tuple[pl.DataFrame, TraceMeta]:
    """Drop the ``unwanted`` rows and count them and their tokens as ``reason``."""
    left_out = rows.filter(unwanted)
    if not left_out.height:
        return rows, meta
    transform = Transform(name=reason, counts={"policy": "drop", "rows": left_out.height})
    meta = meta.after(
        transform, drops={reason: left_out.height}, tokens={reason: token_sum(left_out)}
    )
    return rows.filter(~unwanted), meta


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
        lost = int(tokens.filter(over).sum())
        account = meta.after(
            transform, drops={"over_context": count}, tokens={"over_context": lost}
        )
        return rows.filter(~over), account
    shorter = _truncated(rows, limit)
    cut = token_sum(rows) - token_sum(shorter)
    return shorter, meta.after(transform, tokens={"truncated": cut})


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
    times = rows["arrival_s" if "arrival_s" in rows.columns else "time_ns"]
    known = times.drop_nulls()
    if known.len() < times.len():
        meta = replace(meta, loop="closed")
    gaps = _Gaps.of(known)
    if gaps.ties:
        meta = meta.after(Transform(name="ties_kept", counts={"rows": gaps.ties}))
    meta = _warned_of_a_gap(rows, times, gaps, meta)
    if times.name == "time_ns" and known.len():
        first = int(known[0])
        if utc_offset is not None:
            meta = replace(meta, t0=f"{np.datetime64(first, 'ns')}{utc_offset}")
        arrivals = _seconds_since(times, first)
        rows = rows.drop("time_ns").with_columns(arrivals.alias("arrival_s"))
    return Trace(canonical_frame(rows), meta)


def _seconds_since(times: pl.Series, first: int) -> pl.Series:
    """Return ns as seconds since ``first``; null stays null."""
    seconds, at = np.empty(times.len()), 0
    for part in parts_of(times):  # floats with NaN where there are nulls
        seconds[at : at + part.size] = (part - first) / 1e9
        at += part.size
    series = pl.Series(seconds)
    return series.fill_nan(None) if times.null_count() else series


@dataclass(frozen=True, slots=True)
class _Gaps:
    """What there is to say of the gaps between times, in the file's order."""

    inversions: int = 0
    ties: int = 0
    longest: float = 0.0
    before: int = 0
    """The row, of those with a time, that the longest gap lies before."""

    @classmethod
    def of(cls, times: pl.Series) -> "_Gaps":
        """Return them, looked at part by part."""
        inversions = ties = before = at = 0
        longest, last = 0.0, None
        for part in parts_of(times):
            gaps = np.diff(part) if last is None else np.diff(part, prepend=last)
            if gaps.size:
                inversions += int((gaps < 0).sum())
                ties += int((gaps == 0).sum())
                place = int(gaps.argmax())
                if gaps[place] > longest:
                    longest, before = float(gaps[place]), at + place + (last is None)
            at, last = at + part.size, part[-1:]
        return cls(inversions, ties, longest, before)


def _warned_of_short_blocks(rows: pl.DataFrame, meta: TraceMeta) -> TraceMeta:
    """Return ``meta`` with a warning if prompts' blocks hold far fewer tokens than they have."""
    if meta.block_size is None or "block_runs" not in rows.columns:
        return meta
    known = rows.filter(pl.col("block_runs").list.len() > 0).select("block_runs", "input_tokens")
    blocks = int(known["block_runs"].explode().struct.field("n").cast(pl.Int64).sum())
    tokens = int(known["input_tokens"].cast(pl.Int64).sum())
    share = blocks * meta.block_size / tokens if tokens else 1.0
    if share >= LEAST_COVERED:
        return meta
    text = (
        f"{meta.name}: its blocks of {meta.block_size} tokens hold but {share:.0%} of the prompts "
        "that have any: if their size is another, say so with workload.block_size"
    )
    return replace(meta, warnings=(*meta.warnings, text))


def _warned_of_a_gap(
    rows: pl.DataFrame, times: pl.Series, gaps: _Gaps, meta: TraceMeta
) -> TraceMeta:
    """Return ``meta`` with a warning if days pass without a request, as one wrong time makes it."""
    days = gaps.longest / (DAY_S if times.name == "arrival_s" else DAY_S * 1e9)
    if days <= LONGEST_GAP_DAYS:
        return meta
    row = rows.filter(times.is_not_null())["source_row"][gaps.before]
    text = (
        f"{meta.name}: {days:,.0f} days pass without a request before data row {row + 1}; a wrong "
        "time there, or workload.time_unit, would explain it"
    )
    return replace(meta, warnings=(*meta.warnings, text))
