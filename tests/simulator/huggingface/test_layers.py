"""Windows, indexers, dense and sparse layers: from every list and switch that configures them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cli import compose
from simulator.errors import ConfigError
from simulator.experiment import simulate
from simulator.huggingface import read_checkpoint
from simulator.layout import Layout, Precision, plan_memory
from simulator.model import Model
from tests.shipped import shipped
from tests.simulator.huggingface.published import (
    CONFIGS,
    DEEPSEEK,
    LLAMA,
    QWEN_MOE,
    mutated,
    written,
)

QWEN2: dict[str, Any] = LLAMA | {"model_type": "qwen2", "num_hidden_layers": 12}
SPARSE: dict[str, Any] = CONFIGS["deepseek_v3_2"] | {
    "model_type": "glm_moe_dsa",
    "num_hidden_layers": 10,
}


def model(folder: Path, config: dict[str, Any]) -> Model:
    """Read a configuration's model."""
    return read_checkpoint(written(folder / "c", config)).model


@pytest.mark.parametrize(
    ("changes", "window", "full"),
    [
        ({"sliding_window": 500}, None, 12),
        ({"sliding_window": 500, "use_sliding_window": False, "max_window_layers": 4}, None, 12),
        ({"sliding_window": 500, "use_sliding_window": True, "max_window_layers": 4}, 500, 4),
        ({"use_sliding_window": True, "max_window_layers": 5}, 4096, 5),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 5}, None, 12),
        ({"use_sliding_window": True, "max_window_layers": 12}, None, 12),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 64,
                "layer_types": ["full_attention"] * 3 + ["sliding_attention"] * 9,
            },
            64,
            3,
        ),
        ({"layer_types": ["sliding_attention"] * 12, "sliding_window": 64}, None, 12),
    ],
)
def test_qwen_windows(
    changes: dict[str, Any], window: int | None, full: int, tmp_path: Path
) -> None:
    """Qwen's windows are off unless switched on, after ``max_window_layers`` or where listed."""
    found = model(tmp_path, QWEN2 | changes)
    assert (found.window, found.growing_layers) == (window, full)


def test_qwen_moe_windows_are_on_all_layers(tmp_path: Path) -> None:
    """Qwen3's mixtures of experts have windows in all layers or none, Qwen2's in every other."""
    switched = {"use_sliding_window": True, "sliding_window": 700, "max_window_layers": 6}
    found = model(tmp_path, QWEN_MOE | switched)
    assert (found.window, found.window_layers) == (700, 48)
    found = model(tmp_path, QWEN_MOE | switched | {"model_type": "qwen2_moe"})
    assert (found.window, found.window_layers) == (700, 3)


def test_listed_kinds_decide(tmp_path: Path) -> None:
    """``layer_types`` counts windowed layers in Gemma, whose pattern would say otherwise."""
    kinds = ["sliding_attention"] * 7 + ["full_attention"]
    config = CONFIGS["gemma_3_27b"]["text_config"] | {
        "model_type": "gemma3_text",
        "num_hidden_layers": 8,
        "layer_types": kinds,
    }
    found = model(tmp_path, config)
    assert (found.window, found.growing_layers, found.window_layers) == (1024, 1, 7)


