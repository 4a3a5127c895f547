"""Readers of what load generators and engines measured: requests, and their latencies."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers import read_trace
from workloads.trace import Trace

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
RUN = SHARED / "data" / "vllm_runs" / "RTXPRO6000_Llama-3.1-8B__requests.jsonl"

BENCH: dict[str, Any] = {
    "date": "20260301-101010",
    "backend": "vllm",
    "num_prompts": 3,
    "request_rate": 2.0,
    "max_concurrency": None,
    "completed": 2,
    "input_lens": [100, 200, 300],
    "output_lens": [3, 1, 0],
    "ttfts": [0.25, 0.5, 0.0],
    "itls": [[0.125, 0.125], [], []],
    "start_times": [50.0, 51.5, 52.0],
}
RECORD: dict[str, Any] = {
    "metadata": {"x_request_id": "a", "request_start_ns": 1759813207532900363},
    "metrics": {
        "input_sequence_length": {"value": 550, "unit": "tokens"},
        "output_sequence_length": {"value": 9, "unit": "tokens"},
        "time_to_first_token": {"value": 250.0, "unit": "ms"},
        "request_latency": {"value": 1.5, "unit": "sec"},
    },
    "error": None,
}
FAILED: dict[str, Any] = {
    "metadata": {"x_request_id": "b", "request_start_ns": 1759813208532900363},
    "metrics": {"error_isl": {"value": 70, "unit": "tokens"}},
    "error": {"code": 499},
}
STAMPED: dict[str, Any] = {
    "request_id": "r-0",
    "input_toks": 20,
    "output_toks": 5,
    "arrival_time": 1777142838.3,
    "queued_ts": 10.5,
    "first_token_ts": 10.75,
    "last_token_ts": 11.75,
}


def read(tmp_path: Path, *objects: Any, **settings: Any) -> Trace:
    """Return the trace of a file with these JSON objects, one on a line."""
    path = tmp_path / "run.json"
    path.write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
    return read_trace(str(path), **settings)


def test_a_benchmark_is_its_requests_and_their_latencies(tmp_path: Path) -> None:
    """E2E is the first token's time and the gaps after it; what failed counts as dropped."""
    trace = read(tmp_path, BENCH)
    frame = trace.frame
    assert trace.meta.format == "bench"
    assert frame["arrival_s"].to_list() == [0.0, 1.5]
    assert frame["input_tokens"].to_list() == [100, 200]
    assert frame["src_ttft_s"].to_list() == [0.25, 0.5]
    assert frame["src_e2e_s"].to_list() == [0.5, 0.5]
    assert trace.meta.drops == {"zero_output": 1}


def test_a_benchmark_over_several_lines_is_the_same(tmp_path: Path) -> None:
    """How the JSON is laid out does not matter."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(BENCH, indent=2), encoding="utf-8")
    assert read_trace(str(path)).frame.equals(read(tmp_path, BENCH).frame)


def test_starts_that_are_not_there_are_drawn_and_said(tmp_path: Path) -> None:
    """At the rate the file names, the same every time; without a rate all start at once."""
    without = {name: each for name, each in BENCH.items() if name != "start_times"}
    trace = read(tmp_path, without)
    assert trace.frame["arrival_s"][1] > 0
    assert trace.frame.equals(read(tmp_path, without).frame)
    assert "compare distributions" in trace.meta.warnings[0]
    flood = read(tmp_path, without | {"request_rate": float("inf"), "max_concurrency": 16})
    assert flood.frame["arrival_s"].to_list() == [0.0, 0.0]
    assert "max_concurrency is 16" in flood.meta.warnings[0]


def test_aiperf_records_keep_ids_and_units(tmp_path: Path) -> None:
    """Milliseconds and seconds come out as seconds, the clock as the time of day."""
    trace = read(tmp_path, RECORD, FAILED, policy=Policy(zero_output="keep_prefill_only"))
    frame = trace.frame
    assert frame["arrival_s"].to_list() == [0.0, 1.0]
    assert frame["source_id"].to_list() == ["a", "b"]
    assert frame["input_tokens"].to_list() == [550, 70]
    assert frame["output_tokens"].to_list() == [9, 1]
    assert frame["src_ttft_s"].to_list() == [0.25, None]
    assert frame["src_e2e_s"].to_list() == [1.5, None]
    assert str(trace.meta.t0).startswith("2025-10-07T05:00:07")


def test_an_engine_log_is_timed_from_the_queue(tmp_path: Path) -> None:
    """The clock of ``arrival_time`` is another one."""
    later = STAMPED | {"request_id": "r-1", "queued_ts": 10.6, "first_token_ts": 11}
    frame = read(tmp_path, STAMPED, later).frame
    assert frame["arrival_s"].to_list() == [0.0, pytest.approx(0.1)]
    assert frame["src_ttft_s"].to_list() == [0.25, pytest.approx(0.4)]
    assert frame["src_e2e_s"].to_list() == [1.25, pytest.approx(1.15)]


BAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "no details": (({name: BENCH[name] for name in list(BENCH)[:6]},), "--save-detailed"),
    "lists of two lengths": ((BENCH | {"ttfts": [1.0]},), "3 input_lens, 3 output_lens, 1 ttfts"),
    "no list": ((BENCH | {"itls": 5},), "itls is 5, expected a list"),
    "negative": ((BENCH | {"ttfts": [0.1, -1, 0]},), "row 2, ttfts is -1, expected a number of at"),
    "text": ((BENCH | {"itls": [["x"], [], []]},), "row 1, itls is 'x'"),
    "two runs": ((BENCH, BENCH), "more than one benchmark"),
    "NaN": ((BENCH | {"start_times": [1, float("nan"), 2]},), "row 2, start_times is nan"),
    "no start": ((RECORD, RECORD | {"metadata": {}}), "row 2, request_start_ns is None"),
    "unit": (
        (RECORD | {"metrics": {"request_latency": {"value": 1, "unit": "fortnights"}}},),
        "row 1, request_latency's unit is 'fortnights'",
    ),
    "no value": ((RECORD | {"metrics": {"time_to_first_token": 3}},), "row 1, time_to_first_token"),
    "token before queue": ((STAMPED | {"first_token_ts": 1},), "row 1, first_token_ts is 1.0"),
    "no length": ((STAMPED, STAMPED | {"output_toks": None}), "row 2, output_toks is None"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str) -> None:
    """It names the file, the place, the value and what was expected."""
    objects, said = BAD[name]
    with pytest.raises(TraceError) as caught:
        read(tmp_path, *objects)
    assert said in str(caught.value)
    assert "run.json" in str(caught.value)


def test_a_unit_is_not_for_formats_that_say_theirs(tmp_path: Path) -> None:
    """A benchmark's times are seconds whatever the setting says: it is refused."""
    with pytest.raises(TraceError, match="time_unit must be auto but is ms"):
        read(tmp_path, BENCH, time_unit="ms")


def test_a_measured_run_has_its_latencies() -> None:
    """All requests of a real vLLM run, each with a first and a last token."""
    if not RUN.is_file():
        pytest.skip(f"{RUN} is not here")
    frame = read_trace(str(RUN)).frame
    assert len(frame) == 300
    assert frame.select(pl.col("src_ttft_s", "src_e2e_s").null_count()).row(0) == (0, 0)
