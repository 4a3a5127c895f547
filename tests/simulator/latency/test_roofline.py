"""The roofline obeys physics, and the event engine's view of it is exact."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.gpu import GPU
from simulator.errors import ConfigError
from simulator.latency.base import WorkerSpec
from simulator.latency.operators import forward_pass
from simulator.latency.passes import Load
from simulator.latency.pieces import at
from simulator.latency.roofline import Roofline
from simulator.latency.stepping import RooflineSteps
from simulator.layout import Layout, Precision

SLACK = 1 + 1e-12  # rounding of sums in different orders
LAWS = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
BATCHES = st.integers(1, 600)
TOKENS = st.integers(1, 40_000)
CONTEXTS = st.integers(1, 300_000)


@pytest.fixture(scope="module")
def bound(workers: dict[str, WorkerSpec]) -> dict[str, RooflineSteps]:
    """Every worker's step model, bound once."""
    return {name: Roofline().bind(worker) for name, worker in workers.items()}


@pytest.fixture(
    params=["dense", "dep", "linear", "pipelined", "single", "sparse", "tep", "wide", "windowed"]
)
def steps(request: pytest.FixtureRequest, bound: dict[str, RooflineSteps]) -> RooflineSteps:
    """One bound worker of every kind in turn."""
    return bound[request.param]


def prefill(steps: RooflineSteps, tokens: int, past: int = 0) -> float:
    """Seconds of one chunk of ``tokens`` after ``past``."""
    return steps.step_seconds(tokens, _pairs(tokens, past), past, 1, 0, 0)


def _pairs(tokens: int, past: int) -> int:
    return tokens * past + tokens * (tokens + 1) // 2


@LAWS
@given(batch=BATCHES, context=CONTEXTS)
def test_a_decode_step_is_its_piece_to_the_bit(
    steps: RooflineSteps, batch: int, context: int
) -> None:
    """step_seconds without tokens equals the pieces, as scalar and as array evaluation."""
    total = batch * context
    pieces = steps.decode_pieces(batch)
    piece = next(p for p in pieces if total <= p.upto)
    contexts = np.arange(total, total + 9, dtype=np.float64)
    array = piece.c0 + contexts * (piece.c1 + contexts * piece.c2)
    assert steps.step_seconds(0, 0, 0, 0, batch, total) == at(pieces, total) == array[0]


@LAWS
@given(batch=BATCHES)
def test_pieces_join_and_rise(steps: RooflineSteps, batch: int) -> None:
    """Pieces are few, end at infinity, meet where they join and never fall with context."""
    pieces = steps.decode_pieces(batch)
    assert len(pieces) <= 8
    assert pieces[-1].upto == math.inf
    assert all(piece.c1 >= 0 and piece.c2 == 0 for piece in pieces)
    for left, right in pairwise(pieces):
        x = left.upto
        assert left.upto < right.upto
        assert left.c0 + x * left.c1 == pytest.approx(right.c0 + x * right.c1, rel=1e-12)


@LAWS
@given(batch=st.integers(1, 300), more=st.integers(1, 300), context=st.integers(1, 50_000))
def test_decode_is_monotone_in_batch(
    steps: RooflineSteps, batch: int, more: int, context: int
) -> None:
    """More sequences of the same length never take less."""
    fewer = steps.step_seconds(0, 0, 0, 0, batch, batch * context)
    larger = steps.step_seconds(0, 0, 0, 0, batch + more, (batch + more) * context)
    assert larger * SLACK >= fewer


@LAWS
@given(tokens=TOKENS, more=TOKENS, past=st.integers(0, 100_000))
def test_prefill_is_monotone_in_tokens_and_past(
    steps: RooflineSteps, tokens: int, more: int, past: int
) -> None:
    """A longer chunk, or one after more earlier tokens, never takes less."""
    seconds = prefill(steps, tokens, past)
    assert prefill(steps, tokens + more, past) * SLACK >= seconds
    assert prefill(steps, tokens, past + more) * SLACK >= seconds


