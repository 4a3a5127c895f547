"""A run's counterpart: the same GPUs and requests, used the other way, with neither side tuned."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import FAST, Command

from simulator.cli import compose
from simulator.counterpart import MOST_REQUESTS, PILOT, Lengths, candidates, compared, counterpart
from simulator.deployment import Deployment
from simulator.experiment import Experiment, simulate
from simulator.report.counterpart import rows, sentence

FEW = ("latency=polynomial", "workload.requests=300")
COLOCATED = ("cluster=colocated", "pools.mixed.workers=5")
EXPORTED = (
    "pools.decode.batching.max_num_batched_tokens=96",
    "pools.decode.batching.max_num_seqs=96",
    "pools.decode.batching.reserve=full",
    "pools.prefill.batching.max_num_seqs=4",
)
"""Pools as an exploration exports them: each has room for its own kind of steps only."""


def gpus(deployment: Deployment) -> int:
    """Return the GPUs of a deployment."""
    return sum(pool.workers * pool.layout.gpus for pool in deployment.pools)


def ladder(*overrides: str) -> tuple[Experiment, tuple[Deployment, ...]]:
    """Return an experiment and the deployments that use its GPUs the other way."""
    experiment = compose([*FEW, *overrides])
    lengths = Lengths.of(experiment.trace())
    return experiment, candidates(experiment.deployment, lengths, experiment.slo).rungs


@pytest.mark.parametrize(
    "overrides",
    [(), COLOCATED, EXPORTED, ("pools.decode.layout.tp=8", "pools.prefill.workers=2")],
    ids=["disaggregated", "co-located", "exported", "wider decode"],
)
def test_the_same_gpus_are_used_up(overrides: Sequence[str]) -> None:
    """Whatever the counterpart leaves open, it has every GPU, the model and the engine."""
    experiment, rungs = ladder(*overrides)
    here = experiment.deployment
    for other in rungs:
        assert gpus(other) == gpus(here)
        assert (other.model, other.gpu, other.latency) == (here.model, here.gpu, here.latency)
        assert {pool.role for pool in other.pools} != {pool.role for pool in here.pools}


def test_workers_that_do_both_get_what_both_pools_have() -> None:
    """They have the decode pool's seats and admission and the prefill pool's steps, per GPU."""
    _, (first, *smaller) = ladder(*EXPORTED)
    (mixed,) = first.pools
    assert mixed.batching.max_num_batched_tokens == 8192
    assert mixed.batching.max_num_seqs == 96
    assert mixed.batching.reserve == "full"
    budgets = [each.pools[0].batching.max_num_batched_tokens for each in smaller]
    assert budgets == [4096, 2048, 1024]


def test_the_run_itself_is_untouched() -> None:
    """With the counterpart in it, the summary is otherwise what it is without."""
    experiment = compose(FEW)
    trace = experiment.trace()
    alone = simulate(experiment, trace=trace)
    both = compared(experiment, alone, trace)
    summary = dict(both.summary)
    del summary["counterpart"]
    assert summary == alone.summary


@pytest.mark.parametrize("overrides", [(), COLOCATED], ids=["disaggregated", "co-located"])
def test_what_is_told_is_a_run_of_its_own(overrides: Sequence[str]) -> None:
    """The counterpart's numbers are those of simulating it, on the very same requests."""
    experiment = compose([*FEW, *overrides, "slo.ttft_s=0.2"])
    trace = experiment.trace()
    here = simulate(experiment)
    told = compared(experiment, here, trace).summary["counterpart"]
    deployment = counterpart(experiment, trace)
    alone = simulate(replace(experiment, deployment=deployment)).summary
    for name in ("slo_attainment", "goodput_rps", "ttft_s", "tpot_s", "requests"):
        assert told[name] == alone[name]
    assert told["requests"]["arrived"] == here.summary["requests"]["arrived"]
    difference = alone["slo_attainment"] - here.summary["slo_attainment"]
    assert told["more_attained"] == pytest.approx(difference, abs=1e-12)
    low, high = told["more_attained_95"]
    assert low <= told["more_attained"] <= high


@pytest.mark.parametrize("overrides", [(), COLOCATED], ids=["disaggregated", "co-located"])
def test_a_pilot_on_another_draw_settles_what_is_open(overrides: Sequence[str]) -> None:
    """What is chosen held at least as much as its neighbours on other requests than the run's."""
    experiment = compose(
        [*FEW, *overrides, "workload.arrivals.rate=40", "slo.ttft_s=0.3", "slo.tpot_s=0.03"]
    )
    trace = experiment.trace()
    rungs = candidates(experiment.deployment, Lengths.of(trace), experiment.slo).rungs
    chosen = rungs.index(counterpart(experiment, trace))
    pilot = replace(experiment, seed=experiment.seed + 1)
    assert len(pilot.trace()) <= PILOT
    held = [simulate(replace(pilot, deployment=each)).summary["slo_attainment"] for each in rungs]
    assert len(set(held)) > 1, "the case must tell the candidates apart"
    assert held[chosen] == max(held[max(0, chosen - 1) : chosen + 2])


