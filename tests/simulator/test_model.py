"""Models: sizes that agree with the published ones, and configurations read or refused."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.model import Model

ROOT = Path(__file__).parents[2]
SHEET = ROOT / "../shared/data/models.csv"
SHIPPED = sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml"))

RENAMED = {"MiniMax-M2 / M2.5": "MiniMax-M2", "GLM-4.5 / 4.6 / 4.7 (355B-A32B)": "GLM-4.5"}


def shipped(name: str) -> Model:
    """Build one shipped model."""
    values = yaml.safe_load((ROOT / f"conf/model/{name}.yaml").read_text(encoding="utf-8"))
    assert values.pop("_target_") == "simulator.model.Model"
    return Model(**values)


def model(**changes: Any) -> Model:
    """Make a small dense model, with changes."""
    shape: dict[str, Any] = {
        "name": "m",
        "layers": 4,
        "hidden": 64,
        "heads": 8,
        "kv_heads": 2,
        "head_dim": 8,
        "vocab": 100,
        "max_context": 1000,
        "dense_intermediate": 128,
    }
    return Model(**(shape | changes))


MOE: dict[str, Any] = {
    "dense_layers": 1,
    "experts": 8,
    "top_k": 2,
    "moe_intermediate": 32,
}
MLA: dict[str, Any] = {
    "attention": "mla",
    "kv_heads": 1,
    "q_lora": 16,
    "kv_lora": 32,
    "rope_dim": 8,
    "nope_dim": 16,
    "v_dim": 16,
}
LINEAR: dict[str, Any] = {
    "full_attention_layers": 1,
    "linear_key_heads": 2,
    "linear_value_heads": 4,
    "linear_head_dim": 8,
    "linear_conv": 4,
}
INDEX: dict[str, Any] = {"index_top_k": 16, "index_heads": 2, "index_head_dim": 8}


# --- sizes ----------------------------------------------------------------------------------


def rows() -> list[dict[str, str]]:
    """Return the reference sheet's rows, none where it is absent."""
    if not SHEET.exists():
        return []
    with SHEET.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.skipif(not SHEET.exists(), reason="../shared/data/models.csv is not here")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["model"])
def test_sizes_reproduce_the_reference_sheet(row: dict[str, str]) -> None:
    """Parameters (to the sheet's two decimals) and KV bytes (exactly) are the sheet's."""
    name = RENAMED.get(row["model"], row["model"])
    found = next(m for m in map(shipped, SHIPPED) if m.name == name)
    assert round(found.total_params / 1e9, 2) == float(row["total_params_B_calc"])
    assert round(found.active_params / 1e9, 2) == float(row["active_params_B_calc"])
    assert found.kv_bytes_per_token(2.0) == float(row["kv_bytes_per_token_bf16_calc"])


