"""Routed experts: which weights a step reads on the busiest rank, and in what it computes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.latency.base import WorkerSpec
from simulator.latency.operators import forward_pass
from simulator.latency.passes import (
    PEAK_OF,
    Load,
    Operator,
    PassSpec,
    highest_normal,
    popularity_of,
)
from simulator.latency.roofline import Roofline
from simulator.layout import DTYPE_BYTES, Layout, Precision


def experts(spec: PassSpec, rows: float) -> Operator:
    """Return the routed experts of a decode step of ``rows`` sequences per attention rank."""
    passed = forward_pass(spec, Load(batch=rows, context=rows * 100.0))
    return next(op for op in passed if op.kind == "experts")


def distinct_experts(spec: PassSpec, rows: float) -> float:
    """Return the distinct experts per layer that the busiest rank reads: its ramp in experts."""
    model = spec.model
    width = model.moe_intermediate / spec.layout.expert_tp
    each = 2.0 * 3 * model.hidden * width * model.moe_layers
    return float(experts(spec, rows).ramp) / each


@pytest.fixture
def spec(workers: dict[str, WorkerSpec]) -> PassSpec:
    """DeepSeek-V3 under tensor and expert parallelism over 8 GPUs."""
    return Roofline().step(workers["tep"]).spec


@pytest.mark.parametrize("ep", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 4, 16, 64])
def test_the_busiest_rank_reads_what_random_routing_hits(
    spec: PassSpec, ep: int, rows: int
) -> None:
    """The expected maximum over ranks of distinct experts, of any popularity, within 15 %.

    A rank of few tokens is the worst of the normal approximation: one token has 8 experts on 8
    ranks, of which the busiest has 2 or 3.
    """
    rng = np.random.default_rng(ep * 100 + rows)
    count, top_k = spec.model.experts, spec.model.top_k
    for skew in (1.0, spec.moe_skew):
        weights = popularity_of(skew)
        each = np.repeat(weights, count // len(weights))
        most = []
        for _ in range(200):
            chances, hit = rng.permutation(each), np.zeros(count, bool)
            for _ in range(rows):
                # The largest of weighted exponential draws are a choice without putting back.
                hit[np.argsort(rng.exponential(size=count) / chances)[:top_k]] = True
            most.append(hit.reshape(ep, -1).sum(axis=1).max())
        laid_out = replace(spec, layout=Layout(tp=8, ep=ep), moe_skew=skew)
        assert distinct_experts(laid_out, rows) == pytest.approx(np.mean(most), rel=0.15), skew


def test_the_stated_skew_is_the_load_of_the_busiest_of_32_ranks(spec: PassSpec) -> None:
    """Tokens of many batches, routed by popularity, load it by the skew; fewer ranks by less."""
    rng = np.random.default_rng(8)
    weights = np.repeat(popularity_of(1.49), spec.model.experts // len(popularity_of(1.49)))
    loads = {ep: [] for ep in (8, 32)}
    for _ in range(2000):
        for ep, found in loads.items():
            found.append(rng.permutation(weights).reshape(ep, -1).mean(axis=1).max())
    assert np.mean(loads[32]) == pytest.approx(1.49, rel=0.03)
    assert np.mean(loads[8]) < 1.3
    for ep, found in loads.items():
        wide = replace(spec, layout=Layout(tp=32, ep=ep), moe_skew=1.49, busiest_rank=False)
        even = replace(wide, moe_skew=1.0)
        ratio = experts(wide, 1e4).flops / experts(even, 1e4).flops
        assert ratio == pytest.approx(np.mean(found), rel=0.04)


def test_no_rank_reads_more_than_it_holds(spec: PassSpec) -> None:
    """Distinct experts rise with the batch to all that a rank holds and stay there."""
    read = [distinct_experts(spec, rows) for rows in range(1, 3000)]
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(read))
    assert read[-1] == pytest.approx(spec.model.experts / spec.layout.ep, rel=1e-9)


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_shared_experts_split_their_weights(spec: PassSpec, rows: int) -> None:
    """GPUs that share experts each have their part of every product, of as many experts."""
    few, many = (replace(spec, layout=Layout(tp=each, ep=4)) for each in (4, 8))
    assert (few.layout.expert_tp, many.layout.expert_tp) == (1, 2)
    whole, half = experts(few, rows), experts(many, rows)
    assert half.flops == pytest.approx(whole.flops / 2)
    assert half.ramp == pytest.approx(whole.ramp / 2)
    assert half.narrow == whole.narrow
    assert distinct_experts(few, rows) == pytest.approx(distinct_experts(many, rows))
    assert 0.5 < half.bytes / whole.bytes < 0.6  # every GPU reads its tokens whole


@pytest.mark.parametrize("rows", [1, 4, 32])
def test_copies_of_experts_fill_what_is_left_over(spec: PassSpec, rows: int) -> None:
    """72 ranks hold 4 slots each, 288 for 256 experts: what the busiest reads is drawn at random.

    A token's pick of an expert that has copies goes to any of them.
    """
    layout = Layout(attention_dp=72, ep=72)
    assert layout.expert_slots(spec.model) == 4
    rng = np.random.default_rng(rows)
    count, top_k = 288, spec.model.top_k
    most = []
    for _ in range(300):
        hit = np.zeros(count, bool)
        for _ in range(rows * 72):
            hit[rng.choice(count, top_k, replace=False)] = True
        most.append(hit.reshape(72, -1).sum(axis=1).max())
    laid_out = replace(spec, layout=layout)
    assert distinct_experts(laid_out, rows) == pytest.approx(np.mean(most), rel=0.1)


def test_tokens_go_to_shared_experts_by_plain_collectives(spec: PassSpec) -> None:
    """Dispatch kernels want whole experts: where GPUs share one, all ranks see all tokens."""
    kinds = {}
    for ep in (1, 2, 4, 8):
        laid_out = replace(spec, layout=Layout(attention_dp=8, ep=ep))
        passed = forward_pass(laid_out, Load(batch=8.0, context=800.0))
        kinds[ep] = {op.kind for op in passed if op.name.startswith("expert_")}
        assert laid_out.dispatches == (ep == 8)
    plain = {"all_gather", "reduce_scatter"}
    assert kinds == {1: plain, 2: plain, 4: plain, 8: {"all_to_all"}}


@pytest.mark.parametrize(
    ("engine", "rack", "ranks", "way"),
    [
        ("trtllm", True, 8, {"all_to_all"}),  # MNNVL
        ("trtllm", False, 8, {"all_gather", "reduce_scatter"}),
        ("trtllm", False, 16, {"all_to_all"}),  # DeepEP over two boxes
        ("vllm", True, 8, {"all_gather", "reduce_scatter"}),
        ("vllm", False, 16, {"all_gather", "reduce_scatter"}),
        ("sglang", False, 8, {"all_to_all"}),
        ("generic", False, 8, {"all_to_all"}),
    ],
)
def test_tokens_meet_experts_as_the_engine_has_it(
    workers: dict[str, WorkerSpec], engine: str, rack: bool, ranks: int, way: set[str]
) -> None:
    """TensorRT-LLM dispatches but for in one box; settings that say a way have theirs."""
    worker = workers["dep"]
    gpu = replace(worker.gpu, scale_up_multicast=rack)
    worker = replace(worker, gpu=gpu, layout=Layout(attention_dp=ranks, ep=ranks))
    for said, kinds in (
        (None, way),
        ("all_to_all", {"all_to_all"}),
        ("all_gather", {"all_gather", "reduce_scatter"}),
    ):
        spec = Roofline(engine=engine, expert_exchange=said).pass_spec(worker)
        passed = forward_pass(spec, Load(batch=8.0, context=800.0))
        assert {op.kind for op in passed if op.name.startswith("expert_")} == kinds


@pytest.mark.parametrize(
    ("activations", "bytes_each"),
    [("bf16", 2.0), ("fp8", 1.0), ("fp8_block", 2.0), ("nvfp4", None)],
)
def test_what_is_gathered_is_quantised_first(
    spec: PassSpec, activations: str, bytes_each: float | None
) -> None:
    """Tokens of one scale per tensor or block of 16 are gathered narrow, and reduced in 16 bits."""
    narrow = replace(
        spec,
        layout=Layout(attention_dp=8, ep=8),
        precision=Precision(weights=activations, activations=activations),
        expert_exchange="all_gather",
        gathers_quantized=True,
    )
    load = Load(batch=8.0, context=800.0)
    told = {op.name: op for op in forward_pass(narrow, load)}
    plain = {op.name: op for op in forward_pass(replace(narrow, gathers_quantized=False), load)}
    share = (DTYPE_BYTES[activations] if bytes_each is None else bytes_each) / 2.0
    gathered = told["expert_gather"].message / plain["expert_gather"].message
    assert gathered == pytest.approx(share)
    assert told["expert_scatter"].message == plain["expert_scatter"].message


def test_highest_normal_is_the_expected_maximum() -> None:
    """Known values of the expected maximum of standard normal draws."""
    known = {1: 0.0, 2: np.pi**-0.5, 3: 1.5 * np.pi**-0.5, 10: 1.53875}
    assert all(highest_normal(n) == pytest.approx(value, abs=1e-4) for n, value in known.items())


def test_unpacked_weights_are_read_narrow_and_computed_wide(
    workers: dict[str, WorkerSpec],
) -> None:
    """4-bit weights beside wider activations run at the wider peak on kernels of their own."""
    worker = workers["windowed"]
    for activations, named in (("bf16", "w4a16"), ("fp8", "w4a8")):
        narrow = Precision(weights="mxfp4", activations=activations, attention="bf16")
        wide = Precision(weights=activations, activations=activations, attention="bf16")
        ops = [
            experts(Roofline().step(replace(worker, precision=each)).spec, 64)
            for each in (narrow, wide)
        ]
        assert [op.dtype for op in ops] == [named, activations]
        assert ops[0].flops == ops[1].flops
        share = DTYPE_BYTES["mxfp4"] / DTYPE_BYTES[activations]
        assert share < ops[0].bytes / ops[1].bytes < 1.1 * share


def test_integer_activations_are_computed_as_integers(spec: PassSpec) -> None:
    """4-bit weights beside 8-bit integers run at the integer peak, not at that of FP8."""
    mixed = replace(spec, precision=Precision(weights="int4", activations="int8"))
    assert mixed.dtype == "w4a8_int"
    assert PEAK_OF[mixed.dtype] == "int8"


def test_every_token_that_comes_to_a_rank_is_moved(workers: dict[str, WorkerSpec]) -> None:
    """All tokens where they were gathered, and where they are sent no more than copies arrive."""
    spec = Roofline().step(workers["dep"]).spec
    ranks, hidden, layers = spec.layout.attention_dp, spec.model.hidden, spec.model.moe_layers
    for rows in (1.0, 16.0, 256.0):
        gathered = experts(replace(spec, expert_exchange="all_gather"), rows)
        sent = experts(replace(spec, expert_exchange="all_to_all"), rows)
        assert gathered.thin == pytest.approx(rows * ranks * hidden * layers)
        assert 0.0 < sent.thin <= gathered.thin
        weights = 2.0 * 3 * hidden * spec.model.moe_intermediate
        assert sent.thin <= float(sent.flops) / weights * hidden * (1 + 1e-9)


@pytest.mark.parametrize(("backend", "dtype"), [("cutlass", "nvfp4"), ("trtllm", "fp8_block")])
def test_a_backend_has_experts_of_its_own(
    workers: dict[str, WorkerSpec], backend: str, dtype: str
) -> None:
    """Only in the dtype it was measured apart in do experts take another time, and nothing else."""
    for weights in ("nvfp4", "fp8_block"):
        worker = replace(workers["tep"], precision=Precision(weights=weights, activations=weights))
        own = Roofline(engine="trtllm").step(worker)
        other = Roofline(engine="trtllm", moe_backend=backend).step(worker)
        for op in forward_pass(own.spec, Load(batch=64.0, context=6400.0)):
            same = other.machine.seconds(op) == own.machine.seconds(op)
            assert same == (op.kind != "experts" or weights != dtype), op.name


def test_an_unknown_backend_is_refused() -> None:
    """The sentence names those there are."""
    with pytest.raises(ConfigError, match="moe_backend must be one of cutlass, trtllm but got 'x'"):
        Roofline(moe_backend="x")
