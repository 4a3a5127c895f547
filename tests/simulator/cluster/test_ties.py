"""What happens at one instant happens in a stated order, whoever was scheduled first.

Steps end, transfers end, requests arrive, idle workers start, gauges are read; then a run that was
to stop then stops. All times here lie on a grid of 0.25 s, which floats hold exactly.
"""

from dataclasses import replace
from typing import Any

import pytest
from builders import INSTANT_LINKS, LinearLatency, colocated, disaggregated, traffic

from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment, Transfer
from simulator.record import RunRecord

FLAT = LinearLatency(base=0.25, per_seq=0.0, per_context=0.0, per_token=0.0, per_pair=0.0)


def on_grid(build: Any, *workers: int, **changes: Any) -> Deployment:
    """Return a deployment whose steps take 0.25 s each, and whose transfers take no time."""
    deployment: Deployment = build(*workers, latency=FLAT, **INSTANT_LINKS, **changes)
    return deployment


def times(record: RunRecord, name: str) -> list[float]:
    """Return one column of moments."""
    column: list[float] = record.requests[f"{name}_s"].tolist()
    return column


def test_a_request_that_arrives_as_a_step_ends_waits_for_the_next() -> None:
    """A busy worker begins its next step at once; who arrives at that instant is late for it."""
    record = run(on_grid(colocated, 1), traffic([0.0, 0.5], 10, 4), RunOptions())
    assert times(record, "prefill_start") == [0.0, 0.75]


def test_kv_that_arrives_as_a_step_ends_waits_for_the_next() -> None:
    """KV that lands at the boundary of an iteration joins at the next boundary."""
    deployment = on_grid(disaggregated, 2, 1, transfer=Transfer(mode="push"))
    record = run(deployment, traffic([0.0, 0.5], 10, 6), RunOptions())
    assert times(record, "transfer_end") == [0.25, 0.75]
    assert times(record, "decode_join") == [0.25, 1.0]


def test_kv_that_arrives_as_the_worker_falls_idle_joins_at_once() -> None:
    """A worker whose last sequence ended at this instant starts with what lands at it."""
    deployment = on_grid(disaggregated, 2, 1, transfer=Transfer(mode="push"))
    record = run(deployment, traffic([0.0, 0.5], 10, [3, 3]), RunOptions())
    assert times(record, "finish") == [0.75, 1.25]
    assert times(record, "decode_join") == [0.25, 0.75]
    assert record.workers[2].busy_s == 1.0


def test_freed_blocks_and_an_arrival_share_a_step() -> None:
    """A prompt that waited for blocks starts together with one that arrives as they come free."""
    deployment = on_grid(disaggregated, 1, 1, transfer=Transfer(mode="push", setup_s=0.25))
    tight = replace(deployment.pools[0], batching=Batching(kv_blocks=20))
    deployment = replace(deployment, pools=(tight, deployment.pools[1]))
    record = run(deployment, traffic([0.0, 0.0, 0.5], [200, 200, 16], 2), RunOptions())
    assert times(record, "transfer_end")[0] == 0.5
    assert times(record, "prefill_start") == [0.0, 0.5, 0.5]


def test_a_client_sends_its_next_request_as_its_answer_ends() -> None:
    """In a closed loop a request ends, the next arrives and an idle worker starts, at one instant.

    Two clients whose answers end together share a step again.
    """
    load = traffic([0.0] * 6, 10, 3, concurrency=2)
    record = run(on_grid(colocated, 1), load, RunOptions())
    assert times(record, "arrival") == [0.0, 0.0, 0.75, 0.75, 1.5, 1.5]
    assert times(record, "prefill_start") == times(record, "arrival")


