"""Run records made up without an engine, yet physically consistent: one FIFO per worker and port.

Times of every request are in order, gauges are counted from the very request times, and the
workers' totals are the integrals of their gauges.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.record import COUNTS, STATUSES, TIMES, GapHistogram, RunRecord, WorkerInfo

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

BLOCK = 16
KV_BLOCKS = 60_000
PORT = 50e9
KV_BYTES_PER_TOKEN = 327_680.0
EDGES = np.concatenate(([0.0], 10.0 ** (np.arange(-6000, 5001) / 1000), [np.inf]))
COMPLETED, REJECTED = STATUSES.index("completed"), STATUSES.index("rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRun:
    """The size of a made-up run; ``rate`` in requests/s, ``rejected`` the share turned away."""

    requests: int = 2000
    rate: float = 8.0
    prefill: int = 2
    decode: int = 2
    mixed: int = 0
    rejected: float = 0.0
    layerwise: bool = False
    first_token: str = "decode"  # noqa: S105 - a place, not a secret
    samples: int = 400
    seed: int = 0


def fake_record(run: FakeRun | None = None) -> RunRecord:
    """Return the record of ``run``: Poisson arrivals with a slow swing, lognormal lengths."""
    run = run or FakeRun()
    columns = _columns(run, np.random.default_rng(run.seed))
    end = float(np.nanmax(np.concatenate([columns["finish_s"], columns["arrival_s"], [0.0]])))
    pools = ["prefill"] * run.prefill + ["decode"] * run.decode + ["mixed"] * run.mixed
    timeline = _timeline(columns, pools, np.linspace(0.0, end, run.samples + 1)[1:])
    workers = tuple(_worker(columns, timeline, i, pool) for i, pool in enumerate(pools))
    return RunRecord(
        requests=columns,
        timeline=timeline,
        workers=workers,
        events=tuple((0.0, "ready", worker.worker, worker.pool) for worker in workers),
        gaps=_gaps(columns),
        end_s=end,
        first_token=run.first_token,
    )


def changing_record(run: FakeRun | None = None) -> RunRecord:
    """Return the record of ``run`` (two workers a pool) whose lives change, in tenths of its end.

    The last decode worker fails at 4, its successor has GPUs from 5 on and is ready at 6; prefill
    shall be one from 7 on, and its second worker drains until 8. Gauges are unknown otherwise, and
    the third request was lost twice with the worker that failed.
    """
    record = fake_record(run or FakeRun(requests=200))
    end, number = record.end_s, len(record.workers)
    tenth = end / 10
    first, leaves, stays, fails = (replace(worker, ended_s=end) for worker in record.workers)
    leaves = replace(leaves, state="stopped", because="planned", allocated_s=8 * tenth)
    leaves = replace(leaves, draining_s=7 * tenth, ended_s=8 * tenth)
    heir = replace(stays, worker=number, why="replaces worker 3", allocated_s=5 * tenth)
    heir = replace(heir, asked_s=4 * tenth, granted_s=5 * tenth, ready_s=6 * tenth)
    fails = replace(fails, state="failed", because="planned failure", allocated_s=4 * tenth)
    fails = replace(fails, ended_s=4 * tenth)
    retries = record.requests["retries"].copy()
    retries[2] = 2
    return replace(
        record,
        requests={**record.requests, "retries": retries},
        workers=(first, leaves, stays, fails, heir),
        timeline=_known(record.timeline, (end, 8 * tenth, end, 4 * tenth), 6 * tenth),
        events=(
            *record.events,
            (4 * tenth, "failed", 3, "planned failure"),
            (4 * tenth, "pending", number, heir.why),
            (5 * tenth, "starting", number, heir.why),
            (6 * tenth, "ready", number, "4 × H100 SXM"),
            (7 * tenth, "desired", -1, "prefill: 2 to 1, planned"),
            (7 * tenth, "draining", 1, "planned"),
            (8 * tenth, "stopped", 1, "planned"),
        ),
    )


def _known(
    timeline: Mapping[str, Floats], ends: tuple[float, ...], from_s: float
) -> dict[str, Floats]:
    """Return gauges known until the workers' ``ends``, and those of a further one after."""
    time = timeline["time_s"]
    there = time[:, None] <= np.array(ends)
    gauges = {}
    for name in timeline.keys() - {"time_s"}:
        further = np.where(time >= from_s, 1.0, np.nan)
        gauges[name] = np.column_stack((np.where(there, timeline[name], np.nan), further))
    return {"time_s": time, **gauges}


def empty_columns(requests: int) -> Columns:
    """Return the columns of requests that have not even arrived."""
    columns: Columns = {name: np.full(requests, np.nan) for name in TIMES}
    for name in COUNTS:
        columns[name] = np.full(requests, -1 if name.endswith("worker") else 0, dtype=np.int32)
    return columns


