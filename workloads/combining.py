"""Several traces as one: spliced, one after the other, or mixed, all at once."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from workloads.cleaning import in_order
from workloads.errors import TraceError
from workloads.trace import RUN, Trace, TraceMeta, Transform, canonical_frame

MAX_IDS = 2**32


def splice(traces: Sequence[Trace], gap_s: float = 0.0) -> Trace:
    """Return the traces one after the other, each ``gap_s`` after the last arrival before it."""
    starts, at = [], 0.0
    for trace in traces:
        starts.append(at)
        at += float(trace.frame["arrival_s"].max() or 0.0) + gap_s  # type: ignore[arg-type]
    return _joined(traces, starts, "spliced")


def splice_at(traces: Sequence[Trace], starts: Sequence[float]) -> Trace:
    """Return the traces, each from its own start on."""
    return _joined(traces, starts, "spliced")


def mix(traces: Sequence[Trace]) -> Trace:
    """Return the requests of all traces, each on its own clock."""
    return _joined(traces, [0.0] * len(traces), "mixed")


def _joined(traces: Sequence[Trace], starts: Sequence[float], how: str) -> Trace:
    """Return one trace: sessions, parents and blocks of different traces stay apart."""
    if len(traces) == 1:
        return traces[0]
    frames, rows, sessions, blocks = [], 0, 0, 0
    for trace, start in zip(traces, starts, strict=True):
        frame = trace.frame
        frames.append(
            frame.with_columns(
                pl.col("arrival_s") + start,
                pl.col("session_id") + pl.lit(sessions, dtype=pl.UInt32),
                pl.col("parent_id") + pl.lit(rows, dtype=pl.UInt32),
                _moved_joins(frame["joins"], rows),
                _moved_blocks(frame["block_runs"], blocks),
                source_row=pl.int_range(pl.len(), dtype=pl.UInt32) + pl.lit(rows, dtype=pl.UInt32),
            )
        )
        rows += frame.height
        sessions += _next(frame["session_id"])
        blocks += block_end(frame["block_runs"])
        if blocks > MAX_IDS:
            raise TraceError(f"trace: the traces {how} need more than 2^32 block ids")
    frame = pl.concat(frames)
    meta = _account(traces, how, frame.height)
    frame, meta = in_order(frame, meta, "arrival_s")
    return Trace(canonical_frame(frame), meta)


def _next(numbers: pl.Series) -> int:
    most = numbers.max()
    return 0 if most is None else int(most) + 1  # type: ignore[arg-type]


def block_end(runs: pl.Series) -> int:
    """Return the number after the highest block id."""
    flat = runs.drop_nulls().explode(empty_as_null=False).struct
    ends = flat.field("first").cast(pl.Int64) + flat.field("n").cast(pl.Int64)
    return int(np.max(ends.to_numpy(), initial=0))


def _moved_blocks(runs: pl.Series, shift: int) -> pl.Series:
    """Return runs whose ids are so much higher."""
    if not shift or runs.null_count() == runs.len():
        return runs
    first = pl.element().struct.field("first") + pl.lit(shift, dtype=pl.UInt32)
    moved = pl.struct(first.alias("first"), pl.element().struct.field("n"))
    return runs.to_frame().select(pl.col(runs.name).list.eval(moved).cast(pl.List(RUN))).to_series()


def _moved_joins(joins: pl.Series, shift: int) -> pl.Series:
    if not shift or joins.null_count() == joins.len():
        return joins
    parent = pl.element().struct.field("parent_id") + pl.lit(shift, dtype=pl.UInt32)
    moved = pl.struct(parent.alias("parent_id"), pl.element().struct.field("delay_s"))
    return (
        joins.to_frame().select(pl.col(joins.name).list.eval(moved).cast(joins.dtype)).to_series()
    )


def _account(traces: Sequence[Trace], how: str, rows: int) -> TraceMeta:
    """Return the account of all traces; raise ``TraceError`` where their blocks differ."""
    metas = [trace.meta for trace in traces]
    blocks = {(meta.block_size, meta.tail_block) for meta in metas if meta.block_size is not None}
    if len(blocks) > 1:
        told = " and ".join(
            f"{meta.name} of {meta.block_size} tokens, the last one {meta.tail_block}"
            for meta in metas
            if meta.block_size is not None
        )
        raise TraceError(f"trace: blocks that differ cannot be {how}: {told}")
    size, tail = next(iter(blocks), (None, None))
    counted = [meta.tokens_read for meta in metas]
    drops: dict[str, int] = {}
    lost: dict[str, int] = {}
    for meta in metas:
        for into, counts in ((drops, meta.drops), (lost, meta.dropped_tokens)):
            for reason, count in counts.items():
                into[reason] = into.get(reason, 0) + count
    done = Transform(name=how, counts={meta.name: meta.rows_kept for meta in metas})
    return replace(
        metas[0],
        name=" + ".join(meta.name for meta in metas)[:200],
        format=how,
        sha256=None,
        licence=None,
        t0=metas[0].t0 if how == "spliced" else None,
        block_size=size,
        tail_block=tail,
        block_scope=metas[0].block_scope if size is not None else None,
        loop="closed" if any(meta.loop == "closed" for meta in metas) else "open",
        rows_read=sum(meta.rows_read for meta in metas),
        rows_added=sum(meta.rows_added for meta in metas),
        rows_kept=rows,
        drops=drops,
        tokens_read=None if None in counted else sum(each or 0 for each in counted),
        tokens_added=sum(meta.tokens_added for meta in metas),
        dropped_tokens=lost,
        warnings=tuple(dict.fromkeys(text for meta in metas for text in meta.warnings)),
        transforms=(*(each for meta in metas for each in meta.transforms), done),
    )
