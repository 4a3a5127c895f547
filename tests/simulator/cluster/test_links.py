"""Transfers: how long they take, who waits for whom, and how ports are shared."""

from dataclasses import replace

import numpy as np
import pytest
from builders import A_FABRIC, A_GPU, A_MODEL, LinearLatency, disaggregated, traffic

from hardware.link import Link
from simulator.cluster.clock import Clock
from simulator.cluster.links.transfers import Arrivals
from simulator.cluster.simulation import RunOptions, run
from simulator.deployment import Batching, Deployment, Transfer
from simulator.record import RunRecord

SHARINGS = ("fifo", "processor_sharing", "max_min")
TOKENS = 4096
KV_BYTES = TOKENS * A_MODEL.kv_bytes_per_token(2.0)
NIC = Link(name="slow NIC", bandwidth=1e8, latency_s=0.0)
WIRE_S = KV_BYTES / NIC.bandwidth


def slow_links(prefill: int, decode: int, sharing: str, mode: str = "push") -> Deployment:
    """Return workers behind one slow NIC each, computing prompts in 10 ms whatever their size."""
    latency = LinearLatency(base=0.01, per_seq=0, per_context=0, per_token=0, per_pair=0)
    return disaggregated(
        prefill,
        decode,
        gpu=replace(A_GPU, nic=NIC),
        latency=latency,
        batching=Batching(max_num_batched_tokens=TOKENS * 64),
        transfer=Transfer(mode=mode, sharing=sharing),
    )


def test_a_later_time_for_the_same_number_hides_no_earlier_one() -> None:
    """Whatever is due comes at its time, though the first of it goes by the last one's number."""
    clock, came = Clock(), list[tuple[float, int]]()
    arrivals = Arrivals(clock, lambda number, now: came.append((now, number)))
    arrivals.alarm.wakes(arrivals.wake)
    for when, number in ((3.0, 1), (4.0, 2), (9.0, 1)):
        arrivals.at(when, number)
    done = clock.env.event()
    clock.at_last(10.0, done.succeed)
    clock.run(done)
    assert came == [(3.0, 1), (4.0, 2), (9.0, 1)]


def wires(record: RunRecord) -> np.ndarray:
    """Return the ends of transfers relative to the first prefill end, in wire times, sorted."""
    first = record.requests["prefill_end_s"].min()
    return np.sort((record.requests["transfer_end_s"] - first) / WIRE_S)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_one_transfer_takes_its_bytes_over_the_bandwidth(sharing: str) -> None:
    """A transfer alone takes size / bandwidth, plus the path's latency and set-up."""
    deployment = slow_links(1, 1, sharing)
    deployment = replace(
        deployment,
        fabric=replace(A_FABRIC, setup_s=0.125),
        transfer=replace(deployment.transfer, setup_s=0.25),
    )
    record = run(deployment, traffic([0.0], TOKENS, 2), RunOptions())
    took = record.requests["transfer_end_s"] - record.requests["prefill_end_s"]
    assert took == pytest.approx([WIRE_S + 0.375])


def test_simultaneous_transfers_on_one_link_serialise() -> None:
    """32 transfers into one worker at once end one wire time after the other."""
    record = run(slow_links(1, 1, "fifo"), traffic([0.0] * 32, TOKENS, 2), RunOptions())
    assert wires(record) == pytest.approx(np.arange(1, 33))


@pytest.mark.parametrize("sharing", ["processor_sharing", "max_min"])
def test_simultaneous_transfers_share_one_link(sharing: str) -> None:
    """32 equal transfers that share a port evenly all end together, after 32 wire times."""
    record = run(slow_links(1, 1, sharing), traffic([0.0] * 32, TOKENS, 2), RunOptions())
    assert wires(record) == pytest.approx([32.0] * 32)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_transfers_on_different_ports_do_not_wait(sharing: str) -> None:
    """Two transfers between two pairs of workers take what one takes."""
    record = run(slow_links(2, 2, sharing), traffic([0.0, 0.0], TOKENS, 2), RunOptions())
    assert len(set(record.requests["prefill_worker"])) == 2
    assert len(set(record.requests["decode_worker"])) == 2
    assert wires(record) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_two_sources_contend_at_one_destination(sharing: str) -> None:
    """Two prefill workers sending to one decode worker finish after two wire times."""
    record = run(slow_links(2, 1, sharing), traffic([0.0, 0.0], TOKENS, 2), RunOptions())
    assert wires(record)[-1] == pytest.approx(2.0)


def test_processor_sharing_rerates_when_a_transfer_ends() -> None:
    """A long transfer speeds up when the short one beside it is through."""
    load = traffic([0.0, 0.0], [TOKENS, TOKENS // 4], 2)
    record = run(slow_links(1, 1, "processor_sharing"), load, RunOptions())
    # The short one needs 0.25 wire times, at half speed 0.5; then 0.75 of the long one is left.
    assert wires(record) == pytest.approx([0.5, 1.25])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_layerwise_exposes_at_least_the_last_layer(sharing: str) -> None:
    """A layer-wise push ends one layer's wire time after a prefill that is longer than the wire."""
    deployment = slow_links(1, 1, sharing, mode="push_layerwise")
    slow = LinearLatency(base=10 * WIRE_S, per_seq=0, per_context=0, per_token=0, per_pair=0)
    record = run(replace(deployment, latency=slow), traffic([0.0], TOKENS, 2), RunOptions())
    exposed = record.requests["transfer_end_s"] - record.requests["prefill_end_s"]
    assert exposed == pytest.approx([WIRE_S / A_MODEL.layers])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_layerwise_is_bound_by_the_wire_when_prefill_is_short(sharing: str) -> None:
    """A layer-wise push cannot end before its bytes are through, counted from prefill start."""
    deployment = slow_links(1, 1, sharing, mode="push_layerwise")
    record = run(deployment, traffic([0.0], TOKENS, 2), RunOptions())
    took = record.requests["transfer_end_s"] - record.requests["prefill_start_s"]
    plain = run(slow_links(1, 1, sharing), traffic([0.0], TOKENS, 2), RunOptions())
    assert took >= WIRE_S * (1 - 1e-12)
    assert record.requests["transfer_end_s"] < plain.requests["transfer_end_s"]


def test_pull_crosses_the_path_once_more_and_sets_up_once() -> None:
    """Pulling costs one path latency more than pushing; set-up is paid once either way."""
    ends = {}
    far = replace(A_FABRIC, setup_s=0.5, network=replace(A_FABRIC.network, latency_s=0.125))
    for mode in ("pull", "push"):
        deployment = replace(slow_links(1, 1, "fifo", mode), fabric=far)
        record = run(deployment, traffic([0.0], TOKENS, 2), RunOptions())
        took = record.requests["transfer_end_s"] - record.requests["prefill_end_s"]
        ends[mode] = float(took[0])
    assert ends["push"] == pytest.approx(WIRE_S + 0.5 + 0.125)
    assert ends["pull"] - ends["push"] == pytest.approx(0.125)


def test_source_keeps_its_blocks_until_the_transfer_ends() -> None:
    """With room for one prompt, the next prefill waits for the hand-over of the first."""
    deployment = slow_links(1, 1, "fifo")
    blocks = TOKENS // 16
    prefill = replace(deployment.pools[0], batching=Batching(kv_blocks=blocks))
    deployment = replace(deployment, pools=(prefill, deployment.pools[1]))
    record = run(deployment, traffic([0.0, 0.0], TOKENS, 2), RunOptions())
    assert record.requests["prefill_start_s"][1] == record.requests["transfer_end_s"][0]