@LAWS
@given(tokens=TOKENS, past=st.integers(0, 50_000), batch=BATCHES, context=st.integers(1, 20_000))
def test_a_mixed_step_lies_between_its_larger_part_and_the_sum(
    steps: RooflineSteps, tokens: int, past: int, batch: int, context: int
) -> None:
    """Sharing a step never costs less than its larger part nor more than two steps."""
    total = batch * context
    chunk = prefill(steps, tokens, past)
    decode = steps.step_seconds(0, 0, 0, 0, batch, total)
    mixed = steps.step_seconds(tokens, _pairs(tokens, past), past, 1, batch, total)
    assert max(chunk, decode) <= mixed * SLACK
    assert mixed <= (chunk + decode) * SLACK


@pytest.fixture(scope="module")
def loads() -> Load:
    """Draw a few hundred design points: prefill, decode and mixed passes."""
    rng = np.random.default_rng(7)
    tokens = rng.integers(1, 20_000, 300) * rng.integers(0, 2, 300).astype(float)
    batch = rng.integers(1, 512, 300).astype(float)
    past = np.where(tokens > 0, rng.integers(0, 30_000, 300), 0.0)
    return Load(
        tokens=tokens,
        pairs=tokens * past + tokens * (tokens + 1) / 2,
        past=past,
        prompts=np.sign(tokens),
        batch=batch,
        context=batch * rng.integers(1, 30_000, 300),
    )


def test_never_faster_than_the_pure_roofline(worker: WorkerSpec, loads: Load) -> None:
    """Every operator takes at least its FLOPs at peak, its bytes at full bandwidth."""
    model = Roofline()
    machine = model.machine(worker.gpu, worker.fabric)
    for op in forward_pass(model.pass_spec(worker), loads):
        ideal, seconds = machine.ideal_seconds(op), machine.seconds(op)
        assert np.all(np.asarray(ideal) >= 0), op.name
        assert np.all(np.asarray(seconds) * SLACK >= ideal), op.name


@pytest.mark.parametrize("part", ["peak", "memory", "scale_up", "nic"])
def test_better_hardware_is_never_slower(worker: WorkerSpec, loads: Load, part: str) -> None:
    """More FLOP/s, memory bandwidth or link bandwidth never makes any pass slower."""
    gpu = worker.gpu
    better: dict[str, Any] = {
        "peak": {"peak_flops": {k: 1.7 * v for k, v in gpu.peak_flops.items()}},
        "memory": {"memory_bandwidth": 1.7 * gpu.memory_bandwidth},
        "scale_up": {"scale_up": replace(gpu.scale_up, bandwidth=1.7 * gpu.scale_up.bandwidth)},
        "nic": {"nic": replace(gpu.nic, bandwidth=1.7 * gpu.nic.bandwidth)},
    }
    improved = replace(worker, gpu=replace(gpu, **better[part]))
    before = np.asarray(Roofline().pass_seconds(worker, loads))
    assert np.all(np.asarray(Roofline().pass_seconds(improved, loads)) <= before * SLACK)


def test_both_engines_use_the_same_times(workers: dict[str, WorkerSpec], loads: Load) -> None:
    """The bound scalar path agrees with the vectorised pass on every load."""
    for name in ("dense", "tep", "sparse", "windowed", "linear", "wide"):
        steps = Roofline(host_overhead_s=1e-3).bind(workers[name])
        vector = np.asarray(Roofline(host_overhead_s=1e-3).pass_seconds(workers[name], loads))
        scalar = [
            steps.step_seconds(*(int(x) for x in row)) for row in np.column_stack(list(loads)[:6])
        ]
        assert np.allclose(scalar, vector, rtol=1e-10, atol=0.0), name


