"""Deployments: the prefill choice, their aims, and the bandwidth their KV needs."""

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.deployment import Transfer
from simulator.errors import ConfigError
from simulator.explore.bandwidth import with_bandwidth
from simulator.explore.evaluate import collect, decode_points, prefill_points
from simulator.explore.match import choose_prefill, disaggregated, prefill_front, within
from simulator.explore.space import Lengths, Platform, Space
from simulator.policies.rate_matching import WithinBudget

LONG = Lengths.constant(16384, 2048)


@pytest.fixture(scope="module")
def points(experts: Platform) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return DeepSeek-R1's prefill and decode points on up to 16 GPUs."""
    space = Space(platform=experts, lengths=LONG, worker_gpus=16)
    return collect(prefill_points(space)), collect(decode_points(space))


def test_the_chosen_prefill_is_the_best_fast_enough(
    points: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    """No prefill point below the cutoff has a higher rate per GPU."""
    prefill, _ = points
    chosen = choose_prefill(prefill, 2.0)
    fast = prefill.filter(pl.col("ttft_s") < 2.0)
    assert len(chosen) == 1
    assert chosen["ttft_s"][0] < 2.0
    best = (fast["rate"] / fast["gpus"]).max()
    assert chosen["rate"][0] / chosen["gpus"][0] == best


TIMES = ("tpot_s", "tpot_tail_s", "gap_s", "pace_s")
RATES = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0])
PREFILLS = st.lists(
    st.tuples(st.sampled_from([1, 2, 4, 8]), RATES, st.floats(0.1, 9.0)), min_size=1, max_size=8
)
DECODES = st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), RATES), min_size=1, max_size=4)


def frame(rows: list[tuple[float, ...]], *columns: str) -> pl.DataFrame:
    """Return workers of these columns; what does not matter for matching is 1."""
    other = dict.fromkeys(("tp", "pp", "ep", "attention_dp", "batch", "kv_gpus"), 1)
    more = {"chunk": 0, "draft_tokens": 0, **dict.fromkeys(TIMES, 0.01)}
    plain = pl.DataFrame(rows, schema=list(columns), orient="row")
    return plain.with_columns(pl.lit(value).alias(name) for name, value in (other | more).items())


