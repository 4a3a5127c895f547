"""Engine profiles, speculation and two-batch overlap keep the laws, and do what they say."""

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
from simulator.latency.base import Busiest, StepModel, WorkerSpec
from simulator.latency.engine import Engine, known
from simulator.latency.engine import load as load_engine
from simulator.latency.operators import forward_pass, token_operators
from simulator.latency.passes import Load
from simulator.latency.pieces import at
from simulator.latency.roofline import Roofline
from simulator.latency.speculative import Speculative
from simulator.layout import Layout, Precision
from simulator.model import Model

SLACK = 1 + 1e-12
LAWS = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
MTP = Speculative(draft_tokens=3, acceptance=(0.9, 0.7, 0.4))
# name: worker, roofline
VARIANTS = {
    "eager": (
        "dep",
        Roofline(engine=Engine(name="e", graphs_prompts=False), two_batch_overlap=True),
    ),
    "vllm": ("dense", Roofline(engine="vllm")),
    "trtllm": ("single", Roofline(engine="trtllm")),
    "static": ("dense", Roofline(engine="trtllm")),
    "dynamic": ("dense", Roofline(engine=Engine(name="d", fp8_scales="dynamic"))),
    "sglang": ("dep", Roofline(engine="sglang")),
    "synchronous": ("windowed", Roofline(engine="vllm_0_6")),
    "pipelined": ("pipelined", Roofline(engine="vllm")),
    "mtp": ("dep", Roofline(speculative=MTP)),
    "mtp_sparse": ("sparse", Roofline(speculative=MTP)),
    "mtp_linear": ("linear", Roofline(engine="sglang", speculative=MTP)),
    "mtp_windowed": ("windowed", Roofline(speculative=MTP)),
    "overlap": ("dep", Roofline(two_batch_overlap=True)),
    "everything": ("dep", Roofline(engine="vllm", two_batch_overlap=True, speculative=MTP)),
    "slow": ("dense", Roofline(engine=Engine(name="mine", kernel_factor=1.5, step_s=1e-2))),
}


@pytest.fixture(scope="module")
def bound(workers: dict[str, WorkerSpec]) -> dict[str, StepModel]:
    """Every variant's step model, bound once."""
    return {name: model.bind(workers[worker]) for name, (worker, model) in VARIANTS.items()}


