"""Models: sizes that agree with the published ones, and configurations read or refused."""

import csv
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.huggingface import MAX_BYTES
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


# --- config.json ----------------------------------------------------------------------------

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
QWEN_MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama_3_1_8b": LLAMA,
    "deepseek_r1": DEEPSEEK,
    "deepseek_v3_2": DEEPSEEK
    | {
        "model_type": "deepseek_v32",
        "index_topk": 2048,
        "index_n_heads": 64,
        "index_head_dim": 128,
    },
    "kimi_k2_5": {
        "model_type": "kimi_k25",
        "text_config": DEEPSEEK
        | {
            "model_type": "kimi_k2",
            "first_k_dense_replace": 1,
            "max_position_embeddings": 262144,
            "n_routed_experts": 384,
            "num_attention_heads": 64,
            "num_nextn_predict_layers": 0,
            "vocab_size": 163840,
        },
    },
    "qwen3_30b_a3b": QWEN_MOE,
    "qwen3_next_80b_a3b": QWEN_MOE
    | {
        "model_type": "qwen3_next",
        "full_attention_interval": 4,
        "head_dim": 256,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "max_position_embeddings": 262144,
        "moe_intermediate_size": 512,
        "num_attention_heads": 16,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "num_key_value_heads": 2,
        "shared_expert_intermediate_size": 512,
    },
    "qwen2_5_72b": LLAMA
    | {
        "model_type": "qwen2",
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "max_window_layers": 80,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "sliding_window": 131072,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "mixtral_8x7b": LLAMA
    | {
        "model_type": "mixtral",
        "max_position_embeddings": 32768,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "sliding_window": None,
        "vocab_size": 32000,
    },
    "gpt_oss_20b": {
        "model_type": "gpt_oss",
        "head_dim": 64,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072,
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "sliding_window": 128,
        "vocab_size": 201088,
    },
    "gemma_3_27b": {
        "model_type": "gemma3",
        "text_config": {
            "head_dim": 128,
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "num_attention_heads": 32,
            "num_hidden_layers": 62,
            "num_key_value_heads": 16,
            "sliding_window": 1024,
        },
    },
    "glm_4_5": {
        "model_type": "glm4_moe",
        "first_k_dense_replace": 3,
        "head_dim": 128,
        "hidden_size": 5120,
        "intermediate_size": 12288,
        "max_position_embeddings": 131072,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 160,
        "n_shared_experts": 1,
        "num_attention_heads": 96,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 92,
        "num_key_value_heads": 8,
        "num_nextn_predict_layers": 1,
        "vocab_size": 151552,
    },
    "minimax_m2": {
        "model_type": "minimax_m2",
        "head_dim": 128,
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "max_position_embeddings": 196608,
        "num_attention_heads": 48,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 62,
        "num_key_value_heads": 8,
        "num_local_experts": 256,
        "num_mtp_modules": 3,
        "vocab_size": 200064,
    },
    "llama_4_maverick": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "attention_chunk_size": 8192,
            "head_dim": 128,
            "hidden_size": 5120,
            "interleave_moe_layer_step": 2,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "max_position_embeddings": 1048576,
            "num_attention_heads": 40,
            "num_experts_per_tok": 1,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "num_local_experts": 128,
            "vocab_size": 202048,
        },
    },
    "bloom_176b": {
        "model_type": "bloom",
        "hidden_size": 14336,
        "n_head": 112,
        "n_layer": 70,
        "vocab_size": 250880,
    },
}
DOCUMENTATION = ("name", "source", "notes")


def written(folder: Path, config: object) -> Path:
    """Write a config.json into a folder of its own."""
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_config_json_gives_the_shipped_model(name: str, tmp_path: Path) -> None:
    """The published configuration of a model reads as the shipped one, parameters and all."""
    found = Model.from_config_json(written(tmp_path / name, CONFIGS[name]))
    expected = shipped(name)
    assert found.name == name
    skipped = set(DOCUMENTATION)
    if not expected.shared_experts:
        skipped.add("shared_intermediate")
    for each in fields(Model):
        if each.name not in skipped:
            ours, theirs = getattr(found, each.name), getattr(expected, each.name)
            assert (ours or 0) == (theirs or 0) or each.name == "shared_intermediate", each.name
    assert found.stored_params == expected.stored_params


def test_sliding_mistral_reads_as_all_windows(tmp_path: Path) -> None:
    """A Mistral with a window has no layer that sees more than it."""
    config = LLAMA | {"model_type": "mistral", "sliding_window": 4096}
    found = Model.from_config_json(written(tmp_path, config))
    assert (found.window, found.growing_layers, found.window_layers) == (4096, 0, 32)


