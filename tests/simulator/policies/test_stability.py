"""Autoscalers in the loop: they settle, do not flap, and gain by what helps them."""

from itertools import pairwise
from typing import Any

import pytest

from simulator.cli import compose
from simulator.experiment import simulate
from simulator.results import Results

SMALL = (
    *("model=llama_3_1_8b", "latency.engine=vllm", "counterpart=false"),
    *("pools.prefill.layout.tp=1", "pools.decode.layout.tp=1", "startup=hot"),
    *("slo.ttft_s=1.0", "slo.tpot_s=0.03"),
)
CONSTANT = (
    *("workload=constant", "workload.arrivals.rate=16", "workload.requests=14400"),
    *("workload.input_lengths.tokens=2000", "workload.output_lengths.tokens=150"),
)
POLICIES = {
    "dynamo_threshold": (),
    "dynamo_sla": (),
    "dynamo_sla load": ("autoscaler.load=true",),
    "dynamo_classic": (),
    "token_velocity": (),
    "heteroscale": ("autoscaler.tokens_per_s=2000",),
    "wva_v1": (),
    "wva_v2": (),
    "aibrix_apa": (),
    "keda_epp": (),
    "keda_slo": (),
    "kpa": (),
    "ray_serve": (),
    "hpa": (),
    "predictive": (),
}


def ran(name: str, *overrides: str) -> Results:
    """Return a run of a small disaggregated deployment under a policy."""
    chosen = [f"autoscaler={name.split()[0]}", *POLICIES.get(name, ())]
    return simulate(compose([*SMALL, *chosen, *overrides]))


def steps(results: Results, after_s: float) -> dict[str, list[int]]:
    """Return each pool's changes after a moment, in order."""
    found: dict[str, list[int]] = {}
    for row in results.decisions.iter_rows(named=True):
        if row["at_s"] > after_s and row["granted"] != row["before"]:
            found.setdefault(row["pool"], []).append(row["granted"] - row["before"])
    return found


def turns(changes: list[int]) -> int:
    """Return how often growing and shrinking follow each other."""
    return sum((one > 0) != (other > 0) for one, other in pairwise(changes))


@pytest.mark.parametrize("name", POLICIES)
def test_constant_load_has_no_reversal_after_warm_up(name: str) -> None:
    """Fifteen minutes of evenly spaced requests of one size: after five, no pool turns round."""
    results = ran(name, *CONSTANT)
    found = steps(results, 400.0)
    assert all(turns(changes) == 0 for changes in found.values()), found


@pytest.mark.parametrize(
    ("name", "settled_s"),
    [("dynamo_sla", 1200.0), ("dynamo_sla load", 900.0), ("token_velocity", 500.0)],
)
def test_a_step_is_settled_after(name: str, settled_s: float) -> None:
    """Load that trebles at 300 s: some time later nothing changes any more until it ends.

    The planner's own forecast, ARIMA, would overshoot for some intervals; here there is none.
    """
    step = (
        *("workload=fixed_stages", "workload.arrivals.stages=[[6,300],[18,1200]]"),
        *("workload.input_lengths.tokens=2000", "workload.output_lengths.tokens=150"),
    )
    plain = ("forecaster@autoscaler.forecaster=constant",) if "sla" in name else ()
    results = ran(name, *step, *plain)
    late = [
        row
        for row in results.decisions.iter_rows(named=True)
        if settled_s < row["at_s"] < 1490.0 and row["granted"] != row["before"]
    ]
    assert not late


@pytest.mark.parametrize("name", ["dynamo_threshold", "dynamo_sla load", "hpa", "keda_epp"])
def test_noise_makes_for_bounded_flapping(name: str) -> None:
    """Poisson arrivals at one rate for twenty minutes: fewer turns than one in two minutes."""
    noise = ("workload=poisson", "workload.arrivals.rate=12", "workload.requests=14400")
    found = steps(ran(name, *noise), 300.0)
    assert all(turns(changes) <= 8 for changes in found.values()), found


# --- more of what helps never hurts ------------------------------------------------------------

SWING = (
    "workload=fixed_swing",
    *("workload.duration_s=900", "workload.arrivals.low=2", "workload.arrivals.high=50"),
    *("pools.prefill.workers=1", "pools.decode.workers=1"),
    *("workload.input_lengths.tokens=2000", "workload.output_lengths.tokens=150"),
    *("autoscaler.throughput_s=30", "forecaster@autoscaler.forecaster=oracle"),
)


def goodput(*overrides: str) -> float:
    """Return good requests of a swing under the SLA planner that knows the trace."""
    return float(ran("dynamo_sla", *SWING, *overrides).summary["slo_attainment"])