def test_speculative_layers_may_follow_in_lists(tmp_path: Path) -> None:
    """A list with one more entry per speculative layer is cut to the model's layers."""
    config = SPARSE | {"layer_types": ["deepseek_sparse_attention"] * 11}
    assert model(tmp_path, config).layers == 10
    with pytest.raises(ConfigError, match="layer_types must be a list of 10 layers, not 12, but"):
        model(tmp_path, SPARSE | {"layer_types": ["deepseek_sparse_attention"] * 12})


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({}, 10),
        ({"indexer_types": ["full"] * 2 + ["shared"] * 8}, 2),
        ({"index_topk_pattern": "FFSSSFSSSS"}, 3),
        ({"index_topk_pattern": ["full", "shared"] * 5}, 5),
        ({"index_topk_freq": 4}, 4),
        ({"index_topk_freq": 4, "index_skip_topk_offset": 3}, 4),
        ({"index_topk_freq": 5, "index_skip_topk_offset": 0}, 2),
        ({"indexer_types": ["full"] * 4 + ["shared"] * 6, "index_topk_freq": 2}, 4),
    ],
)
def test_shared_indexers_hold_no_keys(changes: dict[str, Any], own: int, tmp_path: Path) -> None:
    """Only layers with an indexer of their own store its keys and weights."""
    found = model(tmp_path, SPARSE | changes)
    whole = model(tmp_path, SPARSE)
    assert found.indexing_layers == own
    assert found.index_bytes_per_token == own * (128 + 4)
    saved = whole.stored_params - found.stored_params
    assert saved == (10 - own) * whole.index_params_per_layer


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({}, True),
        ({"use_qk_norm": True, "qk_norm_type": "per_layer"}, True),
        ({"qk_norm_type": "per_head"}, False),
        ({"use_qk_norm": False}, False),
    ],
)
def test_norms_over_all_heads(changes: dict[str, Any], whole: bool, tmp_path: Path) -> None:
    """MiniMax-M2 norms its heads together unless its file says otherwise."""
    assert model(tmp_path, CONFIGS["minimax_m2"] | changes).norms_all_heads == whole


@pytest.mark.parametrize(
    ("changes", "dense", "interleaved"),
    [
        ({}, 3, False),
        ({"moe_layer_freq": 2, "first_k_dense_replace": 1}, 6, True),
        ({"moe_layer_freq": [0, 0] + [1] * 8}, 2, False),
        ({"moe_layer_freq": [0, 1] * 5}, 5, True),
        ({"mlp_layer_types": ["dense"] * 4 + ["sparse"] * 6}, 4, False),
        ({"first_k_dense_replace": None}, 0, False),
    ],
)
def test_sparse_layers(
    changes: dict[str, Any], dense: int, interleaved: bool, tmp_path: Path
) -> None:
    """Dense layers come first, alternate or are listed."""
    found = model(tmp_path, DEEPSEEK | {"num_hidden_layers": 10} | changes)
    assert (found.ffn_dense_layers, found.interleaved_ffn) == (dense, interleaved)


def test_all_dense_deepseek_has_no_experts(tmp_path: Path) -> None:
    """Experts' keys may be null where ``first_k_dense_replace`` leaves no layer to them."""
    none = dict.fromkeys(("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"))
    found = model(tmp_path, DEEPSEEK | none | {"first_k_dense_replace": 61, "q_lora_rank": None})
    assert (found.is_moe, found.ffn_dense_layers, found.q_lora) == (False, 61, 0)


def test_speculative_layers_may_be_null(tmp_path: Path) -> None:
    """``num_nextn_predict_layers`` null is none."""
    assert model(tmp_path, DEEPSEEK | {"num_nextn_predict_layers": None}).mtp_layers == 0


def test_dense_hybrid_reads(tmp_path: Path) -> None:
    """Qwen3.5's dense models are hybrids with an FFN in every layer."""
    hybrid = CONFIGS["qwen3_next_80b_a3b"] | {
        "model_type": "qwen3_5_text",
        "num_hidden_layers": 8,
        "layer_types": ["linear_attention"] * 6 + ["full_attention"] * 2,
    }
    found = model(tmp_path, {"model_type": "qwen3_5", "text_config": hybrid})
    assert (found.is_moe, found.linear_layers, found.growing_layers) == (False, 6, 2)
    assert found.dense_intermediate == 6144


@pytest.mark.parametrize(
    ("dtype", "width"), [(None, 2), ("bfloat16", 2), ("float32", 4)], ids=["none", "bf16", "fp32"]
)
def test_states_are_kept_in_their_dtype(dtype: str | None, width: int, tmp_path: Path) -> None:
    """``mamba_ssm_dtype`` says how wide a linear layer's state is; its convolution's tail stays."""
    found = model(tmp_path, CONFIGS["qwen3_next_80b_a3b"] | {"mamba_ssm_dtype": dtype})
    tail = (2 * 16 + 32) * 128 * 3 * 2
    assert found.linear_state_bytes() == 36 * (32 * 128 * 128 * width + tail)


