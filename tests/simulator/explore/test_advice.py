"""The advice: it says what the points say, and what it recommends can be run."""

import math
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simulator.cli import compose
from simulator.explore.advice import Limits, advise, paying_regime, top
from simulator.explore.bandwidth import carried
from simulator.explore.export import (
    Surroundings,
    aiconfigurator,
    beyond,
    experiment_text,
    merged,
    overrides,
)
from simulator.explore.match import within
from simulator.explore.pareto import best_at
from simulator.explore.space import Lengths, Platform, Space
from simulator.explore.study import Study, study

PROMPTS = Lengths.constant(4000, 250)
LIMITS = Limits(ttft_s=2.0, tpot_s=0.02)


@pytest.fixture(scope="module")
def done(dense: Platform) -> Study:
    """Return Llama-3.1-8B on up to 4 H100s a worker, under a TTFT of 2 s."""
    space = Space(
        platform=dense, lengths=PROMPTS, worker_gpus=4, prompt_batches=(1, 2, 4), chunks=(1024,)
    )
    return study(space, cutoff_s=2.0)


def test_the_gain_is_of_the_best_within_the_limits(done: Study) -> None:
    """No deployment within the limits is better than the recommended one of its kind."""
    advice = advise(done, LIMITS)
    assert advice.split is not None
    assert advice.mixed is not None
    for best, every in ((advice.split, carried(done.deployments())), (advice.mixed, done.mixed)):
        allowed = within(every, LIMITS.ttft_s, LIMITS.tpot_s)
        assert best["throughput"] == allowed["throughput"].max()
    assert advice.gain == advice.split["throughput"] / advice.mixed["throughput"]


@pytest.mark.parametrize("longest", [1.02, 5.0, None])
def test_steps_with_prompts_are_judged(dense: Platform, longest: float | None) -> None:
    """No co-located worker is advised whose steps with prompts take too many TPOTs."""
    few: dict[str, Any] = {"worker_gpus": 2, "prompt_batches": (1, 8), "chunks": (256, 1024)}
    space = Space(platform=dense, lengths=PROMPTS, longest_gap=longest, **few)
    limits = Limits(ttft_s=8.0, tpot_s=0.02)
    advice = advise(study(space, cutoff_s=8.0), limits)
    free = advise(study(replace(space, longest_gap=None), cutoff_s=8.0), limits)
    assert advice.mixed is not None
    assert free.mixed is not None
    assert free.mixed["gap_s"] > 1.02 * 0.02  # such steps may be slow where only the mean counts
    if longest is None:
        assert advice.mixed == free.mixed
        return
    assert advice.mixed["gap_s"] <= longest * 0.02
    assert advice.mixed["throughput"] > 0.5 * free.mixed["throughput"]
    assert f"{advice.mixed['gap_s'] * 1e3:.3g} ms apart ({longest:g} TPOTs" in advice.sentence


def test_only_what_the_fabric_feeds_is_recommended(dense: Platform) -> None:
    """On a slow network nothing that needs more for KV is advised or ranked, and it is said."""
    alone = replace(dense, fabric=replace(dense.fabric, domain_gpus=1))
    space = Space(
        platform=alone, lengths=PROMPTS, worker_gpus=1, prompt_batches=(1, 4), chunks=(1024,)
    )
    needed = pl.max_horizontal("kv_egress", "kv_ingress")
    rich = within(study(space, cutoff_s=2.0).deployments(), LIMITS.ttft_s, LIMITS.tpot_s)
    middle = rich.select(needed.median()).item()
    nic = replace(dense.gpu.nic, bandwidth=middle * (1 + 1e-9) / alone.fabric.efficiency)
    done = study(replace(space, platform=replace(alone, gpu=replace(dense.gpu, nic=nic))), 2.0)
    every = within(done.deployments(), LIMITS.ttft_s, LIMITS.tpot_s)
    assert set(every["kv_covered"]) == {True, False}
    advice = advise(done, LIMITS)
    assert advice.split is not None
    assert advice.split["kv_covered"]
    assert advice.ranked.filter(kind="disaggregated")["kv_covered"].all()
    assert advice.split["throughput"] < every["throughput"].max()
    assert "GB/s per GPU for KV, more than the fabric has." in advice.sentence


def test_the_sentence_follows_the_gain(done: Study) -> None:
    """It says to disaggregate when the gain is worth it, with gain, limits and regime."""
    advice = advise(done, LIMITS)
    assert advice.gain > 1.05
    assert advice.sentence.startswith(f"Disaggregate: {advice.gain:.2f}× under TTFT ≤ 2000 ms")
    assert advice.regime is not None
    assert f"from {advice.regime[0]:.3g} to {advice.regime[1]:.3g} tokens/s" in advice.sentence


def test_co_located_wins_when_told_so(done: Study) -> None:
    """With as good a co-located front, it says to stay, and that two pools pay nowhere."""
    mixed = done.split().drop("kind").with_columns(pl.lit("colocated").alias("kind"))
    same = replace(done, mixed=mixed, allowed=None)
    advice = advise(same, Limits())
    assert advice.gain == 1.0
    assert advice.regime is None
    assert advice.sentence.startswith("Stay co-located")
    assert "pays nowhere" in advice.sentence


def test_limits_nobody_meets_are_said(done: Study) -> None:
    """An impossible limit gives neither a gain nor a recommendation."""
    advice = advise(done, Limits(tpot_s=1e-6))
    assert advice.sentence == "Nothing meets TPOT ≤ 0.001 ms on these GPUs."
    assert math.isnan(advice.gain)
    assert advice.split is None is advice.mixed


