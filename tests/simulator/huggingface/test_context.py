"""The longest context: trained positions, and what each kind of scaling makes of them."""

from pathlib import Path
from typing import Any

import pytest

from simulator.errors import ConfigError
from simulator.huggingface import read_checkpoint
from tests.simulator.huggingface.published import CONFIGS, LLAMA, written

SHORT: dict[str, Any] = LLAMA | {"max_position_embeddings": 10_000}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 8_000,
}


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("name", ["rope_type", "type"])
@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (YARN, 32_000),
        ({"rope_type": "yarn", "factor": 2}, 20_000),
        ({"rope_type": "linear", "factor": 3.0}, 30_000),
        ({"rope_type": "dynamic", "factor": 2.5}, 25_000),
        ({"rope_type": "dynamic", "alpha": 1000.0}, 10_000),
        ({"rope_type": "llama3", "factor": 8.0}, 10_000),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}, 10_000),
        ({"rope_type": "default", "mrope_section": [1, 2]}, 10_000),
        ({}, 10_000),
    ],
)
def test_scaling_stretches(
    key: str, name: str, scaling: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    """Both spellings of the scaling and of its kind give the same context."""
    rope = {name if k == "rope_type" else k: v for k, v in scaling.items()}
    found = read_checkpoint(written(tmp_path / "c", SHORT | {key: rope}))
    assert found.model.max_context == expected


def test_scaling_per_kind_of_layer(tmp_path: Path) -> None:
    """Where each kind of layer has its own rotary embedding, the longest counts."""
    rope = {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}
    config = CONFIGS["gemma_3_27b"]["text_config"] | {
        "model_type": "gemma3_text",
        "max_position_embeddings": 10_000,
        "rope_parameters": rope,
    }
    assert read_checkpoint(written(tmp_path / "c", config)).model.max_context == 32_000


def test_yarn_below_the_given_positions_is_said(tmp_path: Path) -> None:
    """YaRN that reaches less than ``max_position_embeddings`` decides, and a note says so."""
    rope = YARN | {"original_max_position_embeddings": 1_000}
    found = read_checkpoint(written(tmp_path / "c", SHORT | {"rope_scaling": rope}))
    assert found.model.max_context == 4_000
    assert "YaRN" in found.notes[0]


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_type": "spiral"}, "rope_scaling.rope_type must be one of .*yarn.* got 'spiral'"),
        ({"type": "spiral"}, "rope_scaling.type must be one of"),
        ({"rope_type": "yarn"}, "rope_scaling.factor must be a number above 0 but the key is"),
        (YARN | {"factor": -4}, "rope_scaling.factor must be a number above 0 but got -4"),
        (YARN | {"factor": float("nan")}, "rope_scaling.factor must be a number above 0"),
        (YARN | {"factor": 1e17}, "max_context must be at most"),
        (YARN | {"original_max_position_embeddings": "8k"}, "original_max_position_embeddings"),
        ("yarn", "rope_scaling must be an object but got 'yarn'"),
        ({"rope_type": 3}, "rope_scaling.rope_type must be text but got 3"),
    ],
)
def test_unreadable_scaling_is_refused(rope: object, words: str, tmp_path: Path) -> None:
    """A scaling that is unknown, or without its factor, is refused by name."""
    with pytest.raises(ConfigError, match=words):
        read_checkpoint(written(tmp_path / "c", SHORT | {"rope_scaling": rope}))
