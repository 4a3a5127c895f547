"""A run in the forms other tools read: load generators' results, and a trace of what happened.

``aiperf`` and ``bench`` are what AIPerf and ``vllm bench serve`` would have written had they
measured the run, so whatever reads theirs reads ours (and :mod:`workloads.readers` does);
``perfetto`` opens in ui.perfetto.dev and chrome://tracing. Names and units are those of AIPerf's
JSON export schema 1.4 and of vllm/benchmarks/serve.py.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from simulator.files import whole
from simulator.lateness import late
from simulator.results import STAGES, Results

Row = Mapping[str, Any]

NS, US, MS = 1e9, 1e6, 1e3
RANKS = (1, 5, 10, 25, 50, 75, 90, 95, 99)
WORST = 200
"""Requests in the Perfetto trace: those that took longest."""

COUNTERS = {
    "running": "running requests",
    "waiting": "waiting requests",
    "busy_fraction": "busy share",
    "kv_blocks": "KV blocks in use",
}
METRICS: Mapping[str, tuple[str, str, float]] = {
    "time_to_first_token": ("ttft_s", "ms", MS),
    "time_to_second_token": ("ttst_s", "ms", MS),
    "request_latency": ("e2e_s", "ms", MS),
    "inter_token_latency": ("tpot_s", "ms", MS),
    "input_sequence_length": ("input_tokens", "tokens", 1.0),
    "output_sequence_length": ("output_tokens", "tokens", 1.0),
}
"""AIPerf's metrics of single requests: our column, their unit, and how many are in one of ours."""

NEEDED = (
    "request_id",
    "arrival_s",
    "finish_s",
    "second_token_s",
    "status",
    "reason",
    *(column for column, _, _ in METRICS.values()),
)


def write_exports(results: Results, names: tuple[str, ...], folder: Path) -> None:
    """Write the exports called ``names`` into ``folder``.

    Raises:
        OSError: a file cannot be written; it names the file, of which nothing is left.
    """
    for name in names:
        for file, write in EXPORTS[name].items():
            with whole(folder / file) as draft, draft.open("w", encoding="utf-8") as stream:
                stream.writelines(write(results))


# --- AIPerf ---------------------------------------------------------------------------------


def _rows(results: Results) -> Iterator[Row]:
    """Yield the requests in batches of bounded memory."""
    for batch in results.scan.select(NEEDED).collect_batches():
        yield from batch.iter_rows(named=True)


def _records(results: Results) -> Iterator[str]:
    for row in _rows(results):
        yield f"{json.dumps(_record(row), allow_nan=False)}\n"


def _record(row: Row) -> dict[str, Any]:
    """Return one request as AIPerf records it; what did not complete has an error for metrics."""
    done = row["status"] == "completed"
    end = row["finish_s"] if row["finish_s"] is not None else row["arrival_s"]
    return {
        "metadata": {
            "session_num": row["request_id"],
            "x_request_id": str(row["request_id"]),
            "request_start_ns": round(row["arrival_s"] * NS),
            "request_end_ns": round(end * NS),
            "benchmark_phase": "profiling",
            "was_cancelled": row["reason"] in ("timeout", "cancelled"),
        },
        "metrics": _values(row)
        if done
        else {"error_isl": {"value": row["input_tokens"], "unit": "tokens"}},
        "error": None if done else _refusal(row),
    }


def _values(row: Row) -> dict[str, Any]:
    return {
        name: {"value": row[column] * scale, "unit": unit}
        for name, (column, unit, scale) in METRICS.items()
        if row[column] is not None
    }


def _refusal(row: Row) -> dict[str, Any]:
    left = row["reason"] in ("timeout", "cancelled")
    return {"code": 499 if left else 503, "type": row["status"], "message": row["reason"] or ""}


def _aggregate(results: Results) -> Iterator[str]:
    """Yield AIPerf's statistics of a run."""
    done = results.scan.filter(pl.col("status") == "completed")
    told: dict[str, Any] = {"schema_version": "1.4"}
    for name, (column, unit, scale) in METRICS.items():
        values = done.select(pl.col(column).cast(pl.Float64)).drop_nulls().collect().to_series()
        if len(values):
            told[name] = {"unit": unit, **_statistics(values.to_numpy() * scale)}
    summary = results.summary
    completed, duration = summary["requests"]["completed"], summary["duration_s"]
    scalars = {
        "request_count": ("requests", completed),
        "request_throughput": ("requests/sec", completed / duration if duration else None),
        "output_token_throughput": ("tokens/sec", summary["output_tokens_per_s"]),
        "goodput": ("requests/sec", summary["goodput_rps"]),
        "benchmark_duration": ("sec", duration),
    }
    for name, (unit, value) in scalars.items():
        if value is not None:
            told[name] = {"unit": unit, "avg": float(value)}
    yield json.dumps(told, indent=2, allow_nan=False) + "\n"


def _statistics(values: Any) -> dict[str, Any]:
    ranks = np.percentile(values, RANKS)
    return {
        "avg": float(values.mean()),
        "min": float(values.min()),
        "max": float(values.max()),
        **{f"p{rank}": float(value) for rank, value in zip(RANKS, ranks, strict=True)},
        "std": float(values.std()),
        "count": len(values),
        "sum": float(values.sum()),
    }


# --- vLLM -----------------------------------------------------------------------------------


