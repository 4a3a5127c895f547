"""What a hand-over's ports are made of: shards, attention ranks, hops and latencies, seen in time.

All transfers carry the KV of one prompt length and all links are slow, so that times are counted
in wires: the seconds one GPU's NIC takes for one prompt.
"""

from dataclasses import replace
from typing import Any

import pytest
from builders import A_FABRIC, A_GPU, A_MODEL, LinearLatency, disaggregated, traffic

from hardware.link import Link
from simulator.cluster.simulation import RunOptions, run
from simulator.deployment import Batching, Deployment, Transfer
from simulator.layout import Layout
from simulator.record import RunRecord

TOKENS = 4096
MODEL = replace(A_MODEL, kv_heads=4)
NIC = Link(name="slow NIC", bandwidth=1e8, latency_s=0.0)
NVLINK = Link(name="slow scale-up", bandwidth=4e8, latency_s=0.0)
WIRE_S = TOKENS * MODEL.kv_bytes_per_token(2.0) / NIC.bandwidth
STEP_S = 1e-3
GPU = replace(A_GPU, nic=NIC, scale_up=NVLINK)


def deployed(layouts: tuple[Layout, Layout] | None = None, **changes: Any) -> Deployment:
    """Return a prefill and a decode worker of these layouts that hand over one at a time."""
    latency = LinearLatency(base=STEP_S, per_seq=0, per_context=0, per_token=0, per_pair=0)
    settings = {"gpu": GPU, "model": MODEL, "transfer": Transfer(mode="push", sharing="fifo")}
    batching = Batching(max_num_batched_tokens=TOKENS * 64)
    whole = disaggregated(1, 1, batching=batching, latency=latency, **{**settings, **changes})
    layouts = layouts or (Layout(), Layout())
    pools = zip(whole.pools, layouts, strict=True)
    return replace(whole, pools=tuple(replace(pool, layout=layout) for pool, layout in pools))


def wires(deployment: Deployment, requests: int = 1) -> list[float]:
    """Return when each of simultaneous transfers ends, in wires after the end of their prefill."""
    record = handed(deployment, requests)
    took = (record.requests["transfer_end_s"] - record.requests["prefill_end_s"]) / WIRE_S
    ends: list[float] = sorted(took.tolist())
    return ends


def handed(deployment: Deployment, requests: int) -> RunRecord:
    """Run prompts that arrive at once."""
    return run(deployment, traffic([0.0] * requests, TOKENS, 2), RunOptions())


@pytest.mark.parametrize("latency_s", ["setup_s", "nic"])
def test_latency_passes_beside_the_wire(latency_s: str) -> None:
    """Transfers in a row end one wire apart, each a latency after its last byte."""
    if latency_s == "setup_s":
        deployment = deployed(fabric=replace(A_FABRIC, setup_s=5 * WIRE_S))
    else:
        nic = replace(NIC, latency_s=2.5 * WIRE_S)
        deployment = deployed(gpu=replace(GPU, nic=nic))
    assert wires(deployment, 4) == pytest.approx([6.0, 7.0, 8.0, 9.0])


@pytest.mark.parametrize(("tp", "shards"), [(1, 1), (2, 2), (4, 4), (8, 4)])
def test_gpus_with_distinct_shards_send_side_by_side(tp: int, shards: int) -> None:
    """With 4 KV heads, 4 GPUs hold distinct shards of a request's KV; more hold copies."""
    layout = Layout(tp=tp)
    assert wires(deployed((layout, layout))) == pytest.approx([1 / shards])


def test_stages_send_side_by_side() -> None:
    """Each pipeline stage holds the KV of its own layers, and has its own NICs."""
    layout = Layout(pp=2)
    assert wires(deployed((layout, layout))) == pytest.approx([1 / 2])


