"""Runs without their warm-up and cool-down: the numbers of what arrived in between."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from simulator.compare.reading import Run, Window, read_frame, read_requests
from simulator.errors import ConfigError
from simulator.joined import SERVICE
from simulator.results import (
    BETWEEN_TOKENS,
    FROM_ARRIVAL,
    SLO,
    SharedSLO,
    least_owed,
    owing,
    shared_slo,
    totals,
    values_of,
    worst_service,
)

NEEDED = (
    *("arrival_s", "first_token_s", "finish_s", "input_tokens", "output_tokens"),
    *("status", "reason", "preemptions", "recomputed_tokens", "retries"),
    *(*FROM_ARRIVAL, *BETWEEN_TOKENS),
)


def cut(run: Run, warm_up_s: float, cool_down_s: float) -> Run:
    """Return ``run`` with the numbers of what arrived after its warm-up and before its cool-down.

    ``warm_up_s`` counts from its first arrival, ``cool_down_s`` to its last one. GPU time is that
    between, at the whole run's price of an hour. Gaps between tokens are not kept by request, so
    ITL is unknown.

    Raises:
        ConfigError: no request is left, or a file cannot be read.
    """
    services = run.summary.get("services", {})
    whose = [SERVICE] if services else []
    requests = read_requests(run, [*NEEDED, *whose])
    arrivals = requests["arrival_s"].drop_nulls().to_numpy()
    first, last = (float(arrivals.min()), float(arrivals.max())) if len(arrivals) else (0.0, 0.0)
    window = Window(first + warm_up_s, last - cool_down_s)
    inside = requests.lazy().filter(pl.col("arrival_s").is_between(*window))
    lives = read_frame(run, "lives", ("pool", "gpus", "granted_s", "ended_s"))
    end_s = float(lives["ended_s"].max() or window.end)  # type: ignore[arg-type]
    slo = SLO(**run.summary["slo"])
    if services:
        slo = shared_slo({name: SLO(**each["targets"]) for name, each in services.items()})
    told = totals(inside, slo, end_s)
    if not told["arrived"] or window.length <= 0:
        raise ConfigError(
            f"{run.folder}: compare.warm_up_s={warm_up_s:g} and cool_down_s={cool_down_s:g} leave "
            f"nothing of arrivals from {first:g} to {last:g} s"
        )
    latencies = {
        name: owing(values_of(inside, name), least_owed(inside, name, end_s))
        for name in (*FROM_ARRIVAL, *BETWEEN_TOKENS)
    }
    numbers = _rates(told, window) | _gpu_time(run, lives, window) | latencies
    for side in ("input", "output"):
        gpus, tokens = numbers["gpus"], told[f"{side}_tokens"] / window.length
        numbers[f"{side}_tokens_per_s_per_gpu"] = tokens / gpus if gpus else None
    rejected = _rejected(inside)
    itl = dict.fromkeys(run.summary["itl_s"])
    more = {"rejected_token_share": rejected, "itl_s": itl, **_by_service(inside, slo, run, end_s)}
    return replace(run, summary={**run.summary, **numbers, **more}, window=window)


def _rates(told: Mapping[str, Any], window: Window) -> dict[str, Any]:
    """Return what the counts of requests say, per second of the window where they are rates."""
    return {
        "requests": {name: told[name] for name in ("arrived", "completed")},
        "duration_s": window.length,
        "slo_attainment": told["good"] / told["arrived"],
        "goodput_rps": told["good"] / window.length,
        "preemptions": told["preemptions"],
        "retries": told["retries"],
    }


def _gpu_time(run: Run, lives: pl.DataFrame, window: Window) -> dict[str, Any]:
    """Return the GPU time of workers' lives within the window, and its cost."""
    ends = pl.col("ended_s").fill_null(window.end).clip(window.start, window.end)
    within = ends - pl.col("granted_s").clip(window.start, window.end)
    hours = (pl.col("gpus") * within / 3600).fill_null(0.0)
    found = dict(lives.group_by("pool").agg(hours.sum()).iter_rows())
    by_pool: dict[str, float] = {
        pool: float(found.get(pool, 0.0)) for pool in run.summary["gpu_hours"] if pool != "total"
    }
    total, whole = sum(by_pool.values()), run.summary["gpu_hours"]["total"]
    usd = run.summary.get("usd")
    return {
        "gpu_hours": by_pool | {"total": total},
        "gpus": total * 3600 / window.length if window.length > 0 else None,
        "usd": usd * total / whole if usd is not None and whole else None,
    }


def _by_service(requests: pl.LazyFrame, slo: SLO, run: Run, end_s: float) -> dict[str, Any]:
    """Return what each service attained within the window, nothing where there is but one."""
    if not isinstance(slo, SharedSLO):
        return {}
    services = {}
    for name, targets in slo.services.items():
        told = totals(requests.filter(pl.col(SERVICE) == name), targets, end_s)
        held = told["good"] / told["arrived"] if told["arrived"] else None
        services[name] = {**run.summary["services"][name], "slo_attainment": held}
    return {"services": services, "worst_service": worst_service(services)}


def _rejected(requests: pl.LazyFrame) -> float:
    tokens = pl.col("input_tokens").cast(pl.Int64) + pl.col("output_tokens")
    rejected = tokens.filter(pl.col("status") == "rejected").sum()
    return float(requests.select(rejected / tokens.sum()).collect().item())
