"""How sessions fared: how long they took, and how soon each turn had its first token."""

from collections.abc import Mapping
from typing import Any

import polars as pl

BINS = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 7), (8, 15), (16, None))
"""Turns, counted from 0, whose requests are told together."""

MANY = 0.01
"""A larger share of requests never sent is worth a warning."""


def of_sessions(requests: pl.LazyFrame, told: Mapping[str, Any], never_sent: int) -> dict[str, Any]:
    """Return what is known of a run's sessions, ready for JSON; empty if there are none.

    ``told`` says what sent their turns (:func:`workloads.sessions.told`). ``duration_s`` is from a
    session's first arrival to its last answer, of the sessions all of whose requests that were sent
    are complete. ``ttft_by_turn_s`` is by ranges of turns, the first being 1.
    """
    if not told:
        return {}
    found: dict[str, Any] = {**told, "never_sent": never_sent}
    if "session_id" not in requests.collect_schema():
        return found
    sessions = (
        requests.filter(pl.col("session_id").is_not_null())
        .group_by("session_id")
        .agg(
            pl.len().alias("turns"),
            (pl.col("finish_s").max() - pl.col("arrival_s").min()).alias("duration_s"),
            (pl.col("status") == "completed").all().alias("whole"),
        )
        .collect()
    )
    whole = sessions.filter("whole")["duration_s"]
    return found | {
        "sessions": sessions.height,
        "whole_sessions": len(whole),
        "turns_mean": sessions["turns"].mean(),
        "duration_s": _outline(whole),
        "ttft_by_turn_s": _by_turn(requests),
    }


def warning_of_unsent(never_sent: int, arrived: int) -> str:
    """Return a sentence on requests that never came to be sent, if they are many, else nothing."""
    whole = never_sent + arrived
    if never_sent <= MANY * whole:
        return ""
    return (
        f"{never_sent:,} of {whole:,} requests ({never_sent / whole:.1%}) were never sent, as one "
        "that they waited for was rejected or failed; workload.turns.after_failure=go_on sends them"
    )


def _outline(values: pl.Series) -> dict[str, Any]:
    return {
        "mean": values.mean(),
        "p50": values.quantile(0.5, "linear"),
        "p90": values.quantile(0.9, "linear"),
        "p99": values.quantile(0.99, "linear"),
        "count": len(values),
    }


def _by_turn(requests: pl.LazyFrame) -> dict[str, dict[str, Any]]:
    if "turn" not in requests.collect_schema():
        return {}
    frame = requests.select("turn", "ttft_s").drop_nulls().collect()
    found = {}
    for low, high in BINS:
        inside = pl.col("turn") >= low if high is None else pl.col("turn").is_between(low, high)
        values = frame.filter(inside)["ttft_s"]
        if len(values):
            found[_range(low, high)] = _outline(values)
    return found


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"{low + 1}+"
    return str(low + 1) if low == high else f"{low + 1}-{high + 1}"
