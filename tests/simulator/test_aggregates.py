"""Statistics of a measured run, beside those of a simulated one."""

import json
from pathlib import Path

import pytest
from command import FAST, Command

from simulator.aggregates import Aggregates
from simulator.errors import ConfigError

SMALL = ("latency=polynomial", "workload.requests=200", "counterpart=false")

AIPERF = """Metric,avg,min,max,p1,p50,p90,p99,std
Request Latency (ms),6550.36,4996.25,9383.37,5523.64,5799.90,8594.21,9381.63,1171.14
Time to First Token (ms),1588.80,382.24,4121.09,403.48,787.54,3695.10,4119.33,1189.99
Inter Token Latency (ms),51.76,46.81,56.30,50.41,51.98,53.18,55.87,1.23
Output Sequence Length (tokens),96.85,91.00,97.00,91.00,97.00,97.00,97.00,0.88

Metric,Value
Request Count,200.00

Endpoint,GPU_Index,Metric,avg
localhost:9401,0,GPU Power Usage (W),43.37
"""
GENAI = """Metric,avg,min,max,p99,p90,p50
Time To First Token (ms),"1,146.31",249.48,"3,485.23","3,457.97","3,215.06",640.07
Request Latency (ms),"6,406.20","5,371.47","9,608.72","9,436.13","9,046.58","5,690.23"
"""


def summary(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return what a run in ``folder`` tells beside what was measured."""
    told: dict[str, dict[str, dict[str, float]]] = json.loads(
        (folder / "summary.json").read_text(encoding="utf-8")
    )["measured"]
    return told


def test_a_run_is_off_by_nothing_from_itself(disaggsim: Command, tmp_path: Path) -> None:
    """AIPerf's statistics of a simulated run, put beside the same run, have no error."""
    assert disaggsim(*SMALL, "report.exports=[aiperf]", "hydra.run.dir=a").code == 0
    export = "measured.path=a/profile_export_aiperf.json"
    done = disaggsim(*SMALL, export, "hydra.run.dir=b")
    assert done.code == 0, done.err
    told = summary(tmp_path / "b")
    assert set(told) == {"ttft_s", "tpot_s", "e2e_s"}
    for each in told.values():
        assert each["error"] == pytest.approx(dict.fromkeys(each["error"], 0.0), abs=1e-9)
    assert "(+0.0 %)" in done.out.replace("-0.0", "+0.0")
    page = (tmp_path / "b" / "report.html").read_text(encoding="utf-8")
    assert all(f"measured_{name}" in page for name in told)
    other = disaggsim(*SMALL, export, "latency.scale=2", "hydra.run.dir=c")
    assert other.code == 0
    assert summary(tmp_path / "c")["tpot_s"]["error"]["p50"] == pytest.approx(1.0, abs=0.2)


CSV = {
    "aiperf": (AIPERF, {"ttft_s", "tpot_s", "e2e_s"}, 1.5888, 0.78754),
    "genai-perf": (GENAI, {"ttft_s", "e2e_s"}, 1.14631, 0.64007),
}


@pytest.mark.parametrize("name", CSV)
def test_tables_are_read(name: str, tmp_path: Path) -> None:
    """AIPerf's and GenAI-Perf's CSV, the first with further tables below."""
    text, known, mean, median = CSV[name]
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    told = Aggregates(path=str(tmp_path / "x.csv")).read()
    assert set(told) == known
    assert told["ttft_s"]["mean"] == pytest.approx(mean)
    assert told["ttft_s"]["p50"] == pytest.approx(median)
    assert all(key == "mean" or key[0] == "p" for each in told.values() for key in each)


def test_what_is_not_told_is_not_compared(disaggsim: Command, tmp_path: Path) -> None:
    """A file with a mean alone has no error of percentiles."""
    told = {"time_to_first_token": {"unit": "s", "avg": 0.25, "p95": 0.5, "count": 7}}
    (tmp_path / "x.json").write_text(json.dumps(told), encoding="utf-8")
    done = disaggsim(*FAST, "workload.requests=50", "measured.path=x.json", "hydra.run.dir=a")
    assert done.code == 0, done.err
    found = summary(tmp_path / "a")
    assert set(found) == {"ttft_s"}
    assert found["ttft_s"]["measured"] == {"mean": 0.25, "p50": None, "p90": None, "p99": None}
    assert found["ttft_s"]["error"]["p50"] is None
    assert found["ttft_s"]["error"]["mean"] is not None


BAD = {
    "nothing there": (None, "No such file"),
    "no statistics": ("{}", "expected statistics of time_to_first_token"),
    "no json": ("{", "not JSON"),
    "another unit": ('{"request_latency": {"unit": "days", "avg": 1}}', "one of ns, us, ms"),
    "words": ('{"request_latency": {"unit": "ms", "avg": "long"}}', "e2e_s.avg must be a number"),
    "below nothing": ('{"request_latency": {"unit": "ms", "p50": -1}}', "at least 0 but got -1"),
    "endless": ('{"request_latency": {"unit": "ms", "p50": 1e999}}', "must be a number"),
    "another table": ("a,b\n1,2\n", "expected statistics"),
    "single requests": ('{"metadata": {}, "metrics": {}}', "workload=trace workload.path="),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_cost_a_sentence(name: str, disaggsim: Command, tmp_path: Path) -> None:
    """What cannot be read is told with its file before anything is simulated."""
    text, words = BAD[name]
    if text is not None:
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
    done = disaggsim(*FAST, "workload.requests=50", "measured.path=x.json")
    assert done.code == 2
    assert words in done.err
    assert "x.json" in done.err
    assert len(done.err.splitlines()) == 1


def test_too_large_a_file_is_not_read(tmp_path: Path) -> None:
    """Nothing of hundreds of megabytes is taken for statistics."""
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConfigError, match="too large"):
        Aggregates(path=str(tmp_path / "x.json")).read()


def test_a_trace_may_tell_only_when_answers_were_whole(disaggsim: Command, tmp_path: Path) -> None:
    """Dynamo's request traces say how long requests took, not when tokens came."""
    rows = [
        {
            "schema": "dynamo.request.trace.v1",
            "event_type": "request_end",
            "request": {
                "request_id": f"r{index}",
                "output_tokens": 20,
                "request_received_ms": 1000 + 100 * index,
                "total_time_ms": 400 + index,
                "replay": {"input_length": 300},
            },
        }
        for index in range(40)
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "requests.jsonl").write_text(text, encoding="utf-8")
    arguments = ("latency=polynomial", "workload=trace", "workload.path=requests.jsonl")
    done = disaggsim(*arguments, "counterpart=false", "hydra.run.dir=a")
    assert done.code == 0, done.err
    told = summary(tmp_path / "a")
    assert set(told) == {"e2e_s"}
    assert told["e2e_s"]["measured"]["mean"] == pytest.approx(0.4195, rel=1e-6)
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "measured_e2e_s" in page
    assert "measured_flight" in page
