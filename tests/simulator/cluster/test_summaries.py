"""A run's frames and summary are what plain arithmetic over its requests says, on drawn runs."""

import math
from dataclasses import fields
from random import Random
from typing import Any

import pytest
from test_reference import run

from simulator.record import COUNTS, GAUGES, REASONS, STATUSES, TIMES, RunRecord
from simulator.results import SLO, STAGES, SUMMARIZED, Results

Row = dict[str, Any]
POOLS = ("prefill", "decode", "mixed")
SEEDS = range(60)


def rows_of(record: RunRecord) -> list[Row]:
    """Return the requests as rows of moments (``None`` where never reached), counts and words."""
    rows = []
    for at in range(len(record.requests["arrival_s"])):
        row: Row = {name: float(record.requests[name][at]) for name in TIMES}
        row = {name: None if math.isnan(when) else when for name, when in row.items()}
        row |= {name: int(record.requests[name][at]) for name in COUNTS}
        row["status"] = STATUSES[row["status"]]
        row["reason"] = REASONS[row["reason"]] or None
        for name in ("prefill_worker", "decode_worker"):
            row[name] = None if row[name] < 0 else row[name]
        rows.append(row | durations(row))
    return rows


def durations(row: Row) -> Row:
    """Return a request's durations from its moments."""

    def span(start: str, end: str) -> float | None:
        if row[f"{start}_s"] is None or row[f"{end}_s"] is None:
            return None
        return float(row[f"{end}_s"] - row[f"{start}_s"])

    several, moved = row["output_tokens"] >= 2, row["transfer_end_s"] is not None
    after = span("first_token", "finish")
    told = span("prefill_end", "transfer_queue_enter")
    queued = span("transfer_queue_enter" if (told or 0.0) > 0 else "prefill_end", "transfer_start")
    handed = None if told is None else max(0.0, told)
    if handed is not None:
        handed += span("transfer_end", "decode_queue_enter") or 0.0
    shown = span("decode_join", "first_token")
    left = span("decode_join", "finish")
    wire = span("prefill_end", "transfer_end")
    if moved and row["transfer_start_s"] > row["prefill_end_s"]:
        wire = span("transfer_start", "transfer_end")
    return {
        "ttft_s": span("arrival", "first_token"),
        "tpot_s": after / (row["output_tokens"] - 1) if several and after is not None else None,
        "ttst_s": span("first_token", "second_token"),
        "e2e_s": span("arrival", "finish"),
        "gateway_s": span("arrival", "prefill_queue_enter"),
        "prefill_queue_s": span("prefill_queue_enter", "prefill_start"),
        "prefill_s": span("prefill_start", "prefill_end"),
        "handover_s": handed,
        "transfer_queue_s": None if queued is None else max(0.0, queued),
        "transfer_s": wire,
        "decode_queue_s": span("decode_queue_enter" if moved else "prefill_end", "decode_join"),
        "first_step_s": None if shown is None else max(0.0, shown),
        "decode_s": None if left is None or shown is None else left - max(0.0, shown),
    }


def met(row: Row, metric: str, target: float) -> bool:
    """Tell whether a request held a target; what it cannot have it cannot miss."""
    if metric in ("tpot_s", "ttst_s") and row["output_tokens"] < 2:
        return True
    return row[metric] is not None and row[metric] <= target


def quantile(values: list[float], share: float) -> float:
    """Return a quantile, linear between order statistics."""
    ordered, at = sorted(values), share * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(values: list[float]) -> Row:
    """Return the statistics of some values."""
    names = ["mean", "min", "max", "std", *(f"p{rank}" for rank in (50, 75, 90, 95, 99))]
    if not values:
        return {**dict.fromkeys(names), "count": 0}
    mean = math.fsum(values) / len(values)
    return {
        "count": len(values),
        "mean": mean,
        "min": min(values),
        "max": max(values),
        "std": math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)),
        **{f"p{rank}": quantile(values, rank / 100) for rank in (50, 75, 90, 95, 99)},
    }


def owing(rows: list[Row], name: str, end_s: float) -> Row:
    """Return the statistics of a metric that unfinished requests lack: they come after all others.

    A percentile among them is unknown, but no less than if all of them had ended with the run.
    """
    known = [row[name] for row in rows if row[name] is not None]
    waits = [
        row
        for row in rows
        if row["status"] == "incomplete" or (row["status"], row["reason"]) == ("failed", "timeout")
    ]
    lacking = [row for row in waits if row[name] is None]
    if name in ("tpot_s", "ttst_s"):
        lacking = [row for row in lacking if row["output_tokens"] >= 2]
    least = []
    for row in lacking:
        start = row["arrival_s"] if name in ("ttft_s", "e2e_s") else row["first_token_s"]
        share = row["output_tokens"] - 1 if name == "tpot_s" else 1
        bound = 0.0 if start is None else (end_s - start) / share
        least.append(math.inf if row["status"] == "failed" else bound)
    told: Row = {**spread(known), "unfinished": len(lacking), "at_least": {}}
    for rank in (50, 75, 90, 95, 99) if lacking else ():
        late = [*known, *(1e9 for _ in lacking)]
        at = rank / 100 * (len(late) - 1)
        beyond = sorted(late)[math.ceil(at)] == 1e9
        told[f"p{rank}"] = None if beyond else quantile(late, rank / 100)
        if beyond:
            bound = sorted([*known, *least])[math.floor(at)]
            told["at_least"][f"p{rank}"] = bound if bound < math.inf else None
    return told


