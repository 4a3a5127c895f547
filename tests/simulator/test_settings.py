"""Settings that no file gives away: every field of every specification, and a file's precision."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from hardware.gpu import GPU
from simulator.cli import compose
from simulator.configuration import TARGET, locate
from simulator.deployment import ROLES, Deployment, Pool
from simulator.elastic import Elastic
from simulator.errors import ConfigError
from simulator.experiment import Experiment
from simulator.explore.exploration import Options
from simulator.layout import Precision
from simulator.policies.autoscaling import Bounds, Schedule, Step
from simulator.results import SLO
from simulator.settings import resolve
from tests.simulator.huggingface.published import LLAMA, written

CONF = Path(__file__).parents[2] / "conf"
QUANTISED: dict[str, Any] = LLAMA | {
    "quantization_config": {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head", "*self_attn*"],
    }
}


# --- every field can be set -----------------------------------------------------------------


def composed(overrides: list[str]) -> dict[str, Any]:
    """Return the settings as the command line composes them."""
    import hydra
    from omegaconf import OmegaConf

    with hydra.initialize_config_module("conf", version_base="1.3"):
        config = hydra.compose("config", overrides=overrides)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)


def unset(node: Any, expected: Any, key: str) -> Iterator[str]:
    """Yield the fields of the specifications below ``key`` that the settings do not list."""
    if not isinstance(node, Mapping):
        return
    kind = locate(node[TARGET], key) if TARGET in node else specification(expected)
    if kind is None or not is_dataclass(kind):
        return
    hints = get_type_hints(kind)
    for each in fields(kind):
        if not each.init or each.name.startswith("_"):
            continue
        if each.name not in node:
            yield f"{key}.{each.name}"
        else:
            yield from unset(node[each.name], hints[each.name], f"{key}.{each.name}")


def specification(expected: Any) -> Any:
    """Return the dataclass an annotation means, ``None`` if it means none."""
    choices = get_args(expected) if get_origin(expected) in (Union, UnionType) else (expected,)
    return next((each for each in choices if is_dataclass(each)), None)


ELASTIC_GROUPS = ("startup", "drain", "changes")
"""Fields of what is elastic that stand in groups of their own."""

ABSENT = {
    "pools.prefill.role": "the pool's own name",
    "pools.decode.role": "the pool's own name",
    "pools.mixed.role": "the pool's own name",
    "fabric.host_bridge": "+fabric.host_bridge: boxes with NVLink have none",
    "fabric.collective_start_s": "+fabric.collective_start_s: only without P2P above 0",
    "hardware.scale_up_multicast": "+hardware.scale_up_multicast: racks alone have several hosts",
    "hardware.host_factor": "+hardware.host_factor: only Grace's differs from 1",
    "workload.input_lengths.median": "+…median, in place of mu",
    "workload.input_lengths.mean": "+…mean, in place of mu",
    "workload.output_lengths.median": "+…median, in place of mu",
    "workload.output_lengths.mean": "+…mean, in place of mu",
}
"""Fields that the default settings do not list, and why; a ``+`` before the key adds one."""


@pytest.mark.parametrize("cluster", ["disaggregated", "colocated"])
def test_every_field_of_pools_and_experiment_is_a_setting(cluster: str) -> None:
    """A documented field that no setting reaches is a promise not kept."""
    settings = composed([f"cluster={cluster}"])
    missing = []
    for role in ROLES:
        pool = settings["pools"].get(role)
        missing += unset(pool, Pool, f"pools.{role}")
    missing += unset(settings["transfer"], get_type_hints(Deployment)["transfer"], "transfer")
    missing += unset(settings["slo"], SLO, "slo")
    own = {each.name for each in fields(Experiment)} | {each.name for each in fields(Deployment)}
    missing += own - {*settings, "deployment", "gpu"}
    parts = get_type_hints(Elastic)
    missing += unset({**settings["elastic"], **dict.fromkeys(ELASTIC_GROUPS)}, Elastic, "elastic")
    for name in ("startup", "drain"):
        missing += unset(settings[name], parts[name], name)
    groups = get_type_hints(Deployment) | get_type_hints(Experiment) | {"hardware": GPU}
    for name in ("fabric", "latency", "router", "decode_router", "hardware", "workload"):
        missing += unset(settings[name], groups[name], name)
    missing += unset(settings["explore"], Options, "explore")
    assert set(missing) <= set(ABSENT)


def test_a_field_of_a_model_can_be_added() -> None:
    """A shipped shape lists what it has; what it has not is added with a ``+``."""
    assert compose(["+model.mtp_layers=2"]).deployment.model.mtp_layers == 2


# --- precision ------------------------------------------------------------------------------


def precision(*overrides: str, role: str = "decode") -> Precision:
    """Return a pool's precision under overrides."""
    pools = {pool.role: pool for pool in compose(list(overrides)).deployment.pools}
    return pools[role].precision


def test_precision_of_a_shipped_model_is_bf16() -> None:
    """Nothing said is 16 bits."""
    assert precision() == Precision()


