"""What ``quantization_config`` stores a checkpoint in, by every method that writes one."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.huggingface import Checkpoint, read_checkpoint
from simulator.layout import Precision
from tests.simulator.huggingface.published import (
    CONFIGS,
    DEEPSEEK,
    LLAMA,
    QWEN_MOE,
    mutated,
    written,
)

DENSE: dict[str, Any] = LLAMA | {"num_hidden_layers": 3}
EXPERTS: dict[str, Any] = DEEPSEEK | {"num_hidden_layers": 5, "first_k_dense_replace": 2}
HYBRID: dict[str, Any] = CONFIGS["qwen3_next_80b_a3b"] | {"num_hidden_layers": 8}


def read(folder: Path, config: dict[str, Any], quantised: object) -> Checkpoint:
    """Read a configuration quantised in a certain way."""
    return read_checkpoint(written(folder / "c", config | {"quantization_config": quantised}))


def group(weights: dict[str, Any], inputs: dict[str, Any] | None, *targets: str) -> dict[str, Any]:
    """Make one group of compressed-tensors."""
    return {"weights": weights, "input_activations": inputs, "targets": list(targets or ["Linear"])}


def compressed(*groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make a configuration of compressed-tensors."""
    named = {f"group_{at}": each for at, each in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "config_groups": named, **more}


FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
NVFP4 = {"num_bits": 4, "type": "float", "group_size": 16}
BLOCKED = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


@pytest.mark.parametrize(
    ("quantised", "expected"),
    [
        (BLOCKED, Precision(weights="fp8_block", activations="fp8")),
        ({"quant_method": "fp8"}, Precision(weights="fp8", activations="fp8")),
        (
            {"quant_method": "fp8", "weight_block_size": [1, 32]},
            Precision(weights="mxfp8", activations="fp8"),
        ),
        ({"quant_method": "fbgemm_fp8"}, Precision(weights="fp8", activations="fp8")),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True},
            Precision(weights="int4", group_size=64),
        ),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": False},
            Precision(weights="int8"),
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True},
            Precision(weights="int4", group_size=128, lm_head="int4"),
        ),
        (
            {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [["mlp.up_proj"],
             ["mlp.gate_proj", "mlp.down_proj"]]},
            Precision(weights="int4", attention="bf16"),
        ),
        (
            {"quant_method": "gptq", "bits": 4, "dynamic": {r"-:.*self_attn.*": {}}},
            Precision(weights="int4", attention="bf16"),
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            Precision(weights="int4", group_size=32),
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True,
             "llm_int8_skip_modules": ["mlp"]},
            Precision(weights="bf16", attention="int8"),
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"},
            Precision(weights="nvfp4", activations="nvfp4", kv="fp8"),
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 64},
            Precision(weights="int4", group_size=64),
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["*self_attn*"]},
            Precision(weights="fp8", activations="fp8", attention="bf16"),
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {
                    f"model.layers.{at}.{name}": {"quant_algo": algorithm}
                    for at in range(3)
                    for name, algorithm in [
                        ("self_attn.q_proj", "FP8"),
                        ("self_attn.k_proj", "FP8"),
                        ("self_attn.v_proj", "FP8"),
                        ("self_attn.o_proj", "FP8"),
                        ("mlp.gate_proj", "W4A16_NVFP4"),
                        ("mlp.up_proj", "W4A16_NVFP4"),
                        ("mlp.down_proj", "W4A16_NVFP4"),
                    ]
                },
            },
            Precision(weights="nvfp4", attention="fp8", attention_activations="fp8"),
        ),
        (
            compressed(group(FP8, FP8), ignore=["lm_head"], kv_cache_scheme=FP8),
            Precision(weights="fp8", activations="fp8", kv="fp8"),
        ),
        (
            compressed(group(FP8 | {"strategy": "block", "block_structure": [128, 128]}, FP8)),
            Precision(weights="fp8_block", activations="fp8"),
        ),
        (
            compressed(group(INT4, None), ignore=["lm_head", "re:.*self_attn.*"]),
            Precision(weights="int4", attention="bf16", group_size=32),
        ),
        (
            compressed(group(NVFP4, NVFP4), format="nvfp4-pack-quantized", ignore=["lm_head"]),
            Precision(weights="nvfp4", activations="nvfp4"),
        ),
        (
            compressed(group(NVFP4 | {"group_size": 32}, None)),
            Precision(weights="mxfp4"),
        ),
        (
            compressed(
                group(INT4, None, "re:.*mlp.*"),
                group({"num_bits": 8, "type": "int", "strategy": "channel"},
                      {"num_bits": 8, "type": "int"}, r"re:.*self_attn\.[qkvo]_proj$"),
            ),
            Precision(weights="int4", attention="int8", attention_activations="int8",
                      group_size=32),
        ),
        (
            {
                "quant_method": "quark",
                "exclude": ["lm_head"],
                "global_quant_config": {
                    "weight": {"dtype": "fp8_e4m3"},
                    "input_tensors": {"dtype": "fp8_e4m3"},
                },
            },
            Precision(weights="fp8", activations="fp8"),
        ),
        ({"quant_method": "modelopt", "quant_algo": None}, Precision()),
        ({}, Precision()),
        (None, Precision()),
    ],
)  # fmt: skip
def test_dense_checkpoint(quantised: object, expected: Precision, tmp_path: Path) -> None:
    """Every method's dtypes, groups and left-out modules become the precision of each part."""
    assert read(tmp_path, DENSE, quantised).precision == expected