def slo_of(rows: list[Row], rng: Random) -> SLO:
    """Return targets that some of the requests hold; some are not checked, some just held."""
    targets: dict[str, float | None] = {}
    for field in fields(SLO):
        known = [row[field.name] for row in rows if row[field.name]]
        exact = rng.choice(known) if known else None
        targets[field.name] = rng.choice([None, exact, rng.uniform(0.01, 1.0)])
    return SLO(**targets)


def per(amount: float, over: float | None) -> float | None:
    """Return a rate; none of something is none of it per anything."""
    if not amount:
        return 0.0
    return amount / over if over else None


def summary(record: RunRecord, rows: list[Row], slo: SLO) -> Row:
    """Return what the summary should say, but for gaps and missed targets."""
    done = [row for row in rows if row["status"] == "completed"]
    finishes = [row["finish_s"] for row in rows if row["finish_s"] is not None]
    cut = any(row["status"] == "incomplete" for row in rows)
    last = record.end_s if cut else max(finishes, default=None)
    duration = None if last is None else last - rows[0]["arrival_s"]
    good = sum(
        all(met(row, name, target) for name, target in slo.targets().items()) for row in done
    )
    held = {pool: [w for w in record.workers if w.pool == pool] for pool in POOLS}
    seconds = {pool: sum(w.gpus * w.allocated_s for w in held[pool]) for pool in POOLS}
    gpus = sum(seconds.values()) / record.end_s if record.end_s else 0.0
    tokens = {name: sum(row[name] for row in done) for name in ("input_tokens", "output_tokens")}
    rates = {name: per(amount, duration) for name, amount in tokens.items()}
    refused = [row["reason"] for row in rows if row["status"] == "rejected"]
    return {
        **{name: spread([r[name] for r in rows if r[name] is not None]) for name in SUMMARIZED},
        **{
            name: owing(rows, name, record.end_s)
            for name in ("ttft_s", "tpot_s", "ttst_s", "e2e_s")
        },
        "requests": {"arrived": len(rows)}
        | {status: sum(row["status"] == status for row in rows) for status in STATUSES},
        "rejected_reasons": {reason: refused.count(reason) for reason in sorted(set(refused))},
        "duration_s": duration,
        "goodput_rps": per(good, duration),
        "slo_attainment": good / len(rows) if rows else None,
        "output_tokens_per_s": rates["output_tokens"],
        "output_tokens_per_s_per_gpu": each(rates["output_tokens"], gpus),
        "input_tokens_per_s_per_gpu": each(rates["input_tokens"], gpus),
        "gpu_hours": {pool: total / 3600 for pool, total in seconds.items()}
        | {"total": sum(seconds.values()) / 3600},
        "kv_utilization": {pool: used(workers) for pool, workers in held.items()},
        "preemptions": sum(row["preemptions"] for row in rows),
        "recomputed_tokens": sum(row["recomputed_tokens"] for row in rows),
        "first_token": record.first_token,
    }


def each(rate: float | None, gpus: float) -> float | None:
    """Return a rate per GPU."""
    return None if rate is None else per(rate, gpus)


def used(workers: list[Any]) -> float | None:
    """Return the share of a pool's block-seconds that were in use."""
    available = sum(worker.kv_blocks * worker.allocated_s for worker in workers)
    return per(sum(worker.kv_block_seconds for worker in workers), available) if workers else None


def overlap(row: Row, metric: str) -> list[float]:
    """Return the seconds of each stage, laid end to end, within what a metric measures."""
    start, end = {
        "ttft_s": (0.0, row["ttft_s"]),
        "e2e_s": (0.0, row["e2e_s"]),
        "tpot_s": (row["ttft_s"], math.inf),
        "ttst_s": (row["ttft_s"], (row["ttft_s"] or 0.0) + (row["ttst_s"] or 0.0)),
    }[metric]
    found, at = [], 0.0
    for stage in STAGES:
        length = row[stage] or 0.0
        found.append(max(0.0, min(at + length, end) - max(at, start)))
        at += length
    gaps = row["output_tokens"] - 1 if metric == "tpot_s" else 1
    return [seconds / gaps for seconds in found]


def means(rows: list[Row], metric: str) -> list[float]:
    """Return each stage's mean seconds that count towards a metric; no rows have none."""
    parts = [overlap(row, metric) for row in rows]
    return [math.fsum(column) / len(rows) for column in zip(*parts, strict=True)]


