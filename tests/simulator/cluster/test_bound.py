"""The clairvoyant bound: no step undercuts its prices, no policy the GPU-hours."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from builders import LinearLatency, colocated, disaggregated

from simulator.bound import for_the_same, least_gpu_hours, most_attainment, with_regret
from simulator.bound.planes import Amounts, Work, prices
from simulator.cli import compose
from simulator.cluster.pools.wiring import worker_spec
from simulator.deployment import Deployment
from simulator.elastic import Elastic, StartUp
from simulator.errors import ConfigError
from simulator.experiment import Experiment, simulate
from simulator.latency.base import Busiest, Piece, StepModel, WorkerSpec
from simulator.latency.checked import bind
from simulator.results import SLO
from workloads import arrivals, lengths
from workloads.workload import SyntheticWorkload


@dataclass(frozen=True, kw_only=True)
class PerToken:
    """A prompt token costs ``prompt``, a decoded one ``answer``, whatever else is in the step."""

    prompt: float = 0.001
    answer: float = 0.002
    stages: int = 1

    def bind(self, worker: WorkerSpec) -> "PerToken":  # noqa: ARG002 - a protocol's
        """Return itself."""
        return self

    def decode_pieces(self, batch: int) -> list[Piece]:
        """Return one piece that does not depend on context."""
        return [Piece(float("inf"), self.answer * batch, 0.0, 0.0)]

    def step_seconds(
        self,
        tokens: int,
        pairs: int,  # noqa: ARG002
        past: int,  # noqa: ARG002
        prompts: int,  # noqa: ARG002
        batch: int,
        context: int,  # noqa: ARG002
        busiest: Busiest | None = None,  # noqa: ARG002
    ) -> float:
        """Return the tokens' seconds."""
        return self.prompt * tokens + self.answer * batch


SLACK = SLO(ttft_s=5.0, tpot_s=0.5)


def experiment(deployment: Deployment, rate: float = 20.0, requests: int = 400) -> Experiment:
    """Return constant traffic of 100 prompt tokens and 11 to answer with."""
    return Experiment(
        deployment=deployment,
        workload=SyntheticWorkload(
            arrivals=arrivals.Constant(rate=rate),
            input_lengths=lengths.Constant(tokens=100),
            output_lengths=lengths.Constant(tokens=11),
            requests=requests,
        ),
        slo=SLACK,
    )


def instant(deployment: Deployment) -> Deployment:
    """Return the deployment with workers that start in no time."""
    return replace(deployment, elastic=Elastic(startup=StartUp(seconds=0.0)))


def test_where_tokens_cost_alike_the_bound_is_their_sum() -> None:
    """With workers that start in no time, GPU-seconds are those of the tokens, and no more."""
    one = experiment(instant(disaggregated(4, 4, latency=PerToken())), rate=20.0)
    found = least_gpu_hours(one, one.trace(), 1.0)
    busy = (400 * 100 * 0.001, 400 * 10 * 0.002)  # 2 prefill workers on average, and 0.4 decode
    span = 400 / 20
    assert found.gpu_hours * 3600 == pytest.approx(busy[0] + max(busy[1], span), rel=0.02)
    both = experiment(instant(colocated(4, latency=PerToken())), rate=20.0)
    found = least_gpu_hours(both, both.trace(), 1.0)
    assert found.gpu_hours * 3600 == pytest.approx(sum(busy), rel=0.02)


def test_half_of_the_requests_take_half_the_work() -> None:
    """All being alike, it grows with the attainment, and the most attainment is its inverse."""
    one = experiment(instant(disaggregated(4, 4, latency=PerToken())), rate=100.0, requests=2000)
    trace = one.trace()
    hours = [least_gpu_hours(one, trace, share).gpu_hours for share in (0.25, 0.5, 0.75, 1.0)]
    assert hours == sorted(hours)
    assert hours[1] == pytest.approx(hours[3] / 2, rel=0.03)
    for share, spent in zip((0.5, 0.75, 1.0), hours[1:], strict=True):
        assert most_attainment(one, trace, spent).attainment == pytest.approx(share, abs=0.01)


def test_a_start_takes_its_gpus() -> None:
    """A step in the demand costs the start-up of the workers it needs, or workers kept before."""
    prompts = PerToken(answer=1e-6)
    quick, slow = (
        replace(
            disaggregated(4, 1, latency=prompts),
            elastic=Elastic(startup=StartUp(seconds=seconds), flip_s=seconds),
        )
        for seconds in (0.0, 4.0)
    )
    base = replace(experiment(quick), slo=SLO(ttft_s=0.2, tpot_s=0.5))
    stepped = base.trace()
    times = np.concatenate([np.arange(100) / 5.0, 20 + np.arange(300) / 30.0])
    stepped = replace(stepped, frame=stepped.frame.with_columns(arrival_s=times))
    free = least_gpu_hours(base, stepped, 1.0).gpu_hours * 3600
    paid = least_gpu_hours(replace(base, deployment=slow), stepped, 1.0).gpu_hours * 3600
    assert 0.9 * 2 * 4.0 <= paid - free <= 2 * 4.0 * (1 + 1e-6)


