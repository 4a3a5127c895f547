"""How measured runs of SGLang summed, and what they kept of linear layers, is of their scripts."""

import pytest

from simulator.latency.roofline import Roofline
from simulator.validation.launches import Run, launch
from simulator.validation.names import Catalogue
from simulator.validation.serving import case_of

QWEN = "qwen3_5_397b_a17b"


def run_of(model: str, weights: str, gpu: str, gpus: int, version: tuple[int, ...]) -> Run:
    """Return a co-located run of SGLang with 16 clients."""
    return Run(
        engine="sglang",
        version=version,
        model=model,
        weights=weights,
        gpu=gpu,
        gpus=gpus,
        ranks=1,
        tokens=(1024, 1024),
        clients=16,
    )


@pytest.mark.parametrize(
    ("version", "slow"),
    [
        ((0, 5, 9), True),
        ((0, 5, 10), True),
        ((0, 5, 11), False),
        ((0, 6), False),
        ((1, 0, 0), False),
        ((20260402, 7256), True),
        ((20260504, 7256), False),
        ((), False),
    ],
)
def test_versions_before_the_fast_kernels(version: tuple[int, ...], slow: bool) -> None:
    """Releases by number and nightly builds by day; a run of no version is of none."""
    assert launch(run_of(QWEN, "fp8_block", "b200_sxm", 8, version)).unfused == slow
    assert launch(run_of("mixtral_8x7b", "bf16", "h100_sxm", 2, version)).unfused == slow


@pytest.mark.parametrize(
    ("model", "weights", "gpu", "gpus", "slow"),
    [
        (QWEN, "bf16", "b200_sxm", 8, False),
        (QWEN, "fp8_block", "b200_sxm", 4, True),
        (QWEN, "fp8_block", "b300_sxm", 4, False),
        (QWEN, "nvfp4", "b200_sxm", 4, True),
        (QWEN, "nvfp4", "b300_sxm", 4, True),
        (QWEN, "nvfp4", "b300_sxm", 8, False),
        ("deepseek_r1", "nvfp4", "b200_sxm", 8, False),
        ("deepseek_r1", "bf16", "h100_sxm", 8, False),
    ],
)
def test_scripts_that_fuse(model: str, weights: str, gpu: str, gpus: int, slow: bool) -> None:
    """BF16's ask for it, on B300 also NVFP4's over 8 ranks; FP8's there has NCCL instead."""
    assert launch(run_of(model, weights, gpu, gpus, (0, 5, 10))).unfused == slow


@pytest.mark.parametrize(
    ("gpu", "precision", "source", "profile", "state"),
    [
        ("B300", "nvfp4", "silicon_sample.csv", "sglang_0_5_10", "bf16"),
        ("B300", "bf16", "silicon_sample.csv", "sglang", "fp32"),
        ("B200", "fp8", "silicon_sample.csv", "sglang_0_5_10", "fp32"),
        ("B200", "fp8", "somebody else", "sglang", "fp32"),
    ],
)
def test_rows_run_as_they_were_launched(
    gpu: str, precision: str, source: str, profile: str, state: str
) -> None:
    """Those of InferenceX by its scripts; of others they say nothing."""
    row = {
        "model": "Qwen/Qwen3.5-397B-A17B", "gpu": gpu, "precision": precision, "mode": "agg",
        "engine": "sglang 0.5.10", "prefill_parallel": "TP4", "decode_parallel": "TP4",
        "isl": "1024", "osl": "1024", "concurrency_or_rate": "4", "source": source,
    }  # fmt: skip
    deployment = case_of(row, Catalogue.shipped()).deployment
    assert isinstance(deployment.latency, Roofline)
    assert deployment.latency.profile.name == profile
    assert deployment.model.linear_state == state