def test_other_inputs_are_said_to_be_left_out(tmp_path: Path) -> None:
    """A vision tower's weights are not the language model's, and a note says so."""
    config = {"model_type": "qwen3_vl", "vision_config": {"depth": 27}, "text_config": LLAMA}
    (note,) = read_checkpoint(written(tmp_path / "c", config)).notes
    assert note.startswith("vision_config: only the language model is read")


@pytest.mark.parametrize("key", ["text_config", "llm_config", "language_config"])
def test_language_model_of_a_multimodal_file(key: str, tmp_path: Path) -> None:
    """The language model is read wherever the file keeps it."""
    found = model(tmp_path, {"model_type": "anything_chat", "vision_config": {}, key: LLAMA})
    assert found.stored_params == model(tmp_path, LLAMA).stored_params


def test_language_model_two_levels_down(tmp_path: Path) -> None:
    """Speech models nest their language model twice."""
    config = {"model_type": "omni", "thinker_config": {"model_type": "t", "text_config": LLAMA}}
    assert model(tmp_path, config).layers == 32


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            QWEN2 | {"use_sliding_window": True, "layer_types": ["mamba"] * 12},
            "layer_types must be made of .*sliding_attention.* not 'mamba', but got",
        ),
        (
            CONFIGS["minimax_m2"] | {"attn_type_list": [1] * 61 + [0]},
            "attn_type_list must be 1, softmax attention, in all layers: 0 needs lightning",
        ),
        (SPARSE | {"indexer_types": ["shared"] * 10}, "indexer_types must be full for at least"),
        (SPARSE | {"index_topk_pattern": "FFX"}, "index_topk_pattern must be a list of 10 layers"),
        (QWEN_MOE | {"mlp_only_layers": [48]}, "mlp_only_layers must be a list of layers below 48"),
        (QWEN_MOE | {"mlp_only_layers": ["a"]}, "mlp_only_layers must be a list of layers below"),
        (
            CONFIGS["qwen3_next_80b_a3b"] | {"mamba_ssm_dtype": "int8"},
            "mamba_ssm_dtype must be one of float32, bfloat16",
        ),
        (SPARSE | {"index_topk_freq": 0}, "index_topk_freq must be a whole number >= 1"),
        (DEEPSEEK | {"moe_layer_freq": [1, 0]}, "moe_layer_freq must be a list of 61 layers"),
        (
            CONFIGS["gpt_oss_20b"] | {"experts_per_token": 3},
            "experts_per_token must be that of num_experts_per_tok, .* 4 but got 3",
        ),
        (
            DEEPSEEK | {"layer_types": ["sliding_attention"] * 61},
            "layer_types must be free of windows",
        ),
    ],
)
def test_what_is_not_modelled_is_refused(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """A layer of a kind that is not modelled is refused by the key and value that ask for it."""
    with pytest.raises(ConfigError, match=words):
        model(tmp_path, config)


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        ("nemotron_h", "hybrid_override_pattern"),
        ("deepseek_v4", "compress_ratios"),
        ("kimi_linear", "linear_attn_config"),
        ("minimax_m3", "sparse_attention_config"),
        ("nemotron-nas", "block_configs"),
    ],
)
def test_known_type_says_what_it_needs(kind: str, needs: str, tmp_path: Path) -> None:
    """A model that cannot be modelled yet is refused with what it would need."""
    with pytest.raises(ConfigError, match=f"{kind} needs .*{needs}.* but got '{kind}'"):
        model(tmp_path, LLAMA | {"model_type": kind})


def test_unknown_keys_are_counted(tmp_path: Path) -> None:
    """Keys that nothing reads and that may matter are named; those known to be harmless are not."""
    config = LLAMA | {"rope_theta": 1e6, "new_trick": 3, "other_trick": [1], "off": False}
    (note,) = read_checkpoint(written(tmp_path / "c", config)).notes
    assert note.startswith("2 keys are not known to this reader and left aside: new_trick, other")
    assert read_checkpoint(written(tmp_path / "c", LLAMA | {"rope_theta": 1e6})).notes == ()


# --- models whose layers differ in their heads ----------------------------------------------