@pytest.fixture(params=sorted(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    """Return every variant's name in turn."""
    name: str = request.param
    return name


def chunk(steps: StepModel, tokens: int, past: int, batch: int = 0, context: int = 0) -> float:
    """Seconds of a step of one chunk beside ``batch`` decodes."""
    pairs = tokens * past + tokens * (tokens + 1) // 2
    return steps.step_seconds(tokens, pairs, past, 1, batch, context)


@LAWS
@given(batch=st.integers(1, 1500), context=st.integers(1, 300_000))
def test_pieces_are_exact_and_few(
    bound: dict[str, StepModel], variant: str, batch: int, context: int
) -> None:
    """A decode step is its piece to the bit; pieces join, never fall, and stay few."""
    steps, total = bound[variant], batch * context
    pieces = steps.decode_pieces(batch)
    assert steps.step_seconds(0, 0, 0, 0, batch, total) == at(pieces, total)
    assert len(pieces) <= 16
    assert pieces[-1].upto == math.inf
    assert all(piece.c1 >= 0 and piece.c2 == 0 for piece in pieces)
    for left, right in pairwise(pieces):
        x = left.upto
        assert x < right.upto
        assert left.c0 + x * left.c1 == pytest.approx(right.c0 + x * right.c1, rel=1e-11)


@LAWS
@given(batch=st.integers(1, 600), more=st.integers(1, 600), context=st.integers(1, 50_000))
def test_decode_is_monotone_in_batch(
    bound: dict[str, StepModel], variant: str, batch: int, more: int, context: int
) -> None:
    """More sequences of the same length never take less."""
    steps = bound[variant]
    fewer = steps.step_seconds(0, 0, 0, 0, batch, batch * context)
    larger = steps.step_seconds(0, 0, 0, 0, batch + more, (batch + more) * context)
    assert larger * SLACK >= fewer


@LAWS
@given(
    tokens=st.integers(1, 20_000),
    more=st.integers(0, 5000),
    past=st.integers(0, 50_000),
    batch=st.integers(1, 600),
    context=st.integers(1, 20_000),
)
def test_a_mixed_step_costs_at_least_its_parts(
    bound: dict[str, StepModel],
    variant: str,
    tokens: int,
    more: int,
    past: int,
    batch: int,
    context: int,
) -> None:
    """A mixed step is no cheaper than either part, and never falls with its tokens."""
    steps, total = bound[variant], batch * context
    mixed = chunk(steps, tokens, past, batch, total)
    alone = max(chunk(steps, tokens, past), steps.step_seconds(0, 0, 0, 0, batch, total))
    assert mixed * SLACK >= alone
    assert chunk(steps, tokens + more, past, batch, total) * SLACK >= mixed


def test_both_engines_use_the_same_times(
    workers: dict[str, WorkerSpec], bound: dict[str, StepModel], variant: str
) -> None:
    """The scalar steps agree with the vectorised ones, rank by rank."""
    worker, model = VARIANTS[variant]
    layout = workers[worker].layout
    ranks = layout.attention_dp * layout.pp
    rng = np.random.default_rng(11)
    tokens = rng.integers(1, 9000, 200) * rng.integers(0, 2, 200).astype(float)
    batch = rng.integers(1, 600, 200).astype(float)
    load = Load(
        tokens=tokens,
        pairs=tokens * (tokens + 1) / 2,
        prompts=np.sign(tokens),
        past=0.0 * tokens,
        batch=batch,
        context=batch * rng.integers(1, 9000, 200),
    )
    whole = np.column_stack([ranks * np.asarray(values) for values in load[:6]])
    scalar = [bound[variant].step_seconds(*(int(x) for x in row)) for row in whole]
    vector = np.asarray(model.pass_seconds(workers[worker], load))
    assert np.allclose(scalar, vector, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("name", [name for name, each in VARIANTS.items() if each[0] == "dep"])
@pytest.mark.parametrize("some", [1, 5, 16])
def test_both_engines_agree_on_ranks_without_prompts(
    workers: dict[str, WorkerSpec], bound: dict[str, StepModel], name: str, some: int
) -> None:
    """A chunk on some attention ranks: the others only lend their experts, scalar or vectorised."""
    ranks = workers["dep"].layout.attention_dp
    tokens, batch, context = np.array([300.0, 2000.0, 7000.0]), 48.0, 48.0 * 3000.0
    pairs, past = tokens * 1000.0 + tokens * (tokens + 1) / 2, np.full(3, 1000.0)
    load = Load(tokens, pairs, past, 1.0, batch, context, some / ranks)
    vector = np.asarray(VARIANTS[name][1].pass_seconds(workers["dep"], load))
    scalar = [
        bound[name].step_seconds(
            *(int(some * each) for each in (new, seen, before, 1)),
            int(ranks * batch),
            int(ranks * context),
            Busiest(int(new), 1),
        )
        for new, seen, before in zip(tokens, pairs, past, strict=True)
    ]
    assert np.allclose(scalar, vector, rtol=1e-3, atol=0.0)
    full = VARIANTS[name][1].pass_seconds(workers["dep"], load._replace(occupied=1.0))
    assert (vector < full).all() == (some < ranks)


def test_never_faster_than_the_generic_kernels_alone(workers: dict[str, WorkerSpec]) -> None:
    """Host work, padding and launches only ever add to the same kernels."""
    load = Load(batch=np.arange(1.0, 900.0), context=np.arange(1.0, 900.0) * 1000.0)
    bare = Engine(name="bare", kernels="vllm")
    alone = np.asarray(Roofline(engine=bare).pass_seconds(workers["dense"], load))
    for name in ("vllm", "vllm_0_6"):
        full = np.asarray(Roofline(engine=name).pass_seconds(workers["dense"], load))
        assert np.all(full * SLACK >= alone), name
        assert np.any(full > alone * SLACK)


def test_overlap_hides_the_host_behind_the_gpu(workers: dict[str, WorkerSpec]) -> None:
    """Overlapped, a step takes the longer of host and GPU; synchronous, their sum."""
    args = (0, 0, 0, 0, 8, 8000)
    gpu = Roofline(engine=Engine(name="none")).bind(workers["dense"]).step_seconds(*args)
    for host in (gpu / 4, gpu * 4):
        hidden = Engine(name="hidden", step_s=host, overlap_scheduling=True)
        added = Engine(name="added", step_s=host)
        assert Roofline(engine=hidden).bind(workers["dense"]).step_seconds(*args) == max(gpu, host)
        assert Roofline(engine=added).bind(workers["dense"]).step_seconds(*args) == pytest.approx(
            gpu + host, rel=1e-12
        )


def test_a_slower_kernel_family_never_beats_the_roofline(workers: dict[str, WorkerSpec]) -> None:
    """Twice the factor is about twice the time; a tenth is still the data sheet's."""
    args = (4096, 4096 * 4097 // 2, 0, 1, 0, 0)
    seconds = {
        factor: Roofline(engine=Engine(name="f", kernel_factor=factor))
        .bind(workers["single"])
        .step_seconds(*args)
        for factor in (0.1, 1.0, 2.0)
    }
    assert seconds[2.0] == pytest.approx(2 * seconds[1.0], rel=1e-9)
    flops = 2 * 7.5e9 * 4096
    assert flops / 312e12 < seconds[0.1] < seconds[1.0]


def test_batches_are_padded_to_captured_sizes(workers: dict[str, WorkerSpec]) -> None:
    """Within two captured sizes a step's products take the same time; beyond the last they rise."""
    engine = Engine(name="padded", graph_sizes=(4, 64), launch_s=1e-3)
    assert [engine.padded(n) for n in (1, 4, 5, 64, 65)] == [4, 4, 64, 64, 65]
    assert list(np.asarray(engine.padded_rows(np.array([1.0, 4.0, 5.0, 64.0, 65.0])))) == [
        4,
        4,
        64,
        64,
        65,
    ]
    steps = Roofline(engine=engine).bind(workers["single"])
    captured, launched = (steps.step_seconds(0, 0, 0, 0, n, 64) for n in (64, 65))
    assert launched > 10 * captured


@pytest.mark.parametrize("overlap", [True, False])
def test_one_thread_launches_and_does_the_rest(
    workers: dict[str, WorkerSpec], *, overlap: bool
) -> None:
    """Beside the GPU an eager step takes launches and other host work, one after the other.

    A host that is half as fast takes twice as long for both.
    """
    engine = Engine(
        name="eager",
        graph_sizes=(1,),
        launch_s=1e-3,
        step_s=0.5,
        sequence_s=0.1,
        overlap_scheduling=overlap,
    )
    worker, latency = workers["single"], Roofline(engine=engine)
    launches = latency.step(worker).launches[False, True]
    seconds = latency.bind(worker).step_seconds(0, 0, 0, 0, 3, 99)
    assert seconds == pytest.approx(launches + 0.5 + 3 * 0.1, rel=1e-12)
    slow = replace(worker, gpu=replace(worker.gpu, host_factor=2.0))
    assert latency.bind(slow).step_seconds(0, 0, 0, 0, 3, 99) == pytest.approx(2.0 * seconds)
    assert float(latency.pass_seconds(slow, Load(batch=3.0, context=99.0))) == pytest.approx(
        2.0 * seconds
    )


def test_prompts_are_launched_kernel_by_kernel(workers: dict[str, WorkerSpec]) -> None:
    """Without graphs of prompts a chunk of any size takes its launches; a decode step does not."""
    graphs = Engine(name="graphs", graph_sizes=(4, 64), launch_s=1e-3)
    decodes = replace(graphs, graphs_prompts=False)
    held, launched = (Roofline(engine=e).bind(workers["single"]) for e in (graphs, decodes))
    assert chunk(launched, 16, 0) > 10 * chunk(held, 16, 0)
    assert launched.step_seconds(0, 0, 0, 0, 16, 999) == held.step_seconds(0, 0, 0, 0, 16, 999)


def test_narrow_products_are_quantised_first(workers: dict[str, WorkerSpec]) -> None:
    """A product in 8 bits launches one kernel more per call than in 16; attention is the same."""
    worker, load = workers["dense"], Load(batch=8.0, context=8000.0)
    wide = replace(worker.precision, weights="bf16", activations="bf16")
    narrow = replace(worker.precision, weights="fp8", activations="fp8")
    kernels = [
        {op.name: op.kernels for op in forward_pass(replace(spec, precision=precision), load)}
        for spec in [Roofline(engine=Engine(name="mine")).step(worker).spec]
        for precision in (wide, narrow)
    ]
    assert kernels[1]["qkv"] == kernels[0]["qkv"] + 1
    assert kernels[1]["decode_attention"] == kernels[0]["decode_attention"]


def quantising(worker: WorkerSpec, scales: str, rows: float) -> dict[str, float]:
    """Return the calls of what quantises a decode step's rows, by product."""
    engine = Engine(name="mine", fp8_scales=scales)
    spec = Roofline(engine=engine).step(worker).spec
    operators = token_operators(spec, rows)
    kinds = ("quantise", "scaling")
    return {op.name: float(op.calls) for op in operators if op.kind in kinds and op.calls}


def test_known_scales_are_applied_by_what_comes_before(workers: dict[str, WorkerSpec]) -> None:
    """Attention and gated FFNs write 8 bits, a short all-reduce with its norm does too."""
    single = replace(workers["dense"], layout=Layout())
    layers = single.model.layers
    normed = {"qkv_quantise": layers, "ffn_up_quantise": layers}
    assert quantising(single, "static", 8.0) == normed
    sharded, row = workers["dense"], 2.0 * single.model.hidden
    assert quantising(sharded, "static", np.floor(8e6 / row)) == {}
    assert quantising(sharded, "static", np.floor(8e6 / row) + 1.0) == normed
    assert quantising(sharded, "", 8.0) == {}


def test_a_scale_that_is_found_first_costs_two_kernels_a_product(
    workers: dict[str, WorkerSpec],
) -> None:
    """Every product reads its rows once for the scale and once to apply it; blocks differ."""
    worker = workers["dense"]
    products = ("qkv", "attention_out", "ffn_up", "ffn_down")
    names = {f"{name}_{what}" for name in products for what in ("quantise", "scale")}
    found = quantising(worker, "dynamic", 8.0)
    assert set(found) == names
    assert set(found.values()) == {worker.model.layers}
    blocks = replace(worker, precision=replace(worker.precision, weights="fp8_block"))
    assert quantising(blocks, "dynamic", 8.0) == {}


def test_what_is_quantised_apart_is_not_quantised_again(workers: dict[str, WorkerSpec]) -> None:
    """A product of rows in 8 bits is one kernel, and no small one comes with it."""
    worker = workers["dense"]
    own, apart = (
        Roofline(engine=Engine(name="mine", fp8_scales=scales, companion_s=1e-3)).step(worker)
        for scales in ("", "static")
    )
    products = [
        next(op for op in token_operators(step.spec, 8.0) if op.name == "qkv")
        for step in (own, apart)
    ]
    assert [op.kernels for op in products] == [2, 1]
    spared = own.machine.seconds(products[0]) - apart.machine.seconds(products[1])
    assert spared == pytest.approx(1e-3 * worker.model.layers, rel=1e-9)


def companions(worker: WorkerSpec, seconds: float) -> dict[str, float]:
    """Return calls of the small kernels that only some models have, and their sums over ranks."""
    step = Roofline(engine=Engine(name="mine", companion_s=seconds)).step(worker)
    small = [
        op
        for op in token_operators(step.spec, 8.0)
        if op.kind == "companion" or op.name == "squares_reduce"
    ]
    assert all(step.machine.seconds(op) >= float(op.calls) * seconds for op in small)
    return {op.name: float(op.calls) for op in small}


@pytest.mark.parametrize("tp", [1, 4])
def test_small_kernels_come_with_what_a_model_has(
    tp: int, workers: dict[str, WorkerSpec], spec_from: Any
) -> None:
    """Gates, norms over all heads and sums of shared experts are of the models that have them.

    Tensor-parallel ranks sum the squares of their heads, one has them all.
    """
    qwen, minimax = (
        replace(workers["linear"], model=spec_from("model", name, Model), layout=Layout(tp=tp))
        for name in ("qwen3_5_397b_a17b", "minimax_m2")
    )
    assert companions(qwen, 1e-3) == {
        "linear_sort": 45,
        "linear_norm": 45,
        "output_gate": 15,
        "shared_expert_sum": 60,
    }
    summed = {"squares_reduce": 62.0} if tp > 1 else {}
    assert companions(minimax, 2e-6) == {"head_squares": 62, "head_norms": 62, **summed}
    assert companions(workers["dense"], 1e-3) == {}
    assert companions(qwen, 0.0) == {}  # as kernels alone were measured


@pytest.mark.parametrize("gpu", ["h100_sxm", "h200_sxm", "b200_sxm", "gb200_nvl72"])
@pytest.mark.parametrize("tp", [1, 2, 8])
@pytest.mark.parametrize("engine", ["generic", "trtllm"])
def test_eight_bits_are_not_behind_sixteen(
    gpu: str, tp: int, engine: str, workers: dict[str, WorkerSpec], spec_from: Any
) -> None:
    """A decode step of any batch takes no longer with half of the bytes to read."""
    model = spec_from("model", "llama_3_1_8b", Model)
    wide = replace(
        workers["dense"],
        model=model,
        layout=Layout(tp=tp),
        gpu=spec_from("hardware", gpu, GPU),
        precision=Precision(kv="fp8"),
    )
    narrow = replace(wide, precision=workers["dense"].precision)
    batches = np.array([1.0, 4.0, 16.0, 64.0, 256.0])
    load = Load(batch=batches, context=1500.0 * batches)
    latency = Roofline(engine=engine, host_overhead_s=0.0)
    assert (latency.pass_seconds(narrow, load) <= latency.pass_seconds(wide, load)).all()


def test_the_host_works_on_steps_sequences_and_prompts(workers: dict[str, WorkerSpec]) -> None:
    """A synchronous host adds its seconds per step, sequence and prompt chunk of a rank."""
    none = Engine(name="none")
    host = replace(none, step_s=1e-3, sequence_s=1e-4, prompt_s=2e-3)
    for name, ranks in (("dense", 1), ("dep", workers["dep"].layout.attention_dp)):
        bare, full = (Roofline(engine=e).bind(workers[name]) for e in (none, host))
        args = (100 * ranks, 5050 * ranks, 0, ranks, 8 * ranks, 8000 * ranks)
        added = full.step_seconds(*args) - bare.step_seconds(*args)
        assert added == pytest.approx(1e-3 + 9e-4 + 2e-3, rel=1e-9)


@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize(("role", "prompts"), [("decode", 0), ("mixed", 6), ("prefill", 3)])
def test_microbatches_take_turns_at_the_host(
    workers: dict[str, WorkerSpec], role: str, prompts: int, overlapped: bool
) -> None:
    """Two stages' microbatches take a slow host twice, over their own sequences or over all."""
    own = Engine(
        name="own", step_s=1.0, sequence_s=0.1, prompt_s=0.5, overlap_scheduling=overlapped
    )
    worker = replace(workers["pipelined"], role=role)
    batch = 0 if role == "prefill" else 8
    args = (100 * prompts, 5050 * prompts, 0, prompts, batch, 1000 * batch)
    each = prompts if role == "prefill" else prompts // 2
    sequences = each + batch // 2
    for engine, seen in ((own, 1), (replace(own, turns_see_all=True), 2)):
        turns = 2 * (1.0 + 0.1 * seen * sequences + 0.5 * each)
        latency = Roofline(engine=engine, host_overhead_s=None)
        assert latency.bind(worker).step_seconds(*args) == pytest.approx(turns, rel=1e-9)
        load = Load(tokens=100.0 * each, prompts=each, batch=batch // 2, context=500.0 * batch)
        assert latency.pass_seconds(worker, load) == pytest.approx(turns, rel=1e-9)


def test_no_pipeline_takes_no_turns(workers: dict[str, WorkerSpec]) -> None:
    """One stage has one microbatch, whatever its engine would do with more."""
    own = Engine(name="own", step_s=1.0, sequence_s=0.1, overlap_scheduling=True)
    for name in ("dense", "dep"):
        plain, seen = (
            Roofline(engine=engine).bind(workers[name])
            for engine in (own, replace(own, turns_see_all=True))
        )
        for args in ((0, 0, 0, 0, 64, 64_000), (900, 405_450, 0, 1, 64, 64_000)):
            assert plain.step_seconds(*args) == seen.step_seconds(*args)


@pytest.mark.parametrize(("name", "factor"), [("dense", 1.0), ("dep", 1.25)])
def test_attention_ranks_wait_for_each_other(
    workers: dict[str, WorkerSpec], name: str, factor: float
) -> None:
    """Where there are several, every step takes its share longer; the host's work does not."""
    host = Engine(name="host", step_s=1e-3)
    alone, waiting = (
        Roofline(engine=replace(host, rank_wait=wait)).bind(workers[name]) for wait in (0.0, 0.25)
    )
    for args in ((0, 0, 0, 0, 64, 64_000), (900, 405_450, 0, 1, 64, 64_000)):
        kernels = alone.step_seconds(*args) - 1e-3
        assert waiting.step_seconds(*args) - 1e-3 == pytest.approx(factor * kernels, rel=1e-9)


def test_prompts_outside_graphs_are_not_padded(workers: dict[str, WorkerSpec]) -> None:
    """A chunk beyond a captured size grows by its own rows, yet never below its decodes' graph."""
    graphs = Engine(name="graphs", graph_sizes=(64, 1024))
    eager = replace(graphs, graphs_prompts=False)
    padded, bare = (Roofline(engine=e).bind(workers["single"]) for e in (graphs, eager))
    assert chunk(padded, 65, 0) > 2 * chunk(bare, 65, 0)
    assert chunk(bare, 65, 0) < 1.1 * chunk(bare, 64, 0)
    decodes = bare.step_seconds(0, 0, 0, 0, 100, 1000)
    assert decodes <= chunk(bare, 1, 0, 100, 1000) <= chunk(padded, 1, 0, 100, 1000)


def test_an_uncaptured_step_launches_what_it_has(workers: dict[str, WorkerSpec]) -> None:
    """Prompts alone, decodes alone and both together launch ever more kernels; drafts more yet."""
    engine = Engine(name="eager", graph_sizes=(1,), graphs_prompts=False, launch_s=1e-3)
    step = Roofline(engine=engine).step(workers["dense"])
    prompts, decodes, both = (
        step.launches[p] for p in ((True, False), (False, True), (True, True))
    )
    assert max(prompts, decodes) < both < prompts + decodes
    drafted = Roofline(engine=engine, speculative=MTP).step(workers["dense"]).launches
    assert drafted[False, True] > decodes
    assert drafted[True, False] == prompts


@pytest.mark.parametrize("name", known())
def test_a_shipped_engine_states_its_source(name: str) -> None:
    """Each profile loads and says where its numbers come from."""
    engine = load_engine(name)
    assert engine.source
    assert 0 <= engine.step_s < 0.01
    assert engine.kernel_factor >= 1


def test_an_unknown_engine_lists_the_known() -> None:
    """A name that is not shipped is refused with those that are."""
    with pytest.raises(ConfigError, match="mine") as error:
        Roofline(engine="mine")
    assert all(name in str(error.value) for name in known())


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"step_s": -1.0}, "step_s"),
        ({"sequence_s": math.inf}, "sequence_s"),
        ({"kernel_factor": 0.0}, "kernel_factor"),
        ({"graph_sizes": (4, 4)}, "rise"),
        ({"graph_sizes": (0,)}, "graph_sizes"),
        ({"expert_exchange": "magic"}, "all_to_all, all_gather, unless_boxed"),
        ({"all_reduce": "magic"}, "all_reduce must be one of .*custom"),
        ({"fp8_scales": "guessed"}, "'', 'static', 'dynamic' but got 'guessed'"),
    ],
)
def test_a_bad_profile_is_named(values: dict[str, Any], word: str) -> None:
    """Each setting of an engine of one's own is checked."""
    with pytest.raises(ConfigError, match=word):
        Engine(name="mine", **values)


# --- speculative decoding -------------------------------------------------------------------


def test_acceptance_reproduces_measured_tokens_per_step() -> None:
    """One acceptance of 0.85 lies in the measured ranges of 1 to 3 MTP drafts (SGLang, H20)."""
    for drafts, (low, high) in enumerate(((1.8, 1.9), (2.4, 2.7), (2.9, 3.3)), start=1):
        assert low <= Speculative(draft_tokens=drafts).tokens_per_step <= high
    # TensorRT-LLM's DeepSeek-R1 on B200: 1.92, 2.58 and 2.82 tokens.
    measured = Speculative(draft_tokens=3, acceptance=(0.92, 0.66 / 0.92, 0.24 / 0.66))
    assert measured.tokens_per_step == pytest.approx(2.82)


def test_speculation_pays_at_small_batches(workers: dict[str, WorkerSpec]) -> None:
    """Drafts that are accepted speed up a lone sequence, less than by the tokens they gain."""
    for name in ("tep", "dense"):
        plain = Roofline().bind(workers[name]).step_seconds(0, 0, 0, 0, 1, 2000)
        drafted = Roofline(speculative=MTP).bind(workers[name]).step_seconds(0, 0, 0, 0, 1, 2000)
        assert 1.2 < plain / drafted < MTP.tokens_per_step


def test_useless_drafts_only_cost(workers: dict[str, WorkerSpec]) -> None:
    """With nothing accepted each token costs the drafts too; with nothing drafted, nothing more."""
    args = (0, 0, 0, 0, 64, 64_000)
    plain = Roofline().bind(workers["dense"]).step_seconds(*args)
    wasted = Roofline(speculative=Speculative(draft_tokens=2, acceptance=0.0))
    off = Roofline(speculative=Speculative())
    assert wasted.bind(workers["dense"]).step_seconds(*args) > plain
    assert off.bind(workers["dense"]).step_seconds(*args) == plain


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"draft_tokens": -1}, "draft_tokens"),
        ({"draft_tokens": 2, "acceptance": 1.5}, "acceptance"),
        ({"draft_tokens": 3, "acceptance": (0.9, 0.8)}, "2 positions"),
        ({"draft_tokens": 1, "draft_layers": -1.0}, "draft_layers"),
    ],
)
def test_bad_speculation_is_named(values: dict[str, Any], word: str) -> None:
    """Each setting is checked."""
    with pytest.raises(ConfigError, match=word):
        Speculative(**values)