def test_the_regime_is_where_it_pays(done: Study) -> None:
    """Outside the regime no point of the disaggregated front is 5 % better."""
    split = done.split()
    found = paying_regime(split, done.mixed)
    assert found is not None
    grid = split["interactivity"].to_numpy()
    outside = grid[(grid < found[0]) | (grid > found[1])]
    assert (best_at(split, outside) < 1.05 * best_at(done.mixed, outside)).all()


def test_costs_rank_upwards(done: Study) -> None:
    """By price the cheapest comes first; layouts are listed once."""
    deployments = done.deployments()
    ranked = top(deployments, "usd_per_mtok")
    assert ranked["usd_per_mtok"].is_sorted()
    assert ranked["usd_per_mtok"][0] == deployments["usd_per_mtok"].min()
    assert not ranked.select("decode_tp", "decode_pp").is_duplicated().any()


def test_a_chosen_deployment_can_be_simulated(done: Study) -> None:
    """Its overrides compose into pools of the chosen workers, layouts and batches."""
    row = advise(done, LIMITS).split
    assert row is not None
    chosen = ["model=llama_3_1_8b", "hardware=h100_sxm"]
    experiment = compose([*chosen, *overrides(row, done.platforms, PROMPTS)])
    pools = {pool.role: pool for pool in experiment.deployment.pools}
    for name, pool in pools.items():
        assert pool.workers == row[f"{name}_workers"]
        assert (pool.layout.tp, pool.layout.pp) == (row[f"{name}_tp"], row[f"{name}_pp"])
    assert pools["decode"].batching.max_num_seqs == row["decode_batch"]
    trace = experiment.trace()
    rate = len(trace) / trace.column("arrival_s").max()
    assert rate == pytest.approx(row["rate"], rel=0.1)


def test_a_co_located_choice_can_be_simulated(done: Study) -> None:
    """The best mixed worker composes too, with a budget for its batch and its chunk."""
    row = advise(done, LIMITS).mixed
    assert row is not None
    experiment = compose(["model=llama_3_1_8b", *overrides(row, done.platforms, PROMPTS)])
    (pool,) = experiment.deployment.pools
    assert pool.role == "mixed"
    assert pool.batching.max_num_seqs == row["mixed_batch"] + 1  # and the prompt that rides along
    assert pool.batching.max_num_batched_tokens > row["mixed_batch"]


@pytest.mark.parametrize("rides", [True, False])
def test_a_co_located_choice_mixes_as_it_was_costed(done: Study, rides: bool) -> None:
    """Prompts ride on decode steps, or so many at a time stall the decodes, as in the point."""
    front = done.piggybacked if rides else done.whole
    for row in front.sort("mixed_batch").gather_every(25).iter_rows(named=True):
        changes = overrides(row, done.platforms, PROMPTS)
        (pool,) = compose(["model=llama_3_1_8b", *changes]).deployment.pools
        batching, groups = pool.batching, row["mixed_pp"]
        assert batching.piggyback == batching.chunked_prefill == rides
        tokens = row["mixed_chunk"] * groups + row["mixed_batch"]
        if not rides:
            tokens = row["mixed_prompts"] * 4000 * groups
        assert batching.max_num_batched_tokens == tokens


def test_a_pool_keeps_its_own_gpu(done: Study) -> None:
    """Where decode had another GPU, the exported decode pool or mixed worker has it too."""
    advice = advise(done, LIMITS)
    around = Surroundings(gpus={"prefill": None, "decode": {"name": "other"}})
    for row, role in ((advice.split, "decode"), (advice.mixed, "mixed")):
        assert row is not None
        body = yaml.safe_load(experiment_text(row, done.platforms, PROMPTS, around))
        assert body["pools"][role]["gpu"] == {"name": "other"}
        assert "gpu" not in body["pools"].get("prefill", {})


KEYS = st.sampled_from("abc")
TREES = st.recursive(
    st.dictionaries(KEYS, st.integers(0, 2), max_size=3),
    lambda inner: st.dictionaries(KEYS, inner | st.integers(0, 2), max_size=3),
    max_leaves=8,
)


@given(TREES, TREES)
def test_changes_lead_from_one_to_the_other(base: dict[str, Any], more: dict[str, Any]) -> None:
    """What settings have beyond others, merged into these, gives them; nothing more is kept."""
    whole = merged(base, more)
    assert merged(base, beyond(base, whole)) == whole
    assert beyond(whole, whole) == {}


def test_an_experiment_file_says_the_same(done: Study) -> None:
    """The exported file is an experiment of the same pools as the overrides."""
    row = advise(done, LIMITS).split
    assert row is not None
    around = Surroundings(groups={"model": "llama_3_1_8b"}, changes={"slo": {"ttft_s": 2.0}})
    text = experiment_text(row, done.platforms, PROMPTS, around)
    assert text.startswith("# @package _global_\n")
    body = yaml.safe_load(text)
    assert {"override /model": "llama_3_1_8b"} in body["defaults"]
    assert body["pools"]["prefill"]["workers"] == row["prefill_workers"]
    assert body["slo"] == {"ttft_s": 2.0}


def test_the_table_has_aiconfigurators_columns(done: Study) -> None:
    """Milliseconds, workers and their degrees appear under AIConfigurator's names."""
    deployments = done.deployments()
    table = aiconfigurator(deployments, PROMPTS)
    assert len(table) == len(deployments)
    assert (table["tpot"] == deployments["tpot_s"] * 1e3).all()
    assert (table["(p)workers"] == deployments["prefill_workers"]).all()
    assert (table["(d)tp"] == deployments["decode_tp"]).all()
    per_gpu = table["tokens/s"] / table["num_total_gpus"]
    assert table["tokens/s/gpu"].to_list() == pytest.approx(per_gpu.to_list())
