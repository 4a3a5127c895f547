"""The stand-in for Mooncake's tool-agent trace has the statistics that are public of it."""

from pathlib import Path

import numpy as np
import pytest

from simulator.cli import compose
from simulator.experiment import simulate

TRACES = Path(__file__).resolve().parents[2].parent / "shared" / "traces"


def test_it_is_as_many_as_long_and_as_alike() -> None:
    """23,608 in an hour, means 8,596 and 182, medians 6,346 and 30, 59 % of prompts found again."""
    workload = compose(["experiment=policies/startup_sweep"]).workload
    rngs = (np.random.default_rng([0, stream]) for stream in range(2))
    trace = workload.trace(*rngs)
    inputs, outputs = (trace.column(f"{each}_tokens") for each in ("input", "output"))
    assert len(trace) == 23_608
    assert trace.column("arrival_s")[-1] == pytest.approx(3600, rel=0.02)
    assert inputs.mean() == pytest.approx(8596, rel=0.02)
    assert outputs.mean() == pytest.approx(182, rel=0.04)
    assert np.median(inputs) == pytest.approx(6346, rel=0.02)
    assert np.median(outputs) == pytest.approx(30, rel=0.05)
    shared = next(each for each in trace.meta.transforms if each.name == "shared_prefixes")
    assert shared.counts["hit_rate"] == pytest.approx(0.59, abs=0.001)


def test_the_sweep_takes_a_trace_file_in_its_place() -> None:
    """One of the same format, its first requests: the planner starts and stops workers on it."""
    path = TRACES / "mooncake_synthetic.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} lies in ../shared, which is not here")
    told = ["experiment=policies/startup_sweep", "workload=trace", f"workload.path={path}"]
    results = simulate(compose([*told, "workload.replay.max_requests=1000"]))
    assert results.requests.height == 1000
    assert results.summary["prefix_cache"]["hit_share"] > 0
    assert len(set(results.decisions["granted"])) > 1
