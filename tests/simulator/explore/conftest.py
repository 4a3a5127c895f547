"""Shipped models and GPUs for tests of exploring."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.configuration import build
from simulator.explore.space import Platform
from simulator.layout import Precision
from simulator.model import Model

CONF = Path(__file__).parents[3] / "conf"
FP4 = Precision(weights="nvfp4", activations="nvfp4", kv="fp8")
MakePlatform = Callable[..., Platform]


def shipped(group: str, name: str, kind: type) -> Any:
    """Return what a shipped YAML file describes."""
    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    return build(yaml.safe_load(text), kind, group)


@pytest.fixture(scope="session")
def make_platform() -> MakePlatform:
    """Return a function from names of shipped choices to a platform."""

    def make(model: str, gpu: str = "gb200_nvl72", fabric: str = "nvl72", **more: Any) -> Platform:
        return Platform(
            model=shipped("model", model, Model),
            gpu=shipped("hardware", gpu, GPU),
            fabric=shipped("fabric", fabric, Fabric),
            **{"precision": FP4, **more},
        )

    return make


@pytest.fixture(scope="session")
def dense(make_platform: MakePlatform) -> Platform:
    """Return Llama-3.1-8B in 16 bits on H100s: small and quick."""
    return make_platform("llama_3_1_8b", "h100_sxm", "hgx8", precision=Precision())


@pytest.fixture(scope="session")
def experts(make_platform: MakePlatform) -> Platform:
    """Return DeepSeek-R1 in FP4 on an NVL72."""
    return make_platform("deepseek_r1")