def _columns(run: FakeRun, rng: np.random.Generator) -> Columns:
    count, columns = run.requests, empty_columns(run.requests)
    swing = 1.0 + 0.6 * np.sin(np.linspace(0.0, 12.0, count))
    arrival = np.cumsum(rng.exponential(1.0 / run.rate, count) / swing)
    columns["arrival_s"] = arrival
    columns["input_tokens"] = _lengths(rng, count, 7.2, 0.8, 16_000)
    columns["output_tokens"] = _lengths(rng, count, 4.6, 0.8, 2000)
    rejected = rng.random(count) < run.rejected
    columns["status"][:] = np.where(rejected, REJECTED, COMPLETED)
    columns["reason"][:] = np.where(rejected, 1, 0)
    kept = np.flatnonzero(~rejected)
    whole = rng.random(len(kept)) < run.mixed / max(run.mixed + run.prefill, 1)
    _serve(columns, kept[whole], run, first=run.prefill + run.decode)
    _serve(columns, kept[~whole], run, first=None)
    return columns


def _lengths(
    rng: np.random.Generator, count: int, mean: float, sigma: float, most: int
) -> NDArray[np.int32]:
    return np.clip(rng.lognormal(mean, sigma, count), 1, most).astype(np.int32)


def _fifo(enter: Floats, service: Floats, server: NDArray[Any]) -> Floats:
    """Return when each job leaves its server: finish = max(enter, last finish) + service."""
    leave = np.empty_like(enter)
    for index in np.unique(server):
        mine = np.flatnonzero(server == index)
        mine = mine[np.argsort(enter[mine], kind="stable")]
        total = np.cumsum(service[mine])
        leave[mine] = total + np.maximum.accumulate(enter[mine] - (total - service[mine]))
    return leave


def _serve(columns: Columns, ids: NDArray[np.int64], run: FakeRun, first: int | None) -> None:
    """Fill the columns of the requests ``ids``: on mixed workers from ``first`` on, or in pools."""
    if not len(ids):
        return
    turn = np.arange(len(ids))
    source = turn % run.prefill if first is None else first + turn % run.mixed
    target = run.prefill + turn % run.decode if first is None else source
    columns["prefill_worker"][ids], columns["decode_worker"][ids] = source, target
    enter = columns["arrival_s"][ids]
    prefill = 0.01 + columns["input_tokens"][ids] * 6e-5
    done = _fifo(enter, prefill, source)
    for name in ("admitted_s", "prefill_queue_enter_s"):
        columns[name][ids] = enter
    columns["prefill_start_s"][ids] = np.maximum(done - prefill, enter)
    columns["prefill_end_s"][ids] = done
    ready = _transfer(columns, ids, source, run) if first is None else done
    _decode(columns, ids, ready, run)


def _transfer(
    columns: Columns, ids: NDArray[np.int64], source: NDArray[np.int64], run: FakeRun
) -> Floats:
    done, wire = columns["prefill_end_s"][ids], columns["input_tokens"][ids] * KV_BYTES_PER_TOKEN
    seconds = wire / PORT
    end = _fifo(done, seconds, source)
    columns["transfer_queue_enter_s"][ids], columns["transfer_end_s"][ids] = done, end
    columns["transfer_start_s"][ids] = np.maximum(end - seconds, done)
    if run.layerwise:
        early = np.maximum(columns["prefill_start_s"][ids], end - 2 * seconds)
        columns["transfer_start_s"][ids] = np.minimum(end - seconds, early)
    return end


def _decode(columns: Columns, ids: NDArray[np.int64], ready: Floats, run: FakeRun) -> None:
    tokens = columns["output_tokens"][ids]
    load = np.interp(ready, columns["arrival_s"], np.linspace(0.8, 1.6, len(columns["arrival_s"])))
    pace = 0.018 * load * (1.0 + 0.3 * np.sin(ready / 7.0) ** 2)
    at_prefill = run.first_token == "prefill"  # noqa: S105 - a place, not a secret
    join = ready + 0.2 * pace
    columns["first_token_s"][ids] = columns["prefill_end_s"][ids] if at_prefill else join
    columns["decode_queue_enter_s"][ids] = ready
    columns["decode_join_s"][ids] = join
    columns["second_token_s"][ids] = np.where(tokens > 1, join + pace, np.nan)
    columns["finish_s"][ids] = join + pace * np.maximum(tokens - 1, 0)


def _gaps(columns: Columns) -> GapHistogram:
    long = columns["output_tokens"] >= 2
    known = long & ~np.isnan(columns["finish_s"])
    tokens = columns["output_tokens"][known].astype(np.int64)
    first = columns["second_token_s"][known] - columns["first_token_s"][known]
    rest = columns["finish_s"][known] - columns["second_token_s"][known]
    gap = np.divide(rest, tokens - 2, out=np.zeros(len(rest)), where=tokens > 2)
    counts = np.zeros(len(EDGES) - 1, dtype=np.int64)
    for seconds, weight in ((first, np.ones_like(tokens)), (gap, tokens - 2)):
        bins = np.searchsorted(EDGES, seconds, side="right") - 1
        np.add.at(counts, bins, weight)
    seen = np.concatenate((first, gap[tokens > 2]))
    shortest, longest = float(np.min(seen, initial=np.inf)), float(np.max(seen, initial=0.0))
    return GapHistogram(edges=EDGES, counts=counts, min_s=shortest, max_s=longest)


