"""What a run means: per-request frames, metrics beside their definitions, and the run's folder.

Each metric is defined once, here: durations of one request in :data:`DURATIONS`, goodput in
:class:`SLO`, totals in :func:`summarize`. The report's glossary prints these very definitions.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from simulator.dropped import Arrived, Refused, dropped, warning
from simulator.errors import ConfigError
from simulator.files import whole, write_parquet, write_text
from simulator.joined import SERVICE
from simulator.measured import beside
from simulator.record import (
    COUNTS,
    REASONS,
    STATUSES,
    TIMES,
    GapHistogram,
    Room,
    RunRecord,
    WorkerInfo,
)
from simulator.scaling import of_scaling
from simulator.turns import of_sessions, warning_of_unsent
from workloads.trace import ABOUT_BLOCKS, BLOCKS_KEY

Floats = NDArray[np.float64]

POOLS = ("prefill", "decode", "mixed")
PERCENTILES = (50, 75, 90, 95, 99)
ROWS_PER_GROUP = 65_536  # parquet row group: small enough that writing 1M requests streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One duration of a request in seconds: column ``name``, its words, formula and expression.

    The expression is null wherever the request did not reach one of the moments it needs.
    """

    name: str
    label: str
    meaning: str
    formula: str
    expression: pl.Expr


def _since(end: str, start: str) -> pl.Expr:
    return pl.col(end) - pl.col(start)


DURATIONS = (
    Metric(
        name="ttft_s",
        label="TTFT",
        meaning="time to first token: from arrival until the client sees the first token",
        formula="first_token - arrival",
        expression=_since("first_token_s", "arrival_s"),
    ),
    Metric(
        name="tpot_s",
        label="TPOT",
        meaning="time per output token after the first, averaged within one request; "
        "undefined for fewer than two output tokens",
        formula="(finish - first_token) / (output_tokens - 1)",
        expression=pl.when(pl.col("output_tokens") >= 2).then(
            _since("finish_s", "first_token_s") / (pl.col("output_tokens") - 1)
        ),
    ),
    Metric(
        name="ttst_s",
        label="TTST",
        meaning="time to second token: the gap between the first and the second token a client "
        "sees; undefined for fewer than two output tokens",
        formula="second_token - first_token",
        expression=_since("second_token_s", "first_token_s"),
    ),
    Metric(
        name="e2e_s",
        label="E2E",
        meaning="end-to-end latency: from arrival until the last token",
        formula="finish - arrival",
        expression=_since("finish_s", "arrival_s"),
    ),
    Metric(
        name="gateway_s",
        label="Gateway",
        meaning="from arrival until the request stands in a worker's prefill queue: the server's "
        "front end, as the engine's profile has it, and waiting for any worker to be there",
        formula="prefill_queue_enter - arrival",
        expression=_since("prefill_queue_enter_s", "arrival_s"),
    ),
    Metric(
        name="prefill_queue_s",
        label="Prefill queue",
        meaning="waiting for a prefill worker",
        formula="prefill_start - prefill_queue_enter",
        expression=_since("prefill_start_s", "prefill_queue_enter_s"),
    ),
    Metric(
        name="prefill_s",
        label="Prefill",
        meaning="computing the prompt, from its first chunk to its last",
        formula="prefill_end - prefill_start",
        expression=_since("prefill_end_s", "prefill_start_s"),
    ),
    Metric(
        name="handover_s",
        label="Hand-over",
        meaning="prompt done, the decode side yet to act: to be asked for room or, where its KV "
        "comes layer by layer meanwhile, to take it into use",
        formula="max(0, transfer_queue_enter - prefill_end) + (decode_queue_enter - transfer_end)",
        expression=pl.when(pl.col("transfer_queue_enter_s").is_not_null()).then(
            _since("transfer_queue_enter_s", "prefill_end_s").clip(lower_bound=0.0)
            + _since("decode_queue_enter_s", "transfer_end_s").fill_null(0.0)
        ),
    ),
    Metric(
        name="transfer_queue_s",
        label="Transfer queue",
        meaning="decode side asked, KV not yet moving: waiting for room at the decode worker "
        "or for the link",
        formula="max(0, transfer_start - max(prefill_end, transfer_queue_enter))",
        expression=(
            pl.col("transfer_start_s")
            - pl.max_horizontal("prefill_end_s", "transfer_queue_enter_s")
        ).clip(lower_bound=0.0),
    ),
    Metric(
        name="transfer_s",
        label="Transfer",
        meaning="KV on the wire after the prompt is done; what a layer-wise push moves during "
        "prefill is hidden behind compute and not counted",
        formula="transfer_end - max(transfer_start, prefill_end)",
        expression=pl.col("transfer_end_s")
        - pl.max_horizontal("transfer_start_s", "prefill_end_s"),
    ),
    Metric(
        name="decode_queue_s",
        label="Decode queue",
        meaning="KV in place, waiting for a seat and the next step of the decode batch",
        formula="decode_join - decode_queue_enter (- prefill_end where nothing was transferred)",
        expression=pl.col("decode_join_s")
        - pl.coalesce(
            pl.when(pl.col("transfer_end_s").is_not_null()).then("decode_queue_enter_s"),
            "transfer_end_s",
            "prefill_end_s",
        ),
    ),
    Metric(
        name="first_step_s",
        label="First step",
        meaning="in the decode batch until the first token is seen, where the decode worker "
        "computes that itself",
        formula="max(0, first_token - decode_join)",
        expression=_since("first_token_s", "decode_join_s").clip(lower_bound=0.0),
    ),
    Metric(
        name="decode_s",
        label="Decode",
        meaning="in the decode batch until the last token, preemptions included",
        formula="finish - max(decode_join, first_token)",
        expression=_since("finish_s", "decode_join_s")
        - _since("first_token_s", "decode_join_s").clip(lower_bound=0.0),
    ),
)
"""Durations of one request. The nine stages, nulls as 0, add up to ``e2e_s``."""

