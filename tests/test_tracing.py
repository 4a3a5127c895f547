"""``task=trace``: a trace by itself, from the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command import FAST, Command

from workloads.readers import read_trace

CHATS = "".join(
    json.dumps(row) + "\n"
    for k in range(60)
    for row in (
        {"chat_id": 2 * k, "parent_chat_id": -1, "timestamp": 3.5 * k, "input_length": 64 + k}
        | {"output_length": 9 + k % 7, "type": "text", "turn": 1, "hash_ids": [1, 2, 3 + k, 0]},
        {"chat_id": 2 * k + 1, "parent_chat_id": 2 * k, "timestamp": 3.5 * k + 2}
        | {"input_length": 90 + k, "output_length": 5, "type": "text", "turn": 2}
        | {"hash_ids": [1, 2, 3 + k, 0, 9]},
    )
)
LOOK = ("task=trace", "workload=trace", "hydra.run.dir=out")


@pytest.fixture
def chats(tmp_path: Path) -> str:
    """Return the path of a file of sixty chats of two turns."""
    path = tmp_path / "chats.jsonl"
    path.write_text(CHATS)
    return f"workload.path={path}"


def test_a_trace_is_told_and_drawn(disaggsim: Command, tmp_path: Path, chats: str) -> None:
    """The terminal, the summary and the page say the same; nothing is simulated."""
    done = disaggsim(*LOOK, chats)
    assert done.code == 0, done.err
    assert "120 requests" in done.out
    assert "60 sessions of 2.00 turns" in done.out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["trace"]["requests"] == summary["accounting"]["rows_kept"] == 120
    ids = [
        json.loads(line)["hash_ids"][: json.loads(line)["input_length"] // 16]
        for line in CHATS.splitlines()
    ]
    seen: set[tuple[int, ...]] = set()
    found = 0
    for each in ids:
        prefixes = [tuple(each[: k + 1]) for k in range(len(each))]
        found += 16 * next((k for k, p in enumerate(prefixes) if p not in seen), len(prefixes))
        seen.update(prefixes)
    total = sum(json.loads(line)["input_length"] for line in CHATS.splitlines())
    assert summary["trace"]["hit_rate"] == pytest.approx(found / total)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{100 * found / total:.1f} %" in page
    figures = re.search(r'id="figures">(.*?)</script>', page)
    assert figures is not None
    assert {"plot-rate", "plot-dispersion", "plot-gaps", "plot-input_tokens", "plot-hits"} <= set(
        json.loads(figures[1])
    )
    assert not (tmp_path / "out" / "requests.parquet").exists()


@pytest.mark.parametrize(
    ("kind", "name"), [("parquet", "trace.parquet"), ("mooncake", "trace.mooncake.jsonl")]
)
def test_a_window_is_converted(
    disaggsim: Command, tmp_path: Path, chats: str, kind: str, name: str
) -> None:
    """Replay settings cut and thin, by whole sessions, what is written."""
    settings = ("workload.replay.start_s=10", "workload.replay.end_s=150")
    thin = ("workload.replay.rate_scale=0.5", "workload.replay.scale_by=sample")
    done = disaggsim(*LOOK, chats, f"trace.convert={kind}", *settings, *thin)
    assert done.code == 0, done.err
    again = read_trace(str(tmp_path / "out" / name), block_size=16)
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["trace"]
    assert len(again) == told["requests"] < 80
    if kind == "parquet":
        turns = again.frame.filter(again.frame["parent_id"].is_not_null())
        parents = again.frame["session_id"].to_numpy()[turns["parent_id"].to_numpy()]
        assert (turns["session_id"].to_numpy() == parents).all()


def test_traces_are_spliced_and_mixed(disaggsim: Command, tmp_path: Path, chats: str) -> None:
    """The same file after itself, and a third time beside."""
    path = chats.partition("=")[2]
    done = disaggsim(*LOOK, chats, f"trace.splice=[{path}]", "trace.gap_s=7", f"trace.mix=[{path}]")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["trace"]
    last = 3.5 * 59 + 2
    assert told["requests"] == 360
    assert told["duration_s"] == pytest.approx(2 * last + 7)
    assert told["sessions"] == 180


def test_the_fitted_workload_runs(disaggsim: Command, tmp_path: Path, chats: str) -> None:
    """It is a choice of its group, at the trace's rate."""
    done = disaggsim(*LOOK, chats)
    assert "workload: --config-dir out workload=fitted" in done.out
    run = disaggsim("--config-dir", "out", "workload=fitted", *FAST, "hydra.run.dir=run")
    assert run.code == 0, run.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["trace"]
    assert summary["requests"]["arrived"] == told["requests"] == 120
    distances = [
        one["ks_distance"]
        for fits in ("arrivals", "input_tokens", "output_tokens")
        for one in json.loads((tmp_path / "out" / "summary.json").read_text())["fit"][fits]
    ]
    assert all(0 <= each <= 1 for each in distances)
    assert np.isfinite(distances).all()


def test_synthetic_workloads_are_looked_at_too(disaggsim: Command) -> None:
    """Whatever a run would be fed."""
    done = disaggsim("task=trace", "workload=poisson", "workload.requests=500")
    assert done.code == 0, done.err
    assert "500 requests" in done.out


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("trace.convert=csv",), "convert must be null or one of parquet, mooncake, aiperf"),
        (("trace.gap_s=-1",), "gap_s must be at least 0"),
        (("trace.splice=[none.jsonl]",), "none.jsonl: no such file"),
        (("trace.colour=red",), "trace.colour"),
    ],
)
def test_bad_settings_are_one_sentence(
    disaggsim: Command, tmp_path: Path, chats: str, settings: tuple[str, ...], expected: str
) -> None:
    """Exit code 2, and nothing half-written."""
    done = disaggsim(*LOOK, chats, *settings)
    assert done.code == 2
    assert expected in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_sweep_of_traces_is_refused(disaggsim: Command, chats: str) -> None:
    """One trace is looked at at a time."""
    done = disaggsim("-m", "task=trace", "workload=trace", chats, "seed=1,2")
    assert done.code == 2
    assert "call it without -m" in done.err