def missed(rows: list[Row], slo: SLO) -> dict[str, Row]:
    """Return, per target, who missed it and the stage in which they lost most."""
    found = {}
    for metric, target in slo.targets().items():
        out = [row for row in rows if not met(row, metric, target)]
        late = [row for row in out if row[metric] is not None]
        told: Row = {"requests": len(out), "measured": len(late)}
        if not late:
            found[metric] = {**told, "stage": None, "spent_s": None, "held_s": None}
            continue
        good = [row for row in rows if row[metric] is not None and row not in out]
        long, short = means(late, metric), means(good, metric) or [None] * len(STAGES)
        more = [a - (b or 0.0) for a, b in zip(long, short, strict=True)]
        at = more.index(max(more))
        found[metric] = {**told, "stage": STAGES[at], "spent_s": long[at], "held_s": short[at]}
        found[metric]["near"] = sorted(more)[-1] - sorted(more)[-2] < 1e-9
    return found


def same(told: object, expected: object) -> bool:
    """Compare numbers to rounding, everything else by ``==``."""
    if isinstance(expected, dict):
        assert isinstance(told, dict)
        return told.keys() == expected.keys() and all(
            same(told[name], value) for name, value in expected.items()
        )
    if isinstance(expected, float):
        return told == pytest.approx(expected, rel=1e-9, abs=1e-12)
    return told == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_a_summary_is_plain_arithmetic_over_the_requests(seed: int) -> None:
    """Frames and summary of a drawn run are worked out again, request by request."""
    _, record = run(seed)
    rows = rows_of(record)
    slo = slo_of(rows, Random(seed))  # noqa: S311 - no secret
    results = Results.from_record(record, slo=slo, context={})
    frame = results.requests
    assert len(frame) == len(rows)
    for at, row in enumerate(frame.iter_rows(named=True)):
        wrong = {n: (row[n], value) for n, value in rows[at].items() if not same(row[n], value)}
        assert not wrong, f"request {at}"
    if not rows:
        return
    for name, value in summary(record, rows, slo).items():
        assert same(results.summary[name], value), (name, results.summary[name], value)
    for metric, told in missed(rows, slo).items():
        if told.pop("near", False):
            told = {name: told[name] for name in ("requests", "measured")}
        for name, value in told.items():
            assert same(results.summary["missed"][metric][name], value), (metric, name)


@pytest.mark.parametrize("seed", SEEDS)
def test_pooled_gaps_are_those_between_tokens(seed: int) -> None:
    """Their number is the tokens after the first, their mean what the finished requests say."""
    _, record = run(seed)
    rows = rows_of(record)
    several = [row for row in rows if row["tpot_s"] is not None]
    told = Results.from_record(record, slo=SLO(), context={}).summary["itl_s"]
    if not all(row["finish_s"] or row["status"] == "rejected" for row in rows):
        return
    assert told["count"] == sum(row["output_tokens"] - 1 for row in several)
    if several:
        after = math.fsum(row["finish_s"] - row["first_token_s"] for row in several)
        assert told["mean"] == pytest.approx(after / told["count"], rel=1e-9)
        assert told["min"] <= told["mean"] <= told["max"]
        assert told["min"] <= told["p50"] <= told["p99"] <= told["max"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_timeline_is_the_gauges_in_long_form(seed: int) -> None:
    """One row per sample and worker: gauges as they are, totals as growth per second."""
    _, record = run(seed)
    frame = Results.from_record(record, slo=SLO(), context={}).timeline
    gauges, workers = record.timeline, record.workers
    rows = list(frame.iter_rows(named=True))
    assert len(rows) == len(gauges["time_s"]) * len(workers)
    for at, row in enumerate(rows):
        sample, index = divmod(at, len(workers))
        since = gauges["time_s"][sample - 1] if sample else 0.0
        now = {name: gauges[name][sample][index] for name in GAUGES}
        before = {name: gauges[name][sample - 1][index] if sample else 0.0 for name in GAUGES}
        seconds = gauges["time_s"][sample] - since
        rate = {n: (now[n] - before[n]) / seconds if seconds else None for n in GAUGES}
        expected = {
            "time_s": float(gauges["time_s"][sample]),
            "worker": workers[index].worker,
            "pool": workers[index].pool,
            "waiting": now["waiting"],
            "running": now["running"],
            "kv_blocks": now["kv_blocks"],
            "kv_utilization": now["kv_blocks"] / workers[index].kv_blocks,
            "busy_fraction": rate["busy_s"],
            "sent_bytes_per_s": rate["sent_bytes"],
            "received_bytes_per_s": rate["received_bytes"],
            "cached_blocks": now["cached_blocks"],
            "kv_cached": now["cached_blocks"] / workers[index].kv_blocks,
        }
        assert same(row, {name: told(value) for name, value in expected.items()}), at


def told(value: object) -> object:
    """Return a number as Python's own."""
    return value.item() if hasattr(value, "item") else value
