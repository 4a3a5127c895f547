"""Placing workers on a fabric, and the way between them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import SpecError
from hardware.fabric import Fabric
from hardware.gpu import GPU
from hardware.link import Link
from hardware.rack import Slot
from tests.shipped import shipped

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "conf/fabric").glob("*.yaml"))
SIZES = st.lists(st.integers(1, 30), max_size=30)
DOMAINS = st.sampled_from([1, 2, 4, 8, 72])


def gpu(domain: int = 8, name: str = "G") -> GPU:
    """Make a GPU whose scale-up link joins ``domain`` GPUs."""
    return GPU(
        name=name,
        architecture="a",
        peak_flops={},
        memory_bytes=8e10,
        memory_bandwidth=3e12,
        scale_up=Link(name="NVLink", bandwidth=4.5e11, latency_s=1e-6),
        scale_up_domain=domain,
        nic=Link(name="NIC", bandwidth=5e10, latency_s=2e-6),
        source="made up",
    )


def fabric(**changes: Any) -> Fabric:
    """Make a fabric, with changes."""
    wiring: dict[str, Any] = {
        "name": "f",
        "network": Link(name="switch", bandwidth=1e12, latency_s=1e-6),
        "setup_s": 4.5e-4,
        "scale_up_setup_s": 1e-5,
    }
    return Fabric(**(wiring | changes))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_fabric_loads(path: Path) -> None:
    """Every shipped fabric builds and bears the name of its file."""
    loaded = shipped("fabric", path.stem)
    assert isinstance(loaded, Fabric)
    assert loaded.name == path.stem


@given(sizes=SIZES, domain=DOMAINS)
def test_slots_never_overlap(sizes: list[int], domain: int) -> None:
    """Every worker gets the GPUs it asked for, in its order, and no GPU is given twice."""
    slots = fabric().place(sizes, gpu(domain))
    assert [slot.gpus for slot in slots] == sizes
    spans = sorted((slot.first_gpu, slot.first_gpu + slot.gpus) for slot in slots)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@given(sizes=SIZES, domain=DOMAINS)
def test_a_worker_that_fits_is_never_split(sizes: list[int], domain: int) -> None:
    """A worker up to a domain's size lies in one; a larger one starts on a boundary."""
    for slot in fabric().place(sizes, gpu(domain)):
        assert slot.first_domain == slot.first_gpu // domain
        assert slot.last_domain == (slot.first_gpu + slot.gpus - 1) // domain
        if slot.gpus <= domain:
            assert slot.first_domain == slot.last_domain
        else:
            assert slot.first_gpu % domain == 0


@given(sizes=SIZES, domain=DOMAINS)
def test_no_two_domains_could_have_been_one(sizes: list[int], domain: int) -> None:
    """First fit leaves no two used domains that together hold no more than one can."""
    taken: dict[int, int] = {}
    for slot in fabric().place(sizes, gpu(domain)):
        for at in range(slot.first_gpu, slot.first_gpu + slot.gpus):
            taken[at // domain] = taken.get(at // domain, 0) + 1
    single = sorted(count for count in taken.values() if count < domain)
    shares = [s for s in sizes if s > domain and s % domain]
    if len(single) > 1 and not shares:  # the rest of a spanning worker may stay alone
        assert single[0] + single[1] > domain


def test_later_workers_fill_earlier_gaps() -> None:
    """Workers of 6, 4 and 2 GPUs share two domains of 8, not three."""
    six, four, two = fabric().place([6, 4, 2], gpu())
    assert (six.first_domain, four.first_domain, two.first_domain) == (0, 1, 0)
    assert two.first_gpu == 6


@given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=12), domain=DOMAINS)
def test_path_is_symmetric_and_as_wide_as_its_narrowest_hop(sizes: list[int], domain: int) -> None:
    """There and back are alike: kind, latency, bandwidth, and the hops reversed."""
    wiring, card = fabric(), gpu(domain)
    slots = wiring.place(sizes, card)
    there = wiring.path(slots[0], slots[-1], card, card)
    back = wiring.path(slots[-1], slots[0], card, card)
    assert (there.kind, there.bandwidth) == (back.kind, back.bandwidth)
    assert there.latency_s == pytest.approx(back.latency_s)
    assert there.hops == back.hops[::-1]
    assert there.bandwidth == min(hop.bandwidth for hop in there.hops)
    assert there.latency_s == pytest.approx(sum(hop.latency_s for hop in there.hops))
    assert there.setup_s == back.setup_s


def test_neighbours_use_scale_up_and_others_the_network() -> None:
    """Two workers of 4 share a domain of 8; the third is reached over NIC, switch and NIC."""
    wiring, card = fabric(), gpu()
    first, second, third = wiring.place([4, 4, 4], card)
    near, far = wiring.path(first, second, card, card), wiring.path(first, third, card, card)
    assert (near.kind, near.bandwidth, len(near.hops)) == ("scale_up", 4.5e11, 2)
    assert (near.latency_s, near.setup_s) == (pytest.approx(2e-6), 1e-5)
    assert (far.kind, far.bandwidth, len(far.hops)) == ("scale_out", 5e10, 3)
    assert (far.latency_s, far.setup_s) == (pytest.approx(5e-6), 4.5e-4)


def test_messages_and_efficiency_are_those_of_the_kind_of_way() -> None:
    """Inside a domain and over the network, ports reach and messages cost what the fabric says."""
    wiring = fabric(
        efficiency=0.5, message_s=1e-6, scale_up_efficiency=0.8, scale_up_message_s=2e-6
    )
    card = gpu()
    first, second, third = wiring.place([4, 4, 4], card)
    near, far = wiring.path(first, second, card, card), wiring.path(first, third, card, card)
    assert (near.bandwidth, near.message_s) == (0.8 * 4.5e11, 2e-6)
    assert (far.bandwidth, far.message_s) == (0.5 * 5e10, 1e-6)
    for path in (near, far):
        assert wiring.reach(card, path.kind) == path.bandwidth
        assert wiring.message_cost(path.kind) == path.message_s