def _bench(results: Results) -> Iterator[str]:
    """Yield what ``vllm bench serve --save-detailed`` writes, list by list.

    Gaps between tokens are a request's first one and the mean of its others, which add up to what
    it took; no single gap of a request is kept. One that did not complete has no output.
    """
    summary = results.summary
    head = {
        "backend": "disaggsim",
        "model_id": results.context.get("model"),
        "num_prompts": summary["requests"]["arrived"],
        "request_rate": None,
        "max_concurrency": None,
        "duration": summary["duration_s"],
        "completed": summary["requests"]["completed"],
        "request_goodput": summary["goodput_rps"],
        "output_throughput": summary["output_tokens_per_s"],
        **_bench_statistics(summary),
    }
    yield json.dumps(head, allow_nan=False)[:-1]
    for name, value in _LISTS.items():
        yield f',\n"{name}": ['
        for at, row in enumerate(_rows(results)):
            yield ("," if at else "") + json.dumps(value(row), allow_nan=False)
        yield "]"
    yield "}\n"


_BENCH_NAMES = ("ttft", "tpot", "itl", "e2el")


def _bench_statistics(summary: Mapping[str, Any]) -> dict[str, Any]:
    told = {}
    for ours, theirs in (
        ("ttft_s", "ttft"),
        ("tpot_s", "tpot"),
        ("itl_s", "itl"),
        ("e2e_s", "e2el"),
    ):
        for ranked, name in (("mean", "mean"), ("p50", "median"), ("p99", "p99")):
            value = summary[ours][ranked]
            told[f"{name}_{theirs}_ms"] = None if value is None else value * MS
    return told


def _gaps(row: Row) -> list[float]:
    tokens = row["output_tokens"]
    if row["status"] != "completed" or tokens < 2:
        return []
    first = row["ttst_s"]
    rest = (row["finish_s"] - row["second_token_s"]) / (tokens - 2) if tokens > 2 else 0.0
    return [first] + [rest] * (tokens - 2)


def _done(row: Row) -> bool:
    return bool(row["status"] == "completed")


_LISTS: Mapping[str, Callable[[Row], Any]] = {
    "input_lens": lambda row: row["input_tokens"],
    "output_lens": lambda row: row["output_tokens"] if _done(row) else 0,
    "ttfts": lambda row: row["ttft_s"] if _done(row) else 0.0,
    "itls": _gaps,
    "start_times": lambda row: row["arrival_s"],
    "errors": lambda row: "" if _done(row) else row["reason"] or row["status"],
}


# --- Perfetto -------------------------------------------------------------------------------


def _perfetto(results: Results) -> Iterator[str]:
    """Yield the worst requests' stages, workers' gauges and events as Chrome's trace format."""
    yield '{"displayTimeUnit":"ms","traceEvents":[\n'
    for at, event in enumerate(_events(results)):
        yield (",\n" if at else "") + json.dumps(event, allow_nan=False)
    yield "\n]}\n"


def _events(results: Results) -> Iterator[dict[str, Any]]:
    yield _named(0, "worst requests")
    for at, life in enumerate(results.workers):
        yield _named(at + 1, f"{life.pool} {at}")
    yield from _slowest(results)
    yield from _gauges(results)
    for time, kind, worker, detail in results.events.select(
        "time_s", "kind", "worker", "detail"
    ).iter_rows():
        place = 0 if worker is None else worker + 1
        yield {
            "name": kind,
            "ph": "i",
            "s": "p",
            "ts": time * US,
            "pid": place,
            "tid": 0,
            "args": {"detail": detail},
        }


def _named(process: int, name: str) -> dict[str, Any]:
    return {"name": "process_name", "ph": "M", "pid": process, "args": {"name": name}}


def _slowest(results: Results) -> Iterator[dict[str, Any]]:
    """Yield each stage of the slowest requests, one after the other on a line of its own."""
    worst = results.scan.filter(pl.col("e2e_s").is_not_null()).sort("e2e_s").tail(WORST).collect()
    for line, row in enumerate(worst.reverse().iter_rows(named=True)):
        start = row["arrival_s"]
        about = {
            "request": row["request_id"],
            "tokens": [row["input_tokens"], row["output_tokens"]],
        }
        for stage in STAGES:
            seconds = row[stage] or 0.0
            if seconds > 0:
                yield {
                    "name": stage.removesuffix("_s"),
                    "ph": "X",
                    "pid": 0,
                    "tid": line,
                    "ts": start * US,
                    "dur": seconds * US,
                    "args": about,
                }
            start += seconds


def _gauges(results: Results) -> Iterator[dict[str, Any]]:
    for time, worker, *values in results.timeline.select("time_s", "worker", *COUNTERS).iter_rows():
        for name, value in zip(COUNTERS, values, strict=True):
            if value is not None and np.isfinite(value):
                yield {
                    "name": COUNTERS[name],
                    "ph": "C",
                    "ts": time * US,
                    "pid": worker + 1,
                    "args": {"value": value},
                }


def _lateness(results: Results) -> Iterator[str]:
    """Yield a CSV of the requests that missed a target, and of what made them late."""
    for at, metric in enumerate(results.slo.targets()):
        told = late(results, metric).with_columns(pl.lit(metric).alias("metric"))
        yield told.select("metric", *told.columns[:-1]).write_csv(include_header=not at)


EXPORTS: Mapping[str, Mapping[str, Callable[[Results], Iterator[str]]]] = {
    "aiperf": {"profile_export.jsonl": _records, "profile_export_aiperf.json": _aggregate},
    "bench": {"bench.json": _bench},
    "perfetto": {"perfetto.json": _perfetto},
    "lateness": {"lateness.csv": _lateness},
}
"""Per export, the files it writes."""