# --- routing skew ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dep", "tep"])
def test_a_skew_costs_what_was_measured(workers: dict[str, WorkerSpec], name: str) -> None:
    """Balancing experts gains 1.49 times; the kernel tables' power law costs 1.7 to 2.6 times."""
    worker = replace(workers[name], layout=Layout(attention_dp=32, ep=32))
    load = Load(tokens=8192.0, pairs=8192 * 8193 / 2, prompts=1.0)
    seconds = []
    machine = Roofline().machine(worker.gpu, worker.fabric)
    for skew in (None, machine.efficiency.moe_skew, 1.0):
        model = Roofline(moe_skew=skew)
        operators = forward_pass(model.pass_spec(worker), load)
        seconds.append(sum(float(machine.seconds(op)) for op in operators if op.name == "experts"))
    assert 1.35 < seconds[0] / seconds[2] < 1.55
    assert 1.7 < seconds[1] / seconds[2] < 2.6


def test_skew_grows_with_ranks_from_none(workers: dict[str, WorkerSpec]) -> None:
    """One rank holds every expert, so skew costs it nothing; the more ranks, the more it does."""
    load = Load(tokens=8192.0, pairs=8192 * 8193 / 2, prompts=1.0)
    costs = []
    for ep in (1, 2, 8, 32):
        worker = replace(workers["dep"], layout=Layout(attention_dp=32, ep=ep))
        flops = []
        for skew in (2.5, 1.0):
            model = Roofline(moe_skew=skew)
            spec = model.pass_spec(worker)
            flops += [float(o.flops) for o in forward_pass(spec, load) if o.name == "experts"]
        costs.append(flops[0] / flops[1])
    assert costs[0] == 1.0
    assert costs == sorted(costs)
    assert 2.4 < costs[-1] < 2.5


