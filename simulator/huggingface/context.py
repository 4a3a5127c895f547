"""The longest context a configuration allows: trained positions, and what stretches them."""

from collections.abc import Iterator

from simulator.huggingface.source import Config

STRETCHING = ("linear", "dynamic", "yarn", "deepseek_yarn", "ntk", "mrope_yarn")
"""Rotary embeddings whose ``factor`` multiplies the positions they were trained on."""
TRAINED = ("default", "mrope", "llama3", "longrope", "su", "proportional", "none")
"""Rotary embeddings whose ``max_position_embeddings`` already is the longest context."""


def max_context(config: Config, default: int | None = None) -> int:
    """Return the tokens of the longest sequence, prompt and answer, a configuration allows.

    YaRN stretches ``original_max_position_embeddings`` (``max_position_embeddings`` where it is
    missing) by its factor, linear and dynamic scaling ``max_position_embeddings``; with Llama-3's
    and LongRoPE's, files give the stretched length themselves. So do engines derive
    ``max_model_len`` (vLLM, ``vllm/config/model.py``; SGLang, ``hf_transformers_utils.py``).

    Raises:
        ConfigError: a rotary embedding of an unknown kind, or one without a factor.

    """
    given = config.count("max_position_embeddings", default)
    return max((_stretched(config, rope, given) for rope in _ropes(config)), default=given)


def _ropes(config: Config) -> Iterator[Config]:
    """Yield the rotary scalings of a file, under both their names, per kind of layer or not."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.inner(key)
        if rope is None:
            continue
        nested = [name for name, value in rope.keys.items() if isinstance(value, dict)]
        if not nested:
            yield rope
        for name in nested:
            if (inner := rope.inner(name)) is not None:
                yield inner


def _stretched(config: Config, rope: Config, given: int) -> int:
    kind = rope.text("rope_type") or rope.text("type") or "default"
    if kind in TRAINED:
        return given
    if kind not in STRETCHING:
        key = "rope_type" if "rope_type" in rope else "type"
        raise rope.fail(key, f"one of {', '.join(sorted((*STRETCHING, *TRAINED)))}")
    # Tencent's dynamic scaling stretches by a base, alpha, and gives the stretched length.
    if kind == "dynamic" and "alpha" in rope and "factor" not in rope:
        return given
    trained = given
    if "yarn" in kind:
        trained = rope.count("original_max_position_embeddings", given)
    stretched = round(trained * rope.number("factor"))
    if "yarn" in kind and stretched < given:
        config.note(
            f"max_position_embeddings {given} exceeds what its YaRN reaches, {stretched} tokens: "
            "the context is what YaRN reaches"
        )
    return stretched