@pytest.mark.parametrize(
    ("quantised", "expected"),
    [
        (BLOCKED, Precision(weights="fp8_block", activations="fp8")),
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
            Precision(weights="mxfp4", attention="bf16", dense_ffn="bf16", shared_experts="bf16"),
        ),
        (
            compressed(
                group(INT4, None),
                ignore=[
                    "lm_head",
                    "re:.*self_attn.*",
                    "re:.*shared_experts.*",
                    r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
                ],
            ),
            Precision(
                weights="int4",
                attention="bf16",
                dense_ffn="bf16",
                shared_experts="bf16",
                group_size=32,
            ),
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "NVFP4",
                "kv_cache_scheme": FP8,
                "ignore": [
                    "lm_head",
                    "model.layers.0*",
                    "model.layers.1.*",
                    *(f"model.layers.{at}.self_attn*" for at in range(2, 5)),
                    "mtp*",
                ],
            },
            Precision(
                weights="nvfp4",
                activations="nvfp4",
                kv="fp8",
                attention="bf16",
                dense_ffn="bf16",
            ),
        ),
    ],
)
def test_mixture_of_experts(quantised: object, expected: Precision, tmp_path: Path) -> None:
    """Experts, shared experts, dense layers and attention each have their own dtype."""
    assert read(tmp_path, EXPERTS, quantised).precision == expected


def test_linear_attention_has_its_own_dtype(tmp_path: Path) -> None:
    """A hybrid's linear layers may be stored otherwise than its softmax attention."""
    quantised = {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "ignore": ["*.linear_attn*", "lm_head", "*.mlp.shared_expert.*"],
    }
    assert read(tmp_path, HYBRID, quantised).precision == Precision(
        weights="nvfp4", activations="nvfp4", linear_attention="bf16", shared_experts="bf16"
    )


def test_precision_inside_text_config_and_beside_it(tmp_path: Path) -> None:
    """A multimodal file may quantise outside its language model's part or inside it."""
    outer = {"model_type": "qwen3_vl", "text_config": DENSE | {"model_type": "qwen3_vl_text"}}
    inner = {
        "model_type": "qwen3_vl",
        "text_config": DENSE | {"model_type": "qwen3_vl_text", "quantization_config": BLOCKED},
    }
    for config in (outer | {"quantization_config": BLOCKED}, inner):
        found = read_checkpoint(written(tmp_path / "c", config)).precision
        assert found.weights == "fp8_block"


def test_modelopt_file_beside_the_configuration(tmp_path: Path) -> None:
    """``hf_quant_config.json`` counts where the configuration itself says nothing."""
    path = written(tmp_path / "c", DENSE)
    beside = {"producer": {}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (path.parent / "hf_quant_config.json").write_text(json.dumps(beside), encoding="utf-8")
    found = read_checkpoint(path)
    assert found.precision == Precision(weights="fp8", activations="fp8", kv="fp8")
    assert any("hf_quant_config.json" in note for note in found.notes)
    path.write_text(json.dumps(DENSE | {"quantization_config": BLOCKED}), encoding="utf-8")
    assert read_checkpoint(path).precision.weights == "fp8_block"


def test_part_stored_in_two_ways_is_said(tmp_path: Path) -> None:
    """Where a list leaves out part of a part, most of it decides, and a note gives the share."""
    quantised = BLOCKED | {"modules_to_not_convert": ["model.layers.2.mlp.down_proj"]}
    found = read(tmp_path, DENSE, quantised)
    assert found.precision.weights == "fp8_block"
    assert any("11% of the dense ffn parameters" in note for note in found.notes)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float16", Precision(weights="fp16", activations="fp16", kv="fp16")),
        ("torch.bfloat16", Precision()),
        ("float32", Precision()),
    ],
)
@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_unquantised_dtype(key: str, dtype: str, expected: Precision, tmp_path: Path) -> None:
    """Both spellings of the dtype are read; 32 bits are served as 16, and a note says so."""
    found = read_checkpoint(written(tmp_path / "c", DENSE | {key: dtype}))
    assert found.precision == expected
    assert bool(found.notes) == (dtype == "float32")


