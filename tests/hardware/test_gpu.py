"""Links and GPUs: what a data sheet may say, and that every shipped one says it."""

import csv
import pickle
from pathlib import Path
from typing import Any

import pytest

from hardware.errors import SpecError
from hardware.gpu import GPU
from hardware.link import Link
from tests.shipped import shipped

ROOT = Path(__file__).parents[2]
SHEET = ROOT / "../shared/data/hardware.csv"
SHIPPED = sorted((ROOT / "conf/hardware").glob("*.yaml"))

FILES = {
    "A100-80GB SXM": "a100_80gb_sxm",
    "H100 SXM": "h100_sxm",
    "H800 SXM": "h800_sxm",
    "H200 SXM": "h200_sxm",
    "H20-96G": "h20_96gb",
    "B200 SXM": "b200_sxm",
    "B300 SXM": "b300_sxm",
    "GB200 NVL72": "gb200_nvl72",
    "GB300 NVL72": "gb300_nvl72",
    "Vera Rubin NVL72 (VR200; aka NVL144)": "vera_rubin_nvl72",
    "L40S": "l40s",
    "RTX PRO 6000 Blackwell Server": "rtx_pro_6000_server",
    "MI300X": "mi300x",
    "MI325X": "mi325x",
    "MI355X": "mi355x",
    "TPU v6e": "tpu_v6e",
    "TPU7x Ironwood": "tpu7x",
    "TPU v5p": "tpu_v5p",
    "Gaudi 3 (OAM)": "gaudi_3",
    "Ascend 910C": "ascend_910c",
}
BEYOND = {
    "a10g",
    "a40",
    "gh200_96gb",
    "h100_nvl",
    "h100_pcie",
    "h20_3e_143gb",
    "l4",
    "l40",
    "rtx_4090",
}
"""Shipped from data sheets of their own."""


def link(**changes: Any) -> Link:
    """Make a link, with changes."""
    sheet: dict[str, Any] = {"name": "NVLink", "bandwidth": 4.5e11, "latency_s": 1e-6}
    return Link(**(sheet | changes))


def gpu(**changes: Any) -> GPU:
    """Make a GPU, with changes."""
    sheet: dict[str, Any] = {
        "name": "G",
        "architecture": "a",
        "peak_flops": {"bf16": 1e15},
        "memory_bytes": 8e10,
        "memory_bandwidth": 3e12,
        "scale_up": link(),
        "scale_up_domain": 8,
        "nic": link(name="NIC", bandwidth=5e10),
        "source": "made up",
    }
    return GPU(**(sheet | changes))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_gpu_loads_with_numbers_that_are_numbers(path: Path) -> None:
    """Every shipped GPU builds, says where its figures come from, and has no text for a number."""
    loaded = shipped("hardware", path.stem)
    assert isinstance(loaded, GPU)
    assert loaded.source
    figures = [*loaded.peak_flops.values(), loaded.memory_bytes, loaded.memory_bandwidth]
    figures += [loaded.scale_up.bandwidth, loaded.nic.bandwidth]
    assert all(type(figure) is float for figure in figures)


def test_shipped_gpus_have_distinct_names() -> None:
    """A report can tell every two shipped GPUs apart."""
    names = [shipped("hardware", path.stem).name for path in SHIPPED]
    assert len(set(names)) == len(names) > 0


def rows() -> list[list[str]]:
    """Return the reference sheet's rows, none where it is absent."""
    if not SHEET.exists():
        return []
    with SHEET.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))[1:]


@pytest.mark.skipif(not SHEET.exists(), reason="../shared/data/hardware.csv is not here")
def test_every_gpu_of_the_reference_sheet_is_shipped() -> None:
    """No GPU of the sheet is missing from the shipped files, and none is added unseen."""
    assert {FILES[row[0]] for row in rows()} | BEYOND == {path.stem for path in SHIPPED}


def test_gb300_is_not_gb200() -> None:
    """Blackwell Ultra: half as much FP4 again, 288 GB, and kernels of its own."""
    base, ultra = (shipped("hardware", name) for name in ("gb200_nvl72", "gb300_nvl72"))
    assert ultra.peak_flops["fp4"] == 1.5 * base.peak_flops["fp4"]
    assert ultra.peak_flops["fp8"] == base.peak_flops["fp8"]
    assert ultra.memory_bytes == pytest.approx(2.88e11)
    assert base.architecture != ultra.architecture


