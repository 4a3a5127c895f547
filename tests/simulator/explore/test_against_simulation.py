"""Explore and simulate agree where both apply: constant lengths, saturated, a static ratio."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment, Pool, Transfer
from simulator.explore.bandwidth import Handover
from simulator.explore.colocated import colocated_points
from simulator.explore.evaluate import collect, decode_points, prefill_points
from simulator.explore.headroom import Headroom
from simulator.explore.match import colocated, disaggregated, paced
from simulator.explore.space import Lengths, Platform, Space
from simulator.layout import Layout, Precision
from simulator.policies.rate_matching import Balanced
from simulator.record import RunRecord
from simulator.results import gap_quantiles
from tests.simulator.explore.conftest import MakePlatform

LENGTHS = Lengths.constant(1000, 64)
SEATS, PROMPTS = 48, 2
RULE = Balanced(tolerance=0.2)
"""Few workers will do: one more of a pool makes the other the bottleneck anyway."""
LINKS_TO_SPARE = Transfer(messages="request")
STEPS = 400
"""Steps of each prefill worker: their ends coincide, so fewer would blur the rate."""


def one_layout(platform: Platform, layout: Layout) -> Space:
    """Return the space of a single layout."""
    return Space(platform=platform, lengths=LENGTHS, layouts=(layout,))


@pytest.mark.parametrize(("name", "drafts"), [("dense", 2), ("experts", 1)])
def test_a_drafted_deployment_keeps_its_pace(
    name: str, drafts: int, request: pytest.FixtureRequest
) -> None:
    """What explore says of drafting decode workers is what such a deployment does, within 1 %."""
    platform: Platform = request.getfixturevalue(name)
    layouts = (DEP, DEP) if name == "experts" else (Layout(tp=2), Layout(tp=2))
    space = replace(one_layout(platform, layouts[1]), draft_tokens=(0, drafts))
    prefill, undrafted = points(platform, layouts)
    decode = collect(decode_points(space)).filter(
        batch=int(undrafted["batch"][0]), draft_tokens=drafts
    )
    both = (platform, platform)
    (match,) = disaggregated(prefill, decode, both, LENGTHS, RULE).iter_rows(named=True)
    assert match["decode_draft_tokens"] == drafts
    workers = match["prefill_workers"] + 1, match["decode_workers"]
    requests = 14 * int(decode["batch"][0]) * match["decode_workers"]
    rate, tpot = steady(simulated(platform.drafting(drafts), layouts, workers, requests))
    assert rate == pytest.approx(match["decode_workers"] * decode["rate"][0], rel=0.01)
    assert tpot == pytest.approx(decode["tpot_s"][0], rel=0.01)
    assert tpot < 0.9 * undrafted["tpot_s"][0]


def points(platform: Platform, layouts: tuple[Layout, Layout]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the prefill point of whole prompts and the decode point of the test's batches."""
    prefill = collect(prefill_points(one_layout(platform, layouts[0])))
    decode = collect(decode_points(one_layout(platform, layouts[1])))
    groups = layouts[1].pp * layouts[1].attention_dp
    in_flight = PROMPTS * layouts[0].pp * layouts[0].attention_dp
    return (
        prefill.filter(chunk=0, batch=in_flight),
        decode.filter(pl.col("batch") == SEATS * groups),
    )


def simulated(
    platform: Platform, layouts: tuple[Layout, Layout], workers: tuple[int, int], requests: int
) -> RunRecord:
    """Run both pools, every request there from the start."""
    tokens = PROMPTS * LENGTHS.isl[0] * layouts[0].attention_dp
    seats = SEATS * layouts[1].pp * layouts[1].attention_dp
    pools = (
        Pool(
            role="prefill",
            workers=workers[0],
            layout=layouts[0],
            precision=platform.precision,
            batching=Batching(max_num_batched_tokens=tokens, max_num_seqs=64),
        ),
        Pool(
            role="decode",
            workers=workers[1],
            layout=layouts[1],
            precision=platform.precision,
            batching=Batching(max_num_seqs=seats, reserve="full"),
        ),
    )
    return run(deployed(platform, pools), all_at_once(requests), RunOptions())


