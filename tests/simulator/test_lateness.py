"""The bill of lateness: causes add up, and a queue's seconds go to what was in force then."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command import TINY, Command

from simulator import simulate
from simulator.cli import compose
from simulator.lateness import CAUSES, SCALING, bill, late
from simulator.results import Results

BUSY = ("autoscaler=hpa", "counterpart=false", "workload=poisson", "workload.requests=600")


def results_of(*overrides: str) -> Results:
    """Simulate something small that grows too late."""
    return simulate(compose([*BUSY, *overrides]))


@pytest.mark.parametrize(
    "overrides",
    [
        ("cluster=colocated", "workload.arrivals.rate=20", "pools.mixed.workers=1"),
        ("workload.arrivals.rate=25", "startup.seconds=20", "control.observing.age_s=10"),
        ("workload.arrivals.rate=25", "elastic.quota_gpus=24", "slo.ttst_s=0.02"),
        ("workload.arrivals.rate=25", "first_token=prefill", "slo.e2e_s=1"),
    ],
)
def test_causes_add_up_to_the_lateness(overrides: tuple[str, ...]) -> None:
    """For every late request, of every target; none is below zero, and none is missing."""
    results = results_of(*overrides)
    seen = 0
    for metric, target in results.slo.targets().items():
        found = late(results, metric)
        values = results.values(metric)
        assert len(found) == int((values > target).sum())
        lateness = np.sort(found["late_s"].to_numpy())
        assert lateness == pytest.approx(np.sort(values[values > target] - target))
        whole = found.select(pl.sum_horizontal(CAUSES)).to_series().to_numpy()
        assert whole == pytest.approx(found["late_s"].to_numpy(), rel=1e-9, abs=1e-12)
        assert all(found[cause].is_empty() or found[cause].min() >= 0 for cause in CAUSES)  # type: ignore[operator]
        assert bill(found)["requests"].sum() == len(found)
        assert bill(found)["late_s"].sum() == pytest.approx(float(found["late_s"].sum()))
        seen += len(found)
    assert seen


def by_hand(results: Results, request: int, target: float) -> dict[str, float]:
    """Return one request's bill of its prefill queue, looked up second by second."""
    row = results.requests.row(request, named=True)
    pool = results.workers[row["prefill_worker"]].pool
    share = 1 - target / row["ttft_s"]
    begin, end = row["prefill_queue_enter_s"], row["prefill_start_s"]
    steps = 20_000
    told = dict.fromkeys((*SCALING, "prefill_queue_s"), 0.0)
    looks = results.decisions.filter(pl.col("pool") == pool).rows(named=True)
    for at in np.linspace(begin, end, steps, endpoint=False) + (end - begin) / steps / 2:
        told[_cause(results, pool, looks, float(at))] += (end - begin) / steps * share
    return told


def _cause(results: Results, pool: str, looks: list[dict[str, Any]], at: float) -> str:
    lives = [each for each in results.workers if each.pool == pool]
    for name, begin, end in (
        ("warm_up_s", "granted_s", "ready_s"),
        ("grant_s", "asked_s", "granted_s"),
    ):
        for life in lives:
            until = getattr(life, end)
            if getattr(life, begin) < at < (life.ended_s if until != until else until):
                return name
    before = 0.0
    for look in looks:
        if look["granted"] > look["before"] and before < at < look["at_s"]:
            return "signal_age_s" if at > look["seen_s"] else "tick_s"
        before = look["at_s"]
    return "prefill_queue_s"


def test_a_queue_s_seconds_go_to_what_was_in_force() -> None:
    """Looked up by hand at 20,000 moments of a wait, with old data, few GPUs and slow starts."""
    results = results_of(
        *("workload.arrivals.rate=30", "startup.seconds=8", "control.observing.age_s=6"),
        *("elastic.quota_gpus=28", "control.interval_s=5", "workload.requests=2000"),
    )
    found = late(results, "ttft_s")
    met = set()
    for at in np.linspace(0, len(found) - 1, 12).astype(int):
        row = found.row(int(at), named=True)
        told = by_hand(results, row["row"], 0.5)
        waited = results.requests["decode_queue_s"][row["row"]]  # has causes of its own
        for cause, spent in told.items():
            near = pytest.approx(spent, abs=waited + 1e-3 * (1 + row["late_s"]))
            assert row[cause] == near, cause
            met.update([cause] if spent > 0.01 else [])
    assert "warm_up_s" in met
    assert len(met) >= 2


def test_a_pool_that_never_changes_has_no_such_causes() -> None:
    """Then a queue is a queue."""
    results = simulate(
        compose(["workload=poisson", "workload.requests=300", "workload.arrivals.rate=30"])
    )
    found = late(results, "ttft_s")
    assert len(found)
    assert found.select(SCALING).sum().row(0) == (0.0,) * len(SCALING)
    assert "prefill_queue_s" in bill(found)["cause"].to_list()


def test_a_target_that_nobody_set_has_no_bill() -> None:
    """It cannot have been missed."""
    with pytest.raises(KeyError):
        late(results_of("workload.requests=5"), "e2e_s")


def test_the_bill_is_in_the_report_and_in_a_file(disaggsim: Command) -> None:
    """A section with a table, and a row for each late request and target."""
    done = disaggsim(
        *(*TINY, "workload.requests=60", "slo.ttft_s=0.01", "report=html"),
        *("report.exports=[lateness]", "hydra.run.dir=out"),
    )
    assert done.code == 0, done.err
    page = Path("out/report.html").read_text("utf-8")
    assert "What made TTFT late" in page
    assert "late by" in page
    rows = pl.read_csv("out/lateness.csv")
    late_ones = pl.read_parquet("out/requests.parquet").filter(pl.col("ttft_s") > 0.01)
    assert rows.filter(pl.col("metric") == "ttft_s").height == late_ones.height
    assert rows.columns == ["metric", "row", "arrival_s", "late_s", *CAUSES]


def test_without_late_requests_the_report_has_no_bill(disaggsim: Command) -> None:
    """No empty section."""
    done = disaggsim(*TINY, "slo=none", "report=html", "hydra.run.dir=out")
    assert done.code == 0, done.err
    page = Path("out/report.html").read_text("utf-8")
    assert "Lateness" not in page