def test_sparse_step_and_listed_layers_are_dense(tmp_path: Path) -> None:
    """Qwen's layers off the sparse step, and those listed, have a dense FFN."""
    config = QWEN_MOE | {"mlp_only_layers": [0, 1]}
    found = Model.from_config_json(written(tmp_path, config))
    assert (found.ffn_dense_layers, found.dense_intermediate) == (2, 6144)
    config = QWEN_MOE | {"decoder_sparse_step": 2}
    found = Model.from_config_json(written(tmp_path, config))
    assert (found.ffn_dense_layers, found.is_moe_layer(0), found.is_moe_layer(1)) == (
        24,
        False,
        True,
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            LLAMA | {"num_hidden_layers": -4},
            "num_hidden_layers must be a whole number >= 1 but got",
        ),
        (LLAMA | {"hidden_size": "big"}, "hidden_size must be .* but got 'big'"),
        (
            LLAMA | {"vocab_size": 1e9},
            "vocab_size must be a whole number >= 1 but got 1000000000.0",
        ),
        (LLAMA | {"vocab_size": 10**40}, "vocab must be at most 1000000000 but got 1000"),
        (LLAMA | {"num_attention_heads": 0}, "num_attention_heads must be .* but got 0"),
        (LLAMA | {"num_attention_heads": 33}, "head_dim must be given where 33 heads"),
        (LLAMA | {"num_key_value_heads": 7}, "kv_heads 7 must divide heads 32"),
        (LLAMA | {"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false"),
        (LLAMA | {"model_type": "gpt9"}, "model_type must be one of .*llama.* but got 'gpt9'"),
        (LLAMA | {"model_type": ["llama"]}, "model_type must be one of"),
        ({}, "model_type must be one of .* but the key is missing"),
        ({"model_type": "llama"}, "hidden_size must be .* but the key is missing"),
        ({"text_config": 3}, "text_config must be an object but got 3"),
        (DEEPSEEK | {"num_experts_per_tok": 999}, "top_k must lie in 1…256 experts but got 999"),
        (DEEPSEEK | {"moe_layer_freq": 2}, "moe_layer_freq must be 1 but got 2"),
        (DEEPSEEK | {"kv_lora_rank": None}, "kv_lora_rank must be .* but got None"),
        (
            CONFIGS["gpt_oss_20b"] | {"layer_types": ["full_attention"]},
            "layer_types must be a list of 24 layers",
        ),
        (
            CONFIGS["qwen3_next_80b_a3b"] | {"linear_value_head_dim": 64},
            "linear_value_head_dim must be linear_key_head_dim, 128 but got 64",
        ),
        ([], "expected a JSON object but got a list"),
        ("llama", "expected a JSON object but got a str"),
    ],
)
def test_nonsense_config_is_refused(config: object, words: str, tmp_path: Path) -> None:
    """A configuration that cannot be is refused in one sentence with file, key and value."""
    path = written(tmp_path, config)
    with pytest.raises(ConfigError, match=words) as caught:
        Model.from_config_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe\x01" * 100, b'{"model_type": "llama"', b"[" * 200_000, b"9" * 10_000],
    ids=["empty", "binary", "cut off", "nested", "digits"],
)
def test_file_that_is_not_json_is_refused(content: bytes, tmp_path: Path) -> None:
    """Noise, a cut-off file and a bomb are refused as what they are: no JSON object."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="expected a JSON object but it is not valid JSON"):
        Model.from_config_json(path)


def test_absent_file_directory_and_giant_are_refused(tmp_path: Path) -> None:
    """What is no readable file of sane size is named as such."""
    with pytest.raises(ConfigError, match="there is none"):
        Model.from_config_json(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="it is a directory"):
        Model.from_config_json(tmp_path)
    giant = tmp_path / "giant.json"
    giant.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match=f"at most {MAX_BYTES} bytes"):
        Model.from_config_json(giant)


ODD: list[Any] = [None, True, -3, 0, 1, 2, 8, 300, 0.5, 1e300, "", "8", [], [None], {}]


@given(changes=st.dictionaries(st.sampled_from(sorted(DEEPSEEK)), st.sampled_from(ODD), max_size=4))
def test_any_change_gives_a_model_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    """Whatever a key is changed to, the outcome is a model or a ConfigError naming the file."""
    path = written(tmp_path_factory.getbasetemp() / "changed", DEEPSEEK | changes)
    try:
        outcome = f"{path} {Model.from_config_json(path).total_params}"
    except ConfigError as error:
        outcome = str(error)
    assert str(path) in outcome