def deployed(platform: Platform, pools: tuple[Pool, ...]) -> Deployment:
    """Return the pools on the platform."""
    return Deployment(
        model=platform.model,
        gpu=platform.gpu,
        fabric=platform.fabric,
        latency=platform.latency,
        pools=pools,
        transfer=LINKS_TO_SPARE,
    )


def all_at_once(requests: int) -> Traffic:
    """Return equal requests that are all there from the start."""
    return Traffic(
        arrival_s=np.zeros(requests),
        input_tokens=np.full(requests, LENGTHS.isl[0], np.int32),
        output_tokens=np.full(requests, LENGTHS.osl[0], np.int32),
    )


def steady(record: RunRecord) -> tuple[float, float]:
    """Return requests/s and seconds per decode step in the middle half of the finishes."""
    finish = np.sort(record.requests["finish_s"])
    low, high = len(finish) // 4, 3 * len(finish) // 4
    rate = (high - low) / (finish[high] - finish[low])
    ends, seconds = record.requests["finish_s"], record.requests["second_token_s"]
    middle = (ends >= finish[low]) & (ends <= finish[high])
    tpot = ((ends - seconds)[middle] / (LENGTHS.osl[0] - 2)).mean()
    return float(rate), float(tpot)


DEP = Layout(attention_dp=8, ep=8)
CASES = [
    ("dense", (Layout(), Layout())),
    ("dense", (Layout(tp=2), Layout(tp=4))),
    ("dense", (Layout(pp=2), Layout(tp=2))),
    ("dense", (Layout(tp=2), Layout(pp=2))),
    ("experts", (DEP, DEP)),
    ("experts", (Layout(tp=4, ep=4), Layout(tp=2, attention_dp=4, ep=8))),
    ("experts", (Layout(tp=8, ep=2), Layout(tp=2, attention_dp=4, ep=4))),
    ("experts", (Layout(tp=4, ep=4), Layout(attention_dp=9, ep=9))),
]
cases = pytest.mark.parametrize(
    ("name", "layouts"), CASES, ids=lambda each: each if isinstance(each, str) else str(each[1])
)


@pytest.fixture
def platform(request: pytest.FixtureRequest, name: str) -> Platform:
    """Return the platform of this name."""
    found: Platform = request.getfixturevalue(name)
    return found


@cases
def test_decode_sets_the_pace(platform: Platform, layouts: tuple[Layout, Layout]) -> None:
    """With prefill to spare, throughput and TPOT are those of the decode point within 1 %."""
    prefill, decode = points(platform, layouts)
    both = (platform, platform)
    (match,) = disaggregated(prefill, decode, both, LENGTHS, RULE).iter_rows(named=True)
    asked = match["decode_workers"] * decode["rate"][0]
    spare = math.ceil(1.1 * asked / prefill["rate"][0])  # a match may leave prefill a fifth short
    workers = max(match["prefill_workers"] + 1, spare), match["decode_workers"]
    seats = SEATS * layouts[1].pp * layouts[1].attention_dp
    requests = 14 * seats * match["decode_workers"]
    rate, tpot = steady(simulated(platform, layouts, workers, requests))
    assert rate == pytest.approx(match["decode_workers"] * decode["rate"][0], rel=0.01)
    assert tpot == pytest.approx(decode["tpot_s"][0], rel=0.01)