@pytest.mark.parametrize("role", ["prefill", "decode", "mixed"])
@pytest.mark.parametrize("latency", ["roofline", "linear"])
def test_no_step_undercuts_its_price(role: str, latency: str) -> None:
    """Steps drawn anew, of any composition, take at least what their tokens are priced at."""
    if latency == "roofline":
        both = compose(["cluster=colocated"]) if role == "mixed" else compose([])
        deployment = both.deployment
    else:
        build = colocated if role == "mixed" else disaggregated
        deployment = build(2, latency=LinearLatency(knee=3000.0))
    pool = next(each for each in deployment.pools if each.role == role)
    spec = worker_spec(deployment, pool)
    work = Work(
        steps=bind(deployment.latency, spec),
        spec=spec,
        max_tokens=pool.batching.max_num_batched_tokens,
        max_seqs=pool.batching.max_num_seqs,
        prompts=role != "decode",
        answers=role != "prefill",
    )
    found = prices(work, Amounts(1e6, 1e9, 1e5, 1e8), 0.05)
    price = np.array(found.each)
    assert (price >= 0).all()
    assert price.any()
    for step in work.drawn(np.random.default_rng(12345)):
        paid = work.seconds(step) * (1 + found.slack * step.batch)
        assert price @ np.array(step.amounts) <= paid * (1 + 0.02)


CASES = {
    "static": (["workload.requests=600"], []),
    "few": (["workload.requests=600"], ["pools.prefill.workers=1", "pools.decode.workers=1"]),
    "co-located": (["workload.requests=600"], ["cluster=colocated"]),
    "hpa": (["workload=diurnal", "workload.requests=2500"], ["autoscaler=hpa", "startup=hot"]),
    "keda": (["workload.requests=1500"], ["autoscaler=keda_epp", "startup=instant"]),
    "matched": (
        ["workload.requests=1500", "workload.arrivals.rate=30"],
        ["rate_matcher=paper", "rate_matcher.common.flips=true", "startup=hot"],
    ),
    "predictive": (
        ["workload=diurnal", "workload.requests=2500"],
        ["rate_matcher=model_predictive", "startup=instant", "pools.prefill.workers=4"],
    ),
    "saturated": (["workload=poisson", "workload.arrivals.rate=60", "workload.requests=2500"], []),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_no_policy_is_cheaper(case: tuple[list[str], list[str]]) -> None:
    """Whatever the traffic and whoever sizes the pools, the bound for what it attained is below."""
    one = compose([*case[0], *case[1]])
    trace = one.trace()
    results = simulate(one, trace=trace)
    told = with_regret(one, results, trace).summary["clairvoyant"]
    took = results.summary["gpu_hours"]["total"]
    assert 0 < told["gpu_hours"] <= took
    assert told["regret"] == pytest.approx(took / told["gpu_hours"] - 1)
    attained = results.summary["slo_attainment"]
    cheapest = least_gpu_hours(one, trace, attained)  # of as many, whichever
    assert cheapest.gpu_hours <= told["gpu_hours"] * (1 + 1e-6)
    assert most_attainment(one, trace, took).attainment >= attained - 1e-6


def test_the_bound_is_no_triviality() -> None:
    """Under heavy load it is at least a third of the cheapest fixed deployment that holds 95 %."""
    traffic = ["workload=poisson", "workload.arrivals.rate=60", "workload.requests=3000"]
    best, least = float("inf"), 0.0
    for prefill, decode in ((5, 3), (6, 3), (7, 3), (6, 4)):
        one = compose(
            [*traffic, f"pools.prefill.workers={prefill}", f"pools.decode.workers={decode}"]
        )
        trace = one.trace()
        summary = simulate(one, trace=trace).summary
        least = least_gpu_hours(one, trace, 0.95).gpu_hours
        if summary["slo_attainment"] >= 0.95:
            best = min(best, summary["gpu_hours"]["total"])
    assert best / 3 <= least <= best


def test_who_attains_nothing_needs_the_least_workers() -> None:
    """No good request, no work: what is left is what the pools keep anyway."""
    one = experiment(instant(disaggregated(2, 2, latency=PerToken())))
    trace = one.trace()
    found = for_the_same(one, trace, np.zeros(len(trace), dtype=bool))
    assert found.gpu_hours * 3600 == pytest.approx(2 * 20.0, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda e, t: least_gpu_hours(e, t, 1.5), r"attainment must lie in \[0, 1\] but got 1.5"),
        (lambda e, t: most_attainment(e, t, 1e-9), "less than the pools' least workers take"),
        (
            lambda e, t: least_gpu_hours(
                replace(e, deployment=replace(e.deployment, elastic=Elastic(quota_gpus=2))), t, 1.0
            ),
            r"elastic\.quota_gpus do not hold",
        ),
        (
            lambda e, t: least_gpu_hours(
                replace(e, workload=replace(e.workload, concurrency=3)), t, 1.0
            ),
            "not clients that wait",
        ),
    ],
)
def test_what_cannot_be_bounded(call: Any, told: str) -> None:
    """One sentence says why."""
    one = experiment(disaggregated(4, 4, latency=PerToken()), rate=60.0)
    with pytest.raises(ConfigError, match=told):
        call(one, one.trace())


def test_a_step_model_is_all_it_needs() -> None:
    """The made-up model above is one."""
    model: StepModel = PerToken()
    assert model.step_seconds(10, 0, 0, 1, 5, 0) == pytest.approx(0.02)