GEMMA4: dict[str, Any] = {
    "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text",
        "attention_k_eq_v": True,
        "enable_moe_block": True,
        "global_head_dim": 64,
        "head_dim": 32,
        "hidden_size": 256,
        "hidden_size_per_layer_input": 0,
        "intermediate_size": 512,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
        "max_position_embeddings": 8192,
        "moe_intermediate_size": 96,
        "num_attention_heads": 8,
        "num_experts": 16,
        "num_global_key_value_heads": 2,
        "num_hidden_layers": 12,
        "num_key_value_heads": 4,
        "sliding_window": 128,
        "top_k_experts": 2,
        "vocab_size": 1000,
    },
}
MIMO: dict[str, Any] = {
    "model_type": "mimo_v2_flash",
    "head_dim": 48,
    "hidden_size": 256,
    "hybrid_layer_pattern": [0, 1, 1, 0, 1, 1],
    "intermediate_size": 512,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 64,
    "moe_layer_freq": [0, 1, 1, 1, 1, 1],
    "n_routed_experts": 8,
    "num_attention_heads": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "sliding_window": 128,
    "swa_head_dim": 48,
    "swa_num_attention_heads": 8,
    "swa_num_key_value_heads": 4,
    "swa_v_head_dim": 32,
    "v_head_dim": 32,
    "vocab_size": 1000,
}
STEP: dict[str, Any] = {
    "model_type": "step3p7",
    "text_config": {
        "model_type": "step3p5",
        "attention_other_setting": {"num_attention_heads": 12, "num_attention_groups": 4},
        "head_dim": 32,
        "hidden_size": 256,
        "intermediate_size": 512,
        "layer_types": ["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"],
        "max_position_embeddings": 8192,
        "moe_intermediate_size": 64,
        "moe_layers_enum": "1,2,3",
        "moe_num_experts": 8,
        "moe_top_k": 2,
        "num_attention_groups": 2,
        "num_attention_heads": 8,
        "num_hidden_layers": 4,
        "num_nextn_predict_layers": 1,
        "share_expert_dim": 80,
        "sliding_window": 128,
        "vocab_size": 1000,
    },
}


def test_gemma_4_by_hand(tmp_path: Path) -> None:
    """Wide tied heads see all, narrow ones windows; an FFN stands beside the experts."""
    found = model(tmp_path, GEMMA4)
    full = 256 * (8 * 64 + 8 * 64 + 2 * 64)  # q, output, key; values are the keys
    windowed = 256 * (8 * 32 + 8 * 32 + 2 * 4 * 32)
    ffn = 12 * 3 * 256 * (512 + 16 * 96) + 12 * 256 * 16
    assert found.total_params == 2 * full + 10 * windowed + ffn + 1000 * 256
    assert found.kv_bytes_per_token(2.0) == 2.0 * (2 * 2 * 2 * 64 + 10 * 4 * 2 * 32)
    held = 2.0 * (500 * 2 * 2 * 2 * 64 + 128 * 10 * 4 * 2 * 32)
    assert found.kv_bytes(500, 2.0) == held


def test_mimo_v2_flash_by_hand(tmp_path: Path) -> None:
    """Keys of 48 and values of 32 elements; windowed layers have twice the KV heads."""
    found = model(tmp_path, MIMO)
    query = 256 * 8 * (48 + 32)
    attention = 2 * (query + 256 * 2 * 80) + 4 * (query + 256 * 4 * 80)
    ffn = 3 * 256 * 512 + 5 * (8 * 3 * 256 * 64 + 256 * 8)
    assert found.total_params == attention + ffn + 2 * 1000 * 256
    assert found.kv_bytes_per_token(1.0) == 2 * 2 * 80 + 4 * 4 * 80
    assert (found.window_layers, found.growing_layers) == (4, 2)


def test_step_3_by_hand(tmp_path: Path) -> None:
    """Windowed layers have more heads; listed layers have experts and one shared."""
    found = model(tmp_path, STEP)
    attention = 256 * 32 * ((2 * 8 + 2 * 2) + 3 * (2 * 12 + 2 * 4))
    ffn = 3 * 256 * 512 + 3 * (8 * 3 * 256 * 64 + 3 * 256 * 80 + 256 * 8)
    assert found.total_params == attention + ffn + 2 * 1000 * 256
    assert (found.mtp_layers, found.window_layers) == (1, 3)