@pytest.mark.parametrize("name", [each.name for each in fields(Precision)])
def test_every_part_of_a_precision_can_be_set(name: str) -> None:
    """Each field is one override, and reaches the pool it is set on alone."""
    value: Any = 64 if name == "group_size" else "fp8"
    sets = [f"pools.decode.precision.{name}={value}"]
    if name != "weights" and "activations" in name:
        sets += ["pools.decode.precision.weights=fp8", "pools.decode.precision.activations=fp8"]
    assert getattr(precision(*sets), name) == value
    assert precision(*sets, role="prefill") == Precision()


def test_a_file_gives_the_precision_of_every_pool(tmp_path: Path) -> None:
    """What a checkpoint is stored in is what it is served in; B200 multiplies in 4 bits."""
    path = written(tmp_path / "c", QUANTISED)
    expected = Precision(weights="nvfp4", activations="nvfp4", kv="fp8", attention="bf16")
    for role in ("prefill", "decode"):
        found = precision(f"model.config_json={path}", "hardware=b200_sxm", role=role)
        assert found == expected


def test_a_gpu_without_the_tensor_cores_unpacks(tmp_path: Path) -> None:
    """H100 reads 4-bit weights and multiplies in 16 bits, as engines do there."""
    path = written(tmp_path / "c", QUANTISED)
    found = precision(f"model.config_json={path}", "hardware=h100_sxm")
    assert (found.weights, found.activations, found.kv) == ("nvfp4", "bf16", "fp8")


def test_what_a_file_assumes_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Notes on the file, and the GPUs that unpack its weights, are warnings when asked for."""
    path = written(tmp_path / "c", QUANTISED | {"new_trick": 1})
    settings = composed([f"model.config_json={path}", "hardware=h100_sxm"])
    with caplog.at_level("WARNING"):
        resolve(settings)
    assert not caplog.records
    with caplog.at_level("WARNING"):
        resolve(settings, tell=True)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "new_trick" in told[0]
    assert told[1].startswith("H100 SXM has no tensor cores for nvfp4")


def test_a_setting_beside_the_file_overrides_it(tmp_path: Path) -> None:
    """One field at a time; other weights than the file's set its activations aside too."""
    path = written(tmp_path / "c", QUANTISED)
    file = [f"model.config_json={path}", "hardware=b200_sxm"]
    key = "pools.decode.precision"
    assert precision(*file, f"{key}.kv=bf16").kv == "bf16"
    assert precision(*file, f"{key}.kv=bf16").weights == "nvfp4"
    assert precision(*file, f"{key}.attention=fp8").attention == "fp8"
    found = precision(*file, f"{key}.weights=bf16")
    assert (found.weights, found.activations, found.attention) == ("bf16", "bf16", "bf16")
    assert precision(*file, f"{key}.weights=bf16", role="prefill").weights == "nvfp4"


def test_resolved_settings_say_the_precision_and_stay(tmp_path: Path) -> None:
    """Resolving fills in what was open, once: what a run keeps is what it ran."""
    path = written(tmp_path / "c", QUANTISED)
    settings = composed([f"model.config_json={path}", "hardware=b200_sxm"])
    found = resolve(settings)
    assert found["pools"]["decode"]["precision"]["weights"] == "nvfp4"
    assert resolve(found) == found
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+pools.decode.precision.wheels=fp8", "precision.wheels: no such setting"),
        ("pools.decode.precision.attention=fp3", "precision: attention must be one of"),
        ("pools.decode.precision.group_size=0", "group_size must be a whole number ≥ 1"),
        ("pools.decode.precision=fp8", "precision must be a group of settings but got 'fp8'"),
    ],
)
def test_unusable_precision_is_refused(override: str, words: str) -> None:
    """A precision that cannot be names the setting and the value."""
    with pytest.raises(ConfigError, match=words):
        compose([override])


def test_a_schedule_is_a_list_of_lists() -> None:
    """``[seconds, pool, workers]`` each, as docs/elastic.md has it."""
    experiment = compose(["autoscaler=schedule", "autoscaler.steps=[[60,decode,3],[300,decode,2]]"])
    assert experiment.deployment.control.policy == Schedule(
        steps=(Step(60.0, "decode", 3), Step(300.0, "decode", 2))
    )


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("[60,decode]", r"steps\[0\] must be \[at_s, pool, workers\] but got"),
        ("[x,decode,3]", r"steps\[0\].at_s must be a number but got 'x'"),
        ("{at_s: 60, pool: decode, workers: x}", r"steps\[0\].workers must be a whole number"),
    ],
)
def test_a_step_that_is_none_is_refused(step: str, words: str) -> None:
    """Naming the value and what was expected."""
    with pytest.raises(ConfigError, match=words):
        compose(["autoscaler=schedule", f"autoscaler.steps=[{step}]"])


def test_a_pools_bounds_are_settings() -> None:
    """Each by its name, and only of pools there can be."""
    control = compose(["control.bounds.decode.most=8"]).deployment.control
    assert control.bounds_of("decode") == Bounds(most=8)
    with pytest.raises(ConfigError, match="bounds must be of prefill, decode, mixed"):
        compose(["+control.bounds.decod.most=8"])


@pytest.mark.parametrize("name", ["interval_s", "observing.scrape_s"])
def test_looking_all_the_time_is_refused(name: str) -> None:
    """A controller that wakes a million times a second would not come to an end."""
    with pytest.raises(ConfigError, match=r"must be at least 0\.001 s but got 1e-06"):
        compose([f"control.{name}=1e-6"])
