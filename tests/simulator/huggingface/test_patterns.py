"""Names, globs and expressions mean the modules they say, and never take long."""

import re
import time

import pytest

from simulator.huggingface.patterns import Names, translated


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("lm_head", "lm_head", True),
        ("gate", "layers.3.mlp.gate", True),
        ("gate", "layers.3.mlp.gate_proj", False),
        ("model.layers.1", "layers.1.mlp.up_proj", True),
        ("model.layers.1", "layers.11.mlp.up_proj", False),
        ("model.layers.*.self_attn", "layers.4.self_attn.q_proj", True),
        ("model.layers.0*", "layers.0.mlp.up_proj", True),
        ("model.layers.0*", "layers.10.mlp.up_proj", False),
        ("*.mlp.shared_expert.*", "layers.7.mlp.shared_expert.up_proj", True),
        ("*.mlp.shared_expert.*", "layers.7.mlp.shared_expert_gate", False),
        ("model.language_model.layers.2.linear_attn*", "layers.2.linear_attn.out_proj", True),
        ("language_model.model.layers.9.self_attn*", "layers.9.self_attn.o_proj", True),
        ("re:.*self_attn.*", "layers.0.self_attn.k_proj", True),
        (r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", "layers.0.mlp.gate_up_proj", True),
        (r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", "layers.0.mlp.experts.0.up_proj", False),
        (r"re:model\.layers\.\d+\.mlp.*", "layers.42.mlp.up_proj", True),
        (r"re:^.*\.layers\.[0-9]+\.mlp\.up_proj$", "layers.42.mlp.up_proj", True),
        (r"re:.*\.up_pro$", "layers.42.mlp.up_proj", False),
        ("re:layers", "layers.1.mlp.up_proj", True),
        ("re:ayers", "layers.1.mlp.up_proj", False),
    ],
)  # fmt: skip
def test_pattern_means(pattern: str, name: str, meant: bool) -> None:
    """A list's entry means a module, or does not, however it is written."""
    assert (name in Names.of([pattern])) == meant


@pytest.mark.parametrize(
    "pattern",
    ["re:(a+)+$", "re:(?=x)", "re:a{9}", r"re:(.*)\1", "re:((a))", "re:[", "re:(", "a" * 2000],
)
def test_expression_that_could_run_long_is_not_read(pattern: str) -> None:
    """Nesting, repetition and references are not taken from a file."""
    assert translated(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "re:" + ".*o" * 300 + "Z",
        "*o" * 400 + "Z",
        "re:" + r"\d+" * 300 + "Z",
        "re:" + ".+" * 400 + "Z",
    ],
)
def test_matching_takes_no_longer_than_the_name_is_long(pattern: str) -> None:
    """Expressions that would backtrack for ages are done at once."""
    expression = re.compile(str(translated(pattern)))
    started = time.process_time()
    assert not expression.match("layers.0." + "o1" * 60)
    assert time.process_time() - started < 0.5