@pytest.mark.parametrize("config", [GEMMA4, MIMO, STEP], ids=["gemma4", "mimo", "step3"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_layers_that_differ_are_spread(config: dict[str, Any], tp: int, tmp_path: Path) -> None:
    """GPUs together hold every parameter once, and KV heads as often as they are replicated."""
    found, gpu = model(tmp_path, config), shipped("hardware", "h100_sxm")
    plan = plan_memory(found, Layout(tp=tp, ep=tp), Precision(), gpu)
    held = tp * plan.weights_bytes_per_gpu
    whole = plan_memory(found, Layout(), Precision(), gpu).weights_bytes_per_gpu
    kv_heads = found.heads_of(windowed=False).kv_heads
    assert held >= whole
    if tp <= kv_heads:
        routers = (tp - 1) * found.moe_layers * found.router_params * 2.0
        assert held == pytest.approx(whole + routers)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            GEMMA4["text_config"] | {"hidden_size_per_layer_input": 256},
            "hidden_size_per_layer_input must be 0",
        ),
        (GEMMA4["text_config"] | {"num_kv_shared_layers": 4}, "num_kv_shared_layers must be 0"),
        (MIMO | {"swa_v_head_dim": 16}, "swa_v_head_dim must be v_head_dim, 32, but got 16"),
        (MIMO | {"hybrid_layer_pattern": [2] * 6}, "hybrid_layer_pattern must be made of 0, 1"),
        (MIMO | {"swa_num_key_value_heads": 3}, "window_kv_heads 3 must divide the 8 heads"),
        (STEP["text_config"] | {"moe_layers_enum": "1,x"}, "moe_layers_enum must be layers"),
    ],
)
def test_what_these_models_may_not_ask_for(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Shared KV, embeddings per layer and values that differ are refused by name."""
    with pytest.raises(ConfigError, match=words):
        model(tmp_path, config)


def test_experts_beside_an_ffn_are_quantised_apart(tmp_path: Path) -> None:
    """Gemma 4's ``mlp`` is not its experts, though their names begin alike elsewhere."""
    quantised = {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "ignore": ["*.self_attn*", "*.mlp*", "lm_head"],
    }
    found = read_checkpoint(written(tmp_path / "c", GEMMA4 | {"quantization_config": quantised}))
    assert found.precision == Precision(
        weights="nvfp4", activations="nvfp4", attention="bf16", shared_experts="bf16"
    )


@pytest.mark.parametrize("config", [GEMMA4, MIMO, STEP], ids=["gemma4", "mimo", "step3"])
def test_layers_that_differ_are_simulated(config: dict[str, Any], tmp_path: Path) -> None:
    """A model whose layers differ in their heads runs, step by step, like any other."""
    path = written(tmp_path / "c", config)
    experiment = compose(
        [
            *(f"model.config_json={path}", "workload.requests=5", "workload=constant"),
            *("pools.prefill.layout.tp=2", "pools.decode.layout.tp=2"),
            *("workload.input_lengths.tokens=500", "workload.output_lengths.tokens=20"),
        ]
    )
    assert simulate(experiment).summary["requests"]["completed"] == 5


# --- anything ------------------------------------------------------------------------------

SEEDS: list[dict[str, Any]] = [*CONFIGS.values(), SPARSE, GEMMA4, MIMO, STEP]


@st.composite
def mutations(draw: st.DrawFn) -> Any:
    """Draw a configuration with one to four things about it changed, at any depth."""
    node: Any = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        node = mutated(node, draw)
    return node


@given(config=mutations())
def test_any_change_gives_a_model_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, config: Any
) -> None:
    """Whatever is changed of any type, the outcome is a model or a sentence naming the file."""
    path = written(tmp_path_factory.getbasetemp() / "any", config)
    try:
        outcome = f"{path} {read_checkpoint(path).model.stored_params}"
    except ConfigError as error:
        outcome = str(error)
    assert str(path) in outcome
    assert "\n" not in outcome
