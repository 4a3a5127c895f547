"""Leaping equals stepping, to the last bit, in every column."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from builders import (
    INSTANT_LINKS,
    LinearLatency,
    colocated,
    disaggregated,
    poisson_traffic,
    spread,
    traffic,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import SteppingSimulation

from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic
from simulator.cluster.workers import leap
from simulator.deployment import Batching, Deployment, Transfer
from simulator.latency.base import StepModel, WorkerSpec
from simulator.latency.scaling import scaled_steps
from simulator.record import TIMES, RunRecord

TIGHT = Batching(kv_blocks=90, max_num_seqs=24, max_num_batched_tokens=256, block_size=16)
SMALL_BLOCKS = Batching(kv_blocks=700, max_num_seqs=16, max_num_batched_tokens=300, block_size=1)
NO_EVICT = Batching(kv_blocks=200, max_num_seqs=24, reserve="full")
WHOLE = Batching(kv_blocks=150, max_num_batched_tokens=128, max_num_seqs=32, chunked_prefill=False)
FIRST = replace(WHOLE, piggyback=False)
BATCHINGS = {
    "tight": TIGHT,
    "small blocks": SMALL_BLOCKS,
    "no evict": NO_EVICT,
    "whole": WHOLE,
    "prompts first": FIRST,
    "chunks first": replace(TIGHT, piggyback=False),
    "small blocks first": replace(SMALL_BLOCKS, piggyback=False),
    "no evict first": replace(NO_EVICT, piggyback=False),
}
SELDOM = {
    "ahead": replace(TIGHT, schedules_ahead=True),
    "ahead, prompts first": replace(FIRST, schedules_ahead=True),
    "polls": replace(TIGHT, scheduler_recv_interval=10),
    "polls, prompts first": replace(FIRST, scheduler_recv_interval=30, schedules_ahead=True),
    "waits": replace(NO_EVICT, batch_wait_timeout_iters=40, batch_wait_max_tokens_ratio=0.1),
    "waits under pressure": replace(
        TIGHT, batch_wait_timeout_iters=5, batch_wait_max_tokens_ratio=0.9
    ),
    "both": replace(
        WHOLE,
        scheduler_recv_interval=7,
        batch_wait_timeout_iters=20,
        batch_wait_max_tokens_ratio=0.5,
    ),
}
TRANSFERS = [
    Transfer(
        mode=mode, sharing=sharing, handover_s=0.07 * (mode != "push"), recomputes=mode != "pull"
    )
    for mode in ("pull", "push", "push_layerwise")
    for sharing in ("fifo", "processor_sharing", "max_min")
] + [Transfer(mode=mode, release="idle") for mode in ("pull", "push")]


def assert_same(one: RunRecord, other: RunRecord) -> None:
    """Compare two runs with ``==`` on every column, gauge, gap and total."""
    for name, column in one.requests.items():
        np.testing.assert_array_equal(column, other.requests[name], err_msg=name)
    for name, gauge in one.timeline.items():
        np.testing.assert_array_equal(gauge, other.timeline[name], err_msg=name)
    np.testing.assert_array_equal(one.gaps.counts, other.gaps.counts)
    assert one.gaps.max_s == other.gaps.max_s
    assert one.end_s == other.end_s
    assert one.workers == other.workers


def both(deployment: Deployment, load: Traffic, interval_s: float = 0.37) -> RunRecord:
    """Run stepping, leaping and leaping by numpy alone, compare, and return the record."""
    options = RunOptions(sample_interval_s=interval_s)
    stepping = SteppingSimulation(deployment, load, options).run()
    assert_same(Simulation(deployment, load, options).run(), stepping)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leap, "SCALAR", 0)
        assert_same(Simulation(deployment, load, options).run(), stepping)
    return stepping


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_batching_equals_oracle(build: object, batching: Batching) -> None:
    """Under memory pressure, preemption and every admission rule the columns agree."""
    deployment = build(2, batching=batching, latency=LinearLatency(knee=3000.0))  # type: ignore[operator]
    record = both(deployment, poisson_traffic(400, 40, 120, 60))
    if batching.reserve == "prompt":
        assert record.requests["preemptions"].sum() > 0, "the case must exercise preemption"


@pytest.mark.parametrize("batching", SELDOM.values(), ids=SELDOM.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_prompts_taken_up_late_equal_oracle(build: object, batching: Batching) -> None:
    """Where workers look for prompts seldom, or have them wait for others, the columns agree."""
    deployment = build(2, batching=batching, latency=LinearLatency(knee=3000.0))  # type: ignore[operator]
    both(deployment, poisson_traffic(400, 40, 120, 60))
    both(deployment, replace(poisson_traffic(200, 1, 100, 50), concurrency=12))


@pytest.mark.parametrize("transfer", TRANSFERS, ids=lambda t: f"{t.mode}-{t.sharing}-{t.release}")
def test_transfer_equals_oracle(transfer: Transfer) -> None:
    """However KV is handed over, the columns agree."""
    deployment = disaggregated(2, 3, batching=TIGHT, transfer=transfer)
    both(deployment, poisson_traffic(300, 60, 120, 40))


@pytest.mark.parametrize("setup_s", [0.1, 0.5])
@pytest.mark.parametrize("batching", [TIGHT, FIRST], ids=["tight", "prompts first"])
def test_joining_beside_recomputation_equals_oracle(batching: Batching, setup_s: float) -> None:
    """With slow hand-overs, KV that lands while preempted prompts are recomputed joins alike."""
    slow = Transfer(setup_s=setup_s)
    both(disaggregated(2, 1, batching=batching, transfer=slow), poisson_traffic(300, 40, 120, 60))


def test_ties_equal_oracle() -> None:
    """With all times on one coarse grid, everything happens at once and still agrees."""
    latency = LinearLatency(base=0.25, per_seq=0.0, per_context=0.0, per_token=0.0, per_pair=0.0)
    rng = np.random.default_rng(5)
    arrivals = np.sort(rng.integers(0, 60, 300) * 0.25)
    load = traffic(arrivals.tolist(), rng.integers(1, 200, 300), rng.integers(1, 40, 300))
    for build in (disaggregated, colocated):
        for batching in (TIGHT, FIRST):
            deployment = build(2, batching=batching, latency=latency, **INSTANT_LINKS)
            both(deployment, load, interval_s=0.25)


def test_long_leaps_equal_oracle() -> None:
    """Leaps longer than the cut, across pieces, agree."""
    load = traffic([0.0, 0.5, 40.0], [1000, 10, 500], [3000, 1500, 900])
    both(disaggregated(1, 1, latency=LinearLatency(knee=2222.0)), load, interval_s=7.0)


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_attention_ranks_equal_oracle(build: object, batching: Batching) -> None:
    """With a budget per attention rank, and prompts side by side on them, the columns agree."""
    deployment = build(2, batching=batching, latency=LinearLatency(knee=3000.0))  # type: ignore[operator]
    for ranks in (2, 3):
        record = both(spread(deployment, ranks), poisson_traffic(300, 40, 120, 60))
        waits = build(  # type: ignore[operator]
            2, batching=replace(batching, attention_dp_timeout_iters=20), latency=LinearLatency()
        )
        both(spread(waits, ranks), poisson_traffic(200, 20, 120, 60))
        if batching.reserve == "prompt":
            assert record.requests["preemptions"].sum() > 0, "the case must exercise preemption"


def test_closed_loop_equals_oracle() -> None:
    """With clients that wait for their answers the columns agree."""
    base = poisson_traffic(200, 1, 100, 50)
    load = Traffic(
        arrival_s=base.arrival_s,
        input_tokens=base.input_tokens,
        output_tokens=base.output_tokens,
        concurrency=12,
    )
    for batching in (TIGHT, FIRST):
        both(disaggregated(1, 1, batching=batching), load)
        both(colocated(1, batching=batching), load)


lengths = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 400), st.integers(1, 60)), min_size=1, max_size=40
)


rules = st.fixed_dictionaries(
    {
        "piggyback": st.booleans(),
        "chunked_prefill": st.booleans(),
        "reserve": st.sampled_from(["prompt", "full"]),
        "scheduler_recv_interval": st.sampled_from([1, 1, 2, 3, 7, 30]),
        "schedules_ahead": st.booleans(),
        "attention_dp_timeout_iters": st.sampled_from([0, 0, 5, 60]),
    }
)
waits = st.sampled_from([(0, 0.0), (0, 0.0), (3, 0.5), (5, 1.0), (40, 0.8)])


def waiting(rule: dict[str, Any], wait: tuple[int, float], ranks: int) -> dict[str, Any]:
    """Return the rule with so many iterations of waiting for a share of the budget, if it may."""
    iters, ratio = wait if ranks == 1 else (0, 0.0)
    rule = rule | {"attention_dp_timeout_iters": (ranks > 1) * rule["attention_dp_timeout_iters"]}
    return rule | {"batch_wait_timeout_iters": iters, "batch_wait_max_tokens_ratio": ratio}


@settings(max_examples=100)
@given(
    rows=lengths,
    blocks=st.integers(30, 120),
    seqs=st.integers(1, 12),
    layerwise=st.booleans(),
    mixed=st.booleans(),
    ranks=st.sampled_from([1, 1, 2, 5]),
    recomputes=st.booleans(),
    rule=rules,
    wait=waits,
)
def test_any_traffic_equals_oracle(
    rows: list[tuple[int, int, int]],
    blocks: int,
    seqs: int,
    layerwise: bool,
    mixed: bool,
    ranks: int,
    recomputes: bool,
    rule: dict[str, Any],
    wait: tuple[int, float],
) -> None:
    """Whatever arrives, ties included, leaping equals stepping and every law holds."""
    rows.sort()
    rule = waiting(rule, wait, ranks)
    batching = Batching(kv_blocks=blocks, max_num_seqs=seqs, max_num_batched_tokens=64, **rule)
    mode = "push_layerwise" if layerwise else "pull"
    transfer = Transfer(mode=mode, recomputes=recomputes, handover_s=0.03 * recomputes)
    build = colocated if mixed else disaggregated
    deployment = spread(build(2, batching=batching, transfer=transfer), ranks)
    both(deployment, traffic(*zip(*[(0.1 * t, i, o) for t, i, o in rows], strict=True)))


@settings(max_examples=250)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 8), st.integers(1, 24), st.integers(1, 70)),
        min_size=6,
        max_size=30,
    ),
    blocks=st.integers(94, 130),
    mixed=st.booleans(),
    ranks=st.sampled_from([1, 1, 3]),
    recomputes=st.booleans(),
    rule=rules,
    wait=waits,
)
def test_ties_under_pressure_equal_oracle(
    rows: list[tuple[int, int, int]],
    blocks: int,
    mixed: bool,
    ranks: int,
    recomputes: bool,
    rule: dict[str, Any],
    wait: tuple[int, float],
) -> None:
    """With every event on one grid and blocks of one token, each tie is decided alike."""
    rows.sort()
    rule = waiting(rule, wait, ranks)
    batching = Batching(
        kv_blocks=blocks, block_size=1, max_num_batched_tokens=40, max_num_seqs=16, **rule
    )
    latency = LinearLatency(base=0.25, per_seq=0.0, per_context=0.0, per_token=0.0, per_pair=0.0)
    transfer = Transfer(recomputes=recomputes, handover_s=0.25 * recomputes)
    change = {"batching": batching, "latency": latency, "transfer": transfer, **INSTANT_LINKS}
    deployment = colocated(1, **change) if mixed else disaggregated(2, 1, **change)
    load = traffic(*zip(*[(0.25 * t, i, o) for t, i, o in rows], strict=True))
    both(spread(deployment, ranks), load, interval_s=0.25)


def test_laws_hold_at_every_event() -> None:
    """Conservation, causality and accounting hold after each single event."""
    for deployment in (
        disaggregated(2, 2, batching=TIGHT),
        spread(disaggregated(2, 2, batching=TIGHT), 2),
        colocated(2, batching=TIGHT),
        spread(colocated(2, batching=TIGHT), 3),
        disaggregated(2, 2, batching=FIRST),
        disaggregated(2, 2, batching=TIGHT, transfer=Transfer(release="idle")),
        colocated(2, batching=FIRST),
    ):
        simulation = Simulation(deployment, poisson_traffic(60, 40, 120, 40), RunOptions())
        while simulation.done < simulation.ledger.size:
            simulation.step()
            audit(simulation, simulation.record(sample=False))


@dataclass(frozen=True)
class Scaled:
    """A latency model whose steps take ``scale`` times as long as those of ``model``."""

    model: LinearLatency
    scale: float

    def bind(self, worker: WorkerSpec) -> StepModel:
        """Return the model's steps, scaled."""
        return scaled_steps(self.model.bind(worker), self.scale)


@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_scaled_steps_equal_oracle(build: object) -> None:
    """With every step a factor longer the columns agree."""
    latency = Scaled(LinearLatency(knee=3000.0), 1.15)
    for batching in (TIGHT, FIRST):
        deployment = build(2, batching=batching, latency=latency)  # type: ignore[operator]
        both(deployment, poisson_traffic(400, 40, 120, 60))


def test_steps_and_arrivals_twice_as_slow() -> None:
    """Where only steps take time, steps and arrivals at half the pace double every moment."""
    load = poisson_traffic(400, 40, 120, 60)
    slow = replace(load, arrival_s=2.0 * load.arrival_s)
    latency = LinearLatency(knee=3000.0)
    before = both(colocated(2, batching=TIGHT, latency=latency), load, interval_s=0.37)
    after = both(colocated(2, batching=TIGHT, latency=Scaled(latency, 2.0)), slow, interval_s=0.74)
    for name in TIMES:
        np.testing.assert_array_equal(after.requests[name], 2.0 * before.requests[name], name)
    assert after.end_s == 2.0 * before.end_s
