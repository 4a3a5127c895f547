"""Policies made of policies: order, intervals, and what a forecast shows."""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from views import flow, pool, seen

from simulator.cli import compose
from simulator.errors import ConfigError
from simulator.policies.autoscaling import Observation, Plan, Static, Truth
from simulator.policies.composed import Chain, Predictive, Stage
from simulator.policies.forecasting import Constant, HoltWinters, Oracle
from simulator.policies.joint import HeteroScale
from simulator.testing import check_autoscaler


@dataclass(frozen=True)
class Asks:
    """Asks for so many mixed workers more than were planned before it, and counts its ticks."""

    more: int

    def initial(self) -> int:
        """Return no tick."""
        return 0

    def decide(self, seen: Observation, state: int) -> tuple[Plan, int]:
        """Return the planned, or what there is, and so many more."""
        base = seen.planned.get("mixed", seen.pools["mixed"].desired)
        return Plan({"mixed": base + self.more}, f"tick {state + 1} of +{self.more}"), state + 1


@dataclass(frozen=True)
class ByRate:
    """A worker for each request/s, and one for each queued token."""

    def initial(self) -> None:
        """Return nothing."""

    def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:
        """Return them."""
        queued = sum(seen.pools["mixed"].queued_tokens or ())
        return Plan({"mixed": int(seen.traffic.rate) + queued}), state


def chain(*stages: tuple[Any, float]) -> Chain:
    """Return a chain of policies with their intervals."""
    return Chain(stages=tuple(Stage(policy, every_s) for policy, every_s in stages))


def test_a_later_policy_sees_and_overrides_what_an_earlier_one_plans() -> None:
    """3 there are: the first asks for 5, the second for one more than that."""
    both = chain((Asks(2), 10.0), (Asks(1), 10.0))
    plan, _ = both.decide(seen(10, mixed=pool(3)), both.initial())
    assert dict(plan.workers) == {"mixed": 6}
    assert plan.reason == "tick 1 of +2; tick 1 of +1"


def test_each_has_its_own_interval_and_what_it_asked_holds() -> None:
    """The first is asked every 20 s, the second every 10 s over what the first asked last."""
    both = chain((Asks(2), 20.0), (Asks(1), 10.0))
    assert both.interval_s == 10.0
    state, plans = both.initial(), []
    for at in (10, 20, 30, 40):
        plan, state = both.decide(seen(at, mixed=pool(3)), state)
        plans.append((dict(plan.workers), plan.reason))
    assert plans == [
        ({"mixed": 4}, "tick 1 of +1"),
        ({"mixed": 6}, "tick 1 of +2; tick 2 of +1"),
        ({"mixed": 6}, "tick 3 of +1"),
        ({"mixed": 6}, "tick 2 of +2; tick 4 of +1"),
    ]


def test_between_ticks_nobody_is_asked() -> None:
    """A look at a moment that is nobody's plans nothing."""
    one = chain((Asks(1), 10.0))
    _, state = one.decide(seen(10, mixed=pool(3)), one.initial())
    plan, _ = one.decide(seen(15, mixed=pool(3)), state)
    assert not plan.workers


def test_a_forecast_of_no_change_changes_nothing() -> None:
    """The inner policy sees what is."""
    ahead = Predictive(policy=ByRate(), forecaster=Constant(), steps=1)
    look = seen(15, flow(8.0), mixed=pool(1, queued_tokens=(5,)))
    assert dict(ahead.decide(look, ahead.initial())[0].workers) == {"mixed": 13}


def test_a_rising_rate_shows_rate_and_queues_of_then() -> None:
    """Level and trend: 4, 8 make 12 two steps on at α = β = 1; the queue of 10 grows by half."""
    ahead = Predictive(
        policy=ByRate(), forecaster=HoltWinters(alpha=1.0, beta=1.0, gamma=0.0), steps=1
    )
    state = ahead.initial()
    _, state = ahead.decide(seen(15, flow(4.0), mixed=pool(1)), state)
    plan, _ = ahead.decide(seen(30, flow(8.0), mixed=pool(1, queued_tokens=(10,))), state)
    assert dict(plan.workers) == {"mixed": 12 + 15}


TRUTH = Truth(
    arrival_s=np.array([1.0, 50.0, 60.0, 100.0, 119.0]),
    input_tokens=np.array([1, 1, 100, 300, 200], np.int32),
    output_tokens=np.array([1, 1, 10, 30, 20], np.int32),
)


def test_the_truth_of_a_span_is_what_arrives_in_it() -> None:
    """From its start, its end left out; of none lengths are NaN."""
    assert TRUTH.between(60.0, 119.0) == (2, 200.0, 20.0)
    requests, inputs, outputs = TRUTH.between(200.0, 300.0)
    assert requests == 0
    assert inputs != inputs
    assert outputs != outputs


