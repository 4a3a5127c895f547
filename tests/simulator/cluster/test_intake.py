"""Prompts that a worker takes up late: it looks for them seldom, or waits for more of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import LinearLatency, colocated, spread, traffic

from simulator.cluster.simulation import RunOptions, run
from simulator.deployment import Batching, Pool
from simulator.errors import ConfigError
from simulator.layout import Layout

FLAT = LinearLatency(base=0.1, per_seq=0.0, per_context=0.0, per_token=0.0, per_pair=0.0)
STEP = 0.1


def began(
    arrivals: list[float], prompts: list[int], answers: list[int], **rule: Any
) -> list[float]:
    """Return when each prompt was begun by one worker whose steps take 0.1 s."""
    batching = Batching(max_num_batched_tokens=100, max_num_seqs=32, **rule)
    deployment = colocated(1, latency=FLAT, batching=batching)
    columns = run(deployment, traffic(arrivals, prompts, answers), RunOptions()).requests
    begun: list[float] = columns["prefill_start_s"].tolist()
    return begun


@pytest.mark.parametrize("piggyback", [True, False])
def test_a_worker_looks_after_prompts_and_every_third_decode(piggyback: bool) -> None:
    """The first prompt ends at 0.1 s, where it looks, and then at 0.4 s, two prompts' turn.

    It looks when that step ends, at 0.5 s, and at 0.8 s; nobody comes until after that.
    """
    arrivals = [0.0, 0.15, 0.35, 0.75, 0.85]
    found = began(
        arrivals, [10] * 5, [100, 2, 2, 2, 2], scheduler_recv_interval=3, piggyback=piggyback
    )
    assert found == pytest.approx([0.0, 0.4, 0.4, 0.8, 0.9])


def test_an_idle_worker_looks_at_once() -> None:
    """Idle, or with nobody left to decode, it begins what has come."""
    found = began([0.0, 0.15, 7.03], [10] * 3, [3, 2, 2], scheduler_recv_interval=30)
    assert found == pytest.approx([0.0, 0.3, 7.03])


@pytest.mark.parametrize("piggyback", [True, False])
@pytest.mark.parametrize(
    ("interval", "arrivals", "expected"),
    [
        (1, [0.0, 0.15, 0.25, 0.42], [0.0, 0.3, 0.4, 0.6]),
        (3, [0.0, 0.25, 0.35, 0.45], [0.0, 0.4, 0.5, 0.6]),
        (3, [0.0, 0.31, 0.38, 0.42], [0.0, 0.7, 0.7, 0.7]),
    ],
)
def test_a_step_formed_ahead_lacks_who_comes_meanwhile(
    interval: int, arrivals: list[float], expected: list[float], piggyback: bool
) -> None:
    """Who comes during a step takes part in the one after the next, at a look.

    With an interval of 3 the look at 0.4 s finds who came before 0.3 s. If that is somebody, those
    who came before 0.4 s are found when his step ends, else only at 0.7 s.
    """
    rule = {"scheduler_recv_interval": interval, "schedules_ahead": True, "piggyback": piggyback}
    assert began(arrivals, [10] * 4, [100, 2, 2, 2], **rule) == pytest.approx(expected)


@pytest.mark.parametrize("piggyback", [True, False])
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("interval", [1, 10, 30])
def test_isolated_arrivals_wait_half_an_interval_on_average(
    interval: int, ahead: bool, piggyback: bool
) -> None:
    """At a worker that decodes without end: N / 2 steps, and one more if steps are formed ahead."""
    rng, count = np.random.default_rng(interval), 400
    arrivals = np.cumsum(rng.uniform(40, 60, count) * STEP)
    rows = [0.0, *arrivals.tolist()]
    found = began(
        rows,
        [10] * (count + 1),
        [30_000, *[2] * count],
        scheduler_recv_interval=interval,
        schedules_ahead=ahead,
        piggyback=piggyback,
    )
    waits = (np.array(found[1:]) - arrivals) / STEP
    error = interval / np.sqrt(12 * count)
    assert waits.mean() == pytest.approx(interval / 2 + ahead, abs=4 * error)
    assert waits.max() <= interval + ahead + 1e-6


def test_prompts_wait_for_others_or_for_so_many_steps() -> None:
    """20 tokens beside one decode wait three steps for 50 of the 100; 60 do not wait at all."""
    rule = {"batch_wait_timeout_iters": 3, "batch_wait_max_tokens_ratio": 0.5}
    arrivals = [0.0, 0.15, 1.15, 1.15, 1.15]
    found = began(arrivals, [20] * 5, [100, 2, 2, 2, 2], **rule)
    assert found == pytest.approx([0.0, 0.5, 1.2, 1.2, 1.2])


def test_who_comes_meanwhile_ends_the_wait() -> None:
    """One of 20 tokens waits from 0.2 s on until another of 40 comes; both begin at 0.4 s."""
    rule = {"batch_wait_timeout_iters": 40, "batch_wait_max_tokens_ratio": 0.5}
    found = began([0.0, 0.15, 0.35], [20, 20, 40], [100, 2, 2], **rule)
    assert found == pytest.approx([0.0, 0.4, 0.4])


def test_nobody_waits_beside_no_decodes() -> None:
    """An idle worker begins a small prompt at once."""
    rule = {"batch_wait_timeout_iters": 40, "batch_wait_max_tokens_ratio": 1.0}
    assert began([0.0, 5.0], [20, 20], [2, 2], **rule) == pytest.approx([0.0, 5.0])


def test_ranks_wait_for_a_prompt_each_or_for_every_fifth_step() -> None:
    """Two decodes on two ranks since 0.1 s: one prompt waits until 0.5 s, two begin at once.

    From their step at 0.6 s on the next prompt waits five steps.
    """
    batching = Batching(attention_dp_timeout_iters=5)
    deployment = spread(colocated(1, latency=FLAT, batching=batching), 2)
    load = traffic([0.0, 0.0, 0.15, 0.55, 0.55, 0.65], 10, [100, 100, 2, 2, 2, 2])
    found = run(deployment, load, RunOptions()).requests["prefill_start_s"]
    assert found == pytest.approx([0.0, 0.0, 0.5, 0.6, 0.6, 1.1])


def test_ranks_without_decodes_do_not_wait() -> None:
    """With one decode on two ranks a prompt begins with the next step."""
    batching = Batching(attention_dp_timeout_iters=60)
    deployment = spread(colocated(1, latency=FLAT, batching=batching), 2)
    load = traffic([0.0, 0.25], 10, [100, 2])
    found = run(deployment, load, RunOptions()).requests["prefill_start_s"]
    assert found == pytest.approx([0.0, 0.3])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"scheduler_recv_interval": 0},
            "batching: scheduler_recv_interval must be at least 1 but got 0",
        ),
        (
            {"batch_wait_timeout_iters": -1},
            "batching: batch_wait_timeout_iters must be at least 0 but got -1",
        ),
        (
            {"attention_dp_timeout_iters": -1},
            "batching: attention_dp_timeout_iters must be at least 0 but got -1",
        ),
        (
            {"batch_wait_timeout_iters": 40, "batch_wait_max_tokens_ratio": 1.5},
            r"batching: batch_wait_max_tokens_ratio must lie in \[0, 1\] but got 1.5",
        ),
        (
            {"batch_wait_timeout_iters": 40},
            "batching: batch_wait_timeout_iters and batch_wait_max_tokens_ratio go together, both "
            "0 or neither, but got 40 and 0.0",
        ),
    ],
)
def test_values_out_of_range_are_refused(rule: dict[str, Any], message: str) -> None:
    """Each with what was expected."""
    with pytest.raises(ConfigError, match=message):
        Batching(**rule)


def test_ranks_do_not_wait_for_a_share_of_the_budget() -> None:
    """TensorRT-LLM waits so without attention-DP only."""
    waits = replace(Batching(), batch_wait_timeout_iters=40, batch_wait_max_tokens_ratio=0.8)
    with pytest.raises(
        ConfigError, match="mixed pool: batch_wait_timeout_iters needs attention_dp=1"
    ):
        Pool(role="mixed", workers=1, layout=Layout(attention_dp=8), batching=waits)
