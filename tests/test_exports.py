"""What other tools read of a run says what the run says."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command import TINY, Command

from simulator.cli import compose
from simulator.experiment import simulate
from simulator.exports import EXPORTS, write_exports
from simulator.results import STAGES, Results
from workloads.readers import read_trace


@pytest.fixture(scope="module")
def results() -> Results:
    """Return a run of which some requests time out."""
    return simulate(
        compose(
            [*TINY, "workload.requests=60", "clients.timeout_s=2.5", "workload.arrivals.rate=5"]
        )
    )


@pytest.fixture(scope="module")
def folder(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all exports of it."""
    place = tmp_path_factory.mktemp("exports")
    write_exports(results, tuple(EXPORTS), place)
    return place


@pytest.mark.parametrize("name", ["profile_export.jsonl", "bench.json"])
def test_our_own_readers_read_them_back(results: Results, folder: Path, name: str) -> None:
    """The same requests come back, with what was simulated as what was measured."""
    done = results.requests.filter(pl.col("status") == "completed")
    assert 0 < len(done) < len(results.requests)
    read = read_trace(str(folder / name)).frame
    assert read["input_tokens"].to_list() == done["input_tokens"].to_list()
    assert read["output_tokens"].to_list() == done["output_tokens"].to_list()
    for ours, theirs in (("ttft_s", "src_ttft_s"), ("e2e_s", "src_e2e_s")):
        assert read[theirs].to_list() == pytest.approx(done[ours].to_list(), rel=1e-5)
    first = done["arrival_s"][0]
    assert read["arrival_s"].to_list() == pytest.approx((done["arrival_s"] - first).to_list())


def test_statistics_are_the_summarys(results: Results, folder: Path) -> None:
    """AIPerf's and vLLM's names for the numbers of summary.json, in milliseconds."""
    completed = results.summary["requests"]["completed"]
    told = json.loads((folder / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    assert told["request_count"]["avg"] == completed
    assert told["request_latency"]["count"] == completed
    done = results.requests.filter(pl.col("status") == "completed")
    assert told["request_latency"]["avg"] == pytest.approx(1e3 * done["e2e_s"].mean())
    bench = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    assert bench["completed"] == completed
    assert bench["median_ttft_ms"] == pytest.approx(1e3 * results.summary["ttft_s"]["p50"])
    assert {len(bench[name]) for name in ("input_lens", "itls", "errors")} == {60}


def test_what_did_not_complete_has_an_error(folder: Path) -> None:
    """A client that left is an error of its own, without latencies."""
    lines = (folder / "profile_export.jsonl").read_text(encoding="utf-8").splitlines()
    failed = [each for each in map(json.loads, lines) if each["error"]]
    assert failed
    assert {each["error"]["message"] for each in failed} == {"timeout"}
    assert all(set(each["metrics"]) == {"error_isl"} for each in failed)


def test_stages_lie_one_after_the_other(results: Results, folder: Path) -> None:
    """In the Perfetto trace a request's stages add up to its end-to-end latency."""
    events = json.loads((folder / "perfetto.json").read_text(encoding="utf-8"))["traceEvents"]
    spans: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        if event["ph"] == "X":
            spans.setdefault(event["args"]["request"], []).append(event)
    done = results.requests.filter(pl.col("e2e_s").is_not_null())
    assert set(spans) == set(done["request_id"])
    for request, end in done.select("request_id", "e2e_s").iter_rows():
        assert sum(each["dur"] for each in spans[request]) == pytest.approx(1e6 * end)
        for before, after in zip(spans[request], spans[request][1:], strict=False):
            assert after["ts"] == pytest.approx(before["ts"] + before["dur"])
    assert {each["name"] for each in events if each["ph"] == "X"} <= {
        stage.removesuffix("_s") for stage in STAGES
    }


def test_the_command_writes_what_is_asked(disaggsim: Command, tmp_path: Path) -> None:
    """Beside the data; a name that is none costs one sentence."""
    done = disaggsim(*TINY, "report.exports=[bench]", "hydra.run.dir=out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "bench.json").is_file()
    wrong = disaggsim(*TINY, "report.exports=[csv]")
    assert wrong.code == 2
    assert "exports must be among aiperf, bench, perfetto, lateness but got 'csv'" in wrong.err