@cases
def test_prefill_sets_the_pace(platform: Platform, layouts: tuple[Layout, Layout]) -> None:
    """With decode to spare, throughput is that of the prefill point within 1 %."""
    prefill, decode = points(platform, layouts)
    both = (platform, platform)
    (match,) = disaggregated(prefill, decode, both, LENGTHS, RULE).iter_rows(named=True)
    workers = match["prefill_workers"], match["decode_workers"] + 1
    requests = STEPS * PROMPTS * layouts[0].attention_dp * match["prefill_workers"]
    rate, _ = steady(simulated(platform, layouts, workers, requests))
    assert rate == pytest.approx(match["prefill_workers"] * prefill["rate"][0], rel=0.01)


@pytest.mark.parametrize(("chunk", "batch", "drafts"), [(512, 24, 0), (1000, 40, 0), (512, 24, 2)])
def test_a_mixed_worker_keeps_its_rate(
    dense: Platform, chunk: int, batch: int, drafts: int
) -> None:
    """A saturated mixed worker serves what the piggybacked point says, within 3 %.

    Less exactly than separate pools: a step's chunk may end one prompt and begin the next, and
    the seat of a prompt being computed stays empty among the decodes.
    """
    layouts = one_layout(dense, Layout(tp=2))
    space = replace(layouts, chunks=(512,), draft_tokens=(drafts,))
    points = collect(colocated_points(space)).filter(chunk=chunk, batch=batch)
    batching = Batching(
        max_num_batched_tokens=chunk + batch, max_num_seqs=batch + 1, reserve="full"
    )
    pool = Pool(
        role="mixed",
        workers=1,
        layout=Layout(tp=2),
        precision=dense.precision,
        batching=batching,
    )
    deployment = deployed(dense.drafting(drafts), (pool,))
    record = run(deployment, all_at_once(40 * batch), RunOptions())
    rate, _ = steady(record)
    assert rate == pytest.approx(points["rate"][0], rel=0.03)
    share = float(points["batch"][0] * LENGTHS.isl[0] / (LENGTHS.steps * chunk))
    longest = gap_quantiles(record.gaps, np.array([1.0 - share / 2]))
    assert longest[0] == pytest.approx(points["gap_s"][0], rel=0.05)


RANKED = [
    ("dense", Layout(attention_dp=2), 16, 512),
    ("dense", Layout(attention_dp=4), 24, 512),
    ("dense", Layout(tp=2, attention_dp=2), 16, 1024),
    ("experts", Layout(attention_dp=8, ep=8), 24, 512),
    ("experts", Layout(attention_dp=8, ep=8), 64, 1024),
    ("experts", Layout(tp=2, attention_dp=4, ep=8), 32, 256),
    ("experts", Layout(tp=4, attention_dp=2, ep=8), 16, 512),
    ("qwen", Layout(attention_dp=8, ep=8), 32, 512),
    ("qwen", Layout(tp=4, attention_dp=2, ep=8), 48, 1024),
]


@pytest.fixture(scope="module")
def qwen(make_platform: MakePlatform) -> Platform:
    """Return Qwen3-235B-A22B in FP8 on H200s."""
    fp8 = Precision(weights="fp8_block", activations="fp8", kv="fp8")
    return make_platform("qwen3_235b_a22b", "h200_sxm", "hgx8", precision=fp8)


