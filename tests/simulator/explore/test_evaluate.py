"""Design points: what they cost, that they fit, and that more hardware never hurts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.explore.colocated import colocated_points
from simulator.explore.costs import Costs
from simulator.explore.degrees import Degrees
from simulator.explore.evaluate import (
    chunk_sizes,
    chunked_seconds,
    collect,
    decode_points,
    prefill_points,
)
from simulator.explore.match import choose_prefill, colocated, disaggregated
from simulator.explore.pareto import best_at, pareto
from simulator.explore.space import Lengths, Platform, Space, batches, layouts
from simulator.latency.base import WorkerSpec
from simulator.latency.passes import Load
from simulator.latency.speculative import Speculative
from simulator.layout import Layout, MemoryBudget, Precision, plan_memory

CHAT = Lengths.constant(4096, 512)
GRID = np.geomspace(1.0, 300.0, 40)


def space(platform: Platform, **more: object) -> Space:
    """Return a small space."""
    values = {
        "worker_gpus": 8,
        "prompt_batches": (1, 4),
        "chunks": (1024,),
        "lengths": CHAT,
        **more,
    }
    return Space(platform=platform, **values)  # type: ignore[arg-type]


@settings(max_examples=100)
@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=12), st.integers(1, 8))
def test_rising_chunks_follow_each_other_through_stages(times: list[float], stages: int) -> None:
    """The closed form is the recurrence of a pipeline: after its own stage and its predecessor."""
    seconds = np.sort(np.array(times))
    ends = np.zeros(stages)
    for total in seconds:
        for stage in range(stages):
            before = ends[stage - 1] if stage else ends[0]
            ends[stage] = max(before, ends[stage]) + total / stages
    through, between = chunked_seconds(seconds, stages)
    assert through == pytest.approx(ends[-1])
    assert between == pytest.approx(seconds.sum() / stages)


@given(st.integers(1, 10_000), st.integers(1, 3000))
def test_chunks_cover_the_prompt(tokens: int, chunk: int) -> None:
    """Chunks add up to the prompt; all but the last are full."""
    sizes = chunk_sizes(tokens, chunk)
    assert sizes.sum() == tokens
    assert (sizes[:-1] == chunk).all()
    assert 0 < sizes[-1] <= chunk


@pytest.mark.parametrize("most", [1, 100, 128, 129, 1000, 4096])
def test_batches_are_whole_and_reach_the_end(most: int) -> None:
    """Batches rise by whole numbers from 1 to the limit."""
    grid = batches(most)
    assert grid[0] == 1
    assert grid[-1] == most
    assert (np.diff(grid) >= 1).all()
    assert (grid == np.round(grid)).all()


def test_every_kind_of_layout_is_listed(experts: Platform) -> None:
    """TP, TEP, DEP and pipelines of them are all there, valid, within the limits, and once."""
    listed = list(layouts(experts.model, (16, 8, 8)))
    assert len(set(listed)) == len(listed)
    for layout in listed:
        layout.validate(experts.model)
        assert layout.gpus <= 16
        assert layout.expert_group <= 8
    stages = {(each.tp, each.ep, each.attention_dp) for each in listed}
    assert {(8, 1, 1), (8, 8, 1), (1, 8, 8), (2, 8, 4)} <= stages
    assert {(8, 4, 1), (8, 2, 1), (1, 4, 8), (2, 2, 4), (4, 1, 2)} <= stages  # experts shared too
    assert {each.pp for each in listed} == {1, 2, 4, 8, 16}


def test_stages_are_any_divisor_of_the_domain(experts: Platform) -> None:
    """On an NVL72 stages of 9, 36 and 72 GPUs are there, with experts that leave slots over."""
    listed = set(layouts(experts.model, (72, 72, 72)))
    assert {each.expert_group for each in listed} == {
        *(1, 2, 4, 8, 16, 32, 64),
        *(3, 6, 9, 12, 18, 24, 36, 72),
    }
    assert Layout(attention_dp=36, ep=36, pp=2, chunked_pipeline=True) in listed
    assert Layout(tp=8, attention_dp=9, ep=72) in listed
    assert all(each.tp != 9 for each in listed)  # 128 heads
    across = {each.expert_group for each in layouts(experts.model, (24, 24, 8))}
    assert across == {1, 2, 4, 8, 16, 24}


LIMITS: list[tuple[dict[str, Any], Callable[[Layout], bool]]] = [
    ({"max_pp": 1}, lambda each: each.pp == 1),
    ({"min_ep": 8}, lambda each: each.ep >= 8),
    ({"tp": (2, 4), "max_expert_tp": 1}, lambda each: each.tp in (2, 4) and each.expert_tp == 1),
    (
        {"attention_dp": (1, 4), "ep": (4,)},
        lambda each: each.attention_dp in (1, 4) and each.ep == 4,
    ),
]


@pytest.mark.parametrize(("limits", "allowed"), LIMITS)
def test_limits_leave_what_they_allow(
    experts: Platform, limits: dict[str, Any], allowed: Callable[[Layout], bool]
) -> None:
    """What is left within limits is exactly what they allow of everything."""
    every = set(layouts(experts.model, (16, 8, 8)))
    left = set(layouts(experts.model, (16, 8, 8), Degrees(**limits)))
    assert left == {each for each in every if allowed(each)}
    assert 0 < len(left) < len(every)


def test_what_is_listed_is_looked_at(dense: Platform) -> None:
    """A degree that divides no domain and is no power of two is there where it is listed."""
    degrees = Degrees(tp=(4, 4), pp=(3,))
    (layout,) = layouts(dense.model, (16, 8, 8), degrees)
    assert (layout.tp, layout.pp) == (4, 3)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tp": ()}, "tp must list at least one"),
        ({"pp": (0,)}, "pp must be whole numbers ≥ 1 but got 0"),
        ({"max_ep": 0}, "max_ep must be whole numbers ≥ 1 but got 0"),
        ({"min_ep": 8, "max_ep": 4}, "min_ep 8 must be at most max_ep 4"),
    ],
)
def test_limits_check_themselves(values: dict[str, Any], told: str) -> None:
    """Limits that are none, or leave nothing, are refused by name."""
    with pytest.raises(ConfigError, match=told):
        Degrees(**values)


def test_limits_that_leave_nothing_are_said(dense: Platform) -> None:
    """The sentence has the limits."""
    with pytest.raises(ConfigError, match=r"at most 8 GPUs with tp in \[3\], pp ≤ 2"):
        space(dense, degrees=Degrees(tp=(3,), max_pp=2))


def test_shards_have_whole_blocks_of_scales(make_platform: Callable[..., Platform]) -> None:
    """In FP8 blocks of 128, experts of 1,536 columns are shared by 4 GPUs, not by 8."""
    fp8 = Precision(weights="fp8_block", activations="fp8")
    platform = make_platform("qwen3_235b_a22b", "h200_sxm", "hgx8", precision=fp8)
    shared = {each.expert_tp for each in space(platform).layouts}
    assert shared == {1, 2, 4}
    whole = make_platform("qwen3_235b_a22b", "h200_sxm", "hgx8", precision=Precision())
    assert {each.expert_tp for each in space(whole).layouts} == {1, 2, 4, 8}


def layout_of(row: dict[str, int]) -> Layout:
    """Return the layout of a point."""
    degrees = {name: row[name] for name in ("tp", "pp", "ep", "attention_dp")}
    return Layout(**degrees, chunked_pipeline=row["pp"] > 1)


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_no_point_is_there_that_does_not_fit(name: str, request: pytest.FixtureRequest) -> None:
    """Each decode point's sequences fit the blocks of a plan made for exactly its steps."""
    platform: Platform = request.getfixturevalue(name)
    points = collect(decode_points(space(platform, worker_gpus=16)))
    largest = points.sort("batch").group_by("tp", "pp", "ep", "attention_dp").last()
    assert len(largest) > 5
    need = -(-CHAT.held // platform.block_size)
    for row in largest.iter_rows(named=True):
        layout = layout_of(row)
        local = row["batch"] // layout.attention_dp // layout.pp
        budget = MemoryBudget(role="decode", max_num_seqs=local)
        memory = plan_memory(platform.model, layout, platform.precision, platform.gpu, budget)
        assert row["batch"] * need <= memory.kv_blocks
        if local < 4096:  # and little more would: within the next batch of the grid and a block
            more = 1.03 * row["batch"] + layout.attention_dp * layout.pp
            assert more * need + 2 * layout.attention_dp > memory.kv_blocks


def test_a_model_too_large_has_no_points(make_platform: object) -> None:
    """A layout whose weights alone exceed the GPU's memory yields nothing, of any kind."""
    platform = make_platform("llama_3_1_405b")  # type: ignore[operator]
    alone = space(platform, layouts=(Layout(),))
    for kind in (prefill_points, decode_points, colocated_points):
        assert not len(collect(kind(alone)))


def test_a_decode_point_costs_a_step(dense: Platform) -> None:
    """TPOT is the step model's decode step at the mean context; the rate is batch over TPOT."""
    one = space(dense, layouts=(Layout(tp=2),))
    points = collect(decode_points(one)).filter(batch=40)
    memory = plan_memory(dense.model, Layout(tp=2), dense.precision, dense.gpu)
    worker = WorkerSpec(
        model=dense.model,
        layout=Layout(tp=2),
        precision=dense.precision,
        gpu=dense.gpu,
        fabric=dense.fabric,
        memory=memory,
        role="decode",
    )
    step = dense.latency.bind(worker).step_seconds(0, 0, 0, 0, 40, 40 * (4096 + 256))
    assert points["tpot_s"].to_list() == pytest.approx([step])
    assert points["rate"].to_list() == pytest.approx([40 / (step * 511)])


def test_prefill_rate_is_batch_over_ttft(dense: Platform) -> None:
    """Without chunks the rate is the prompts in flight over the TTFT (algorithm 1)."""
    points = collect(prefill_points(space(dense))).filter(chunk=0)
    expected = points["batch"] / points["ttft_s"]
    assert points["rate"].to_list() == pytest.approx(expected.to_list())


def test_piggybacking_keeps_the_batch_full(dense: Platform) -> None:
    """No mixed point computes fewer prompt tokens than its finishing requests need."""
    points = collect(colocated_points(space(dense))).filter(pl.col("chunk") > 0)
    offered = points["chunk"] / points["tpot_s"] * points["pp"] * points["attention_dp"]
    assert (points["rate"] * 4096 <= offered * (1 + 1e-9)).all()


def test_a_chunk_of_several_prompts_waits_for_them(dense: Platform) -> None:
    """Four prompts gather while four sequences end: TTFT has half of that beside the step's own."""
    lengths = Lengths.constant(256, 65)
    four = space(dense, layouts=(Layout(),), lengths=lengths)
    points = collect(colocated_points(four)).filter(chunk=4 * 256)
    assert points["batch"].min() == 4
    point = points.filter(batch=40).row(0, named=True)
    memory = plan_memory(dense.model, Layout(), dense.precision, dense.gpu)
    worker = WorkerSpec(
        model=dense.model,
        layout=Layout(),
        precision=dense.precision,
        gpu=dense.gpu,
        fabric=dense.fabric,
        memory=memory,
        role="mixed",
    )
    pairs, context = 4 * 256 * 257 // 2, 40 * lengths.context
    step = dense.latency.bind(worker).step_seconds(4 * 256, pairs, 0, 4, 40, round(context))
    gathering = (4 - 1) / 2 / point["rate"]
    assert point["ttft_s"] == pytest.approx(step + gathering, rel=1e-3)


def test_the_mean_chunk_is_close_to_all_of_them(dense: Platform) -> None:
    """A mixed step at the mean past costs what the prompt's chunks cost on average, within 1 %."""
    costs = Costs(dense)
    memory = costs.plan(Layout(), "mixed", 1024, 64)
    assert memory is not None
    isl, chunk, batch = 8192, 512, 32
    past = np.arange(0, isl, chunk, dtype=np.float64)
    pairs = chunk * past + chunk * (chunk + 1) / 2
    load = Load(
        tokens=chunk, pairs=pairs, past=past, prompts=1, batch=batch, context=batch * 8000.0
    )
    each = costs.seconds(Layout(), memory, load)
    mean = load._replace(pairs=pairs.mean(), past=past.mean())
    assert costs.seconds(Layout(), memory, mean)[0] == pytest.approx(each.mean(), rel=0.01)


DRAFTS = (0, 1, 3)
KINDS = (decode_points, colocated_points)
both_kinds = pytest.mark.parametrize("name", ["dense", "experts"])


@both_kinds
def test_each_number_of_drafts_costs_what_its_latency_model_says(
    name: str, request: pytest.FixtureRequest
) -> None:
    """Points of n drafts are, to the bit, those of a platform that always drafts n."""
    platform: Platform = request.getfixturevalue(name)
    few: dict[str, Any] = {"worker_gpus": 4, "max_batch": 256}
    for kind in KINDS:
        every = collect(kind(space(platform, draft_tokens=DRAFTS, **few)))
        for drafts in DRAFTS:
            alone = collect(kind(space(platform.drafting(drafts), **few)))
            assert every.filter(draft_tokens=drafts).equals(alone)
        undrafted = collect(kind(space(platform, **few)))
        assert every.filter(draft_tokens=0).equals(undrafted)


def test_prompts_cost_the_same_whatever_is_drafted(experts: Platform) -> None:
    """Prefill points do not depend on drafts, and are there once."""
    plain = collect(prefill_points(space(experts)))
    for drafted in (space(experts, draft_tokens=DRAFTS), space(experts.drafting(3))):
        assert collect(prefill_points(drafted)).equals(plain)


@both_kinds
def test_larger_batches_never_take_less(name: str, request: pytest.FixtureRequest) -> None:
    """For every layout and number of drafts TPOT rises with the batch, and so does the rate."""
    platform: Platform = request.getfixturevalue(name)
    points = collect(decode_points(space(platform, draft_tokens=DRAFTS)))
    for _, each in points.group_by("tp", "pp", "ep", "attention_dp", "draft_tokens"):
        rising = each.sort("batch")
        assert (np.diff(rising["tpot_s"].to_numpy()) >= 0).all()
        assert rising["rate"][-1] >= rising["rate"][0]


def test_drafts_that_are_never_accepted_only_cost(dense: Platform) -> None:
    """Without acceptance each draft makes the step longer; with it, small batches gain.

    Where the turns of a pipeline's microbatches at the host decide, it is no longer and no shorter.
    """
    latency = replace(dense.latency, speculative=Speculative(acceptance=0.0))
    rejected = collect(decode_points(space(replace(dense, latency=latency), draft_tokens=DRAFTS)))
    for points, shorter in ((rejected, np.less_equal), (rejected.filter(pp=1), np.less)):
        none, one, three = (points.filter(draft_tokens=each)["tpot_s"] for each in DRAFTS)
        assert len(none) > 100
        assert shorter(none.to_numpy(), one.to_numpy()).all()
        assert shorter(one.to_numpy(), three.to_numpy()).all()
    points = collect(decode_points(space(dense, draft_tokens=DRAFTS))).filter(batch=1)
    none, _, three = (points.filter(draft_tokens=each)["tpot_s"] for each in DRAFTS)
    assert (three < none).all()


def fronts(platform: Platform, **more: object) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Return the co-located and the disaggregated front on a grid of interactivities."""
    whole, both = space(platform, **more), (platform, platform)
    mixed = colocated(collect(colocated_points(whole)), platform, CHAT)
    prefill = choose_prefill(collect(prefill_points(whole)))
    split = disaggregated(prefill, collect(decode_points(whole)), both, CHAT)
    return best_at(pareto(mixed), GRID), best_at(pareto(split), GRID)


def test_fronts_fall_with_interactivity(dense: Platform) -> None:
    """Throughput never rises as more interactivity is asked for."""
    for curve in fronts(dense):
        assert (np.diff(curve) <= 0).all()
        assert curve[0] > 0


def faster(platform: Platform) -> Platform:
    """Return the platform with a fifth more of everything a GPU has."""
    gpu = platform.gpu
    more = replace(
        gpu,
        memory_bytes=1.2 * gpu.memory_bytes,
        memory_bandwidth=1.2 * gpu.memory_bandwidth,
        peak_flops={name: 1.2 * peak for name, peak in gpu.peak_flops.items()},
    )
    return replace(platform, gpu=more)


def test_more_hardware_never_worsens_a_front(dense: Platform) -> None:
    """More GPUs a worker, or better ones: no front falls, but for the 3 % pools may differ by."""
    mixed, split = fronts(dense, worker_gpus=4)
    for better_mixed, better_split in (fronts(dense), fronts(faster(dense), worker_gpus=4)):
        assert (better_mixed >= mixed * (1 - 1e-9)).all()
        assert (better_split >= split * 0.97).all()


def test_one_length_is_a_sample_of_equal_ones(dense: Platform) -> None:
    """Traffic of equal requests, listed one by one, is constant traffic."""
    listed = Lengths(isl=(4096,) * 3, osl=(512,) * 3)
    assert (listed.context, listed.held, listed.steps) == (CHAT.context, CHAT.held, CHAT.steps)
    for kind in (prefill_points, decode_points, colocated_points):
        one, three = (collect(kind(space(dense, lengths=each))) for each in (CHAT, listed))
        for column in one.columns:
            assert one[column].to_list() == pytest.approx(three[column].to_list())


def test_progress_counts_layouts_and_points(dense: Platform) -> None:
    """After each layout the callback hears of it, and in the end of all points."""
    heard: list[tuple[int, int, int]] = []
    points = collect(decode_points(space(dense), progress=lambda *told: heard.append(told)))
    assert [done for done, _, _ in heard] == list(range(1, heard[0][1] + 1))
    assert heard[-1][2] == len(points)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"worker_gpus": 0}, "worker_gpus"),
        ({"total_gpus": 0}, "total_gpus"),
        ({"longest_gap": 0.5}, "longest_gap"),
        ({"max_batch": 0}, "max_batch"),
        ({"chunks": (0,)}, "chunks"),
        ({"prompt_batches": ()}, "prompt_batches"),
        ({"lengths": Lengths.constant(131_000, 512)}, "max_context"),
        ({"draft_tokens": (0, -1)}, "draft_tokens"),
    ],
)
def test_a_space_checks_itself(dense: Platform, values: dict[str, object], named: str) -> None:
    """A value out of range is refused by name."""
    with pytest.raises(ConfigError, match=named):
        space(dense, **values)


@pytest.mark.parametrize(("isl", "osl"), [((), ()), ((1,), (2, 3)), ((0,), (5,)), ((1,), (1,))])
def test_lengths_check_themselves(isl: tuple[int, ...], osl: tuple[int, ...]) -> None:
    """Lengths must be as many, and long enough to be decoded."""
    with pytest.raises(ConfigError, match="lengths"):
        Lengths(isl=isl, osl=osl)