@pytest.mark.skipif(not SHEET.exists(), reason="../shared/data/models.csv is not here")
def test_every_model_of_the_reference_sheet_is_shipped() -> None:
    """No model of the sheet is missing, and none is added unseen."""
    assert {RENAMED.get(r["model"], r["model"]) for r in rows()} == {
        shipped(name).name for name in SHIPPED
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_model_is_consistent(name: str) -> None:
    """Layers add up, a token passes through some but never more than all of the parameters."""
    found = shipped(name)
    assert found.source
    assert found.ffn_dense_layers + found.moe_layers == found.layers
    assert sum(map(found.is_moe_layer, range(found.layers))) == found.moe_layers
    assert found.growing_layers + found.window_layers + found.linear_layers == found.layers
    assert sum(map(found.is_growing_layer, range(found.layers))) == found.growing_layers
    assert 0 < found.active_params <= found.total_params <= found.stored_params


@pytest.mark.parametrize("name", SHIPPED)
@given(context=st.integers(0, 200_000), more=st.integers(1, 10_000))
def test_kv_grows_with_context_below_its_bounds(name: str, context: int, more: int) -> None:
    """KV of a context grows, by no less than the growing and no more than all writing layers."""
    found = shipped(name)
    grown = found.kv_bytes(context + more, 2.0) - found.kv_bytes(context, 2.0)
    most = found.kv_bytes_per_token(2.0) + found.index_bytes_per_token
    assert found.growing_kv_bytes_per_token(2.0) * more <= grown <= most * more


def test_hybrid_model_reproduces_its_published_parameter_count() -> None:
    """Qwen3-Next stores 79.674 B parameters (its checkpoint's count, MTP left out)."""
    assert shipped("qwen3_next_80b_a3b").stored_params == pytest.approx(79_674_391_296, rel=1e-4)


def test_window_layers_stop_growing() -> None:
    """Past its window, a gpt-oss sequence grows by its full-attention half only."""
    found = shipped("gpt_oss_20b")
    step = found.kv_bytes(10_001, 2.0) - found.kv_bytes(10_000, 2.0)
    assert step == found.kv_bytes_per_token(2.0) / 2


def test_linear_layers_hold_a_constant_state() -> None:
    """A hybrid sequence starts with its linear layers' state and adds softmax KV only."""
    found = model(**LINEAR)
    assert found.kv_bytes(0, 2.0) == found.linear_state_bytes() > 0
    assert found.kv_bytes(5, 2.0) - found.kv_bytes(0, 2.0) == 5 * 2 * 2 * 8 * 2.0


def test_sparse_indexer_adds_its_keys() -> None:
    """DeepSeek-V3.2 keeps 128 fp8 bytes and a 4-byte scale per token and layer beside V3's KV."""
    sparse, plain = shipped("deepseek_v3_2"), shipped("deepseek_v3")
    added = sparse.growing_kv_bytes_per_token(2.0) - plain.growing_kv_bytes_per_token(2.0)
    assert added == 61 * (128 + 4)


def test_dense_layers_come_first_or_alternate() -> None:
    """DeepSeek-V3 has its 3 dense layers first; in Maverick every second layer routes."""
    first, alternate = shipped("deepseek_v3"), shipped("llama_4_maverick")
    assert [first.is_moe_layer(at) for at in range(5)] == [False, False, False, True, True]
    assert [alternate.is_moe_layer(at) for at in range(4)] == [False, True, False, True]


# --- checks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 0}, "layers must be a whole number ≥ 1 but got 0"),
        ({"layers": 10**6}, "layers must be at most 10000 but got 1000000"),
        ({"hidden": "64"}, "hidden must be a whole number ≥ 1 but got '64'"),
        ({"heads": True}, "heads must be a whole number ≥ 1 but got True"),
        ({"vocab": 1.5}, "vocab must be a whole number ≥ 1 but got 1.5"),
        ({"window": -1, "full_attention_layers": 1}, "window must be a whole number ≥ 0"),
        ({"window": 0, "full_attention_layers": 1}, "window must be at least 1 token but got 0"),
        ({"kv_heads": 3}, "kv_heads 3 must divide heads 8"),
        ({"attention": "mqa"}, "attention must be gqa or mla but got 'mqa'"),
        (MLA | {"kv_lora": 0}, "mla attention needs kv_lora ≥ 1 but got 0"),
        (MLA | {"rope_dim": 0}, "mla attention needs rope_dim ≥ 1 but got 0"),
        ({"kv_lora": 512}, "kv_lora 512 belongs to mla attention"),
        ({"full_attention_layers": 5}, "full_attention_layers 5 must be at most layers 4"),
        ({"full_attention_layers": 2}, "2 layers are not full attention: give a window"),
        (LINEAR | {"window": 9}, "either windowed or linear, not both"),
        (LINEAR | {"linear_conv": 0}, "go together but linear_conv is 0"),
        (INDEX | {"index_heads": 0}, "go together but index_heads is 0"),
        ({"dense_intermediate": 0}, "4 dense layers need dense_intermediate ≥ 1"),
        ({"top_k": 2}, "need experts ≥ 1"),
        ({"dense_layers": 2}, "dense_layers 2 without experts must be all layers"),
        (MOE | {"dense_layers": 5}, "dense_layers 5 must be at most layers 4"),
        (MOE | {"dense_layers": 4}, "8 experts but all 4 layers are dense"),
        (MOE | {"top_k": 9}, "top_k must lie in 1…8 experts but got 9"),
        (MOE | {"top_k": 0}, "top_k must lie in 1…8 experts but got 0"),
        (MOE | {"moe_intermediate": 0}, "experts need moe_intermediate ≥ 1"),
        ({"name": ""}, "name must be a non-empty string"),
    ],
)
def test_impossible_model_is_refused(changes: dict[str, Any], words: str) -> None:
    """A shape that cannot be is refused with its field and value."""
    with pytest.raises(ConfigError, match=words):
        model(**changes)