@pytest.mark.parametrize(("name", "layout", "batch", "chunk"), RANKED, ids=str)
def test_attention_ranks_ride_side_by_side(
    name: str, layout: Layout, batch: int, chunk: int, request: pytest.FixtureRequest
) -> None:
    """Saturated, ranks that take chunks as seats fall free keep the point's pace within 2 %.

    Lengths vary by half: equal prompts that start together would keep all ranks in step, and
    compute more of them side by side than ranks do whose sequences end at random.
    """
    platform: Platform = request.getfixturevalue(name)
    rng, ranks = np.random.default_rng(5), layout.attention_dp
    count = 12 * batch * ranks
    isl, osl = rng.integers(500, 1500, count), rng.integers(100, 300, count)
    lengths = Lengths(isl=tuple(map(int, isl)), osl=tuple(map(int, osl)))
    space = Space(platform=platform, lengths=lengths, layouts=(layout,), chunks=(chunk,))
    points = collect(colocated_points(space))
    point = points.filter(chunk=chunk, batch=batch * ranks, prompts=0).row(0, named=True)
    computing = batch * lengths.pieces(chunk).mean / lengths.steps  # prompts under way on a rank
    batching = Batching(
        max_num_batched_tokens=(batch + chunk) * ranks,
        max_num_seqs=batch * ranks + round(computing * ranks),
        reserve="full",
    )
    pool = Pool(
        role="mixed", workers=1, layout=layout, precision=platform.precision, batching=batching
    )
    load = Traffic(
        arrival_s=np.zeros(count),
        input_tokens=isl.astype(np.int32),
        output_tokens=osl.astype(np.int32),
    )
    columns = run(deployed(platform, (pool,)), load, RunOptions()).requests
    order = np.argsort(columns["finish_s"])[count // 3 : 5 * count // 6]
    finish, first = (columns[name][order] for name in ("finish_s", "first_token_s"))
    rate = osl[order].sum() / (finish[-1] - finish[0])
    tpot = (finish - first).sum() / (osl[order] - 1).sum()
    assert rate == pytest.approx(point["rate"] * lengths.mean_osl, rel=0.02)
    assert tpot == pytest.approx(point["tpot_s"], rel=0.02)


@pytest.mark.parametrize("mode", ["push", "push_layerwise", "pull"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_first_tokens_wait_as_they_do_in_a_run(
    dense: Platform, mode: str, recomputes: bool
) -> None:
    """Gateway, hand-over and a recomputed token add to TTFT what they add to a lone request's."""
    waits = {"handover_s": 0.2, "recomputes": recomputes}
    record = [
        lone(dense, ("prefill", "decode"), gateway_s=gateway, transfer=transfer)
        for gateway, transfer in (
            (0.05, replace(LINKS_TO_SPARE, mode=mode, **waits)),
            (0.0, replace(LINKS_TO_SPARE, mode=mode, handover_s=0.0, recomputes=False)),
        )
    ]
    prefill, decode = points(dense, (Layout(), Layout()))
    decode = collect(decode_points(one_layout(dense, Layout()))).filter(batch=1)
    told = [
        disaggregated(
            *(paced(each, LENGTHS, Headroom(share=0.0)) for each in (prefill, decode)),
            (dense, dense),
            LENGTHS,
            headroom=Headroom(share=0.0, handover=each),
        )["ttft_s"][0]
        for each in (
            Handover(mode=mode, first_token="decode", gateway_s=0.05, **waits),  # noqa: S106
            Handover(mode=mode, first_token="decode"),  # noqa: S106 - a place
        )
    ]
    assert told[0] - told[1] == pytest.approx(record[0] - record[1], rel=0.01)


def test_first_tokens_of_mixed_workers_wait_for_the_gateway_alone(dense: Platform) -> None:
    """So do a run's, by as much."""
    point = collect(colocated_points(one_layout(dense, Layout()))).head(1)
    waits = Handover(gateway_s=0.05, handover_s=0.2, recomputes=True)
    told = [
        colocated(point, dense, LENGTHS, headroom=Headroom(share=0.0, handover=each))["ttft_s"][0]
        for each in (waits, Handover())
    ]
    run_s = [lone(dense, ("mixed",), gateway_s=seconds) for seconds in (0.05, 0.0)]
    assert told[0] - told[1] == pytest.approx(0.05)
    assert run_s[0] - run_s[1] == pytest.approx(0.05)


def lone(platform: Platform, roles: tuple[str, ...], **changes: Any) -> float:
    """Return the seconds until a request that is alone has its first token."""
    pools = tuple(
        Pool(role=role, workers=1, layout=Layout(), precision=platform.precision) for role in roles
    )
    whole = replace(deployed(platform, pools), **changes)
    return float(run(whole, all_at_once(1), RunOptions()).requests["first_token_s"][0])
