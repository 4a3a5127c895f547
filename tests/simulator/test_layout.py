"""Layouts: what divides a model, and what memory it leaves for KV."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.gpu import GPU
from simulator.errors import CapacityError, ConfigError, LayoutError
from simulator.layout import (
    DTYPE_BYTES,
    TENSOR_DTYPE,
    Layout,
    Memory,
    MemoryBudget,
    Precision,
    plan_memory,
    weights_bytes,
)
from simulator.model import Model
from tests.shipped import shipped

ROOT = Path(__file__).parents[2]
MODELS = sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml"))
BF16 = Precision()
FP8 = Precision(weights="fp8_block", activations="fp8_block", kv="fp8")


def model(name: str) -> Model:
    """Build a shipped model."""
    found: Model = shipped("model", name)
    return found


def gpu(name: str = "h100_sxm", **changes: Any) -> GPU:
    """Build a shipped GPU, with changes."""
    found: GPU = replace(shipped("hardware", name), **changes)
    return found


def endless() -> GPU:
    """Make a GPU every model fits, to look at weights alone."""
    return gpu(memory_bytes=1e14)


def plan(name: str, layout: Layout, precision: Precision = BF16, **budget: Any) -> Memory:
    """Plan a shipped model on endless memory."""
    return plan_memory(model(name), layout, precision, endless(), MemoryBudget(**budget))


def layouts(found: Model) -> list[Layout]:
    """Return the layouts of up to 32 GPUs that divide a model, of each kind."""
    sizes = (1, 2, 4, 8)
    candidates = [Layout(tp=tp, pp=pp) for tp in sizes for pp in (1, 3, 4)]
    candidates += [Layout(tp=tp, ep=tp) for tp in sizes]
    candidates += [Layout(attention_dp=dp, ep=dp) for dp in sizes]
    candidates += [Layout(tp=2, attention_dp=dp, ep=dp, pp=2) for dp in sizes]
    return [each for each in candidates if valid(found, each)]


def valid(found: Model, layout: Layout) -> bool:
    """Say whether a layout divides a model."""
    try:
        layout.validate(found)
    except LayoutError:
        return False
    return True


# --- laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_one_gpu_holds_every_parameter_once(name: str) -> None:
    """Unsharded 16-bit weights are 2 bytes for each parameter stored."""
    found = model(name)
    assert weights_bytes(found, BF16) == pytest.approx(2.0 * found.stored_params, rel=1e-12)
    assert plan(name, Layout()).weights_bytes_per_gpu == pytest.approx(2.0 * found.stored_params)


@pytest.mark.parametrize("name", MODELS)
def test_gpus_together_hold_at_least_the_model(name: str) -> None:
    """Sharding never loses a weight: GPUs × the fullest one's bytes are at least one copy."""
    found = model(name)
    copy = weights_bytes(found, BF16)
    for layout in layouts(found):
        held = plan(name, layout).weights_bytes_per_gpu * layout.gpus
        assert held >= copy * (1 - 1e-12), layout


