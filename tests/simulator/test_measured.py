"""What was measured beside what was simulated: which requests count, and how the error is told."""

import json
from pathlib import Path

import polars as pl
import pytest
from command import TINY

from simulator.cli import compose
from simulator.experiment import simulate
from simulator.measured import beside, pairs
from simulator.report.page import write_report
from simulator.results import Results


def requests(**columns: list[float | None]) -> pl.LazyFrame:
    """Return simulated requests with what was measured of them."""
    count = len(columns["ttft_s"])
    return pl.LazyFrame({"output_tokens": [5] * count, **columns})


def test_only_requests_that_have_both_count() -> None:
    """A request without a measured or a simulated time says nothing about the error."""
    told = beside(
        requests(
            ttft_s=[1.1, None, 3.3, 9.0],
            tpot_s=[0.5, None, 0.5, None],
            e2e_s=[3.1, None, 5.3, None],
            src_ttft_s=[1.0, 2.0, 3.0, None],
            src_e2e_s=[3.0, 4.0, 5.0, None],
        )
    )
    assert told["ttft_s"]["requests"] == 2
    assert told["ttft_s"]["error"]["mean"] == pytest.approx(0.1)
    assert told["ttft_s"]["error"]["p50"] == pytest.approx(0.1)
    assert told["ttft_s"]["correlation"] == pytest.approx(1.0)
    assert told["tpot_s"]["measured"]["mean"] == pytest.approx(0.5)
    assert told["tpot_s"]["correlation"] is None  # neither varies


def test_traffic_without_measurements_has_none() -> None:
    """Nothing is made up where the source measured nothing."""
    assert beside(requests(ttft_s=[1.0], tpot_s=[1.0], e2e_s=[1.0])) == {}
    none = requests(
        ttft_s=[1.0], tpot_s=[None], e2e_s=[2.0], src_ttft_s=[None], src_e2e_s=[None]
    ).with_columns(pl.col("src_ttft_s", "src_e2e_s").cast(pl.Float32))
    assert pairs(none) == {}


@pytest.fixture
def run(tmp_path: Path) -> Results:
    """Return a run of traffic whose source measured twice what a first simulation says."""
    first = simulate(compose([*TINY, "workload.arrivals.rate=4"]))
    times = first.requests.select(
        "arrival_s", "input_tokens", "output_tokens", pl.col("ttft_s", "e2e_s") * 2
    )
    times.write_parquet(tmp_path / "twice.parquet")
    path = f"workload.path={tmp_path / 'twice.parquet'}"
    small = [each for each in TINY if not each.startswith("workload")]
    return simulate(compose([*small, "workload=trace", path]))


def test_a_run_of_measured_traffic_tells_its_error(run: Results, tmp_path: Path) -> None:
    """The same deployment takes half of what was measured: −50 % in the summary and the report."""
    told = run.summary["measured"]
    assert set(told) == {"ttft_s", "tpot_s", "e2e_s"}
    for each in told.values():
        assert each["error"]["p50"] == pytest.approx(-0.5, abs=1e-5)
        assert each["correlation"] == pytest.approx(1.0, abs=1e-5)
    write_report(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Measured beside simulated" in page
    assert "-50.0 %" in page
    json.dumps(run.summary, allow_nan=False, default=str)


def test_a_run_of_unmeasured_traffic_has_no_such_section(tmp_path: Path) -> None:
    """The page says nothing of measurements there are none of."""
    results = simulate(compose(TINY))
    assert results.summary["measured"] == {}
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Measured beside simulated" not in page