def test_the_end_with_fewer_shards_sets_the_pace() -> None:
    """Whatever one side could do, the other's GPUs bound a transfer."""
    for layouts in ((Layout(tp=4), Layout()), (Layout(), Layout(tp=4))):
        assert wires(deployed(layouts)) == pytest.approx([1.0])


def test_attention_ranks_have_ports_of_their_own() -> None:
    """Prompts lie on one attention rank each, in turn: two ranks send and receive two at once."""
    layout = Layout(attention_dp=2)
    assert wires(deployed((layout, layout)), 4) == pytest.approx([1.0, 1.0, 2.0, 2.0])


def test_ranks_on_one_side_alone_do_not_help() -> None:
    """Two ranks that send to a worker of one rank wait for each other there."""
    for layouts in ((Layout(attention_dp=2), Layout()), (Layout(), Layout(attention_dp=2))):
        assert wires(deployed(layouts), 2) == pytest.approx([1.0, 2.0])


def test_the_network_can_be_the_narrowest_hop() -> None:
    """A switch of half the NICs' bandwidth doubles a transfer's time."""
    switch = Link(name="narrow switch", bandwidth=NIC.bandwidth / 2, latency_s=0.0)
    assert wires(deployed(fabric=replace(A_FABRIC, network=switch))) == pytest.approx([2.0])


@pytest.mark.parametrize(("nics", "took"), [(0.5, 2.0), (1.0, 1.0), (2.0, 0.5)])
def test_a_gpu_may_have_a_part_or_several_nics(nics: float, took: float) -> None:
    """NICs per GPU scale its port."""
    assert wires(deployed(fabric=replace(A_FABRIC, nics_per_gpu=nics))) == pytest.approx([took])


def test_neighbours_in_a_domain_hand_over_inside_it() -> None:
    """Workers of one scale-up domain use its links, with its own set-up time."""
    inside = replace(A_FABRIC, domain_gpus=2, setup_s=100.0, scale_up_setup_s=3 * WIRE_S)
    assert wires(deployed(fabric=inside)) == pytest.approx([1 / 4 + 3])


def test_the_bridge_through_the_host_can_be_the_narrowest_hop() -> None:
    """In a PCIe box the GPUs' own links meet on a bridge, which bounds what they carry."""
    bridge = Link(name="bridge", bandwidth=NIC.bandwidth / 4, latency_s=0.0)
    box = replace(A_FABRIC, domain_gpus=2, host_bridge=bridge)
    assert wires(deployed(gpu=replace(GPU, scale_up_domain=1), fabric=box)) == pytest.approx([4.0])


def test_pulling_asks_first_and_pays_the_path_once_more() -> None:
    """The control message of a pull takes one path latency; set-up is paid once either way."""
    ends = {}
    for mode in ("push", "pull"):
        transfer = Transfer(mode=mode, sharing="fifo", setup_s=0.5)
        nic = replace(NIC, latency_s=WIRE_S)
        ends[mode] = wires(deployed(gpu=replace(GPU, nic=nic), transfer=transfer))[0]
    assert ends["pull"] - ends["push"] == pytest.approx(2.0)


@pytest.mark.parametrize("fabric", [A_FABRIC, replace(A_FABRIC, domain_gpus=16)])
@pytest.mark.parametrize("layout", [Layout(), Layout(tp=4), Layout(attention_dp=2, tp=2)])
def test_the_most_a_worker_can_move_is_what_its_busy_ports_do(fabric: Any, layout: Layout) -> None:
    """A worker's bandwidth as told is what as many simultaneous transfers as ranks reach."""
    gpu = replace(GPU, scale_up_domain=16)
    ranks = layout.attention_dp
    record = handed(deployed((layout, layout), fabric=fabric, gpu=gpu), ranks)
    took = record.requests["transfer_end_s"].max() - record.requests["prefill_end_s"][0]
    moved = ranks * TOKENS * MODEL.kv_bytes_per_token(2.0)
    for worker in record.workers:
        assert worker.max_transfer_bandwidth == pytest.approx(moved / took)