def test_attention_ranks_share_the_batch(workers: dict[str, WorkerSpec]) -> None:
    """16 attention-DP ranks take as long over 16 × 32 sequences as one rank over its 32."""
    steps = Roofline().bind(workers["dep"])
    rank = Roofline().pass_seconds(
        workers["dep"], Load(batch=np.array([32.0]), context=32 * 4000.0)
    )
    assert steps.step_seconds(0, 0, 0, 0, 512, 512 * 4000) == pytest.approx(
        float(np.asarray(rank)[0]), rel=1e-12
    )
    assert steps.step_seconds(0, 0, 0, 0, 500, 500 * 4000) == pytest.approx(
        float(np.asarray(rank)[0]), rel=1e-12
    )


def test_a_lone_prompt_lies_on_one_attention_rank(workers: dict[str, WorkerSpec]) -> None:
    """16 ranks share 16 prompts of 1k; as one prompt of 16k tokens' work they would not.

    One prompt leaves 15 ranks idle but for their experts: it takes longer than the same tokens
    spread over 16 prompts, and no longer than a rank that did it all would with its own experts.
    """
    steps = Roofline().bind(workers["dep"])
    spread = steps.step_seconds(16 * 1024, 16 * 1024 * 1025 // 2, 0, 16, 0, 0)
    same_work = steps.step_seconds(16 * 1024, 16 * 1024 * 1025 // 2, 0, 1, 0, 0)
    alone = Roofline().pass_seconds(
        workers["dep"],
        Load(tokens=np.array([16384.0]), pairs=16 * 1024 * 1025 / 2, prompts=1.0),
    )
    assert spread < same_work < float(np.asarray(alone)[0])
    halfway = steps.step_seconds(16 * 1024, 16 * 1024 * 1025 // 2, 0, 4, 0, 0)
    assert spread < halfway < same_work


def test_one_prompt_more_than_ranks_doubles_the_busiest(workers: dict[str, WorkerSpec]) -> None:
    """A rank with two prompts sets the pace of all, though the experts see only the mean."""
    steps, ranks = Roofline().bind(workers["dep"]), workers["dep"].layout.attention_dp
    even, one_more, twice = (
        steps.step_seconds(1000 * n, 500_500 * n, 0, n, 0, 0) for n in (ranks, ranks + 1, 2 * ranks)
    )
    assert 1.2 * even < one_more < twice


def test_pipeline_stages(workers: dict[str, WorkerSpec]) -> None:
    """A prefill worker passes whole steps, pp at a time; a decode worker pp microbatches."""
    worker = workers["pipelined"]
    prefiller = Roofline().bind(replace(worker, role="prefill"))
    decoder = Roofline().bind(worker)
    assert (prefiller.stages, decoder.stages) == (2, 1)
    one = Roofline().pass_seconds(worker, Load(batch=np.array([8.0]), context=8 * 900.0))
    assert decoder.step_seconds(0, 0, 0, 0, 16, 16 * 900) == pytest.approx(
        float(np.asarray(one)[0]), rel=1e-12
    )
    whole = Roofline().pass_seconds(
        worker, Load(tokens=np.array([4096.0]), pairs=4096 * 4097 / 2, prompts=1.0)
    )
    assert prefill(prefiller, 4096) == pytest.approx(float(np.asarray(whole)[0]), rel=1e-12)


def test_tensor_parallelism_saturates(workers: dict[str, WorkerSpec]) -> None:
    """Twice the GPUs help a decode step, but by less than twice, and less each time."""
    worker = workers["dense"]
    seconds = [
        Roofline().bind(replace(worker, layout=Layout(tp=tp))).step_seconds(0, 0, 0, 0, 32, 64_000)
        for tp in (1, 2, 4, 8)
    ]
    gains = [left / right for left, right in pairwise(seconds)]
    assert all(1.0 < gain < 2.0 for gain in gains)
    assert gains == sorted(gains, reverse=True)


def test_upprojected_cache_spares_later_chunks(workers: dict[str, WorkerSpec]) -> None:
    """MLA redoes the up-projection of earlier chunks unless they are cached; GQA does not care."""
    redo, cached = Roofline(), Roofline(cache_upprojected_kv=True)
    mla, gqa = workers["tep"], workers["dense"]
    assert prefill(redo.bind(mla), 512, 60_000) > prefill(cached.bind(mla), 512, 60_000)
    assert prefill(redo.bind(mla), 512) == pytest.approx(prefill(cached.bind(mla), 512), rel=1e-12)
    assert prefill(redo.bind(gqa), 512, 60_000) == prefill(cached.bind(gqa), 512, 60_000)


def test_windows_and_top_k_bound_the_context(workers: dict[str, WorkerSpec]) -> None:
    """Beyond its window a window layer costs no more; sparse attention grows slower than dense."""
    worker = workers["windowed"]
    short = replace(worker, model=replace(worker.model, full_attention_layers=0))
    steps = Roofline().bind(short)
    window = worker.model.window or 0
    assert steps.step_seconds(0, 0, 0, 0, 4, 4 * window) == pytest.approx(
        steps.step_seconds(0, 0, 0, 0, 4, 400 * window), rel=1e-12
    )
    sparse = workers["sparse"]
    dense = replace(
        sparse, model=replace(sparse.model, index_top_k=0, index_heads=0, index_head_dim=0)
    )
    slopes = [Roofline().bind(w).decode_pieces(8)[-1].c1 for w in (sparse, dense)]
    assert 0 < slopes[0] < slopes[1]


@pytest.mark.parametrize(
    ("gpu", "precision", "words"),
    [
        ("a100_80gb_sxm", Precision(weights="fp8", activations="fp8"), ("A100", "fp8", "bf16")),
        ("h100_sxm", Precision(weights="nvfp4", activations="nvfp4"), ("H100", "nvfp4", "fp8")),
    ],
)
def test_a_dtype_the_gpu_lacks_is_refused(
    workers: dict[str, WorkerSpec],
    spec_from: Any,
    gpu: str,
    precision: Precision,
    words: tuple[str, ...],
) -> None:
    """The error names the GPU, the dtype and what would work."""
    worker = replace(workers["dense"], gpu=spec_from("hardware", gpu, GPU), precision=precision)
    with pytest.raises(ConfigError) as error:
        Roofline().bind(worker)
    assert all(word in str(error.value) for word in words)


def test_narrow_weights_may_be_computed_wider(
    workers: dict[str, WorkerSpec], spec_from: Any
) -> None:
    """4-bit weights with 16-bit activations run on an A100 and read fewer bytes."""
    worker = replace(workers["dense"], gpu=spec_from("hardware", "a100_80gb_sxm", GPU))
    seconds = [
        Roofline()
        .bind(replace(worker, precision=Precision(weights=w)))
        .step_seconds(0, 0, 0, 0, 1, 100)
        for w in ("int4", "bf16")
    ]
    assert seconds[0] < seconds[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host_overhead_s", -1e-3),
        ("host_overhead_s", math.nan),
        ("moe_skew", 0.5),
        ("expert_exchange", "magic"),
        ("engine", "mine"),
    ],
)
def test_bad_options_are_named(field: str, value: object) -> None:
    """A setting out of range is refused with its name and value."""
    options: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match=field) as error:
        Roofline(**options)
    assert repr(value) in str(error.value)


def test_options_only_ever_add(workers: dict[str, WorkerSpec]) -> None:
    """Host overhead adds to every step, and skew to one that reads every expert anyway."""
    worker = workers["tep"]
    plain, loaded = Roofline(moe_skew=1.0), Roofline(moe_skew=2.0)
    added = Roofline(moe_skew=1.0, host_overhead_s=2e-3).bind(worker)
    prompt, decodes = (2048, 2048 * 2049 // 2, 0, 1, 0, 0), (0, 0, 0, 0, 64, 64_000)
    assert loaded.bind(worker).step_seconds(*prompt) > plain.bind(worker).step_seconds(*prompt)
    for args in (prompt, decodes):
        assert added.step_seconds(*args) >= plain.bind(worker).step_seconds(*args)