@pytest.mark.parametrize("name", ["llama_3_1_70b", "qwen3_32b", "llama_3_1_405b", "bloom_176b"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_doubling_tp_halves_a_dense_shard(name: str, tp: int) -> None:
    """While there are KV heads to split, twice the tp is half the weights and half the KV."""
    one, two = plan(name, Layout(tp=tp)), plan(name, Layout(tp=2 * tp))
    assert two.weights_bytes_per_gpu == pytest.approx(one.weights_bytes_per_gpu / 2)
    per_token = [m.kv_bytes_per_gpu / (m.kv_blocks * m.block_size) for m in (one, two)]
    assert per_token[1] == pytest.approx(per_token[0] / 2)
    assert two.kv_shards == 2 * one.kv_shards


@pytest.mark.parametrize("name", MODELS)
def test_kv_transfer_does_not_depend_on_the_layout(name: str) -> None:
    """A token's KV weighs the same however it is sharded: replicas are sent once."""
    found = model(name)
    expected = found.kv_bytes_per_token(2.0) + found.index_bytes_per_token
    assert {plan(name, layout).kv_bytes_per_token for layout in layouts(found)} == {expected}


@given(layers=st.integers(1, 200), pp=st.integers(1, 16))
def test_stages_cover_the_layers_evenly(layers: int, pp: int) -> None:
    """Every layer is in one stage, in order, and stages differ by one layer at most."""
    stages = Layout(pp=pp).stage_layers(layers)
    assert [layer for stage in stages for layer in stage] == list(range(layers))
    sizes = [len(stage) for stage in stages]
    assert len(stages) == pp
    assert max(sizes) - min(sizes) <= 1
    assert sizes[-1] == min(sizes)


@given(
    low=st.floats(2e10, 1e12),
    more=st.floats(1.0, 3.0),
    utilization=st.floats(0.5, 1.0),
)
def test_more_memory_never_means_fewer_blocks(low: float, more: float, utilization: float) -> None:
    """KV blocks rise with memory, and what is held never exceeds what may be used."""
    found = LLAMA_8B
    budget = MemoryBudget(memory_utilization=utilization)
    blocks = []
    for size in (low, low * more):
        try:
            memory = plan_memory(found, Layout(), BF16, replace(H100, memory_bytes=size), budget)
        except CapacityError:
            blocks.append(0)
            continue
        held = memory.weights_bytes_per_gpu + memory.reserve_bytes_per_gpu + memory.kv_bytes_per_gpu
        assert held <= size * utilization * (1 + 1e-12)
        blocks.append(memory.kv_blocks)
    assert blocks[0] <= blocks[1]


LLAMA_8B = model("llama_3_1_8b")
H100 = gpu()


@pytest.mark.parametrize("block_size", [1, 16, 64, 256])
def test_block_size_changes_blocks_not_tokens(block_size: int) -> None:
    """Larger blocks hold the same tokens, less at most one block's worth."""
    fine = plan_memory(LLAMA_8B, Layout(), BF16, H100, MemoryBudget(block_size=1)).kv_blocks
    blocks = plan_memory(LLAMA_8B, Layout(), BF16, H100, MemoryBudget(block_size=block_size))
    assert fine - block_size < blocks.kv_blocks * block_size <= fine


def test_smaller_steps_leave_more_for_kv() -> None:
    """A decode worker reserves activations for its sequences only, a prefill one for the budget."""
    roles = {
        role: plan_memory(LLAMA_8B, Layout(), BF16, H100, MemoryBudget(role=role)).kv_blocks
        for role in ("prefill", "mixed", "decode")
    }
    assert roles["prefill"] == roles["mixed"] < roles["decode"]


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    """At tp 8 over 4 KV heads, each is on 2 GPUs: KV per GPU stays, distinct shards are 4."""
    four = plan("qwen3_30b_a3b", Layout(tp=4, ep=4))
    eight = plan("qwen3_30b_a3b", Layout(tp=8, ep=8))
    assert (four.kv_shards, eight.kv_shards) == (4, 4)
    tokens = [m.kv_blocks * m.block_size for m in (four, eight)]
    assert four.kv_bytes_per_gpu / tokens[0] == pytest.approx(eight.kv_bytes_per_gpu / tokens[1])


def test_mla_latent_is_replicated_over_tp_and_split_over_stages() -> None:
    """Every tp rank holds the whole latent, so one request's KV has one shard per stage."""
    wide, deep = Layout(tp=8, ep=8), Layout(tp=8, ep=8, pp=2)
    assert plan("deepseek_r1", wide, FP8).kv_shards == 1
    assert plan("deepseek_r1", deep, FP8).kv_shards == 2


def test_attention_dp_multiplies_kv() -> None:
    """DEP 8 has eight caches where TEP 8 has one cache, eight times over."""
    found, card = model("deepseek_r1"), gpu("h200_sxm")
    tep = plan_memory(found, Layout(tp=8, ep=8), FP8, card)
    dep = plan_memory(found, Layout(attention_dp=8, ep=8), FP8, card, MemoryBudget(role="decode"))
    assert dep.kv_blocks > 3 * tep.kv_blocks


def test_chunked_pipeline_needs_no_memory() -> None:
    """Chunks in flight change time, not bytes."""
    plain, chunked = Layout(tp=2, pp=4), Layout(tp=2, pp=4, chunked_pipeline=True)
    assert plan("llama_3_1_70b", plain) == plan("llama_3_1_70b", chunked)


def test_linear_state_is_reserved_per_sequence() -> None:
    """A hybrid model sets aside its linear layers' state for every sequence it may run."""
    few = plan("qwen3_next_80b_a3b", Layout(tp=2), max_num_seqs=1, role="prefill")
    many = plan("qwen3_next_80b_a3b", Layout(tp=2), max_num_seqs=101, role="prefill")
    found = model("qwen3_next_80b_a3b")
    state, logits = 100 * found.linear_state_bytes() / 2, 100 * found.vocab * 4
    assert many.reserve_bytes_per_gpu - few.reserve_bytes_per_gpu == pytest.approx(state + logits)


# --- what fits ------------------------------------------------------------------------------


def test_llama_70b_fits_four_h100_not_one() -> None:
    """In bf16, 35 GB a GPU at tp 4 leave room for hundreds of thousands of tokens."""
    found = model("llama_3_1_70b")
    memory = plan_memory(found, Layout(tp=4), BF16, H100)
    assert memory.weights_bytes_per_gpu == pytest.approx(35.3e9, rel=0.01)
    assert memory.kv_blocks * memory.block_size > 300_000
    with pytest.raises(CapacityError) as caught:
        plan_memory(found, Layout(), BF16, H100)
    text = str(caught.value)
    assert "a GPU needs 141.1 GB for weights" in text
    assert "memory_utilization 0.9 of 85.5 GB leaves 77.0 GB" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("llama_3_1_70b", Layout()),
        ("llama_3_1_405b", Layout(tp=4)),
        ("deepseek_r1", Layout(tp=4, ep=4)),
        ("deepseek_r1", Layout(attention_dp=4, ep=4)),
        ("qwen3_235b_a22b", Layout(tp=2)),
    ],
    ids=str,
)
def test_advice_is_good(name: str, layout: Layout) -> None:
    """The layout a refusal suggests does fit."""
    with pytest.raises(CapacityError) as caught:
        plan_memory(model(name), layout, BF16, H100)
    advised = str(caught.value).rsplit("; ", 1)[1].removesuffix(" would fit")
    named = (item.split("=") for item in advised.split())
    degrees: dict[str, Any] = {key: int(value) for key, value in named}
    assert plan_memory(model(name), Layout(**degrees), BF16, H100).kv_blocks > 0


