"""Collectives: what a group that leaves its domain costs beside one that stays."""

from typing import Any

import pytest

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.latency.collectives import Network, collective_seconds
from simulator.latency.efficiency import load
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


def test_cards_without_p2p_reduce_more_slowly(spec_from: Any) -> None:
    """Large messages of eight RTX PRO 6000s take as much longer as their way is narrower."""
    near = seconds(spec_from, "rtx_pro_6000_server", "pcie_box", 8, 1e8)
    through = seconds(spec_from, "rtx_pro_6000_server", "pcie_box_no_p2p", 8, 1e8)
    assert through / near == pytest.approx(64 / 26, rel=0.02)
