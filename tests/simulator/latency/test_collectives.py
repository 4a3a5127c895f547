"""Collectives: what a group that leaves its domain costs beside one that stays."""

from dataclasses import replace
from typing import Any

import pytest

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.latency.collectives import CUSTOM, Network, collective_seconds
from simulator.latency.efficiency import CollectiveCurve, Efficiency, load
from simulator.latency.passes import Operator


def seconds(spec_from: Any, gpu: str, fabric: str, ranks: int, message: float) -> float:
    """Return the seconds of one all-reduce of ``message`` bytes."""
    card = spec_from("hardware", gpu, GPU)
    network = Network.of(card, spec_from("fabric", fabric, Fabric))
    operator = Operator(name="", kind="all_reduce", message=message, ranks=ranks)
    return float(collective_seconds(operator, network, load(card.architecture)))


def test_two_boxes_start_as_nccl_does(spec_from: Any) -> None:
    """Small messages: NCCL's start in the box and the network's, not the box's own kernels'.

    NCCL's cost model gives 26 µs for 4 KiB among H100 boxes (NVIDIA/nccl issue 1453).
    """
    box = seconds(spec_from, "h100_sxm", "hgx8", 8, 4096.0)
    boxes = seconds(spec_from, "h100_sxm", "hgx8", 16, 4096.0)
    assert box < 9e-6
    assert boxes == pytest.approx(26e-6, rel=0.1)


def test_inside_a_rack_nothing_starts_later(spec_from: Any) -> None:
    """Sixteen GPUs of one NVLink domain keep their one-shot kernels; nothing sent is no time."""
    assert seconds(spec_from, "gb200_nvl72", "nvl72", 16, 4096.0) < 20e-6
    assert seconds(spec_from, "h100_sxm", "hgx8", 16, 0.0) == 0.0


def test_over_a_racks_hosts_the_switch_multicasts(spec_from: Any) -> None:
    """Two and four hosts of an NVL72: TensorRT-LLM's measured kernels, from 16 KiB to 8 MiB.

    Over eight they start as NCCL's symmetric ones, which nobody fitted: 6.3 µs among 32 GPUs
    (NVIDIA/nccl-tests issue 333).
    """
    measured = {(8, 2**14): 4.4, (8, 2**21): 9.9, (8, 2**23): 26.0}
    measured |= {(16, 2**14): 5.0, (16, 2**21): 13.0, (16, 2**23): 36.0}
    for (ranks, message), us in measured.items():
        predicted = seconds(spec_from, "gb200_nvl72", "nvl72", ranks, float(message))
        assert predicted * 1e6 == pytest.approx(us, rel=0.12), (ranks, message)
    assert seconds(spec_from, "gb200_nvl72", "nvl72", 32, 8.0) == pytest.approx(6.3e-6, rel=0.1)


def test_only_racks_of_many_hosts_multicast(spec_from: Any) -> None:
    """A box of eight and one host of a rack keep kernels that write to each peer.

    Whose rack is cut into domains of eight has its kernels still.
    """
    large = 2.0**21
    box = seconds(spec_from, "b200_sxm", "hgx8", 8, large)
    assert box > 1.5 * seconds(spec_from, "gb200_nvl72", "nvl72", 8, large)
    assert seconds(spec_from, "gb200_nvl72", "hgx8", 8, large) == pytest.approx(
        seconds(spec_from, "gb200_nvl72", "nvl72", 8, large)
    )
    assert not Network.of(
        spec_from("hardware", "tpu7x", GPU), spec_from("fabric", "hgx8", Fabric)
    ).multicast
    assert seconds(spec_from, "gb200_nvl72", "nvl72", 4, large) == pytest.approx(
        seconds(spec_from, "b200_sxm", "hgx8", 4, large)
    )


def test_a_larger_rack_never_reduces_sooner(spec_from: Any) -> None:
    """Beyond one host's four, more ranks take longer, whatever the size of the message."""
    for message in (2.0**13, 2.0**17, 2.0**21, 2.0**25):
        times = [
            seconds(spec_from, "gb200_nvl72", "nvl72", ranks, message) for ranks in (8, 16, 32, 64)
        ]
        assert times == sorted(times)