STAGES = tuple(metric.name for metric in DURATIONS[4:])
FROM_ARRIVAL = ("ttft_s", "e2e_s")
"""Metrics that count from a request's arrival."""
BETWEEN_TOKENS = ("tpot_s", "ttst_s")
"""Metrics of what comes after the first token: undefined for answers of a single one."""
SUMMARIZED = tuple(metric.name for metric in DURATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SLO:
    """Latency targets in seconds; ``None`` is not checked. Defaults are Dynamo's 500 and 50 ms.

    A request is good when it completed and every checked metric is at or below its target; a
    missing metric fails. TPOT and TTST of a request with fewer than two output tokens are
    undefined, not missing: they do not count against the request.
    """

    ttft_s: float | None = 0.5
    tpot_s: float | None = 0.05
    ttst_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        for name, target in self.named():
            number = isinstance(target, int | float) and not isinstance(target, bool)
            if target is not None and not (number and 0 < target < float("inf")):
                raise ConfigError(
                    f"slo: {name} must be a positive number of seconds or null but got {target!r}"
                )

    def named(self) -> list[tuple[str, float | None]]:
        """Return every metric with its target, checked or not."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def targets(self) -> dict[str, float]:
        """Return the checked metrics and their targets in seconds."""
        return {name: target for name, target in self.named() if target is not None}

    def met(self, metric: str) -> pl.Expr:
        """Return whether a request held the target of ``metric``."""
        held = (pl.col(metric) <= self.targets()[metric]).fill_null(value=False)
        return held | (pl.col("output_tokens") < 2) if metric in BETWEEN_TOKENS else held

    def good(self) -> pl.Expr:
        """Return whether a request completed within every target."""
        completed = pl.col("status") == "completed"
        return pl.all_horizontal(completed, *(self.met(metric) for metric in self.targets()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSLO(SLO):
    """The targets of services that share GPUs: each request is due those of its own.

    Its own targets are those that all services have alike.
    """

    services: Mapping[str, SLO]

    def named(self) -> list[tuple[str, float | None]]:
        """Return every metric with its target, ``None`` where services' differ."""
        return [(each.name, getattr(self, each.name)) for each in fields(SLO)]

    def good(self) -> pl.Expr:
        """Return whether a request completed within every target of its service."""
        whose = pl.col(SERVICE)
        return pl.any_horizontal(
            (whose == name) & slo.good() for name, slo in self.services.items()
        )


def shared_slo(services: Mapping[str, SLO]) -> SharedSLO:
    """Return the targets of services by name."""
    each = [dict(slo.named()) for slo in services.values()]
    alike = {name: all(slo[name] == each[0][name] for slo in each) for name in each[0]}
    common = {name: each[0][name] if same else None for name, same in alike.items()}
    return SharedSLO(services=services, **common)


def distribution(values: Floats) -> dict[str, Any]:
    """Return count, mean, min, max, population std and percentiles of the non-NaN ``values``.

    Percentiles interpolate linearly between order statistics. All but the count are ``None``
    when there is no value.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return _unknown(0)
    ranks = np.percentile(known, PERCENTILES)
    return {
        "mean": float(known.mean()),
        "min": float(known.min()),
        **{f"p{rank}": float(value) for rank, value in zip(PERCENTILES, ranks, strict=True)},
        "max": float(known.max()),
        "std": float(known.std()),
        "count": len(known),
    }


def owing(values: Floats, owed: Floats) -> dict[str, Any]:
    """Return the distribution of ``values`` where others are yet to come, or never will.

    ``owed`` has how much each of those will be at least (``inf``: it will never be). Percentiles
    count them as more than every value, and so are upper bounds; one that lies among them is
    ``None``, and ``at_least`` then says more than what it is (``None``: that it is never reached).
    All else is of the values alone; ``unfinished`` is the number of the others.
    """
    told = {**distribution(values), "unfinished": len(owed), "at_least": {}}
    known = np.sort(values[~np.isnan(values)])
    bounds = np.sort(np.concatenate([known, owed]))
    for rank in PERCENTILES if len(owed) else ():
        place = rank / 100 * (len(bounds) - 1)
        low, high = math.floor(place), math.ceil(place)
        if high < len(known):
            told[f"p{rank}"] = float(known[low] + (known[high] - known[low]) * (place - low))
            continue
        told[f"p{rank}"] = None
        bound = float(bounds[low])
        told["at_least"][f"p{rank}"] = bound if math.isfinite(bound) else None
    return told


def least_owed(requests: pl.LazyFrame, metric: str, end_s: float) -> Floats:
    """Return, per request that should have ``metric`` and has not, how many seconds it is at least.

    Those are the requests unfinished at ``end_s``; of those that failed it never comes (``inf``).
    Who took a request back does not want it, and rejected ones are counted apart.
    """
    since = pl.lit(end_s) - pl.col("arrival_s" if metric in FROM_ARRIVAL else "first_token_s")
    if metric == "tpot_s":
        since = since / (pl.col("output_tokens") - 1)
    waits = pl.col("status") == "incomplete"
    waits |= (pl.col("status") == "failed") & pl.col("reason").ne_missing("cancelled")
    waits &= pl.col(metric).is_null()
    if metric in BETWEEN_TOKENS:
        waits &= pl.col("output_tokens") >= 2
    bound = pl.when(pl.col("status") == "failed").then(math.inf).otherwise(since.fill_null(0.0))
    return requests.filter(waits).select(bound).collect().to_series().to_numpy()


def _unknown(count: int) -> dict[str, Any]:
    names = ("mean", "min", *(f"p{rank}" for rank in PERCENTILES), "max", "std")
    return {**dict.fromkeys(names), "count": count}


def gap_quantiles(gaps: GapHistogram, shares: Sequence[float] | Floats) -> Floats:
    """Return quantiles (seconds) of the pooled gaps, linear within a bin.

    The error is at most one bin width: :func:`gap_bin_width` of the value.
    """
    below = np.concatenate(([0], np.cumsum(gaps.counts)))
    ranks = np.asarray(shares, dtype=np.float64) * below[-1]
    bins = np.clip(np.searchsorted(below, ranks, side="left") - 1, 0, len(gaps.counts) - 1)
    bins = np.maximum(bins, np.argmax(gaps.counts > 0))
    inside = (ranks - below[bins]) / np.maximum(gaps.counts[bins], 1)
    low, high = np.clip((gaps.edges[bins], gaps.edges[bins + 1]), gaps.min_s, gaps.max_s)
    quantiles: Floats = low + inside * (high - low)
    return quantiles


def gap_bin_width(gaps: GapHistogram) -> float:
    """Return the relative width of the histogram's bins (0.02 = 2 %): the percentiles' error."""
    edges = gaps.edges[(gaps.edges > 0) & np.isfinite(gaps.edges)]
    return float(np.max(edges[1:] / edges[:-1]) - 1.0) if len(edges) > 1 else 0.0


def gap_distribution(gaps: GapHistogram, mean_s: float | None) -> dict[str, float | int | None]:
    """Return the distribution of all inter-token gaps of all requests, pooled (seconds).

    ``mean_s`` comes exactly from the requests (see :func:`mean_gap`); min and max are exact;
    percentiles and std are read off the histogram, to within its relative bin width.
    """
    count = int(gaps.counts.sum())
    if not count:
        return _unknown(0)
    ranks = [float(each) for each in gap_quantiles(gaps, [rank / 100 for rank in PERCENTILES])]
    ends = np.clip(gaps.edges, gaps.min_s, gaps.max_s)
    middles = (ends[:-1] + ends[1:]) / 2
    centre = np.average(middles, weights=gaps.counts)
    if mean_s is not None:  # a sum over requests, rounded otherwise than each gap
        mean_s = min(max(mean_s, gaps.min_s), gaps.max_s)
    return {
        "mean": mean_s,
        "min": float(gaps.min_s),
        **{f"p{rank}": value for rank, value in zip(PERCENTILES, ranks, strict=True)},
        "max": float(gaps.max_s),
        "std": float(np.sqrt(np.average((middles - centre) ** 2, weights=gaps.counts))),
        "count": count,
    }


def mean_gap(requests: pl.LazyFrame) -> float | None:
    """Return the mean inter-token gap (s): Σ(finish − first_token) / Σ(output_tokens − 1).

    Over the finished requests of at least two output tokens; ``None`` without any.
    """
    told = requests.filter(
        (pl.col("output_tokens") >= 2)
        & pl.col("finish_s").is_not_null()
        & pl.col("first_token_s").is_not_null()
    )
    seconds, gaps = (
        told.select(
            _since("finish_s", "first_token_s").sum(),
            (pl.col("output_tokens").cast(pl.Int64) - 1).sum(),
        )
        .collect()
        .row(0)
    )
    return seconds / gaps if gaps else None


def scan_requests(record: RunRecord, identity: pl.DataFrame | None = None) -> pl.LazyFrame:
    """Return the requests, one row each, lazily; raw columns are shared with ``record``.

    NaN times and workers of -1 become null, status and reason become Enums, and every metric of
    :data:`DURATIONS` is a column. The columns of ``identity``, which has a row per request of the
    workload, come first.
    """
    columns = {name: record.requests[name] for name in (*TIMES, *COUNTS)}
    arrived = len(columns["arrival_s"])
    named = {}
    if identity is not None:
        these = identity.head(arrived) if record.rows is None else identity[record.rows]
        named = these.to_dict()
    raw = pl.DataFrame({**named, **columns})
    clean = (
        (raw.lazy() if record.room is None else _in_batches(raw, record.room))
        .with_columns(
            *(pl.col(name).fill_nan(None) for name in TIMES),
            *(pl.col(name).cast(pl.Int32) for name in COUNTS[:-2]),
        )
        .with_columns(
            *(
                pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name)
                for name in ("prefill_worker", "decode_worker")
            ),
            _coded("status", STATUSES),
            pl.when(pl.col("reason") > 0).then(_coded("reason", REASONS)).alias("reason"),
        )
    )
    return clean.with_columns(*(metric.expression.alias(metric.name) for metric in DURATIONS))


def _in_batches(frame: pl.DataFrame, room: Room) -> pl.LazyFrame:
    """Return ``frame``, whose columns lie in a file, to be read without having it all in memory."""

    def batches(
        names: list[str] | None, where: pl.Expr | None, rows: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = frame if names is None else frame.select(names)
        for batch in wanted.head(rows or frame.height).iter_slices(ROWS_PER_GROUP):
            room.shed()
            yield batch if where is None else batch.filter(where)

    return register_io_source(batches, schema=frame.schema)


def _coded(name: str, words: Sequence[str]) -> pl.Expr:
    return pl.col(name).cast(pl.UInt8).cat.to(pl.Enum(words))


def timeline_frame(record: RunRecord) -> pl.DataFrame:
    """Return the sampled gauges in long form, one row per sample and ready worker, in this order.

    ``busy_fraction`` and the byte rates are means over the interval since the previous sample
    (since 0 s for the first); null where that interval is empty.
    """
    gauges, workers = record.timeline, record.workers
    time = np.asarray(gauges["time_s"], dtype=np.float64)
    count = len(workers)
    there = ~np.isnan(_flat(gauges["waiting"]))
    blocks, cached = _flat(gauges["kv_blocks"]), _flat(gauges["cached_blocks"])
    capacity = np.tile([float(worker.kv_blocks) for worker in workers], len(time))
    columns: dict[str, NDArray[Any]] = {
        "time_s": np.repeat(time, count),
        "worker": np.tile(np.array([w.worker for w in workers], dtype=np.int32), len(time)),
        "waiting": _flat(gauges["waiting"]),
        "running": _flat(gauges["running"]),
        "kv_blocks": blocks,
        "kv_utilization": blocks / np.where(capacity > 0, capacity, np.nan),
        "busy_fraction": _rate(gauges["busy_s"], time),
        "sent_bytes_per_s": _rate(gauges["sent_bytes"], time),
        "received_bytes_per_s": _rate(gauges["received_bytes"], time),
        "cached_blocks": cached,
        "kv_cached": cached / np.where(capacity > 0, capacity, np.nan),
    }
    pools = pl.Series("pool", [w.pool for w in workers] * len(time), dtype=pl.Enum(POOLS))
    whole: dict[str, pl.DataType] = {
        **dict.fromkeys(("waiting", "running"), pl.Int32()),
        **dict.fromkeys(("kv_blocks", "cached_blocks"), pl.Int64()),
    }
    return (
        pl.DataFrame({name: column[there] for name, column in columns.items()})
        .with_columns(pl.col(pl.Float64).fill_nan(None))
        .cast(whole)  # type: ignore[arg-type]
        .insert_column(2, pools.filter(pl.Series(there)))
    )


def lives_frame(record: RunRecord) -> pl.DataFrame:
    """Return one row per worker's life, in the order asked for; unknown times are null."""
    frame = pl.DataFrame([asdict(worker) for worker in record.workers], infer_schema_length=None)
    if not any(worker.service for worker in record.workers):
        frame = frame.drop(SERVICE)
    return frame.with_columns(
        pl.col(pl.Float64).fill_nan(None), pl.col("pool").cast(pl.Enum(POOLS))
    )


def decisions_frame(record: RunRecord) -> pl.DataFrame:
    """Return a controller's decisions, one row per tick and pool: asked, granted, and why."""
    schema: dict[str, type[pl.DataType]] = {
        "at_s": pl.Float64,
        "seen_s": pl.Float64,
        "pool": pl.String,
        "before": pl.Int64,
        "asked": pl.Int64,
        "granted": pl.Int64,
        "reason": pl.String,
    }
    if any(worker.service for worker in record.workers):
        schema[SERVICE] = pl.String
    return pl.DataFrame(list(record.decisions), schema=schema)


def _flat(gauge: NDArray[Any]) -> Floats:
    return np.asarray(gauge, dtype=np.float64).ravel()


def _rate(total: NDArray[Any], time: Floats) -> Floats:
    """Return the growth of a cumulative gauge (T, workers) per second, flattened."""
    seconds = np.diff(time, prepend=0.0)[:, None]
    grown = np.diff(np.asarray(total, dtype=np.float64), axis=0, prepend=0.0)
    return np.divide(grown, seconds, out=np.full_like(grown, np.nan), where=seconds > 0).ravel()


def events_frame(record: RunRecord) -> pl.DataFrame:
    """Return what happened to workers, in recorded order: time_s, kind, worker, pool, detail."""
    pools = {worker.worker: worker.pool for worker in record.workers}
    rows = [
        (time, kind, worker if worker >= 0 else None, pools.get(worker), detail)
        for time, kind, worker, detail in record.events
    ]
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "time_s": pl.Float64,
        "kind": pl.String,
        "worker": pl.Int32,
        "pool": pl.Enum(POOLS),
        "detail": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def config_digest(text: str) -> str:
    """Return the first 12 hex digits of the SHA-256 of a resolved configuration."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _per(amount: float, over: float | None) -> float | None:
    """Return ``amount`` / ``over``: 0 when nothing was done, ``None`` without a divisor."""
    if not amount:
        return 0.0
    return amount / over if over else None


def gpu_hours(workers: Sequence[WorkerInfo]) -> dict[str, float]:
    """Return GPU-hours allocated (starting and draining included), per pool and in total."""
    seconds = dict.fromkeys(POOLS, 0.0)
    for worker in workers:
        seconds[worker.pool] += worker.gpus * worker.allocated_s
    return {
        **{pool: total / 3600 for pool, total in seconds.items()},
        "total": sum(seconds.values()) / 3600,
    }


def turnover(workers: Sequence[WorkerInfo]) -> dict[str, dict[str, int]]:
    """Return how many workers each pool began with, and how many started, stopped and failed.

    Counted are those that got GPUs; ``unplaced`` never did. Who serves to the end of the run has
    not stopped, and who is ``draining`` then neither.
    """
    counts = {}
    for pool in POOLS:
        members = [worker for worker in workers if worker.pool == pool]
        placed = [worker for worker in members if not math.isnan(worker.granted_s)]
        begun = [worker for worker in placed if worker.why == "initial"]
        counts[pool] = {
            "initial": len(begun),
            "started": len(placed) - len(begun),
            "stopped": sum(worker.state == "stopped" for worker in placed),
            "failed": sum(worker.state == "failed" for worker in placed),
            "draining": sum(worker.state == "draining" for worker in placed),
            "unplaced": len(members) - len(placed),
        }
    return counts


def mean_gpus(workers: Sequence[WorkerInfo], end_s: float) -> float:
    """Return the time-mean of allocated GPUs over the run: their number, where pools are static."""
    if end_s <= 0:
        return float(sum(worker.gpus for worker in workers))
    return sum(worker.gpus * (worker.allocated_s / end_s) for worker in workers)


def cost_usd(workers: Sequence[WorkerInfo], prices: Mapping[str, float | None]) -> float | None:
    """Return what the allocated GPUs cost at ``prices``, USD per hour by the GPU's name.

    ``None`` where a GPU has no price.
    """
    asked = [prices.get(worker.gpu) for worker in workers]
    known = [price for price in asked if price is not None]
    if len(known) < len(asked):
        return None
    hours = [worker.gpus * worker.allocated_s / 3600 for worker in workers]
    return sum(price * spent for price, spent in zip(known, hours, strict=True))


def kv_utilization(workers: Sequence[WorkerInfo]) -> dict[str, float | None]:
    """Return, per pool, used over available KV block-seconds while allocated (share, 0–1)."""
    used = {pool: [w for w in workers if w.pool == pool] for pool in POOLS}
    return {
        pool: _per(
            sum(w.kv_block_seconds for w in members),
            sum(w.kv_blocks * w.allocated_s for w in members),
        )
        if members
        else None
        for pool, members in used.items()
    }


def prefix_cache(workers: Sequence[WorkerInfo]) -> dict[str, float | None]:
    """Return what prefix caches spared, empty where there are none.

    ``hit_share`` is of the prompt tokens that were due, ``spared_prefill_s`` what those found would
    have taken alone, ``kept_tokens`` those that decode workers had not to be sent.
    """
    caches = [worker for worker in workers if worker.prefix_cache]
    if not caches:
        return {}
    found = sum(worker.found_tokens for worker in caches)
    return {
        "hit_tokens": found,
        "hit_share": _per(found, found + sum(worker.prefill_tokens for worker in workers)),
        "spared_prefill_s": sum(worker.spared_s for worker in caches),
        "kept_tokens": sum(worker.kept_tokens for worker in caches),
        "evicted_blocks": sum(worker.evicted_blocks for worker in caches),
    }


def cache_tiers(record: RunRecord) -> dict[str, dict[str, float | None]]:
    """Return what memories beneath the caches held and gave, by name; empty where there are none.

    ``hit_share`` is of the prompt tokens that were due, ``used_share`` of a memory's blocks at the
    end; both are shares from 0 to 1. Of ``prefetched_bytes``, which were brought up to host memory,
    ``prefetch_wasted_bytes`` spared nobody anything: their prompt had left, was begun before their
    block had come whole, or had it from elsewhere by then.
    """
    due = sum(worker.found_tokens + worker.prefill_tokens for worker in record.workers)
    return {
        tier.name: {
            "hit_tokens": tier.hit_tokens,
            "hit_share": _per(tier.hit_tokens, due),
            "loaded_bytes": tier.loaded_bytes,
            "written_bytes": tier.written_bytes,
            "evicted_blocks": tier.evicted_blocks,
            "prefetched_tokens": tier.prefetched_tokens,
            "prefetched_bytes": tier.prefetched_bytes,
            "prefetch_wasted_bytes": tier.prefetched_bytes - tier.prefetch_used_bytes,
            "used_share": _per(tier.blocks, tier.capacity_blocks),
            "places": tier.places,
        }
        for tier in record.tiers
    }


def local_prefill(requests: pl.LazyFrame, workers: Sequence[WorkerInfo]) -> dict[str, float | None]:
    """Return how many prompts decode workers were given to compute; empty where there are none.

    ``share`` is of all ``requests`` that were placed; ``computed_tokens`` are those of the prompts
    that were not found in a cache.
    """
    decoders = [worker.worker for worker in workers if worker.pool == "decode"]
    here = pl.col("prefill_worker").is_in(decoders)
    tokens = pl.col("input_tokens").cast(pl.Int64) - pl.col("cached_tokens")
    count, placed, computed = (
        requests.select(
            here.sum(), pl.col("prefill_worker").count().alias("placed"), tokens.filter(here).sum()
        )
        .collect()
        .row(0)
    )
    if not count:
        return {}
    return {"requests": count, "share": count / placed, "computed_tokens": computed}


def totals(requests: pl.LazyFrame, slo: SLO, end_s: float) -> dict[str, Any]:
    """Return how many requests there are of each status and how many are good, and their sums.

    Tokens are those of completed ones; ``duration_s`` is as :func:`summarize` has it.
    """
    completed = pl.col("status") == "completed"
    arrived = pl.col("arrival_s").is_not_null()
    statuses = {
        status: (arrived & (pl.col("status") == status)).sum().alias(status) for status in STATUSES
    }
    tokens = {
        name: pl.col(name).cast(pl.Int64).filter(completed).sum()
        for name in ("input_tokens", "output_tokens")
    }
    costs = {
        name: pl.col(name).cast(pl.Int64).sum()
        for name in ("preemptions", "recomputed_tokens", "retries")
    }
    last = pl.when((pl.col("status") == "incomplete").any()).then(end_s)
    span = last.otherwise(pl.col("finish_s").max()) - pl.col("arrival_s").min()
    return (
        requests.select(
            arrived.sum().alias("arrived"),
            *statuses.values(),
            slo.good().sum().alias("good"),
            span.alias("duration_s"),
            (pl.col("retries") > 0).sum().alias("retried_requests"),
            **tokens,
            **costs,
        )
        .collect()
        .row(0, named=True)
    )


def _goodness(requests: pl.LazyFrame, slo: SLO) -> tuple[Floats, NDArray[np.bool_]]:
    """Return when each request arrived, and whether it was good."""
    told = requests.select("arrival_s", slo.good().alias("good")).collect()
    return told["arrival_s"].fill_null(math.nan).to_numpy(), told["good"].to_numpy()


def _arrived(requests: pl.LazyFrame) -> Arrived:
    """Return what came to the workers, and what was rejected of it, by reason."""
    tokens = pl.col("input_tokens").cast(pl.Int64) + pl.col("output_tokens")
    rejected = (
        requests.filter(pl.col("status") == "rejected")
        .group_by(pl.col("reason").cast(pl.String).fill_null("unstated"))
        .agg(pl.len(), tokens.sum().alias("tokens"), tokens.max().alias("longest"))
        .sort("reason")
        .collect()
    )
    count, total = requests.select(pl.len(), tokens.sum().alias("tokens")).collect().row(0)
    return Arrived(
        requests=count,
        tokens=total,
        refused={
            reason: Refused(requests=number, tokens=amount, longest=longest)
            for reason, number, amount, longest in rejected.iter_rows()
        },
    )


def _failed_reasons(requests: pl.LazyFrame) -> dict[str, int]:
    """Return how many requests failed, by reason."""
    failed = requests.filter(pl.col("status") == "failed")
    reason = pl.col("reason").cast(pl.String).fill_null("unstated")
    return dict(failed.group_by(reason).len().sort("reason").collect().iter_rows())


def _warnings(
    told: Mapping[str, Any], arrived: Arrived, never_sent: int, context: Mapping[str, Any]
) -> list[str]:
    """Return what a user has to know before trusting the results, a sentence each."""
    limit = context.get("max_context") or 0
    lost = warning(told, arrived.refused, limit)
    unsent = warning_of_unsent(never_sent, arrived.requests)
    from_file = context.get("accounting", {}).get("warnings", ())
    return [*from_file, *(each for each in (lost, unsent) if each)]


def _emptied(workers: Sequence[WorkerInfo], incomplete: int) -> list[str]:
    """Return which pools had no worker left while requests waited for one, a sentence each."""
    gone = ("stopped", "failed")
    pools = dict.fromkeys(worker.pool for worker in workers)
    empty = [
        pool for pool in pools if all(each.state in gone for each in workers if each.pool == pool)
    ]
    if not incomplete:
        return []
    return [
        f"{incomplete:,} requests had no complete answer when the run ended, and the {pool} pool "
        "had no worker any more and none to come"
        for pool in empty
    ]


def missed_targets(requests: pl.LazyFrame, slo: SLO) -> dict[str, dict[str, Any]]:
    """Return, per target of ``slo``, how many arrivals missed it and the stage that made them.

    ``requests`` counts them all, ``measured`` those of them that have the metric (the rejected have
    none). ``stage`` is where those that missed spent the most seconds more (``spent_s``, mean) than
    those that held (``held_s``, ``None`` where none held): only the part of a stage that counts
    towards the metric, ``None`` where none was measured. Seconds towards TPOT are per output token
    after the first.
    """
    return {metric: _missed_target(requests, slo, metric) for metric in slo.targets()}


def _missed_target(requests: pl.LazyFrame, slo: SLO, metric: str) -> dict[str, Any]:
    held, arrived = slo.met(metric), pl.col("arrival_s").is_not_null()
    measured = arrived & pl.col(metric).is_not_null()
    spent = [counted(metric, at) for at in range(len(STAGES))]
    missing, late, *means = (
        requests.select(
            (arrived & ~held).sum().alias("missed"),
            (measured & ~held).sum().alias("late"),
            *(each.filter(measured & ~held).mean().alias(f"+{i}") for i, each in enumerate(spent)),
            *(each.filter(measured & held).mean().alias(f"-{i}") for i, each in enumerate(spent)),
        )
        .collect()
        .row(0)
    )
    counts = {"requests": missing, "measured": late}
    if not late:
        return {**counts, "stage": None, "spent_s": None, "held_s": None}
    long, short = means[: len(STAGES)], means[len(STAGES) :]
    at = max(range(len(STAGES)), key=lambda stage: long[stage] - (short[stage] or 0.0))
    return {**counts, "stage": STAGES[at], "spent_s": long[at], "held_s": short[at]}


def counted(metric: str, at: int) -> pl.Expr:
    """Return the seconds of stage number ``at`` that count towards ``metric``.

    Stages follow each other from the arrival on. TPOT counts what comes after the first token,
    TTST what comes between that and the second, every other metric what comes before its moment.
    """
    stage = pl.col(STAGES[at]).fill_null(0.0)
    before = pl.sum_horizontal(pl.lit(0.0), *STAGES[:at])

    def until(end: pl.Expr) -> pl.Expr:
        return (end - before).clip(0.0, stage)

    first = pl.col("ttft_s")
    if metric == "tpot_s":
        return (stage - until(first)) / (pl.col("output_tokens") - 1)
    if metric == "ttst_s":
        return until(first + pl.col("ttst_s")) - until(first)
    return until(pl.col(metric))


def of_classes(
    requests: pl.LazyFrame, slo: SLO, due: Mapping[str, Mapping[str, float | None]], end_s: float
) -> dict[str, dict[str, Any]]:
    """Return how each class of service fared by its own targets, by its name in column ``class``.

    ``due`` are the TTFT and TPOT (s) that each was promised; the other targets are the run's.
    """
    slos = {name: replace(slo, **targets) for name, targets in due.items()}
    told = _of_groups(requests, "class", slos, end_s)
    return {name: {**each, "targets": dict(due[name])} for name, each in told.items()}


def _of_groups(
    requests: pl.LazyFrame, column: str, slos: Mapping[str, SLO], end_s: float
) -> dict[str, dict[str, Any]]:
    """Return how the requests of each name in ``column`` fared by its own targets."""
    told = {}
    for name, slo in slos.items():
        those = requests.filter(pl.col(column) == name)
        counts = totals(those, slo, end_s)
        arrived = counts["arrived"]
        told[name] = {
            "requests": {status: counts[status] for status in ("arrived", *STATUSES)},
            "targets": dict(slo.named()),
            "slo_attainment": counts["good"] / arrived if arrived else None,
            **{
                metric: owing(values_of(those, metric), least_owed(those, metric, end_s))
                for metric in ("ttft_s", "tpot_s")
            },
        }
    return told


def of_services(requests: pl.LazyFrame, record: RunRecord, slo: SLO) -> dict[str, dict[str, Any]]:
    """Return how each of the services that share GPUs fared, by its name; nothing where none do.

    Beside what :func:`of_classes` tells: the GPUs it held (mean over time), its ``gpu_hours``, and
    what its workers waited for GPUs: ``pending_gpu_s`` (GPUs times seconds) and the longest wait of
    one, ``longest_pending_s``, given or not.
    """
    if not isinstance(slo, SharedSLO):
        return {}
    told = _of_groups(requests, SERVICE, slo.services, record.end_s)
    for name, each in told.items():
        own = [worker for worker in record.workers if worker.service == name]
        waits = [(worker.gpus, _pending_s(worker)) for worker in own]
        each |= {
            "gpus": mean_gpus(own, record.end_s),
            "gpu_hours": gpu_hours(own)["total"],
            "pending_gpu_s": sum(gpus * wait for gpus, wait in waits),
            "longest_pending_s": max((wait for _, wait in waits), default=0.0),
        }
    return told


def worst_service(services: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the least attainment of what :func:`of_services` told, of those with requests."""
    held = (each["slo_attainment"] for each in services.values())
    return min((each for each in held if each is not None), default=None)


def _pending_s(worker: WorkerInfo) -> float:
    """Return how long a worker waited for its GPUs, whether or not it got them."""
    until = worker.ended_s if math.isnan(worker.granted_s) else worker.granted_s
    return until - worker.asked_s


def summarize(
    requests: pl.LazyFrame, record: RunRecord, slo: SLO, context: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the run's summary, ready for JSON: unknown numbers are ``None``.

    ``duration_s`` is last finish − first arrival, or end of the run − first arrival where requests
    are incomplete. Distributions cover every request that has the value; those of TTFT, TPOT, TTST
    and E2E are :func:`owing`. Goodput is good requests per second of duration, attainment their
    share of all arrivals, rejected ones included. ``dropped`` is what
    :func:`simulator.dropped.dropped` tells.
    ``measured`` is :func:`simulator.measured.beside`, empty where nothing was measured, and
    ``sessions`` :func:`simulator.turns.of_sessions`, empty where there are none.
    ``classes`` is :func:`of_classes` and ``services`` :func:`of_services`, empty where there are
    none; ``worst_service`` is the least attainment of a service.
    ``retries`` is how often a request was lost with its worker and begun anew, of
    ``retried_requests``; ``resends`` how often one that admission turned away was sent again, of
    ``resent_requests``; ``workers`` is what :func:`turnover` counts, ``scaling``
    what :func:`simulator.scaling.of_scaling` does. Token rates count the tokens
    of completed requests; per GPU means per allocated GPU of all pools together (``gpus``, their
    time-mean). ``prefix_cache``, ``cache_tiers`` and ``local_prefill`` are what the functions of
    these names count, ``rejected_token_share`` is of the tokens that arrived, ``usd`` what
    :func:`cost_usd` counts.
    """
    counts = totals(requests, slo, record.end_s)
    duration, gpus = counts["duration_s"], mean_gpus(record.workers, record.end_s)
    output = _per(counts["output_tokens"], duration)
    inputs = _per(counts["input_tokens"], duration)
    wall = context.get("wall_s")
    spread = {name: distribution(values_of(requests, name)) for name in SUMMARIZED}
    for name in (*FROM_ARRIVAL, *BETWEEN_TOKENS):
        owed = least_owed(requests, name, record.end_s)
        spread[name] = owing(values_of(requests, name), owed)
    arrived = _arrived(requests)
    services = of_services(requests, record, slo)
    accounting = dict(context.get("accounting", {}))
    lost = dropped(accounting, arrived)
    return {
        "requests": {name: counts[name] for name in ("arrived", *STATUSES)},
        "rejected_reasons": {why: each.requests for why, each in arrived.refused.items()},
        "rejected_token_share": _per(
            sum(each.tokens for each in arrived.refused.values()), arrived.tokens
        ),
        "failed_reasons": _failed_reasons(requests),
        "dropped": lost,
        "warnings": [
            *_warnings(lost, arrived, record.never_sent, context),
            *_emptied(record.workers, counts["incomplete"]),
        ],
        "duration_s": duration,
        "ttft_s": spread.pop("ttft_s"),
        "tpot_s": spread.pop("tpot_s"),
        "ttst_s": spread.pop("ttst_s"),
        "itl_s": gap_distribution(record.gaps, mean_gap(requests)),
        **spread,
        "goodput_rps": _per(counts["good"], duration),
        "slo_attainment": counts["good"] / counts["arrived"] if counts["arrived"] else None,
        "slo": dict(slo.named()),
        "missed": missed_targets(requests, slo),
        "classes": of_classes(requests, slo, context.get("classes", {}), record.end_s),
        "services": services,
        "worst_service": worst_service(services),
        "first_token": record.first_token,
        "measured": beside(requests, context.get("measured")),
        "sessions": of_sessions(requests, context.get("turns", {}), record.never_sent),
        "output_tokens_per_s": output,
        "output_tokens_per_s_per_gpu": None if output is None else _per(output, gpus),
        "input_tokens_per_s_per_gpu": None if inputs is None else _per(inputs, gpus),
        "gpus": gpus,
        "gpu_hours": gpu_hours(record.workers),
        "usd": cost_usd(record.workers, context.get("prices", {})),
        "kv_utilization": kv_utilization(record.workers),
        "prefix_cache": prefix_cache(record.workers),
        "cache_tiers": cache_tiers(record),
        "local_prefill": local_prefill(requests, record.workers),
        "workers": turnover(record.workers),
        "scaling": of_scaling(record, *_goodness(requests, slo)),
        "preemptions": counts["preemptions"],
        "recomputed_tokens": counts["recomputed_tokens"],
        "retries": counts["retries"],
        "retried_requests": counts["retried_requests"],
        "resends": int(record.requests["resends"].sum(dtype=np.int64)),
        "resent_requests": int(np.count_nonzero(record.requests["resends"])),
        "seed": context.get("seed"),
        "config_digest": config_digest(str(context.get("config", ""))),
        "wall_s": wall,
        "requests_per_wall_s": _per(counts["arrived"], wall),
        "accounting": accounting,
    }


def values_of(requests: pl.LazyFrame, name: str) -> Floats:
    """Return one numeric column as float64, NaN where null; only this column is computed."""
    column = requests.select(pl.col(name).cast(pl.Float64)).collect().to_series()
    return column.to_numpy()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Results:
    """One run's frames and summary.

    ``scan`` is the requests frame, lazy so that a million requests are never held twice;
    :attr:`requests` collects it. ``context`` is what the caller knows about the run: ``config``
    (the resolved YAML), ``seed``, ``wall_s``, ``accounting`` (what reading the workload dropped or
    changed), ``max_context`` (tokens of the model), ``prices`` (USD per hour by the GPU's
    name), ``classes`` (what each class of the column ``class`` is due), and for the report
    ``title``, ``model`` and ``workload`` (words).
    """

    scan: pl.LazyFrame
    timeline: pl.DataFrame
    events: pl.DataFrame
    lives: pl.DataFrame
    decisions: pl.DataFrame
    summary: Mapping[str, Any]
    workers: tuple[WorkerInfo, ...]
    gaps: GapHistogram
    slo: SLO
    first_token: str
    context: Mapping[str, Any]

    @classmethod
    def from_record(
        cls,
        record: RunRecord,
        *,
        slo: SLO,
        context: Mapping[str, Any],
        identity: pl.DataFrame | None = None,
    ) -> "Results":
        """Return the results of ``record``; its arrays are shared and must not change any more.

        ``identity`` says which request is which (:meth:`workloads.trace.Trace.identity`).
        """
        requests = scan_requests(record, identity)
        return cls(
            scan=requests,
            timeline=timeline_frame(record),
            events=events_frame(record),
            lives=lives_frame(record),
            decisions=decisions_frame(record),
            summary=summarize(requests, record, slo, context),
            workers=record.workers,
            gaps=record.gaps,
            slo=slo,
            first_token=record.first_token,
            context={**record.notes, **context},
        )

    @property
    def requests(self) -> pl.DataFrame:
        """The whole requests frame, computed on every access."""
        return self.scan.collect()

    def values(self, name: str) -> Floats:
        """Return one column of the requests as float64, NaN where null."""
        return values_of(self.scan, name)

    def _about_blocks(self) -> dict[str, str]:
        """Return what a reader of the requests has to know of their blocks, if they have any."""
        if "block_runs" not in self.scan.collect_schema():
            return {}
        accounting = self.context.get("accounting", {})
        about = {name: accounting.get(name) for name in ABOUT_BLOCKS}
        return {BLOCKS_KEY: json.dumps(about, sort_keys=True)}

    def write(self, folder: Path, *, report: Callable[["Results", Path], None] | None) -> None:
        """Write the run into ``folder``; ``report`` writes its HTML (``None``: no HTML).

        ``summary.json`` goes first if there is an old one, and comes last: its presence means the
        folder is complete. Equal results give byte-identical parquet files.

        Raises:
            OSError: a file cannot be written; it names the file, of which nothing is left.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").unlink(missing_ok=True)
        config = str(self.context.get("config", ""))
        write_text(folder / "config.yaml", config)
        with whole(folder / "requests.parquet") as draft:
            self.scan.sink_parquet(
                draft,
                compression="zstd",
                row_group_size=ROWS_PER_GROUP,
                metadata=self._about_blocks(),
            )
        for name in ("timeline", "events", "lives", "decisions"):
            write_parquet(folder / f"{name}.parquet", getattr(self, name))
        if report is not None:
            with whole(folder / "report.html") as draft:
                report(self, draft)
        text = json.dumps(self.summary, indent=2, allow_nan=False, default=str)
        write_text(folder / "summary.json", text + "\n")