def _timeline(columns: Columns, pools: list[str], time: Floats) -> dict[str, Floats]:
    gauges = [_gauges(columns, index, pool, time) for index, pool in enumerate(pools)]
    names = gauges[0].keys()
    return {"time_s": time, **{n: np.stack([g[n] for g in gauges], axis=1) for n in names}}


def _gauges(columns: Columns, index: int, pool: str, time: Floats) -> dict[str, Floats]:
    sends = columns["prefill_worker"] == index
    takes = columns["decode_worker"] == index
    blocks = np.ceil((columns["input_tokens"] + columns["output_tokens"] / 2) / BLOCK)
    wire = columns["input_tokens"] * KV_BYTES_PER_TOKEN
    queue = ("prefill_queue_enter_s", "prefill_start_s") if pool != "decode" else None
    queue = queue or ("decode_queue_enter_s", "decode_join_s")
    chosen = takes if pool == "decode" else sends
    start = {"prefill": "prefill_start_s", "mixed": "prefill_start_s"}.get(pool, "decode_join_s")
    end = "transfer_end_s" if pool == "prefill" else "finish_s"
    work = (start, "prefill_end_s") if pool == "prefill" else (start, "finish_s")
    running = _inside(columns, chosen, work, time)
    busy = np.cumsum(np.minimum(running / 8.0, 1.0) * np.diff(time, prepend=0.0))
    if pool == "prefill":
        busy = _integral(columns, chosen, work, time)
    return {
        "waiting": _inside(columns, chosen, queue, time),
        "running": running,
        "kv_blocks": _inside(columns, chosen, (start, end), time, blocks),
        "busy_s": busy,
        "sent_bytes": _integral(columns, sends, ("transfer_start_s", "transfer_end_s"), time, wire),
        "received_bytes": _integral(
            columns, takes, ("transfer_start_s", "transfer_end_s"), time, wire
        ),
        "cached_blocks": np.zeros(len(time)),
    }


def _inside(
    columns: Columns,
    chosen: NDArray[np.bool_],
    span: tuple[str, str],
    time: Floats,
    weight: Floats | None = None,
) -> Floats:
    """Return the weight of requests between the two moments of ``span`` at each time."""
    total = np.zeros(len(time))
    for name, sign in zip(span, (1.0, -1.0), strict=True):
        known = chosen & ~np.isnan(columns[name])
        order = np.argsort(columns[name][known])
        summed = np.concatenate(
            (
                [0.0],
                np.cumsum((weight if weight is not None else np.ones(len(known)))[known][order]),
            )
        )
        total += sign * summed[np.searchsorted(columns[name][known][order], time, side="right")]
    return total


def _integral(
    columns: Columns,
    chosen: NDArray[np.bool_],
    span: tuple[str, str],
    time: Floats,
    amount: Floats | None = None,
) -> Floats:
    """Return what was done by each time: a request's ``amount`` (or seconds) over its ``span``."""
    start, end = columns[span[0]], columns[span[1]]
    known = chosen & ~np.isnan(start) & ~np.isnan(end)
    seconds = np.maximum(end[known] - start[known], 1e-12)
    rate = np.ones(len(seconds)) if amount is None else amount[known] / seconds
    moments = np.concatenate([start[known], start[known] + seconds])
    order = np.argsort(moments)
    slopes = np.cumsum(np.concatenate([rate, -rate])[order])
    grid = moments[order]
    done = np.concatenate(([0.0], np.cumsum(slopes[:-1] * np.diff(grid)))) if len(grid) else grid
    return np.interp(time, grid, done, left=0.0) if len(grid) else np.zeros(len(time))


def _worker(columns: Columns, timeline: dict[str, Floats], index: int, pool: str) -> WorkerInfo:
    time = timeline["time_s"]
    prompts = columns["input_tokens"][columns["prefill_worker"] == index]
    answers = columns["output_tokens"][columns["decode_worker"] == index]
    return WorkerInfo(
        worker=index,
        pool=pool,
        gpus=4,
        gpu="H100 SXM",
        kv_blocks=KV_BLOCKS,
        block_size=BLOCK,
        max_transfer_bandwidth=PORT,
        busy_s=float(timeline["busy_s"][-1:, index].sum()),
        steps=len(prompts) + int(answers.sum(dtype=np.int64)) // 8,
        prefill_tokens=int(prompts.sum(dtype=np.int64)),
        decode_tokens=int(answers.sum(dtype=np.int64)),
        kv_block_seconds=float(
            np.sum(timeline["kv_blocks"][:, index] * np.diff(time, prepend=0.0))
        ),
        allocated_s=float(time[-1:].sum()),
    )
