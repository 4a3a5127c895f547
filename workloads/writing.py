"""Traces in other tools' formats: Mooncake's JSON lines, and AIPerf's turns of sessions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from workloads.errors import TraceError
from workloads.trace import Trace

KINDS = ("parquet", "mooncake", "aiperf")
BATCH = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Lines to write, and what has to be said of them."""

    lines: Iterator[str]
    notes: tuple[str, ...] = ()


def mooncake(trace: Trace) -> Written:
    """Return Mooncake's rows: times in whole ms, whole prompts, ids of blocks.

    Raises:
        TraceError: a request has no time of its own.
    """
    if trace.frame["arrival_s"].null_count():
        raise TraceError(
            f"trace {trace.meta.name!r}: some requests have no time of their own, which Mooncake's "
            "rows need; convert it to aiperf or parquet"
        )
    notes = []
    size = trace.meta.block_size
    if size is not None and size != 512:
        notes.append(f"its blocks are of {size} tokens: say so where it is read")
    if trace.frame["parent_id"].null_count() < len(trace):
        notes.append("Mooncake's rows do not say who waits for whom")
    return Written(lines=_mooncake_lines(trace), notes=tuple(notes))


def _mooncake_lines(trace: Trace) -> Iterator[str]:
    columns = ("arrival_s", "input_tokens", "output_tokens", "block_runs")
    for frame in trace.frame.select(columns).iter_slices(BATCH):
        for arrival, inputs, outputs, runs in frame.iter_rows():
            row: dict[str, Any] = {"timestamp": round(arrival * 1e3)}
            row |= {"input_length": inputs, "output_length": outputs}
            if runs is not None:
                row["hash_ids"] = _ids(runs)
            yield json.dumps(row)


def _ids(runs: list[dict[str, int]]) -> list[int]:
    return [block for run in runs for block in range(run["first"], run["first"] + run["n"])]


def aiperf(trace: Trace) -> Written:
    """Return rows with ``session_id``; a later turn has its ``delay`` and its new tokens alone.

    A turn that does not go on with all its session said begins a session of its own, at its own
    time, or after its parent's session at 0 where it has none; so does one that waits for several.
    """
    frame = trace.frame
    count = len(trace)
    parent = frame["parent_id"].cast(pl.Int64).fill_null(-1).to_numpy()
    inputs = frame["input_tokens"].to_numpy().astype(np.int64)
    said = inputs + frame["output_tokens"].to_numpy()
    delay = frame["delay_s"].fill_null(float("nan")).to_numpy()
    above = np.maximum(parent, 0)
    grows = (parent >= 0) & (inputs > said[above]) & ~np.isnan(delay)
    first = np.full(count, False)
    children: set[int] = set()
    for row in np.flatnonzero(grows):  # a session is a chain: the first child goes on with it
        if int(parent[row]) in children:
            first[row] = True
        children.add(int(parent[row]))
    goes_on = grows & ~first
    lost = int(((parent >= 0) & ~goes_on).sum())
    notes = [f"{lost} turns that do not go on with their session begin their own"] if lost else []
    return Written(lines=_aiperf_lines(trace, goes_on, said), notes=tuple(notes))


def _aiperf_lines(
    trace: Trace, goes_on: np.ndarray[Any, Any], said: np.ndarray[Any, Any]
) -> Iterator[str]:
    session: list[int] = []
    columns = ("arrival_s", "input_tokens", "output_tokens", "block_runs", "parent_id", "delay_s")
    rows = trace.frame.select(columns).iter_rows()
    for at, (arrival, inputs, outputs, runs, parent, delay) in enumerate(rows):
        session.append(session[parent] if goes_on[at] else at)
        row: dict[str, Any] = {"session_id": f"s{session[at]}"}
        if goes_on[at]:
            row |= {"delay": round(delay * 1e3), "input_length": inputs - int(said[parent])}
        else:
            row |= {"timestamp": round((arrival or 0.0) * 1e3), "input_length": inputs}
        row["output_length"] = outputs
        if runs is not None and not goes_on[at]:
            row["hash_ids"] = _ids(runs)
        yield json.dumps(row)