def test_hopeless_model_gets_no_layout() -> None:
    """Where nothing fits, the advice is a narrower dtype."""
    with pytest.raises(CapacityError, match="no wider layout fits: use a narrower dtype"):
        plan_memory(model("kimi_k2"), Layout(tp=64, ep=64), BF16, gpu(memory_bytes=1e9))


@pytest.mark.parametrize("weights", sorted(DTYPE_BYTES))
def test_narrow_weights_are_smaller_but_embeddings_stay(weights: str) -> None:
    """Weights shrink with their dtype, embedding and head stay in 16 bits at least."""
    found, size = model("llama_3_1_8b"), DTYPE_BYTES[weights]
    table = 2 * found.embedding_params
    body = (found.stored_params - table) * size
    held = weights_bytes(found, Precision(weights=weights))
    assert held == pytest.approx(body + table * max(2.0, size))


def test_llama_in_nvfp4_as_published() -> None:
    """The head and the embedding alone stay in bf16: 42,709,045,632 bytes on the hub."""
    held = weights_bytes(model("llama_3_1_70b"), Precision(weights="nvfp4"))
    assert held == pytest.approx(42_709_045_632, rel=1e-3)


def test_gpt_oss_in_its_published_dtypes() -> None:
    """gpt-oss-120b in MXFP4 with bf16 attention is the 65 GB it is published as."""
    precision = Precision(weights="mxfp4", attention="bf16")
    assert weights_bytes(model("gpt_oss_120b"), precision) == pytest.approx(65.2e9, rel=0.02)