# --- two-batch overlap ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(workers: dict[str, WorkerSpec]) -> WorkerSpec:
    """DeepSeek on four nodes of eight H100s, as large-scale expert parallelism is run."""
    return replace(workers["dep"], layout=Layout(attention_dp=32, ep=32), gpu=workers["dense"].gpu)


def test_two_batch_overlap_pays_for_large_steps_only(wide: WorkerSpec) -> None:
    """Large prefill and decode steps gain some 20 to 35 %, small decodes lose (SGLang, H100)."""
    plain, overlapped = Roofline(), Roofline(two_batch_overlap=True)
    loads = {
        "prefill": Load(tokens=8192.0, pairs=8 * 1024 * 1025 / 2, prompts=8.0),
        "decode": Load(batch=256.0, context=256 * 4000.0),
        "small": Load(batch=32.0, context=32 * 4000.0),
    }
    gain = {
        name: float(plain.pass_seconds(wide, load) / overlapped.pass_seconds(wide, load))
        for name, load in loads.items()
    }
    assert 1.1 < gain["prefill"] < 1.6
    assert 1.0 < gain["decode"] < 1.6
    assert gain["small"] < 1.0


def test_two_batch_overlap_needs_an_exchange(workers: dict[str, WorkerSpec]) -> None:
    """Without expert exchange there is nothing to overlap, and nothing changes."""
    load = Load(batch=np.array([64.0]), context=64_000.0)
    for name in ("dense", "tep"):
        plain, overlapped = (
            np.asarray(Roofline(two_batch_overlap=on).pass_seconds(workers[name], load))
            for on in (False, True)
        )
        assert plain[0] == overlapped[0]
