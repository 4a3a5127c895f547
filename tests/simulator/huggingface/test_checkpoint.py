"""Configurations that are read as the shipped models, or refused in a sentence."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.huggingface import read_config_json
from simulator.huggingface.source import MAX_BYTES
from simulator.model import Model
from tests.shipped import shipped
from tests.simulator.huggingface.published import CONFIGS, DEEPSEEK, LLAMA, QWEN_MOE, written

DOCUMENTATION = ("name", "source", "notes")


@pytest.mark.parametrize("name", CONFIGS)
def test_config_json_gives_the_shipped_model(name: str, tmp_path: Path) -> None:
    """The published configuration of a model reads as the shipped one, parameters and all."""
    found = read_config_json(written(tmp_path / name, CONFIGS[name]))
    expected = shipped("model", name)
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
    found = read_config_json(written(tmp_path, config))
    assert (found.window, found.growing_layers, found.window_layers) == (4096, 0, 32)


def test_sparse_step_and_listed_layers_are_dense(tmp_path: Path) -> None:
    """Qwen's layers off the sparse step, and those listed, have a dense FFN."""
    config = QWEN_MOE | {"mlp_only_layers": [0, 1]}
    found = read_config_json(written(tmp_path, config))
    assert (found.ffn_dense_layers, found.dense_intermediate) == (2, 6144)
    config = QWEN_MOE | {"decoder_sparse_step": 2}
    found = read_config_json(written(tmp_path, config))
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
        (LLAMA | {"num_hidden_layers": 10**40}, "num_hidden_layers must be at most 10000 but got"),
        (
            CONFIGS["gpt_oss_20b"] | {"num_hidden_layers": 10**9},
            "num_hidden_layers must be at most 10000 but got 1000000000",
        ),
        (LLAMA | {"num_attention_heads": 0}, "num_attention_heads must be .* but got 0"),
        (LLAMA | {"num_attention_heads": 33}, "head_dim must be given where 33 heads"),
        (LLAMA | {"num_key_value_heads": 7}, "kv_heads 7 must divide heads 32"),
        (LLAMA | {"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false"),
        (LLAMA | {"model_type": "gpt9"}, "model_type must be one of .*llama.* but got 'gpt9'"),
        (LLAMA | {"model_type": ["llama"]}, "model_type must be one of"),
        ({}, "model_type must be one of .* but the key is missing"),
        ({"model_type": "llama"}, "num_hidden_layers must be .* but the key is missing"),
        ({"text_config": 3}, "text_config must be an object but got 3"),
        (DEEPSEEK | {"num_experts_per_tok": 999}, "top_k must lie in 1…256 experts but got 999"),
        (DEEPSEEK | {"moe_layer_freq": 0}, "moe_layer_freq must be a whole number >= 1 but got 0"),
        (DEEPSEEK | {"kv_lora_rank": None}, "kv_lora_rank must be .* but got None"),
        (
            CONFIGS["gpt_oss_20b"] | {"layer_types": ["full_attention"]},
            "layer_types must be a list of 24 layers",
        ),
        (
            CONFIGS["qwen3_next_80b_a3b"] | {"linear_value_head_dim": 64},
            "linear_value_head_dim must be linear_key_head_dim, 128, but got 64",
        ),
        ([], "expected a JSON object but got a list"),
        ("llama", "expected a JSON object but got a str"),
    ],
)
def test_nonsense_config_is_refused(config: object, words: str, tmp_path: Path) -> None:
    """A configuration that cannot be is refused in one sentence with file, key and value."""
    path = written(tmp_path, config)
    with pytest.raises(ConfigError, match=words) as caught:
        read_config_json(path)
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
        read_config_json(path)


def test_absent_file_directory_and_giant_are_refused(tmp_path: Path) -> None:
    """What is no readable file of sane size is named as such."""
    with pytest.raises(ConfigError, match="there is none"):
        read_config_json(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="it is a directory"):
        read_config_json(tmp_path)
    giant = tmp_path / "giant.json"
    giant.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match=f"at most {MAX_BYTES} bytes"):
        read_config_json(giant)


ODD: list[Any] = [None, True, -3, 0, 1, 2, 8, 300, 0.5, 1e300, "", "8", [], [None], {}]


@given(changes=st.dictionaries(st.sampled_from(sorted(DEEPSEEK)), st.sampled_from(ODD), max_size=4))
def test_any_change_gives_a_model_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    """Whatever a key is changed to, the outcome is a model or a ConfigError naming the file."""
    path = written(tmp_path_factory.getbasetemp() / "changed", DEEPSEEK | changes)
    try:
        outcome = f"{path} {read_config_json(path).total_params}"
    except ConfigError as error:
        outcome = str(error)
    assert str(path) in outcome