@pytest.mark.parametrize(
    ("quantised", "words"),
    [
        ({"quant_method": "aqlm"}, "quant_method must be one of .*awq.* but got 'aqlm'"),
        ({"bits": 4}, "quant_method must be one of .* but the key is missing"),
        ("fp8", "quantization_config must be an object but got 'fp8'"),
        ({"quant_method": "gptq", "bits": 3}, "bits must be 4 or 8"),
        ({"quant_method": "awq"}, "bits must be|w_bit must be"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "weight_block_size must be"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size must be a list"),
        ({"quant_method": "fp8", "activation_scheme": "none"}, "activation_scheme must be"),
        ({"quant_method": "modelopt", "quant_algo": "FP3"}, "quant_algo must be one of"),
        ({"quant_method": "modelopt"}, "quant_algo must be one of"),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 8},
            "group_size must be 16 with NVFP4 but got 8",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP2"},
            "kv_cache_quant_algo must be one of",
        ),
        (BLOCKED | {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert must be a list"),
        (BLOCKED | {"modules_to_not_convert": [3]}, "modules_to_not_convert must be a list of"),
        (BLOCKED | {"modules_to_not_convert": ["re:(a+)+$"]}, "modules_to_not_convert must be"),
        ({"quant_method": "compressed-tensors"}, "config_groups must be a mapping of groups"),
        (compressed(group({"num_bits": 2}, None)), "num_bits must be 4 or 8"),
        (compressed(group(FP8, {"num_bits": 6})), "num_bits must be"),
        (
            compressed(group(FP8, FP8), sparsity_config={"format": "sparse-24-bitmask"}),
            "sparsity_config.format must be dense",
        ),
        (
            compressed(group(FP8, FP8), kv_cache_scheme={"num_bits": 3, "type": "int"}),
            "kv_cache_scheme.num_bits must be",
        ),
        (
            {"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*mlp.*": {"bits": 8}}},
            "dynamic must be",
        ),
        ({"quant_method": "bitsandbytes"}, "load_in_4bit must be true"),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp6"}}},
            "dtype must be one of",
        ),
    ],
)
def test_unreadable_quantisation_is_refused(quantised: object, words: str, tmp_path: Path) -> None:
    """What is not known is refused in one sentence that names file, key and value."""
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path, DENSE, quantised)
    assert "config.json: quantization_config" in str(caught.value)
    assert "\n" not in str(caught.value)


WHOLE: list[dict[str, Any]] = [
    BLOCKED | {"modules_to_not_convert": ["lm_head"]},
    compressed(group(INT4, FP8), ignore=["re:.*attn.*"], kv_cache_scheme=FP8),
    {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "ignore": []},
    {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {}}},
    {"quant_method": "gptq", "bits": 4, "group_size": 64, "dynamic": {}},
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "mxfp4", "modules_to_not_convert": []},
]


@st.composite
def mutations(draw: st.DrawFn) -> Any:
    """Draw a quantisation with one to three things about it changed."""
    node: Any = draw(st.sampled_from(WHOLE))
    for _ in range(draw(st.integers(1, 3))):
        node = mutated(node, draw)
    return node


@given(quantised=mutations(), config=st.sampled_from([DENSE, EXPERTS, HYBRID, QWEN_MOE]))
def test_any_change_gives_a_precision_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, quantised: Any, config: dict[str, Any]
) -> None:
    """Whatever is changed, the outcome is a checkpoint or a sentence that names the file."""
    folder = tmp_path_factory.getbasetemp() / "quantised"
    path = written(folder, config | {"quantization_config": quantised})
    try:
        outcome = f"{path} {read_checkpoint(path).precision}"
    except ConfigError as error:
        outcome = str(error)
    assert str(path) in outcome
    assert "\n" not in outcome
