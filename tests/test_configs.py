"""Every shipped choice of every group composes into an experiment."""

from pathlib import Path

import pytest
import yaml

from simulator.cli import compose, compose_any
from simulator.experiment import config_text
from simulator.services import Services

CONF = Path(__file__).parent.parent / "conf"

NOT_CHOSEN = ("hydra", "calibration", "engine", "batching", "forecaster")
"""Folders that are no group of the experiment's own: Hydra's, data, parts of others."""

TABLES = {
    "workload.path": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,5\n",
    "latency.decode_path": "batch,context,seconds\n1,1,0.01\n1,9,0.02\n2,1,0.02\n2,9,0.03\n",
    "latency.prefill_path": "tokens,seconds\n1,0.01\n4096,0.4\n",
}
"""Content of the files that a choice leaves to the user."""


TWO = ["+services.a={}", "elastic.quota_gpus=64"]
FILLED = {
    "autoscaler=schedule": ["autoscaler.steps=[[60,decode,3]]"],
    "quota=guaranteed": TWO,
    "quota=queue_share": TWO,
}
"""What a choice that leaves something else to the user needs."""


def choices(folder: Path) -> list[str]:
    """Return the names a group's folder ships."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def groups() -> list[str]:
    """Return every group that an experiment chooses from."""
    folders = {path.parent.relative_to(CONF) for path in CONF.rglob("*.yaml")} - {Path()}
    return sorted(each.as_posix() for each in folders if each.parts[0] not in NOT_CHOSEN)


SHIPPED = [(group, choice) for group in groups() for choice in choices(CONF / group)]


def overrides(group: str, choice: str, folder: Path) -> list[str]:
    """Return the overrides that choose, and fill in the files left to the user (``???``)."""
    node = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8")) or {}
    chosen = [f"{group}={choice}"]
    for key in (f"{group}.{name}" for name, value in node.items() if value == "???"):
        path = folder / f"{key}.csv"
        path.write_text(TABLES[key], encoding="utf-8")
        chosen.append(f"{key}={path}")
    chosen += FILLED.get(f"{group}={choice}", [])
    return chosen + (["cluster=colocated"] if group == "pools/mixed" else [])


@pytest.mark.parametrize(("group", "choice"), SHIPPED)
def test_every_choice_makes_an_experiment(group: str, choice: str, tmp_path: Path) -> None:
    """Each choice composes with the defaults, and every key and value in it is accepted."""
    made = compose_any(overrides(group, choice, tmp_path))
    each = made.services.values() if isinstance(made, Services) else [made]
    assert all(experiment.deployment.pools for experiment in each)


def test_the_groups_are_all_there() -> None:
    """Nothing above is vacuous: the groups a user chooses from exist and hold choices."""
    expected = {"cluster", "fabric", "hardware", "latency", "model", "workload", "pools/decode"}
    assert expected <= set(groups())


@pytest.mark.parametrize("choice", choices(CONF / "batching"))
@pytest.mark.parametrize("pool", ["prefill", "decode"])
def test_batching_is_chosen_per_pool(pool: str, choice: str) -> None:
    """A pool's batching is a choice of its own and leaves the other pool's alone."""
    key = f"batching@pools.{pool}.batching"
    pools = {each.role: each for each in compose([f"{key}={choice}"]).deployment.pools}
    default = {each.role: each for each in compose().deployment.pools}
    other = "decode" if pool == "prefill" else "prefill"
    assert pools[other] == default[other]
    assert (pools[pool] == default[pool]) == (choice == "vllm")


@pytest.mark.parametrize("choice", choices(CONF / "forecaster"))
def test_a_forecaster_is_chosen_for_its_autoscaler(choice: str) -> None:
    """Each is a part of the autoscaler that plans ahead."""
    experiment = compose(["autoscaler=dynamo_sla", f"forecaster@autoscaler.forecaster={choice}"])
    forecaster = getattr(experiment.deployment.control.policy, "forecaster")  # noqa: B009
    assert type(forecaster).__name__.lower() == choice.replace("_", "")


def test_a_pool_may_have_a_gpu_of_its_own() -> None:
    """Decode on another GPU than prefill is one override."""
    deployment = compose(["+hardware@pools.decode.gpu=h200_sxm"]).deployment
    gpus = {pool.role: (pool.gpu or deployment.gpu).name for pool in deployment.pools}
    assert gpus["prefill"] != gpus["decode"]
    assert "H200" in gpus["decode"]


def test_a_config_json_stands_in_for_the_model(tmp_path: Path) -> None:
    """``model.config_json`` replaces the shipped model, and is part of the run's identity."""
    path = tmp_path / "tiny.json"
    path.write_text(
        '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, '
        '"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, '
        '"max_position_embeddings": 4096}',
        encoding="utf-8",
    )
    assert compose([f"model.config_json={path}"]).deployment.model.layers == 2
    before = config_text({"model": {"config_json": str(path)}})
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert config_text({"model": {"config_json": str(path)}}) != before


def test_pools_are_set_key_by_key() -> None:
    """Worker counts and layouts of a pool are plain overrides."""
    pools = compose(["pools.prefill.workers=4", "pools.decode.layout.tp=8"]).deployment.pools
    assert [(pool.role, pool.workers, pool.layout.tp) for pool in pools] == [
        ("prefill", 4, 4),
        ("decode", 2, 8),
    ]


def test_whole_numbers_may_be_written_as_floats() -> None:
    """``1e3`` is a whole number where one is wanted, as users write large counts."""
    assert compose(["pools.prefill.batching.max_num_seqs=1e3"]).deployment.pools[0].batching == (
        compose(["pools.prefill.batching.max_num_seqs=1000"]).deployment.pools[0].batching
    )