@pytest.mark.parametrize(
    ("message", "us"), [(2**14, 20.5), (2**18, 39.3), (2**21, 157.5), (2**24, 1117.6)]
)
def test_cards_without_p2p_reduce_as_measured(message: int, us: float, spec_from: Any) -> None:
    """Two RTX PRO 6000s through host memory, vLLM 0.19 (AIConfigurator)."""
    took = seconds(spec_from, "rtx_pro_6000_server", "pcie_box_no_p2p", 2, float(message))
    assert took == pytest.approx(us * 1e-6, rel=0.1)


def test_nothing_starts_before_the_fabric_lets_it(spec_from: Any) -> None:
    """Gathers inside a box wait as all-reduces do; kernels that start later are as before."""
    card = spec_from("hardware", "rtx_pro_6000_server", GPU)
    box = spec_from("fabric", "pcie_box", Fabric)
    efficiency = load(card.architecture)
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        op = Operator(name="", kind=kind, message=1.0, ranks=2)
        early, late = (
            float(
                collective_seconds(
                    op, Network.of(card, replace(box, collective_start_s=start)), efficiency
                )
            )
            for start in (0.0, 1e-3)
        )
        assert early < 1e-4
        assert late == pytest.approx(1e-3, rel=1e-3)
        soon = replace(box, collective_start_s=1e-9)
        assert float(collective_seconds(op, Network.of(card, soon), efficiency)) == early


def test_cards_without_p2p_reduce_more_slowly(spec_from: Any) -> None:
    """Large messages of eight RTX PRO 6000s take as much longer as their way is narrower."""
    near = seconds(spec_from, "rtx_pro_6000_server", "pcie_box", 8, 1e8)
    through = seconds(spec_from, "rtx_pro_6000_server", "pcie_box_no_p2p", 8, 1e8)
    assert through / near == pytest.approx(64 / 26, rel=0.02)


@pytest.fixture
def slow() -> Efficiency:
    """Blackwell with first custom kernels that start in 9 and 25 µs."""
    own = {
        name: CollectiveCurve(alpha_s=alpha, bandwidth=0.7)
        for name, alpha in zip(CUSTOM, (9e-6, 25e-6), strict=True)
    }
    shipped = load("blackwell")
    return replace(shipped, collectives={**shipped.collectives, **own}, all_reduce="custom")


def summed(spec_from: Any, efficiency: Efficiency, ranks: int, message: float) -> float:
    """Return the seconds of an all-reduce in a box of B200s."""
    network = Network.of(
        spec_from("hardware", "b200_sxm", GPU), spec_from("fabric", "hgx8", Fabric)
    )
    operator = Operator(name="", kind="all_reduce", message=message, ranks=ranks)
    return float(collective_seconds(operator, network, efficiency))


def test_first_custom_kernels_take_two_shots_from_a_size(slow: Efficiency, spec_from: Any) -> None:
    """256 KB among eight, 512 among four, never among two: there the start of two comes in."""
    for ranks, once in ((8, 2**18), (4, 2**19)):
        below, at = (summed(spec_from, slow, ranks, float(m)) for m in (once - 16, once))
        assert below < 15e-6 < 25e-6 < at
    assert summed(spec_from, slow, 2, 2.0**19) < 15e-6


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_custom_kernels_are_never_ahead_of_the_fastest(
    ranks: int, slow: Efficiency, spec_from: Any
) -> None:
    """More takes longer, above the longest they are used for too; groups of boxes have others."""
    sizes = [2.0**n for n in range(12, 31)]
    custom = [summed(spec_from, slow, ranks, size) for size in sizes]
    fastest = [summed(spec_from, replace(slow, all_reduce=""), ranks, size) for size in sizes]
    assert custom == sorted(custom)
    assert all(a >= b for a, b in zip(custom, fastest, strict=True))
    assert (custom == fastest) == (ranks > 8)
    assert summed(spec_from, slow, ranks, 0.0) == 0.0


def test_unmeasured_custom_kernels_are_the_others(slow: Efficiency, spec_from: Any) -> None:
    """Where only one of both was measured, the fastest stand in."""
    some = {name: curve for name, curve in slow.collectives.items() if name != CUSTOM[1]}
    one, others = (replace(slow, collectives=some, all_reduce=kind) for kind in ("custom", ""))
    assert summed(spec_from, one, 8, 4096.0) == summed(spec_from, others, 8, 4096.0)