def test_a_worker_across_domains_is_reached_over_the_network() -> None:
    """Sharing one of several domains is not enough for scale-up."""
    wiring, card = fabric(), gpu()
    wide, small = wiring.place([12, 4], card)
    assert wide.last_domain == small.first_domain
    assert wiring.path(wide, small, card, card).kind == "scale_out"


def test_different_gpus_never_share_a_domain() -> None:
    """Slots of two placements count domains apart, so equal numbers are not the same place."""
    slot = Slot(first_gpu=0, gpus=4, first_domain=0, last_domain=0)
    assert fabric().path(slot, slot, gpu(), gpu(name="H")).kind == "scale_out"


def test_shared_nics_narrow_the_path() -> None:
    """Two GPUs to a NIC leave each half its bandwidth."""
    card = gpu()
    first, second = fabric().place([8, 8], card)
    assert fabric(nics_per_gpu=0.5).path(first, second, card, card).bandwidth == 2.5e10


@pytest.mark.parametrize("name", ["l40s", "rtx_pro_6000_server"])
def test_pcie_box_joins_cards_through_the_host(name: str) -> None:
    """Eight PCIe cards make a box: card, host bridge, card, as fast as the slowest."""
    card, box = shipped("hardware", name), shipped("fabric", "pcie_box")
    first, second, third = box.place([4, 4, 1], card)
    near = box.path(first, second, card, card)
    assert (near.kind, len(near.hops)) == ("scale_up", 3)
    assert near.bandwidth == card.scale_up.bandwidth * box.scale_up_efficiency
    assert box.path(first, third, card, card).kind == "scale_out"


def test_cards_without_p2p_meet_in_host_memory() -> None:
    """Such a box is pcie_box but for what passes between two cards."""
    with_p2p, without = (shipped("fabric", name) for name in ("pcie_box", "pcie_box_no_p2p"))
    card = shipped("hardware", "rtx_4090")
    bandwidth = []
    for box in (with_p2p, without):
        first, second = box.place([4, 4], card)
        bandwidth.append(box.path(first, second, card, card).bandwidth)
    assert bandwidth[0] > bandwidth[1]
    same = replace(without, name=with_p2p.name, host_bridge=with_p2p.host_bridge)
    assert replace(same, collective_start_s=0.0) == with_p2p
    assert without.collective_start_s > 0


def test_bridged_cards_meet_in_pairs() -> None:
    """H100 NVLs are joined two by two; a third is reached over the network."""
    card, pairs = shipped("hardware", "h100_nvl"), shipped("fabric", "nvlink_pairs")
    first, second, third = pairs.place([1, 1, 1], card)
    assert pairs.path(first, second, card, card).kind == "scale_up"
    assert pairs.path(first, third, card, card).kind == "scale_out"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_network_is_never_the_narrowest_hop(path: Path) -> None:
    """The shipped networks are non-blocking: every shipped GPU's own NIC decides."""
    wiring = shipped("fabric", path.stem)
    for file in (ROOT / "conf/hardware").glob("*.yaml"):
        card = shipped("hardware", file.stem)
        near = Slot(first_gpu=0, gpus=1, first_domain=0, last_domain=0)
        far = Slot(first_gpu=900, gpus=1, first_domain=9, last_domain=9)
        assert (
            wiring.path(near, far, card, card).bandwidth == wiring.efficiency * card.nic.bandwidth
        )


@pytest.mark.parametrize(
    ("wiring", "card", "words"),
    [
        ("nvl72", "h100_sxm", "nvl72: domain_gpus 72 is more than the 8"),
        ("hgx8", "l40s", "hgx8: domain_gpus 8 is more than the 1"),
        ("pcie_box", "h100_sxm", "over PCIe but H100 SXM is joined by NVLink 4"),
    ],
)
def test_fabric_that_cannot_join_a_gpu_is_refused(wiring: str, card: str, words: str) -> None:
    """A fabric asked to join more GPUs than their link can says so."""
    with pytest.raises(SpecError, match=words):
        shipped("fabric", wiring).place([1], shipped("hardware", card))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"domain_gpus": 0}, "domain_gpus must be a whole number ≥ 1 GPU or null but got 0"),
        ({"nics_per_gpu": 0.0}, "nics_per_gpu.*> 0 NICs but got 0.0"),
        ({"setup_s": -1.0}, "setup_s.*≥ 0 s but got -1.0"),
        ({"scale_up_setup_s": float("nan")}, "scale_up_setup_s.*but got nan"),
        ({"message_s": -1.0}, "message_s.*≥ 0 s but got -1.0"),
        ({"efficiency": 0.0}, "efficiency.*> 0 of line rate but got 0.0"),
        ({"scale_up_efficiency": 1.2}, "scale_up_efficiency must be at most 1 .* but got 1.2"),
    ],
)
def test_impossible_fabric_is_refused(changes: dict[str, Any], words: str) -> None:
    """A figure that cannot be is refused with its field and value."""
    with pytest.raises(SpecError, match=words):
        fabric(**changes)


@pytest.mark.parametrize("size", [0, -1, 1.0, True])
def test_a_worker_needs_whole_gpus(size: Any) -> None:
    """A worker of no GPUs, or of part of one, has no place."""
    with pytest.raises(SpecError, match="at least 1 GPU but got"):
        fabric().place([size], gpu())