@pytest.mark.skipif(not SHEET.exists(), reason="../shared/data/hardware.csv is not here")
@pytest.mark.parametrize("row", rows(), ids=lambda row: FILES[row[0]])
def test_shipped_gpu_agrees_with_the_reference_sheet(row: list[str]) -> None:
    """Each figure the sheet gives is the shipped one (memory: GB or GiB, less what is reserved)."""
    loaded = shipped("hardware", FILES[row[0]])
    given = {
        "bf16": (row[1], loaded.peak_flops.get("bf16"), 1e12),
        "fp8": (row[2], loaded.peak_flops.get("fp8"), 1e12),
        "fp4": (row[3], loaded.peak_flops.get("fp4"), 1e12),
        "memory bandwidth": (row[5], loaded.memory_bandwidth, 1e12),
        "scale-up": (row[7], loaded.scale_up.bandwidth, 1e9),
        "domain": (row[8], loaded.scale_up_domain, 1),
        "scale-out": (row[9], loaded.nic.bandwidth, 1e9 / 8),
        "tdp": (row[10], loaded.tdp_w, 1),
        "rental": (row[14], loaded.usd_per_hour, 1),
    }
    for name, (text, value, unit) in given.items():
        if text:
            assert value == pytest.approx(float(text) * unit), name
    assert 1.0 <= loaded.memory_bytes / (float(row[4]) * 1e9) < 1.08


def test_missing_peak_names_the_known_ones() -> None:
    """Asking for a peak the data sheet lacks says which peaks it has."""
    with pytest.raises(SpecError, match="GPU G: no fp8 peak is known; known peaks: bf16"):
        gpu().peak("fp8")
    with pytest.raises(SpecError, match="known peaks: none"):
        gpu(peak_flops={}).peak("bf16")
    assert gpu().peak("bf16") == 1e15


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peak_flops": {"fp7": 1e15}}, "fp7"),
        ({"peak_flops": {"bf16": 0.0}}, r"peak_flops\[bf16\].*> 0 FLOP/s but got 0.0"),
        ({"memory_bytes": -1.0}, "memory_bytes.*> 0 bytes but got -1.0"),
        ({"memory_bandwidth": "3e12"}, "memory_bandwidth.*but got '3e12'"),
        ({"memory_bandwidth": float("nan")}, "memory_bandwidth.*but got nan"),
        ({"scale_up_domain": 0}, "scale_up_domain.*but got 0"),
        ({"scale_up_domain": 8.0}, "scale_up_domain.*but got 8.0"),
        ({"scale_up_multicast": 1}, "scale_up_multicast must be true or false but got 1"),
        ({"host_factor": 0.0}, "host_factor.*> 0 times x86 servers but got 0.0"),
        ({"tdp_w": 0.0}, "tdp_w.*> 0 W but got 0.0"),
        ({"usd_per_hour": -1.0}, "usd_per_hour.*≥ 0 USD/h but got -1.0"),
    ],
)
def test_impossible_gpu_is_refused(changes: dict[str, Any], words: str) -> None:
    """A figure that cannot be is refused with its field, value and unit."""
    with pytest.raises(SpecError, match=words):
        gpu(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bandwidth": 0.0}, "bandwidth.*> 0 bytes/s but got 0.0"),
        ({"bandwidth": True}, "bandwidth.*but got True"),
        ({"latency_s": -1e-6}, "latency_s.*≥ 0 s but got -1e-06"),
        ({"latency_s": float("inf")}, "latency_s.*but got inf"),
        ({"name": ""}, "name must be a non-empty string"),
    ],
)
def test_impossible_link_is_refused(changes: dict[str, Any], words: str) -> None:
    """A link needs a name, a bandwidth above 0 and a finite latency."""
    with pytest.raises(SpecError, match=words):
        link(**changes)


def test_gpu_is_a_value() -> None:
    """Equal data sheets are equal, hash alike, and survive a trip to another process."""
    assert gpu() == gpu()
    assert hash(gpu()) == hash(gpu())
    assert pickle.loads(pickle.dumps(gpu())) == gpu()  # noqa: S301 - our own bytes
