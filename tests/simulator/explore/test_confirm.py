"""What is promised is what simulating holds; both kinds get the same trials."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from simulator.explore.advice import Limits
from simulator.explore.confirm import LOADS, STEP, confirm, confirmed_lines
from simulator.explore.exploration import Exploration, Explored, Options, explore
from simulator.explore.export import Surroundings, own
from simulator.explore.space import Floats, Lengths, Platform

TRACE = {
    "_target_": "workloads.workload.TraceWorkload",
    "path": "some.csv",
    "max_context": None,
    "over_context": "drop",
    "concurrency": None,
    "replay": {"rate_scale": 3.0, "target_rate": None, "max_requests": None, "start_s": 5.0},
}
SETTINGS = {
    "seed": 7,
    "pools": {"prefill": {}, "decode": {}, "mixed": None},
    "slo": {"ttft_s": 1.0},
}


@pytest.fixture(scope="module")
def done(dense: Platform) -> Explored:
    """Return a small exploration of Llama-3.1-8B on H100s."""
    return explore(
        Exploration(
            platforms=(dense, dense),
            lengths=Lengths.constant(2048, 256),
            limits=Limits(ttft_s=1.0, tpot_s=0.02),
            options=Options(worker_gpus=2, max_batch=128),
        )
    )


class Run:
    """A made-up outcome: a share of requests held, everything at 10 ms."""

    def __init__(self, attainment: float) -> None:
        spread = {"p50": 0.01, "p99": 0.02}
        self.summary: Mapping[str, Any] = {
            "requests": {"arrived": 100},
            "slo_attainment": attainment,
            "output_tokens_per_s_per_gpu": 5.0,
            "duration_s": 30.0,
            "ttft_s": spread,
            "tpot_s": spread,
        }

    def values(self, _name: str) -> Floats:
        """Return two requests' values, one of them unknown."""
        return np.array([0.01, np.nan])


class Engine:
    """Holds the SLO up to ``most`` requests/s per GPU; remembers what it was asked."""

    def __init__(self, most: float) -> None:
        self.most, self.asked = most, list[Mapping[str, Any]]()

    def __call__(self, settings: Mapping[str, Any]) -> Run:
        """Return what comes of these settings."""
        self.asked.append(settings)
        return Run(1.0 if self.rate(settings) / self.gpus(settings) <= self.most else 0.5)

    @staticmethod
    def gpus(settings: Mapping[str, Any]) -> int:
        """Return the GPUs of the pools there are."""
        pools = (pool for pool in settings["pools"].values() if pool)
        return sum(pool["workers"] * pool["layout"]["tp"] * pool["layout"]["pp"] for pool in pools)

    @staticmethod
    def rate(settings: Mapping[str, Any]) -> float:
        """Return the requests/s offered."""
        workload = settings["workload"]
        offered: float = (workload.get("replay") or {}).get("target_rate") or workload["arrivals"][
            "rate"
        ]
        return offered


def test_the_promise_is_the_most_that_holds(done: Explored) -> None:
    """For both kinds the rate found holds, and one step more does not."""
    assert done.advice.split is not None
    assert done.advice.mixed is not None
    ruled = [row["rate"] / row["gpus"] for row in (done.advice.split, done.advice.mixed)]
    for share in (0.6, 0.93, 1.0):
        engine = Engine(share * min(ruled))
        simulated, table = confirm(done, SETTINGS, Surroundings(), engine)
        for row in (simulated.advice.split, simulated.advice.mixed):
            assert row is not None
            found = row["rate"] / row["gpus"]
            assert found <= engine.most * (1 + 1e-5) < found * STEP * (1 + 1e-4)
            assert row["attainment"] == 1.0
            assert row["ttft_s"] == row["tpot_tail_s"] == 0.01
        assert table["attainment"].min() == 1.0
        assert simulated.advice.gain == pytest.approx(1.0, rel=STEP - 1 + 1e-4)


def test_both_kinds_have_as_many_gpus_and_trials(done: Explored) -> None:
    """Co-located workers are as many as fill the other side's GPUs; each load is tried of both."""
    engine = Engine(1e9)
    simulated, table = confirm(done, SETTINGS, Surroundings(), engine)
    split, mixed = simulated.advice.split, simulated.advice.mixed
    assert split is not None
    assert mixed is not None
    worker = mixed["gpus"] / mixed["mixed_workers"]
    assert abs(split["gpus"] - mixed["gpus"]) <= worker / 2
    for kind in ("disaggregated", "co-located"):
        assert table.filter(kind=kind)["load"].to_list() == list(LOADS)
    assert len(confirmed_lines(table)) == 2
    for row in (split, mixed):  # whatever a finite run may bear
        assert row["load"] <= 1.0 < row["load"] * STEP


def test_what_holds_nothing_is_not_advised(done: Explored) -> None:
    """Where simulating holds at no rate there is no deployment left, and it is said."""
    simulated, table = confirm(done, SETTINGS, Surroundings(), Engine(0.0))
    assert simulated.advice.split is simulated.advice.mixed is None
    assert "No disaggregated deployment simulated holds it." in simulated.advice.sentence
    assert not len(table)


def test_the_workload_itself_is_replayed(done: Explored) -> None:
    """With a trace each load is also tried on its own arrivals, scaled, with the run's own seed."""
    engine = Engine(1e9)
    around = Surroundings(workload=TRACE, workload_group="trace")
    simulated, table = confirm(done, SETTINGS, around, engine)
    assert table["arrivals"].value_counts()["count"].to_list() == [8, 8]
    replayed = [each for each in engine.asked if "replay" in each["workload"]]
    split = simulated.advice.split
    assert split is not None
    assert [each["workload"]["replay"]["target_rate"] for each in replayed[:4]] == pytest.approx(
        [load * split["rate"] for load in LOADS], rel=1e-5
    )
    assert {each["seed"] for each in replayed} == {7}
    assert split["run_requests"] == 100
    assert simulated.summary["experiment"]["duration_s"] == 30.0


def test_nothing_is_simulated_unless_asked(done: Explored) -> None:
    """With confirm=0 the advice is the rule's."""
    options = replace(done.exploration.options, confirm=0)
    quiet = replace(done, exploration=replace(done.exploration, options=options))
    same, table = confirm(quiet, SETTINGS, Surroundings(), Engine(0.0))
    assert same is quiet
    assert not len(table)


def test_a_trace_keeps_all_but_its_pace() -> None:
    """A replay has the rate asked for in place of its own, and the rest as it was."""
    workload = own(TRACE, 2.5, 10, 4096)
    assert workload is not None
    assert workload["max_context"] == 4096
    assert workload["replay"] == {
        "rate_scale": 1.0,
        "target_rate": 2.5,
        "max_requests": 20_000,
        "start_s": 5.0,
    }


@pytest.mark.parametrize(
    "workload",
    [{"concurrency": 4}, {"concurrency": None, "arrivals": {"at_s": 0.0}}, {"arrivals": None}],
)
def test_some_workloads_have_no_pace(workload: dict[str, Any]) -> None:
    """A closed loop and a burst cannot be offered at a rate."""
    assert own(workload, 1.0, 10, 4096) is None


def test_the_table_is_typed_without_rows(done: Explored) -> None:
    """An empty table has its columns, so that folders can be read alike."""
    options = replace(done.exploration.options, confirm=0)
    quiet = replace(done, exploration=replace(done.exploration, options=options))
    _, table = confirm(quiet, SETTINGS, Surroundings(), Engine(0.0))
    assert table.schema["attainment"] == pl.Float64