def test_a_larger_budget_never_lowers_goodput_under_an_oracle() -> None:
    """2, 4, 6 and 10 GPUs."""
    found = [goodput(f"autoscaler.budget.max_gpu_budget={gpus}") for gpus in (2, 4, 6, 10)]
    assert found == sorted(found)
    assert found[-1] > found[0]


ALIKE = (
    *("pools.prefill.workers=1", "pools.decode.workers=1"),
    *("workload.input_lengths.tokens=2000", "workload.output_lengths.tokens=150"),
)
MOVING = {
    "swing": (
        *("workload=fixed_swing", "workload.duration_s=300", "workload.arrivals.period_s=300"),
        *("workload.arrivals.low=2", "workload.arrivals.high=50", *ALIKE),
    ),
    "step": ("workload=fixed_stages", "workload.arrivals.stages=[[6,100],[24,200]]", *ALIKE),
}


SELDOM = ("dynamo_sla", "dynamo_classic")
"""Those that look once in 180 s, too seldom for five minutes."""
FLAPS = ("dynamo_threshold", "predictive")
"""Those whose rule adds and takes a worker by turns where workers are there at once."""


def started(name: str, traffic: str, *seconds: int) -> list[Results]:
    """Return runs of a policy whose workers take so long to start."""
    return [ran(name, *MOVING[traffic], f"startup.seconds={each}") for each in seconds]


@pytest.mark.parametrize("traffic", MOVING)
@pytest.mark.parametrize("name", [name for name in POLICIES if name not in (*SELDOM, *FLAPS)])
def test_no_start_up_never_hurts(name: str, traffic: str) -> None:
    """Workers that are there at once serve no fewer in time, but for two points by overshooting.

    Whoever goes by queues asks for the more the longer they grow while workers start, and then has
    them for what comes.
    """
    at_once, soon, later = (
        each.summary["slo_attainment"] for each in started(name, traffic, 0, 15, 45)
    )
    assert at_once >= later
    assert at_once >= soon - 0.02


@pytest.mark.parametrize("traffic", MOVING)
@pytest.mark.parametrize("name", FLAPS)
def test_no_start_up_lets_a_rule_flap_that_has_nothing_against_it(name: str, traffic: str) -> None:
    """It turns round more often, which takes what is gained where starts are short anyway."""
    at_once, soon, later = started(name, traffic, 0, 15, 45)
    turned = [sum(map(turns, steps(each, 0.0).values())) for each in (at_once, soon)]
    assert turned[0] > turned[1]
    assert at_once.summary["slo_attainment"] >= soon.summary["slo_attainment"] - 0.01
    assert at_once.summary["slo_attainment"] > later.summary["slo_attainment"]


def test_no_start_up_never_hurts_who_knows_what_comes() -> None:
    """At 0, 30 and 120 s, the planner being told of the next minute alone."""
    found = [goodput(f"startup.seconds={seconds}") for seconds in (120, 30, 0)]
    assert found == sorted(found)


def test_told_a_constant_load_the_planner_has_what_it_takes_and_no_more() -> None:
    """The pools it ends with hold the SLO, and either with one worker fewer does not."""
    results = ran("dynamo_sla", *CONSTANT, "forecaster@autoscaler.forecaster=oracle")
    ends = {
        pool: [
            row["granted"] for row in results.decisions.iter_rows(named=True) if row["pool"] == pool
        ]
        for pool in ("prefill", "decode")
    }
    prefill, decode = ends["prefill"][-3], ends["decode"][-3]

    def held(prefill: int, decode: int) -> float:
        pools = (f"pools.prefill.workers={prefill}", f"pools.decode.workers={decode}")
        static = compose([*SMALL, *CONSTANT, "autoscaler=static", *pools])
        return float(simulate(static).summary["slo_attainment"])

    assert held(prefill, decode) > 0.99
    for fewer in ((prefill - 1, decode), (prefill, decode - 1)):
        if min(fewer):
            assert held(*fewer) < 0.99


# --- accounts, traffic, and reruns ---------------------------------------------------------------


def test_policies_meet_the_same_traffic_and_are_charged_for_their_lives() -> None:
    """Arrivals and lengths are alike to the bit; GPU-hours are those of the lives; reruns agree."""
    shape = ("workload=poisson", "workload.requests=1500", "seed=3")
    runs: dict[str, Any] = {name: ran(name, *shape) for name in ("dynamo_threshold", "wva_v2")}
    one, other = runs.values()
    for column in ("arrival_s", "input_tokens", "output_tokens"):
        assert one.requests[column].equals(other.requests[column])
    for results in runs.values():
        lives = results.lives
        seconds = ((lives["ended_s"] - lives["granted_s"]) * lives["gpus"]).fill_nan(0.0).sum()
        assert results.summary["gpu_hours"]["total"] == pytest.approx(seconds / 3600)
    again = ran("dynamo_threshold", *shape)
    assert again.requests.equals(one.requests)
    assert again.decisions.equals(one.decisions)