@settings(max_examples=150)
@given(PREFILLS, DECODES, st.integers(2, 24))
def test_a_budget_gets_the_best_of_all_prefill_points(
    experts: Platform,
    prefills: list[tuple[int, float, float]],
    decodes: list[tuple[int, float]],
    budget: int,
) -> None:
    """No prefill point and counts within the budget serve more, or as much on fewer GPUs.

    And no point of as many GPUs that keeps up is faster.
    """
    prefill = prefill_front(frame(prefills, "gpus", "rate", "ttft_s"))
    decode = frame(decodes, "gpus", "rate").with_row_index("id")
    numbered = decode.with_columns(batch=pl.col("id").cast(pl.Int64))
    both = (experts, experts)
    found = disaggregated(prefill, numbered, both, LONG, WithinBudget(gpus=budget))
    chosen = {row["decode_batch"]: row for row in found.iter_rows(named=True)}
    for at, (g_d, r_d) in enumerate(decodes):
        every = [
            (min(n_p * r_p, n_d * r_d), -(n_p * g_p + n_d * g_d))
            for g_p, r_p, _ in prefills
            for n_p in range(1, budget // g_p + 1)
            for n_d in range(1, (budget - n_p * g_p) // g_d + 1)
        ]
        assert bool(every) == (at in chosen)
        if every:
            row = chosen[at]
            assert (row["rate"], -row["gpus"]) == max(every)
            size = row["prefill_gpus"] // row["prefill_workers"]
            enough = [
                t for g, r, t in prefills if g == size and row["prefill_workers"] * r >= row["rate"]
            ]
            assert row["ttft_s"] <= min(enough)


@settings(max_examples=100)
@given(PREFILLS)
def test_the_prefill_front_has_what_nothing_beats(prefills: list[tuple[int, float, float]]) -> None:
    """A point is left out exactly if another has no more GPUs, no less rate and no more TTFT."""
    kept = prefill_front(frame(prefills, "gpus", "rate", "ttft_s")).select("gpus", "rate", "ttft_s")
    expected = {
        (g, r, t)
        for g, r, t in prefills
        if not any((h, s, u) != (g, r, t) and h <= g and s >= r and u <= t for h, s, u in prefills)
    }
    assert kept.rows() == sorted(expected)


def test_no_prefill_fast_enough_is_said(points: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """A cutoff nobody meets is refused with the fastest TTFT there is."""
    with pytest.raises(ConfigError, match=r"below 1e-06 s; the fastest takes"):
        choose_prefill(points[0], 1e-6)
    with pytest.raises(ConfigError, match="fits the memory"):
        choose_prefill(points[0].clear())


def test_deployments_add_up(experts: Platform, points: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """GPUs, throughput, price and energy follow from worker counts, by their definitions."""
    prefill, decode = choose_prefill(points[0]), points[1]
    frame = disaggregated(prefill, decode, (experts, experts), LONG)
    assert len(frame) == len(decode)
    per_worker = decode["gpus"] * frame["decode_workers"]
    assert (frame["decode_gpus"] == per_worker).all()
    assert (frame["prefill_gpus"] == prefill["gpus"][0] * frame["prefill_workers"]).all()
    ours, theirs = (
        frame["prefill_workers"] * prefill["rate"][0],
        frame["decode_workers"] * decode["rate"],
    )
    assert (
        abs(ours - theirs) <= 0.03001 * pl.select(pl.max_horizontal(ours, theirs)).to_series()
    ).all()
    tokens = frame["rate"] * 2048
    assert frame["throughput"].to_list() == pytest.approx((tokens / frame["gpus"]).to_list())
    usd = frame["gpus"] * experts.gpu.usd_per_hour / 3600 / tokens * 1e6
    assert frame["usd_per_mtok"].to_list() == pytest.approx(usd.to_list())
    joules = frame["gpus"] * experts.gpu.tdp_w / tokens
    assert frame["joules_per_token"].to_list() == pytest.approx(joules.to_list())


def test_pools_may_differ(experts: Platform, points: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """A pool on cheaper GPUs costs its own price; an unknown price leaves the cost unknown."""
    prefill, decode = choose_prefill(points[0]), points[1]
    cheap = replace(experts, gpu=replace(experts.gpu, usd_per_hour=0.0))
    unknown = replace(experts, gpu=replace(experts.gpu, usd_per_hour=None))
    frame = disaggregated(prefill, decode, (cheap, experts), LONG)
    usd = frame["decode_gpus"] * experts.gpu.usd_per_hour / 3600 / (frame["rate"] * 2048) * 1e6
    assert frame["usd_per_mtok"].to_list() == pytest.approx(usd.to_list())
    frame = disaggregated(prefill, decode, (unknown, experts), LONG)
    assert frame["usd_per_mtok"].null_count() == len(frame)


def test_kv_bandwidth_is_what_requests_carry(
    experts: Platform, points: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    """Egress is the prompts' KV over TTFT, ingress over TPOT × OSL, per GPU that holds a shard."""
    prefill, decode = choose_prefill(points[0]), points[1]
    both = (experts, experts)
    frame = with_bandwidth(disaggregated(prefill, decode, both, LONG), both, LONG)
    prompt = 61 * 576 * 16384  # layers × latent and rotary key in 8 bits × ISL
    egress = prefill["batch"] * prompt / prefill["ttft_s"] / prefill["kv_gpus"]
    assert frame["kv_egress"][0] == pytest.approx(egress[0])
    ingress = decode["batch"] * prompt / (decode["tpot_s"] * 2048) / decode["kv_gpus"]
    assert frame["kv_ingress"].to_list() == pytest.approx(ingress.to_list())
    free = tuple(replace(each, transfer=Transfer(messages="request")) for each in both)
    assert with_bandwidth(frame, free, LONG)["kv_covered"].all()
    assert 0.9 < frame["kv_covered"].mean() < 1  # posting small messages is what some cannot
    slow = replace(experts.fabric, network=replace(experts.fabric.network, bandwidth=1e6))
    starved = (experts, replace(experts, fabric=slow))
    assert not with_bandwidth(frame, starved, LONG)["kv_covered"].any()


def test_a_worker_carries_what_its_ports_reach_and_post(dense: Platform) -> None:
    """Just below a port's width the KV is carried, just above it is not, as in a simulation."""
    platform = replace(dense, fabric=replace(dense.fabric, domain_gpus=1))
    prompt = 1008 * platform.model.kv_bytes_per_token(2.0)  # 1,000 tokens in blocks of 16
    posted = 65536 / platform.fabric.message_s  # 16 tokens of a layer, pushed by one GPU
    most = min(posted, platform.fabric.efficiency * platform.gpu.nic.bandwidth) / prompt
    worker = {"tp": 1, "pp": 1, "attention_dp": 1, "kv_gpus": 1, "batch": 1}
    pools = {f"{pool}_{key}": worker[key] for pool in ("prefill", "decode") for key in worker}
    shares = (0.999, 1.001)
    rows = [{**pools, "gpus": 2, "tpot_s": 1.0, "ttft_s": 1 / (s * most)} for s in shares]
    found = with_bandwidth(pl.DataFrame(rows), (platform, platform), Lengths.constant(1000, 64))
    assert found["kv_covered"].to_list() == [True, False]
    assert found["kv_egress"].to_list() == pytest.approx([s * most * prompt for s in shares])


def test_limits_bind(experts: Platform, points: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """Limits on TTFT and TPOT keep exactly the deployments that meet them."""
    frame = disaggregated(choose_prefill(points[0]), points[1], (experts, experts), LONG)
    kept = within(frame, ttft_s=frame["ttft_s"][0], tpot_s=0.02)
    assert len(kept) == (frame["tpot_s"] <= 0.02).sum() > 0
    assert not len(within(frame, ttft_s=1e-3))