@pytest.mark.parametrize("rejected", [1, 3])
def test_a_rejected_request_frees_its_client(rejected: int) -> None:
    """A client whose request is turned away sends the next at that very instant."""
    lengths = [100_000 if at < rejected else 10 for at in range(6)]
    deployment = on_grid(colocated, 1, batching=Batching(kv_blocks=100))
    record = run(deployment, traffic([0.0] * 6, lengths, 2, concurrency=1), RunOptions())
    served = [0.5 * at for at in range(6 - rejected)]
    assert times(record, "arrival") == [0.0] * rejected + served


def test_gauges_are_read_when_all_else_has_happened() -> None:
    """A sample at the instant of an arrival sees its prompt in the worker already."""
    record = run(
        on_grid(disaggregated, 1, 1),
        traffic([0.0, 0.5, 0.5], 10, [1, 1, 2]),
        RunOptions(sample_interval_s=0.25),
    )
    assert record.timeline["time_s"].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert record.timeline["running"][:, 0].tolist() == [1, 0, 2, 0, 0]
    assert record.timeline["running"][:, 1].tolist() == [0, 0, 0, 1, 0]
    assert record.timeline["busy_s"][:, 0].tolist() == [0.0, 0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(("until_s", "known"), [(0.75, 3), (0.75 - 1e-9, 2), (0.0, 0)])
def test_a_run_that_stops_has_all_that_was_due(until_s: float, known: int) -> None:
    """What is due at the last instant happens, what is due after it is not told."""
    record = run(on_grid(colocated, 1), traffic([0.0], 10, 9), RunOptions(until_s=until_s))
    assert record.end_s == until_s
    assert record.workers[0].steps == known
    assert record.gaps.counts.sum() == max(known - 1, 0)
    assert times(record, "prefill_end") == (
        [0.25] if known else pytest.approx([float("nan")], nan_ok=True)
    )


def test_deliveries_of_one_instant_come_in_the_order_of_requests() -> None:
    """Of prompts whose KV lands together, the seats go to the earlier requests."""
    batching = Batching(max_num_seqs=2, max_num_batched_tokens=8192)
    deployment = on_grid(disaggregated, 4, 1, batching=batching)
    entries = replace(deployment.pools[0], batching=Batching())
    deployment = replace(deployment, pools=(entries, deployment.pools[1]))
    record = run(deployment, traffic([0.0] * 4, 10, 3), RunOptions())
    assert times(record, "transfer_end") == [0.25] * 4
    assert times(record, "decode_join") == [0.25, 0.25, 0.75, 0.75]


@pytest.mark.parametrize("until_s", [0.25 * at for at in range(12)])
@pytest.mark.parametrize("build", [colocated, disaggregated])
def test_stopping_at_any_instant_is_a_prefix_of_the_whole_run(build: Any, until_s: float) -> None:
    """A run that is stopped tells what the whole run tells of that time, and nothing else."""
    load = traffic([0.25 * (at // 2) for at in range(12)], 40, 5)
    deployment = on_grid(build, 1, batching=Batching(max_num_batched_tokens=100, max_num_seqs=6))
    whole = run(deployment, load, RunOptions(sample_interval_s=0.25))
    part = run(deployment, load, RunOptions(sample_interval_s=0.25, until_s=until_s))
    seen = len(part.requests["arrival_s"])
    assert seen == (whole.requests["arrival_s"] <= until_s).sum()
    for name in ("prefill_start", "prefill_end", "transfer_end", "second_token", "finish"):
        expected = [at if at <= until_s else float("nan") for at in times(whole, name)[:seen]]
        assert times(part, name) == pytest.approx(expected, nan_ok=True, rel=0, abs=0)
    samples = len(part.timeline["time_s"])
    for name, gauge in part.timeline.items():
        assert gauge.tolist() == whole.timeline[name][:samples].tolist()


def test_clients_beyond_the_requests_do_nothing() -> None:
    """More clients than requests send each request once, at the start."""
    load: Traffic = traffic([3.0, 4.0], 10, 2, concurrency=5)
    record = run(on_grid(colocated, 1), load, RunOptions())
    assert times(record, "arrival") == [0.0, 0.0]
    assert record.end_s == 0.5