def test_an_oracle_shows_the_minute_that_begins_then() -> None:
    """At 45 s, three ticks of 5 s ahead: three requests in [60, 120), not what was."""
    ahead = Predictive(policy=ByRate(), forecaster=Oracle(), steps=3)
    assert ahead.knows_trace
    assert not Predictive(policy=ByRate()).knows_trace
    shown = replace(seen(45, flow(80.0), mixed=pool(1)), truth=TRUTH)
    plan, _ = ahead.decide(shown, ahead.initial())
    assert dict(plan.workers) == {"mixed": 0}  # 3 in 60 s
    assert ahead.decide(seen(45, flow(80.0), mixed=pool(1)), ahead.initial())[0].workers == {
        "mixed": 80
    }


def test_growth_is_bounded() -> None:
    """A forecast of a hundred times counts for four."""
    ahead = Predictive(
        policy=ByRate(), forecaster=HoltWinters(alpha=1.0, beta=1.0, gamma=0.0), steps=100
    )
    state = ahead.initial()
    _, state = ahead.decide(seen(15, flow(1.0), mixed=pool(1)), state)
    plan, _ = ahead.decide(seen(30, flow(2.0), mixed=pool(1, queued_tokens=(10,))), state)
    assert plan.workers["mixed"] == 102 + 40


@dataclass(frozen=True)
class ByCount(ByRate):
    """As many workers as requests are shown, and as a request has tokens."""

    def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:
        """Return them."""
        traffic = seen.traffic
        tokens = int(traffic.input_tokens + traffic.output_tokens)
        return Plan({"mixed": 100 * traffic.requests + tokens}), state


def test_what_is_forecast_is_a_request_at_least() -> None:
    """Falling to nothing: one request of one token and an answer of one are left to look at."""
    falling = HoltWinters(alpha=1.0, beta=1.0, gamma=0.0)
    ahead = Predictive(policy=ByCount(), forecaster=falling, steps=9)
    state = ahead.initial()
    _, state = ahead.decide(seen(15, flow(4.0, 900.0, 90.0), mixed=pool(1)), state)
    plan, _ = ahead.decide(seen(30, flow(1.0, 100.0, 10.0), mixed=pool(1)), state)
    assert dict(plan.workers) == {"mixed": 100 + 2}


@pytest.mark.parametrize(
    "policy",
    [
        Predictive(policy=Static()),  # type: ignore[arg-type]
        chain((Static(), 15.0), (Static(), 30.0)),
    ],
)
def test_composed_policies_keep_the_contract(policy: Any) -> None:
    """Pure and alive whatever is seen."""
    check_autoscaler(policy)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["autoscaler=dynamo_threshold", "autoscaler.budget.max_gpu_budget=3"],
            "autoscaler.budget: max_gpu_budget must be at least the 8 GPUs",
        ),
        (["autoscaler=dynamo_sla", "autoscaler.budget.max_gpu_budget=3"], "max_gpu_budget must be"),
        (["autoscaler=dynamo_classic", "autoscaler.max_gpu_budget=7"], "max_gpu_budget must be"),
        (["autoscaler=dynamo_sla", "slo=none"], "ttft_s must be above 0 s"),
        (["autoscaler=token_velocity", "slo=none"], "ttft_s must be above 0 s"),
        (["autoscaler=heteroscale", "cluster=colocated"], "needs prefill and decode pools"),
        (["autoscaler=dynamo_classic", "cluster=colocated"], "needs prefill and decode pools"),
        (
            ["autoscaler=schedule", "autoscaler.steps=[[60,mixed,3]]"],
            "steps must be of prefill, decode but got 'mixed'",
        ),
        (
            ["autoscaler=hpa", "elastic.quota_gpus=32", "control.bounds.decode.least=9"],
            "elastic.quota_gpus must be at least the 40 GPUs",
        ),
        (["autoscaler=hpa", "control.interval_s=0"], "control: interval_s must be at least"),
        (
            ["control.bounds.decode.least=5", "control.bounds.decode.most=2"],
            "most must be at least least, 5, but got 2",
        ),
    ],
)
def test_what_does_not_fit_a_deployment_is_one_sentence_with_the_key(
    overrides: list[str], told: str
) -> None:
    """Said when it is read, before anything runs."""
    with pytest.raises(ConfigError, match=re.escape(told)):
        compose(overrides)


def test_policies_made_of_policies_refuse_what_theirs_do() -> None:
    """A chain and a forecast hand the question on."""
    inner = HeteroScale(tokens_per_s=1.0)
    for policy in (chain((inner, 5.0)), Predictive(policy=inner)):  # type: ignore[arg-type]
        assert policy.refused({"mixed": 1}).startswith("needs prefill and decode pools")
        assert policy.refused({"prefill": 1, "decode": 1}) == ""


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Chain(stages=()),
        lambda: chain((Static(), 0.0)),
        lambda: Predictive(policy=Static(), steps=0),  # type: ignore[arg-type]
        lambda: Predictive(policy=Static(), interval_s=0.0),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: Any) -> None:
    """Each in one sentence that names what was expected."""
    with pytest.raises(ValueError, match=r" must "):
        bad()