ODD = ("pools.prefill.workers=1", "pools.prefill.layout.tp=8", "pools.decode.workers=1")
ODD = (*ODD, "pools.decode.layout.tp=1", "pools.decode.layout.pp=5")
LARGE = (
    "pools.prefill.batching.max_num_batched_tokens=100000",
    "pools.decode.batching.memory_utilization=0.55",
)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("cluster=colocated", "pools.mixed.workers=1"), "one worker cannot be dealt out"),
        (("+hardware@pools.decode.gpu=h200_sxm",), "different GPUs"),
        (("changes=[{at_s: 1, pool: decode, workers: 3}]",), "its pools change while it runs"),
        (("autoscaler=schedule", "autoscaler.steps=[[9,decode,3]]"), "its pools change"),
        (("+pools/mixed=tensor_parallel",), "workers of both kinds already"),
        (ODD, "uses its 13 GPUs"),
        (LARGE, "do not fit"),
    ],
)
def test_why_there_is_none(disaggsim: Command, overrides: Sequence[str], why: str) -> None:
    """A deployment without a sensible counterpart says why in one sentence, and runs all the same.

    Odd GPUs, one worker, pools that change, and workers that do not fit among them.
    """
    done = disaggsim(*FEW, "workload.requests=20", "report=none", *overrides)
    assert done.code == 0, done.err
    (told,) = [each for each in done.out.split("\n\n") if each.startswith("Not compared")]
    assert why in " ".join(told.split())


def summaries(folder: Path) -> list[dict[str, Any]]:
    """Return the summaries of the runs below a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("summary.json")]


def test_it_can_be_switched_off(disaggsim: Command, tmp_path: Path) -> None:
    """``counterpart=false`` and sweeps leave it out; ``counterpart=true`` has it in a sweep too."""
    assert (
        disaggsim(*FAST, "workload.requests=30", "counterpart=false", "hydra.run.dir=a").code == 0
    )
    assert disaggsim("-m", *FAST, "workload.requests=30", "seed=1", "hydra.sweep.dir=b").code == 0
    assert not any("counterpart" in each for each in summaries(tmp_path))
    asked = (*FAST, "workload.requests=30", "counterpart=true", "hydra.sweep.dir=c")
    assert disaggsim("-m", *asked, "seed=1").code == 0
    (swept,) = summaries(tmp_path / "c")
    assert swept["counterpart"]["requests"]["arrived"] == 30


def test_many_requests_are_not_simulated_twice(disaggsim: Command) -> None:
    """Beyond so many requests it takes asking, and the run says so."""
    count = MOST_REQUESTS + 1
    done = disaggsim(*FAST, "workload=constant", f"workload.requests={count}", "until_s=1")
    assert "counterpart=true does it all the same" in " ".join(done.out.split())


def test_what_is_asked_must_be_yes_or_no(disaggsim: Command) -> None:
    """Anything else than true, false or null costs one sentence."""
    done = disaggsim(*FAST, "counterpart=maybe")
    assert done.code == 2
    assert "counterpart" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_difference_that_chance_makes_is_no_verdict() -> None:
    """The sentence gives the interval, and calls a difference within it none."""
    summary = {"slo": {"ttft_s": 0.5}, "slo_attainment": 0.95}
    other = {"reason": None, "kind": "co-located", "pools": "5 mixed × tp4", "gpus": 20}
    other |= {"slo_attainment": 0.96, "more_attained": 0.01}
    unsure = sentence({**summary, "counterpart": {**other, "more_attained_95": [-0.01, 0.03]}})
    assert "no clear difference (+1.0 points, 95 % interval -1.0 to +3.0)" in unsure
    sure = sentence({**summary, "counterpart": {**other, "more_attained_95": [0.005, 0.015]}})
    assert "no clear" not in sure
    assert "96 % of the same requests, here 95 %" in sure
    few = sentence({**summary, "counterpart": {**other, "more_attained_95": None}})
    assert "too few requests" in few


def test_nothing_is_told_unasked() -> None:
    """A summary without a counterpart has neither a sentence nor a table of it."""
    assert sentence({}) == ""
    assert rows({}) == []