def test_ranks_hold_whole_experts() -> None:
    """288 slots of 72 ranks weigh as 4 experts each; shared experts are a part on each GPU."""
    found = model("deepseek_r1")
    one = found.expert_params * found.moe_layers * FP8.weight_bytes
    dep = {ep: plan("deepseek_r1", Layout(attention_dp=ep, ep=ep), FP8) for ep in (32, 36, 64, 72)}
    weights = {ep: memory.weights_bytes_per_gpu for ep, memory in dep.items()}
    assert weights[32] == weights[36]  # 8 a rank: 256 fill 32 ranks, and leave 32 slots of 36
    assert weights[64] == weights[72]
    assert weights[32] - weights[64] == pytest.approx(4 * one)
    shared = plan("deepseek_r1", Layout(attention_dp=64, ep=32), FP8).weights_bytes_per_gpu
    assert shared == pytest.approx(weights[64])


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp": 0}, "tp must be a whole number ≥ 1 but got 0"),
        ({"pp": 1.5}, "pp must be a whole number ≥ 1 but got 1.5"),
        ({"attention_dp": True}, "attention_dp must be a whole number ≥ 1 but got True"),
        ({"tp": 4, "ep": 3}, r"ep 3 must divide tp \* attention_dp = 4 \* 1 = 4"),
        ({"ep": 8}, r"ep 8 must divide tp \* attention_dp = 1 \* 1 = 1"),
    ],
)
def test_impossible_layout_is_refused(changes: dict[str, Any], words: str) -> None:
    """Degrees are whole numbers, and ep divides the GPUs of a stage."""
    with pytest.raises(LayoutError, match=words):
        Layout(**changes)


@pytest.mark.parametrize(
    ("name", "layout", "words"),
    [
        ("llama_3_1_70b", Layout(tp=3), "tp 3 must divide the 64 heads of Llama-3.1-70B"),
        ("qwen3_next_80b_a3b", Layout(tp=32), "tp 32 must divide the 16 heads"),
        ("llama_4_scout", Layout(tp=5), "tp 5 must divide the 8 kv_heads of Llama-4-Scout"),
        ("llama_3_1_8b", Layout(pp=33), "pp 33 must be at most the 32 layers of Llama-3.1-8B"),
        ("llama_3_1_8b", Layout(tp=2, ep=2), "ep 2 needs a mixture of experts"),
        ("mixtral_8x7b", Layout(tp=16, ep=16), "ep 16 must be at most the 8 experts"),
        (
            "qwen3_30b_a3b",
            Layout(tp=32, attention_dp=32),
            "tp . attention_dp / ep = 1024 must divide the 768 moe_intermediate",
        ),
    ],
)
def test_layout_that_does_not_divide_is_refused(name: str, layout: Layout, words: str) -> None:
    """What does not divide is named with both numbers, before any memory is counted."""
    with pytest.raises(LayoutError, match=words):
        layout.validate(model(name))
    with pytest.raises(LayoutError, match=words):
        plan_memory(model(name), layout, BF16, H100)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Precision(weights="fp7"), "precision: weights must be one of .*fp8.* got 'fp7'"),
        (lambda: Precision(activations="int4"), "activations must be one of .* but got 'int4'"),
        (lambda: Precision(kv="mxfp4"), "precision: kv must be one of .* but got 'mxfp4'"),
        (lambda: Precision(attention="x"), "precision: attention must be one of .* but got 'x'"),
        (lambda: Precision(activations="fp8"), "activations fp8 cannot be narrower .* bf16"),
        (lambda: MemoryBudget(block_size=0), "block_size must be a whole number ≥ 1 but got 0"),
        (lambda: MemoryBudget(memory_utilization=1.1), r"lie in \(0, 1\] but got 1.1"),
        (lambda: MemoryBudget(role="both"), "role must be one of prefill, decode, mixed"),
    ],
)
def test_impossible_precision_or_budget_is_refused(make: Any, words: str) -> None:
    """Unknown dtypes and budgets out of range are refused with the known ones."""
    with pytest.raises(ConfigError, match=words):
        make()


def test_activation_dtypes_have_a_tensor_peak() -> None:
    """What activations may be computed in is what a GPU can give a peak for."""
    for dtype, tensor in TENSOR_DTYPE.items():
        assert Precision(weights=dtype, activations=dtype).tensor_dtype == tensor
        assert gpu(peak_flops={tensor: 1.0}).peak(tensor) == 1.0


def test_given_blocks_stand_in_for_computed_ones() -> None:
    """Where an engine's block count is known, it is used, even where none would be left here."""
    tight = MemoryBudget(kv_blocks=1234)
    layout = Layout(tp=1)
    with pytest.raises(CapacityError):
        plan_memory(model("llama_3_1_70b"), layout, BF16, gpu("h100_sxm"))
    planned = plan_memory(model("llama_3_1_70b"), layout, BF16, gpu("h100_sxm"), tight)
    assert planned.kv_blocks == 1234
    with pytest.raises(ConfigError, match="kv_blocks must be at least 1 but got 0"):
        MemoryBudget(kv_blocks=0)
